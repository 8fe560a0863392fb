"""From what a thread named to the object itself, as that thread would get there: in its root and directory, with its
file system credentials, /proc/self meaning its own.

The daemon is root. Without this it would be a confused deputy: it would walk through directories that the thread cannot
search, and tell by its answers what is in them.

Objects are opened O_PATH: nothing is read or written, and no device or FIFO is woken. A file system that answers late
(FUSE) makes these calls wait; whoever calls does so from a thread that may be left waiting (supervisor/lanes).
"""

import contextlib
import ctypes
import errno
import os
import stat as modes
from collections.abc import Iterator
from dataclasses import dataclass

from governed_mcpd.grant.seal import Target
from governed_mcpd.kernel import calls, held, procfs
from governed_mcpd.kernel.procfs import Credentials
from governed_mcpd.pause.handles import Handles
from governed_mcpd.pause.memory import Memory
from governed_mcpd.pause.object import DESCRIPTORS, Object, describe, head, in_procfs
from governed_mcpd.pause.observation import CannotRead, WouldFail
from governed_mcpd.pause.walk import MAX_LINKS, Walk

AT_FDCWD = -100
_OURSELVES = f"/proc/{os.getpid()}"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Place:
    """Where a thread's names begin: its root directory (a descriptor), its credentials, its ids."""

    tid: int
    root: int | None  # None: the daemon's own root
    credentials: Credentials | None  # None: may change between calls, read at each


class Resolver:
    """Belongs to one thread of the daemon, whose root and fs credentials it borrows for the time of one call."""

    def __init__(self) -> None:
        calls.unshare_filesystem()
        self.handles: Handles | None = None  # with a seal: keeps what one look finds
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
            start = self._start(place, directory, path, resolve)
            try:
                return self._existing(place, start, path, follow, resolve)
            finally:
                _close(start)

    def named(
        self, place: Place, memory: Memory, address: int, directory: int, *, follow: bool = True, resolve: int = 0
    ) -> Object:
        """`object`, by a path that still lies in the thread's memory. The plain case goes by kernel/held.c in one step;
        what that does not find, and every error, is found out here."""
        credentials = place.credentials
        if credentials is not None and not resolve and self.stand_at(place):
            flags = 0 if follow else os.O_NOFOLLOW
            keep = self.handles is not None
            path, opened, name, status = held.look(
                place.tid, address, directory, flags, credentials.fsuid, keep, procfs.PROC, DESCRIPTORS
            )
            if path is not None:
                memory.keep(address, path)
            if name is not None:
                return Object(name, status, None if self.handles is None else Target(self.handles.keep(opened)))
        return self.object(place, directory, memory.path(address), follow=follow, resolve=resolve)

    def stand_at(self, place: Place) -> bool:
        """Takes on the groups of the place, where its root is this thread's and its credentials do not change; False
        where not. The user is taken on for each look."""
        if place.root is not None or self._root is not None or place.credentials is None:
            return False
        self._take_groups(place.credentials)
        return True

    def entry(self, place: Place, directory: int, path: bytes, *, follow: bool = False, resolve: int = 0) -> Object:
        """The directory entry that `path` names, whether something stands there or not. With `follow`, a symlink at the
        end is followed as open(O_CREAT) does, also a dangling one."""
        if not path:
            raise WouldFail(errno.ENOENT)
        with _Borrowed(self, place):
            start = self._start(place, directory, path, resolve)
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
                    if resolve & (calls.RESOLVE_BENEATH | calls.RESOLVE_IN_ROOT):
                        raise CannotRead(
                            "dangling-in-root", "a dangling symlink is not followed within a root of its own"
                        )
                    before = start
                    start, path = self._through(found, start, path)
                    _close(before)
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
            return self.kept(describe(opened), opened)
        finally:
            os.close(opened)

    def head(self, found: Object, size: int) -> bytes:
        """The first bytes of a regular file that was found with a seal in place, read as the daemon. OSError."""
        assert found.target is not None
        return head(found.target.object, size)

    def kept(self, found: Object, opened: int) -> Object:
        """With a seal, the object together with a descriptor on it that outlives the look."""
        if self.handles is None:
            return found
        return Object(found.name, found.status, Target(self.handles.keep(os.dup(opened))))

    def _start(self, place: Place, directory: int, path: bytes, resolve: int) -> int:
        """The descriptor that a relative path begins at, -1 where it does not matter."""
        if path.startswith(b"/") and not resolve & calls.RESOLVE_IN_ROOT:
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
            with self.as_ourselves():
                return procfs.open_link(link)

    def _existing(self, place: Place, start: int, path: bytes, follow: bool, resolve: int) -> Object:
        flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
        try:
            opened = calls.openat2(start, path, flags, resolve | calls.RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            # ENOENT: /dev/fd/63 may be missing among the daemon's descriptors, and be there among the thread's.
            elsewhere = error.errno == errno.ELOOP or (error.errno == errno.ENOENT and b"fd/" in path)
            if elsewhere and not resolve & ~calls.RESOLVE_NO_XDEV:
                return self._walk(place, start, path, follow)
            raise _would_fail(error) from None
        try:
            found = describe(opened)
            if found.name.startswith(_OURSELVES) or in_procfs(opened, found):
                # /proc/self was ours, not the thread's: walk, and put the thread's in.
                if resolve & ~(calls.RESOLVE_NO_XDEV | calls.RESOLVE_NO_MAGICLINKS):
                    raise CannotRead("path-in-proc", "openat2 with RESOLVE_ flags into /proc is not followed")
                return self._walk(place, start, path, follow)
            return self.kept(found, opened)
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
            return _in(above, last, self._existing(place, start, path.rstrip(b"/"), False, resolve))
        except WouldFail as failure:
            if failure.errno != errno.ENOENT:
                raise
        return _in(above, last, Object(_join(above.name, last), None))

    def _through(self, link: Object, start: int, path: bytes) -> tuple[int, bytes]:
        """Where the dangling symlink at the end of `path` leads: the descriptor to begin at, and a path."""
        name = os.fsencode(link.name)
        try:
            above = self._directory_of(link.name, start, path)
            try:
                return above, os.readlink(os.path.basename(name), dir_fd=above)
            except OSError:
                os.close(above)
                raise
        except OSError as error:
            raise _would_fail(error) from None

    def _directory_of(self, name: str, start: int, path: bytes) -> int:
        """The directory of the entry that `path` names, as `path` leads there: directories above may be closed."""
        parent, slash, _ = path.rstrip(b"/").rpartition(b"/")
        try:
            above = calls.openat2(start, parent or slash or b".", _DIRECTORY, calls.RESOLVE_NO_MAGICLINKS)
        except OSError:
            return os.open(os.path.dirname(name), _DIRECTORY | os.O_CLOEXEC)
        if describe(above).name == os.path.dirname(name):
            return above
        os.close(above)  # it went through our own /proc/self
        return os.open(os.path.dirname(name), _DIRECTORY | os.O_CLOEXEC)

    def _walk(self, place: Place, start: int, path: bytes, follow: bool) -> Object:
        """Component by component, for paths that pass through /proc: slow, and rare."""
        walk = Walk(place.tid, start, self.as_ourselves)
        try:
            walk.go(path, follow)
            return self.kept(describe(walk.here), walk.here)
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
        self._take_groups(credentials)
        self._be(credentials.fsuid)

    def _take_groups(self, credentials: Credentials) -> None:
        if credentials is not self._groups and credentials != self._groups:
            calls.set_fs_groups(credentials.fsgid, (ctypes.c_uint32 * len(credentials.groups))(*credentials.groups))
            self._groups = credentials

    @contextlib.contextmanager
    def as_ourselves(self) -> Iterator[None]:
        """For what belongs to the thread but shows to root only."""
        user = self._user
        self._be(0)
        try:
            yield
        finally:
            self._be(user)

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
        try:
            self._resolver._enter(self._root)
            self._resolver._borrow(self._credentials)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._resolver._be(0)
        self._resolver._enter(None)


def _credentials_of(place: Place) -> Credentials:
    return place.credentials or procfs.status(place.tid).credentials


def _would_fail(error: OSError) -> WouldFail:
    if error.errno is None:
        raise CannotRead("resolve-failed", str(error)) from error
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSYS, errno.EINVAL):
        raise CannotRead("resolve-failed", f"the object could not be resolved: {os.strerror(error.errno)}") from error
    return WouldFail(error.errno)


def _in(directory: Object, name: bytes, found: Object) -> Object:
    """With a seal, what was found together with the entry that it was found as."""
    if directory.target is None:
        return found
    opened = -1 if found.target is None else found.target.object
    return Object(found.name, found.status, Target(opened, directory.target.object, name))


def _join(directory: str, name: bytes) -> str:
    return f"{directory.rstrip('/')}/{os.fsdecode(name)}"


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
