"""A server that answers at once: what is left is the gateway's. Raw JSON-RPC over stdin and stdout, no package.

echo.py [TOOLS]: the number of tools that it lists (one: echo).
"""

import json
import sys
from typing import Any


def tool(name: str) -> dict[str, object]:
    """One tool as tools/list has it; about as long as those of real servers."""
    return {
        "name": name,
        "description": f"Gives back the text that it gets ({name}). The text is not changed, stored or sent anywhere.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "The text", "maxLength": 100000},
                "times": {"type": "integer", "description": "How often", "minimum": 1, "maximum": 10},
            },
            "required": ["text"],
        },
    }


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    tools = [tool("echo"), *(tool(f"echo_{number}") for number in range(1, count))]

    def answered(message: dict[str, Any]) -> dict[str, object] | None:
        method, params = message.get("method"), message.get("params", {})
        if "id" not in message:
            return None
        result: dict[str, object]
        if method == "initialize":
            version = params.get("protocolVersion", "2025-06-18")
            info = {"name": "echo", "version": "1"}
            result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        elif method == "tools/list":
            result = {"tools": tools}
        elif method == "tools/call":
            result = {"content": [{"type": "text", "text": params["arguments"]["text"]}]}
        else:
            result = {}
        return {"jsonrpc": "2.0", "id": message["id"], "result": result}

    for line in sys.stdin.buffer:
        message = json.loads(line)
        several = [found for one in message if (found := answered(one))] if isinstance(message, list) else None
        answer = answered(message) if several is None else several
        if answer:
            sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
