"""Reads the structures out of an object's .BTF section (linux/btf.h): layouts are compared without loading it."""

import struct
from dataclasses import dataclass
from pathlib import Path

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _TYPEDEF = 1, 2, 3, 4, 5, 6, 8
_VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT = 9, 10, 11, 12, 13, 14, 15, 16
_DECL_TAG, _TYPE_TAG, _ENUM64 = 17, 18, 19
# What follows the 12 bytes of struct btf_type: bytes in all, and for each of its `vlen` parts.
_AFTER = {
    _INT: (4, 0), _ARRAY: (12, 0), _STRUCT: (0, 12), _UNION: (0, 12), _ENUM: (0, 8), _FUNC_PROTO: (0, 8),
    _VAR: (4, 0), _DATASEC: (0, 12), _DECL_TAG: (4, 0), _ENUM64: (0, 12),
}  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """A structure's size in bytes and its members' offsets in bytes."""

    size: int
    members: dict[str, int]


def section(path: Path, name: str) -> bytes:
    """A section of an ELF64 little-endian file: elf(5)."""
    data = path.read_bytes()
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, offset + index * size) for index in range(count)]
    strings = headers[names][4]
    for header in headers:
        start = strings + header[0]
        if data[start : data.index(b"\0", start)].decode() == name:
            return data[header[4] : header[4] + header[5]]
    raise AssertionError(f"{path} has no section {name}")


def structures(path: Path) -> dict[str, Structure]:
    """All structures of the object."""
    data = section(path, ".BTF")
    magic, _, _, head, type_at, type_length, text_at, _ = struct.unpack_from("<HBBIIIII", data)
    assert magic == 0xEB9F

    def name(offset: int) -> str:
        start = head + text_at + offset
        return data[start : data.index(b"\0", start)].decode()

    found: dict[str, Structure] = {}
    at, end = head + type_at, head + type_at + type_length
    while at < end:
        called, word, size = struct.unpack_from("<III", data, at)
        kind, parts = word >> 24 & 0x1F, word & 0xFFFF
        at += 12
        if kind == _STRUCT:
            members = [struct.unpack_from("<III", data, at + 12 * index) for index in range(parts)]
            bits = 0xFFFFFF if word >> 31 else 0xFFFFFFFF
            found[name(called)] = Structure(size, {name(one[0]): (one[2] & bits) // 8 for one in members})
        once, each = _AFTER.get(kind, (0, 0))
        at += once + each * parts
    return found
