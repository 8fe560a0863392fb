"""Records of the journal to what was seen of one server: its calls, and what happened while each of them was alone."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from blake3 import blake3

MOST_CALLS = 20_000
MOST_EFFECTS = 200_000


class TooMuch(Exception):
    """More than is looked through. The text says what to do."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One effect. `refused` says why it did not happen, or would not have; empty: nobody objected."""

    operation: str
    names: tuple[str, ...]  # the object, and the second one of rename and link
    argv: tuple[str, ...] = ()
    refused: str = ""

    @property
    def text(self) -> str:
        return f"{self.operation} {' -> '.join(self.names)}" + (f" ({' '.join(self.argv)})" if self.argv else "")


@dataclass(slots=True)
class Call:
    """One call that was let through. `arguments` is None where the journal does not have them whole."""

    id: str
    tool: str
    arguments: Mapping[str, Any] | None
    cwd: str
    effects: list[Happened] = field(default_factory=list)


@dataclass(slots=True)
class Seen:
    """What was seen of one server."""

    server: str
    calls: list[Call] = field(default_factory=list)
    outside: list[Happened] = field(default_factory=list)  # while no call was in flight
    shared: int = 0  # effects while several calls were: they cannot be told apart
    runs: int = 0
    reads: bool = False  # whether reads were seen at all
    first: int = 0
    last: int = 0


def observe(server: str, records: Iterable[Mapping[str, Any]], sandbox: str = "") -> Seen:
    """What the records, in their order, say of `server` (of one of its runs, when `sandbox` is named). TooMuch."""
    seen = Seen(server)
    places: dict[str, str] = {}
    calls: dict[str, Call] = {}
    effects = 0
    for record in records:
        kind, where = record.get("kind"), str(record.get("sandbox", ""))
        if sandbox and where.partition(".")[0] != sandbox:
            continue
        if kind == "sandbox.start" and _server(record) == server:
            places[where] = str(record.get("cwd", "/"))
            seen.runs += 1
        elif kind == "call" and record.get("server") == server and record.get("decision") == "allow":
            calls[str(record["call"])] = call = _call(record, places.get(where, ""))
            seen.calls.append(call)
            seen.first = seen.first or int(record["seq"])
            seen.last = int(record["seq"])
        elif kind == "effect" and where in places:
            effects += 1
            _effect(seen, calls, record)
        if len(calls) > MOST_CALLS or effects > MOST_EFFECTS:
            raise TooMuch(
                f"more than {MOST_CALLS} calls or {MOST_EFFECTS} effects of {server}: name one run with --sandbox ID"
            )
    return seen


def _server(record: Mapping[str, Any]) -> str:
    subject = record.get("subject")
    return str(subject.get("server", "")) if isinstance(subject, Mapping) else ""


def _call(record: Mapping[str, Any], cwd: str) -> Call:
    arguments: Any = None
    told = record.get("arguments")
    if isinstance(told, Mapping):
        text = os.fsencode(str(told.get("text", "")))
        # What is shown may be redacted or cut: only what has the digest of the arguments is the arguments.
        if blake3(text).hexdigest() == told.get("digest"):
            arguments = orjson.loads(text)
    return Call(str(record["call"]), str(record["tool"]), arguments if isinstance(arguments, dict) else None, cwd)


def _effect(seen: Seen, calls: Mapping[str, Call], record: Mapping[str, Any]) -> None:
    happened = _happened(record)
    seen.reads = seen.reads or happened.operation == "file.read"
    if "call" not in record and "calls" not in record:
        return  # what every sandbox may do freely: scratch, its terminal
    during = [str(record["call"])] if record.get("call") else [str(call) for call in record["calls"]]
    if len(during) > 1:
        seen.shared += 1
    elif not during:
        seen.outside.append(happened)
    elif (call := calls.get(during[0])) is not None:
        call.effects.append(happened)


def _happened(record: Mapping[str, Any]) -> Happened:
    names = tuple(str(record[name]) for name in ("object", "second") if record.get(name))
    operation = str(record.get("operation", ""))
    told = record.get("argv")
    words = told.get("words", ()) if isinstance(told, Mapping) else ()
    refused = ""
    if record.get("decision") != "allow":
        refused = f"refused: {record.get('rule', '')}"
    elif record.get("would_deny"):
        refused = f"the gate would have refused it: {record.get('rule', '')}"
    if operation == "file.symlink":
        names = names[:1]  # the second is a text, not an object
    return Happened(operation, names, tuple(map(str, words)), refused)
