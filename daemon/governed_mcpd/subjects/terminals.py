"""Which pseudo-terminals a sandbox made: those whose master a process of it holds (pts(4), ioctl_tty(2) TIOCGPTN)."""

import fcntl
import os
import struct
import time

from governed_mcpd.kernel import procfs
from governed_mcpd.subjects.sandbox import Sandbox

TIOCGPTN = 0x80045430  # asm-generic/ioctls.h
_MASTERS = ("/dev/ptmx", "/dev/pts/ptmx")
# The leader looks itself: both bounds together are some milliseconds.
_MOST_PROCESSES = 32
_MOST_DESCRIPTORS = 64
REMEMBER_SECONDS = 1.0


class SandboxTerminals:
    """Looks at the sandbox's processes each time: opening a pseudo-terminal by name is rare."""

    def __init__(self) -> None:
        self._foreign: dict[str, tuple[str, float]] = {}  # by sandbox: the last device that was foreign, and until when

    def made_by(self, sandbox: Sandbox, device: str) -> bool:
        """`device` is `char:MAJOR:MINOR` of the slave. What lies past the bounds counts as foreign."""
        if not sandbox.made_terminals:
            return False
        name, until = self._foreign.get(sandbox.id, ("", 0.0))
        if name == device and time.monotonic() < until:
            return False
        found = self._holds_other_end(sandbox, device)
        if not found:
            if len(self._foreign) > 4096:
                self._foreign.clear()
            self._foreign[sandbox.id] = (device, time.monotonic() + REMEMBER_SECONDS)
        return found

    def _holds_other_end(self, sandbox: Sandbox, device: str) -> bool:
        _, major, minor = device.split(":")
        number = (int(major) - 136) * 256 + int(minor)
        return any(number in self._numbers(sandbox, pid) for pid in _processes(sandbox)[:_MOST_PROCESSES])

    def _numbers(self, sandbox: Sandbox, pid: int) -> set[int]:
        found: set[int] = set()
        try:
            names = os.listdir(f"/proc/{pid}/fd")[:_MOST_DESCRIPTORS]
            masters = [int(name) for name in names if os.readlink(f"/proc/{pid}/fd/{name}") in _MASTERS]
            for descriptor in masters:
                borrowed = sandbox.borrow(pid, descriptor)
                try:
                    found.add(struct.unpack("I", fcntl.ioctl(borrowed, TIOCGPTN, bytes(4)))[0])
                finally:
                    os.close(borrowed)
        except (OSError, procfs.Gone):
            return found
        return found


def _processes(sandbox: Sandbox) -> list[int]:
    pids = sandbox.cgroup.processes()
    for child in sandbox.children.values():
        pids += child.cgroup.processes()
    return pids
