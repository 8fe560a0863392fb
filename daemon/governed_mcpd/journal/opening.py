"""What is looked at before a journal is written again: the lock, the last segments, the last checkpoint."""

import fcntl
import os
from dataclasses import dataclass

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from governed_mcpd.journal.chain import FIRST_SEQ, GENESIS
from governed_mcpd.journal.checkpoint import Checkpoint, CheckpointError, CheckpointFile, parse_checkpoint
from governed_mcpd.journal.errors import ChainBroken, JournalBusy, JournalTampered
from governed_mcpd.journal.layout import (
    LOCK,
    SegmentFile,
    journal_directory,
    list_segments,
    open_private,
    sync_directory,
)
from governed_mcpd.journal.walk import ChainWalk, last_hash


@dataclass(frozen=True, slots=True)
class Found:
    """How a journal was left: its length and head, its last segment (None: there is none) and where its good part ends.

    `torn` bytes, with BLAKE3 digest `torn_digest`, follow there: a line that a crash cut short.
    """

    length: int
    head: bytes
    segment: SegmentFile | None
    size: int
    torn: int
    torn_digest: str


def lock_journal(state_dir: str) -> int:
    """The descriptor that holds the writer's lock until it is closed; JournalBusy when another process has it."""
    path = os.path.join(journal_directory(state_dir), LOCK)
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise JournalBusy(
            f"{path}: the process {holder} writes this journal; a journal has one writer. Stop it, or use "
            "another state directory"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def examine(state_dir: str, checkpoints: CheckpointFile, key: Ed25519PublicKey) -> Found:
    """Proves the last segment, and the earlier ones since the last checkpoint; JournalTampered when anything is wrong.

    The rest is proved by verify: at start it would take too long.
    """
    checkpoint = _last_checkpoint(checkpoints, key)
    segments = list_segments(state_dir)
    length = checkpoint.length if checkpoint else 0
    if not segments:
        if length:
            raise JournalTampered(
                journal_directory(state_dir), 0, f"there are no records, but a checkpoint proves {length}"
            )
        return Found(0, GENESIS, None, 0, 0, "")
    if segments[0].first != FIRST_SEQ:
        missing = f"the first segment begins with record {segments[0].first}: earlier segments are missing"
        raise JournalTampered(segments[0].path, 0, missing)
    start = max((index for index, one in enumerate(segments) if one.first <= max(length, FIRST_SEQ)), default=0)
    try:
        return _walk(segments[start:], _hash_before(segments, start), checkpoint, checkpoints.path)
    except ChainBroken as error:
        raise JournalTampered(error.file, error.line, error.what) from None


def _last_checkpoint(file: CheckpointFile, key: Ed25519PublicKey) -> Checkpoint | None:
    if file.last is None:
        return None
    number, line = file.last
    try:
        checkpoint = parse_checkpoint(line)
    except CheckpointError as error:
        raise JournalTampered(file.path, number, str(error)) from None
    if not checkpoint.signed_by(key):
        raise JournalTampered(file.path, number, "the signature is not by journal.key")
    return checkpoint


def _hash_before(segments: list[SegmentFile], start: int) -> bytes:
    return last_hash(segments[start - 1], segments[start].first - 1) if start else GENESIS


def _walk(segments: list[SegmentFile], previous: bytes, checkpoint: Checkpoint | None, proof: str) -> Found:
    walk = ChainWalk(segments, previous)
    length = checkpoint.length if checkpoint else 0
    last = segments[-1]
    for seq in walk:
        if checkpoint and seq == length and walk.head.hex() != checkpoint.head:
            raise ChainBroken(walk.path, walk.line, seq, f"record {seq} has not the hash that {proof} proves")
    if walk.seq < length:
        cut = f"the journal ends after record {walk.seq}, but {proof} proves {length} records: it was cut"
        raise ChainBroken(last.path, walk.line, walk.seq, cut)
    _make_durable(segments)
    digest = _digest_of_rest(last.path, walk.end) if walk.torn else ""
    return Found(walk.seq, walk.head, last, walk.end, walk.torn, digest)


def _make_durable(segments: list[SegmentFile]) -> None:
    """A writer that was killed may have left lines in the page cache, and the next checkpoint will speak of them."""
    for segment in segments:
        descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(os.path.dirname(segments[0].path))


def _digest_of_rest(path: str, offset: int) -> str:
    hasher = blake3()
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()
