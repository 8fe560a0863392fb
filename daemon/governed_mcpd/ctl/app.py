"""The commands of governedctl, and how each ending becomes an exit code."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from governed_mcpd import __version__
from governed_mcpd.config import ConfigError
from governed_mcpd.control.client import ControlError, DaemonUnreachable
from governed_mcpd.ctl.main import split_global_options
from governed_mcpd.ctl.output import Exit, Failure, fail
from governed_mcpd.ctl.session import Session, session_of

HELP = """See and steer governed-mcpd, and run programs under it.

Exit codes: 0 done; 1 refused, or a check failed; 2 wrong usage or configuration; 3 the daemon cannot be reached;
4 not permitted (group governed or governed-admin is missing); 130 interrupted. `run` ends with the exit code of its
command, 125 when the sandbox could not be made, 126 or 127 when the command could not be executed or found.
"""

# The modules, in this package, of the groups of commands (each has an `app`) and of the commands that stand alone.
GROUPS = {
    "sandbox": "sandboxes",
    "approvals": "approvals",
    "journal": "journal",
    "gate": "gate",
    "tools": "tools",
    "mcp": "wrap",
}
COMMANDS = {
    "status": "sandboxes",
    "apply": "policies",
    "rollback": "policies",
    "get": "policies",
    "validate": "policies",
    "doctor": "doctor",
    "explain": "explain",
    "trace": "trace",
}


def app(only: str = "") -> typer.Typer:
    """All commands; of the groups and commands above `only` that one, if it is one of them: making them all takes
    longer than most commands do."""
    made = typer.Typer(
        name="governedctl",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(options)
    some = only in GROUPS or only in COMMANDS
    for name, module in GROUPS.items():
        if not some or name == only:
            made.add_typer(_module(module).app, name=name)
    for name, module in COMMANDS.items():
        if not some or name == only:
            made.command(name)(getattr(_module(module), name))
    made.command("run", context_settings={"ignore_unknown_options": True, "help_option_names": []})(run)
    return made


def _module(name: str) -> Any:
    return importlib.import_module(f"governed_mcpd.ctl.{name}")


def run(
    context: typer.Context, arguments: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND…")] = None
) -> None:
    """Run a command in a sandbox (governedctl run --help says more)."""
    from governed_mcpd.launcher.main import run_command  # noqa: PLC0415 - no other command needs the launcher

    session = session_of(context)
    given = (("--runtime-dir", session.runtime_dir), ("--config", session.config_file))
    options = [f"{name}={value}" for name, value in given if value is not None]
    raise typer.Exit(run_command([*options, *(arguments or [])]))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"governedctl {__version__}")
        raise typer.Exit


def options(
    context: typer.Context,
    runtime_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="The daemon's runtime directory (GOVERNED_RUNTIME_DIR).")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="The configuration file (GOVERNED_CONFIG).")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    context.obj = Session(runtime_dir, config)


def start(arguments: list[str], *, as_json: bool) -> NoReturn:
    """Runs the command that `arguments` names, and ends the program."""
    # A reader that has enough (head, less) ends this program quietly, as it does other programs.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        result = app(_wanted(arguments))(arguments, prog_name="governedctl", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else Exit.OK)
    except Failure as failure:
        fail(failure, as_json=as_json)
    except ControlError as error:
        fail(Failure(error.code, error.message, _status(error)), as_json=as_json)
    except ConfigError as error:
        fail(Failure("configuration", str(error), Exit.USAGE), as_json=as_json)
    except UsageError as error:
        _usage(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(Exit.INTERRUPTED)


def _wanted(arguments: Sequence[str]) -> str:
    """The first word after the global options. A shell that asks for completions has the words elsewhere."""
    _, rest = split_global_options(arguments)
    return "" if "_GOVERNEDCTL_COMPLETE" in os.environ or not rest else rest[0]


def _status(error: ControlError) -> Exit:
    if error.code == "forbidden":
        return Exit.FORBIDDEN
    return Exit.UNREACHABLE if isinstance(error, DaemonUnreachable) else Exit.FAILED


# typer brings its parser along privately; BadParameter is the public name, and UsageError the class above it.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _usage(error: Any, *, as_json: bool) -> NoReturn:
    if as_json:
        fail(Failure("usage", error.format_message(), Exit.USAGE), as_json=True)
    error.show()
    sys.exit(Exit.USAGE)
