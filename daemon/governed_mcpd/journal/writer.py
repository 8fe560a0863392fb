"""Chain and segments of a journal that is being written. Not thread-safe: Journal holds its lock around it."""

import logging
from collections.abc import Mapping
from time import time_ns

from governed_mcpd.journal.canonical import CanonicalError, canonical
from governed_mcpd.journal.chain import MAX_RECORD_BYTES, link, make_line
from governed_mcpd.journal.errors import RecordRefused
from governed_mcpd.journal.opening import Found
from governed_mcpd.journal.records import KINDS, Prepared
from governed_mcpd.journal.segment import OpenSegment

_log = logging.getLogger(__name__)
# A segment, its size, and the number of lines in its tail, when a sync began.
Mark = tuple[OpenSegment, int, int]


class Writer:
    """`length` records are written, the last with hash `head`; `durable` are on disk, `behind` bytes are not.

    subjects/covered.c does `append_prepared` as well: what it reads and writes here is `length`, `head`, `behind`,
    `segments`, `segment_bytes`.
    """

    def __init__(self, state_dir: str, found: Found, segment_bytes: int) -> None:
        """Goes on where `found` says; OSError as it comes."""
        self.length, self.head, self.durable, self.behind = found.length, found.head, found.length, 0
        self._state_dir = state_dir
        self.segment_bytes = segment_bytes
        if found.segment is None:
            self.segments = [OpenSegment(state_dir, found.length + 1)]
        else:
            self.segments = [OpenSegment(state_dir, found.segment.first, size=found.size)]

    def append(self, record: Mapping[str, object]) -> int:
        """Writes one record, with `seq` and `time_us`, and returns the bytes it took.

        RecordRefused when it cannot be written as it is. After an OSError call `cut`.
        """
        if record.get("kind") not in KINDS or "seq" in record or "time_us" in record:
            raise RecordRefused(
                f"a record with kind {record.get('kind')!r} and the fields {sorted(record)[:20]}: expected a kind that "
                "journal/records.py lists, and neither seq nor time_us, which the journal adds"
            )
        seq = self.length + 1
        try:
            body = canonical({**record, "seq": seq, "time_us": time_ns() // 1000})
        except CanonicalError as error:
            raise RecordRefused(f"a record of kind {record['kind']}: {error}") from None
        if len(body) > MAX_RECORD_BYTES:
            raise RecordRefused(
                f"a record of kind {record['kind']} has {len(body)} bytes: at most {MAX_RECORD_BYTES} fit. "
                "Record a digest and a shortened rendering instead"
            )
        return self._write(seq, body)

    def append_prepared(self, record: Prepared, pause_us: int) -> int:
        """Like `append`, for what was prepared."""
        seq = self.length + 1
        body = record.body(pause_us, seq, time_ns() // 1000)
        if len(body) > MAX_RECORD_BYTES:
            raise RecordRefused(f"a prepared record has {len(body)} bytes: at most {MAX_RECORD_BYTES} fit")
        return self._write(seq, body)

    def _write(self, seq: int, body: bytes) -> int:
        digest = link(self.head, body)
        line = make_line(digest, body)
        segment = self.segments[-1]
        if segment.size + len(line) > self.segment_bytes and segment.size:
            segment = OpenSegment(self._state_dir, seq)
            self.segments.append(segment)
        segment.write(line)
        self.head = digest
        self.length = seq
        self.behind += len(line)
        return len(line)

    def cut(self) -> None:
        """Removes what a failed append left after the last good line."""
        try:
            self.segments[-1].cut()
        except OSError:
            _log.warning("part of a record stays at the end of the journal until it can be written again")

    def marks(self) -> list[Mark]:
        """What a sync that begins now will cover."""
        return [(segment, segment.size, len(segment.tail)) for segment in self.segments]

    def covered(self, marks: list[Mark], length: int) -> None:
        """A sync of what `marks` said, when there were `length` records, succeeded."""
        for segment, size, lines in marks:
            self.behind -= size - segment.durable
            segment.covered(size, lines)
        done = [segment for segment in self.segments[:-1] if segment.durable == segment.size]
        self.segments = [segment for segment in self.segments if segment not in done]
        for segment in done:
            segment.close()
        self.durable = length

    def rewrite(self) -> None:
        """Writes again what no sync covered, and syncs it; OSError as it comes. The caller then says `covered`."""
        for segment in self.segments:
            segment.rewrite()
            segment.sync()

    def close(self) -> None:
        """Closes the files."""
        for segment in self.segments:
            segment.close()


def sync(marks: list[Mark]) -> None:
    """Makes durable what `marks` said; OSError as it comes. Needs no lock: records may be appended meanwhile."""
    for segment, size, _ in marks:
        if segment.durable < size:
            segment.sync()
