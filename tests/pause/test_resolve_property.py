"""For random trees and random paths: the resolver names the object, or the errno, that the kernel does for the user."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governed_mcpd.kernel import procfs
from governed_mcpd.kernel.calls import MemoryReader
from governed_mcpd.pause.memory import Memory
from governed_mcpd.pause.object import Object
from governed_mcpd.pause.observation import CannotRead, WouldFail
from governed_mcpd.pause.resolve import AT_FDCWD, Place
from tests.pause.looker import Looker
from tests.pause.walker import Answer, Walker
from tests.support.users import GROUP, OTHER, USER, identity

NAMES = ("a", "b", "c", "own")
name = st.sampled_from(NAMES)
# What a path is made of: names, the awkward ones, and the thread's own /proc.
part = st.one_of(name, name, st.sampled_from(["..", ".", ""]))
relative = st.lists(part, min_size=1, max_size=6).map("/".join)
through_proc = st.tuples(
    st.sampled_from(["/proc/self/cwd", "/proc/thread-self/cwd", "/proc/self/root", "/proc/self/fd/FD", "/dev/fd/FD"]),
    relative | st.sampled_from(["", "/"]),
).map("/".join)
path = st.one_of(relative, relative.map("GROUND/{}".format), through_proc, relative.map("GROUND/{}/".format))
target = st.one_of(relative, relative.map("GROUND/{}".format), through_proc)
mode = st.sampled_from([0o755, 0o755, 0o755, 0o700, 0o711, 0o750, 0o710, 0o000])
owner = st.sampled_from([(0, 0), (USER, USER), (OTHER, GROUP), (0, GROUP)])


@dataclass(frozen=True)
class Node:
    """Something at `where` (parts of a path): a directory, a file, or a symlink to `target`."""

    where: tuple[str, ...]
    kind: str
    target: str
    mode: int
    owner: tuple[int, int]


node = st.builds(
    Node, st.lists(name, min_size=1, max_size=3).map(tuple), st.sampled_from(["dir", "dir", "file", "link", "link"]),
    target, mode, owner,
)  # fmt: skip


@pytest.fixture(scope="module")
def field() -> Iterator[Path]:
    """The ground that trees are made on, and the walker's directory `own` in it."""
    base = Path(tempfile.mkdtemp(prefix="governed-field-")).resolve()
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def walker(field: Path) -> Iterator[Walker]:
    (field / "own").mkdir()
    with Walker(identity(USER), field / "own") as process:
        yield process


@pytest.fixture(scope="module")
def number(walker: Walker) -> int:
    """A descriptor of the walker on its directory."""
    found: int = walker.ask("keep", b".")["number"]
    return found


@contextlib.contextmanager
def planted(field: Path, nodes: list[Node], number: int) -> Iterator[None]:
    """The tree, for a moment. Permissions last: what is closed has to be filled first."""
    (field / "own").chmod(0o755)
    os.chown(field / "own", USER, USER)
    made = []
    for node in nodes:
        where = field.joinpath(*node.where)
        if any(parent.is_symlink() for parent in where.parents if parent != field) or os.path.lexists(where):
            continue
        try:
            if node.kind == "dir":
                where.mkdir()
            elif node.kind == "file":
                where.touch()
            else:
                where.symlink_to(real(field, node.target, number))
        except (FileNotFoundError, NotADirectoryError):
            continue
        made.append((where, node))
    for where, node in made:
        os.chown(where, *node.owner, follow_symlinks=False)
        if node.kind != "link":
            where.chmod(node.mode)
    try:
        yield
    finally:
        for entry in field.iterdir():
            if entry.name != "own":
                _remove(entry)
        for entry in (field / "own").iterdir():
            _remove(entry)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def real(field: Path, text: str, number: int) -> str:
    return text.replace("GROUND", str(field)).replace("FD", str(number))


def looked_up(looker: Looker, walker: Walker, path: str, *, entry: bool, follow: bool) -> Object | int:
    """What the resolver says: an Object, or the errno."""
    where = Place(walker.pid, None, None)
    look = looker.resolver.entry if entry else looker.resolver.object
    return answered(looker, partial(look, where, AT_FDCWD, os.fsencode(path), follow=follow))


def answered(looker: Looker, look: Callable[[], Object]) -> Object | int:
    try:
        return looker(look)
    except WouldFail as failure:
        return failure.errno


EXAMPLES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@given(nodes=st.lists(node, max_size=12), paths=st.lists(path, min_size=1, max_size=8), follow=st.booleans())
@EXAMPLES
def test_objects(
    looker: Looker, walker: Walker, number: int, field: Path, nodes: list[Node], paths: list[str], follow: bool
) -> None:
    with planted(field, nodes, number):
        for text in paths:
            path = real(field, text, number)
            kernel = walker.opens(os.fsencode(path), follow=follow)
            found = looked_up(looker, walker, path, entry=False, follow=follow)
            if isinstance(found, int):
                assert Answer("", found) == kernel, path
            else:
                assert Answer(found.name, 0) == kernel, path


@given(
    nodes=st.lists(node, max_size=12),
    paths=st.lists(path, min_size=1, max_size=8),
    follow=st.booleans(),
    before_end=st.integers(1, 4096),
)
@EXAMPLES
def test_objects_by_what_lies_in_memory(
    looker: Looker,
    walker: Walker,
    number: int,
    field: Path,
    nodes: list[Node],
    paths: list[str],
    follow: bool,
    before_end: int,
) -> None:
    """The short way (kernel/held.c) and the long one are one to whoever asks, wherever the path lies in its page."""
    place = Place(walker.pid, None, procfs.status(walker.pid).credentials)
    with planted(field, nodes, number):
        for text in paths:
            path = os.fsencode(real(field, text, number))
            kernel = walker.opens(path, follow=follow)
            address = walker.holds(path, before_end)
            memory = Memory(MemoryReader(), walker.pid)
            call = partial(looker.resolver.named, place, memory, address, AT_FDCWD, follow=follow)
            found = answered(looker, call)
            if isinstance(found, int):
                assert Answer("", found) == kernel, path
            else:
                assert Answer(found.name, 0) == kernel, path
                assert found.status is not None
                if found.name.startswith("/proc/"):
                    continue  # what it says of itself changes
                seen = os.stat(found.name, follow_symlinks=False)
                assert (found.status.st_mode, found.status.st_nlink, found.status.st_rdev, found.status.st_dev) == (
                    seen.st_mode, seen.st_nlink, seen.st_rdev, seen.st_dev)  # fmt: skip
            assert memory.path(address) == path


@given(nodes=st.lists(node, max_size=12), paths=st.lists(path, min_size=1, max_size=8))
@EXAMPLES
def test_what_o_creat_opens(
    looker: Looker, walker: Walker, number: int, field: Path, nodes: list[Node], paths: list[str]
) -> None:
    """Where the kernel opens or makes something, the resolver names it, and knows whether it was there."""
    with planted(field, nodes, number):
        for text in paths:
            path = real(field, text, number)
            found = looked_up(looker, walker, path, entry=True, follow=True)
            kernel, made = walker.makes(os.fsencode(path))
            if kernel.errno == 0:
                assert isinstance(found, Object), (path, found)
                assert (found.name, found.exists) == (kernel.name, not made), path
            elif isinstance(found, int):
                # The kernel looks at other things first in places; either way nothing happens.
                assert found == kernel.errno or kernel.errno in (errno.EISDIR, errno.EACCES), (path, found, kernel)


def test_paths_of_any_bytes_never_raise_anything_else(looker: Looker, walker: Walker) -> None:
    @given(st.binary(min_size=1, max_size=300).filter(lambda raw: b"\0" not in raw), st.booleans(), st.booleans())
    @settings(max_examples=150, deadline=None)
    def check(raw: bytes, entry: bool, follow: bool) -> None:
        with contextlib.suppress(CannotRead):
            looked_up(looker, walker, os.fsdecode(raw), entry=entry, follow=follow)

    check()
