"""Files: opening, reading, writing, names and metadata."""

import errno

from governed_mcpd.sandbox.table.row import (
    BY_LANDLOCK,
    HELD,
    HELD_IN_ENVELOPE,
    Carrier,
    Condition,
    Disposition,
    Row,
    Test,
    holds,
    passes,
    refuses,
)

# asm-generic/fcntl.h; these bits are the same on x86-64 and aarch64
O_WRONLY, O_RDWR, O_CREAT, O_TRUNC = 0o1, 0o2, 0o100, 0o1000
O_PATH, O_TMPFILE_BIT = 0o10000000, 0o20000000
CLOSE_RANGE_UNSHARE = 2  # linux/close_range.h

_CHANGING = (
    (O_WRONLY, "O_WRONLY"),
    (O_RDWR, "O_RDWR"),
    (O_CREAT, "O_CREAT"),
    (O_TRUNC, "O_TRUNC (it empties the file even when the file is opened for reading)"),
    (O_TMPFILE_BIT, "O_TMPFILE"),
)


def _open(name: str, flags: int, *, reads_pause: bool) -> Row:
    reference = Condition(
        Disposition.PASS,
        (Test(flags, O_PATH, O_PATH),),
        "O_PATH: the kernel drops the other flags; the descriptor reads and writes nothing, opening it again is held",
    )
    if reads_pause:
        reason = "the profile says reads: pause: every open is held"
        return Row(name, Disposition.HOLD, HELD_IN_ENVELOPE, reason, conditions=(reference,))
    changing = tuple(
        Condition(Disposition.HOLD, (Test(flags, bit, bit),), f"flags has {word}") for bit, word in _CHANGING
    )
    reason = "opening for reading: Landlock limits it to the Envelope; opening for writing or creating is held"
    return Row(name, Disposition.PASS, HELD_IN_ENVELOPE, reason, conditions=(reference, *changing))


def opening(*, reads_pause: bool) -> tuple[Row, ...]:
    """open and openat, whose flags lie in a register."""
    return (_open("open", 1, reads_pause=reads_pause), _open("openat", 2, reads_pause=reads_pause))


FILES: tuple[Row, ...] = (
    *holds("its flags lie in memory: every call is held", "openat2", carriers=HELD_IN_ENVELOPE),
    *holds("creates or empties a file", "creat", carriers=HELD_IN_ENVELOPE),
    *holds("changes a file by its name (Landlock covers it from ABI 3 on)", "truncate", carriers=HELD_IN_ENVELOPE),
    *holds("removes a name", "unlink", "unlinkat", "rmdir", carriers=HELD_IN_ENVELOPE),
    *holds("moves a name, and may replace another", "rename", "renameat", "renameat2", carriers=HELD_IN_ENVELOPE),
    *holds(
        "gives a file a further name, out of the reach of rules for the first",
        "link",
        "linkat",
        carriers=HELD_IN_ENVELOPE,
    ),
    *holds("makes a name that leads elsewhere", "symlink", "symlinkat", carriers=HELD_IN_ENVELOPE),
    *holds("makes a directory", "mkdir", "mkdirat", carriers=HELD_IN_ENVELOPE),
    *holds("makes a file, FIFO, socket or device", "mknod", "mknodat", carriers=HELD_IN_ENVELOPE),
    *holds(
        "changes who may do what with a file; Landlock does not know it; fchmod works through a descriptor for reading",
        "chmod",
        "fchmod",
        "fchmodat",
    ),
    *holds(
        "changes a file's owner; Landlock does not know it, and fchown works through a descriptor for reading",
        "chown",
        "lchown",
        "fchown",
        "fchownat",
    ),
    *holds(
        "changes extended attributes, ACLs and file capabilities; fsetxattr works through a descriptor for reading",
        "setxattr",
        "lsetxattr",
        "fsetxattr",
        "removexattr",
        "lremovexattr",
        "fremovexattr",
    ),
    *holds(
        "changes times (make and backups trust them); with no path it works through a descriptor for reading",
        "utime",
        "utimes",
        "futimesat",
        "utimensat",
    ),
    *passes(
        "only through a descriptor that was opened for writing, and that was held",
        "ftruncate",
        "fallocate",
        "write",
        "writev",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "sync_file_range",
        carriers=HELD,
    ),
    *passes(
        "between descriptors that are open already: opening or connecting them was held",
        "copy_file_range",
        "sendfile",
        "splice",
        "tee",
        "vmsplice",
        carriers=HELD,
    ),
    *passes(
        "data of descriptors that are open already; asynchronous writes need one opened for writing",
        "io_setup",
        "io_destroy",
        "io_submit",
        "io_cancel",
        "io_getevents",
        "io_pgetevents",
        carriers=HELD,
    ),
    *passes(
        "reads from a descriptor that is open already",
        "read",
        "readv",
        "pread64",
        "preadv",
        "preadv2",
        "getdents",
        "getdents64",
        "lseek",
        "readahead",
        "fadvise64",
        carriers=BY_LANDLOCK,
    ),
    *passes(
        "metadata and names, not contents: no Landlock right covers these, they show outside the Envelope too",
        "stat",
        "lstat",
        "fstat",
        "newfstatat",
        "statx",
        "access",
        "faccessat",
        "faccessat2",
        "readlink",
        "readlinkat",
        "statfs",
        "fstatfs",
        "getxattr",
        "lgetxattr",
        "fgetxattr",
        "listxattr",
        "llistxattr",
        "flistxattr",
        "name_to_handle_at",
    ),
    *passes("the working directory is the process's own", "chdir", "fchdir", "getcwd"),
    *passes("descriptors of the process itself", "close", "dup", "dup2", "dup3", "pipe", "pipe2", "umask"),
    Row(
        "close_range",
        Disposition.PASS,
        frozenset({Carrier.FILTER}),
        "descriptors of the process itself",
        conditions=(
            Condition(
                Disposition.REFUSE,
                (Test(2, CLOSE_RANGE_UNSHARE, CLOSE_RANGE_UNSHARE),),
                "CLOSE_RANGE_UNSHARE: a thread with descriptors of its own, as with unshare; programs do without",
                errno.ENOSYS,
            ),
        ),
    ),
    *passes("writes out what was written already", "fsync", "fdatasync", "sync", "syncfs", "msync"),
    *passes("advisory locks on open files", "flock"),
    *passes(
        "tells of changes; names in readable directories outside the Envelope show, as with stat",
        "inotify_init",
        "inotify_init1",
        "inotify_add_watch",
        "inotify_rm_watch",
    ),
    *refuses("opens a file by its handle, past every path rule", "open_by_handle_at"),
    *refuses("watches whole filesystems", "fanotify_init", "fanotify_mark"),
)
