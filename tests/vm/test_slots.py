"""Which virtual machines run beside which."""

import threading
from collections.abc import Iterator

import pytest
from harness.slots import Slots
from harness.tools import STOP, Trouble

SECONDS = 20.0


class Machines:
    """Threads that take slots, and end when they are told to: at the latest with the block."""

    def __init__(self, wanted: list[int], *, processors: int, machines: int) -> None:
        self._slots = Slots(wanted, processors=processors, machines=machines)
        self._changed = threading.Condition()
        self._running: set[int] = set()
        self.ran: set[int] = set()
        self.trouble: set[int] = set()
        self._ends = [threading.Event() for _ in wanted]
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(len(wanted))]

    def __enter__(self) -> "Machines":
        for thread in reversed(self._threads):  # their order is that of the numbers, whoever comes first
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(len(self._ends)):
            self.end(number)
        for thread in self._threads:
            thread.join(SECONDS)

    def _run(self, number: int) -> None:
        try:
            with self._slots.taken(number):
                self._tell(number)
                self._ends[number].wait(SECONDS)
                self._tell(number)
        except Trouble:
            self.trouble.add(number)

    def _tell(self, number: int) -> None:
        """It runs now, or no more."""
        with self._changed:
            self._running ^= {number}
            self.ran.add(number)
            self._changed.notify_all()

    def become(self, *numbers: int) -> bool:
        """Whether it comes about that these run, and that it is nobody's turn besides."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running == set(numbers) and self._slots.turn() is None, SECONDS)

    def end(self, number: int) -> None:
        self._ends[number].set()


@pytest.fixture(autouse=True)
def stop() -> Iterator[None]:
    """The harness goes on, whatever a test did."""
    yield
    STOP.clear()


def test_machines_run_in_their_order_where_they_fit() -> None:
    with Machines([2, 2, 1, 1], processors=3, machines=4) as machines:
        assert machines.become(0, 2)  # 1 does not fit beside 0
        machines.end(2)
        assert machines.become(0, 3)
        machines.end(0)
        assert machines.become(1, 3)
    assert machines.ran == {0, 1, 2, 3}


def test_no_more_machines_run_than_are_to() -> None:
    with Machines([1, 1, 1], processors=8, machines=2) as machines:
        assert machines.become(0, 1)
        machines.end(1)
        assert machines.become(0, 2)


def test_a_machine_that_is_too_large_runs_alone() -> None:
    with Machines([4, 1], processors=2, machines=4) as machines:
        assert machines.become(0)
        machines.end(0)
        assert machines.become(1)


def test_who_waits_when_the_harness_ends_does_not_run() -> None:
    with Machines([1, 1], processors=1, machines=4) as machines:
        assert machines.become(0)
        STOP.set()  # and 0 ends: its place is free before 1 has looked
    assert machines.trouble == {1}
    assert machines.ran == {0}
