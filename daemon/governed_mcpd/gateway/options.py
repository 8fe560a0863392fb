"""The command line of `governedctl mcp`."""

import argparse
import os
import re
from typing import NamedTuple, NoReturn

EXIT_FAILED = 125
TASK_VARIABLE = "GOVERNED_TASK"
SANDBOX_VARIABLE = "GOVERNED_SANDBOX"
# Programs that run a server which is named by a later word.
_RUNNERS = frozenset(
    {
        "npx",
        "bunx",
        "pnpx",
        "uvx",
        "pipx",
        "node",
        "bun",
        "deno",
        "python",
        "python3",
        "uv",
        "npm",
        "pnpm",
        "yarn",
        "env",
    }
)
_VERBS = frozenset({"run", "exec", "x", "dlx", "tool"})
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


class Options(NamedTuple):
    """What was asked for."""

    command: list[str]
    profile: str
    agent: str
    task: str
    server: str
    quiet: bool
    runtime_dir: str
    config: str
    listen: str
    upstream: str

    @property
    def nested(self) -> bool:
        """Whether the gateway itself stands in a sandbox."""
        return SANDBOX_VARIABLE in os.environ


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_FAILED, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parse(arguments: list[str]) -> Options:
    """SystemExit with 125 (after a message) for what is wrong, with 0 after --help."""
    parser = _Parser(
        prog="governedctl mcp",
        usage="governedctl mcp [OPTION]... [--] COMMAND [ARGUMENT]...\n"
        "       governedctl mcp [OPTION]... --server NAME --listen HOST:PORT --upstream URL\n"
        "       governedctl mcp wrap|unwrap FILE...",
        description="Runs the MCP server COMMAND in a sandbox of its own, behind a gateway: the client speaks to it "
        "over stdin and stdout as before, each tool call is decided first, its effects are held against its contract. "
        "With --upstream the server is elsewhere: only its calls are governed.",
        epilog="Exit code: the server's; 125 when it could not be started. `wrap` puts this command into a client's "
        "configuration file, `unwrap` takes it out again.",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", metavar="NAME", default="", help="what the server may do at most")
    parser.add_argument("--agent", metavar="NAME", default="", help="the agent that calls (default: default)")
    parser.add_argument("--task", metavar="TEXT", default=os.environ.get(TASK_VARIABLE, ""), help="what the user wants "
                        f"done (default: ${TASK_VARIABLE})")  # fmt: skip
    parser.add_argument("--server", metavar="NAME", default="", help="its Tool document (default: by COMMAND)")
    parser.add_argument("--quiet", action="store_true", help="no lines about refusals on stderr")
    parser.add_argument("--listen", metavar="HOST:PORT", default="", help="serve streamable HTTP there, not stdio")
    parser.add_argument("--upstream", metavar="URL", default="", help="a server that speaks streamable HTTP")
    parser.add_argument("--runtime-dir", metavar="D", default="", help="where the daemon's sockets are")
    parser.add_argument("--config", metavar="FILE", default="", help="the configuration file")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    command = found.command[1:] if found.command[:1] == ["--"] else found.command
    if bool(command) == bool(found.upstream):
        parser.error("name either a COMMAND or an --upstream URL")
    if found.upstream and not found.server:
        parser.error("with --upstream, --server says which Tool document it has")
    if bool(found.listen) != bool(found.upstream):
        parser.error("--listen and --upstream go together: a COMMAND is spoken to over stdin and stdout")
    server = found.server or server_name(command)
    if not _NAME.match(server):
        parser.error(f"{server!r} is no name of a Tool document: say --server NAME")
    return Options(
        command=command,
        profile=found.profile,
        agent=found.agent,
        task=found.task,
        server=server,
        quiet=found.quiet,
        runtime_dir=found.runtime_dir,
        config=found.config,
        listen=found.listen,
        upstream=found.upstream,
    )


def server_name(command: list[str]) -> str:
    """The name that a server's Tool document probably has: its program's or package's, without scope and version."""
    words = [word for word in command[1:] if not word.startswith("-") and "=" not in word]
    name = os.path.basename(command[0])
    runner = re.sub(r"[0-9.]+\Z", "", name) or name
    if runner in _RUNNERS:
        package = next((word for word in words if word not in _VERBS and word not in _RUNNERS), name)
        parts = [part for part in package.split("/") if part not in ("dist", "build", "src", "index.js", "main.js")]
        name = parts[-1] if parts else name
    name = re.sub(r"(?<=.)@[^/]*\Z|\.(py|js|mjs|cjs|ts|exe)\Z", "", name)
    return name.replace("_", "-").lower()
