"""`tools learn`: a Tool document from what a server was seen to do, for a person to read and accept."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from governed.v1 import control_pb2 as pb
from governed_mcpd.ctl.journal import parsed, read_lines
from governed_mcpd.ctl.output import Failure, print_json
from governed_mcpd.ctl.policies import active_documents
from governed_mcpd.ctl.session import Json, Session, session_of


def learn(
    context: typer.Context,
    server: Annotated[str, typer.Argument(metavar="SERVER", help="As `governedctl mcp --server` names it.")],
    sandbox: Annotated[str, typer.Option(metavar="ID", help="Only what happened in this sandbox.")] = "",
    watch: Annotated[
        bool, typer.Option("--watch", help="Begin now: use the server, then interrupt this (^C) for the document.")
    ] = False,
    constants: Annotated[
        bool,
        typer.Option("--constants", help="Propose files beneath the server's directory too that every call touched."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Propose a Tool document from what a server was seen to do.

    Use the server under policies whose Gate document says `mode: shadow` (what would be refused happens, and is
    recorded: on a machine where that does no harm) and under a profile with `reads: pause`, with at least two different
    values for each argument. What is proposed followed from an argument; everything else that was seen is said in
    comments. Nothing is accepted by this: read it, then apply it.
    """
    from governed_mcpd.learning import observe, propose, write  # noqa: PLC0415 - pydantic is most of a command's start

    session = session_of(context)
    try:
        seen = observe.observe(server, _records(session, watch), sandbox)
        if not seen.calls:
            remedy = "run it with `governedctl mcp --profile demo`, under a Gate document with mode: shadow"
            raise Failure("nothing-seen", f"the journal has no call of {server} that was let through: {remedy}")
        forms = _forms(session, server)
        reads_only = [name for name, form in forms.items() if _says_it_reads(form)]
        proposals = propose.propose(seen, reads_only, constants=constants)
        schemas = {name: form.get("inputSchema") for name, form in forms.items()}
        meant = write.document(server, proposals, schemas)
        text = write.text(seen, proposals, schemas)
        write.prove(text, meant, {file.name: file.content for file in active_documents(session).files})
    except observe.TooMuch as failure:
        raise Failure("too-much", str(failure)) from None
    except write.NotSaid as failure:
        raise Failure("not-said", str(failure)) from None
    if as_json:
        left_out = {proposal.tool: proposal.left_out for proposal in proposals if proposal.left_out}
        print_json({"document": meant, "left_out": left_out, "text": text})
    else:
        sys.stdout.write(text)  # nothing in it that acts on a terminal: learning/write
        sys.stdout.flush()


def _records(session: Session, watch: bool) -> Iterator[Any]:
    request = pb.JournalReadRequest()
    if watch:
        begin = session.ask(pb.ControlRequest(status=pb.StatusRequest()), "status").status.records + 1
        request = pb.JournalReadRequest(first=begin, follow=True)
        print("governedctl: watching; use the server now, and interrupt this (^C) when you are done", file=sys.stderr)
    try:
        for _, body in read_lines(session, request):
            yield parsed(body)
    except KeyboardInterrupt:
        if not watch:
            raise


def _forms(session: Session, server: str) -> dict[str, dict[str, Any]]:
    """What the server says of its tools, by name: as it listed them last."""
    states = session.ask(pb.ControlRequest(tool_list=pb.ToolListRequest(server=server)), "tools").tools.tools
    if not states:
        states = _of_everybody(session, server)
    found: dict[str, dict[str, Any]] = {}
    for state in states:
        try:
            form = json.loads(state.seen_form or state.approved_form or b"{}")
        except ValueError:
            continue
        if isinstance(form, dict):
            found[state.tool] = form
    return found


def _of_everybody(session: Session, server: str) -> Any:
    from governed_mcpd.control.client import ControlError  # noqa: PLC0415 - as above

    try:
        request = pb.ToolListRequest(server=server, others=True)
        return session.ask(pb.ControlRequest(tool_list=request), "tools").tools.tools
    except ControlError as error:
        if error.code == "forbidden":
            return []
        raise


def _says_it_reads(form: dict[str, Any]) -> bool:
    annotations = form.get("annotations")
    return isinstance(annotations, dict) and annotations.get("readOnlyHint") is True
