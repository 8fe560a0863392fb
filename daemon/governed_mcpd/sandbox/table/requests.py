"""ioctl, fcntl and prctl: one call, many requests; the request lies in a register.

Requests of ioctl are compared in their low 16 bits (type and number): size, direction and the register's upper half
are the caller's choice, and drivers that look at the low bits only must not see a request that the filter did not.
"""

from governed_mcpd.sandbox.table.row import EXACT, HELD, Carrier, Condition, Disposition, Row, Test

_FILTER = frozenset({Carrier.FILTER})
_TYPE, _TYPE_AND_NUMBER = 0xFF00, 0xFFFF


def _requests(
    disposition: Disposition, mask: int, reason: str, *values: int, argument: int = 1
) -> tuple[Condition, ...]:
    return tuple(Condition(disposition, (Test(argument, mask, value),), reason) for value in values)


# asm-generic/ioctls.h, linux/sockios.h, linux/kd.h, linux/vt.h
_TERMINAL = (
    *_requests(
        Disposition.REFUSE, _TYPE_AND_NUMBER, "TIOCSTI types into the terminal: the shell outside would run it", 0x5412
    ),
    *_requests(Disposition.REFUSE, _TYPE_AND_NUMBER, "TIOCLINUX pastes into the console", 0x541C),
    *_requests(Disposition.REFUSE, _TYPE_AND_NUMBER, "TIOCCONS takes the console's output", 0x541D),
    *_requests(
        Disposition.REFUSE,
        _TYPE_AND_NUMBER,
        "TIOCSETD puts another line discipline (kernel code) on a terminal",
        0x5423,
    ),
    *_requests(Disposition.REFUSE, _TYPE_AND_NUMBER, "TIOCVHANGUP hangs up a terminal", 0x5437),
    *_requests(Disposition.REFUSE, _TYPE_AND_NUMBER, "TIOCSLCKTRMIOS locks a terminal's settings", 0x5457),
    *_requests(
        Disposition.REFUSE,
        _TYPE_AND_NUMBER,
        "FIOASYNC is O_ASYNC of F_SETFL",
        0x5452,
    ),
    *_requests(
        Disposition.REFUSE,
        _TYPE_AND_NUMBER,
        "FIOSETOWN and SIOCSPGRP are F_SETOWN for sockets: signals to outside without kill",
        0x8901,
        0x8902,
    ),
    *_requests(
        Disposition.REFUSE,
        _TYPE,
        "the keyboard map and function keys of the console outlive the sandbox: what the user types would run",
        0x4B00,
    ),
    *_requests(Disposition.REFUSE, 0xFFFF_FFF0, "switches and steers virtual consoles", 0x5600),
)

# linux/fs.h, linux/fscrypt.h, linux/fsverity.h, linux/btrfs.h, fs/ext4/ext4.h, xfs_fs.h, linux/msdos_fs.h, linux/f2fs.h
_FILESYSTEM = (
    *_requests(
        Disposition.PASS,
        _TYPE_AND_NUMBER,
        "reads flags, version, extents, encryption policy or verity digest of an inode",
        0x6601,
        0x6603,
        0x660B,
        0x6614,
        0x6615,
        0x6616,
        0x661A,
        0x661B,
        0x6686,
        0x6687,
    ),
    *_requests(
        Disposition.HOLD, _TYPE, "FS_IOC_SETFLAGS, verity, encryption, ext4 and f2fs requests change an inode", 0x6600
    ),
    *_requests(Disposition.PASS, _TYPE_AND_NUMBER, "FS_IOC_FSGETXATTR reads", 0x581F),
    *_requests(
        Disposition.HOLD, _TYPE, "FS_IOC_FSSETXATTR, freeze, trim, shutdown and XFS requests change inodes", 0x5800
    ),
    *_requests(
        Disposition.PASS,
        _TYPE_AND_NUMBER,
        "FICLONE and FICLONERANGE write through a descriptor that was opened for writing, which was held",
        0x9409,
        0x940D,
    ),
    *_requests(
        Disposition.HOLD, _TYPE, "btrfs subvolumes and snapshots, dedupe and labels change a filesystem", 0x9400
    ),
    *_requests(Disposition.HOLD, _TYPE_AND_NUMBER, "FS_IOC_SETVERSION changes an inode", 0x7602),
    *_requests(Disposition.HOLD, _TYPE_AND_NUMBER, "FAT_IOCTL_SET_ATTRIBUTES changes an inode", 0x7211),
    *_requests(Disposition.HOLD, _TYPE_AND_NUMBER, "OCFS2_IOC_REFLINK makes a file", 0x6F04),
    *_requests(Disposition.HOLD, _TYPE, "f2fs requests change inodes", 0xF500),
    *_requests(Disposition.HOLD, _TYPE, "bcachefs subvolumes", 0xBC00),
    *_requests(Disposition.HOLD, _TYPE, "ceph layouts", 0x9700),
    *_requests(Disposition.HOLD, _TYPE, "CIFS requests change files on a server", 0xCF00),
)

_IOCTL = Row(
    "ioctl",
    Disposition.PASS,
    HELD | _FILTER,
    "a driver's requests, through a descriptor that Landlock or an approval let the process open",
    conditions=(*_TERMINAL, *_FILESYSTEM),
)

# asm-generic/fcntl.h, linux/fcntl.h
F_SETFL, O_ASYNC = 4, 0o20000
_FCNTL = Row(
    "fcntl",
    Disposition.REFUSE,
    _FILTER,
    "F_SETOWN, F_SETOWN_EX and F_SETSIG signal outside without kill; F_SETLEASE makes others' opens wait, the "
    "supervisor's too; F_NOTIFY signals; unknown requests",
    conditions=(
        Condition(
            Disposition.REFUSE,
            (Test(1, EXACT, F_SETFL), Test(2, O_ASYNC, O_ASYNC)),
            "O_ASYNC makes the terminal's foreground process group, whoever that is, the owner who is signalled",
        ),
        *_requests(Disposition.PASS, EXACT, "the descriptor and its flags", 0, 1, 2, 3, 4, 1027, 1028, 1030),
        *_requests(Disposition.PASS, EXACT, "locks, as flock", 5, 6, 7, 36, 37, 38, 1029),
        *_requests(Disposition.PASS, EXACT, "reads who owns, signals, leases", 9, 11, 16, 1025),
        *_requests(Disposition.PASS, EXACT, "size of a pipe", 1031, 1032),
        *_requests(Disposition.PASS, EXACT, "seals of an own memfd", 1033, 1034),
        *_requests(Disposition.PASS, EXACT, "hints about how long data lives", 1035, 1036, 1037, 1038),
    ),
)

# linux/prctl.h
_PRCTL_PASS = {
    "PR_SET_PDEATHSIG": 1,
    "PR_GET_PDEATHSIG": 2,
    "PR_GET_DUMPABLE": 3,
    "PR_SET_DUMPABLE": 4,
    "PR_GET_UNALIGN": 5,
    "PR_SET_UNALIGN": 6,
    "PR_GET_KEEPCAPS": 7,
    "PR_SET_KEEPCAPS": 8,
    "PR_GET_TIMING": 13,
    "PR_SET_TIMING": 14,
    "PR_SET_NAME": 15,
    "PR_GET_NAME": 16,
    "PR_GET_SECCOMP": 21,
    "PR_SET_SECCOMP": 22,
    "PR_CAPBSET_READ": 23,
    "PR_CAPBSET_DROP": 24,
    "PR_GET_TSC": 25,
    "PR_SET_TSC": 26,
    "PR_GET_SECUREBITS": 27,
    "PR_SET_SECUREBITS": 28,
    "PR_SET_TIMERSLACK": 29,
    "PR_GET_TIMERSLACK": 30,
    "PR_MCE_KILL": 33,
    "PR_MCE_KILL_GET": 34,
    "PR_SET_CHILD_SUBREAPER": 36,
    "PR_GET_CHILD_SUBREAPER": 37,
    "PR_SET_NO_NEW_PRIVS": 38,
    "PR_GET_NO_NEW_PRIVS": 39,
    "PR_GET_TID_ADDRESS": 40,
    "PR_SET_THP_DISABLE": 41,
    "PR_GET_THP_DISABLE": 42,
    "PR_CAP_AMBIENT": 47,
    "PR_SVE_SET_VL": 50,
    "PR_SVE_GET_VL": 51,
    "PR_GET_SPECULATION_CTRL": 52,
    "PR_SET_SPECULATION_CTRL": 53,
    "PR_PAC_RESET_KEYS": 54,
    "PR_SET_TAGGED_ADDR_CTRL": 55,
    "PR_GET_TAGGED_ADDR_CTRL": 56,
    "PR_GET_IO_FLUSHER": 58,
    "PR_PAC_SET_ENABLED_KEYS": 60,
    "PR_PAC_GET_ENABLED_KEYS": 61,
    "PR_SME_SET_VL": 63,
    "PR_SME_GET_VL": 64,
    "PR_SET_MDWE": 65,
    "PR_GET_MDWE": 66,
    "PR_SET_VMA": 0x53564D41,
    "PR_GET_AUXV": 0x41555856,
}
_PRCTL = Row(
    "prctl",
    Disposition.REFUSE,
    _FILTER,
    "PR_SET_MM hides what runs; PR_SCHED_CORE reaches other processes; PR_SET_PTRACER opens this one; "
    "PR_SET_IO_FLUSHER; PR_TASK_PERF_EVENTS, PR_SET_SYSCALL_USER_DISPATCH and unknown options",
    conditions=tuple(
        Condition(Disposition.PASS, (Test(0, EXACT, value),), name) for name, value in _PRCTL_PASS.items()
    ),
)

REQUESTS: tuple[Row, ...] = (_IOCTL, _FCNTL, _PRCTL)
