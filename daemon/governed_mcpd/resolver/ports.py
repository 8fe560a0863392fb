"""The port of one Subject: UDP and TCP, on 127.0.0.1 and ::1. Which Subject asks is told by the port alone; in the
kernel, bpf/names.bpf.c sees to it that no other Subject reaches it."""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import cast

from governed_mcpd.resolver import messages
from governed_mcpd.resolver.messages import Found, Question

log = logging.getLogger(__name__)
Resolve = Callable[[Question], Awaitable[Found]]
IDLE_SECONDS = 30.0
MOST_WAITING = 128  # questions of one Subject; more are refused
MOST_STREAMS = 32
_LENGTH = struct.Struct("!H")
_TRIES = 32


class NoPort(Exception):
    """No port is free for both protocols."""


class Port:
    """Listens until it is closed. `resolve` answers a question, and may take as long as a person does."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []
        self._streams = 0
        self._questions = 0
        self.number = 0

    async def open(self) -> int:
        """The port's number. NoPort."""
        self.number, found = _bound()
        for kind, one in found:
            if kind is socket.SOCK_STREAM:
                self._servers.append(await asyncio.start_server(self._stream, sock=one))
            else:
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=one)
                self._transports.append(transport)
        return self.number

    def close(self) -> None:
        """Nobody is answered any more."""
        for transport in self._transports:
            transport.close()
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()

    def datagram(self, wire: bytes, answer: Callable[[bytes], None]) -> None:
        """A message over UDP."""
        self._begin(self._answer(wire, answer, stream=False))

    def _begin(self, work: "Awaitable[None]") -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, wire: bytes, answer: Callable[[bytes], None], *, stream: bool) -> None:
        message, asked = messages.read(wire)
        if asked is None:
            return
        if message is None or isinstance(asked, bytes):
            assert isinstance(asked, bytes)
            answer(asked)
            return
        if self._questions >= MOST_WAITING:
            answer(messages.reply(message, messages.REFUSED, stream=stream))
            return
        self._questions += 1
        try:
            found = await self._resolve(asked)
        finally:
            self._questions -= 1
        answer(messages.reply(message, found, stream=stream))

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: messages with their length in front (RFC 1035, 4.2.2)."""
        if self._streams >= MOST_STREAMS:
            writer.close()
            return
        self._streams += 1

        def answer(wire: bytes) -> None:
            writer.write(_LENGTH.pack(len(wire)) + wire)

        try:
            with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError, OSError):
                while True:
                    async with asyncio.timeout(IDLE_SECONDS):
                        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                        wire = await reader.readexactly(length)
                    await self._answer(wire, answer, stream=True)
                    await writer.drain()
        finally:
            self._streams -= 1
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, port: Port) -> None:
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._port.datagram(data, lambda wire: self._transport.sendto(wire, addr))

    def error_received(self, exc: Exception) -> None:
        log.debug("a client is gone: %s", exc)


def _bound() -> tuple[int, list[tuple[socket.SocketKind, socket.socket]]]:
    """Four sockets of one port, two where there is no IPv6."""
    families = [(socket.AF_INET, "127.0.0.1"), *([(socket.AF_INET6, "::1")] if _has_ipv6() else [])]
    for _ in range(_TRIES):
        number = 0
        found: list[tuple[socket.SocketKind, socket.socket]] = []
        try:
            for family, address in families:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    one = socket.socket(family, kind)
                    found.append((kind, one))
                    one.setblocking(False)
                    if family == socket.AF_INET6:
                        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    one.bind((address, number))
                    number = one.getsockname()[1]
        except OSError as error:
            log.debug("port %d: %s", number, error)
            for _, one in found:
                one.close()
            continue
        return number, found
    raise NoPort(f"no port of loopback is free for UDP and TCP ({_TRIES} were tried)")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True
