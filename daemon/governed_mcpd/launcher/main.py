"""`governedctl run`: asks the daemon for a sandbox, forks the child that becomes it, and attends to that child."""

import os
import pwd
import signal
import sys
from collections.abc import Callable

import prctl

from governed_mcpd.launcher import attend, child, protocol
from governed_mcpd.launcher.command import CommandError, Program, find
from governed_mcpd.launcher.notices import PREFIX, Printer, printable, say
from governed_mcpd.launcher.options import EXIT_FAILED, Options, UsageError, parse

Planned = Callable[[str], None]
CONTROL_SOCKET, SANDBOX_SOCKET = "control.sock", "sandbox.sock"


def run_command(arguments: list[str], planned: Planned | None = None) -> int:
    """Runs what the arguments (without `run`) say; the exit code, as `--help` tells them. `planned` is told the
    sandbox's id before it begins, and may take its time."""
    try:
        options = parse(arguments)
        return _run(options, planned)
    except CommandError as error:
        _complain(str(error))
        return error.code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    except (UsageError, child.ChildError, protocol.ProtocolError, protocol.DaemonError, OSError) as error:
        _complain(str(error))
        return EXIT_FAILED


def _complain(message: str) -> None:
    sys.stdout.flush()
    say(f"governedctl run: {printable(message, 4000)}")


def _run(options: Options, planned: Planned | None) -> int:
    program = find(options.command, os.environb.get(b"PATH"))
    socket_path = os.path.join(options.runtime_dir, SANDBOX_SOCKET if options.nested else CONTROL_SOCKET)
    control = child.connect(socket_path)
    control.send(_request(options))
    plan = protocol.run_plan(control.receive())
    if planned is not None:
        planned(plan.sandbox)
    environment = _environment(plan, quiet=options.quiet)
    if not options.quiet:
        for note in plan.notes:
            say(f"{PREFIX}: {printable(note)}")
    prctl.set_child_subreaper(1)
    mask = attend.block_signals()
    ignored = signal.signal(signal.SIGCHLD, signal.SIG_DFL) is signal.SIG_IGN
    report, pid = _fork(plan, program, environment, socket_path, mask, ignored)
    attendant = attend.Attendant(pid, control, report, Printer(quiet=options.quiet))
    status = attendant.attend()
    if attendant.reported:
        code, _, message = attendant.reported.decode("utf-8", "surrogateescape").partition(" ")
        _complain(message)
        return int(code)
    return attend.exit_like(status)


def _fork(
    plan: protocol.RunPlan,
    program: Program,
    environment: dict[bytes, bytes],
    socket_path: str,
    mask: set[int],
    ignored: bool,
) -> tuple[int, int]:
    """Forks the child. Returns the end of the pipe on which it reports a failure, and its pid."""
    parent = os.getpid()
    report, reports = os.pipe()
    pid = os.fork()
    if pid == 0:
        if ignored:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        child.become(plan, program, environment, socket_path=socket_path, parent=parent, report=reports, mask=mask)
    os.close(reports)
    return report, pid


def _request(options: Options) -> bytes:
    return protocol.run_request(
        profile=options.profile,
        agent=options.agent,
        task=options.task,
        argv=options.command,
        cwd=os.getcwdb(),
        home=_home(),
        environment=sorted(os.environb),
        server=options.server,
        nested=options.nested,
    )


def _home() -> bytes:
    """$HOME, else the account's."""
    home = os.environb.get(b"HOME", b"")
    if home.startswith(b"/"):
        return home
    try:
        return os.fsencode(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return b"/"


def _environment(plan: protocol.RunPlan, *, quiet: bool) -> dict[bytes, bytes]:
    """The command's: without what looks like credentials, with what the plan sets."""
    drop = set(plan.drop_environment)
    dropped = sorted(name for name in os.environb if name in drop)
    if dropped and not quiet:
        names = ", ".join(printable(os.fsdecode(name)) for name in dropped)
        say(f"{PREFIX}: not passed on (environment.keep in a profile keeps one): {names}")
    environment = {name: value for name, value in os.environb.items() if name not in drop}
    environment.update(plan.set_environment)
    return environment
