"""`tools`: what MCP servers list, what of it was accepted, and what has changed since."""

import difflib
import json
import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from governed.v1 import control_pb2 as pb
from governed_mcpd.ctl.learn import learn
from governed_mcpd.ctl.output import Exit, Failure, plain, print_json, print_table, print_text, safe
from governed_mcpd.ctl.session import Json, Session, session_of

app = typer.Typer(help="See and accept the tools that servers list.", no_args_is_help=True, rich_markup_mode=None)
app.command()(learn)
Server = Annotated[str, typer.Option(metavar="NAME", help="Only this server.")]
Others = Annotated[bool, typer.Option("--all", help="Servers of other users too (administrators).")]


@app.command("list")
def list_tools(context: typer.Context, server: Server = "", others: Others = False, as_json: Json = False) -> None:
    """Every tool that is known, and whether clients get it."""
    states = _states(session_of(context), server, others)
    if as_json:
        print_json({"tools": [plain(state) for state in states]})
        return
    rows = [
        (str(state.uid), state.server, state.tool, state.state, state.approved_by or "-", state.reason or "-")
        for state in states
    ]
    print_table(("uid", "server", "tool", "state", "accepted by", "reason"), rows, empty="no server has listed tools")


@app.command()
def diff(context: typer.Context, server: Server = "", others: Others = False, as_json: Json = False) -> None:
    """What is not as it was accepted: changed, new and withheld tools. Exit code 1 when there are any."""
    found = [state for state in _states(session_of(context), server, others) if state.state != "approved"]
    if as_json:
        print_json({"tools": [plain(state) for state in found]})
    for state in () if as_json else found:
        print_text(f"{state.server}/{state.tool} (uid {state.uid}): {state.state}, {state.reason or 'no reason'}")
        for line in _difference(state):
            print_text("  " + line)
        if state.seen and state.state != "approved":
            user = f" --uid {state.uid}" if state.uid != os.getuid() else ""
            print_text(
                f"  to accept it: governedctl tools approve {safe(state.server)} {safe(state.tool)}{user}"
                f" --pin {state.seen}"
            )
    if found:
        raise typer.Exit(Exit.FAILED)


@app.command()
def approve(
    context: typer.Context,
    server: Annotated[str, typer.Argument(metavar="SERVER")],
    tool: Annotated[str, typer.Argument(metavar="[TOOL]", help="All that the server lists, if none is named.")] = "",
    uid: Annotated[int, typer.Option(metavar="UID", help="Whose server; yours if not given.")] = -1,
    pin: Annotated[
        str, typer.Option(metavar="PIN", help="As `tools diff` shows it: accept this, and nothing else.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Accept what a server lists now (administrators)."""
    wanted = pb.ToolApproveRequest(server=server, tool=tool, uid=os.getuid() if uid < 0 else uid, pin=pin)
    done = session_of(context).ask(pb.ControlRequest(tool_approve=wanted), "done").done
    if as_json:
        print_json(plain(done))
    else:
        print_text(done.message)


def _states(session: Session, server: str, others: bool) -> list[pb.ToolState]:
    request = pb.ControlRequest(tool_list=pb.ToolListRequest(server=server, others=others))
    return list(session.ask(request, "tools").tools.tools)


def _difference(state: pb.ToolState) -> Iterator[str]:
    """The two forms, member by member, as a unified difference."""
    before, after = _lines(state.approved_form), _lines(state.seen_form)
    yield from difflib.unified_diff(before, after, "accepted", "listed", lineterm="", n=1)


def _lines(form: bytes) -> list[str]:
    if not form:
        return []
    try:
        value: Any = json.loads(form)
    except ValueError:
        raise Failure("bad-form", "the daemon sent a tool that is not JSON") from None
    return json.dumps(value, indent=1, sort_keys=True).splitlines()
