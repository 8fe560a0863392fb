"""Tool calls, on the daemon's side: what a gateway asks, what contracts entail, which tools are pinned, what was read.

A gateway (governedctl mcp) stands between an MCP client and one server. It parses and forwards; everything that is
decided is decided here and at the gate, and recorded before it is answered.
"""
