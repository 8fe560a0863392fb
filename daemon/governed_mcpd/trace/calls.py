"""Which system calls `trace` shows, and where their objects stand among the arguments (from 0; see man 2 of each)."""

import os
from dataclasses import dataclass

# program.c has the same numbers.
STRING, ADDRESS, MESSAGE = 1, 2, 3
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. `objects`: form and argument of up to two. `directories`: for each the argument that says where
    a relative name begins; None: in the current directory; NOWHERE: it is a text and no name. `flags`: the argument
    with the flags of open(2)."""

    kind: str  # file, network, exec
    objects: tuple[tuple[int, int], ...] = ()
    directories: tuple[int | None, ...] = ()
    flags: int | None = None


def _named(*at: int, kind: str = "file", flags: int | None = None) -> Call:
    """Names that begin at the current directory."""
    return Call(kind, tuple((STRING, place) for place in at), (None,) * len(at), flags)


def _at(*at: int, kind: str = "file", flags: int | None = None) -> Call:
    """Names that begin at a descriptor, which is the argument before each."""
    return Call(kind, tuple((STRING, place) for place in at), tuple(place - 1 for place in at), flags)


def _text_then_name(text: int, name: int, directory: int | None) -> Call:
    """symlink(2): the first is a text, not a name."""
    return Call("file", ((STRING, text), (STRING, name)), (NOWHERE, directory))


def _name_then_text(name: int, text: int) -> Call:
    """setxattr(2): the second is the name of an attribute, not of a file."""
    return Call("file", ((STRING, name), (STRING, text)), (None, NOWHERE))


def _address(form: int, at: int) -> Call:
    return Call("network", ((form, at),))


CALLS = {
    "open": _named(0, flags=1),
    "openat": _at(1, flags=2),
    "openat2": _at(1),  # its flags lie in memory
    "creat": _named(0),
    "truncate": _named(0),
    "ftruncate": Call("file"),
    "unlink": _named(0),
    "unlinkat": _at(1),
    "rmdir": _named(0),
    "rename": _named(0, 1),
    "renameat": _at(1, 3),
    "renameat2": _at(1, 3),
    "link": _named(0, 1),
    "linkat": _at(1, 3),
    "symlink": _text_then_name(0, 1, None),
    "symlinkat": _text_then_name(0, 2, 1),
    "mkdir": _named(0),
    "mkdirat": _at(1),
    "mknod": _named(0),
    "mknodat": _at(1),
    "chmod": _named(0),
    "fchmod": Call("file"),
    "fchmodat": _at(1),
    "chown": _named(0),
    "lchown": _named(0),
    "fchown": Call("file"),
    "fchownat": _at(1),
    "utime": _named(0),
    "utimes": _named(0),
    "utimensat": _at(1),
    "futimesat": _at(1),
    "setxattr": _name_then_text(0, 1),
    "lsetxattr": _name_then_text(0, 1),
    "fsetxattr": Call("file"),
    "fremovexattr": Call("file"),
    "removexattr": _name_then_text(0, 1),
    "lremovexattr": _name_then_text(0, 1),
    "connect": _address(ADDRESS, 1),
    "bind": _address(ADDRESS, 1),
    "listen": Call("network"),
    "sendto": _address(ADDRESS, 4),
    "sendmsg": _address(MESSAGE, 1),
    "sendmmsg": _address(MESSAGE, 1),  # the first message's
    "execve": _named(0, kind="exec"),
    "execveat": _at(1, kind="exec"),
}
# With no address they send to whom the socket is connected to: that was shown when it connected.
ONLY_WITH_ADDRESS = frozenset({"sendto", "sendmsg", "sendmmsg"})


def opened_for(flags: int) -> str:
    """What an open is for: `read`, `write` or `read+write`, and `create`, `truncate`, `path`."""
    if flags & os.O_PATH:
        return "path"
    words = [{os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "read+write"}.get(flags & os.O_ACCMODE, "write")]
    words += [word for bit, word in ((os.O_CREAT, "create"), (os.O_TRUNC, "truncate")) if flags & bit]
    return "+".join(words)
