"""Signals as messages that say who sent them: signalfd(2). Few imports: the launcher pays for them at every start."""

import ctypes
import os
import struct
from collections.abc import Iterable

# sys/signalfd.h
_CLOEXEC, _NONBLOCK = 0o2000000, 0o4000
_INFO_BYTES = 128

# siginfo(2), asm-generic/siginfo.h: si_code of a signal that a process sent
SI_USER, SI_QUEUE, SI_TKILL = 0, -1, -6
SENT = (SI_USER, SI_QUEUE, SI_TKILL)

_libc = ctypes.CDLL(None, use_errno=True)


def open_signalfd(signals: Iterable[int]) -> int:
    """A descriptor (close-on-exec, not blocking) that yields these signals. They have to be blocked. OSError."""
    mask = 0
    for number in signals:
        mask |= 1 << (number - 1)
    described = ctypes.create_string_buffer(struct.pack("=Q", mask), _INFO_BYTES)  # glibc's sigset_t has 128 bytes
    descriptor: int = _libc.signalfd(-1, described, _CLOEXEC | _NONBLOCK)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"signalfd: {os.strerror(number)}")
    return descriptor


def pending(descriptor: int) -> list[tuple[int, int, int]]:
    """The signals that have come: (number, si_code, pid of the sender where a process sent it)."""
    try:
        data = os.read(descriptor, 64 * _INFO_BYTES)
    except BlockingIOError:
        return []
    found = []
    for start in range(0, len(data), _INFO_BYTES):
        number, _, code, sender = struct.unpack_from("=IiiI", data, start)
        found.append((number, code, sender))
    return found
