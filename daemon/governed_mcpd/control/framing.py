"""One message on the control socket: a 4-byte big-endian length, then that many bytes of protobuf.

Imports stay few: the launcher pays for them at every start. Its child speaks this protocol after the filter is loaded,
when sendmsg(2) is held; `send` therefore uses send(2) without an address, which passes.
"""

import os
import socket
import struct
import time
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

CONTROL_SOCKET = "control.sock"
MAX_MESSAGE = 16 * 1024 * 1024

_LENGTH = struct.Struct(">I")
_CHUNK = 256 * 1024

AnyMessage = TypeVar("AnyMessage", bound=Message)


class FramingError(ValueError):
    """Bytes that are no message of this protocol. The stream cannot be used any further: close it."""


def socket_path(runtime_dir: str) -> str:
    """Where the daemon that uses `runtime_dir` listens."""
    return os.path.join(runtime_dir, CONTROL_SOCKET)


def encode(message: Message, *, limit: int = MAX_MESSAGE) -> bytes:
    """Length and message as they stand on the wire; FramingError when it is empty or longer than `limit` bytes."""
    body = message.SerializeToString()
    if not body:
        raise FramingError(f"an empty {type(message).__name__} says nothing: expected one of its fields to be set")
    if len(body) > limit:
        raise FramingError(f"the {type(message).__name__} has {len(body)} bytes: at most {limit} can be sent")
    return _LENGTH.pack(len(body)) + body


def send(sock: socket.socket, message: Message) -> None:
    """Sends one message, whole. TimeoutError after the socket's timeout, OSError when the peer is gone."""
    sock.sendall(encode(message), socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, kind: type[AnyMessage], *, limit: int = MAX_MESSAGE) -> AnyMessage | None:
    """The next message, or None when the peer closed the stream between two messages.

    The socket's timeout bounds the whole message, not each piece of it: a peer that sends a byte now and then is not
    waited for any longer (TimeoutError; close the stream then). FramingError for half a message, an empty one, one that
    is longer than `limit` bytes, or one that does not parse.
    """
    timeout = sock.gettimeout()
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        header = _exactly(sock, _LENGTH.size, deadline)
        if not header:
            return None
        if len(header) < _LENGTH.size:
            raise FramingError(f"the stream ended inside a length: {len(header)} of {_LENGTH.size} bytes came")
        (length,) = _LENGTH.unpack(header)
        if length == 0:
            raise FramingError(f"a message of 0 bytes: every {kind.__name__} has at least one field set")
        if length > limit:
            raise FramingError(f"a message of {length} bytes was announced: at most {limit} are taken")
        body = _exactly(sock, length, deadline)
    finally:
        if deadline is not None:
            sock.settimeout(timeout)
    if len(body) < length:
        raise FramingError(f"the stream ended inside a message: {len(body)} of {length} bytes came")
    return decode(body, kind)


def decode(body: bytes | bytearray, kind: type[AnyMessage]) -> AnyMessage:
    """The message that `body` (without its length) is."""
    try:
        return kind.FromString(bytes(body))
    except DecodeError as error:
        raise FramingError(f"{len(body)} bytes that are no {kind.__name__}: {error}") from None


def _exactly(sock: socket.socket, count: int, deadline: float | None) -> bytearray:
    """`count` bytes, or fewer when the stream ends. Memory grows with what came, not with what was announced."""
    received = bytearray()
    while len(received) < count:
        if deadline is not None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"{len(received)} of {count} bytes came before the deadline")
            sock.settimeout(remaining)
        piece = sock.recv(min(count - len(received), _CHUNK))
        if not piece:
            break
        received += piece
    return received
