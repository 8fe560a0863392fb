"""The writer's side of one segment file."""

import errno
import os

from governed_mcpd.journal.layout import FILE_MODE, journal_directory, open_private, segment_path


class OpenSegment:
    """A file that lines are appended to.

    `size` is where the good part ends, `durable` how much of it an fdatasync covered, `tail` the lines in between. They
    stay in memory because after a failed fdatasync the kernel may count pages as clean that never reached the disk
    (fsync(2), EIO): syncing again would prove nothing, so `rewrite` writes them anew.
    """

    __slots__ = ("_directory", "_named", "descriptor", "durable", "size", "tail")

    def __init__(self, state_dir: str, first: int, *, size: int | None = None) -> None:
        """Makes the segment, or takes up the one that has `size` good bytes. OSError as it comes."""
        flags = os.O_RDWR | (os.O_CREAT if size is None else 0)
        path = segment_path(state_dir, first)
        self.descriptor = open_private(path, flags, FILE_MODE)
        if size is None and os.fstat(self.descriptor).st_size:
            os.close(self.descriptor)
            raise FileExistsError(errno.EEXIST, "a segment of that name exists and is not empty", path)
        self.size = size or 0
        self.durable = self.size
        self.tail: list[bytes] = []
        self._directory = journal_directory(state_dir)
        self._named = size is not None

    def write(self, line: bytes) -> None:
        """Appends to the page cache. On OSError part of the line may lie after `size`: `cut` removes it."""
        size = self.size
        written = os.pwrite(self.descriptor, line, size)
        while written < len(line):
            # A short write has no errno (disk nearly full, RLIMIT_FSIZE): the next one says why.
            written += os.pwrite(self.descriptor, line[written:], size + written)
        self.size = size + written
        self.tail.append(line)

    def cut(self) -> None:
        """Removes what lies after the good part."""
        os.ftruncate(self.descriptor, self.size)

    def rewrite(self) -> None:
        """Writes again what no sync has covered, and nothing after it."""
        os.ftruncate(self.descriptor, self.size)
        rest, offset = b"".join(self.tail), self.durable
        while rest:
            written = os.pwrite(self.descriptor, rest, offset)
            rest, offset = rest[written:], offset + written

    def sync(self) -> None:
        """fdatasync, and the directory's fsync when the file is new. The caller notes what that covered."""
        os.fdatasync(self.descriptor)
        if not self._named:
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            self._named = True

    def covered(self, size: int, lines: int) -> None:
        """A sync that began when the segment had `size` bytes and `lines` lines in its tail succeeded."""
        self.durable = size
        del self.tail[:lines]

    def close(self) -> None:
        """Closes the file."""
        os.close(self.descriptor)
