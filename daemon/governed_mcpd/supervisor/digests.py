"""Size and digest of files, for operations that the profile calls durable: what was there before, and what after.

Reading takes time and may wait for ever (FUSE), so threads of their own do it, and the leader goes on. A thread that
waits is lost to the sandbox that made it wait, and to nobody else: each sandbox has few lanes, each user has a bounded
number, and what finds no lane until its deadline is refused.
"""

import errno
import logging
import os
import queue
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from blake3 import blake3

from governed_mcpd.kernel import calls
from governed_mcpd.subjects.sandbox import Sandbox, State
from governed_mcpd.supervisor.lanes import Timer, Worker

log = logging.getLogger(__name__)
_Key = TypeVar("_Key", int, str)
MOST_BYTES = 256 << 20
LANES = 2  # per sandbox
LANES_OF_USER = 16  # past half of them a sandbox gets one only
DEADLINE = 10.0  # seconds from asking to the answer
MOST_IDLE = 4  # threads that stay when there is nothing to do
States = dict[str, State]
Answer = Callable[[States | str], None]
_CHUNK = 1 << 20


class Unavailable(Exception):
    """The file cannot be digested. The text says why."""


def state_of(path: str) -> State | None:
    """(size in bytes, BLAKE3 digest in hex) of a regular file; None for anything else, or nothing. Unavailable."""
    try:
        # The name was canonical when it was judged. A symlink in it now would have this read another file, as root.
        seen = calls.openat2(-1, os.fsencode(path), os.O_PATH, calls.RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise Unavailable(f"{path} cannot be looked at: {error.strerror}") from error
    try:
        status = os.fstat(seen)
        if not stat.S_ISREG(status.st_mode):
            return None  # opening a device or a FIFO would have effects of its own
        descriptor = os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"{path} cannot be opened: {error.strerror}") from error
    finally:
        os.close(seen)
    try:
        if status.st_size > MOST_BYTES:
            raise Unavailable(f"{path} has {status.st_size} bytes: at most {MOST_BYTES} are digested")
        hasher, size = blake3(), 0
        while chunk := os.read(descriptor, _CHUNK):
            hasher.update(chunk)
            size += len(chunk)
            if size > MOST_BYTES:
                raise Unavailable(f"{path} grew past {MOST_BYTES} bytes while it was read")
        return size, hasher.hexdigest()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


@dataclass(slots=True, eq=False)
class _Job:
    """Files to digest: answered by whoever comes first, the lane or the deadline."""

    sandbox: str
    uid: int
    paths: Sequence[str]
    then: Answer
    timer: Timer | None = None
    begun: bool = False
    over: bool = False


class _Thread:
    """Digests what it is given, one job at a time; belongs to nobody in between."""

    def __init__(self, done: Callable[["_Thread", _Job, States | str], None]) -> None:
        self._done = done
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="digest", daemon=True).start()

    def give(self, job: _Job | None) -> None:
        """The next job; None ends the thread."""
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            found: States | str
            try:
                found = {path: state for path in job.paths if (state := state_of(path)) is not None}
            except Unavailable as failure:
                found = str(failure)
            except Exception as error:
                # A defect of ours is no digest, and must not cost the lane.
                log.exception("files could not be digested")
                found = f"no digest: {error}"
            self._done(self, job, found)


class Digests:
    """Belongs to the leader (`worker`), which asks and is answered; only the reading is done elsewhere."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: dict[int, deque[_Job]] = {}  # by user, without a lane so far
        self._of_user: Counter[int] = Counter()  # lanes in use
        self._of_sandbox: Counter[str] = Counter()
        self._idle: list[_Thread] = []

    def take(self, sandbox: Sandbox, paths: Sequence[str], then: Answer) -> None:
        """Has `then` called once on the leader: with the states of the regular files among the paths, or with what went
        wrong; at the deadline at the latest."""
        job = _Job(sandbox.id, sandbox.uid, paths, then)
        job.timer = self._worker.after(DEADLINE, lambda: self._expired(job))
        if self._has_lane(job):
            self._begin(job)
        else:
            self._waiting.setdefault(job.uid, deque()).append(job)

    def _has_lane(self, job: _Job) -> bool:
        own, of_user = self._of_sandbox[job.sandbox], self._of_user[job.uid]
        return of_user < LANES_OF_USER if own == 0 else own < LANES and of_user < LANES_OF_USER // 2

    def _begin(self, job: _Job) -> None:
        job.begun = True
        self._of_sandbox[job.sandbox] += 1
        self._of_user[job.uid] += 1
        thread = self._idle.pop() if self._idle else _Thread(self._done)
        thread.give(job)

    def _done(self, thread: _Thread, job: _Job, found: States | str) -> None:
        """Called by the thread."""
        self._worker.post(partial(self._came_back, thread, job, found))

    def _came_back(self, thread: _Thread, job: _Job, found: States | str) -> None:
        """Its lane is free again, perhaps long after the deadline."""
        _take_one(self._of_sandbox, job.sandbox)
        _take_one(self._of_user, job.uid)
        if len(self._idle) < MOST_IDLE:
            self._idle.append(thread)
        else:
            thread.give(None)
        self._begin_waiting(job.uid)
        self._answer(job, found)

    def _begin_waiting(self, uid: int) -> None:
        """Gives free lanes to whoever waits longest and may have one."""
        waiting = self._waiting.pop(uid, None)
        if waiting is None:
            return
        left: deque[_Job] = deque()
        for job in waiting:
            if self._has_lane(job):
                self._begin(job)
            else:
                left.append(job)
        if left:
            self._waiting[uid] = left

    def _expired(self, job: _Job) -> None:
        if job.begun:
            why = "reading its files takes longer: a file system does not answer"
        else:
            why = "every lane for this sandbox or its user waits for files that do not answer"
            waiting = self._waiting[job.uid]
            waiting.remove(job)
            if not waiting:
                del self._waiting[job.uid]
        self._answer(job, f"no digest within {DEADLINE:.0f} s: {why}")

    def _answer(self, job: _Job, found: States | str) -> None:
        if job.over:
            return
        job.over = True
        if job.timer is not None:
            job.timer.cancel()
        job.then(found)


def _take_one(counts: Counter[_Key], key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
