"""One line of the journal, and how it follows from the one before.

A line is `<hash, 64 lower-case hex digits> <canonical JSON>\\n`, and
hash = BLAKE3(DOMAIN ‖ hash of the line before, 32 bytes ‖ the JSON's bytes). DOMAIN and the previous hash have fixed
lengths, so nothing can move between the parts; the version in DOMAIN changes when this rule does.
"""

from binascii import hexlify
from typing import Final

from blake3 import blake3

DOMAIN: Final = b"governed-mcpd journal record v1\0"
# What stands in place of a previous hash before record 1.
GENESIS: Final = blake3(b"governed-mcpd journal genesis v1\0").digest()
FIRST_SEQ: Final = 1
# Bounds a record's JSON: one record is read into memory whole, by every reader.
MAX_RECORD_BYTES: Final = 1 << 20
HASH_HEX: Final = 64
MAX_LINE_BYTES: Final = HASH_HEX + 1 + MAX_RECORD_BYTES + 1


def link(previous: bytes, body: bytes) -> bytes:
    """The hash of the line with the JSON `body` after the line with hash `previous`."""
    return blake3(DOMAIN + previous + body).digest()


def make_line(digest: bytes, body: bytes) -> bytes:
    """The line as it stands in the file, newline included."""
    return hexlify(digest) + b" " + body + b"\n"


def split_line(line: bytes) -> tuple[bytes, bytes]:
    """(hash in hex, JSON) of a whole line, newline included; ValueError when it has not that shape."""
    if line[HASH_HEX : HASH_HEX + 1] != b" " or line[-1:] != b"\n":
        raise ValueError("expected 64 hex digits, a space, JSON and a newline")
    return line[:HASH_HEX], line[HASH_HEX + 1 : -1]


def digest_of(data: bytes) -> str:
    """BLAKE3 of data that is not a record (torn bytes, a file's content), in hex."""
    return blake3(data).hexdigest()
