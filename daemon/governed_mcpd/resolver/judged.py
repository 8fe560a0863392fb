"""The daemon's connection: it opens a port for each Subject, and says of each question whether it may leave the
machine.

Nothing is asked without that, and no answer reaches its client before the daemon has noted the addresses in it: they
are judged by these names. When the connection ends every port is closed.
"""

import asyncio
import contextlib
import itertools
import logging
import socket
import struct
from collections.abc import Sequence
from functools import partial

import dns.rcode

from governed.v1 import resolver_pb2 as pb
from governed_mcpd.control.framing import FramingError, decode, encode
from governed_mcpd.resolver.messages import REFUSED, Found, Question
from governed_mcpd.resolver.ports import NoPort, Port
from governed_mcpd.resolver.upstreams import Upstreams, shown

log = logging.getLogger(__name__)
MOST_MESSAGE = 64 * 1024
MOST_SUBJECTS = 8192
_LENGTH = struct.Struct(">I")
_UCRED = struct.Struct("iII")


class Judged:
    """One connection of the daemon."""

    def __init__(self, upstreams: Upstreams, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._upstreams = upstreams
        self._reader = reader
        self._writer = writer
        self._ports: dict[str, Port] = {}
        self._ids = itertools.count(1)
        self._decided: dict[int, asyncio.Future[bool]] = {}
        self._noted: dict[int, asyncio.Future[None]] = {}
        self._asking: dict[tuple[str, Question], asyncio.Task[Found]] = {}

    async def serve(self) -> None:
        """Until the daemon is gone, or says what cannot be understood."""
        servers = self._upstreams.current()
        self._tell(pb.FromResolver(serving=_serving(servers, self._upstreams.reason)))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                    if not 0 < length <= MOST_MESSAGE:
                        raise FramingError(f"a message of {length} bytes: 1 to {MOST_MESSAGE} are taken")
                    await self._heard(decode(await self._reader.readexactly(length), pb.ToResolver))
        except FramingError as error:
            log.error("the daemon's message cannot be read: %s", error)
        finally:
            self.close()

    def close(self) -> None:
        """Whoever waits gets no answer any more, or REFUSED."""
        self._writer.close()
        for task in self._asking.values():
            task.cancel()
        for port in self._ports.values():
            port.close()
        self._ports.clear()

    async def _heard(self, message: pb.ToResolver) -> None:
        which = message.WhichOneof("what")
        if which == "open":
            await self._open(message.open.subject)
        elif which == "close":
            port = self._ports.pop(message.close.subject, None)
            if port is not None:
                port.close()
        elif which == "decided":
            decided = self._decided.pop(message.decided.id, None)
            if decided is not None and not decided.done():
                decided.set_result(message.decided.allowed)
        elif which == "noted":
            noted = self._noted.pop(message.noted.id, None)
            if noted is not None and not noted.done():
                noted.set_result(None)

    async def _open(self, subject: str) -> None:
        if subject in self._ports:
            self._tell(pb.FromResolver(opened=pb.ResolverOpened(subject=subject, port=self._ports[subject].number)))
            return
        port = Port(partial(self.resolve, subject))
        try:
            if len(self._ports) >= MOST_SUBJECTS:
                raise NoPort(f"{MOST_SUBJECTS} Subjects have one already")
            number = await port.open()
        except (NoPort, OSError) as error:
            log.error("no port for %s: %s", subject, error)
            self._tell(pb.FromResolver(opened=pb.ResolverOpened(subject=subject, reason=str(error))))
            return
        self._ports[subject] = port
        self._tell(pb.FromResolver(opened=pb.ResolverOpened(subject=subject, port=number)))

    async def resolve(self, subject: str, question: Question) -> Found:
        """What a Subject's question has for an answer. The same question, asked again while it waits, waits with it:
        clients repeat what nobody answers within seconds, and a person takes longer."""
        key = (subject, question)
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.ensure_future(self._resolve(subject, question))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                return REFUSED  # the daemon is gone
            raise

    async def _resolve(self, subject: str, question: Question) -> Found:
        loop = asyncio.get_running_loop()
        identity = next(self._ids)
        decided: asyncio.Future[bool] = loop.create_future()
        self._decided[identity] = decided
        lookup = pb.ResolverLookup(id=identity, subject=subject, name=question.name, type=question.type)
        self._tell(pb.FromResolver(lookup=lookup))
        if not await decided:
            return REFUSED
        found = await self._upstreams.ask(question)
        noted: asyncio.Future[None] = loop.create_future()
        self._noted[identity] = noted
        self._tell(pb.FromResolver(answer=_answer(identity, found)))
        await noted
        return found

    def _tell(self, message: pb.FromResolver) -> None:
        self._writer.write(encode(message, limit=MOST_MESSAGE))


def is_daemon(writer: asyncio.StreamWriter, trusted: frozenset[int]) -> bool:
    """Whether who connected is root, or who this program runs as: unix(7), SO_PEERCRED."""
    sock: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid in trusted


def _serving(servers: Sequence[tuple[str, int]], reason: str) -> pb.ResolverServing:
    return pb.ResolverServing(upstreams=[shown(server) for server in servers], reason=reason if not servers else "")


def _answer(identity: int, found: Found) -> pb.ResolverAnswer:
    return pb.ResolverAnswer(
        id=identity,
        code=dns.rcode.to_text(found.code),
        addresses=found.addresses,
        aliases=found.aliases,
        seconds=found.seconds,
    )
