"""Reading a held thread's arguments. Bounded in every direction: what is longer than the bound is refused."""

import struct

from governed_mcpd.kernel.calls import MemoryReader
from governed_mcpd.pause.observation import CannotRead, WouldFail

PAGE = 4096
PATH_MAX = 4096  # linux/limits.h, with the NUL
ARGV_MAX_WORDS = 16384
ARGV_MAX_BYTES = 1 << 20
ADDRESS_MAX = 1 << 57
EFAULT, ENAMETOOLONG, E2BIG = 14, 36, 7


class Memory:
    """One thread's memory, for the time of one held call: each page is read once, so two reads cannot disagree."""

    __slots__ = ("_kept", "_pages", "_reader", "_tid")

    def __init__(self, reader: MemoryReader, tid: int) -> None:
        self._reader = reader
        self._tid = tid
        self._pages: dict[int, bytes] = {}
        self._kept: tuple[int, bytes] | None = None

    def keep(self, address: int, path: bytes) -> None:
        """A path that was read there for this held call: it is not read again."""
        self._kept = (address, path)

    def path(self, address: int) -> bytes:
        """A NUL-terminated path of at most PATH_MAX bytes."""
        if self._kept is not None and self._kept[0] == address:
            return self._kept[1]
        page = self._page(address - address % PAGE)
        offset = address % PAGE
        end = page.find(b"\0", offset)
        if end >= 0:
            return page[offset:end]
        text = page[offset:] + self._page(address - offset + PAGE)
        end = text.find(b"\0")
        if 0 <= end < PATH_MAX:
            return text[:end]
        raise WouldFail(ENAMETOOLONG)

    def read(self, address: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        parts = []
        while length > 0:
            offset = address % PAGE
            part = self._page(address - offset)[offset : offset + length]
            parts.append(part)
            address += len(part)
            length -= len(part)
        return b"".join(parts)

    def string(self, address: int, most: int) -> bytes:
        """A NUL-terminated string of at most `most` bytes."""
        parts: list[bytes] = []
        size = 0
        while True:
            offset = address % PAGE
            page = self._page(address - offset)
            end = page.find(b"\0", offset)
            part = page[offset : end if end >= 0 else PAGE]
            parts.append(part)
            size += len(part)
            if size > most:
                raise CannotRead("arguments-too-long", f"an argument is longer than the {most} bytes that are judged")
            if end >= 0:
                return b"".join(parts)
            address += len(part)

    def words(self, address: int) -> list[bytes]:
        """A NULL-terminated array of strings (argv, envp); a NULL array is empty, as execve(2) takes it."""
        if address == 0:
            return []
        words: list[bytes] = []
        left = ARGV_MAX_BYTES
        while True:
            offset = address % PAGE
            chunk = self._page(address - offset)[offset:]
            usable = len(chunk) - len(chunk) % 8
            if usable == 0:
                chunk, usable = self.read(address, 8), 8
            for (pointer,) in struct.iter_unpack("Q", chunk[:usable]):
                if pointer == 0:
                    return words
                if len(words) == ARGV_MAX_WORDS:
                    raise CannotRead("arguments-too-many", f"more than {ARGV_MAX_WORDS} arguments are not judged")
                word = self.string(pointer, left)
                left -= len(word) + 1
                words.append(word)
            address += usable

    def _page(self, base: int) -> bytes:
        page = self._pages.get(base)
        if page is not None:
            return page
        if not 0 <= base < ADDRESS_MAX:
            raise WouldFail(EFAULT)
        try:
            page = self._reader.read(self._tid, base, PAGE)
        except OSError as error:
            if error.errno == EFAULT:
                raise WouldFail(EFAULT) from None
            raise CannotRead("arguments-unreadable", f"the thread's memory cannot be read: {error}") from error
        if len(page) != PAGE:
            raise CannotRead("arguments-unreadable", "the thread's memory ends inside a page")
        self._pages[base] = page
        return page
