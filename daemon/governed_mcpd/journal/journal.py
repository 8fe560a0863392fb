"""The one writer of a journal.

append() puts a record into the page cache and returns; a thread makes records durable in groups, signs checkpoints, and
tries again when the disk failed. Any failure to write or sync puts the journal into the failed state, in which append
raises JournalFailed: the daemon then approves nothing.
"""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Condition, Event, Lock, Thread
from time import monotonic, time_ns
from typing import Final

from blake3 import blake3

from governed_mcpd.journal.chain import DOMAIN
from governed_mcpd.journal.checkpoint import Checkpoint, CheckpointFile, sign_checkpoint
from governed_mcpd.journal.errors import JournalFailed
from governed_mcpd.journal.keys import key_id, load_or_make_key
from governed_mcpd.journal.layout import make_directories
from governed_mcpd.journal.opening import Found, examine, lock_journal
from governed_mcpd.journal.records import Prepared
from governed_mcpd.journal.writer import Mark, Writer, sync

FORMAT: Final = 1
_log = logging.getLogger(__name__)
Durable = Callable[[JournalFailed | None], None]


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """Bounds and periods. Opening reads the last segment again: `segment_bytes` bounds how long a start takes."""

    segment_bytes: int = 32 << 20
    checkpoint_records: int = 4096
    checkpoint_seconds: float = 60.0
    sync_seconds: float = 1.0
    sync_bytes: int = 4 << 20
    # Lines that no sync has covered stay in memory; a disk that is further behind than this counts as failing.
    behind_bytes: int = 64 << 20
    retry_seconds: float = 0.2


@dataclass(slots=True)
class _Failure:
    """Why nothing is written. After a failed sync, syncing again proves nothing: see OpenSegment."""

    reason: str
    of_sync: bool
    since_us: int
    retry_at: float
    refused: int = 0


class Journal:
    """Thread-safe. `_lock` guards all state and is never held across a sync; `_sync_lock` allows one sync at a time."""

    def __init__(
        self,
        state_dir: str,
        *,
        settings: JournalSettings | None = None,
        mirror: Callable[[Checkpoint], None] | None = None,
    ) -> None:
        """Takes up or makes the journal in `state_dir`, records that, and makes all of it durable.

        Raises JournalBusy (another writer), JournalTampered, JournalKeyError, JournalFailed or OSError.
        """
        self._settings = settings or JournalSettings()
        self._mirror = mirror
        self._lock = Lock()
        self._wake = Condition(self._lock)
        self._sync_lock = Lock()
        self._waiting: list[tuple[int, Durable]] = []
        self._idle = False
        self._closing = False
        self._failure: _Failure | None = None
        self._checkpoint_length = 0
        self._checkpoint_time = monotonic()
        make_directories(state_dir)
        with ExitStack() as undo:
            self._writer_lock = lock_journal(state_dir)
            undo.callback(os.close, self._writer_lock)
            self._key = load_or_make_key(state_dir)
            self._checkpoints = CheckpointFile(state_dir)
            undo.callback(self._checkpoints.close)
            found = examine(state_dir, self._checkpoints, self._key.public_key())
            self._writer = Writer(state_dir, found, self._settings.segment_bytes)
            undo.callback(self._writer.close)
            self._record_opening(found)
            undo.pop_all()
        self._thread = Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    def _record_opening(self, found: Found) -> None:
        # The record goes over the torn bytes, and only then is the rest of them removed: killed in between, the next
        # opening finds something torn again. They never vanish without a record.
        if found.torn and found.segment:
            self._append({**_truncated(found.segment.path, found.torn), "digest": found.torn_digest})
            self._writer.cut()
        if torn := self._checkpoints.torn:
            self._append(_truncated(self._checkpoints.path, len(torn)))
            self._checkpoints.cut()
        opening = {"kind": "journal.open", "format": FORMAT, "key": key_id(self._key.public_key()), "pid": os.getpid()}
        self._append({**opening, "boot": _boot_id()})
        self._commit()
        if self._failure is not None:
            raise self._failed()

    @property
    def length(self) -> int:
        """The number of records, which is the sequence number of the last."""
        return self._writer.length

    @property
    def durable(self) -> int:
        """How many records are on disk."""
        return self._writer.durable

    @property
    def head(self) -> str:
        """The hash of the last record, in hex."""
        return self._writer.head.hex()

    @property
    def failure(self) -> str | None:
        """Why the journal cannot be written now; None while it can."""
        failure = self._failure
        return None if failure is None else failure.reason

    def append(self, record: Mapping[str, object]) -> int:
        """Adds `seq` and `time_us`, writes the record to the page cache, returns its sequence number.

        RecordRefused when the record cannot be written as it is; JournalFailed when nothing can.
        """
        return self.append_sized(record)[0]

    def append_sized(self, record: Mapping[str, object]) -> tuple[int, int]:
        """append, and how many bytes of the disk that took (for Budget.spend)."""
        with self._lock:
            self._expect_writable()
            size = self._appended(self._writer.append, record)
            return self._writer.length, size

    def append_prepared(self, record: Prepared, pause_us: int) -> tuple[int, int]:
        """append_sized, for what was prepared."""
        with self._lock:
            self._expect_writable()
            size = self._appended(self._writer.append_prepared, record, pause_us)
            return self._writer.length, size

    def direct(self) -> tuple["Journal", Writer, Lock, int, Callable[[bytes], object], bytes]:
        """For subjects/covered.c, which does `append_prepared` by itself: under the lock and without waiting for it,
        while nothing is wrong, nobody has to be told, and fewer than that many bytes wait for a sync."""
        return self, self._writer, self._lock, self._settings.sync_bytes, blake3, DOMAIN

    def when_durable(self, seq: int, callback: Durable) -> None:
        """Calls `callback(None)` from the journal's thread once record `seq` is on disk, or with why it is not.

        Callbacks must not block. After a failed sync the record may still reach the disk later.
        """
        with self._lock:
            if not 0 < seq <= self._writer.length:
                raise ValueError(f"record {seq} cannot become durable: the journal has {self._writer.length} records")
            if self._closing:
                raise JournalFailed("the journal is closed")
            self._waiting.append((seq, callback))
            self._wake.notify()

    def wait_durable(self, seq: int, timeout: float | None = None) -> None:
        """Returns once record `seq` is on disk; JournalFailed when it is not, or not within `timeout` seconds."""
        done = Event()
        outcome: list[JournalFailed | None] = []

        def settle(error: JournalFailed | None) -> None:
            outcome.append(error)
            done.set()

        self.when_durable(seq, settle)
        if not done.wait(timeout):
            raise JournalFailed(f"record {seq} was not on disk after {timeout} s")
        if outcome[0] is not None:
            raise outcome[0]

    def try_recover(self) -> bool:
        """Tries at once to write again (the journal's thread does so by itself, every retry_seconds)."""
        with self._sync_lock:
            return self._recover()

    def close(self) -> None:
        """Syncs, signs a last checkpoint, lets go of the lock; not from a callback.

        JournalFailed when not everything reached the disk.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._writer.close()
        self._checkpoints.close()
        os.close(self._writer_lock)
        missing = self._writer.length - self._writer.durable
        if missing:
            raise JournalFailed(f"{missing} records may not be on disk: {self.failure}")

    # ---- the caller holds _lock

    def _expect_writable(self) -> None:
        if self._failure is not None:
            self._failure.refused += 1
            raise self._failed()
        if self._closing:
            raise JournalFailed("the journal is closed")
        if self._writer.behind > self._settings.behind_bytes:
            raise JournalFailed(f"the disk is {self._writer.behind >> 20} MiB behind the journal; it is waited for")

    def _append(self, record: Mapping[str, object]) -> int:
        return self._appended(self._writer.append, record)

    def _appended(self, append: Callable[..., int], *what: object) -> int:
        try:
            size = append(*what)
        except OSError as error:
            self._fail(f"writing record {self._writer.length + 1}: {error.strerror}", of_sync=False)
            self._writer.cut()
            raise self._failed() from None
        if self._idle or self._writer.behind > self._settings.sync_bytes:
            self._wake.notify()
        return size

    def _fail(self, reason: str, *, of_sync: bool) -> None:
        retry_at = monotonic() + self._settings.retry_seconds
        if self._failure is None:
            self._failure = _Failure(reason, of_sync, time_ns() // 1000, retry_at)
        else:
            self._failure.reason, self._failure.retry_at = reason, retry_at
            self._failure.of_sync = self._failure.of_sync or of_sync
        self._wake.notify()

    def _failed(self) -> JournalFailed:
        return JournalFailed(f"the journal cannot be written: {self.failure}; it is tried again by itself")

    # ---- the journal's thread

    def _run(self) -> None:
        while True:
            with self._lock:
                closing = self._wait_for_work()
                failure = self._failure
            if failure is not None and (closing or monotonic() >= failure.retry_at):
                self.try_recover()
            self._commit()
            if closing:
                return

    def _wait_for_work(self) -> bool:
        """Waits until something is due; returns whether this is the last round."""
        sync_at: float | None = None
        while not self._closing and not self._waiting:
            now = monotonic()
            if self._writer.behind and sync_at is None:
                sync_at = now + self._settings.sync_seconds
            due = self._due(sync_at)
            if due is not None and now >= due:
                break
            # A record that comes while nothing but a checkpoint is due has to be on disk within sync_seconds as well.
            self._idle = sync_at is None and self._failure is None
            self._wake.wait(None if due is None else due - now)
            self._idle = False
        return self._closing

    def _due(self, sync_at: float | None) -> float | None:
        if self._failure is not None:
            return self._failure.retry_at
        if self._writer.behind > self._settings.sync_bytes:
            return 0.0
        if sync_at is None and self._writer.length > self._checkpoint_length:
            return self._checkpoint_time + self._settings.checkpoint_seconds
        return sync_at

    def _commit(self) -> None:
        """Syncs what there is, signs a checkpoint when one is due, and tells those who wait."""
        with self._sync_lock:
            with self._lock:
                length, head, marks = self._writer.length, self._writer.head, self._writer.marks()
                failed = self._failure is not None and self._failure.of_sync
                error = self._failed() if failed else None
            if not failed:
                error = self._sync(marks, length)
            with self._lock:
                told = [callback for seq, callback in self._waiting if error or seq <= length]
                self._waiting = [] if error else [item for item in self._waiting if item[0] > length]
            if error is None:
                self._checkpoint(length, head)
        for callback in told:
            try:
                callback(error)
            except Exception:
                _log.exception("a callback of when_durable raised")

    def _sync(self, marks: list[Mark], length: int) -> JournalFailed | None:
        try:
            sync(marks)
        except OSError as error:
            with self._lock:
                self._fail(f"syncing records up to {length}: {error.strerror}", of_sync=True)
                return self._failed()
        with self._lock:
            self._writer.covered(marks, length)
        return None

    def _checkpoint(self, length: int, head: bytes) -> None:
        """Signs what is durable when a checkpoint is due; the caller holds _sync_lock."""
        settings, new = self._settings, length - self._checkpoint_length
        old = monotonic() - self._checkpoint_time >= settings.checkpoint_seconds
        first_or_last = not self._checkpoint_length or self._closing
        if not new or not (old or first_or_last or new >= settings.checkpoint_records):
            return
        checkpoint = sign_checkpoint(self._key, length, head.hex(), time_ns() // 1000)
        try:
            self._checkpoints.append(checkpoint)
        except OSError as error:
            with self._lock:
                self._fail(f"writing a checkpoint to {self._checkpoints.path}: {error.strerror}", of_sync=False)
            return
        self._checkpoint_length, self._checkpoint_time = length, monotonic()
        if self._mirror is not None:
            try:
                self._mirror(checkpoint)
            except Exception:
                _log.exception("the checkpoint of %d records could not be mirrored", length)

    def _recover(self) -> bool:
        """Leaves the failed state when what no sync covered could be written and synced again; under _sync_lock."""
        if self._failure is None:
            return True
        # Nothing is appended meanwhile: append raises, and at once, because _lock is free.
        try:
            self._checkpoints.cut()
            self._writer.rewrite()
        except OSError as error:
            with self._lock:
                self._fail(f"writing again what was not durable: {error.strerror}", of_sync=False)
            return False
        with self._lock:
            self._writer.covered(self._writer.marks(), self._writer.length)
            failure = self._failure
            recovered = {"reason": failure.reason, "refused": failure.refused, "since_us": failure.since_us}
            try:
                self._append({"kind": "journal.recovered", **recovered})
            except JournalFailed:
                return False
            self._failure = None
        return True


def _truncated(path: str, size: int) -> dict[str, object]:
    return {"kind": "journal.truncated", "file": os.path.basename(path), "bytes": size}


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
