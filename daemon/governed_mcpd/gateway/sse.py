"""Server-sent events, as they come and as they go on (HTML Living Standard, 9.2.6)."""

from dataclasses import dataclass, field


class TooLarge(ValueError):
    """An event past the bound: the stream cannot be followed."""


@dataclass(slots=True)
class Event:
    """One event: its data, and every other line as it came (id, event, retry, comments)."""

    data: bytes | None = None
    others: list[bytes] = field(default_factory=list)

    def encoded(self, data: bytes | None) -> bytes:
        """The event with other data; JSON has no line feed, so it is one line."""
        lines = [*self.others, *([b"data: " + data] if data is not None else [])]
        return b"\r\n".join(lines) + b"\r\n\r\n"


class Parser:
    """Bytes into events. Lines end in CR LF, LF or CR."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffer = b""
        self._event = Event()
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now. TooLarge."""
        self._buffer += data
        found: list[Event] = []
        held = b"\r" if self._buffer.endswith(b"\r") else b""  # perhaps the first half of CR LF
        text = self._buffer[: len(self._buffer) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._buffer = rest + held
        self._size += len(data)
        if self._size > self._most:
            raise TooLarge(f"an event of more than {self._most} bytes")
        for line in lines:
            if line:
                self._line(line)
            else:
                found.append(self._event)
                self._event, self._size = Event(), len(self._buffer)
        return [event for event in found if event.data is not None or event.others]

    def _line(self, line: bytes) -> None:
        name, colon, value = line.partition(b":")
        if name != b"data" or not colon:
            self._event.others.append(line)
            return
        value = value.removeprefix(b" ")
        self._event.data = value if self._event.data is None else self._event.data + b"\n" + value
