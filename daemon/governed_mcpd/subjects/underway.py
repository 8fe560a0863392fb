"""Ids of tool calls in flight, in memory that outlives the daemon: the next one says of each that it is over.

Beside the ids of unanswered notifications (subjects/keep), and for the same reason: what only the dead daemon knew
would stay open for ever. A gateway ends when it loses its daemon, so no call of it can still succeed.
"""

import mmap
import struct
from collections.abc import Iterator

SLOTS = 512  # calls/session lets 256 of one gateway be in flight; a sandbox seldom has more than one
_SLOT = struct.Struct("Q56s")  # number of the call's record, id
SIZE = SLOTS * _SLOT.size


class Underway:
    """Of one sandbox: in the file `descriptor`, from `offset` (a multiple of the page size) on."""

    def __init__(self, descriptor: int, offset: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE, offset=offset)
        self._free = list(range(SLOTS - 1, -1, -1))
        self._slots: dict[str, int] = {}

    def begun(self, call: str, record: int) -> None:
        """A call that has no slot left is only not closed by the next daemon; its effects are governed all the same."""
        name = call.encode()
        if self._free and len(name) <= 56:
            slot = self._slots[call] = self._free.pop()
            _SLOT.pack_into(self._memory, slot * _SLOT.size, record, name)

    def ended(self, call: str) -> None:
        slot = self._slots.pop(call, None)
        if slot is not None:
            _SLOT.pack_into(self._memory, slot * _SLOT.size, 0, b"")
            self._free.append(slot)

    def left(self) -> Iterator[tuple[str, int]]:
        """Calls that an earlier daemon let through and did not see end: id, and number of the record."""
        for record, name in _SLOT.iter_unpack(self._memory[:]):
            if record:
                yield name.rstrip(b"\0").decode("ascii", "backslashreplace"), record

    def wipe(self) -> None:
        self._memory[:] = bytes(SIZE)
