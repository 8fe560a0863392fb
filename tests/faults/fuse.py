"""A FUSE file system that stops answering: fuse(4), linux/fuse.h.

Its root answers, and so does a file `answers` until it is read. Every other name waits for ever, as does reading. Its
mount ends, and all that waits is released, when the context does.
"""

import contextlib
import ctypes
import os
import stat
import struct
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 15, 18, 25, 26, 36, 42
OPENDIR, RELEASEDIR, ACCESS, DESTROY, STATFS = 27, 29, 34, 38, 17
ROOT, ANSWERS = 1, 2
MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2
FOREVER = 1 << 30
EIO, ENOSYS = 5, 38
MOST_BYTES = 131_072
KEEP_CACHE = 2  # FOPEN_KEEP_CACHE: opening it again does not wait for the pages that never come
PARALLEL = 1 << 18  # FUSE_PARALLEL_DIROPS: one name that hangs keeps no other name of its directory waiting
_libc = ctypes.CDLL(None, use_errno=True)
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")


class Silent:
    """Mounted at `point` (which is made), for everybody; its files belong to `uid`. With `statfs` it answers that as
    well, so that whoever looks at `answers` waits only when reading it."""

    def __init__(self, point: Path, uid: int, *, statfs: bool = False) -> None:
        self.point = point
        self._uid = uid
        self._statfs = statfs
        self.asked: Counter[int] = Counter()

    def __enter__(self) -> "Silent":
        self.point.mkdir(exist_ok=True)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if _libc.mount(b"silent", os.fsencode(self.point), b"fuse.silent", MS_NOSUID | MS_NODEV, options) != 0:
            number = ctypes.get_errno()
            os.close(self._device)
            raise OSError(number, f"mount a FUSE file system at {self.point}: {os.strerror(number)}")
        self._closing = False
        self._waiting: list[int] = []
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)
        self._thread.start()
        os.stat(self.point / "answers")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _libc.umount2(os.fsencode(self.point), MNT_DETACH) != 0:
            raise OSError(ctypes.get_errno(), f"unmount {self.point}")
        self.release()
        self._thread.join(5)  # it goes on with errors while somebody still holds a file

    def release(self) -> None:
        """Answers everything that waits, and all that comes, with an error."""
        self._closing = True
        while self._waiting:
            self._reply(self._waiting.pop(), error=EIO)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # unmounted, and nobody holds it: ENODEV
            while request := os.read(self._device, MOST_BYTES):
                _, opcode, unique, node, *_ = _IN.unpack_from(request)
                self.asked[opcode] += 1
                self._answer(opcode, unique, node, request[_IN.size :])
        os.close(self._device)

    def _answer(self, opcode: int, unique: int, node: int, body: bytes) -> None:
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        if opcode == INIT:
            readahead = struct.unpack_from("<III", body)[2]
            self._reply(unique, struct.pack("<IIIIHHIIHHI28x", 7, 31, readahead, PARALLEL, 12, 9, 65536, 1, 16, 0, 0))
        elif opcode == GETATTR:
            self._reply(unique, struct.pack("<QII", FOREVER, 0, 0) + self._attributes(node))
        elif opcode == LOOKUP and body == b"answers\0":
            entry = struct.pack("<QQQQII", ANSWERS, 0, FOREVER, FOREVER, 0, 0)
            self._reply(unique, entry + self._attributes(ANSWERS))
        elif opcode in (OPEN, OPENDIR):
            self._reply(unique, struct.pack("<QII", 0, KEEP_CACHE, 0))
        elif opcode in (RELEASE, RELEASEDIR, FLUSH, DESTROY):
            self._reply(unique)
        elif opcode == STATFS and self._statfs:
            self._reply(unique, bytes(80))
        elif opcode == ACCESS:
            self._reply(unique, error=ENOSYS)  # the kernel does not ask again
        elif self._closing:
            self._reply(unique, error=EIO)
        else:
            self._waiting.append(unique)  # and never a word

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o755
        return struct.pack("<6Q10I", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, self._uid, self._uid, 0, 4096, 0)

    def _reply(self, unique: int, body: bytes = b"", error: int = 0) -> None:
        with contextlib.suppress(OSError):  # the request was interrupted
            os.write(self._device, _OUT.pack(_OUT.size + len(body), -error, unique) + body)
