"""`journal`: read what happened, and prove that nobody changed it."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer

from governed.v1 import control_pb2 as pb
from governed_mcpd.ctl.output import Exit, Failure, print_fields, print_json
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
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """The latest records, one per line."""
    session = session_of(context)
    lines = (
        _tail(session, count, follow, sandbox) if state_dir is None else _from_files(state_dir, count, follow, sandbox)
    )
    for digest, body in lines:
        if as_json:
            print_json({"hash": digest, **json.loads(body)})
        else:
            print(one_line(parsed(body)), flush=True)


@app.command()
def show(
    context: typer.Context,
    seq: Annotated[int | None, typer.Argument(min=1, metavar="[SEQ]", help="The record's sequence number.")] = None,
    call: Annotated[
        str, typer.Option(metavar="ID", help="A tool call instead: its verdict, what it did, and how it ended.")
    ] = "",
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """One record, with all its fields; or all records of one tool call."""
    if (seq is None) == (not call):
        raise Failure("usage", "say which record: its number, or --call ID", Exit.USAGE)
    if seq is None:
        _show_call(session_of(context), call, state_dir, as_json)
        return
    if state_dir is None:
        lines = read_lines(session_of(context), pb.JournalReadRequest(first=seq))
    else:
        lines = _record_in_files(state_dir, seq)
    for digest, body in lines:
        record = parsed(body)
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


def _show_call(session: Session, call: str, state_dir: str | None, as_json: bool) -> None:
    request = pb.JournalReadRequest(call=call)
    lines = read_lines(session, request) if state_dir is None else _call_in_files(state_dir, call)
    number = 0
    for number, (digest, body) in enumerate(lines, start=1):  # noqa: B007 - how many there were
        if as_json:
            print_json({"hash": digest, **json.loads(body)})
        else:
            print(one_line(parsed(body)), flush=True)
    if not number:
        raise Failure("unknown-call", f"there is no record of the call {call!r} that you may see")


@app.command()
def verify(
    context: typer.Context,
    state_dir: StateDir = None,
    key: Annotated[
        str,
        typer.Option(metavar="FILE.pem", help="The public key, from elsewhere, instead of the one beside the journal."),
    ] = "",
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Further checkpoints, as they were shipped off the machine."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that no record was changed, removed, added or moved. Reads the files; no daemon is needed."""
    from governed_mcpd.journal import verify as room  # noqa: PLC0415 - for this command only

    directory = session_of(context).config(state_dir=state_dir).state_dir
    with _reading(directory):
        found = room.verify(directory, public_key=key, checkpoint_files=checkpoints or [])
    problem = found.problem
    if as_json:
        print_json({"ok": found.ok, **asdict(found)})
    else:
        fields = [
            ("records", f"{found.records} in {found.segments} segments, {found.bytes} bytes"),
            ("head", found.head if found.records else "-"),
            ("checkpoints", f"{found.checkpoints} fit; the last proves {found.proved} records"),
        ]
        if found.torn:
            fields.append(
                ("torn", f"{found.torn} bytes of a line that is not finished: being written, or cut by a crash")
            )
        print_fields([("verdict", "nothing is wrong" if problem is None else f"WRONG: {problem}"), *fields])
    if problem is not None:
        raise typer.Exit(Exit.FAILED)


def _tail(session: Session, count: int, follow: bool, sandbox: str) -> Iterator[tuple[str, bytes]]:
    if count:
        request = pb.JournalReadRequest(last_n=count, follow=follow, sandbox=sandbox)
    elif follow:
        status = session.ask(pb.ControlRequest(status=pb.StatusRequest()), "status").status
        request = pb.JournalReadRequest(first=status.records + 1, follow=True, sandbox=sandbox)
    else:
        return
    yield from read_lines(session, request)


def read_lines(session: Session, request: pb.JournalReadRequest) -> Iterator[tuple[str, bytes]]:
    """Hash and canonical JSON of each record that the daemon sends."""
    with session.connection() as client:
        client.tell(pb.ControlRequest(journal_read=request))
        for reply in client.replies("record", timeout=None if request.follow else 60.0):
            if reply.record.line:
                digest, _, body = reply.record.line.rstrip(b"\n").partition(b" ")
                yield digest.decode("ascii", "backslashreplace"), body
            if not reply.record.more and not request.follow:
                return


def _from_files(state_dir: str, count: int, follow: bool, sandbox: str) -> Iterator[tuple[str, bytes]]:
    from governed_mcpd.journal import read  # noqa: PLC0415 - for these commands only

    with _reading(state_dir):
        latest = read.last_entries(state_dir, 1)
        found = read.last_entries(state_dir, count, sandbox=sandbox) if count else []
        for entry in found:
            yield entry.hash, entry.line.partition(b" ")[2]
        if follow:
            first = max([entry.seq for entry in (*latest, *found)], default=0) + 1
            for entry in read.follow(state_dir, lambda: False, first=first, sandbox=sandbox):
                yield entry.hash, entry.line.partition(b" ")[2]


def _record_in_files(state_dir: str, seq: int) -> Iterator[tuple[str, bytes]]:
    from governed_mcpd.journal import read  # noqa: PLC0415 - for these commands only

    with _reading(state_dir):
        for entry in read.entries(state_dir, first=seq):
            yield entry.hash, entry.line.partition(b" ")[2]


def _call_in_files(state_dir: str, call: str) -> Iterator[tuple[str, bytes]]:
    from governed_mcpd.journal import read  # noqa: PLC0415 - for these commands only

    with _reading(state_dir):
        for entry in read.entries(state_dir, sandbox=call.rpartition("-c")[0]):
            calls = entry.record.get("calls")
            named = (entry.record.get("call"), entry.record.get("approval"))
            if call in named or (isinstance(calls, list) and call in calls):
                yield entry.hash, entry.line.partition(b" ")[2]


@contextmanager
def _reading(state_dir: str) -> Iterator[None]:
    """What goes wrong with files becomes a Failure that says what to do."""
    from governed_mcpd.journal.errors import JournalError  # noqa: PLC0415 - for these commands only

    try:
        if not stat.S_ISDIR(os.stat(state_dir).st_mode):
            raise Failure("no-journal", f"{state_dir} is no directory: expected a state directory (--state-dir)")
        yield
    except FileNotFoundError as error:
        message = f"{error.filename} does not exist: expected a state directory (--state-dir)"
        raise Failure("no-journal", message) from None
    except PermissionError as error:
        message = f"{error.filename}: {error.strerror}: only root can read the files of the journal"
        raise Failure("forbidden", message, Exit.FORBIDDEN) from None
    except (OSError, JournalError) as error:
        raise Failure("unreadable-journal", str(error)) from None


def parsed(body: bytes) -> dict[str, Any]:
    """A record with names as they are (bytes that are not UTF-8 in surrogateescape form), to be shown to people."""
    from governed_mcpd.journal.canonical import CanonicalError, parse  # noqa: PLC0415 - for these commands only

    try:
        record = parse(body)
    except CanonicalError as error:
        raise Failure("bad-record", f"the daemon sent a record that cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise Failure("bad-record", "the daemon sent a record that is not a JSON object")
    return record
