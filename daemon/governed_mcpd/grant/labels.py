"""Ids of file objects: written into the inode through a descriptor, read by the seal from the inode that it sees."""

import os
import secrets
import struct
import threading
from collections.abc import Iterator

from governed_mcpd.grant.layout import Ids, LabelKey, Object
from governed_mcpd.grant.seal import GrantFailed, Target
from governed_mcpd.kernel import bpf

_FD = struct.Struct("i")
_ONE = struct.pack("I", 1)


class Objects:
    """The ids, and the labels of protected objects. An inode keeps its id as long as it is in memory: whoever holds the
    descriptor sees to that (subjects for labels, the supervisor for grants)."""

    def __init__(self, objects: bpf.Map, labels: bpf.Map) -> None:
        self._objects = objects
        self._labels = labels
        self._lock = threading.Lock()

    def ids(self, target: Target) -> Ids:
        """A target by ids. GrantFailed."""
        return Ids(
            self.id(target.object) if target.object >= 0 else 0,
            self.id(target.parent) if target.parent >= 0 else 0,
            target.name,
        )

    def id(self, descriptor: int) -> int:
        """The id of the object behind a descriptor, given now if it has none. GrantFailed."""
        try:
            key = _FD.pack(descriptor)
            with self._lock:
                found = self._read(key)
                if not found.id:
                    found.id = _new_id()
                    self._objects.update(key, bytes(found))
                return int(found.id)
        except OSError as failure:
            raise GrantFailed(f"the object behind descriptor {descriptor} takes no id: {failure}") from failure

    def protect(self, sandbox: int, descriptor: int) -> None:
        """Labels an object for a sandbox. OSError."""
        key = _FD.pack(descriptor)
        with self._lock:
            found = self._read(key)
            if not found.id or not found.labelled:
                found.id = found.id or _new_id()
                found.labelled = 1
                self._objects.update(key, bytes(found))
        self._labels.update(bytes(LabelKey(sandbox, found.id)), _ONE)

    def forget(self, sandbox: int) -> None:
        """Takes the labels of a sandbox away."""
        for key in list(self._labels_of(sandbox)):
            self._labels.delete(key)

    def _labels_of(self, sandbox: int) -> Iterator[bytes]:
        for key in self._labels.all_keys():
            if LabelKey.from_buffer_copy(key).sandbox == sandbox:
                yield key

    def _read(self, key: bytes) -> Object:
        raw = self._objects.lookup(key)
        return Object() if raw is None else Object.from_buffer_copy(raw)


def _new_id() -> int:
    """Random, since a daemon that starts again cannot know which ids the one before gave."""
    return secrets.randbits(63) | 1


def mounted_beneath(path: str) -> list[str]:
    """The mount points beneath a directory: their trees are not beneath it for who follows directories upwards."""
    prefix = path.rstrip("/") + "/"
    return [point for point, _, _ in mounts() if point.startswith(prefix)]


def mounts() -> list[tuple[str, int, str]]:
    """(mount point, device number as the seal tells it, directory of the filesystem that is mounted) of each mount.

    From /proc/self/mountinfo: proc(5). The latest first. OSError.
    """
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            fields = line.split(b" ")
            major, _, minor = fields[2].partition(b":")
            found.append((_unescape(fields[4]), int(major) << 20 | int(minor), _unescape(fields[3])))
    return found[::-1]


def _unescape(field: bytes) -> str:
    # proc(5): space, tab, newline and backslash are written as \ooo
    text = field
    for escape, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        text = text.replace(escape, plain)
    return os.fsdecode(text)
