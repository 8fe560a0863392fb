"""Reads segments from one end to the other and checks that every line follows from the one before. It streams."""

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from governed_mcpd.journal.canonical import CanonicalError, canonical, parse
from governed_mcpd.journal.chain import MAX_LINE_BYTES, link, split_line
from governed_mcpd.journal.errors import ChainBroken
from governed_mcpd.journal.layout import SegmentFile

_BUFFER: Final = 1 << 20


class ChainWalk:
    """Yields the sequence number of each line once it has proved right; ChainBroken names the first wrong one.

    After each step `seq` and `head` (the hash of that line) say how far the chain is proved, `path`, `line` and `end`
    where that is: the file, the line (1 is the first), and the offset after its newline. When the iteration has ended,
    `torn` is the number of bytes that follow there without a newline: only the last segment may have any.
    """

    def __init__(self, segments: Sequence[SegmentFile], previous: bytes) -> None:
        self._segments = segments
        self.seq = segments[0].first - 1 if segments else 0
        self.head = previous
        self.path = segments[0].path if segments else ""
        self.line = 0
        self.end = 0
        self.torn = 0
        self.bytes = 0
        self.record: dict[str, object] = {}
        self._stopped_short = False

    def __iter__(self) -> Iterator[int]:
        last = len(self._segments) - 1
        for index, segment in enumerate(self._segments):
            if segment.first != self.seq + 1:
                gap = f"the segment begins with record {segment.first}, but record {self.seq + 1} has to come next"
                raise ChainBroken(segment.path, 0, self.seq + 1, gap)
            self.path, self.end, self.line = segment.path, 0, 0
            with open(segment.path, "rb", buffering=_BUFFER) as file:
                yield from self._lines(file)
                self.torn = os.fstat(file.fileno()).st_size - self.end if self._stopped_short else 0
            if self.torn and index < last:
                raise self._broken("the line has no newline, and a later segment follows")

    def _lines(self, file: BinaryIO) -> Iterator[int]:
        self._stopped_short = False
        while line := file.readline(MAX_LINE_BYTES + 1):
            if line[-1:] != b"\n":
                if len(line) > MAX_LINE_BYTES and _newline_follows(file):
                    raise self._broken(f"the line is longer than {MAX_LINE_BYTES} bytes")
                self._stopped_short = True
                return
            self._check(line)
            yield self.seq

    def _check(self, line: bytes) -> None:
        try:
            written, body = split_line(line)
        except ValueError as error:
            raise self._broken(f"not a line of the journal: {error}") from None
        digest = link(self.head, body)
        if digest.hex().encode() != written:
            raise self._broken("the hash does not follow from this record and the line before: one of them was changed")
        try:
            record = parse(body)
            same = canonical(record) == body
        except CanonicalError as error:
            raise self._broken(f"the hash fits, but the record is not canonical JSON: {error}") from None
        if not same or not isinstance(record, dict):
            raise self._broken("the hash fits, but the record is not a JSON object in canonical form")
        if record.get("seq") != self.seq + 1:
            raise self._broken(f"the record says seq {record.get('seq')!r}: expected {self.seq + 1}")
        self.record = record
        self.head = digest
        self.seq += 1
        self.line += 1
        self.end += len(line)
        self.bytes += len(line)

    def _broken(self, what: str) -> ChainBroken:
        return ChainBroken(self.path, self.line + 1, self.seq + 1, what)


def _newline_follows(file: BinaryIO) -> bool:
    while chunk := file.read(_BUFFER):
        if b"\n" in chunk:
            return True
    return False


def last_hash(segment: SegmentFile, seq: int) -> bytes:
    """The hash on the last line of a finished segment, whose record has to be number `seq`; ChainBroken otherwise.

    The line itself is not proved: whoever goes on from it proves that the next line follows from this hash.
    """
    with open(segment.path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        start = max(0, size - MAX_LINE_BYTES - 1)
        file.seek(start)
        tail = b""
        while chunk := file.read(_BUFFER):
            tail += chunk
    line = tail[tail.rfind(b"\n", 0, len(tail) - 1) + 1 :]
    try:
        written, body = split_line(line)
        record = parse(body)
        digest = bytes.fromhex(written.decode("ascii"))
    except (ValueError, CanonicalError) as error:
        raise ChainBroken(segment.path, 0, seq, f"its last line is not a line of the journal: {error}") from None
    if not isinstance(record, dict) or record.get("seq") != seq:
        raise ChainBroken(
            segment.path, 0, seq, f"its last record has to be number {seq}, the one before the next segment"
        )
    return digest
