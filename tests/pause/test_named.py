"""What a path in a thread's memory leads to: the short way (kernel/held.c), and where it gives way to the long one.

That both say the same of any path is shown in test_resolve_property.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from governed_mcpd.kernel import held, procfs
from governed_mcpd.kernel.calls import MemoryReader
from governed_mcpd.kernel.procfs import PROC
from governed_mcpd.pause.handles import Handles
from governed_mcpd.pause.memory import PATH_MAX, Memory
from governed_mcpd.pause.object import DESCRIPTORS, Object
from governed_mcpd.pause.observation import WouldFail
from governed_mcpd.pause.resolve import AT_FDCWD, Place
from tests.pause.looker import Looker
from tests.pause.walker import Walker
from tests.support.users import USER, identity


@pytest.fixture
def walker(ground: Path) -> Iterator[Walker]:
    with Walker(identity(USER), ground / "own") as one:
        yield one


def named(looker: Looker, walker: Walker, address: int, directory: int = AT_FDCWD) -> Object:
    place = Place(walker.pid, None, procfs.status(walker.pid).credentials)
    memory = Memory(MemoryReader(), walker.pid)
    return looker(lambda: looker.resolver.named(place, memory, address, directory))


def fails(looker: Looker, walker: Walker, address: int, directory: int = AT_FDCWD) -> int:
    with pytest.raises(WouldFail) as failure:
        named(looker, walker, address, directory)
    return failure.value.errno


def short(looker: Looker, walker: Walker, address: int, directory: int = AT_FDCWD) -> tuple[bytes | None, int]:
    """What the short way alone says: the path, and whether it found something (as 1 or 0)."""
    user = procfs.status(walker.pid).credentials.fsuid

    def look() -> tuple[bytes | None, int]:
        path, opened, name, _ = held.look(walker.pid, address, directory, 0, user, False, PROC, DESCRIPTORS)
        assert opened == -1
        return path, int(name is not None)

    return looker(look)


def test_the_plain_case_goes_the_short_way(looker: Looker, walker: Walker, ground: Path) -> None:
    (ground / "own" / "file").write_text("x")
    for path in (ground / "own" / "file", Path("file"), Path("../own/./file")):
        address = walker.holds(os.fsencode(path), 4096)
        assert short(looker, walker, address) == (os.fsencode(path), 1)
        assert named(looker, walker, address).name == str(ground / "own" / "file")


@pytest.mark.parametrize("path", [b"/proc/self/status", b"/proc/self/cwd", b"/proc", b"missing", b"", b"/dev/fd/0"])
def test_what_is_not_plain_does_not(looker: Looker, walker: Walker, path: bytes) -> None:
    """Above all /proc/self, which is the daemon's own there."""
    assert short(looker, walker, walker.holds(path, 4096)) == (path or b"", 0)


def test_what_the_thread_means_by_proc_self(looker: Looker, walker: Walker) -> None:
    assert named(looker, walker, walker.holds(b"/proc/self/status", 4096)).name == f"/proc/{walker.pid}/status"


def test_relative_to_a_descriptor_of_the_threads(looker: Looker, walker: Walker, ground: Path) -> None:
    (ground / "own" / "sub").mkdir()
    (ground / "own" / "sub" / "file").touch()
    number = walker.ask("keep", b"sub")["number"]
    address = walker.holds(b"file", 4096)
    assert short(looker, walker, address, number) == (b"file", 1)
    assert named(looker, walker, address, number).name == str(ground / "own" / "sub" / "file")
    assert fails(looker, walker, address, 999) == errno.EBADF
    assert fails(looker, walker, address, -5) == errno.EBADF
    assert fails(looker, walker, address) == errno.ENOENT


def test_a_path_over_the_end_of_its_page(looker: Looker, walker: Walker, ground: Path) -> None:
    (ground / "own" / "file").touch()
    path = os.fsencode(ground / "own" / "file")
    for before_end in (1, len(path), len(path) + 1, len(path) + 2):
        address = walker.holds(path, before_end)
        assert short(looker, walker, address) == (path, 1)


@pytest.mark.parametrize("length", [254, 255, 256, 257, 300])
def test_a_path_that_is_read_in_parts(looker: Looker, walker: Walker, ground: Path, length: int) -> None:
    (ground / "own" / "file").touch()
    path = os.fsencode(ground / "own" / "file").rjust(length, b"/")
    for before_end in (4096, length + 1, length, 257, 256, 255, 2, 1):
        assert short(looker, walker, walker.holds(path, before_end)) == (path, 1), before_end


def test_a_path_as_long_as_one_may_be(looker: Looker, walker: Walker, ground: Path) -> None:
    (ground / "own" / "file").touch()
    longest = b"./" * ((PATH_MAX - 6) // 2) + b"/file"
    assert len(longest) == PATH_MAX - 1
    address = walker.holds(longest, 100)
    assert short(looker, walker, address) == (longest, 1)
    assert named(looker, walker, address).name == str(ground / "own" / "file")
    assert short(looker, walker, walker.holds(longest + b"x", 100)) == (None, 0)
    assert fails(looker, walker, walker.holds(longest + b"x", 100)) == errno.ENAMETOOLONG


@pytest.mark.parametrize("address", [0, 1, 1 << 47, (1 << 57) - 1, 1 << 57, (1 << 64) - 1, (1 << 64) - 4096])
def test_no_address_does_harm(looker: Looker, walker: Walker, address: int) -> None:
    assert short(looker, walker, address) == (None, 0)
    assert fails(looker, walker, address) == errno.EFAULT


def test_a_path_that_runs_into_what_is_not_mapped(looker: Looker, walker: Walker) -> None:
    address = walker.holds(b"y" * 3 * 4096, 4096)  # fills all three pages, and no NUL comes
    assert fails(looker, walker, address + 2 * 4096 + 4000) == errno.EFAULT


def test_the_user_is_the_threads_and_root_comes_back(looker: Looker, walker: Walker, ground: Path) -> None:
    closed = ground / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").touch()
    address = walker.holds(os.fsencode(closed / "file"), 4096)
    assert short(looker, walker, address) == (os.fsencode(closed / "file"), 0)
    assert fails(looker, walker, address) == errno.EACCES
    looker(lambda: os.close(os.open(closed / "file", os.O_RDONLY)))
    closed.chmod(0o711)
    assert named(looker, walker, address).name == str(closed / "file")


def test_nothing_stays_open(looker: Looker, walker: Walker, ground: Path) -> None:
    (ground / "own" / "file").touch()
    before = os.listdir("/proc/self/fd")
    for path in (b"file", b"missing", b"/proc/self/status", b"", os.fsencode(ground / "own" / "file")):
        address = walker.holds(path, 4096)
        for _ in range(50):
            short(looker, walker, address)
            with contextlib.suppress(WouldFail):
                named(looker, walker, address)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_with_a_seal_what_was_found_stays_open(looker: Looker, walker: Walker, ground: Path) -> None:
    """A name can lead elsewhere a moment later; the descriptor that the grant is for cannot."""
    (ground / "own" / "file").write_text("x")
    address = walker.holds(b"file", 4096)
    handles = looker.resolver.handles = Handles()
    try:
        found = named(looker, walker, address)
    finally:
        looker.resolver.handles = None
    assert found.target is not None
    (ground / "own" / "file").rename(ground / "own" / "elsewhere")
    assert os.readlink(f"/proc/self/fd/{found.target.object}") == str(ground / "own" / "elsewhere")
    handles.close()
