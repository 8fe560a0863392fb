"""Being told when names come and go in directories: inotify(7)."""

import ctypes as c
import os
import struct

# sys/inotify.h
IN_MOVED_TO, IN_CREATE, IN_ONLYDIR = 0x80, 0x100, 0x0100_0000
IN_IGNORED, IN_Q_OVERFLOW = 0x8000, 0x4000
_INIT_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_EVENT = struct.Struct("iIII")

_libc = c.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (c.c_int, c.c_char_p, c.c_uint32)


class Watches:
    """One inotify instance. Owns the descriptor."""

    def __init__(self) -> None:
        self.descriptor = int(_libc.inotify_init1(_INIT_FLAGS))
        if self.descriptor < 0:
            raise _failed("inotify_init1")

    def fileno(self) -> int:
        return self.descriptor

    def add(self, directory: int) -> int:
        """Watches a directory that is open (O_PATH is enough) for names that come; the watch's number. The same
        directory has the same number each time. OSError."""
        path = b"/proc/self/fd/%d" % directory
        watch = int(_libc.inotify_add_watch(self.descriptor, path, IN_MOVED_TO | IN_CREATE | IN_ONLYDIR))
        if watch < 0:
            raise _failed("inotify_add_watch")
        return watch

    def remove(self, watch: int) -> None:
        """Watches it no longer; nothing happens when the directory is gone."""
        _libc.inotify_rm_watch(self.descriptor, watch)

    def take(self) -> set[tuple[int, bytes]] | None:
        """What came since: numbers of watches, and names; None when some were lost, so it may be any."""
        found: set[tuple[int, bytes]] = set()
        while True:
            try:
                data = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                if mask & IN_Q_OVERFLOW:
                    return None
                at += _EVENT.size + length
                if not mask & IN_IGNORED:
                    found.add((watch, data[at - length : at].rstrip(b"\0")))


def _failed(what: str) -> OSError:
    number = c.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
