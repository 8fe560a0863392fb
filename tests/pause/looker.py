"""A thread like those of the daemon that look at held calls: it has an Observer and a Resolver of its own.

They borrow root directory and credentials of the thread they run in, so the test's own thread must not.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyseccomp

from governed_mcpd.kernel import calls
from governed_mcpd.pause.observe import Observer
from governed_mcpd.pause.resolve import Resolver
from governed_mcpd.sandbox import filter as filters
from governed_mcpd.sandbox.table import held_names

T = TypeVar("T")
LOOK_SECONDS = 30


def held_numbers() -> dict[int, str]:
    """The held calls of this machine by number, as the daemon gives them to its Observers."""
    token = pyseccomp.system_arch()
    numbers = {name: filters.number(name, token, calls.MACHINE) for name in held_names()}
    return {number: name for name, number in numbers.items() if number is not None}


class Looker:
    """One such thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self.observer = self(lambda: Observer(held_numbers()))
        self.resolver = self(Resolver)

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns, run on the thread."""
        return self._pool.submit(call).result(LOOK_SECONDS)

    def close(self) -> None:
        self._pool.shutdown()
