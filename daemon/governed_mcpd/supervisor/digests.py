"""Size and digest of files, for operations that the profile calls durable: what was there before, and what after.

Reading takes time and may wait for ever, so one thread of its own does it, and the leader goes on.
"""

import errno
import os
import queue
import stat
import threading
from collections.abc import Callable, Sequence
from functools import partial

from blake3 import blake3

from governed_mcpd.kernel import calls
from governed_mcpd.subjects.sandbox import State

MOST_BYTES = 256 << 20
States = dict[str, State]
_CHUNK = 1 << 20


class Unavailable(Exception):
    """The file cannot be digested. The text says why."""


def state_of(path: str) -> State | None:
    """(size in bytes, BLAKE3 digest in hex) of a regular file; None for anything else, or nothing. Unavailable."""
    try:
        # The name was canonical when it was judged. A symlink in it now would have this read another file, as root.
        seen = calls.openat2(-1, os.fsencode(path), os.O_PATH, calls.RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise Unavailable(f"{path} cannot be looked at: {error.strerror}") from error
    try:
        status = os.fstat(seen)
        if not stat.S_ISREG(status.st_mode):
            return None  # opening a device or a FIFO would have effects of its own
        descriptor = os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"{path} cannot be opened: {error.strerror}") from error
    finally:
        os.close(seen)
    try:
        if status.st_size > MOST_BYTES:
            raise Unavailable(f"{path} has {status.st_size} bytes: at most {MOST_BYTES} are digested")
        hasher, size = blake3(), 0
        while chunk := os.read(descriptor, _CHUNK):
            hasher.update(chunk)
            size += len(chunk)
            if size > MOST_BYTES:
                raise Unavailable(f"{path} grew past {MOST_BYTES} bytes while it was read")
        return size, hasher.hexdigest()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


class Digests:
    """`post` hands an answer to the leader."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        self._post = post
        self._jobs: queue.SimpleQueue[tuple[Sequence[str], Callable[[States | str], None]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="digests", daemon=True).start()

    def take(self, paths: Sequence[str], then: Callable[[States | str], None]) -> None:
        """Has `then` called on the leader with the states of the regular files among them, or with what went wrong."""
        self._jobs.put((paths, then))

    def _run(self) -> None:
        while True:
            paths, then = self._jobs.get()
            found: States | str
            try:
                found = {path: state for path in paths if (state := state_of(path)) is not None}
            except Unavailable as failure:
                found = str(failure)
            self._post(partial(then, found))
