"""Server-sent events, as they come and as they go on (HTML Living Standard, 9.2.6)."""

import re
from dataclasses import dataclass, field

_BOM = b"\xef\xbb\xbf"
# Some readers end lines at more characters than CR and LF: a value that has others than these goes.
_KEPT = {
    b"id": re.compile(rb"[\x20-\x7e]*"),
    b"event": re.compile(rb"[\x20-\x7e]*"),
    b"retry": re.compile(rb"[0-9]{1,10}"),
}


class TooLarge(ValueError):
    """What came is past its bound: it cannot be followed."""


@dataclass(slots=True)
class Event:
    """One event: its data, and its other fields as they are written again. Of a comment only that there was one is
    kept, and nothing of unknown fields: a reader that is less strict than this one could take more for data."""

    data: bytes | None = None
    others: list[bytes] = field(default_factory=list)

    @property
    def place(self) -> str:
        """What a client comes back with for what follows it; empty for none."""
        return self._last(b"id: ")

    @property
    def kind(self) -> str:
        """Its type; empty where it has none, which is `message`."""
        return self._last(b"event: ")

    def _last(self, field: bytes) -> str:
        found = [line.removeprefix(field) for line in self.others if line.startswith(field)]
        return found[-1].decode("latin-1") if found else ""

    def encoded(self, data: bytes | None) -> bytes:
        """The event with other data, which is on one line."""
        lines = [*self.others, *([b"data: " + data] if data is not None else [])]
        return b"\r\n".join(lines) + b"\r\n\r\n"


class Parser:
    """Bytes into events. Lines end in CR LF, LF or CR; a byte order mark before the first is no part of it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffer = bytearray()  # of a line that is not complete
        self._begun = False
        self._others: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now. TooLarge."""
        self._size += len(data)
        if self._size > self._most:
            raise TooLarge(f"an event of more than {self._most} bytes")
        halved = self._buffer.endswith(b"\r")
        self._buffer += data
        if not self._begun:
            if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
                return []
            self._begun = True
            if self._buffer.startswith(_BOM):
                del self._buffer[: len(_BOM)]
        if b"\n" not in data and b"\r" not in data and not halved:
            return []
        held = b"\r" if self._buffer.endswith(b"\r") else b""  # perhaps the first half of CR LF
        text = bytes(self._buffer[: len(self._buffer) - len(held)]).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._buffer = bytearray(rest + held)
        found: list[Event] = []
        for line in lines:
            if line:
                self._line(line)
                continue
            if self._data or self._others:
                found.append(Event(b"\n".join(self._data) if self._data else None, self._others))
            self._others, self._data, self._size = [], [], len(self._buffer)
        return found

    def _line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name in _KEPT and _KEPT[name].fullmatch(value):
            self._others.append(name + b": " + value)
        elif not name and b":" not in self._others:  # a comment: it keeps the connection open
            self._others.append(b":")
