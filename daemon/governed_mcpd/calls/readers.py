"""Reads one gateway's connection: messages are taken in their order, and while one waits for the gate the next is read.

The thread that has read a call asks the gate itself, which costs no hand-over; another reads on meanwhile. There are as
many threads as calls have waited at the same time, within a bound.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

MOST_THREADS = 16
T = TypeVar("T")


class Readers(Generic[T]):
    """`receive` gives the next message, or None at the end; `handle` takes it, and returns what is left to do."""

    def __init__(self, receive: Callable[[], T | None], handle: Callable[[T], Callable[[], None] | None]) -> None:
        self._receive = receive
        self._handle = handle
        self._turn = threading.Lock()
        self._free = 0  # threads that wait for their turn to read
        self._threads = 1
        self._ended = False
        self._failure: Exception | None = None

    def run(self) -> None:
        """Until the stream ends. Raises what `receive` or `handle` raised."""
        self._loop()
        with self._turn:
            if self._failure is not None:
                raise self._failure

    def _loop(self) -> None:
        while True:
            self._free += 1  # a count that is off by one costs a thread, or a message its wait: no lock for that
            with self._turn:
                self._free -= 1
                if self._ended:
                    return
                try:
                    message = self._receive()
                    left = self._handle(message) if message is not None else None
                except Exception as failure:
                    self._failure, message, left = failure, None, None
                if message is None:
                    self._ended = True
                    return
                if left is not None and self._free <= 0 and self._threads < MOST_THREADS:
                    self._threads += 1
                    threading.Thread(target=self._loop, name="gateway", daemon=True).start()
            if left is not None:
                left()
