"""Reads records for people and programs: from a number on, the last ones, one sandbox's, and as they come.

Nothing is verified here (see verify). A last line without newline is being written, and is left for the next look.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import sleep
from typing import Any, Final

from governed_mcpd.journal.canonical import parse
from governed_mcpd.journal.chain import MAX_LINE_BYTES, split_line
from governed_mcpd.journal.errors import JournalError
from governed_mcpd.journal.layout import SegmentFile, list_segments

_CHUNK: Final = 1 << 20


class UnreadableLine(JournalError):
    """A whole line that is not one of a journal: verify says more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: its hash (hex), its record, and the line itself without newline."""

    seq: int
    hash: str
    record: dict[str, Any]
    line: bytes


class Tail:
    """Follows a journal: each `poll` returns the entries that are new. Goes on over rotations; never blocks."""

    def __init__(self, state_dir: str, *, first: int = 1, sandbox: str = "") -> None:
        """Begins with record `first`."""
        self._state_dir = state_dir
        self._sandbox = sandbox
        self._first = max(first, 1)
        self._segment: SegmentFile | None = None
        self._seq = 0
        self._offset = 0

    def poll(self, most: int = 1000) -> list[Entry]:
        """Up to `most` new entries; fewer than `most` (perhaps none): there are no more now."""
        entries: list[Entry] = []
        while len(entries) < most and self._enter():
            segment, before = self._segment, self._offset
            assert segment is not None
            for raw in self._lines(segment):
                entry = _entry(raw, segment, self._sandbox) if self._seq >= self._first else None
                if entry is not None:
                    entries.append(entry)
                if len(entries) >= most:
                    return entries
            if self._offset == before and not self._next_exists():
                break
        return entries

    def _lines(self, segment: SegmentFile) -> Iterator[bytes]:
        with open(segment.path, "rb", buffering=_CHUNK) as file:
            file.seek(self._offset)
            while (line := file.readline(MAX_LINE_BYTES + 1)) and line[-1:] == b"\n":
                self._offset += len(line)
                self._seq += 1
                yield line
        if len(line) > MAX_LINE_BYTES:
            raise UnreadableLine(f"{segment.path}: the line of record {self._seq + 1} is too long: verify the journal")

    def _enter(self) -> bool:
        """Chooses the segment to read on in; False while there is none."""
        if self._segment is not None and not self._next_exists():
            return True
        wanted = self._seq + 1 if self._segment is not None else self._first
        segments = [segment for segment in list_segments(self._state_dir) if segment.first <= wanted]
        found = segments[-1] if segments else next(iter(list_segments(self._state_dir)), None)
        if found is not None and found != self._segment:
            self._segment, self._seq, self._offset = found, found.first - 1, 0
        return found is not None

    def _next_exists(self) -> bool:
        """Whether the segment that begins with the next record is there."""
        assert self._segment is not None
        name = f"{self._seq + 1:020d}.jsonl"
        return self._offset > 0 and os.path.exists(os.path.join(os.path.dirname(self._segment.path), name))


def entries(state_dir: str, *, first: int = 1, sandbox: str = "") -> Iterator[Entry]:
    """The records there are, from number `first` on; only those of `sandbox` and its child Subjects if it is given."""
    tail = Tail(state_dir, first=first, sandbox=sandbox)
    while found := tail.poll():
        yield from found


def last_entries(state_dir: str, count: int, *, sandbox: str = "") -> list[Entry]:
    """The last `count` records, oldest first; only those of `sandbox` and its child Subjects if it is given."""
    found: list[Entry] = []
    for segment in reversed(list_segments(state_dir)):
        if len(found) >= count:
            break
        newest: deque[Entry] = deque(maxlen=count - len(found))
        for raw in _whole_lines(segment, count if not sandbox else None):
            entry = _entry(raw, segment, sandbox)
            if entry is not None:
                newest.append(entry)
        found = [*newest, *found]
    return found


def follow(
    state_dir: str, stop: Callable[[], bool], *, first: int = 1, sandbox: str = "", interval: float = 0.1
) -> Iterator[Entry]:
    """The records from `first` on, and those to come, until `stop()` is true; looks every `interval` seconds."""
    tail = Tail(state_dir, first=first, sandbox=sandbox)
    while not stop():
        found = tail.poll()
        yield from found
        if not found:
            sleep(interval)


def _entry(raw: bytes, segment: SegmentFile, sandbox: str) -> Entry | None:
    # Looking for the name in the bytes first spares parsing the records of others.
    if sandbox and sandbox.isascii() and sandbox.encode() not in raw:
        return None
    try:
        digest, body = split_line(raw)
        record = parse(body)
    except (ValueError, TypeError) as error:
        raise UnreadableLine(f"{segment.path}: {raw[:80]!r} is not a line of the journal: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("seq"), int):
        raise UnreadableLine(f"{segment.path}: {raw[:80]!r} has no record with a seq: verify the journal")
    if sandbox and not _belongs(str(record.get("sandbox", "")), sandbox):
        return None
    return Entry(record["seq"], digest.decode("ascii", "replace"), record, raw[:-1])


def _belongs(owner: str, sandbox: str) -> bool:
    """A child Subject's id is its sandbox's, a dot and a number."""
    return owner == sandbox or owner.startswith(f"{sandbox}.")


def _whole_lines(segment: SegmentFile, last: int | None) -> Iterator[bytes]:
    """The whole lines of a segment, or the last few of them."""
    with open(segment.path, "rb", buffering=_CHUNK) as file:
        if last is not None:
            file.seek(_offset_of_last(file.fileno(), last))
        while (line := file.readline(MAX_LINE_BYTES + 1)) and line[-1:] == b"\n":
            yield line


def _offset_of_last(descriptor: int, count: int) -> int:
    """Where the last `count` whole lines begin, reading backwards."""
    position = os.fstat(descriptor).st_size
    wanted = count + 1  # the newline before the first of them
    while position > 0:
        start = max(0, position - _CHUNK)
        chunk = os.pread(descriptor, position - start, start)
        newline = len(chunk)
        while (newline := chunk.rfind(b"\n", 0, newline)) >= 0:
            wanted -= 1
            if not wanted:
                return start + newline + 1
        position = start
    return 0
