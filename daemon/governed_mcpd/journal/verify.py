"""Verifies a journal without its writer: every hash, every sequence number, every checkpoint. It streams.

What that proves: no record was changed, removed, added or moved since it was written, up to the last checkpoint whose
signature fits the key; what follows it is consistent in itself. Someone with root can replace journal, checkpoints
and key together: against that, give the public key and the checkpoints that were shipped off the machine.
"""

import heapq
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from governed_mcpd.journal.chain import FIRST_SEQ, GENESIS
from governed_mcpd.journal.checkpoint import MAX_CHECKPOINT_BYTES, CheckpointError, parse_checkpoint, read_checkpoints
from governed_mcpd.journal.errors import ChainBroken, JournalKeyError
from governed_mcpd.journal.keys import load_public_key
from governed_mcpd.journal.layout import CHECKPOINTS, PUBLIC_KEY, journal_directory, list_segments
from governed_mcpd.journal.walk import ChainWalk


@dataclass(frozen=True, slots=True)
class Problem:
    """The first thing that is wrong. `line` counts from 1 (0: the file as a whole); `seq` is the record it concerns."""

    file: str
    line: int
    seq: int
    what: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found, up to the first problem.

    `records` are proved records and `head` the hash of the last (hex); `checkpoints` is how many fit, `proved` the
    length that the last of them states. `torn` bytes of a last line that is not finished are no problem: a writer may
    be at work, or opening will remove them.
    """

    records: int
    segments: int
    bytes: int
    head: str
    checkpoints: int
    proved: int
    torn: int
    problem: Problem | None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem is None


def verify(state_dir: str, *, public_key: str = "", checkpoint_files: Iterable[str] = ()) -> Verification:
    """Verifies the journal in `state_dir`; other trees of the same shape will do.

    `public_key` is a PEM file from elsewhere, instead of the one beside the journal. `checkpoint_files` are further
    files with checkpoints, for instance taken from a copy of the systemd journal.
    """
    return _Verifier(state_dir, public_key or os.path.join(state_dir, PUBLIC_KEY), list(checkpoint_files)).run()


@dataclass(frozen=True, slots=True, order=True)
class _Claim:
    """A checkpoint and where it stands."""

    length: int
    file: str
    line: int
    head: str


class _Verifier:
    def __init__(self, state_dir: str, public_key: str, checkpoint_files: list[str]) -> None:
        self._state_dir = state_dir
        self._public_key = public_key
        # Taken before the segments are read: a checkpoint that a writer adds meanwhile speaks of records not read here.
        own = os.path.join(state_dir, CHECKPOINTS)
        self._sources = [(own, _size(own)), *((path, _size(path)) for path in checkpoint_files)]
        self._missing = next((path for path in checkpoint_files if not os.path.exists(path)), None)
        self._segments = list_segments(state_dir)
        self._walk = ChainWalk(self._segments, GENESIS)
        self._fitting = 0
        self._proved = 0

    def run(self) -> Verification:
        try:
            problem = self._first_problem()
        except ChainBroken as error:
            problem = Problem(error.file, error.line, error.seq, error.what)
        except JournalKeyError as error:
            problem = Problem(self._public_key, 0, 0, str(error))
        except OSError as error:
            problem = Problem(str(error.filename or self._state_dir), 0, self._walk.seq, str(error.strerror))
        walk = self._walk
        head = walk.head.hex()
        return Verification(
            walk.seq, len(self._segments), walk.bytes, head, self._fitting, self._proved, walk.torn, problem
        )

    def _first_problem(self) -> Problem | None:
        if self._missing:
            return Problem(self._missing, 0, 0, "there is no such checkpoint file")
        if self._segments and self._segments[0].first != FIRST_SEQ:
            first = self._segments[0]
            missing = f"begins with record {first.first}: the segments before it are missing"
            return Problem(first.path, 0, first.first, missing)
        claims = self._claims()
        claim = next(claims, None)
        while claim is not None and claim.length == 0:
            claim = next(claims, None)
        for seq in self._walk:
            while claim is not None and claim.length == seq:
                if claim.head != self._walk.head.hex():
                    contradicted = f"a checkpoint states another hash for record {seq} than {self._where()} has"
                    return Problem(claim.file, claim.line, seq, contradicted)
                self._fitting, self._proved = self._fitting + 1, seq
                claim = next(claims, None)
        if claim is not None:
            for claim in claims:  # noqa: B007 (the last is the longest: it says how much is missing at least)
                pass
            cut = f"a checkpoint proves {claim.length} records, but the journal has {self._walk.seq}: it was cut"
            return Problem(claim.file, claim.line, self._walk.seq + 1, cut)
        if not self._segments and not os.path.isdir(journal_directory(self._state_dir)):
            missing = "there is no journal here: expected a state directory of governed-mcpd"
            return Problem(journal_directory(self._state_dir), 0, 0, missing)
        return None

    def _where(self) -> str:
        return f"{self._walk.path}:{self._walk.line}"

    def _claims(self) -> Iterator[_Claim]:
        """Every checkpoint, checked, in the order of length."""
        return heapq.merge(*(self._claims_of(path, size) for path, size in self._sources))

    def _claims_of(self, path: str, size: int) -> Iterator[_Claim]:
        key = None
        before = 0
        for number, line in read_checkpoints(path, size):
            if line[-1:] != b"\n" and len(line) <= MAX_CHECKPOINT_BYTES:
                if path == self._sources[0][0]:
                    return  # torn, as the last line of the journal may be
                line += b"\n"  # noqa: PLW2901 (someone's copy, whose end a tool trimmed)
            key = key or load_public_key(self._public_key)
            try:
                checkpoint = parse_checkpoint(line)
            except CheckpointError as error:
                raise ChainBroken(path, number, 0, str(error)) from None
            if not checkpoint.signed_by(key):
                raise ChainBroken(path, number, checkpoint.length, f"the signature is not by {self._public_key}")
            if checkpoint.length < before:
                order = f"a checkpoint of {checkpoint.length} records after one of {before}: they only grow"
                raise ChainBroken(path, number, checkpoint.length, order)
            before = checkpoint.length
            yield _Claim(checkpoint.length, path, number, checkpoint.head)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
