"""Loading a seccomp filter: seccomp(2). Few imports: the launcher's child pays for them at every start."""

import ctypes
import errno
import os

# asm/unistd_64.h, asm-generic/unistd.h
_NUMBERS = {"x86_64": 317, "aarch64": 277}

# linux/seccomp.h
SET_MODE_FILTER = 1
FLAG_NEW_LISTENER = 0x8
FLAG_WAIT_KILLABLE_RECV = 0x20
_INSTRUCTION_BYTES = 8
_MOST_INSTRUCTIONS = 4096

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class _Program(ctypes.Structure):
    """linux/filter.h: struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install_filter(program: bytes, flags: int) -> int:
    """Loads `program` (struct sock_filter[]) on the calling thread; returns the listener's descriptor (close-on-exec).

    FLAG_NEW_LISTENER is always set. no_new_privs has to be set before. OSError: EBUSY when there is a listener already.
    """
    machine = os.uname().machine
    if machine not in _NUMBERS:
        raise OSError(errno.ENOSYS, f"seccomp: no system call number for {machine}: x86_64 and aarch64 are supported")
    count, rest = divmod(len(program), _INSTRUCTION_BYTES)
    if rest or not 0 < count <= _MOST_INSTRUCTIONS:
        raise OSError(
            errno.EINVAL, f"a filter of {len(program)} bytes: expected 1 to {_MOST_INSTRUCTIONS} instructions"
        )
    described = _Program(count, program)
    flags |= FLAG_NEW_LISTENER
    listener: int = _syscall(_NUMBERS[machine], SET_MODE_FILTER, ctypes.c_ulong(flags), ctypes.byref(described))
    if listener < 0:
        raise _failed(ctypes.get_errno())
    return listener


def _failed(number: int) -> OSError:
    why = {
        errno.EBUSY: "this process tree has a listener already (it runs inside a sandbox)",
        errno.EINVAL: "this kernel does not take the filter or its flags (Linux 5.5 or newer is needed)",
        errno.ENOSYS: "this kernel was built without seccomp filters",
        errno.EACCES: "no_new_privs is not set",
    }
    return OSError(number, f"seccomp: {why.get(number, os.strerror(number))}")
