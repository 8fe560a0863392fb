"""`status` and `sandbox`: what runs, and how to end it."""

import time
from typing import Annotated

import typer

from governed.v1 import control_pb2 as pb
from governed.v1 import gate_pb2
from governed_mcpd.ctl.output import (
    command_line,
    moment,
    plain,
    print_fields,
    print_json,
    print_table,
    print_text,
    span,
)
from governed_mcpd.ctl.session import Json, session_of

app = typer.Typer(help="See and end sandboxes.", no_args_is_help=True, rich_markup_mode=None)
Sandbox = Annotated[str, typer.Argument(metavar="ID", help="As `sandbox list` shows it.")]


def status(context: typer.Context, as_json: Json = False) -> None:
    """Whether the daemon is well: seal, policy, gate, journal."""
    request = pb.ControlRequest(status=pb.StatusRequest(try_seal=True))
    found = session_of(context).ask(request, "status").status
    if as_json:
        print_json(plain(found))
        return
    uptime = f" ({span(time.time() - found.started_us / 1e6)} ago)" if found.started_us else ""
    print_fields(
        [
            ("version", found.version),
            ("started", moment(found.started_us) + uptime),
            ("seal", _with_reason(found.seal, found.seal_reason)),
            ("seal tried", _tried(found)),
            ("seal events", _events(found)),
            ("policy", found.policy_version or "none is active"),
            ("gate", _with_reason(found.gate, found.gate_reason)),
            ("names", _names(found)),
            ("backend", found.backend or "-"),
            *((f"  {remote.address}", _remote(remote)) for remote in found.remotes),
            ("journal", f"{found.journal}; {found.records} records, head {found.head or '-'}"),
            ("sandboxes", f"{found.sandboxes}, {found.pending} side effects pending"),
            ("approvals", f"{found.waiting} waiting" + (" (governedctl approvals list)" if found.waiting else "")),
        ]
    )


def _remote(remote: gate_pb2.RemoteGate) -> str:
    counts = f"{remote.state} {remote.model}".strip() + f"; {remote.answered} answers, {remote.failed} failures"
    return _with_reason(counts, remote.reason)


@app.command("list")
def list_sandboxes(context: typer.Context, as_json: Json = False) -> None:
    """The sandboxes that you may see."""
    request = pb.ControlRequest(sandbox_list=pb.SandboxListRequest())
    found = session_of(context).ask(request, "sandboxes").sandboxes
    if as_json:
        print_json(plain(found))
        return
    columns = ("id", "agent", "profile", "uid", "pid", "state", "up", "allowed", "refused", "pending", "command")
    print_table(columns, [_row(info) for info in found.sandboxes], empty="no sandboxes")


@app.command()
def kill(context: typer.Context, sandbox: Sandbox, as_json: Json = False) -> None:
    """End a sandbox: everything in it is killed, and what is pending is refused."""
    request = pb.ControlRequest(sandbox_kill=pb.SandboxKillRequest(sandbox=sandbox))
    _say(session_of(context).ask(request, "done").done, as_json)


@app.command()
def thaw(
    context: typer.Context,
    sandbox: Sandbox,
    more_mib: Annotated[int, typer.Option(min=1, max=1_048_576, help="How much more journal it may fill.")] = 16,
    as_json: Json = False,
) -> None:
    """Let a sandbox go on that was frozen because it had filled its share of the journal."""
    wanted = pb.SandboxThawRequest(sandbox=sandbox, more_bytes=more_mib << 20)
    _say(session_of(context).ask(pb.ControlRequest(sandbox_thaw=wanted), "done").done, as_json)


def _row(info: pb.SandboxInfo) -> list[str]:
    subject = info.subject
    up = span(time.time() - info.started_us / 1e6) if info.started_us else "-"
    counts = [str(number) for number in (info.allowed, info.refused, info.pending)]
    who = [subject.sandbox, subject.agent, subject.profile, str(subject.uid), str(info.pid)]
    return [*who, info.state, up, *counts, command_line(info.argv)]


def _say(done: pb.Done, as_json: bool) -> None:
    if as_json:
        print_json(plain(done))
    else:
        print_text(done.message)


def _tried(found: pb.Status) -> str:
    if found.seal in ("", "none"):
        return "-"
    return "; ".join(f"{'' if probe.works else 'FAILED: '}{probe.detail}" for probe in found.probes[1:])


def _events(found: pb.Status) -> str:
    if found.seal in ("", "none"):
        return "-"
    dropped = f", {found.seal_dropped} of them only counted" if found.seal_dropped else ""
    more = " (governedctl journal tail)" if found.seal_events else ""
    return f"{found.seal_events} effects refused by the kernel{dropped}{more}"


def _names(found: pb.Status) -> str:
    if found.names_reason:
        return f"not looked up, DNS of sandboxes is refused ({found.names_reason})"
    return "looked up by governed-resolver, which asks " + (" ".join(found.upstreams) or "nobody")


def _with_reason(word: str, reason: str) -> str:
    return f"{word} ({reason})" if reason else word or "-"
