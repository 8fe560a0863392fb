"""One epoll loop for all listeners, which nothing that a sandbox does can hold up.

Looking at a held call can wait for ever: memory and paths may lie on a file system that never answers (FUSE). So the
thread that leads the loop looks by itself, which costs no hand-over; but when it has not come back after a moment, the
watch makes another thread the leader and leaves the first one waiting. What it finds later is handed to the new leader,
or comes too late and was refused. A sandbox that has done this goes to a lane of its own for a while, with few
threads.

Everything except looking happens on the leader: sandboxes, verdicts and records need no locks.
"""

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

from governed_mcpd.kernel import procfs
from governed_mcpd.kernel.notify import Held
from governed_mcpd.pause.observation import Observation, Unreadable, let_go_of
from governed_mcpd.pause.observe import Observer
from governed_mcpd.subjects.sandbox import Sandbox
from governed_mcpd.supervisor.lane import Job, Lane
from governed_mcpd.supervisor.near import Near

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE = 0.2  # seconds that all may wait for one sandbox, once
SLOW_SECONDS = 30.0  # how long a sandbox that made others wait stays in its own lane
DEADLINE = 10.0  # seconds for one look
LEADERS_OF_USER = 16  # with so many left waiting, all sandboxes of a user go to lanes of their own
LEADER_NICE = -10
_TICK = 0.02
_IN, _HUP = select.EPOLLIN, select.EPOLLHUP | select.EPOLLERR


class Listening(Protocol):
    """Who is told what the loop sees. Called on the leader only."""

    def observed(self, sandbox: Sandbox, held: Held, observation: Observation, started: int) -> None:
        """A held call was looked at; `started` is perf_counter_ns at its arrival."""

    def emptied(self, sandbox: Sandbox) -> None:
        """No process is under the sandbox's filter any more."""

    def gone(self, sandbox: Sandbox, sequence: int) -> None:
        """The thread of a call that was let go on with the record `sequence` did not wait any more."""

    def exited(self, sandbox: Sandbox) -> None:
        """The sandbox's command has exited."""


class Timer:
    """Something to be called later, unless cancelled."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Worker:
    """The loop, its watch, and the lanes. `listening` is set before `start`."""

    listening: Listening

    def __init__(self, names: Mapping[int, str], *, sealed: bool = False) -> None:
        """`names`: the held system calls by number. `sealed`: what is found is kept for the seal."""
        self._observer = partial(Observer, names, sealed=sealed)
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, _IN)
        self._watched: dict[int, tuple[Sandbox, bool]] = {}
        self._others: dict[int, Callable[[], None]] = {}
        self._posted: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._lanes: dict[str, Lane] = {}
        self.lane_threads: Counter[int] = Counter()  # by user
        self._left_waiting: Counter[int] = Counter()  # former leaders that wait for a file system, by user
        self._lock = threading.Lock()
        self._epoch = 0
        self._looking: Job | None = None
        self._near = Near(self._epoll)
        self._stopped = threading.Event()
        self._busy = threading.Event()
        self.leader_ident = 0
        self.takeovers = 0

    # ---- for every thread

    def start(self) -> None:
        """Starts the leader and the watch."""
        self._start_leader(self._epoch)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Ends the loop. Threads that wait for a file system are left behind."""
        self._stopped.set()
        self._busy.set()
        self.post(lambda: None)

    def post(self, call: Callable[[], None]) -> None:
        """Has `call` run on the leader."""
        self._posted.append(call)
        os.eventfd_write(self._wake, 1)

    def ask(self, call: Callable[[], T], seconds: float = 30.0) -> T:
        """Runs `call` on the leader and returns what it returns. TimeoutError; not for the leader itself."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        self.post(run)
        return future.result(seconds)

    # ---- for the leader

    def add(self, sandbox: Sandbox) -> None:
        """Watches the sandbox's listener and its command."""
        assert sandbox.listener is not None
        if self._left_waiting[sandbox.uid] >= LEADERS_OF_USER:
            sandbox.slow = True
            self.after(SLOW_SECONDS, lambda: self._forgive(sandbox))
        self._watched[sandbox.listener.descriptor] = (sandbox, True)
        self._epoll.register(sandbox.listener.descriptor, _IN)
        self._watched[sandbox.pidfd] = (sandbox, False)
        self._epoll.register(sandbox.pidfd, _IN)
        self._busy.set()

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        """Has `call` run on the leader whenever `descriptor`, which is no sandbox's, is readable. Before `start`."""
        self._others[descriptor] = call
        self._epoll.register(descriptor, _IN)

    def remove(self, sandbox: Sandbox) -> None:
        """Watches it no longer."""
        if sandbox.listener is not None:
            self._forget(sandbox.listener.descriptor)
        self._forget(sandbox.pidfd)
        self._near.forget(sandbox)
        lane = self._lanes.pop(sandbox.id, None)
        if lane is not None:
            lane.close()
        if not self._watched:
            self._busy.clear()

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Has `call` run on the leader in `seconds`."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    # ---- the loop

    def _start_leader(self, epoch: int) -> None:
        threading.Thread(target=self._lead, args=(epoch,), name=f"leader-{epoch}", daemon=True).start()

    def _lead(self, epoch: int) -> None:
        observer = self._observer()
        self.leader_ident = threading.get_ident()
        thread = threading.get_native_id()
        _be_preferred()
        while not self._stopped.is_set():
            if not self._serve_near(epoch, observer, thread):
                return
            for descriptor, event in self._epoll.poll(self._wait() if self._near.sandbox is None else 0, 64):
                if descriptor == self._wake:
                    self._run_posted()
                    continue
                watched = self._watched.get(descriptor)
                if watched is None:
                    self._guard(self._others.get(descriptor, _nothing))
                    continue
                sandbox, listens = watched
                if not listens:
                    self._forget(descriptor)
                    self._guard(partial(self.listening.exited, sandbox))
                elif event & _IN:
                    if not self._serve(sandbox, epoch, observer, thread):
                        return
                    self._near.came(sandbox)
                elif event & _HUP:
                    self._forget(descriptor)
                    self._guard(partial(self.listening.emptied, sandbox))
            self._run_timers()

    def _serve_near(self, epoch: int, observer: Observer, thread: int) -> bool:
        """Serves the near sandbox until there is something else to do. False when another thread has become the
        leader meanwhile."""
        sandbox = self._near.sandbox
        if sandbox is None:
            return True
        wait = self._wait()
        found = self._guarded(sandbox, lambda: self._near.wait(observer, wait, thread))
        return self._served(sandbox, found, epoch, observer, thread)

    def _serve(self, sandbox: Sandbox, epoch: int, observer: Observer, thread: int) -> bool:
        """Serves the next call of any sandbox. False as above."""
        assert sandbox.listener is not None
        if sandbox.covered is not None and not sandbox.slow:
            found = self._guarded(sandbox, lambda: self._near.take(sandbox, observer, thread))
            return self._served(sandbox, found, epoch, observer, thread)
        held = sandbox.listener.receive()
        return held is None or self._look(Job(sandbox, held, time.perf_counter_ns(), thread), epoch, observer)

    def _guarded(self, sandbox: Sandbox, serve: Callable[[], object]) -> object:
        """What `serve` returns. Whatever fails there, the leader goes on, and the sandbox goes the long way."""
        try:
            return serve()
        except Exception:
            log.exception("sandbox %s: what its leases cover cannot be served by itself", sandbox.id)
            sandbox.covered = None
            self._near.leave()
            return None

    def _served(self, sandbox: Sandbox, found: object, epoch: int, observer: Observer, thread: int) -> bool:
        """Goes on where Covered.serve has stopped."""
        if isinstance(found, Held):
            if sandbox.listener is not None and sandbox.covered is not None and sandbox.listener.note(found):
                return self._look(Job(sandbox, found, sandbox.covered.started, thread), epoch, observer)
        elif isinstance(found, Job):  # it was overtaken: what it found is found again, the long way
            observation = observer.observe(found.held, sandbox.place_of(found.held.tid), sandbox)
            self.post(lambda: self._came_back(found, observation))
            return False
        elif isinstance(found, int):
            self._guard(partial(self.listening.gone, sandbox, found))
        return True

    def _look(self, job: Job, epoch: int, observer: Observer) -> bool:
        sandbox, held = job.sandbox, job.held
        if sandbox.slow:
            self._to_lane(job)
            return True
        self._looking = job
        observation = observer.observe(held, sandbox.place_of(held.tid), sandbox)
        with self._lock:
            leads = self._epoch == epoch
            if leads:
                self._looking = None
        if not leads:
            self.post(lambda: self._came_back(job, observation))
            return False
        self._conclude(sandbox, held, observation, job.started)
        return True

    def _conclude(self, sandbox: Sandbox, held: Held, observation: Observation, started: int) -> None:
        if sandbox.listener is None:
            let_go_of(observation)
            return
        try:
            if not sandbox.listener.waits(held.id):
                # Killed meanwhile: what was read may be of another thread, outside, that has its id now.
                let_go_of(observation)
                return
            self.listening.observed(sandbox, held, observation, started)
        except Exception:
            # A defect of ours must not become an approval, nor the end of everybody else.
            log.exception("sandbox %s: a held call could not be concluded, and is refused", sandbox.id)
            let_go_of(observation)
            sandbox.listener.refuse(held.id, 1)

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            log.exception("the loop goes on after an error")

    def _run_posted(self) -> None:
        os.eventfd_read(self._wake)
        for _ in range(len(self._posted)):
            self._guard(self._posted.popleft())

    def _wait(self) -> float | None:
        if self._posted:
            return 0
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                self._guard(call)

    def _forget(self, descriptor: int) -> None:
        sandbox, listens = self._watched.pop(descriptor, (None, False))
        if sandbox is None:
            return
        if listens:
            self._near.forget(sandbox)
        self._epoll.unregister(descriptor)

    # ---- when looking takes long

    def _watch(self) -> None:
        while not self._stopped.is_set():
            self._busy.wait()
            time.sleep(_TICK)
            # Without a watch, the first look that does not come back would hold up everybody.
            self._guard(self._look_after)

    def _look_after(self) -> None:
        """Makes another thread the leader when the present one has looked at a call for too long."""
        job = self._looking or self._near.looking()
        if job is None or time.perf_counter_ns() - job.started < PATIENCE * 1e9 or not _waits(job.thread):
            return
        with self._lock:
            if self._looking is not job and not self._near.overtake(job):
                return
            self._looking = None
            # At once, before the next leader sees its other calls: each of them would cost another leader.
            job.sandbox.slow = True
            self._epoch += 1
            self.takeovers += 1
        log.warning("sandbox %s: looking at a call takes long: its calls go to a lane of their own", job.sandbox.id)
        self.post(partial(self._overtaken, job))
        self._start_leader(self._epoch)

    def _overtaken(self, job: Job) -> None:
        sandbox = job.sandbox
        sandbox.stuck += 1
        self._left_waiting[sandbox.uid] += 1
        self.after(SLOW_SECONDS, lambda: self._forgive(sandbox))
        self._expire_later(job)
        if not self._note(job):
            job.over = True
            sandbox.looking -= 1

    def _note(self, job: Job) -> bool:
        """A call that covered.c has received is known to no next daemon yet. False when it had to be refused."""
        listener = job.sandbox.listener
        if job.noted or job.over or listener is None:
            return True
        job.noted = True
        return listener.note(job.held)

    def _came_back(self, job: Job, observation: Observation) -> None:
        """A former leader has its answer after all, perhaps long after the call was refused."""
        job.sandbox.stuck -= 1
        self._left_waiting[job.sandbox.uid] -= 1
        if self._note(job):
            self.looked(job, observation)
            return
        job.over = True
        job.sandbox.looking -= 1
        let_go_of(observation)

    def _forgive(self, sandbox: Sandbox) -> None:
        """Back to the leader, unless some thread still waits on its account: the next one would be lost as well."""
        if sandbox.listener is None:
            return
        lane = self._lanes.get(sandbox.id)
        waits = sandbox.looking or sandbox.stuck or (lane is not None and lane.busy)
        if waits or self._left_waiting[sandbox.uid] >= LEADERS_OF_USER:
            self.after(SLOW_SECONDS, lambda: self._forgive(sandbox))
        else:
            sandbox.slow = False

    def _to_lane(self, job: Job) -> None:
        lane = self._lanes.get(job.sandbox.id)
        if lane is None:
            lane = self._lanes[job.sandbox.id] = Lane(self, self._observer, job.sandbox.uid)
        self._expire_later(job)
        lane.put(job)

    def _expire_later(self, job: Job) -> None:
        job.sandbox.looking += 1
        self.after(DEADLINE, lambda: self._expired(job))

    def _expired(self, job: Job) -> None:
        if not job.over:
            reason = f"looking at its arguments took longer than {DEADLINE:.0f} s: a file system does not answer"
            self.looked(job, Unreadable("look-timeout", reason))

    def looked(self, job: Job, observation: Observation) -> None:
        if job.over:
            let_go_of(observation)
            return
        job.over = True
        job.sandbox.looking -= 1
        self._conclude(job.sandbox, job.held, observation, job.started)


def _nothing() -> None:
    """For a descriptor that was forgotten between poll and here."""


def _be_preferred() -> None:
    """All sandboxes wait for this one thread, and compete with it for the processors: it goes first (setpriority(2)
    takes a thread id on Linux). Where that is not allowed, it is only slower."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEADER_NICE)
    except PermissionError:
        log.info("the leader keeps its priority: CAP_SYS_NICE is missing")


def _waits(native_id: int) -> bool:
    """Whether a thread of ours sleeps in the kernel, rather than waiting for its turn on a loaded machine."""
    try:
        return procfs.read(f"self/task/{native_id}/stat").rpartition(b")")[2].split()[0] in (b"S", b"D")
    except procfs.Gone:
        return False
