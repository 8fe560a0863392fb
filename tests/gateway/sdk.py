"""The official SDK's own client, before a server or before the gateway in front of it, as the ordinary user."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.support.instance import CHECKOUT, Instance
from tests.support.users import GROUP, USER

Found = TypeVar("Found")
NPM = CHECKOUT / ".build" / "npm" / "node_modules" / ".bin"
SECONDS = 90.0


def npm(name: str) -> str:
    """A program of .build/npm."""
    path = NPM / name
    if not path.exists():
        raise AssertionError(f"{path} is missing: make .build/npm installs it (it needs node and npm)")
    return str(path)


@asynccontextmanager
async def session(
    instance: Instance, command: Sequence[object], cwd: Path, **more: Any
) -> AsyncIterator[ClientSession]:
    """A session with a server that runs as the ordinary user."""
    words = ["--reuid", str(USER), "--regid", str(USER), "--groups", str(GROUP), "--", *map(str, command)]
    parameters = StdioServerParameters(command="setpriv", args=words, env=instance.environment(USER), cwd=cwd)
    with open(os.devnull, "w") as nowhere:
        async with stdio_client(parameters, nowhere) as (reads, writes), ClientSession(reads, writes, **more) as client:
            yield client


def before(
    instance: Instance,
    command: Sequence[object],
    cwd: Path,
    work: Callable[[ClientSession], Awaitable[Found]],
    **more: Any,
) -> Found:
    """What `work` finds with an initialised session."""

    async def run() -> Found:
        async with asyncio.timeout(SECONDS), session(instance, command, cwd, **more) as client:
            await client.initialize()
            return await work(client)

    return asyncio.run(run())


def through(instance: Instance, server: str, command: Sequence[object], *options: str) -> list[object]:
    """The command of the gateway in front of a server."""
    return [*instance.command("mcp", "--quiet", "--profile", "demo", "--server", server, *options, "--"), *command]
