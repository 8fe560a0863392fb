"""`approvals`: what waits for a person, and the person's answer."""

import time
from typing import Annotated

import typer

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2 as nouns
from governed_mcpd.ctl.output import command_line, plain, print_json, print_table, print_text, safe, span
from governed_mcpd.ctl.session import Json, session_of

app = typer.Typer(help="Answer what waits for a person.", no_args_is_help=True, rich_markup_mode=None)
Id = Annotated[str, typer.Argument(metavar="ID", help="As `approvals list` shows it.")]
Note = Annotated[str, typer.Option(help="Why; it stands in the journal.")]


@app.command("list")
def list_approvals(context: typer.Context, as_json: Json = False) -> None:
    """The side effects and tool calls that wait for a person, the oldest first."""
    request = pb.ControlRequest(approval_list=pb.ApprovalListRequest())
    found = session_of(context).ask(request, "approvals").approvals
    if as_json:
        print_json(plain(found))
        return
    columns = ("id", "agent", "sandbox", "what", "rule", "reason", "left")
    print_table(columns, [_row(approval) for approval in found.approvals], empty="nothing waits")


@app.command()
def approve(context: typer.Context, approval: Id, note: Note = "", as_json: Json = False) -> None:
    """Let it happen, once."""
    _decide(context, approval, True, note, as_json)


@app.command()
def deny(context: typer.Context, approval: Id, note: Note = "", as_json: Json = False) -> None:
    """Refuse it."""
    _decide(context, approval, False, note, as_json)


def describe(action: nouns.Action) -> str:
    """An action on one line."""
    if action.WhichOneof("what") == "call":
        return f"{safe(action.call.server)}/{safe(action.call.tool)} {safe(action.call.arguments)}"
    effect = action.effect
    words = [safe(effect.operation), safe(effect.object)]
    if effect.details.get("address"):
        words.append(f"({safe(effect.details['address'])})")
    elif effect.details.get("unresolved"):
        words.append("(unresolved)")
    if effect.second:
        words += ["→", safe(effect.second)]
    if effect.argv:
        words.append(f"[{command_line(effect.argv)}]")
    return " ".join(words)


def _decide(context: typer.Context, approval: str, approve: bool, note: str, as_json: bool) -> None:
    wanted = pb.ApprovalDecideRequest(id=approval, approve=approve, note=note)
    done = session_of(context).ask(pb.ControlRequest(approval_decide=wanted), "done").done
    if as_json:
        print_json(plain(done))
    else:
        print_text(done.message)


def _row(approval: pb.Approval) -> list[str]:
    subject, verdict = approval.action.subject, approval.verdict
    left = span(approval.deadline_us / 1e6 - time.time())
    what = describe(approval.action)
    return [approval.id, subject.agent, subject.sandbox, what, f"{verdict.layer}/{verdict.rule}", verdict.reason, left]
