"""What `governedctl mcp` has in common with `governedctl run`: its arguments, where the daemon is, and what it says."""

import os
import sys

from governed_mcpd.gateway.options import Options
from governed_mcpd.launcher.notices import printable, say
from governed_mcpd.launcher.options import parse as parse_run


def run_arguments(options: Options) -> list[str]:
    """The arguments of `governedctl run` for the server."""
    found = ["--quiet"] if options.quiet else []
    for name, value in (
        ("--profile", options.profile),
        ("--agent", options.agent),
        ("--task", options.task),
        ("--server", options.server),
        ("--runtime-dir", options.runtime_dir),
        ("--config", options.config),
    ):
        if value:
            found += [name, value]
    return [*found, "--", *options.command]


def runtime_dir(options: Options) -> str:
    """Where the daemon's sockets are, as the launcher finds them. UsageError."""
    command = options.command or ["true"]  # a remote server has none
    return parse_run(run_arguments(options._replace(command=command))).runtime_dir


def complain(message: str) -> None:
    """One line on stderr."""
    sys.stdout.flush()
    say(f"governedctl mcp: {printable(os.fsdecode(message.encode('utf-8', 'replace')), 4000)}")
