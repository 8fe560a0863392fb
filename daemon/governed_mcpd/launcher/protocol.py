"""The launcher's few messages of control.proto in protobuf's wire format, without the protobuf runtime.

Importing that runtime would be the largest part of a sandbox's start. Field numbers are those of
proto/governed/v1/control.proto; a test compares every message with the generated code.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

MOST_BYTES = 16 * 1024 * 1024
SUPERVISED, REFUSED, WAITING, ENDED, FROZEN = 1, 2, 3, 4, 5
"""Notice.Kind."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Value = int | bytes


class ProtocolError(Exception):
    """The daemon is gone, or said something that is not of this protocol. The message says which."""


class DaemonError(Exception):
    """The daemon's refusal, in its words."""


class Envelope(NamedTuple):
    """Canonical paths for Landlock."""

    read: list[bytes]
    write: list[bytes]
    execute: list[bytes]
    listed: list[bytes]


class Limit(NamedTuple):
    """One setrlimit(2)."""

    resource: str
    soft: int
    hard: int


class RunPlan(NamedTuple):
    """What the child has to do to become the sandbox."""

    sandbox: str
    token: str
    filter: bytes
    filter_flags: int
    envelope: Envelope
    scratch: bytes
    drop_environment: list[bytes]
    set_environment: list[tuple[bytes, bytes]]
    limits: list[Limit]
    seal: str
    notes: list[str]


class Notice(NamedTuple):
    """What the daemon has to say about a running sandbox."""

    kind: int
    operation: str
    object: bytes
    layer: str
    rule: str
    reason: str
    approval: str
    record: int


class Stream:
    """Frames (4-byte big-endian length, then the message) over a connected stream socket.

    read(2) and write(2) only: they pass the filter, sendmsg does not.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._buffer = bytearray()

    def send(self, message: bytes) -> None:
        """One frame, whole. OSError when the daemon is gone."""
        data = len(message).to_bytes(4, "big") + message
        while data:
            data = data[os.write(self.descriptor, data) :]

    def receive(self) -> dict[int, list[_Value]]:
        """The next ControlReply; waits for it. ProtocolError when the stream ends, DaemonError when it is an Error."""
        while (body := self.buffered()) is None:
            if not self.fill():
                raise ProtocolError("the daemon closed the connection: is it running? (governedctl status)")
        reply = fields(body)
        if 1 in reply:
            error = fields(_last_bytes(reply, 1))
            raise DaemonError(_text(error, 2) or _text(error, 1))
        return reply

    def fill(self) -> bool:
        """Reads what has come (waits when nothing has). False at the end of the stream."""
        piece = os.read(self.descriptor, 262144)
        self._buffer += piece
        return bool(piece)

    def buffered(self) -> bytes | None:
        """The next whole frame that was read already."""
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if length > MOST_BYTES:
            raise ProtocolError(f"a message of {length} bytes was announced: at most {MOST_BYTES} are expected")
        if len(self._buffer) < 4 + length:
            return None
        body = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        return body


# ---- what the launcher says


def run_request(
    *,
    profile: str,
    agent: str,
    task: str,
    argv: list[bytes],
    cwd: bytes,
    home: bytes,
    environment: list[bytes],
    server: str,
    nested: bool,
) -> bytes:
    """ControlRequest{run}."""
    parts = [_string(1, profile), _string(2, agent), _string(3, task)]
    parts += [_bytes(4, word) for word in argv]
    parts += [_filled(5, cwd), _filled(6, home)]
    parts += [_bytes(7, name) for name in environment]
    parts += [_string(8, server), _number(9, int(nested))]
    return _bytes(1, b"".join(parts))


def adopt_request(token: str) -> bytes:
    """ControlRequest{adopt}."""
    return _bytes(2, _string(1, token))


def listen_request(listener: int) -> bytes:
    """ControlRequest{listen}."""
    return _bytes(3, _number(1, listener))


# ---- what the daemon says


def run_plan(reply: dict[int, list[_Value]]) -> RunPlan:
    """ControlReply.run. ProtocolError when the reply is something else, or the plan lacks what makes a sandbox."""
    plan = fields(_expected(reply, 2, "a RunPlan"))
    envelope = fields(_expected(plan, 5, "an Envelope in the plan"))
    found = RunPlan(
        sandbox=_text(plan, 1),
        token=_text(plan, 2),
        filter=_last_bytes(plan, 3),
        filter_flags=_last_number(plan, 4),
        envelope=Envelope(*(_all_bytes(envelope, number) for number in (1, 2, 3, 4))),
        scratch=_last_bytes(plan, 6),
        drop_environment=_all_bytes(plan, 7),
        set_environment=[(_last_bytes(entry, 1), _last_bytes(entry, 2)) for entry in map(fields, _all_bytes(plan, 8))],
        limits=[
            Limit(_text(entry, 1), _last_number(entry, 2), _last_number(entry, 3))
            for entry in map(fields, _all_bytes(plan, 9))
        ],
        seal=_text(plan, 10),
        notes=[_decoded(note) for note in _all_bytes(plan, 11)],
    )
    if not found.sandbox or not found.token:
        raise ProtocolError("the daemon's plan has no sandbox or no token")
    return found


def check_adopted(reply: dict[int, list[_Value]]) -> None:
    """ControlReply.adopted, or ProtocolError."""
    _expected(reply, 3, "Adopted")


def check_listening(reply: dict[int, list[_Value]]) -> None:
    """ControlReply.listening, or ProtocolError."""
    _expected(reply, 4, "Listening")


def notice(body: bytes) -> Notice | None:
    """ControlReply.notice; None for any other reply."""
    reply = fields(body)
    if 5 not in reply:
        return None
    found = fields(_last_bytes(reply, 5))
    return Notice(
        kind=_last_number(found, 1),
        operation=_text(found, 2),
        object=_last_bytes(found, 3),
        layer=_text(found, 4),
        rule=_text(found, 5),
        reason=_text(found, 6),
        approval=_text(found, 7),
        record=_last_number(found, 8),
    )


# ---- protobuf's wire format: https://protobuf.dev/programming-guides/encoding/


def fields(data: bytes) -> dict[int, list[_Value]]:
    """The fields of a message by number, in order: int for varints, bytes for what has a length. ProtocolError."""
    found: dict[int, list[_Value]] = {}
    for number, value in _walk(data):
        found.setdefault(number, []).append(value)
    return found


def _walk(data: bytes) -> Iterator[tuple[int, _Value]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ProtocolError("a message of the daemon has a field 0")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ProtocolError(f"a message of the daemon has a field of wire type {kind}")
        if at + length > len(data):
            raise ProtocolError("a message of the daemon ends inside a field")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ProtocolError("a message of the daemon ends inside a number")


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(number: int, value: bytes) -> bytes:
    return _as_varint(number << 3 | _BYTES) + _as_varint(len(value)) + value


def _filled(number: int, value: bytes) -> bytes:
    return _bytes(number, value) if value else b""  # proto3 leaves out what is empty


def _string(number: int, value: str) -> bytes:
    return _filled(number, value.encode("utf-8", "replace"))


def _number(number: int, value: int) -> bytes:
    return _as_varint(number << 3 | _VARINT) + _as_varint(value) if value else b""


def _expected(message: dict[int, list[_Value]], number: int, what: str) -> bytes:
    if number not in message:
        raise ProtocolError(f"expected {what} from the daemon: launcher and daemon are of different versions")
    return _last_bytes(message, number)


def _all_bytes(message: dict[int, list[_Value]], number: int) -> list[bytes]:
    values = message.get(number, [])
    found = [value for value in values if isinstance(value, bytes)]
    if len(found) != len(values):
        raise ProtocolError(f"a message of the daemon has a number where field {number} has bytes")
    return found


def _last_bytes(message: dict[int, list[_Value]], number: int) -> bytes:
    found = _all_bytes(message, number)
    return found[-1] if found else b""


def _last_number(message: dict[int, list[_Value]], number: int) -> int:
    values = message.get(number, [0])
    if not isinstance(values[-1], int):
        raise ProtocolError(f"a message of the daemon has bytes where field {number} has a number")
    return values[-1]


def _text(message: dict[int, list[_Value]], number: int) -> str:
    return _decoded(_last_bytes(message, number))


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "replace")
