"""Taking on the Envelope: what Landlock allows this process and its descendants at most.

Runs in the launcher's child. Few imports: a sandbox pays for them at every start.
"""

import errno
import os
import stat
from collections.abc import Iterable

from governed_mcpd.kernel import landlock

READ = landlock.READ_FILE | landlock.READ_DIR
WRITE = (
    READ
    | landlock.WRITE_FILE
    | landlock.REMOVE_DIR
    | landlock.REMOVE_FILE
    | landlock.MAKE_DIR
    | landlock.MAKE_REG
    | landlock.MAKE_SOCK
    | landlock.MAKE_FIFO
    | landlock.MAKE_SYM
    | landlock.REFER
    | landlock.TRUNCATE
    | landlock.IOCTL_DEV  # terminals and the like that may be written to
)
"""No MAKE_CHAR, no MAKE_BLOCK: nothing in a sandbox makes devices."""
EXECUTE = READ | landlock.EXECUTE

# A path that vanished, or became a symlink or unreadable, since the daemon looked: leaving its rule out only narrows.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO)


class SandboxError(Exception):
    """The sandbox cannot be made. The message says what is missing and what to do."""


def take_on(
    read: Iterable[bytes], write: Iterable[bytes], execute: Iterable[bytes], listed: Iterable[bytes] = ()
) -> None:
    """Restricts the calling thread for good to these canonical paths and what lies beneath them.

    Write implies read, and so does execute. Of `listed` directories (and those beneath them) only the names are shown:
    something in them is protected, and what is not stands in `read` by itself. Called where no_new_privs is set.
    Raises SandboxError; then nothing of the command may run.
    """
    version = landlock.abi()
    if version == 0:
        raise SandboxError(
            "this kernel has no Landlock, which carries the Envelope: boot Linux 5.13 or newer with landlock in the "
            "list of /sys/kernel/security/lsm (kernel parameter lsm=landlock,…)"
        )
    rights = landlock.handled(version)
    try:
        ruleset = landlock.create_ruleset(rights, landlock.scopes(version))
        try:
            for paths, allowed in (
                (listed, landlock.READ_DIR),
                (read, READ),
                (write, WRITE),
                (execute, EXECUTE),
            ):
                for path in paths:
                    _allow(ruleset, path, allowed & rights)
            landlock.restrict_self(ruleset)
        finally:
            os.close(ruleset)
    except OSError as error:
        raise SandboxError(f"the Envelope cannot be taken on: {error.strerror or error}") from error


def _allow(ruleset: int, path: bytes, rights: int) -> None:
    try:
        descriptor = open_canonical(path)
    except OSError as error:
        if error.errno in _GONE:
            return
        raise OSError(error.errno, f"{os.fsdecode(path)!r}: {error.strerror}") from error
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= landlock.ON_FILES
        landlock.allow_beneath(ruleset, descriptor, rights)
    finally:
        os.close(descriptor)


def open_canonical(path: bytes) -> int:
    """An O_PATH descriptor of an absolute path, following no symlink anywhere in it.

    Between plan and rule another sandbox of the user could put a symlink to / where a directory was. (openat2 would do
    this in one call; inside a sandbox it is held, and opening with O_PATH is not.) OSError: ELOOP for a symlink.
    """
    if not path.startswith(b"/") or b"\0" in path:
        raise OSError(errno.EINVAL, "expected an absolute path")
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(b"/", flags)
    for name in filter(None, path.split(b"/")):
        if name in (b".", b".."):
            os.close(here)
            raise OSError(errno.EINVAL, "expected a canonical path, without . and ..")
        try:
            beneath = os.open(name, flags, dir_fd=here)
        finally:
            os.close(here)
        here = beneath
        if stat.S_ISLNK(os.fstat(here).st_mode):
            os.close(here)
            raise OSError(errno.ELOOP, "a symlink is in its place")
    return here
