"""HTTP to one server: connections kept alive, one deadline over the whole exchange, bounded answers, no streaming.

http.client's timeout is for one read each: a server that sends a byte now and then would hold a decision for ever. So a
connection's socket stands behind `_Socket`, which ends every read and write at the deadline of the exchange. (A client
library with a pool of its own took 0.8 ms of processor time for each request, http.client takes a third of it.)
"""

import http
import http.client
import io
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_MAX_ANSWER = 4 * 1024 * 1024
_MAX_HEAD = 256 * 1024
_LONGEST_REASON = 200
_KEEP_SECONDS = 60.0
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class TransportError(RuntimeError):
    """No answer. The text says what was tried and why it failed."""


class _TooLong(http.client.HTTPException):
    """More bytes came than any answer has."""


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
        if not self._places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TransportError(f"{self._where} is busy: none of its connections became free in time")
        try:
            try:
                return self._exchange(self._kept_one() or self._connected(deadline), method, path, body, deadline)
            except _Broken as error:
                if not error.kept:
                    raise
                return self._exchange(self._connected(deadline), method, path, body, deadline)
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

    def _exchange(self, connection: "_Connection", method: str, path: str, body: bytes | None, until: float) -> Answer:
        keep = False
        try:
            status, answer, keep = connection.exchange(method, path, body, until)
        except TimeoutError:
            raise
        except _TooLong:
            raise TransportError(f"{self._where} answers with more than {_MAX_ANSWER} bytes") from None
        except (http.client.HTTPException, OSError, ValueError) as error:  # ValueError: a length below zero
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
        return _Connection(self._host, self._port, _Socket(plain))

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


class _Connection(http.client.HTTPConnection):
    """One connection, over which exchanges go one after the other."""

    auto_open = 0  # a request that finds it closed fails, rather than opening another

    def __init__(self, host: str, port: int, connected: "_Socket") -> None:
        super().__init__(host, port)
        self.sock = connected
        self._within = connected
        self.since = self.used = time.monotonic()
        self.served = 0

    def exchange(self, method: str, path: str, body: bytes | None, deadline: float) -> tuple[int, bytes, bool]:
        """Status, body, and whether it may serve again. HTTPException, OSError, ValueError."""
        self._within.begin(deadline)
        self.request(method, path, body, _HEADERS)
        response = self.getresponse()
        if response.status < http.HTTPStatus.OK:
            # http.client takes 102 and 103 for the answer: the real one would then be the next question's.
            raise http.client.BadStatusLine(f"status {response.status} is no answer")
        length = response.length
        if length is None and not response.chunked:
            # Where the head of an answer is cut, its length is mostly lost: the rest is no whole answer then.
            raise http.client.BadStatusLine("an answer without its length")
        answer = response.read(_MAX_ANSWER + 1)
        if len(answer) > _MAX_ANSWER:
            raise _TooLong
        if (length is not None and len(answer) < length) or not response.isclosed():
            raise http.client.IncompleteRead(answer)
        self.served += 1
        self.used = time.monotonic()
        bodiless = response.status in (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED)
        return response.status, answer, not (bodiless or response.will_close or self._within.said_more)

    def silent(self) -> bool:
        """Whether nothing came while nothing was asked: neither its end nor what would be taken for the next answer."""
        return self._within.silent()

    def end(self) -> None:
        self.close()
        self._within.end()


class _Socket:
    """What http.client needs of a socket, with a deadline; what is written goes out when something is read, at once."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected
        self._written: list[bytes] = []
        self._deadline = 0.0
        self._room = 0  # bytes that may still come
        self.said_more = False  # bytes came after an answer's end

    def begin(self, deadline: float) -> None:
        """An exchange."""
        self._deadline = deadline
        self._room = _MAX_HEAD + _MAX_ANSWER

    def sendall(self, data: bytes) -> None:
        self._written.append(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        left, self._written = memoryview(b"".join(self._written)), []
        while left:
            self._connected.settimeout(_left(self._deadline))
            left = left[self._connected.send(left) :]
        return _Reader(self)

    def read_into(self, buffer: memoryview) -> int:
        self._connected.settimeout(_left(self._deadline))
        count = self._connected.recv_into(buffer)
        self._room -= count
        if self._room < 0:
            raise _TooLong
        return count

    def silent(self) -> bool:
        if isinstance(self._connected, ssl.SSLSocket) and self._connected.pending():
            return False
        polled = select.poll()
        polled.register(self._connected, select.POLLIN)
        return not polled.poll(0)

    def close(self) -> None:
        """http.client closes it before it reads the answer of a server that will close it."""

    def end(self) -> None:
        self._connected.close()


class _Bytes(io.RawIOBase):
    """What arrives. Closing it leaves the connection open."""

    def __init__(self, source: _Socket) -> None:
        self.source = source
        self.over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # a writable buffer is what it is given
        return 0 if self.over else self.source.read_into(buffer)


class _Reader(io.BufferedReader):
    """One answer. What it has read past that answer's end would be missing from the next one, or be it."""

    def __init__(self, source: _Socket) -> None:
        self._bytes = _Bytes(source)
        super().__init__(self._bytes)

    def close(self) -> None:
        if not self.closed:
            self._bytes.over = True
            self._bytes.source.said_more = bool(self.peek(1))
        super().close()


def _said(error: Exception) -> str:
    """What is wrong, fit for a reason: what came from the server is in it."""
    text = str(error) or type(error).__name__
    return "".join(char if char.isprintable() else "?" for char in text[:_LONGEST_REASON])


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
