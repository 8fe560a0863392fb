"""HTTP to one server: connections kept alive, one deadline over the whole exchange, bounded answers, no streaming.

httpcore's timeouts are for one read each: a server that sends a byte now and then would hold a decision for ever. So
the network backend below ends every read, write and connect at the deadline of the request that its thread makes.
"""

import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpcore2

_MAX_ANSWER = 4 * 1024 * 1024
_KEEP_SECONDS = 60.0
_HEADERS = [("Content-Type", "application/json"), ("Accept-Encoding", "identity")]


class TransportError(RuntimeError):
    """No answer. The text says what was tried and why it failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body. `connected`: when its connection was opened (time.monotonic, seconds)."""

    status: int
    body: bytes
    connected: float


class _Exchange(threading.local):
    """What this thread is doing: until when, and over which connection."""

    deadline = 0.0
    connected = 0.0


class Transport:
    """For any number of threads. At most `concurrency` requests at a time; those past it wait within their deadline."""

    def __init__(self, url: str, concurrency: int) -> None:
        """`url` as the Gate document has it: unix:/PATH, http://… or https://…"""
        self._exchange = _Exchange()
        path = url.removeprefix("unix:") if url.startswith("unix:") else None
        self._where = path or url.rstrip("/")
        base = httpcore2.URL("http://localhost" if path else url.rstrip("/"))
        self._origin = (base.scheme, base.host, base.port)
        self._pool = httpcore2.ConnectionPool(
            max_connections=concurrency,
            max_keepalive_connections=concurrency,
            keepalive_expiry=_KEEP_SECONDS,
            uds=path,
            ssl_context=ssl.create_default_context() if url.startswith("https:") else None,
            network_backend=_Backend(self._exchange),
        )

    def request(self, method: str, path: str, body: bytes | None, deadline: float) -> Answer:
        """One exchange that ends at `deadline` (time.monotonic, seconds). Raises TransportError.

        A server closes kept connections when it likes. So a request that breaks off on one of those goes once more,
        over another one: asking twice changes nothing.
        """
        begun = time.monotonic()
        for again in (True, False):
            try:
                return self._request(method, path, body, deadline)
            except httpcore2.PoolTimeout:
                raise TransportError(f"{self._where} is busy: none of its connections became free in time") from None
            except httpcore2.TimeoutException:
                raise TransportError(f"{self._where} gave no answer in time") from None
            except (httpcore2.RemoteProtocolError, httpcore2.ReadError, httpcore2.WriteError) as error:
                if not (again and self._exchange.connected < begun):
                    raise TransportError(f"{self._where} broke off: {_said(error)}") from None
            except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
                raise TransportError(f"cannot reach {self._where}: {_said(error)}") from None
        raise AssertionError("the second try returns or raises")

    def close(self) -> None:
        """Ends the connections."""
        self._pool.close()

    def _request(self, method: str, path: str, body: bytes | None, deadline: float) -> Answer:
        left = deadline - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout
        self._exchange.deadline = deadline
        scheme, host, port = self._origin
        with self._pool.stream(
            method,
            httpcore2.URL(scheme=scheme, host=host, port=port, target=path),
            headers=_HEADERS,
            content=body,
            extensions={"timeout": {"pool": left, "connect": left, "read": left, "write": left}},
        ) as response:
            parts, size = [], 0
            for part in response.iter_stream():
                size += len(part)
                if size > _MAX_ANSWER:
                    raise TransportError(f"{self._where} answers with more than {_MAX_ANSWER} bytes")
                parts.append(part)
            return Answer(response.status, b"".join(parts), self._exchange.connected)


class _Stream(httpcore2.NetworkStream):
    """A connection whose reads and writes end at the deadline of the exchange that uses it."""

    def __init__(self, stream: httpcore2.NetworkStream, exchange: _Exchange, connected: float) -> None:
        self._stream = stream
        self._exchange = exchange
        self._connected = connected

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = self._left(httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._exchange, self._connected)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _left(self, late: type[Exception]) -> float:
        self._exchange.connected = self._connected
        left = self._exchange.deadline - time.monotonic()
        if left <= 0:
            raise late
        return left


class _Backend(httpcore2.NetworkBackend):
    """Opens connections of that kind."""

    def __init__(self, exchange: _Exchange) -> None:
        self._backend = httpcore2.SyncBackend()
        self._exchange = exchange

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        # The name of another machine is looked up in here without a deadline: the daemon's own ends that.
        stream = self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._exchange, time.monotonic())

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None
    ) -> httpcore2.NetworkStream:
        stream = self._backend.connect_unix_socket(path, timeout, socket_options)
        return _Stream(stream, self._exchange, time.monotonic())

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
