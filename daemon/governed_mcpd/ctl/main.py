"""The program governedctl.

`run` goes to the launcher before anything heavy is imported: typer and rich alone would be most of a sandbox's start.
"""

import os
import sys
from collections.abc import Sequence

GLOBAL_OPTIONS = ("--runtime-dir", "--config")


def main() -> None:
    """Entry point; ends with one of the exit codes that `--help` lists."""
    arguments = sys.argv[1:]
    options, rest = split_global_options(arguments)
    if rest[:1] == ["run"]:
        from governed_mcpd.launcher.main import run_command  # noqa: PLC0415 - the fast path

        code = run_command([*options, *rest[1:]])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking the interpreter apart would be a sixth of the time that a sandbox's start takes
    if rest[:1] == ["mcp"] and rest[1:2] not in (["wrap"], ["unwrap"]):
        from governed_mcpd.gateway.main import mcp_command  # noqa: PLC0415 - a client waits for its server

        sys.exit(mcp_command([*options, *rest[1:]]))
    from governed_mcpd.ctl.app import start  # noqa: PLC0415 - after the fast path

    start(arguments, as_json="--json" in _before_double_dash(rest))


def split_global_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The global options that stand before the command (each as `--name=value`), and the rest."""
    options: list[str] = []
    at = 0
    while at < len(arguments):
        name, equals, value = arguments[at].partition("=")
        if name not in GLOBAL_OPTIONS:
            break
        if not equals:
            if at + 1 == len(arguments):
                break  # without its value: the parser says so
            value = arguments[at + 1]
            at += 1
        options.append(f"{name}={value}")
        at += 1
    return options, list(arguments[at:])


def _before_double_dash(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


if __name__ == "__main__":
    # As `python -m` would otherwise call this program "main.py" in its messages.
    sys.argv[0] = os.path.join(os.path.dirname(sys.executable), "governedctl")
    main()
