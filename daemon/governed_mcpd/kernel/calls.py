"""Raw system calls that Python has no wrapper for, each with the manual page it comes from.

All of them release the GIL and raise OSError. Numbers are per architecture; an architecture that is not in the table is
refused when this module is imported, not when a call goes wrong.
"""

import ctypes
import ctypes as c
import errno
import os
import platform
import struct

# asm/unistd_64.h, asm-generic/unistd.h
_NUMBERS = {
    "x86_64": {
        "setgroups": 116, "openat2": 437, "pidfd_getfd": 438,
        "unshare": 272,
    },
    "aarch64": {
        "setgroups": 159, "openat2": 437, "pidfd_getfd": 438,
        "unshare": 97,
    },
}  # fmt: skip
MACHINE = platform.machine()
if MACHINE not in _NUMBERS:
    raise ImportError(f"governed-mcpd knows no system call numbers for {MACHINE}: x86_64 and aarch64 are supported")
_NR = _NUMBERS[MACHINE]

# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# linux/magic.h
PROC_SUPER_MAGIC = 0x9FA0

# linux/sched.h
CLONE_FS = 0x200
CLONE_NEWNS = 0x2_0000

# sys/mount.h
MS_NOSUID, MS_NODEV = 0x2, 0x4
MNT_DETACH, UMOUNT_NOFOLLOW = 0x2, 0x8

_libc = c.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = c.c_long
_libc.fstatfs.argtypes = (c.c_int, c.c_void_p)
_libc.mount.argtypes = (c.c_char_p, c.c_char_p, c.c_char_p, c.c_ulong, c.c_char_p)
_libc.umount2.argtypes = (c.c_char_p, c.c_int)
_libc.setfsuid.argtypes = (c.c_uint,)
_libc.setfsgid.argtypes = (c.c_uint,)
_readv = _libc.process_vm_readv
_readv.argtypes = (c.c_int, c.c_void_p, c.c_ulong, c.c_void_p, c.c_ulong, c.c_ulong)
_readv.restype = c.c_ssize_t


def _failed(what: str) -> OSError:
    number = c.get_errno()
    if number == errno.ENOSYS:
        return OSError(number, f"{what}: this kernel does not have it (Linux 5.6 or newer is needed)")
    return OSError(number, f"{what}: {os.strerror(number)}")


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """openat2(2): a descriptor. `resolve` is a set of RESOLVE_ flags."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    descriptor: int = _syscall(_NR["openat2"], directory, path, how, c.c_size_t(24))
    if descriptor < 0:
        number = c.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor


def pidfd_getfd(pidfd: int, number: int) -> int:
    """pidfd_getfd(2): a duplicate of descriptor `number` of the process (of its thread group leader's table)."""
    descriptor: int = _syscall(_NR["pidfd_getfd"], pidfd, number, 0)
    if descriptor < 0:
        raise _failed("pidfd_getfd")
    return descriptor


def filesystem_magic(descriptor: int) -> int:
    """statfs(2) f_type: what kind of filesystem the object lies on."""
    buffer = c.create_string_buffer(256)
    if _libc.fstatfs(descriptor, buffer) != 0:
        raise _failed("fstatfs")
    return int(c.c_long.from_buffer(buffer).value)


def unshare_filesystem() -> None:
    """unshare(2) CLONE_FS: from here on this thread has a root and working directory of its own."""
    if _syscall(_NR["unshare"], c.c_ulong(CLONE_FS)) != 0:
        raise _failed("unshare(CLONE_FS)")


def enter_mount_namespace(namespace: int) -> None:
    """setns(2) for the calling thread, which shares its root and directory with no other (unshare_filesystem)."""
    if _libc.setns(namespace, CLONE_NEWNS) != 0:
        raise _failed("setns")


def mount_tmpfs(target: str, *, size: int, uid: int, gid: int) -> None:
    """mount(2): a tmpfs of `size` bytes, mode 0700, that belongs to uid and gid."""
    options = f"size={size},mode=0700,uid={uid},gid={gid}".encode()
    if _libc.mount(b"governed-scratch", os.fsencode(target), b"tmpfs", MS_NOSUID | MS_NODEV, options) != 0:
        raise _failed(f"mount a tmpfs at {target}")


def unmount(target: str) -> None:
    """umount2(2) MNT_DETACH. `target` is not a symlink."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        raise _failed(f"umount {target}")


def set_fs_user(uid: int) -> None:
    """setfsuid(2) for the calling thread. Leaving uid 0 takes the CAP_FS capabilities off the effective set, coming
    back restores them: capabilities(7)."""
    _libc.setfsuid(uid)


def set_fs_groups(gid: int, groups: "ctypes.Array[c.c_uint32]") -> None:
    """setfsgid(2), setgroups(2) for the calling thread alone (glibc's setgroups changes every thread)."""
    if _syscall(_NR["setgroups"], len(groups), groups) != 0:
        raise _failed("setgroups")
    _libc.setfsgid(gid)


class _IoVec(c.Structure):
    _fields_ = (("base", c.c_void_p), ("length", c.c_size_t))


class MemoryReader:
    """process_vm_readv(2) into one buffer. Not for use by two threads at once."""

    SIZE = 65536

    def __init__(self) -> None:
        self._buffer = c.create_string_buffer(self.SIZE)
        self._local = _IoVec(c.addressof(self._buffer), self.SIZE)
        self._remote = _IoVec(0, 0)
        self._local_ref, self._remote_ref = c.byref(self._local), c.byref(self._remote)
        self._view = memoryview(self._buffer)

    def read(self, tid: int, address: int, length: int) -> bytes:
        """At most `length` bytes; fewer where the mapping ends. OSError when nothing can be read."""
        length = min(length, self.SIZE)
        self._local.length = length
        self._remote.base = address
        self._remote.length = length
        got = _readv(tid, self._local_ref, 1, self._remote_ref, 1, 0)
        if got < 0:
            raise _failed(f"process_vm_readv of thread {tid}")
        return self._view[:got].tobytes()
