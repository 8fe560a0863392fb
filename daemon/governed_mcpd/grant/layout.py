"""bpf/seal.h in Python: what the daemon and the seal's programs tell each other. A test compares it with the object."""

import ctypes as c
import ipaddress
import os
import socket
from dataclasses import dataclass

from governed_mcpd.grant.seal import Grant, GrantFailed
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation

LAYOUT = 1
NAME_BYTES, ID_BYTES, ADDRESS_BYTES, PATH_BYTES, PROGRAMS = 256, 64, 112, 1024, 4
CHUNK_BYTES, TEXT_MOST = 3584, 256 * 1024
SANDBOX_READS = 1
REQUEST_CLAIM, REQUEST_ADOPT = 1, 2
OWN_MAP, OWN_PROGRAM, OWN_LINK = 1, 2, 3
EVENT_PATH, EVENT_ADDRESS, EVENT_PROCESS = 1, 2, 3
_NANOSECONDS = 1_000_000_000

OPERATIONS: dict[Operation, int] = {
    operation: number
    for number, operation in enumerate((one for one in Operation if one is not Operation.NET_RESOLVE), 1)
}
"""enum seal_operation has the operations in their order, but for looking up a name, which is no system call of the
sandbox's; the names of what no operation fits follow."""
HOOKS = ("receive", "chroot", "mount", "namespace", "bpf", "perf", "ptrace", "module", "syslog", "uring", "quota",
         "clock", "sigio", "steer")  # fmt: skip
FIRST_HOOK = 64
REASONS = (
    "no grant",
    "the grant is for another object",
    "the grant has expired",
    "never allowed in a sandbox",
    "argv, environment or text differ from what was granted",
)
_WORDS = {number: operation.value for operation, number in OPERATIONS.items()} | {
    FIRST_HOOK + index: name for index, name in enumerate(HOOKS)
}


class Target(c.Structure):
    """struct seal_target."""

    _fields_ = (("object", c.c_uint64), ("parent", c.c_uint64), ("name", c.c_uint8 * NAME_BYTES))


class Address(c.Structure):
    """struct seal_address."""

    _fields_ = (
        ("family", c.c_uint32),
        ("protocol", c.c_uint32),
        ("port", c.c_uint32),
        ("bytes_used", c.c_uint32),
        ("bytes", c.c_uint8 * ADDRESS_BYTES),
    )


class GrantValue(c.Structure):
    """struct seal_grant."""

    _fields_ = (
        ("sandbox", c.c_uint64),
        ("expires", c.c_uint64),
        ("operation", c.c_uint32),
        ("stage", c.c_uint32),
        ("targets", Target * 2),
        ("programs", c.c_uint64 * PROGRAMS),
        ("program_count", c.c_uint32),
        ("argc", c.c_uint32),
        ("envc", c.c_uint32),
        ("text_bytes", c.c_uint32),
        ("process", c.c_int32),
        ("unused", c.c_uint32),
        ("address", Address),
    )


class TextKey(c.Structure):
    """struct seal_text_key."""

    _fields_ = (("thread", c.c_uint32), ("chunk", c.c_uint32))


class Object(c.Structure):
    """struct seal_object."""

    _fields_ = (
        ("id", c.c_uint64),
        ("writer", c.c_uint64),
        ("maker", c.c_uint64),
        ("labelled", c.c_uint32),
        ("unused", c.c_uint32),
    )


class LabelKey(c.Structure):
    """struct seal_label_key."""

    _fields_ = (("sandbox", c.c_uint64), ("object", c.c_uint64))


class Sandbox(c.Structure):
    """struct seal_sandbox."""

    _fields_ = (
        ("id", c.c_uint8 * ID_BYTES),
        ("flags", c.c_uint32),
        ("terminal", c.c_uint32),
        ("window", c.c_uint64),
        ("count", c.c_uint64),
        ("dropped", c.c_uint64),
    )


class Request(c.Structure):
    """struct seal_request."""

    _fields_ = (
        ("kind", c.c_uint32),
        ("by", c.c_int32),
        ("process", c.c_int32),
        ("result", c.c_int32),
        ("sandbox", c.c_uint64),
        ("flags", c.c_uint32),
        ("unused", c.c_uint32),
    )


class Keeper(c.Structure):
    """struct seal_keeper."""

    _fields_ = (("task", c.c_uint64), ("process", c.c_int32), ("layout", c.c_uint32))


class OwnKey(c.Structure):
    """struct seal_own_key."""

    _fields_ = (("kind", c.c_uint32), ("id", c.c_uint32))


class Event(c.Structure):
    """struct seal_event."""

    _fields_ = (
        ("sandbox", c.c_uint64),
        ("dropped", c.c_uint64),
        ("thread", c.c_uint32),
        ("operation", c.c_uint32),
        ("kind", c.c_uint32),
        ("reason", c.c_uint32),
        ("device", c.c_uint32),
        ("process", c.c_int32),
        ("path_bytes", c.c_uint32),
        ("cut", c.c_uint32),
        ("address", Address),
        ("path", c.c_uint8 * (PATH_BYTES + NAME_BYTES)),
    )


STRUCTURES = {
    "seal_target": Target,
    "seal_address": Address,
    "seal_grant": GrantValue,
    "seal_text_key": TextKey,
    "seal_object": Object,
    "seal_label_key": LabelKey,
    "seal_sandbox": Sandbox,
    "seal_request": Request,
    "seal_keeper": Keeper,
    "seal_own_key": OwnKey,
    "seal_event": Event,
}


@dataclass(frozen=True, slots=True)
class Ids:
    """A target by the ids that its descriptors were given; 0: there is none."""

    object: int = 0
    parent: int = 0
    name: bytes = b""


def put(array: "c.Array[c.c_uint8]", data: bytes) -> None:
    """Copies `data` to the beginning of a field; the rest of it stays zero."""
    if len(data) > len(array):
        raise GrantFailed(f"{len(data)} bytes are more than the {len(array)} that the seal compares")
    c.memmove(array, data, len(data))


def address(effect: SideEffect) -> Address:
    """What the seal compares of `tcp:HOST:PORT`, `udp:HOST:PORT`, `unix:@NAME`, `unspecified`. GrantFailed."""
    found = Address()
    kind, _, rest = effect.object.partition(":")
    if effect.object == "unspecified":
        return found
    if kind == "unix":
        found.family = socket.AF_UNIX
        if not rest.startswith("/"):
            name = b"\0" + os.fsencode(rest.removeprefix("@"))
            found.bytes_used = len(name)
            put(found.bytes, name)
        return found
    host, _, port = rest.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError:
        raise GrantFailed(f"{effect.object!r} is no address that the seal knows") from None
    if kind not in ("tcp", "udp") or not 0 <= number <= 0xFFFF:
        raise GrantFailed(f"{effect.object!r} is no address that the seal knows")
    # IPv4 in the form that IPv6 has for it: a host has one form, whichever socket goes there.
    raw = ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
    found.family = socket.AF_INET6
    found.protocol = socket.IPPROTO_TCP if kind == "tcp" else socket.IPPROTO_UDP
    found.port = number
    found.bytes_used = len(raw)
    put(found.bytes, raw)
    return found


def text(grant: Grant) -> bytes:
    """The long text that is compared: the strings of an exec as they lie on the new stack, or a symlink's target."""
    operation = grant.effect.operation
    if operation is Operation.FILE_SYMLINK:
        words: tuple[bytes, ...] = (os.fsencode(grant.effect.second),)
    elif operation is Operation.PROCESS_EXEC:
        words = grant.argv + grant.environment
    else:
        return b""
    if any(b"\0" in word for word in words):
        raise GrantFailed("a string with a NUL in it cannot be on a stack")
    joined = b"".join(word + b"\0" for word in words)
    if len(joined) > TEXT_MOST:
        raise GrantFailed(f"argv and environment of {len(joined)} bytes: the seal compares at most {TEXT_MOST}")
    return joined


def chunks(data: bytes) -> list[bytes]:
    """A long text as the values of the map of texts."""
    return [data[at : at + CHUNK_BYTES].ljust(CHUNK_BYTES, b"\0") for at in range(0, len(data), CHUNK_BYTES)]


_ENTRY = frozenset({Operation.FILE_CREATE, Operation.FILE_MKDIR, Operation.FILE_MKNOD, Operation.FILE_SYMLINK})
_OLD_ENTRY = frozenset({Operation.FILE_UNLINK, Operation.FILE_RMDIR})
_ADDRESSES = frozenset({Operation.NET_CONNECT, Operation.NET_BIND, Operation.NET_LISTEN, Operation.NET_SEND})
_TARGETS = {Operation.FILE_RENAME: 2, Operation.FILE_LINK: 2}


def pack(grant: Grant, sandbox: int, targets: list[Ids]) -> GrantValue:
    """A grant as the seal reads it. GrantFailed when it cannot say exactly what was approved."""
    effect = grant.effect
    value = GrantValue(sandbox=sandbox, operation=OPERATIONS[effect.operation])
    value.expires = max(int(grant.expires * _NANOSECONDS), 0)
    _check(effect, targets)
    if effect.operation is Operation.PROCESS_EXEC:
        value.program_count = len(targets)
        for index, program in enumerate(targets):
            value.programs[index] = program.object
        value.argc, value.envc = len(grant.argv), len(grant.environment)
    else:
        for index, target in enumerate(targets):
            value.targets[index].object = target.object
            value.targets[index].parent = target.parent
            put(value.targets[index].name, target.name)
    if effect.operation in _ADDRESSES:
        value.address = address(effect)
    elif effect.operation is Operation.PROCESS_SIGNAL:
        value.process = _process(effect)
    elif effect.operation is Operation.FILE_XATTR:
        put(value.targets[0].name, os.fsencode(effect.details.get("attribute", "")))
    value.text_bytes = len(text(grant))
    return value


def _process(effect: SideEffect) -> int:
    number = effect.object.removeprefix("process:")
    if not number.isdecimal() or not 0 < int(number) < 1 << 31:
        raise GrantFailed(f"a signal to {effect.object!r} is not one to one process: it cannot be granted")
    return int(number)


def _check(effect: SideEffect, targets: list[Ids]) -> None:
    """Whether each target has what its operation is compared by."""
    operation = effect.operation
    socket_file = operation in _ADDRESSES and effect.object.startswith("unix:/")
    if operation is Operation.PROCESS_EXEC:
        fits = 1 <= len(targets) <= PROGRAMS and all(target.object for target in targets)
    elif operation is Operation.PROCESS_SIGNAL or (operation in _ADDRESSES and not socket_file):
        fits = not targets
    else:
        fits = len(targets) == _TARGETS.get(operation, 1)
        if fits and operation is Operation.FILE_LINK:
            fits = targets[0].object > 0 and _is_entry(targets[1])
        elif fits and operation is Operation.FILE_RENAME:
            fits = targets[0].object > 0 and _is_entry(targets[0]) and _is_entry(targets[1])
        elif fits and operation in _OLD_ENTRY:
            fits = targets[0].object > 0 and _is_entry(targets[0])
        elif fits and (operation in _ENTRY or operation is Operation.NET_BIND):
            fits = _is_entry(targets[0])
        elif fits:
            fits = targets[0].object > 0
    if not fits:
        raise GrantFailed(f"{operation} of {effect.object}: its targets are not those that the seal compares")


def _is_entry(target: Ids) -> bool:
    return target.parent > 0 and 0 < len(target.name) < NAME_BYTES and not set(target.name) & {0, ord("/")}


def word(operation: int) -> str:
    """An operation's value, or the name of the hook."""
    return _WORDS.get(operation, f"hook-{operation}")


def shown(found: Address) -> str:
    """An address of an event in canonical form."""
    used = bytes(found.bytes[: min(found.bytes_used, ADDRESS_BYTES)])
    if found.family == socket.AF_UNIX:
        return "unix:@" + os.fsdecode(used[1:]) if used[:1] == b"\0" else "unix:" + os.fsdecode(used)
    if found.family == socket.AF_UNSPEC:
        return "unspecified"
    ip = ipaddress.IPv6Address(bytes(found.bytes[:16]))
    host = str(ip.ipv4_mapped) if ip.ipv4_mapped else f"[{ip}]"
    kind = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}.get(found.protocol, "socket")
    return f"{kind}:{host}:{found.port}"
