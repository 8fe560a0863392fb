"""`trace`: what a sandbox does, seen from the kernel's tracepoints, beside what the daemon says that it saw."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from governed_mcpd.ctl.output import Failure, command_line, print_json, safe, text_or_base64
from governed_mcpd.ctl.session import Json
from governed_mcpd.trace.activity import Activity
from governed_mcpd.trace.place import Names, NoSuchSandbox, of_all, of_sandbox
from governed_mcpd.trace.tracer import CannotTrace, Tracer

_COLUMNS = "{:<12} {:<12} {:>7} {:<15} {:<10} {:<12} {}"


def trace(
    sandbox: Annotated[str, typer.Argument(metavar="SANDBOX", help="As `sandbox list` shows it; all without it.")] = "",
    cgroup: Annotated[
        str, typer.Option(metavar="DIRECTORY", help="The tasks of this cgroup, whatever it is, instead.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.0, help="End after this long (0: when the sandbox does).")] = 0.0,
    reads: Annotated[bool, typer.Option("--reads/--no-reads", help="Opens that only read as well.")] = True,
    as_json: Json = False,
) -> None:
    """Show what a sandbox does with files, network and programs, from tracepoints; root, and BCC, are needed.

    Neither the daemon nor its filter is asked: this is to check what they say. "refused" marks calls that a filter or
    its supervisor refused before the kernel began them, "CHANGED" calls whose names were written over while they ran.
    """
    directory = _directory(sandbox, cgroup)
    try:
        tracer = Tracer(directory)
    except CannotTrace as error:
        raise Failure("cannot-trace", str(error)) from None
    try:
        _show(tracer, _until(directory, seconds), Names(directory), reads=reads, as_json=as_json)
    finally:
        tracer.close()


def _directory(sandbox: str, cgroup: str) -> str:
    if sandbox and cgroup:
        raise typer.BadParameter("either a sandbox or a cgroup")
    if cgroup:
        if not os.path.exists(os.path.join(cgroup, "cgroup.procs")):
            raise Failure("no-such-cgroup", f"{cgroup} is not the directory of a cgroup (version 2)")
        return os.path.realpath(cgroup)
    try:
        return of_sandbox(sandbox) if sandbox else of_all()
    except NoSuchSandbox as error:
        raise Failure("no-such-sandbox", str(error)) from None


def _until(directory: str, seconds: float) -> Callable[[], bool]:
    """Whether it is over: by a signal, by time, or because the cgroup is gone."""
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    deadline = time.monotonic() + seconds if seconds else float("inf")
    return lambda: bool(stopped) or time.monotonic() > deadline or not os.path.isdir(directory)


def _show(tracer: Tracer, until: Callable[[], bool], names: Names, *, reads: bool, as_json: bool) -> None:
    print("governedctl: tracing; ^C ends it", file=sys.stderr, flush=True)
    if not as_json:
        print(_COLUMNS.format("TIME", "SANDBOX", "PID", "COMMAND", "CALL", "RESULT", "OBJECT"), flush=True)
    told = 0
    for activity in tracer.activities(until):
        if not reads and activity.opened_for in ("read", "path"):
            continue
        if as_json:
            print_json(_plain(activity, names[activity.cgroup]))
        else:
            print(_line(activity, names[activity.cgroup]), flush=True)
        if tracer.lost > told:
            told = tracer.lost
            print(f"governedctl: {told} events were lost: too many at once", file=sys.stderr, flush=True)


def _plain(activity: Activity, sandbox: str) -> dict[str, Any]:
    return {
        "time_us": activity.time // 1000,
        "sandbox": sandbox,
        "cgroup": activity.cgroup,
        "pid": activity.pid,
        "tid": activity.tid,
        "uid": activity.uid,
        "command": text_or_base64(activity.comm),
        "kind": activity.kind,
        "call": activity.call,
        "result": activity.result,
        "error": activity.error,
        "objects": [text_or_base64(name) for name in activity.objects],
        "opened_for": activity.opened_for,
        "argv": [text_or_base64(word) for word in activity.argv],
        "began": activity.began,
        "changed": activity.changed,
    }


def _line(activity: Activity, sandbox: str) -> str:
    seconds = activity.time // 1_000_000_000
    moment = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{activity.time // 1_000_000 % 1000:03d}"
    result = activity.error or str(activity.result)
    what = " → ".join(safe(name) for name in activity.objects)
    notes = [activity.opened_for] if activity.opened_for else []
    notes += [] if activity.began else ["refused"]
    notes += ["CHANGED"] if activity.changed else []
    if activity.argv:
        what = f"{what}: {command_line(activity.argv)}"
    if notes:
        what = f"{what} ({', '.join(notes)})"
    comm = safe(activity.comm)
    return _COLUMNS.format(moment, sandbox, activity.pid, comm, activity.call, result, what)
