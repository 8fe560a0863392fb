"""A server made with the official SDK, which speaks both eras of the protocol: modern.py [PORT] (then over HTTP)."""

import sys

from mcp.server import MCPServer

server = MCPServer("modern")


@server.tool()
def repeat(text: str) -> str:
    """Gives back the text that it gets."""
    return text


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run(transport="streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
