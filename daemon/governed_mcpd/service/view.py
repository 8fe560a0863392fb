"""What one peer may see of the journal: an administrator everything, anyone else the records of their own sandboxes."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from governed_mcpd.journal.read import Entry, Tail, last_entries

MOST_LAST = 100_000


def belongs(record: Mapping[str, Any], call: str) -> bool:
    """Whether a record is of a tool call: its verdict and its end, a person's answer, and the effects that it entails
    or that came while it was in flight."""
    calls = record.get("calls")
    return call in (record.get("call"), record.get("approval")) or (isinstance(calls, list) and call in calls)


class View:
    """The journal through the eyes of `uid` (None: an administrator), of one sandbox or tool call if it is given."""

    def __init__(self, state_dir: str, sandbox: str, uid: int | None, call: str = "") -> None:
        self._state_dir = state_dir
        self._call = call
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
        if self._uid is None and not self._call:
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
        record: dict[str, Any] = entry.record
        mine = self._uid is None or self._own_record(record)
        return mine and (not self._call or belongs(record, self._call))

    def _own_record(self, record: dict[str, Any]) -> bool:
        sandbox = record.get("sandbox")
        if not isinstance(sandbox, str):
            return False
        subject = record.get("subject")
        if record.get("kind") == "sandbox.start" and isinstance(subject, dict) and subject.get("uid") == self._uid:
            self._own.add(sandbox)
        elif record.get("kind") == "call" and record.get("remote") and isinstance(subject, dict):
            return bool(subject.get("uid") == self._uid)
        return sandbox in self._own
