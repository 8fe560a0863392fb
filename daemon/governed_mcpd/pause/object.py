"""What a name leads to, as the kernel itself names it."""

import os
import stat as modes
from dataclasses import dataclass

from governed_mcpd.grant.seal import Target
from governed_mcpd.kernel import calls, held
from governed_mcpd.kernel.procfs import PROC

DESCRIPTORS = os.open("self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=PROC)
# Of either only what held.Status has is asked for.
Status = os.stat_result | held.Status


@dataclass(slots=True)
class Object:
    """A canonical name, and what stands there (None: nothing does). `target` is it for the seal; None without one."""

    name: str
    status: Status | None
    target: Target | None = None

    @property
    def exists(self) -> bool:
        return self.status is not None

    @property
    def unnamed(self) -> bool:
        """A pipe, socket, memfd or deleted file: no name leads to it any more (d_path(9) appends " (deleted)").

        Both signs are asked for: some file systems say st_nlink 0 of living files, and any file may be called so.
        """
        if self.status is None:
            return False
        return not self.name.startswith("/") or (self.status.st_nlink == 0 and self.name.endswith(" (deleted)"))

    @property
    def device(self) -> int:
        """The device number of a character or block device, 0 for anything else."""
        if self.status is None or not (modes.S_ISCHR(self.status.st_mode) or modes.S_ISBLK(self.status.st_mode)):
            return 0
        return self.status.st_rdev


def describe(opened: int) -> Object:
    """The object behind a descriptor of ours."""
    return Object(os.readlink(str(opened), dir_fd=DESCRIPTORS), os.fstat(opened))


def head(opened: int, size: int) -> bytes:
    """The first bytes of a regular file that is open O_PATH. Waits for no lease that somebody holds on it, but perhaps
    for a file system. OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    reading = os.open(str(opened), flags, dir_fd=DESCRIPTORS)
    try:
        return os.pread(reading, size, 0)
    finally:
        os.close(reading)


def in_procfs(opened: int, found: Object) -> bool:
    """Whether the object lies in /proc; quick for what does not."""
    # Anonymous devices have major number 0 (kdev_t.h): tmpfs, overlayfs, btrfs and procfs do, disks do not.
    assert found.status is not None
    return os.major(found.status.st_dev) == 0 and calls.filesystem_magic(opened) == calls.PROC_SUPER_MAGIC
