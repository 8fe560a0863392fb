"""Which virtual machines run beside which."""

import threading
import time
from collections.abc import Iterator

import pytest
from harness.machine import STOP
from harness.slots import Slots
from harness.tools import Trouble

SECONDS = 20.0


class Machines:
    """Threads that take slots, and end when they are told to."""

    def __init__(self, wanted: list[int], *, processors: int, machines: int) -> None:
        self._slots = Slots(wanted, processors=processors, machines=machines)
        self._changed = threading.Condition()
        self.running: set[int] = set()
        self.trouble: set[int] = set()
        self._ends = [threading.Event() for _ in wanted]
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(len(wanted))]
        for thread in reversed(self.threads):  # their order is that of the numbers, whoever comes first
            thread.start()

    def _run(self, number: int) -> None:
        try:
            with self._slots.taken(number):
                with self._changed:
                    self.running.add(number)
                    self._changed.notify_all()
                self._ends[number].wait(SECONDS)
                with self._changed:
                    self.running.discard(number)
        except Trouble:
            self.trouble.add(number)

    def become(self, *numbers: int) -> bool:
        """Whether these run after a while, and no others a moment later."""
        with self._changed:
            self._changed.wait_for(lambda: self.running == set(numbers), SECONDS)
        time.sleep(0.2)
        return self.running == set(numbers)

    def end(self, number: int) -> None:
        self._ends[number].set()


@pytest.fixture(autouse=True)
def stop() -> Iterator[None]:
    """The harness goes on, whatever a test did."""
    yield
    STOP.clear()


def test_machines_run_in_their_order_where_they_fit() -> None:
    machines = Machines([2, 2, 1, 1], processors=3, machines=4)
    assert machines.become(0, 2)  # 1 does not fit beside 0
    machines.end(2)
    assert machines.become(0, 3)
    machines.end(0)
    assert machines.become(1, 3)
    for number in range(4):
        machines.end(number)
    for thread in machines.threads:
        thread.join(SECONDS)
    assert not machines.running


def test_no_more_machines_run_than_are_to() -> None:
    machines = Machines([1, 1, 1], processors=8, machines=2)
    assert machines.become(0, 1)
    machines.end(1)
    assert machines.become(0, 2)
    for number in range(3):
        machines.end(number)
    for thread in machines.threads:
        thread.join(SECONDS)


def test_a_machine_that_is_too_large_runs_alone() -> None:
    machines = Machines([4, 1], processors=2, machines=4)
    assert machines.become(0)
    machines.end(0)
    assert machines.become(1)
    machines.end(1)
    for thread in machines.threads:
        thread.join(SECONDS)


def test_who_waits_when_the_harness_ends_does_not_run() -> None:
    machines = Machines([1, 1], processors=1, machines=4)
    assert machines.become(0)
    STOP.set()
    machines.end(0)  # its place is free, before the other has looked
    for thread in machines.threads:
        thread.join(SECONDS)
    assert machines.trouble == {1}
