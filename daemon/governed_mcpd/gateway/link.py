"""The gateway's connection to the daemon. One thread owns it; whoever waits for its descriptor calls `readable`."""

import itertools
import os
import socket
import traceback
from collections.abc import Callable
from contextlib import suppress

from governed.v1 import control_pb2 as pb
from governed_mcpd.control.client import ControlError, DaemonUnreachable
from governed_mcpd.control.framing import CONTROL_SOCKET, FramingError, decode, encode, receive

SANDBOX_SOCKET = "sandbox.sock"
SECONDS = 30.0
_MOST = 16 * 1024 * 1024
Answer = Callable[[pb.McpAnswer | None], None]


class Link:
    """`ask` hands each answer to its callback; None when the daemon is gone. `gone` says so. `content` is what policy
    says of content now."""

    def __init__(self, sock: socket.socket, opened: pb.McpOpened) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Answer] = {}
        self.opened = opened
        self.content = opened.content
        self.gone = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def tell(self, message: pb.McpMessage) -> None:
        """Sends what wants no answer."""
        if self.gone:
            return
        try:
            self._write(encode(pb.ControlRequest(mcp=message)))
        except (OSError, FramingError):
            self._lost()

    def _write(self, frame: bytes) -> None:
        """At once where there is room, which is nearly always."""
        try:
            sent = self._sock.send(frame, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        if sent < len(frame):
            self._sock.settimeout(SECONDS)
            try:
                self._sock.sendall(frame[sent:], socket.MSG_NOSIGNAL)
            finally:
                self._sock.settimeout(None)

    def ask(self, message: pb.McpMessage, then: Answer) -> int:
        """Sends `message` under a new number, which is returned; `then` may be called more than once (waiting, then
        decided), and at once when the daemon is gone."""
        number = next(self._numbers)
        message.id = number
        self._asked[number] = then
        self.tell(message)
        if self.gone and self._asked.pop(number, None) is not None:
            then(None)
        return number

    def readable(self) -> None:
        """Reads what is there and hands it on."""
        if self.gone:
            return
        try:
            piece = self._sock.recv(262144, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._lost()
            return
        self._buffer += piece
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > _MOST:
                self._lost()
                return
            if len(self._buffer) < 4 + length:
                return
            body = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            try:
                reply = decode(body, pb.ControlReply)
            except FramingError:
                self._lost()
                return
            if reply.WhichOneof("reply") != "mcp":
                self._lost()
                return
            self._hand_on(reply.mcp)

    def _hand_on(self, answer: pb.McpAnswer) -> None:
        if answer.WhichOneof("what") == "content":
            self.content = answer.content
            return
        last = answer.WhichOneof("what") != "waiting"
        then = self._asked.pop(answer.id, None) if last else self._asked.get(answer.id)
        if then is not None:
            _call(then, answer)

    def _lost(self) -> None:
        if self.gone:
            return
        self.gone = True
        with suppress(OSError):  # whoever waits for this descriptor is woken, and the daemon ends the session
            self._sock.shutdown(socket.SHUT_RDWR)
        asked, self._asked = self._asked, {}
        for then in asked.values():
            _call(then, None)

    def close(self) -> None:
        self._sock.close()


def _call(then: Answer, answer: pb.McpAnswer | None) -> None:
    """What goes wrong with one answer is no reason to keep the others back; nothing is forwarded by it."""
    try:
        then(answer)
    except Exception:
        traceback.print_exc()


def open_link(runtime_dir: str, *, nested: bool, request: pb.McpOpenRequest) -> Link:
    """Connects and opens a session. ControlError with the daemon's words, or DaemonUnreachable."""
    path = os.path.join(runtime_dir, SANDBOX_SOCKET if nested else CONTROL_SOCKET)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.settimeout(SECONDS)
    try:
        sock.connect(path)
        sock.sendall(encode(pb.ControlRequest(mcp_open=request)))
        reply = receive(sock, pb.ControlReply)
        while reply is not None and reply.WhichOneof("reply") == "mcp":  # a policy that was applied at this moment
            reply = receive(sock, pb.ControlReply)
    except (OSError, FramingError) as error:
        sock.close()
        raise DaemonUnreachable(f"{path}: {error}: is governed-mcpd running (governedctl status)?") from None
    if reply is None or reply.WhichOneof("reply") != "mcp_opened":
        sock.close()
        if reply is not None and reply.WhichOneof("reply") == "error":
            raise ControlError(reply.error.code, reply.error.message)
        raise DaemonUnreachable(f"{path}: the daemon gave no answer that a gateway knows: is it of the same version?")
    sock.settimeout(None)
    return Link(sock, reply.mcp_opened)
