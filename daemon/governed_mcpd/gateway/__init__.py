"""`governedctl mcp`: stands between an MCP client and one server, and lets a tool call through when it was approved.

It parses each message once, strictly, and decides nothing by itself: calls and tools are decided by the daemon and the
gate. What it does not have to look into passes byte for byte.
"""
