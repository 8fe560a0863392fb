"""Which machines run at the same time: as many processors of theirs as the host can make use of."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from harness.tools import STOP, Trouble


class Slots:
    """Processors that machines take in their order; one that does not fit lets a later one that does go before it.

    `wanted`: how many each machine has, in their order. `machines`: at most so many at a time.
    """

    def __init__(self, wanted: Sequence[int], *, processors: int, machines: int) -> None:
        self._wanted = list(wanted)
        self._waiting = set(range(len(wanted)))
        self._free = processors
        self._may_run = machines
        self._running = 0
        self._changed = threading.Condition()  # reentrant

    @contextlib.contextmanager
    def taken(self, number: int) -> Iterator[None]:
        """Waits for the turn of that machine, and has its processors until the block ends. Trouble when the harness
        ends instead."""
        with self._changed:
            while True:
                if STOP.is_set():
                    raise Trouble("the harness ends: another machine could not be run, or it was interrupted")
                if self.turn() == number:
                    break
                self._changed.wait(0.5)
            self._waiting.remove(number)
            self._free -= self._wanted[number]
            self._running += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += self._wanted[number]
                self._running -= 1
                self._changed.notify_all()

    def turn(self) -> int | None:
        """Whose turn it is: the first machine that waits and fits. One that has more processors than there are fits
        where no other runs. None: nobody's before another ends."""
        with self._changed:
            if self._running >= self._may_run:
                return None
            fits = (one for one in sorted(self._waiting) if self._wanted[one] <= self._free or not self._running)
            return next(fits, None)
