"""What the agent has read from servers, and which tools it was offered: shared by the gateways of one client.

The content of one server's result may be what the arguments of another server's call come from. So gateways that the
same client started (or that stand in one sandbox) share one memory.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from governed_mcpd.nouns.action import Untrusted

MOST_ITEM = 16 * 1024  # characters of one piece of content: its beginning
MOST_TOTAL = 64 * 1024
MOST_ITEMS = 64


@dataclass(slots=True)
class Memory:
    """Of one client. `items` is replaced as a whole, so any thread may read it."""

    items: tuple[Untrusted, ...] = ()
    offered: dict[str, frozenset[str]] = field(default_factory=dict)  # tool names by server
    sessions: int = 0

    def add(self, source: str, texts: Iterable[str]) -> None:
        """Remembers content; the oldest goes when there is too much."""
        new = [Untrusted(source[:256], text[:MOST_ITEM]) for text in texts if text.strip()]
        if not new:
            return
        # What came again moves to the end: a server that repeats itself drives nothing else out.
        items = [*(item for item in self.items if item not in new), *dict.fromkeys(new)][-MOST_ITEMS:]
        total = sum(len(item.text) for item in items)
        while len(items) > 1 and total > MOST_TOTAL:
            total -= len(items.pop(0).text)
        self.items = tuple(items)

    def untrusted(self) -> tuple[Untrusted, ...]:
        return self.items


class Memories:
    """One for each client, as long as a gateway of it is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[object, Memory] = {}

    def join(self, client: object) -> Memory:
        with self._lock:
            memory = self._all.setdefault(client, Memory())
            memory.sessions += 1
            return memory

    def leave(self, client: object, server: str) -> None:
        with self._lock:
            memory = self._all[client]
            memory.sessions -= 1
            memory.offered.pop(server, None)
            if memory.sessions == 0:
                del self._all[client]
