"""The command line of `governedctl run`, and where the daemon is."""

import argparse
import os
from typing import NamedTuple, NoReturn

SANDBOX_VARIABLE = "GOVERNED_SANDBOX"
EXIT_FAILED = 125
"""The launcher itself failed, usage included: as env(1), timeout(1) and chroot(1) have it."""

_DEFAULT_RUNTIME_DIR = "/run/governed-mcpd"
_DEFAULT_CONFIG = "/etc/governed-mcpd/config.toml"


class UsageError(Exception):
    """What was asked for cannot be meant. The message says what was expected."""


class Options(NamedTuple):
    """What was asked for."""

    command: list[bytes]
    profile: str
    agent: str
    task: str
    server: str
    quiet: bool
    runtime_dir: str
    nested: bool


class _Formatter(argparse.HelpFormatter):
    """argparse makes one for each option, and asks shutil how wide the terminal is: that imports three compressors."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_FAILED, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parse(arguments: list[str]) -> Options:
    """SystemExit with 125 (after a message) for what is wrong, with 0 after --help; UsageError."""
    parser = _Parser(
        prog="governedctl run",
        usage="governedctl run [OPTION]... [--] COMMAND [ARGUMENT]...",
        description="Runs COMMAND in a sandbox: each of its side effects pauses until governed-mcpd has a verdict, and "
        "is recorded. Inside a sandbox it asks for a narrower one.",
        epilog="Exit code: the command's; 125 when the sandbox could not be made; 126 when the command could not be "
        "started, 127 when it was not found. Whatever COMMAND leaves running ends when it ends.",
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--profile", metavar="NAME", default="", help="what it may do at most (default: the agent's)")
    parser.add_argument("--agent", metavar="NAME", default="", help="the agent that acts (default: default)")
    parser.add_argument("--task", metavar="TEXT", default="", help="what the user wants done: verdicts depend on it")
    parser.add_argument("--server", metavar="NAME", default="", help="the MCP server that COMMAND is, if it is one")
    parser.add_argument("--quiet", action="store_true", help="no lines about refusals and dropped variables on stderr")
    parser.add_argument("--runtime-dir", metavar="D", help="where the daemon's sockets are")
    parser.add_argument("--config", metavar="FILE", help=f"the configuration file (default: {_DEFAULT_CONFIG})")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    command = found.command[1:] if found.command[:1] == ["--"] else found.command
    if not command:
        parser.error("a command is missing: governedctl run -- COMMAND")
    return Options(
        command=[os.fsencode(word) for word in command],
        profile=found.profile,
        agent=found.agent,
        task=found.task,
        server=found.server,
        quiet=found.quiet,
        runtime_dir=_runtime_dir(found.runtime_dir, found.config),
        nested=SANDBOX_VARIABLE in os.environ,
    )


def _runtime_dir(option: str | None, file: str | None) -> str:
    """As governed_mcpd.config finds it; that is imported (with its TOML parser) only when a file has to be read."""
    if option:
        return os.path.abspath(option)
    variable = os.environ.get("GOVERNED_RUNTIME_DIR")
    if variable and file is None:
        return variable
    if file or os.environ.get("GOVERNED_CONFIG") or os.path.exists(_DEFAULT_CONFIG):
        from governed_mcpd import config  # noqa: PLC0415 - see above

        try:
            return config.load(file).runtime_dir
        except config.ConfigError as error:
            raise UsageError(str(error)) from None
    return _DEFAULT_RUNTIME_DIR
