"""From what a thread named to the object itself, as that thread would get there: in its root and directory, with its
file system credentials, /proc/self meaning its own.

The daemon is root. Without this it would be a confused deputy: it would walk through directories that the thread cannot
search, and tell by its answers what is in them.

Objects are opened O_PATH: nothing is read or written, and no device or FIFO is woken. A file system that answers late
(FUSE) makes these calls wait; whoever calls does so from a thread that may be left waiting (supervisor/lanes).
"""

import ctypes
import errno
import os
import stat as modes
from dataclasses import dataclass

from governed_mcpd.kernel import calls, procfs
from governed_mcpd.kernel.procfs import PROC, Credentials
from governed_mcpd.pause.observation import CannotRead, WouldFail

AT_FDCWD = -100
MAX_COMPONENTS = 256
MAX_LINKS = 40  # linux/namei.h MAXSYMLINKS
_OURSELVES = f"/proc/{os.getpid()}"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_DESCRIPTORS = os.open("self/fd", _DIRECTORY | os.O_CLOEXEC, dir_fd=PROC)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a thread's names begin: its root directory (a descriptor), its credentials, its ids."""

    tid: int
    root: int | None  # None: the daemon's own root
    credentials: Credentials | None  # None: may change between calls, read at each


@dataclass(frozen=True, slots=True)
class Object:
    """A canonical name, and what stands there (None: nothing does)."""

    name: str
    status: os.stat_result | None

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


class Resolver:
    """Belongs to one thread of the daemon, whose root and fs credentials it borrows for the time of one call."""

    def __init__(self) -> None:
        calls.unshare_filesystem()
        self._home = os.open("/", _DIRECTORY | os.O_CLOEXEC)
        self._root: int | None = None
        # Who this thread is: the user is given back after each look, group and groups stay until another sandbox's are
        # needed. That is enough: with fsuid 0 the capabilities are back, and nothing asks for the group.
        self._groups: Credentials | None = None
        self._user = 0

    def object(self, place: Place, directory: int, path: bytes, *, follow: bool = True, resolve: int = 0) -> Object:
        """What `path` names for the thread. WouldFail with the errno that the thread would get."""
        if not path:
            raise WouldFail(errno.ENOENT)
        with _Borrowed(self, place):
            start = self._start(place, directory, path)
            try:
                return self._existing(place, start, path, follow, resolve)
            finally:
                _close(start)

    def entry(self, place: Place, directory: int, path: bytes, *, follow: bool = False, resolve: int = 0) -> Object:
        """The directory entry that `path` names, whether something stands there or not. With `follow`, a symlink at the
        end is followed as open(O_CREAT) does, also a dangling one."""
        if not path:
            raise WouldFail(errno.ENOENT)
        with _Borrowed(self, place):
            start = self._start(place, directory, path)
            try:
                for _ in range(MAX_LINKS):
                    found = self._entry(place, start, path, resolve)
                    if not follow or found.status is None or not modes.S_ISLNK(found.status.st_mode):
                        return found
                    try:
                        return self._existing(place, start, path, True, resolve)
                    except WouldFail as failure:
                        if failure.errno != errno.ENOENT:
                            raise
                    path = self._through(found, path)
                raise WouldFail(errno.ELOOP)
            finally:
                _close(start)

    def descriptor(self, place: Place, number: int) -> Object:
        """The object behind the thread's descriptor `number`."""
        try:
            opened = self._link(place, f"{place.tid}/fd/{number}")
        except FileNotFoundError:
            raise WouldFail(errno.EBADF) from None
        try:
            return _describe(opened)
        finally:
            os.close(opened)

    def _start(self, place: Place, directory: int, path: bytes) -> int:
        """The descriptor that a relative path begins at, -1 where it does not matter."""
        if path.startswith(b"/"):
            return -1
        try:
            if directory == AT_FDCWD:
                return self._link(place, f"{place.tid}/cwd")
            return self._link(place, f"{place.tid}/fd/{directory}")
        except FileNotFoundError:
            raise WouldFail(errno.EBADF if directory != AT_FDCWD else errno.ENOENT) from None

    def _link(self, place: Place, link: str) -> int:
        try:
            return procfs.open_link(link)
        except PermissionError:
            # A process that is not dumpable: its /proc entries belong to root. Ours to see, with our own credentials.
            user = self._user
            self._be(0)
            try:
                return procfs.open_link(link)
            finally:
                self._be(user)

    def _existing(self, place: Place, start: int, path: bytes, follow: bool, resolve: int) -> Object:
        flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
        try:
            opened = calls.openat2(start, path, flags, resolve | calls.RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno == errno.ELOOP and not resolve & ~calls.RESOLVE_NO_XDEV:
                return self._walk(place, start, path, follow)
            raise _would_fail(error) from None
        try:
            found = _describe(opened)
            if found.name.startswith(_OURSELVES) or _in_procfs(opened, found):
                # /proc/self was ours, not the thread's: walk, and put the thread's in.
                if resolve & ~(calls.RESOLVE_NO_XDEV | calls.RESOLVE_NO_MAGICLINKS):
                    raise CannotRead("path-in-proc", "openat2 with RESOLVE_ flags into /proc is not followed")
                return self._walk(place, start, path, follow)
            return found
        finally:
            os.close(opened)

    def _entry(self, place: Place, start: int, path: bytes, resolve: int) -> Object:
        parent, _, last = path.rstrip(b"/").rpartition(b"/")
        if last in (b"", b".", b".."):
            return self._existing(place, start, path, True, resolve)
        above = self._existing(place, start, (parent or b"/") if b"/" in path.rstrip(b"/") else b".", True, resolve)
        if above.status is None or not modes.S_ISDIR(above.status.st_mode):
            raise WouldFail(errno.ENOTDIR)
        try:
            return self._existing(place, start, path.rstrip(b"/"), False, resolve)
        except WouldFail as failure:
            if failure.errno != errno.ENOENT:
                raise
        return Object(_join(above.name, last), None)

    def _through(self, link: Object, path: bytes) -> bytes:
        """The path that a dangling symlink at the end of `path` leads to, relative to the same start."""
        try:
            target = os.fsencode(os.readlink(os.fsencode(link.name)))
        except OSError as error:
            raise _would_fail(error) from None
        if target.startswith(b"/"):
            return target
        return os.fsencode(os.path.dirname(link.name)) + b"/" + target

    def _walk(self, place: Place, start: int, path: bytes, follow: bool) -> Object:
        """Component by component, for paths that pass through /proc: slow, and rare."""
        walk = _Walk(self, place, start)
        try:
            walk.go(path, follow)
            return _describe(walk.here)
        except OSError as error:
            raise _would_fail(error) from None
        finally:
            walk.close()

    def _enter(self, root: int | None) -> None:
        if root == self._root:
            return
        os.fchdir(self._home if root is None else root)
        os.chroot(".")
        self._root = root

    def _borrow(self, credentials: Credentials) -> None:
        if credentials is not self._groups and credentials != self._groups:
            calls.set_fs_groups(credentials.fsgid, (ctypes.c_uint32 * len(credentials.groups))(*credentials.groups))
            self._groups = credentials
        self._be(credentials.fsuid)

    def _be(self, user: int) -> None:
        if user != self._user:
            calls.set_fs_user(user)
            self._user = user


class _Borrowed:
    """The thread's root and credentials, given back on the way out whatever happens."""

    __slots__ = ("_credentials", "_resolver", "_root")

    def __init__(self, resolver: Resolver, place: Place) -> None:
        self._resolver = resolver
        self._credentials = _credentials_of(place)
        self._root = place.root

    def __enter__(self) -> None:
        if self._root is not None:
            self._resolver._enter(self._root)
        self._resolver._borrow(self._credentials)

    def __exit__(self, *_: object) -> None:
        self._resolver._be(0)
        if self._root is not None:
            self._resolver._enter(None)


class _Walk:
    """A walk with the thread's meaning of /proc/self and /proc/thread-self."""

    def __init__(self, resolver: Resolver, place: Place, start: int) -> None:
        self._tid = place.tid
        self._tgid = procfs.status(place.tid).tgid
        self._root = os.open("/", _DIRECTORY | os.O_CLOEXEC)
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
            if name == b".." and self._at_root():
                continue
            substitute = self._substitute(name)
            if substitute is not None and (follow or not last):
                todo += reversed(substitute)
                continue
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.here)
            if not modes.S_ISLNK(os.fstat(opened).st_mode) or (last and not follow):
                self._step(opened)
                continue
            self._links += 1
            if self._links > MAX_LINKS:
                os.close(opened)
                raise WouldFail(errno.ELOOP)
            if self._magic(opened):
                os.close(opened)
                self._step(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=self.here))
                continue
            try:
                target = os.fsencode(os.readlink("", dir_fd=opened))
            finally:
                os.close(opened)
            todo += self._split(target)

    def _split(self, path: bytes) -> list[bytes]:
        if path.startswith(b"/"):
            self._step(os.dup(self._root))
        return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]

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


def _describe(opened: int) -> Object:
    return Object(os.readlink(str(opened), dir_fd=_DESCRIPTORS), os.fstat(opened))


def _in_procfs(opened: int, found: Object) -> bool:
    # Anonymous devices have major number 0 (kdev_t.h): tmpfs, overlayfs, btrfs and procfs do, disks do not.
    assert found.status is not None
    return os.major(found.status.st_dev) == 0 and calls.filesystem_magic(opened) == calls.PROC_SUPER_MAGIC


def _credentials_of(place: Place) -> Credentials:
    return place.credentials or procfs.status(place.tid).credentials


def _would_fail(error: OSError) -> WouldFail:
    if error.errno is None:
        raise CannotRead("resolve-failed", str(error)) from error
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSYS, errno.EINVAL):
        raise CannotRead("resolve-failed", f"the object could not be resolved: {os.strerror(error.errno)}") from error
    return WouldFail(error.errno)


def _join(directory: str, name: bytes) -> str:
    return f"{directory.rstrip('/')}/{os.fsdecode(name)}"


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
