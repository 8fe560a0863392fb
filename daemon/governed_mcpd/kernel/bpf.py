"""bpf(2): maps, pins, and the ring buffer, without a library. Loading programs is in kernel/bpf_load."""

import ctypes
import errno
import mmap
import os
import platform
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

# asm/unistd_64.h, asm-generic/unistd.h
_NUMBERS = {"x86_64": 321, "aarch64": 280}

# linux/bpf.h: enum bpf_cmd
_MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _MAP_GET_NEXT_KEY = 1, 2, 3, 4
_OBJ_PIN, _OBJ_GET, _OBJ_GET_INFO_BY_FD = 6, 7, 15
_LINK_CREATE = 28
ANY, NOEXIST, EXIST = 0, 1, 2
_ATTR_BYTES = 32
_INFO_BYTES = 80
_TRIES = 8
# linux/bpf.h: BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT, BPF_RINGBUF_HDR_SZ
_BUSY, _DISCARD, _HEADER = 1 << 31, 1 << 30, 8

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class _Element(ctypes.Structure):
    """union bpf_attr, for BPF_MAP_*_ELEM."""

    _fields_ = (
        ("map", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


def _bpf(command: int, attr: object, size: int) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf: no system call number for {platform.machine()}")
    result: int = _syscall(number, command, attr, size)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf: {os.strerror(code)}")
    return result


def pin(descriptor: int, path: str) -> None:
    """BPF_OBJ_PIN: gives a map, program or link a name on a bpf filesystem. OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    attr = struct.pack("QII", ctypes.addressof(name), descriptor, 0)
    _bpf(_OBJ_PIN, attr, len(attr))


def pinned(path: str) -> int:
    """BPF_OBJ_GET: a descriptor of what was pinned there. OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    attr = struct.pack("QII", ctypes.addressof(name), 0, 0)
    descriptor = _bpf(_OBJ_GET, attr, len(attr))
    os.set_inheritable(descriptor, False)
    return descriptor


def attach_to_cgroup(program: int, cgroup: int, kind: int) -> int:
    """BPF_LINK_CREATE: attaches a program to a cgroup (both by descriptor) and all beneath it, besides what is attached
    there already. `kind` is of enum bpf_attach_type. The descriptor of the link: closing it detaches. OSError."""
    attr = struct.pack("IIII", program, cgroup, kind, 0)
    descriptor = _bpf(_LINK_CREATE, attr, len(attr))
    os.set_inheritable(descriptor, False)
    return descriptor


@dataclass(frozen=True, slots=True)
class Info:
    """What BPF_OBJ_GET_INFO_BY_FD tells first of each kind. For a map, `third` to `fifth` are the sizes of key and
    value and the most entries; for a link, `third` is the id of its program."""

    type: int
    id: int
    third: int
    fourth: int
    fifth: int


def info(descriptor: int) -> Info:
    """Of a map, program or link. OSError."""
    buffer = ctypes.create_string_buffer(_INFO_BYTES)
    attr = struct.pack("IIQ", descriptor, _INFO_BYTES, ctypes.addressof(buffer))
    _bpf(_OBJ_GET_INFO_BY_FD, attr, len(attr))
    return Info(*struct.unpack_from("IIIII", buffer))


class Map:
    """A map by its descriptor, which it owns. Keys and values are bytes of exactly the map's sizes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        described = info(descriptor)
        self.id = described.id
        self.entries = described.fifth
        self._lock = threading.Lock()
        self._key = ctypes.create_string_buffer(max(described.third, 1))
        self._value = ctypes.create_string_buffer(max(described.fourth, 1))
        self._sizes = described.third, described.fourth
        self._attr = _Element(descriptor, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)
        self._reference = ctypes.byref(self._attr)

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """OSError: E2BIG when the map is full, EEXIST and ENOENT by `flags`."""
        if (len(key), len(value)) != self._sizes:
            raise ValueError(f"a map of {self._sizes} bytes was given {len(key)}, {len(value)}")
        with self._lock:
            self._key.raw = key
            self._value.raw = value
            self._attr.flags = flags
            self._try(_MAP_UPDATE_ELEM)

    def lookup(self, key: bytes) -> bytes | None:
        """None when there is no such key. OSError."""
        with self._lock:
            self._key.raw = key
            self._attr.flags = 0
            try:
                self._try(_MAP_LOOKUP_ELEM)
            except OSError as failure:
                if failure.errno == errno.ENOENT:
                    return None
                raise
            return self._value.raw

    def delete(self, key: bytes) -> bool:
        """Whether it was there. OSError."""
        with self._lock:
            self._key.raw = key
            # What the command has no use for has to be 0 (kernel/bpf/syscall.c: CHECK_ATTR), or it is EINVAL.
            self._attr.value = self._attr.flags = 0
            try:
                self._try(_MAP_DELETE_ELEM)
            except OSError as failure:
                if failure.errno == errno.ENOENT:
                    return False
                raise
            finally:
                self._attr.value = ctypes.addressof(self._value)
            return True

    def all_keys(self) -> Iterator[bytes]:
        """All keys; at most as many steps as the map has room, also while others change it."""
        following = ctypes.create_string_buffer(self._sizes[0])
        attr = _Element(self.descriptor, 0, ctypes.addressof(following), 0)
        current = ctypes.create_string_buffer(self._sizes[0])
        for _ in range(2 * self.entries):
            try:
                _bpf(_MAP_GET_NEXT_KEY, ctypes.byref(attr), _ATTR_BYTES)
            except OSError as failure:
                if failure.errno == errno.ENOENT:
                    return
                raise
            yield following.raw
            current.raw = following.raw
            attr.key = ctypes.addressof(current)

    def _try(self, command: int) -> None:
        # A bucket's lock that this CPU holds already (an interrupted update) gives EBUSY for a moment.
        for left in reversed(range(_TRIES)):
            try:
                _bpf(command, self._reference, _ATTR_BYTES)
                return
            except OSError as failure:
                if failure.errno not in (errno.EBUSY, errno.EAGAIN) or not left:
                    raise
                time.sleep(0)

    def close(self) -> None:
        """Gives the descriptor back."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Ring:
    """The reading side of a BPF ring buffer (kernel/bpf/ringbuf.c), through the memory that it shares. One reader."""

    def __init__(self, events: Map) -> None:
        self.descriptor = events.descriptor
        page = mmap.PAGESIZE
        self._size = events.entries
        self._consumer = mmap.mmap(events.descriptor, page, offset=0, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        # The producer's page, and the data twice in a row: a record that wraps around lies in one piece.
        self._data = mmap.mmap(events.descriptor, page + 2 * self._size, offset=page, prot=mmap.PROT_READ)

    def take(self, most: int = 1024) -> list[bytes]:
        """The records that are complete, oldest first; never waits."""
        records: list[bytes] = []
        (position,) = struct.unpack_from("Q", self._consumer)
        for _ in range(most):
            (end,) = struct.unpack_from("Q", self._data)
            if position >= end:
                break
            start = mmap.PAGESIZE + (position & (self._size - 1))
            (word,) = struct.unpack_from("I", self._data, start)
            if word & _BUSY:
                break
            length = word & ~(_BUSY | _DISCARD)
            if not word & _DISCARD:
                records.append(self._data[start + _HEADER : start + _HEADER + length])
            position += (length + _HEADER + 7) & ~7
            struct.pack_into("Q", self._consumer, 0, position)
        return records

    def close(self) -> None:
        """Gives the memory back; the descriptor is the map's."""
        self._consumer.close()
        self._data.close()
