"""seccomp user notification: seccomp_unotify(2), linux/seccomp.h."""

import errno
import fcntl
from typing import Protocol

from governed_mcpd.kernel import held
from governed_mcpd.kernel.held import Held

__all__ = ["Held", "Listener", "Unanswered"]
SECCOMP_IOCTL_NOTIF_SET_FLAGS = 0x40082104
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1


class Unanswered(Protocol):
    """Who is told which notifications were received and not yet answered."""

    @property
    def single(self) -> memoryview:
        """Where one call more can be noted, by its id."""

    def received(self, notification: int) -> bool:
        """False when no more can be counted: the call is refused."""

    def answered(self, notification: int) -> None: ...


class Listener:
    """The supervisor's end of one filter. Owns the descriptor. `unanswered` is set where somebody keeps count."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.unanswered: Unanswered | None = None

    def fileno(self) -> int:
        return self.descriptor

    def wake_synchronously(self, wanted: bool) -> bool:
        """Asks for wake-ups on the same CPU, or wherever there is room (Linux 6.6); False where the kernel knows no
        such thing."""
        try:
            flags = SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP if wanted else 0
            fcntl.ioctl(self.descriptor, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags)
        except OSError:
            return False
        return True

    def receive(self) -> Held | None:
        """The next held call; None when its thread died between poll and here. Only after poll said readable."""
        found = held.receive(self.descriptor)
        return found if found is not None and self.note(found) else None

    def note(self, found: Held) -> bool:
        """Counts a call that was received; False when it had to be refused."""
        if self.unanswered is not None and not self.unanswered.received(found.id):
            self.refuse(found.id, errno.EAGAIN)
            return False
        return True

    def proceed(self, notification: int) -> bool:
        """Lets the kernel run the call; False when the call no longer waits."""
        if self.unanswered is not None:
            self.unanswered.answered(notification)
        return held.answer(self.descriptor, notification, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)

    def refuse(self, notification: int, number: int) -> bool:
        """Makes the call fail with errno `number`; False when the call no longer waits."""
        if self.unanswered is not None:
            self.unanswered.answered(notification)
        return held.answer(self.descriptor, notification, number, 0)

    def waits(self, notification: int) -> bool:
        """Whether the call still waits."""
        return held.waits(self.descriptor, notification)
