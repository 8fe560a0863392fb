"""A gateway over stdin and stdout: one thread, one poll, four descriptors. What cannot be written yet waits in memory,
and whoever fills it is not read from meanwhile."""

import heapq
import itertools
import os
import secrets
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from governed_mcpd.gateway import messages
from governed_mcpd.gateway.batch import Batches
from governed_mcpd.gateway.exchange import Exchange
from governed_mcpd.gateway.link import Link
from governed_mcpd.gateway.messages import BadMessage, Id, Json, Message
from governed_mcpd.gateway.server import Server
from governed_mcpd.gateway.tools import OWN_SECONDS, Came, Offered

CLIENT_IN, CLIENT_OUT = 0, 1
_CHUNK = 262144
_PIECE = 4096  # PIPE_BUF of pipe(7): what poll has announced room for is written without waiting
_MOST_UNWRITTEN = 8 * 1024 * 1024
_LAST_WORDS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Overlong:
    """A line that was too long: its beginning and its end, where the id of a message stands."""

    ends: bytes


class Lines:
    """Bytes into lines, each at most `most` bytes; of what is longer only the ends are kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffer = bytearray()
        self._head: bytes | None = None  # of a line that is too long
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes | Overlong]:
        """The lines that are complete now; empty ones are none."""
        found: list[bytes | Overlong] = []
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            if (line := self._end()) is not None:
                found.append(line)
        self._add(rest)
        return found

    def _add(self, part: bytes) -> None:
        if self._head is not None:
            self._tail = (self._tail + part)[-messages.ID_WITHIN :]
            return
        self._buffer += part
        if len(self._buffer) > self._most:
            self._head = bytes(self._buffer[: messages.ID_WITHIN])
            self._tail = bytes(self._buffer[-messages.ID_WITHIN :])
            self._buffer.clear()

    def _end(self) -> bytes | Overlong | None:
        if self._head is not None:
            overlong, self._head = Overlong(self._head + self._tail), None
            return overlong
        line = bytes(self._buffer).strip()
        self._buffer.clear()
        return line or None


class Out:
    """A descriptor that is written when there is room."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.waiting = bytearray()
        self.broken = False
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def line(self, data: bytes) -> None:
        """One message. Written at once if nothing waits and there is room."""
        if self.broken:
            return
        idle = not self.waiting
        self.waiting += data
        self.waiting += b"\n"
        if idle and self._has_room():
            self.write()

    def write(self) -> None:
        """Writes a piece; there is room."""
        while self.waiting:
            try:
                del self.waiting[: os.write(self.descriptor, self.waiting[:_PIECE])]
            except OSError:
                self.broken = True
                self.waiting.clear()
                return
            if not self.waiting or not self._has_room():
                return

    def _has_room(self) -> bool:
        return any(event & select.POLLOUT for _, event in self._room.poll(0))


class Loop:
    """Carries messages until one side ends."""

    def __init__(self, link: Link, server: Server) -> None:
        self._link = link
        self._server = server
        self._client = Out(CLIENT_OUT)
        self._to_server = Out(server.stdin)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._own: dict[str, Came] = {}  # requests of the gateway's own
        self._prefix = f"governed-{secrets.token_hex(8)}-"
        self._exchange = Exchange(link, self, Offered(link, lambda: self._ask_server))
        self._batches = Batches(self._exchange)
        self._polled: tuple[list[int], list[int]] = ([], [])
        self._kept = select.poll()
        self._over = False

    # ---- what the exchange needs

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), call))

    def _ask_server(self, request: Json, then: Came) -> None:
        identity = f"{self._prefix}{next(self._order)}"
        try:
            line = messages.dump({"jsonrpc": "2.0", "id": identity, **request})
        except BadMessage as bad:  # of the client's `_meta`
            self.later(0, partial(then, bad))
            return
        self._own[identity] = then
        self.later(OWN_SECONDS, lambda: self._own_answer(identity, TimeoutError()))
        self._to_server.line(line)

    def _own_answer(self, identity: str, answer: Json | Exception) -> None:
        then = self._own.pop(identity, None)
        if then is not None:
            then(answer)

    # ---- the loop

    def run(self) -> None:
        """Until the client closes its end, or the server or the daemon is gone."""
        lines = {CLIENT_IN: Lines(messages.MOST_CLIENT), self._server.stdout: Lines(messages.MOST_SERVER)}
        while not self._over:
            for descriptor, event in self._poll().poll(self._wait()):
                if descriptor == self._client.descriptor and event & select.POLLOUT:
                    self._client.write()
                elif descriptor == self._to_server.descriptor and event & select.POLLOUT:
                    self._to_server.write()
                elif descriptor == self._link.fileno():
                    self._link.readable()
                elif descriptor in lines:
                    self._read(descriptor, lines[descriptor])
                elif event & (select.POLLERR | select.POLLHUP):
                    self._over = True
            self._run_timers()
            self._over = self._over or self._link.gone or self._client.broken
        self._exchange.abandon()
        self._flush()

    def _poll(self) -> "select.poll":
        """What is waited for now: kept, since it is nearly always the same."""
        wanted = [self._link.fileno()]
        if len(self._to_server.waiting) < _MOST_UNWRITTEN:
            wanted.append(CLIENT_IN)
        if len(self._client.waiting) < _MOST_UNWRITTEN:
            wanted.append(self._server.stdout)
        full = [out.descriptor for out in (self._client, self._to_server) if out.waiting]
        if (wanted, full) != self._polled:
            self._polled, self._kept = (wanted, full), select.poll()
            for descriptors, event in ((wanted, select.POLLIN), (full, select.POLLOUT)):
                for descriptor in descriptors:
                    self._kept.register(descriptor, event)
        return self._kept

    def _wait(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) * 1000 if self._timers else None

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _read(self, descriptor: int, lines: Lines) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except OSError:
            data = b""
        if not data:
            self._over = True
            return
        take = self._from_client if descriptor == CLIENT_IN else self._from_server
        for line in lines.feed(data):
            take(line)

    # ---- messages

    def _from_client(self, line: bytes | Overlong) -> None:
        try:
            if isinstance(line, Overlong):
                said = f"a message of more than {messages.MOST_CLIENT} bytes"
                raise BadMessage(messages.PARSE_ERROR, said, messages.guess_id(line.ends))
            message = messages.read(line, messages.MOST_CLIENT)
            if isinstance(message, Message):
                self._exchange.from_client(message, self._client.line, self._to_server.line, _nothing)
            else:
                self._batches.from_client(message, self._client.line, self._to_server.line, _nothing)
        except BadMessage as bad:
            self._client.line(messages.error(bad.identity, bad.code, str(bad)))

    def _from_server(self, line: bytes | Overlong) -> None:
        try:
            if isinstance(line, Overlong):
                raise BadMessage(messages.PARSE_ERROR, f"a message of more than {messages.MOST_SERVER} bytes")
            message = messages.read(line, messages.MOST_SERVER)
        except BadMessage as bad:
            self._unreadable(line, bad)
            return
        if not isinstance(message, Message):
            self._batches.from_server(message, self._client.line, self._to_server.line)
        elif message.is_response and message.id in self._own:
            self._own_answer(str(message.id), message.value)
        elif message.is_response:
            self._exchange.from_server(message, partial(self._deliver, message.id), self._to_server.line)
        else:
            self._exchange.from_server(message, self._client.line, self._to_server.line)

    def _deliver(self, identity: Id | None, answer: bytes) -> None:
        self._client.line(self._batches.together(identity, answer))

    def _unreadable(self, line: bytes | Overlong, bad: BadMessage) -> None:
        """A line that is no message (a log line, perhaps), or an answer that cannot be passed: whoever waits for it is
        told, as far as it can be found out who does."""
        print(f"governed: a line of the server is no message: {bad}", file=sys.stderr)
        identity = messages.guess_id(line.ends if isinstance(line, Overlong) else line)
        if identity is None:
            return
        if identity in self._own:
            self._own_answer(str(identity), bad)
            return
        answer = self._exchange.unreadable(identity, bad)
        if answer is not None:
            self._deliver(identity, answer)

    def _flush(self) -> None:
        """The last answers, if the client still reads."""
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while self._client.waiting and not self._client.broken and time.monotonic() < deadline:
            poll = select.poll()
            poll.register(self._client.descriptor, select.POLLOUT)
            if poll.poll(100):
                self._client.write()


def _nothing() -> None:
    """What a client hears of a call that it has withdrawn."""
