"""Landlock: landlock(7), linux/landlock.h. Few imports: the launcher's child pays for them at every start."""

import ctypes
import os
import struct

# asm-generic/unistd.h: the same numbers on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER = 1 << 13  # ABI 2, Linux 5.19
TRUNCATE = 1 << 14  # ABI 3, Linux 6.2
IOCTL_DEV = 1 << 15  # ABI 5, Linux 6.10
SCOPE_SIGNAL = 1 << 1  # ABI 6, Linux 6.12

ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""The rights that a rule for something else than a directory may have; with others the kernel answers EINVAL."""

_FIRST = REFER - 1
_ADDED = ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV))

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def abi() -> int:
    """The version of Landlock that this kernel has; 0 when it has none, or it is switched off (`lsm=`)."""
    version: int = _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    return max(version, 0)


def handled(version: int) -> int:
    """Every filesystem right that this version knows."""
    return _FIRST | sum(right for since, right in _ADDED if version >= since)


def scopes(version: int) -> int:
    """Signals to outside the domain are refused where the kernel can. (Abstract sockets are not: connect is held.)"""
    return SCOPE_SIGNAL if version >= 6 else 0


def create_ruleset(rights: int, scoped: int) -> int:
    """A ruleset's descriptor. OSError."""
    attributes = struct.pack("=QQQ", rights, 0, scoped)
    size = 24 if scoped else 8  # an older kernel takes a shorter structure
    return _checked(
        _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)), "landlock_create_ruleset"
    )


def allow_beneath(ruleset: int, directory: int, rights: int) -> None:
    """Allows `rights` on what the descriptor names and on everything beneath it; adds to earlier rules. OSError."""
    attributes = struct.pack("=Qi", rights, directory)
    _checked(_syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, attributes, ctypes.c_uint32(0)), "landlock_add_rule")


def restrict_self(ruleset: int) -> None:
    """From here on, for this thread and its descendants. no_new_privs has to be set before. OSError."""
    _checked(_syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)), "landlock_restrict_self")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
