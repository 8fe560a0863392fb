"""Checkpoints: signed statements of the journal's length and head.

A line of checkpoints.jsonl is canonical JSON {"head", "key", "length", "signature", "time_us"}. The signature is
Ed25519 over DOMAIN ‖ the canonical JSON of the other four. A checkpoint is written only for records that are durable,
so after any crash a journal that is shorter than its last checkpoint was cut by someone.
"""

import base64
import binascii
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from governed_mcpd.journal.canonical import CanonicalError, canonical, parse
from governed_mcpd.journal.keys import key_id, signature_fits
from governed_mcpd.journal.layout import CHECKPOINTS, FILE_MODE, open_private

DOMAIN: Final = b"governed-mcpd journal checkpoint v1\0"
MAX_CHECKPOINT_BYTES: Final = 4096


class CheckpointError(ValueError):
    """A line that is not a checkpoint."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The journal had `length` records, the last with hash `head` (hex), at `time_us`. `key` is the signer (hex)."""

    length: int
    head: str
    time_us: int
    key: str
    signature: bytes

    def line(self) -> bytes:
        """As it stands in the file, newline included."""
        encoded = base64.b64encode(self.signature).decode("ascii")
        return canonical({**_signed(self.length, self.head, self.time_us, self.key), "signature": encoded}) + b"\n"

    def signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether `key` made it."""
        message = DOMAIN + canonical(_signed(self.length, self.head, self.time_us, self.key))
        return self.key == key_id(key) and signature_fits(key, self.signature, message)


def sign_checkpoint(key: Ed25519PrivateKey, length: int, head: str, time_us: int) -> Checkpoint:
    """States that the journal has `length` records and ends in `head`."""
    signer = key_id(key.public_key())
    message = DOMAIN + canonical(_signed(length, head, time_us, signer))
    return Checkpoint(length, head, time_us, signer, key.sign(message))


def parse_checkpoint(line: bytes) -> Checkpoint:
    """Reads one line, with its newline; CheckpointError when it is anything else."""
    if len(line) > MAX_CHECKPOINT_BYTES or line[-1:] != b"\n":
        raise CheckpointError(f"not a checkpoint: expected one line of at most {MAX_CHECKPOINT_BYTES} bytes")
    try:
        fields = parse(line[:-1])
    except CanonicalError as error:
        raise CheckpointError(f"not a checkpoint: {error}") from None
    match fields:
        case {
            "length": int(length),
            "head": str(head),
            "time_us": int(time_us),
            "key": str(key),
            "signature": str(encoded),
        }:
            pass
        case _:
            raise CheckpointError("not a checkpoint: expected length, head, time_us, key and signature")
    try:
        found = Checkpoint(length, head, time_us, key, base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        raise CheckpointError("not a checkpoint: its signature is not base64") from None
    if found.line() != line:
        raise CheckpointError("not a checkpoint in canonical form")
    return found


def read_checkpoints(path: str, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of a checkpoint file up to offset `end`; nothing when there is no file.

    A torn last line comes without its newline. A line that is too long comes cut, and ends the reading.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below; a missing file is no error)
    except FileNotFoundError:
        return
    with file:
        left = os.fstat(file.fileno()).st_size if end is None else end
        number = 0
        while left > 0 and (line := file.readline(min(left, MAX_CHECKPOINT_BYTES + 1))):
            number += 1
            left -= len(line)
            yield number, line
            if len(line) > MAX_CHECKPOINT_BYTES:
                return


class CheckpointFile:
    """The writer's side. `torn` is the number of bytes of a last line without newline; `cut` removes them."""

    def __init__(self, state_dir: str) -> None:
        self.path = os.path.join(state_dir, CHECKPOINTS)
        self.last: tuple[int, bytes] | None = None
        self._size = 0
        self.torn = b""
        for number, line in read_checkpoints(self.path):
            if line[-1:] != b"\n" and len(line) <= MAX_CHECKPOINT_BYTES:
                self.torn = line
                break
            self.last = (number, line)
            self._size += len(line)
        self._descriptor = open_private(self.path, os.O_RDWR | os.O_CREAT, FILE_MODE)

    def cut(self) -> None:
        """Removes what follows the last whole line; OSError as it comes."""
        os.ftruncate(self._descriptor, self._size)

    def append(self, checkpoint: Checkpoint) -> None:
        """Writes it and makes it durable. On OSError the next append begins at the same place."""
        line = checkpoint.line()
        done = 0
        while done < len(line):
            done += os.pwrite(self._descriptor, line[done:], self._size + done)
        os.fdatasync(self._descriptor)
        self._size += len(line)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def _signed(length: int, head: str, time_us: int, key: str) -> dict[str, object]:
    return {"head": head, "key": key, "length": length, "time_us": time_us}
