"""seccomp user notification: seccomp_unotify(2), linux/seccomp.h."""

import errno
import fcntl
import struct
from dataclasses import dataclass
from typing import Protocol

SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID = 0x40082102
SECCOMP_IOCTL_NOTIF_SET_FLAGS = 0x40082104
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1

_NOTIF = struct.Struct("QIIiIQ6Q")
_RESP = struct.Struct("QqiI")
_ID = struct.Struct("Q")
_EMPTY = bytes(_NOTIF.size)


@dataclass(slots=True)
class Held:
    """One system call that waits. `tid` is a thread id in the daemon's pid namespace; `args` are raw registers."""

    id: int
    tid: int
    number: int
    args: tuple[int, ...]


class Unanswered(Protocol):
    """Who is told which notifications were received and not yet answered."""

    def received(self, notification: int) -> bool:
        """False when no more can be counted: the call is refused."""

    def answered(self, notification: int) -> None: ...


class Listener:
    """The supervisor's end of one filter. Owns the descriptor. `unanswered` is set where somebody keeps count."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.unanswered: Unanswered | None = None
        self._buffer = bytearray(_NOTIF.size)

    def fileno(self) -> int:
        return self.descriptor

    def wake_synchronously(self) -> bool:
        """Asks for wake-ups on the same CPU (Linux 6.6); False where the kernel does not know that."""
        try:
            fcntl.ioctl(self.descriptor, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
        except OSError:
            return False
        return True

    def receive(self) -> Held | None:
        """The next held call; None when its thread died between poll and here. Only after poll said readable."""
        buffer = self._buffer
        buffer[:] = _EMPTY
        try:
            fcntl.ioctl(self.descriptor, SECCOMP_IOCTL_NOTIF_RECV, buffer, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        notification, tid, _flags, number, _arch, _ip, *args = _NOTIF.unpack(buffer)
        if self.unanswered is not None and not self.unanswered.received(notification):
            self.refuse(notification, errno.EAGAIN)
            return None
        return Held(notification, tid, number, tuple(args))

    def proceed(self, notification: int) -> bool:
        """Lets the kernel run the call; False when the call no longer waits."""
        return self._send(notification, _RESP.pack(notification, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE))

    def refuse(self, notification: int, number: int) -> bool:
        """Makes the call fail with errno `number`; False when the call no longer waits."""
        return self._send(notification, _RESP.pack(notification, 0, -number, 0))

    def waits(self, notification: int) -> bool:
        """Whether the call still waits."""
        try:
            fcntl.ioctl(self.descriptor, SECCOMP_IOCTL_NOTIF_ID_VALID, _ID.pack(notification))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def _send(self, notification: int, response: bytes) -> bool:
        if self.unanswered is not None:
            self.unanswered.answered(notification)
        try:
            fcntl.ioctl(self.descriptor, SECCOMP_IOCTL_NOTIF_SEND, response)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                return False
            raise
        return True
