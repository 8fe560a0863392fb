"""Where the files of a journal are.

<state_dir>/                   0750
    journal/                   0750
        00000000000000000001.jsonl    0640  segments, named after the sequence number of their first record
        lock                   0600  held with flock by the one writer
    checkpoints.jsonl          0640
    journal.key                0600  Ed25519, PKCS #8 in PEM
    journal.pub                0644  its public half, in PEM
"""

import os
import re
from dataclasses import dataclass
from typing import Final

DIRECTORY_MODE: Final = 0o750
FILE_MODE: Final = 0o640
CHECKPOINTS: Final = "checkpoints.jsonl"
KEY: Final = "journal.key"
PUBLIC_KEY: Final = "journal.pub"
LOCK: Final = "lock"
_SEGMENT: Final = re.compile(r"([0-9]{20})\.jsonl")


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One file of consecutive records; `first` is the sequence number of its first one."""

    first: int
    path: str


def journal_directory(state_dir: str) -> str:
    """The directory of the segments."""
    return os.path.join(state_dir, "journal")


def segment_path(state_dir: str, first: int) -> str:
    """The file whose first record is number `first`."""
    return os.path.join(journal_directory(state_dir), f"{first:020d}.jsonl")


def list_segments(state_dir: str) -> list[SegmentFile]:
    """The segments in order; none when the directory does not exist. Other files there are not the journal's."""
    directory = journal_directory(state_dir)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = [(match, name) for name in names if (match := _SEGMENT.fullmatch(name))]
    return sorted(
        (SegmentFile(int(match[1]), os.path.join(directory, name)) for match, name in found),
        key=lambda segment: segment.first,
    )


def make_directories(state_dir: str) -> None:
    """Makes the state directory and the journal's inside it, unless they exist."""
    for path in (state_dir, journal_directory(state_dir)):
        try:
            os.mkdir(path, DIRECTORY_MODE)
        except FileExistsError:
            continue
        os.chmod(path, DIRECTORY_MODE)  # whatever the umask
        sync_directory(os.path.dirname(os.path.abspath(path)))


def open_private(path: str, flags: int, mode: int) -> int:
    """os.open that follows no symlink, and gives a file it makes exactly `mode`, whatever the umask."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    if flags & os.O_CREAT:
        os.fchmod(descriptor, mode)
        os.fchown(descriptor, os.geteuid(), os.getegid())  # the daemon's leader may carry a sandbox's fsgid
    return descriptor


def sync_directory(path: str) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
