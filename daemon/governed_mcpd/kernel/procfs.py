"""What /proc says of a thread: proc(5). Everything goes through a descriptor on /proc that was opened at start, so that
a thread of the daemon that has changed its root still reads the host's."""

import os
from dataclasses import dataclass

PROC = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Gone(Exception):
    """The thread no longer exists."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What file access is checked against: credentials(7)."""

    fsuid: int
    fsgid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The lines of /proc/TID/status that are used here."""

    tgid: int
    parent: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: int
    no_new_privs: bool
    filters: int

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.uids[3], self.gids[3], self.groups)

    @property
    def settled(self) -> bool:
        """Whether this process can never have other credentials: one uid, one gid, no capabilities, no_new_privs."""
        return (
            len(set(self.uids)) == 1
            and self.uids[0] != 0
            and len(set(self.gids)) == 1
            and self.capabilities == 0
            and self.no_new_privs
        )


def read(path: str) -> bytes:
    """The whole of /proc/PATH; Gone when the thread is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=PROC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise Gone(path) from error
    try:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
    except ProcessLookupError as error:
        raise Gone(path) from error
    finally:
        os.close(descriptor)
    return b"".join(parts)


def status(tid: int) -> Status:
    """/proc/TID/status."""
    fields = dict(line.split(b":", 1) for line in read(f"{tid}/status").splitlines() if b":" in line)
    return Status(
        tgid=int(fields[b"Tgid"]),
        parent=int(fields[b"PPid"]),
        uids=tuple(map(int, fields[b"Uid"].split())),
        gids=tuple(map(int, fields[b"Gid"].split())),
        groups=tuple(map(int, fields[b"Groups"].split())),
        capabilities=int(fields[b"CapPrm"], 16),
        no_new_privs=fields[b"NoNewPrivs"].strip() == b"1",
        filters=int(fields.get(b"Seccomp_filters", b"0")),
    )


def cgroup(tid: int) -> str:
    """The thread's path in the cgroup v2 hierarchy (the `0::` line of /proc/TID/cgroup)."""
    for line in read(f"{tid}/cgroup").splitlines():
        if line.startswith(b"0::"):
            return os.fsdecode(line[3:])
    raise Gone(f"{tid}/cgroup has no cgroup v2 line")


@dataclass(frozen=True, slots=True)
class Stat:
    """Fields of /proc/TID/stat."""

    group: int
    session: int
    terminal: int
    started: int


def device_numbers(terminal: int) -> tuple[int, int]:
    """(major, minor) of a Stat's `terminal`: the minor in bits 31 to 20 and 7 to 0, the major in 19 to 8 (kdev_t.h)."""
    return (terminal >> 8) & 0xFFF, (terminal & 0xFF) | ((terminal >> 12) & 0xFFF00)


def stat(tid: int) -> Stat:
    """/proc/TID/stat: process group, session, controlling terminal (a device number), start time in ticks."""
    text = read(f"{tid}/stat")
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(int(fields[2]), int(fields[3]), int(fields[4]), int(fields[19]))


def processes() -> list[int]:
    """All process ids."""
    return [int(name) for name in os.listdir(PROC) if name.isdigit()]


def open_link(path: str) -> int:
    """An O_PATH descriptor on what the magic link /proc/PATH leads to (cwd, root, fd/N)."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=PROC)
    except ProcessLookupError as error:
        raise Gone(path) from error
