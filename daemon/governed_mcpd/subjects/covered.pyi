"""covered.c: the opens of one sandbox that a lease covers, from their receipt to their answer."""

from threading import Lock
from typing import Any

from governed_mcpd.journal.journal import Journal
from governed_mcpd.journal.writer import Writer
from governed_mcpd.kernel.held import Held
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.subjects import leases
from governed_mcpd.subjects.sandbox import Sandbox

class Covered:
    """One thread at a time serves."""

    room: int
    """Bytes of the journal that were taken from the sandbox's budget in advance."""

    def __new__(
        cls,
        listener: int,
        numbers: tuple[int, int],
        user: int,
        proc: int,
        descriptors: int,
        looks: bool,
        sandbox: Sandbox,
        waiting: dict[int, Any],
        journal: tuple[Journal, Writer, Lock, int, object, bytes],
        slot: memoryview | bytearray,
        /,
    ) -> Covered: ...
    @property
    def started(self) -> int: ...
    def serve(self, others: int, seconds: float, /) -> object: ...
    def add(
        self,
        held: Held,
        lease: leases.Held,
        expires: float,
        effect: SideEffect,
        parts: tuple[bytes, bytes, bytes, bytes],
        changes: int,
        /,
    ) -> None: ...
    def looked_at(self) -> tuple[Held, int] | None: ...
    def overtake(self, id: int, what: object, /) -> bool: ...
