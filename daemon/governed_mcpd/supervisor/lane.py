"""One look at a held call, and the threads that look for one slow sandbox."""

import queue
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from governed_mcpd.kernel.notify import Held
from governed_mcpd.pause.observation import Observation
from governed_mcpd.pause.observe import Observer
from governed_mcpd.subjects.sandbox import Sandbox

LANE_THREADS = 2  # per sandbox
LANE_THREADS_OF_USER = 64  # past half of them a sandbox gets one only


@dataclass(slots=True)
class Job:
    """One look. When it is the leader's no longer, whoever comes first answers it: the look or the deadline."""

    sandbox: Sandbox
    held: Held
    started: int  # perf_counter_ns
    thread: int = 0  # native id of the leader that looks
    over: bool = False
    noted: bool = True  # whether the next daemon would know of it (Listener.note)


class Posting(Protocol):
    """The loop, as a lane knows it."""

    lane_threads: Counter[int]

    def post(self, call: Callable[[], None]) -> None:
        """Has `call` run on the leader."""

    def looked(self, job: Job, observation: Observation) -> None:
        """A look is over. On the leader only."""


class Lane:
    """The threads that look for one slow sandbox."""

    def __init__(self, worker: Posting, observer: Callable[[], Observer], uid: int) -> None:
        self._worker = worker
        self._observer = observer
        self._uid = uid
        self._at_work: set[int] = set()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = 0

    def put(self, job: Job) -> None:
        self._jobs.put(job)
        most = LANE_THREADS_OF_USER if self._threads == 0 else LANE_THREADS_OF_USER // 2
        if self._threads < LANE_THREADS and self._worker.lane_threads[self._uid] < most:
            self._threads += 1
            self._worker.lane_threads[self._uid] += 1
            threading.Thread(target=self._run, name="lane", daemon=True).start()

    def close(self) -> None:
        for _ in range(self._threads):
            self._jobs.put(None)

    def _run(self) -> None:
        observer = self._observer()
        while (job := self._jobs.get()) is not None:
            if job.over or job.sandbox.place is None:
                continue
            self._at_work.add(threading.get_ident())
            observation = observer.observe(job.held, job.sandbox.place_of(job.held.tid), job.sandbox)
            self._at_work.discard(threading.get_ident())
            self._worker.post(partial(self._worker.looked, job, observation))
        self._worker.post(self._left)

    @property
    def busy(self) -> bool:
        """Whether a thread of it looks, or waits."""
        return bool(self._at_work)

    def _left(self) -> None:
        self._worker.lane_threads[self._uid] -= 1
