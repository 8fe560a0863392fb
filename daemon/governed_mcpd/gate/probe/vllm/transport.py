"""HTTP to one server: connections kept alive, one deadline over the whole exchange, bounded answers, no streaming.

A decision waits for this, and what the server says is believed only as far as it has to be. So this reads the little of
HTTP/1.1 (RFC 9112) that a model server's answer needs, and refuses the rest: a length that is missing, unclear or said
twice, chunks, folded lines. Clients that read everything add half as much again to each decision (docs/benchmarks.md),
guess where something is unclear, and have timeouts for one read each: a server that sends a byte now and then would
hold a decision for ever.
"""

import re
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_MAX_ANSWER = 4 * 1024 * 1024
_MAX_HEAD = 64 * 1024
_PIECE = 64 * 1024
_KEEP_SECONDS = 60.0
_LONGEST_REASON = 200
_BEGINNING = b"HTTP/1."
_FIRST_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_SWITCHING, _FINAL, _BODILESS = 101, 200, (204, 304)


class TransportError(RuntimeError):
    """No answer. The text says what was tried and why it failed."""


class _TooLong(Exception):
    """More bytes come than any answer has."""


class _NoAnswer(Exception):
    """What came is not the answer to one request."""


class _Broken(Exception):
    """The connection broke off, or what came over it is no answer. `kept`: it had served an exchange before."""

    def __init__(self, error: Exception, *, kept: bool) -> None:
        super().__init__(_said(error))
        self.kept = kept


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body. `connected`: when its connection was opened (time.monotonic, seconds)."""

    status: int
    body: bytes
    connected: float


class Transport:
    """For any number of threads. At most `concurrency` requests at a time; those past it wait within their deadline."""

    def __init__(self, url: str, concurrency: int) -> None:
        """`url` as the Gate document has it: unix:/PATH, http://… or https://…"""
        self._path = url.removeprefix("unix:") if url.startswith("unix:") else None
        self._where = self._path or url.rstrip("/")
        parts = urlsplit("http://localhost" if self._path else url)
        self._names = f"Host: {parts.netloc}\r\nContent-Type: application/json\r\nAccept-Encoding: identity\r\n"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._places = threading.BoundedSemaphore(concurrency)
        self._lock = threading.Lock()
        self._kept: list[_Connection] = []  # the one used last is the last
        self._closed = False

    def request(self, method: str, path: str, body: bytes | None, deadline: float) -> Answer:
        """One exchange that ends at `deadline` (time.monotonic, seconds). Raises TransportError.

        A server closes kept connections when it likes. So a request that breaks off on one of those goes once more,
        over a new one: asking twice changes nothing.
        """
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        request = f"{method} {path} HTTP/1.1\r\n{self._names}{length}\r\n".encode("ascii") + (body or b"")
        if not self._places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TransportError(f"{self._where} is busy: none of its connections became free in time")
        try:
            try:
                return self._exchange(self._kept_one() or self._connected(deadline), request, deadline)
            except _Broken as error:
                if not error.kept:
                    raise
                return self._exchange(self._connected(deadline), request, deadline)
        except TimeoutError:
            raise TransportError(f"{self._where} gave no answer in time") from None
        except _Broken as error:
            raise TransportError(f"{self._where} broke off: {error}") from None
        except OSError as error:
            raise TransportError(f"cannot reach {self._where}: {_said(error)}") from None
        finally:
            self._places.release()

    def close(self) -> None:
        """Ends the connections."""
        with self._lock:
            self._closed = True
            kept, self._kept = self._kept, []
        for connection in kept:
            connection.end()

    def _exchange(self, connection: "_Connection", request: bytes, deadline: float) -> Answer:
        keep = False
        try:
            status, answer, keep = connection.exchange(request, deadline)
        except TimeoutError:
            raise
        except _TooLong:
            raise TransportError(f"{self._where} answers with more than {_MAX_ANSWER} bytes") from None
        except (_NoAnswer, OSError) as error:
            raise _Broken(error, kept=connection.served > 0) from None
        finally:
            if keep:
                self._keep(connection)
            else:
                connection.end()
        return Answer(status, answer, connection.since)

    def _kept_one(self) -> "_Connection | None":
        oldest = time.monotonic() - _KEEP_SECONDS
        with self._lock:
            stale = [connection for connection in self._kept if connection.used < oldest]
            self._kept = [connection for connection in self._kept if connection.used >= oldest]
            found = self._kept.pop() if self._kept else None
        for connection in stale:
            connection.end()
        if found is not None and not found.silent():
            found.end()
            return None
        return found

    def _keep(self, connection: "_Connection") -> None:
        with self._lock:
            if not self._closed:
                self._kept.append(connection)
                return
        connection.end()

    def _connected(self, deadline: float) -> "_Connection":
        """A new connection. OSError; TimeoutError at the deadline.

        The name of another machine is looked up in here without a deadline: the daemon's own ends that.
        """
        plain = self._reached(deadline)
        if self._tls is not None:
            plain.settimeout(_left(deadline))  # of the whole handshake (_ssl.c)
            plain = self._tls.wrap_socket(plain, server_hostname=self._host)  # which closes it when it fails
        return _Connection(plain)

    def _reached(self, deadline: float) -> socket.socket:
        if self._path is not None:
            return _connect(socket.AF_UNIX, self._path, deadline)
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except ValueError as error:  # no name: an empty label, or one that is too long
            raise OSError(str(error)) from None
        for family, *_, address in found[:-1]:
            try:
                return _connect(family, address, deadline)
            except OSError:
                continue  # the next address; at the deadline, `_left` ends it
        return _connect(found[-1][0], found[-1][4], deadline)


def _connect(family: int, address: Any, deadline: float) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(_left(deadline))
        made.connect(address)
        if family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        made.close()
        raise
    return made


class _Connection:
    """One connection, over which exchanges go one after the other."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected
        self.since = self.used = time.monotonic()
        self.served = 0

    def exchange(self, request: bytes, deadline: float) -> tuple[int, bytes, bool]:
        """Status, body, and whether it may serve again. _NoAnswer, _TooLong, OSError."""
        left = memoryview(request)
        while left:
            self._connected.settimeout(_left(deadline))
            left = left[self._connected.send(left) :]
        came = bytearray()
        while True:
            newest, status, fields = self._head(came, deadline)
            if status == _SWITCHING:
                raise _NoAnswer("it wants to speak something else than HTTP")
            if status >= _FINAL:
                break  # before it, what is said early (103): the answer itself comes after that
        length = _length(status, fields)
        while len(came) < length:
            came += self._receive(deadline)
        self.served += 1
        self.used = time.monotonic()
        # What comes after the answer would be taken for the next one's.
        ends = b"close" in fields.get(b"connection", b"").lower() or status in _BODILESS
        return status, bytes(came[:length]), newest and not ends and len(came) == length

    def _head(self, came: bytearray, deadline: float) -> tuple[bool, int, dict[bytes, bytes]]:
        """Takes a head off the front of what came: whether it is HTTP/1.1, its status, its fields in lower case."""
        while (end := came.find(b"\r\n\r\n")) < 0:
            if len(came) > _MAX_HEAD or not _BEGINNING.startswith(came[: len(_BEGINNING)]):
                raise _NoAnswer(f"no HTTP/1.1, or a head of more than {_MAX_HEAD} bytes: {bytes(came[:80])!r}")
            came += self._receive(deadline)
        first, *lines = bytes(came[:end]).split(b"\r\n")
        del came[: end + 4]
        found = _FIRST_LINE.fullmatch(first)
        if found is None:
            raise _NoAnswer(f"no HTTP/1.1: {first[:80]!r}")
        fields: dict[bytes, bytes] = {}
        for line in lines:
            field = _FIELD.fullmatch(line)
            if field is None:
                raise _NoAnswer(f"no header field: {line[:80]!r}")
            name, value = field[1].lower(), field[2].rstrip()
            fields[name] = value if name not in fields else fields[name] + b", " + value
        return found[1] == b"1", int(found[2]), fields

    def _receive(self, deadline: float) -> bytes:
        self._connected.settimeout(_left(deadline))
        piece = self._connected.recv(_PIECE)
        if not piece:
            raise _NoAnswer("the connection ended before the answer did")
        return piece

    def silent(self) -> bool:
        """Whether nothing came while nothing was asked: neither its end nor what would be taken for the next answer."""
        if isinstance(self._connected, ssl.SSLSocket) and self._connected.pending():
            return False
        polled = select.poll()
        polled.register(self._connected, select.POLLIN)
        return not polled.poll(0)

    def end(self) -> None:
        self._connected.close()


def _length(status: int, fields: dict[bytes, bytes]) -> int:
    """How long the body is. _NoAnswer where that is not said, or not clear; _TooLong."""
    if b"transfer-encoding" in fields:
        raise _NoAnswer("an answer in pieces: expected one with Content-Length")
    if status in _BODILESS:
        return 0
    said = fields.get(b"content-length")
    if said is None or _LENGTH.fullmatch(said) is None:
        raise _NoAnswer("an answer without its length" if said is None else f"a length of {said[:40]!r}")
    length = int(said)
    if length > _MAX_ANSWER:
        raise _TooLong
    return length


def _said(error: Exception) -> str:
    """What is wrong, fit for a reason: what came from the server is in it."""
    text = str(error) or type(error).__name__
    return "".join(char if char.isprintable() else "?" for char in text[:_LONGEST_REASON])


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
