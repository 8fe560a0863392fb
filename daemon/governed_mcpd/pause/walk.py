"""A walk along a path, component by component, with the thread's meaning of /proc/self and /proc/thread-self.

openat2(2) would take the daemon's own. Slow, and rare: only paths that pass through /proc go this way.
"""

import errno
import os
import re
import stat as modes
from collections.abc import Callable
from contextlib import AbstractContextManager

from governed_mcpd.kernel import calls, procfs
from governed_mcpd.pause.object import describe
from governed_mcpd.pause.observation import CannotRead, WouldFail

MAX_COMPONENTS = 256
MAX_LINKS = 40  # linux/namei.h MAXSYMLINKS
_DIRECTORY_HERE = b""  # no name: what was reached has to be a directory
AsOurselves = Callable[[], AbstractContextManager[None]]


class Walk:
    """Runs with the thread's root and credentials; `as_ourselves` lends the daemon's. `here` is where it has got to."""

    def __init__(self, tid: int, start: int, as_ourselves: AsOurselves) -> None:
        self._as_ourselves = as_ourselves
        self._tid = tid
        self._tgid = procfs.status(tid).tgid
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.here = os.dup(start if start >= 0 else self._root)
        self._links = 0

    def close(self) -> None:
        os.close(self._root)
        os.close(self.here)

    def go(self, path: bytes, follow: bool) -> None:
        todo = self._split(path)
        steps = 0
        while todo:
            steps += 1
            if steps > MAX_COMPONENTS:
                raise CannotRead("path-too-deep", f"a path of more than {MAX_COMPONENTS} steps is not followed")
            name = todo.pop()
            last = not todo
            if name == _DIRECTORY_HERE:
                if not modes.S_ISDIR(os.fstat(self.here).st_mode):
                    raise WouldFail(errno.ENOTDIR)
                continue
            if name == b".." and self._at_root():
                name = b"."
            substitute = self._substitute(name)
            if substitute is not None and (follow or not last):
                todo += reversed(substitute)
                continue
            opened = self._open(name, os.O_NOFOLLOW)
            if not modes.S_ISLNK(os.fstat(opened).st_mode) or (last and not follow):
                self._step(opened)
                continue
            self._links += 1
            if self._links > MAX_LINKS:
                os.close(opened)
                raise WouldFail(errno.ELOOP)
            if self._magic(opened):
                os.close(opened)
                self._step(self._open(name, 0))
                continue
            try:
                target = os.fsencode(os.readlink("", dir_fd=opened))
            finally:
                os.close(opened)
            todo += self._split(target)

    def _open(self, name: bytes, flags: int) -> int:
        try:
            return os.open(name, os.O_PATH | os.O_CLOEXEC | flags, dir_fd=self.here)
        except PermissionError:
            if not self._own_descriptors():
                raise
            with self._as_ourselves():
                return os.open(name, os.O_PATH | os.O_CLOEXEC | flags, dir_fd=self.here)

    def _own_descriptors(self) -> bool:
        """Whether here is /proc/self/fd: open to the process itself even when the directory belongs to root, as it does
        for what is not dumpable (fs/proc/fd.c proc_fd_permission)."""
        name = describe(self.here).name
        own = name == f"/proc/{self._tgid}/fd" or re.fullmatch(rf"/proc/{self._tgid}/task/\d+/fd", name) is not None
        return own and calls.filesystem_magic(self.here) == calls.PROC_SUPER_MAGIC

    def _split(self, path: bytes) -> list[bytes]:
        """The names still to go, the next one at the end. With a slash at its end a path has to lead to a directory,
        and what stands before the slash is followed."""
        if path.startswith(b"/"):
            self._step(os.dup(self._root))
        names = [name for name in reversed(path.split(b"/")) if name]
        return [_DIRECTORY_HERE, *names] if names and path.endswith(b"/") else names

    def _step(self, opened: int) -> None:
        os.close(self.here)
        self.here = opened

    def _at_root(self) -> bool:
        return os.path.samestat(os.fstat(self.here), os.fstat(self._root))

    def _substitute(self, name: bytes) -> list[bytes] | None:
        if name not in (b"self", b"thread-self") or calls.filesystem_magic(self.here) != calls.PROC_SUPER_MAGIC:
            return None
        if os.fstat(self.here).st_ino != 1:  # PROC_ROOT_INO, linux/proc_fs.h: only the top of a procfs has these two
            return None
        if name == b"self":
            return [str(self._tgid).encode()]
        return [str(self._tgid).encode(), b"task", str(self._tid).encode()]

    def _magic(self, link: int) -> bool:
        """Links of procfs below a process lead to objects, not to names. `self` was dealt with before."""
        return calls.filesystem_magic(link) == calls.PROC_SUPER_MAGIC and not (
            os.readlink("", dir_fd=link).startswith(("self/", "../"))
        )
