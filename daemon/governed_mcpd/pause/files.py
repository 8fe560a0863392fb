"""Held calls on files: open(2), truncate(2), unlink(2), rename(2), link(2), symlink(2), mkdir(2), mknod(2), chmod(2),
chown(2), setxattr(2), utimensat(2), ioctl_fs(2)."""

import errno
import os
import stat as modes
import struct

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.pause.call import Call, one, targets
from governed_mcpd.pause.object import Object
from governed_mcpd.pause.observation import Effects, Harmless, Observation, Unreadable, WouldFail
from governed_mcpd.pause.resolve import AT_FDCWD

AT_SYMLINK_NOFOLLOW = 0x100
AT_REMOVEDIR = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000
RENAME_EXCHANGE = 2
_O_TMPFILE = 0o20000000  # asm-generic/fcntl.h __O_TMPFILE, without O_DIRECTORY
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ACCESS = ("read", "write", "read+write", "ioctl")
_FLAG_WORDS = ((os.O_CREAT, "create"), (os.O_TRUNC, "truncate"), (os.O_APPEND, "append"))
_SHOWN = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SHOWN_FLAGS: dict[int, str] = {}  # at most one for each combination of those bits
_HOW_SIZE = 24  # struct open_how, OPEN_HOW_SIZE_VER0
_HOW_MOST = 4096

# linux/fs.h and the filesystems' headers: ioctls that change an inode through any descriptor.
IOCTL_NAMES = {
    0x40086602: "FS_IOC_SETFLAGS",
    0x40046602: "FS_IOC32_SETFLAGS",
    0x401C5820: "FS_IOC_FSSETXATTR",
    0x40086604: "FS_IOC_SETVERSION",
    0x40806685: "FS_IOC_ENABLE_VERITY",
    0x40049409: "FICLONE",
    0x4020940D: "FICLONERANGE",
    0xC0189436: "FIDEDUPERANGE",
}


def open_(call: Call) -> Observation:
    return _open(call, AT_FDCWD, 0, call.integer(1), mode=call.integer(2))


def creat(call: Call) -> Observation:
    return _open(call, AT_FDCWD, 0, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode=call.integer(1))


def openat(call: Call) -> Observation:
    return _open(call, call.integer(0), 1, call.integer(2), mode=call.integer(3))


def openat2(call: Call) -> Observation:
    size = call.register(3)
    if size < _HOW_SIZE:
        raise WouldFail(errno.EINVAL)
    if size > _HOW_MOST:
        raise WouldFail(errno.E2BIG)
    how = call.memory.read(call.register(2), size)
    if any(how[_HOW_SIZE:]):
        # A field that this program does not know: the kernel says E2BIG when it does not know it either.
        return Unreadable("openat2-unknown-field", "struct open_how has a field that is not known", errno=errno.E2BIG)
    flags, mode, resolve = struct.unpack_from("QQQ", how)
    if flags >> 32:
        raise WouldFail(errno.EINVAL)
    return _open(call, call.integer(0), 1, flags, mode=mode, resolve=resolve)


def _open(call: Call, directory: int, index: int, flags: int, *, mode: int, resolve: int = 0) -> Observation:
    """`index`: which argument the path is."""
    if flags & os.O_PATH:
        return Harmless("O_PATH reads and writes nothing")
    if flags & _O_TMPFILE:
        return Unreadable(
            "o-tmpfile",
            "a file without a name cannot be judged by its name: programs fall back to a named one",
            Operation.FILE_CREATE,
            os.fsdecode(call.path(index)),
            errno.EOPNOTSUPP,
        )
    follow = not flags & os.O_NOFOLLOW
    shown = _open_flags(flags)
    if flags & os.O_CREAT:
        found = _created_or_there(call, directory, index, follow and not flags & os.O_EXCL, resolve)
        if not found.exists:
            return one(Operation.FILE_CREATE, found, flags=shown, mode=oct(mode & 0o7777))
        if flags & os.O_EXCL:
            raise WouldFail(errno.EEXIST)
    else:
        found = call.named(index, directory, follow=follow, resolve=resolve)
    assert found.status is not None
    if modes.S_ISLNK(found.status.st_mode):
        raise WouldFail(errno.ELOOP)
    if flags & _CHANGES:
        if modes.S_ISDIR(found.status.st_mode):
            raise WouldFail(errno.EISDIR)
        return _existing(Operation.FILE_WRITE, found, flags=shown)
    return _existing(Operation.FILE_READ, found, flags=shown)


def _created_or_there(call: Call, directory: int, index: int, follow: bool, resolve: int) -> Object:
    """What open(O_CREAT) opens: most files that are opened so exist."""
    try:
        return call.named(index, directory, follow=follow, resolve=resolve)
    except WouldFail as failure:
        if failure.errno != errno.ENOENT:
            raise
    return call.resolver.entry(call.place, directory, call.path(index), follow=follow, resolve=resolve)


def _open_flags(flags: int) -> str:
    shown = _SHOWN_FLAGS.get(flags & _SHOWN)
    if shown is None:
        words = [_ACCESS[flags & os.O_ACCMODE]]
        words += [word for bit, word in _FLAG_WORDS if flags & bit]
        shown = _SHOWN_FLAGS[flags & _SHOWN] = "+".join(words)
    return shown


def _existing(operation: Operation, found: Object, **details: str) -> Observation:
    """An effect on something that stands there; `device` tells the judge which terminal or device it is."""
    if found.unnamed:
        return Harmless("no name leads to it", one(operation, found, **details) if found.target else None)
    if found.device:
        assert found.status is not None
        kind = "char" if modes.S_ISCHR(found.status.st_mode) else "block"
        details["device"] = f"{kind}:{os.major(found.device)}:{os.minor(found.device)}"
    return one(operation, found, **details)


def _fd_effect(call: Call, operation: Operation, number: int, **details: str) -> Observation:
    return _existing(operation, call.resolver.descriptor(call.place, number), **details)


def _path_effect(
    call: Call, operation: Operation, directory: int, path: bytes, follow: bool, **details: str
) -> Observation:
    return _existing(operation, call.resolver.object(call.place, directory, path, follow=follow), **details)


def _at_effect(call: Call, operation: Operation, flags: int, **details: str) -> Observation:
    """The *at calls with (dirfd, path, …, flags): AT_EMPTY_PATH means the descriptor itself."""
    path = call.path(1)
    if not path and flags & AT_EMPTY_PATH:
        return _fd_or_cwd(call, operation, call.integer(0), **details)
    return _path_effect(call, operation, call.integer(0), path, not flags & AT_SYMLINK_NOFOLLOW, **details)


def _fd_or_cwd(call: Call, operation: Operation, number: int, **details: str) -> Observation:
    if number == AT_FDCWD:
        return _path_effect(call, operation, AT_FDCWD, b".", True, **details)
    return _fd_effect(call, operation, number, **details)


def truncate(call: Call) -> Observation:
    return _path_effect(call, Operation.FILE_TRUNCATE, AT_FDCWD, call.path(0), True, size=str(call.register(1)))


def unlink(call: Call) -> Observation:
    return _remove(call, Operation.FILE_UNLINK, AT_FDCWD, call.path(0))


def rmdir(call: Call) -> Observation:
    return _remove(call, Operation.FILE_RMDIR, AT_FDCWD, call.path(0))


def unlinkat(call: Call) -> Observation:
    operation = Operation.FILE_RMDIR if call.integer(2) & AT_REMOVEDIR else Operation.FILE_UNLINK
    return _remove(call, operation, call.integer(0), call.path(1))


def _remove(call: Call, operation: Operation, directory: int, path: bytes) -> Observation:
    found = call.resolver.entry(call.place, directory, path)
    if not found.exists:
        raise WouldFail(errno.ENOENT)
    return one(operation, found)


def rename(call: Call) -> Observation:
    return _rename(call, AT_FDCWD, call.path(0), AT_FDCWD, call.path(1), 0)


def renameat(call: Call) -> Observation:
    return _rename(call, call.integer(0), call.path(1), call.integer(2), call.path(3), 0)


def renameat2(call: Call) -> Observation:
    return _rename(call, call.integer(0), call.path(1), call.integer(2), call.path(3), call.integer(4))


def _rename(call: Call, old_at: int, old: bytes, new_at: int, new: bytes, flags: int) -> Observation:
    source = call.resolver.entry(call.place, old_at, old)
    if not source.exists:
        raise WouldFail(errno.ENOENT)
    target = call.resolver.entry(call.place, new_at, new)
    details = {"replaces": "yes"} if target.exists else {}
    moved = (source, target) if flags & RENAME_EXCHANGE else (source,)
    if any(found.status is not None and modes.S_ISLNK(found.status.st_mode) for found in moved):
        details["moves"] = "symlink"
    if flags:
        details["flags"] = hex(flags)
    effect = SideEffect(Operation.FILE_RENAME, source.name, target.name, details=details)
    return Effects((effect,), targets(source, target))


def link(call: Call) -> Observation:
    return _link(call, AT_FDCWD, call.path(0), AT_FDCWD, call.path(1), 0)


def linkat(call: Call) -> Observation:
    return _link(call, call.integer(0), call.path(1), call.integer(2), call.path(3), call.integer(4))


def _link(call: Call, old_at: int, old: bytes, new_at: int, new: bytes, flags: int) -> Observation:
    if not old and flags & AT_EMPTY_PATH:
        source = call.resolver.descriptor(call.place, old_at)
    else:
        source = call.resolver.object(call.place, old_at, old, follow=bool(flags & AT_SYMLINK_FOLLOW))
    if source.unnamed:
        return Unreadable("unnamed-link", "a file without a name cannot be given one", Operation.FILE_LINK, source.name)
    target = call.resolver.entry(call.place, new_at, new)
    if target.exists:
        raise WouldFail(errno.EEXIST)
    return Effects((SideEffect(Operation.FILE_LINK, source.name, target.name),), targets(source, target))


def symlink(call: Call) -> Observation:
    return _symlink(call, call.path(0), AT_FDCWD, call.path(1))


def symlinkat(call: Call) -> Observation:
    return _symlink(call, call.path(0), call.integer(1), call.path(2))


def _symlink(call: Call, text: bytes, directory: int, path: bytes) -> Observation:
    found = call.resolver.entry(call.place, directory, path)
    if found.exists:
        raise WouldFail(errno.EEXIST)
    return Effects((SideEffect(Operation.FILE_SYMLINK, found.name, os.fsdecode(text)),), targets(found))


def mkdir(call: Call) -> Observation:
    return _make(call, Operation.FILE_MKDIR, AT_FDCWD, call.path(0), call.integer(1))


def mkdirat(call: Call) -> Observation:
    return _make(call, Operation.FILE_MKDIR, call.integer(0), call.path(1), call.integer(2))


def mknod(call: Call) -> Observation:
    return _make(call, Operation.FILE_MKNOD, AT_FDCWD, call.path(0), call.integer(1))


def mknodat(call: Call) -> Observation:
    return _make(call, Operation.FILE_MKNOD, call.integer(0), call.path(1), call.integer(2))


def _make(call: Call, operation: Operation, directory: int, path: bytes, mode: int) -> Observation:
    found = call.resolver.entry(call.place, directory, path)
    if found.exists:
        raise WouldFail(errno.EEXIST)
    return one(operation, found, mode=oct(mode & 0o177777))


def chmod(call: Call) -> Observation:
    return _path_effect(call, Operation.FILE_CHMOD, AT_FDCWD, call.path(0), True, mode=_mode(call, 1))


def fchmod(call: Call) -> Observation:
    return _fd_effect(call, Operation.FILE_CHMOD, call.integer(0), mode=_mode(call, 1))


def fchmodat(call: Call) -> Observation:
    return _at_effect(call, Operation.FILE_CHMOD, 0, mode=_mode(call, 2))


def _mode(call: Call, index: int) -> str:
    return oct(call.integer(index) & 0o7777)


def chown(call: Call) -> Observation:
    return _path_effect(call, Operation.FILE_CHOWN, AT_FDCWD, call.path(0), True, owner=_owner(call, 1))


def lchown(call: Call) -> Observation:
    return _path_effect(call, Operation.FILE_CHOWN, AT_FDCWD, call.path(0), False, owner=_owner(call, 1))


def fchown(call: Call) -> Observation:
    return _fd_effect(call, Operation.FILE_CHOWN, call.integer(0), owner=_owner(call, 1))


def fchownat(call: Call) -> Observation:
    return _at_effect(call, Operation.FILE_CHOWN, call.integer(4), owner=_owner(call, 2))


def _owner(call: Call, index: int) -> str:
    return f"{call.integer(index)}:{call.integer(index + 1)}"


def setxattr(call: Call) -> Observation:
    return _path_effect(call, Operation.FILE_XATTR, AT_FDCWD, call.path(0), True, **_attribute(call))


def lsetxattr(call: Call) -> Observation:
    return _path_effect(call, Operation.FILE_XATTR, AT_FDCWD, call.path(0), False, **_attribute(call))


def fsetxattr(call: Call) -> Observation:
    return _fd_effect(call, Operation.FILE_XATTR, call.integer(0), **_attribute(call))


def _attribute(call: Call) -> dict[str, str]:
    return {"attribute": os.fsdecode(call.memory.string(call.register(1), 256))}


def utime(call: Call) -> Observation:
    return _path_effect(call, Operation.FILE_TIMES, AT_FDCWD, call.path(0), True)


def futimesat(call: Call) -> Observation:
    if call.register(1) == 0:
        return _fd_effect(call, Operation.FILE_TIMES, call.integer(0))
    return _path_effect(call, Operation.FILE_TIMES, call.integer(0), call.path(1), True)


def utimensat(call: Call) -> Observation:
    if call.register(1) == 0:
        return _fd_effect(call, Operation.FILE_TIMES, call.integer(0))
    return _at_effect(call, Operation.FILE_TIMES, call.integer(3))


def ioctl(call: Call) -> Observation:
    request = call.register(1) & 0xFFFFFFFF
    return _fd_effect(call, Operation.FILE_IOCTL, call.integer(0), request=IOCTL_NAMES.get(request, hex(request)))
