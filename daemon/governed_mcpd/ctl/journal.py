"""`journal`: read what happened, and prove that nobody changed it."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from governed.v1 import control_pb2 as pb
from governed_mcpd.ctl.output import Failure, print_json
from governed_mcpd.ctl.records import one_line, print_record
from governed_mcpd.ctl.session import Json, Session, session_of

app = typer.Typer(help="Read and verify the journal.", no_args_is_help=True, rich_markup_mode=None)
StateDir = Annotated[
    str | None, typer.Option(metavar="DIR", help="Read the files there; no daemon is needed, but permission is.")
]


@app.command()
def tail(
    context: typer.Context,
    count: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the latest records.")] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with records as they come.")] = False,
    sandbox: Annotated[str, typer.Option(metavar="ID", help="Only records of this sandbox.")] = "",
    as_json: Json = False,
) -> None:
    """The latest records, one per line."""
    for digest, body in _tail(session_of(context), count, follow, sandbox):
        if as_json:
            print_json({"hash": digest, **json.loads(body)})
        else:
            print(one_line(_parsed(body)), flush=True)


@app.command()
def show(
    context: typer.Context,
    seq: Annotated[int, typer.Argument(min=1, metavar="SEQ", help="The record's sequence number.")],
    as_json: Json = False,
) -> None:
    """One record, with all its fields."""
    request = pb.JournalReadRequest(first=seq)
    for digest, body in _read(session_of(context), request):
        record = _parsed(body)
        if record.get("seq") != seq:
            break
        if as_json:
            print_json({"hash": digest, **json.loads(body)})
        else:
            print_record(record, digest)
        return
    raise Failure(
        "unknown-record", f"there is no record {seq} that you may see: `governedctl journal tail` shows the latest"
    )


def _tail(session: Session, count: int, follow: bool, sandbox: str) -> Iterator[tuple[str, bytes]]:
    if count:
        request = pb.JournalReadRequest(last_n=count, follow=follow, sandbox=sandbox)
    elif follow:
        status = session.ask(pb.ControlRequest(status=pb.StatusRequest()), "status").status
        request = pb.JournalReadRequest(first=status.records + 1, follow=True, sandbox=sandbox)
    else:
        return
    yield from _read(session, request)


def _read(session: Session, request: pb.JournalReadRequest) -> Iterator[tuple[str, bytes]]:
    """Hash and canonical JSON of each record that the daemon sends."""
    with session.connection() as client:
        client.tell(pb.ControlRequest(journal_read=request))
        for reply in client.replies("record", timeout=None if request.follow else 60.0):
            if reply.record.line:
                digest, _, body = reply.record.line.rstrip(b"\n").partition(b" ")
                yield digest.decode("ascii", "backslashreplace"), body
            if not reply.record.more and not request.follow:
                return


def _parsed(body: bytes) -> dict[str, Any]:
    """A record with names as they are (bytes that are not UTF-8 in surrogateescape form), to be shown to people."""
    from governed_mcpd.journal.canonical import CanonicalError, parse  # noqa: PLC0415 - for these commands only

    try:
        record = parse(body)
    except CanonicalError as error:
        raise Failure("bad-record", f"the daemon sent a record that cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise Failure("bad-record", "the daemon sent a record that is not a JSON object")
    return record
