"""What one peer may see of the journal: an administrator everything, anyone else the records of their own sandboxes."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from governed_mcpd.journal.read import Entry, Tail, last_entries

MOST_LAST = 100_000


class View:
    """The journal through the eyes of `uid` (None: an administrator), of one sandbox if it is given."""

    def __init__(self, state_dir: str, sandbox: str, uid: int | None) -> None:
        self._state_dir = state_dir
        self._sandbox = sandbox
        self._uid = uid
        self._own: set[str] = set()
        self._tail: Tail | None = None

    def since(self, first: int) -> Iterator[bytes]:
        """Lines from record `first` on."""
        # Whose sandbox a record belongs to is said where the sandbox starts: others have to read from the beginning.
        self._tail = Tail(self._state_dir, first=first if self._uid is None else 1, sandbox=self._sandbox)
        while found := self._tail.poll():
            yield from (entry.line for entry in found if self._visible(entry) and entry.seq >= first)

    def last(self, count: int) -> Iterator[bytes]:
        """The last `count` lines."""
        count = min(count, MOST_LAST)
        if self._uid is None:
            found = last_entries(self._state_dir, count, sandbox=self._sandbox)
            after = found[-1].seq + 1 if found else 1
            self._tail = Tail(self._state_dir, first=after, sandbox=self._sandbox)
            return (entry.line for entry in found)
        return iter(deque(self.since(1), maxlen=count))

    def news(self) -> Iterator[bytes]:
        """Lines that came since."""
        assert self._tail is not None
        return (entry.line for entry in self._tail.poll() if self._visible(entry))

    def _visible(self, entry: Entry) -> bool:
        if self._uid is None:
            return True
        record: dict[str, Any] = entry.record
        sandbox = record.get("sandbox")
        if not isinstance(sandbox, str):
            return False
        subject = record.get("subject")
        if record.get("kind") == "sandbox.start" and isinstance(subject, dict) and subject.get("uid") == self._uid:
            self._own.add(sandbox)
        return sandbox in self._own
