"""The agent's side of the demo: the official MCP client calls the tools of mcp-server-git, started under the launcher.

Runs as whoever owns the repository: client.py REPOSITORY LAUNCHER… ; prints one JSON object.
"""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def work(repository: str, launcher: list[str]) -> list[dict[str, object]]:
    """git_status, git_add, git_commit, git_log; what each answered."""
    calls: list[tuple[str, dict[str, object]]] = [
        ("git_status", {"repo_path": repository}),
        ("git_add", {"repo_path": repository, "files": ["notes.txt"]}),
        ("git_commit", {"repo_path": repository, "message": "Add the meeting notes"}),
        ("git_log", {"repo_path": repository, "max_count": 1}),
    ]
    parameters = StdioServerParameters(command=launcher[0], args=launcher[1:], env=dict(os.environ), cwd=repository)
    answers: list[dict[str, object]] = []
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        for name, arguments in calls:
            result = await session.call_tool(name, arguments)
            text = " ".join(getattr(part, "text", "") for part in result.content)
            answers.append({"tool": name, "error": bool(result.is_error), "text": text})
    return answers


def main() -> int:
    """Prints what the tools answered."""
    answers = asyncio.run(asyncio.wait_for(work(sys.argv[1], sys.argv[2:]), timeout=120))
    print(json.dumps(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
