"""From the events of program.c to what a person reads: the two ends of a call put together, objects as text."""

import errno
import os
import socket
import struct
from collections import OrderedDict
from dataclasses import dataclass

from governed_mcpd.trace.calls import CALLS, NOWHERE, ONLY_WITH_ADDRESS, STRING, Call, opened_for

BEGUN, ENDED, REPLACED = range(3)
TEXT = 512  # as in program.c
_AT_FDCWD = -100  # linux/fcntl.h
_MOST_BEGUN = 16_384  # calls that wait; what is killed in a call never ends it
_RESTARTS = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}


@dataclass(frozen=True, slots=True)
class Event:
    """What program.c tells, with the texts as they were (None: not readable)."""

    phase: int
    call: str
    time: int  # nanoseconds since the epoch
    cgroup: int
    pid: int
    tid: int
    uid: int
    comm: bytes
    result: int
    words: tuple[int, ...]
    texts: tuple[bytes | None, bytes | None]


@dataclass(frozen=True, slots=True)
class Activity:
    """One system call, or one program that began to run."""

    time: int
    cgroup: int
    pid: int
    tid: int
    uid: int
    comm: bytes
    call: str
    kind: str
    result: int  # what the call returned, or 0
    error: str  # the name of the errno, or nothing
    objects: tuple[bytes, ...]
    opened_for: str
    argv: tuple[bytes, ...]
    began: bool  # False: refused by a filter or its supervisor before the kernel began the call
    changed: bool  # the names at the end are not those at the beginning: somebody wrote there


class Pairing:
    """Puts the two ends of each call together. Feed it every event, in order."""

    def __init__(self) -> None:
        self._begun: OrderedDict[int, Event] = OrderedDict()
        self._programs: dict[int, bytes] = {}

    def take(self, event: Event) -> Activity | None:
        """The activity that this event completes, if it does."""
        if event.phase == BEGUN:
            self._begun[event.tid] = event
            if len(self._begun) > _MOST_BEGUN:
                self._begun.popitem(last=False)
            return None
        if event.phase == REPLACED:
            self._begun.pop(event.words[0], None)  # the thread that called
            self._programs[event.pid] = event.texts[0] or b""
            return None
        if event.pid in self._programs and event.result == 0 and event.call in ("execve", "execveat"):
            return self._executed(event, self._programs.pop(event.pid))
        begun = self._begun.pop(event.tid, None)
        if begun is not None and begun.call != event.call:
            begun = None
        return self._ended(event, begun)

    @staticmethod
    def _executed(event: Event, program: bytes) -> Activity:
        """What the kernel put onto the new stack is what the program gets, whatever it was called with."""
        *words, rest = (event.texts[1] or b"").split(b"\0")
        count = event.words[0]
        argv = words[:count] if len(words) >= count else [*words, rest + "…".encode()]
        return _activity(event, (program,), argv=tuple(argv), began=True, changed=False)

    @staticmethod
    def _ended(event: Event, begun: Event | None) -> Activity | None:
        call = CALLS[event.call]
        if event.call in ONLY_WITH_ADDRESS and not event.texts[0]:
            return None
        first = event if begun is None else begun
        texts = [
            before if before is not None else after for before, after in zip(first.texts, event.texts, strict=True)
        ]
        changed = begun is not None and any(
            before != after
            for before, after in zip(begun.texts, event.texts, strict=True)
            if before is not None and after is not None
        )
        return _activity(event, _objects(call, texts, first), began=begun is not None, changed=changed)


def _activity(
    event: Event, objects: tuple[bytes, ...], *, argv: tuple[bytes, ...] = (), began: bool, changed: bool
) -> Activity:
    call = CALLS[event.call]
    failed = -event.result if -4095 <= event.result < 0 else 0
    return Activity(
        time=event.time,
        cgroup=event.cgroup,
        pid=event.pid,
        tid=event.tid,
        uid=event.uid,
        comm=event.comm,
        call=event.call,
        kind=call.kind,
        result=0 if failed else event.result,
        error=errno.errorcode.get(failed) or _RESTARTS.get(failed) or f"error {failed}" if failed else "",
        objects=objects,
        opened_for=opened_for(event.words[call.flags] & 0xFFFFFFFF) if call.flags is not None else "",
        argv=argv,
        began=began,
        changed=changed,
    )


def _objects(call: Call, texts: list[bytes | None], event: Event) -> tuple[bytes, ...]:
    if not call.objects:
        return (b"fd %d" % (event.words[0] & 0xFFFFFFFF),)
    found = []
    for index, (form, _) in enumerate(call.objects):
        text = texts[index]
        if text is None:
            found.append(b"(not readable)")
        elif form == STRING:
            found.append(_path(call, index, text, event))
        else:
            found.append(address(text))
    return tuple(found)


def _path(call: Call, index: int, text: bytes, event: Event) -> bytes:
    """The name as it was given; a relative one beneath the directory where it begins, if that can still be seen."""
    cut = text + "…".encode() if len(text) == TEXT - 1 else text
    at = call.directories[index]
    if text.startswith(b"/") or at == NOWHERE:
        return cut
    number = _AT_FDCWD if at is None else struct.unpack("i", struct.pack("I", event.words[at] & 0xFFFFFFFF))[0]
    link = f"/proc/{event.tid}/" + ("cwd" if number == _AT_FDCWD else f"fd/{number}")
    try:
        directory = os.readlink(os.fsencode(link))
    except OSError:
        return cut
    if not text:
        return directory
    return os.path.normpath(os.path.join(directory, cut)) if b".." not in text else os.path.join(directory, cut)


def address(raw: bytes) -> bytes:
    """A sockaddr as people write it: HOST:PORT, unix:PATH, unix:@NAME (abstract)."""
    if len(raw) < 2:
        return b"(no address)"
    (family,) = struct.unpack_from("H", raw)
    if family == socket.AF_INET and len(raw) >= 8:
        return f"{socket.inet_ntop(socket.AF_INET, raw[4:8])}:{int.from_bytes(raw[2:4], 'big')}".encode()
    if family == socket.AF_INET6 and len(raw) >= 24:
        return f"[{socket.inet_ntop(socket.AF_INET6, raw[8:24])}]:{int.from_bytes(raw[2:4], 'big')}".encode()
    if family == socket.AF_UNIX:
        path = raw[2:]
        return b"unix:@" + path[1:] if path[:1] == b"\0" else b"unix:" + path.partition(b"\0")[0]
    return f"family {family}".encode()
