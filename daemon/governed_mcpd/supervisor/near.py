"""The sandbox that is waited for by itself: the one that calls come from, one after the other.

What a lease covers is then served by subjects/covered.c, which waits for the listener beside everything else.
"""

import select

from governed_mcpd.pause.observe import Observer
from governed_mcpd.subjects.covered import Covered
from governed_mcpd.subjects.sandbox import Sandbox
from governed_mcpd.supervisor.lane import Job

_LONGEST = 1.0  # seconds; there is a timer every second anyway


class Near:
    """Belongs to the leader; `looking` and `overtake` are the watch's. `epoll` is where all others are waited for."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self.sandbox: Sandbox | None = None
        self._last: Sandbox | None = None
        self._serving: Sandbox | None = None
        self._thread = 0

    def came(self, sandbox: Sandbox) -> None:
        """A call of the sandbox came by way of the epoll: the second in a row makes it the near one. Where several are
        at work, none is: to wake one where the leader runs would only push the leader aside."""
        if sandbox is not self._last:
            if self._last is not None:
                self.leave()
            self._last = sandbox
        elif sandbox.covered is not None and sandbox.listener is not None and not sandbox.slow:
            self.leave()
            self.sandbox = sandbox
            self._epoll.modify(sandbox.listener.descriptor, 0)  # of it only the end, from here on
            sandbox.listener.wake_synchronously(True)

    def leave(self) -> None:
        """None is near any more."""
        if self.sandbox is not None and self.sandbox.listener is not None:
            self._epoll.modify(self.sandbox.listener.descriptor, select.EPOLLIN)
            self.sandbox.listener.wake_synchronously(False)
        self.sandbox = None

    def forget(self, sandbox: Sandbox) -> None:
        """The sandbox is watched no longer."""
        if sandbox is self.sandbox:
            self.sandbox = None
        if sandbox is self._last:
            self._last = None
        if sandbox is self._serving:
            self._serving = None

    def wait(self, observer: Observer, seconds: float | None, thread: int) -> object:
        """Serves what a lease covers of the near sandbox, for at most `seconds`: see Covered.serve for what is
        returned. `thread` is the leader's native id."""
        sandbox = self.sandbox
        if sandbox is None or sandbox.slow or sandbox.listener is None or sandbox.covered is None:
            self.leave()
            return None
        covered = self._standing(sandbox, sandbox.covered, observer, thread)
        return covered.serve(self._epoll.fileno(), _LONGEST if seconds is None else min(seconds, _LONGEST))

    def take(self, sandbox: Sandbox, observer: Observer, thread: int) -> object:
        """The same for the one call of any sandbox that the epoll has told of."""
        covered = sandbox.covered
        return None if covered is None else self._standing(sandbox, covered, observer, thread).serve(-1, 0)

    def _standing(self, sandbox: Sandbox, covered: Covered, observer: Observer, thread: int) -> Covered:
        assert sandbox.place is not None
        observer.stand_at(sandbox.place)
        self._serving, self._thread = sandbox, thread
        return covered

    def looking(self) -> Job | None:
        """The call that is looked at now, if one is."""
        sandbox = self._serving
        covered = sandbox.covered if sandbox is not None else None  # once: it goes when the sandbox has ended
        looked_at = covered.looked_at() if covered is not None else None
        if sandbox is None or looked_at is None:
            return None
        return Job(sandbox, *looked_at, self._thread, noted=False)

    def overtake(self, job: Job) -> bool:
        """Takes a call over from the thread that looks at it; False when that has come back."""
        covered = job.sandbox.covered
        return covered is not None and covered.overtake(job.held.id, job)
