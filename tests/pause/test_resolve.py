"""From a name to the object: as the thread itself would get there."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from governed_mcpd.kernel import calls
from governed_mcpd.kernel.procfs import open_link
from governed_mcpd.pause.object import Object
from governed_mcpd.pause.observation import CannotRead, WouldFail
from governed_mcpd.pause.resolve import AT_FDCWD, Place
from tests.pause.looker import Looker
from tests.pause.walker import Walker
from tests.support.users import GROUP, OTHER, USER, identity

Resolve = Callable[..., Object]


@pytest.fixture
def walker(ground: Path) -> Iterator[Walker]:
    with Walker(identity(USER), ground / "own") as process:
        yield process


@pytest.fixture
def resolve(looker: Looker, walker: Walker) -> Resolve:
    """Resolver.object for the walker."""

    def object_(path: bytes | str | Path, *, directory: int = AT_FDCWD, follow: bool = True, how: int = 0) -> Object:
        raw = os.fsencode(path)
        return looker(lambda: looker.resolver.object(place(walker), directory, raw, follow=follow, resolve=how))

    return object_


@pytest.fixture
def entry(looker: Looker, walker: Walker) -> Resolve:
    """Resolver.entry for the walker."""

    def entry_(path: bytes | str | Path, *, directory: int = AT_FDCWD, follow: bool = False, how: int = 0) -> Object:
        raw = os.fsencode(path)
        return looker(lambda: looker.resolver.entry(place(walker), directory, raw, follow=follow, resolve=how))

    return entry_


def place(walker: Walker, root: int | None = None) -> Place:
    return Place(walker.pid, root, None)


def fails(call: Callable[[], object]) -> int:
    with pytest.raises(WouldFail) as failure:
        call()
    return failure.value.errno


# ---- names


def test_a_relative_name_begins_in_the_threads_directory(ground: Path, resolve: Resolve) -> None:
    (ground / "own" / "file").touch()
    assert resolve("file").name == str(ground / "own" / "file")
    assert resolve("./../own//file").name == str(ground / "own" / "file")
    assert resolve("..").name == str(ground)
    assert resolve("/../../..").name == "/"


def test_an_empty_name_is_no_name(resolve: Resolve, entry: Resolve) -> None:
    assert fails(lambda: resolve("")) == errno.ENOENT
    assert fails(lambda: entry("")) == errno.ENOENT


def test_a_symlink_is_followed_or_named(ground: Path, resolve: Resolve) -> None:
    (ground / "target").touch()
    link = ground / "own" / "link"
    link.symlink_to("../target")
    assert resolve("link").name == str(ground / "target")
    assert resolve("link", follow=False).name == str(link)


@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe not utf-8", b"tab\tesc\x1b[31m", b" (deleted)", b"a" * 255])
def test_names_of_any_bytes(ground: Path, resolve: Resolve, entry: Resolve, name: bytes) -> None:
    path = os.fsencode(ground / "own") + b"/" + name
    assert entry(name) == Object(os.fsdecode(path), None)
    with open(path, "wb"):
        pass
    assert os.fsencode(resolve(name).name) == path
    assert not resolve(name).unnamed


def test_names_that_are_too_long(resolve: Resolve, entry: Resolve) -> None:
    assert fails(lambda: resolve(b"a" * 256)) == errno.ENAMETOOLONG
    assert fails(lambda: entry(b"a" * 256)) == errno.ENAMETOOLONG


def test_a_path_deeper_than_path_max_is_named_relative_to_a_descriptor(ground: Path, entry: Resolve) -> None:
    deep = "/".join(["d" * 200] * 20)  # 4020 bytes with the ground before it are more than PATH_MAX
    here = os.open(ground / "own", os.O_PATH)
    for part in deep.split("/"):
        os.mkdir(part, dir_fd=here)
        here, above = os.open(part, os.O_PATH, dir_fd=here), here
        os.close(above)
    os.close(here)
    assert fails(lambda: entry(ground / "own" / deep / ("x" * 200))) == errno.ENAMETOOLONG


def test_loops_end(ground: Path, resolve: Resolve, entry: Resolve) -> None:
    (ground / "own" / "a").symlink_to("b")
    (ground / "own" / "b").symlink_to("a")
    assert fails(lambda: resolve("a")) == errno.ELOOP
    assert fails(lambda: entry("a", follow=True)) == errno.ELOOP
    assert fails(lambda: resolve("a/x")) == errno.ELOOP
    assert resolve("a", follow=False).name == str(ground / "own" / "a")


def test_a_file_is_no_directory(ground: Path, resolve: Resolve, entry: Resolve) -> None:
    (ground / "own" / "file").touch()
    for path in ("file/", "file/.", "file/..", "file/x"):
        assert fails(lambda path=path: resolve(path)) == errno.ENOTDIR
    assert fails(lambda: entry("file/x")) == errno.ENOTDIR


# ---- entries


def test_an_entry_that_is_not_there(ground: Path, entry: Resolve) -> None:
    assert entry("new") == Object(str(ground / "own" / "new"), None)
    assert entry("../own/./new").name == str(ground / "own" / "new")
    assert entry("new/").name == str(ground / "own" / "new")  # mkdir(2) takes it so
    assert fails(lambda: entry("missing/new")) == errno.ENOENT


def test_what_o_creat_makes_through_dangling_symlinks(ground: Path, entry: Resolve) -> None:
    (ground / "own" / "one").symlink_to("sub/two")
    (ground / "own" / "sub").mkdir()
    (ground / "own" / "sub" / "two").symlink_to(ground / "three")
    assert entry("one", follow=True) == Object(str(ground / "three"), None)
    assert entry("one").name == str(ground / "own" / "one")
    (ground / "three").touch()
    assert entry("one", follow=True).name == str(ground / "three")
    assert entry("one", follow=True).exists


def test_a_dangling_symlink_where_directories_above_cannot_be_searched(looker: Looker, ground: Path) -> None:
    """The walker stands in a directory whose parent it could not walk through; names begin where it stands."""
    closed = ground / "closed"
    inner = closed / "inner"
    inner.mkdir(parents=True)
    os.chown(inner, USER, USER)
    (inner / "link").symlink_to("made")
    with Walker(identity(USER), inner) as walker:
        closed.chmod(0o700)
        assert walker.makes(b"link") == ((str(inner / "made"), 0), True)
        found = looker(lambda: looker.resolver.entry(place(walker), AT_FDCWD, b"link", follow=True))
        assert found == Object(str(inner / "made"), None)


# ---- permission


def test_what_the_user_cannot_search_the_daemon_does_not_search_for_them(
    ground: Path, resolve: Resolve, entry: Resolve
) -> None:
    closed = ground / "closed"
    (closed / "inner").mkdir(parents=True)
    (closed / "secret").touch()
    closed.chmod(0o700)
    for path in ("secret", "missing", "inner/x", "."):
        assert fails(lambda path=path: resolve(closed / path if path != "." else f"{closed}/.")) == errno.EACCES
    assert fails(lambda: entry(closed / "secret")) == errno.EACCES
    assert fails(lambda: entry(closed / "missing")) == errno.EACCES
    assert resolve(closed).name == str(closed)
    closed.chmod(0o711)
    assert resolve(closed / "secret").name == str(closed / "secret")


def test_groups_of_the_thread_count(looker: Looker, ground: Path) -> None:
    shared = ground / "shared"
    shared.mkdir()
    (shared / "file").touch()
    os.chown(shared, 0, GROUP)
    shared.chmod(0o750)
    for groups, allowed in (([GROUP], True), ([], False)):
        who = identity(OTHER)
        who["extra_groups"] = groups
        with Walker(who, ground) as walker:
            call = lambda: looker(lambda: looker.resolver.object(place(walker), AT_FDCWD, b"shared/file"))  # noqa: E731
            assert (walker.opens(b"shared/file").errno == 0) is allowed
            if allowed:
                assert call().name == str(shared / "file")
            else:
                assert fails(call) == errno.EACCES


def test_the_looking_thread_is_root_again_afterwards(looker: Looker, ground: Path, resolve: Resolve) -> None:
    (ground / "closed").mkdir(mode=0o700)
    fails(lambda: resolve(ground / "closed" / "x"))
    assert looker(lambda: os.path.exists(ground / "closed"))
    looker(lambda: os.close(os.open(ground / "closed", os.O_RDONLY)))


# ---- descriptors


def test_names_relative_to_a_descriptor(ground: Path, walker: Walker, resolve: Resolve, entry: Resolve) -> None:
    (ground / "own" / "sub").mkdir()
    number = walker.ask("keep", b"sub")["number"]
    assert resolve(".", directory=number).name == str(ground / "own" / "sub")
    assert entry("new", directory=number).name == str(ground / "own" / "sub" / "new")
    assert resolve(ground, directory=number).name == str(ground)
    assert fails(lambda: resolve("x", directory=999)) == errno.EBADF
    assert fails(lambda: entry("x", directory=999)) == errno.EBADF
    assert fails(lambda: resolve("x", directory=-5)) == errno.EBADF


def test_a_descriptor_itself(ground: Path, walker: Walker, looker: Looker) -> None:
    (ground / "own" / "file").touch()
    number = walker.ask("keep", b"file")["number"]
    found = looker(lambda: looker.resolver.descriptor(place(walker), number))
    assert (found.name, found.unnamed) == (str(ground / "own" / "file"), False)
    (ground / "own" / "file").unlink()
    found = looker(lambda: looker.resolver.descriptor(place(walker), number))
    assert found.unnamed
    assert found.name.endswith(" (deleted)")
    assert looker(lambda: looker.resolver.descriptor(place(walker), 1)).unnamed  # a pipe
    assert fails(lambda: looker(lambda: looker.resolver.descriptor(place(walker), 999))) == errno.EBADF


def test_a_living_file_with_the_name_of_a_deleted_one(ground: Path, resolve: Resolve) -> None:
    (ground / "own" / "x (deleted)").touch()
    assert not resolve("x (deleted)").unnamed


# ---- /proc


def test_proc_self_is_the_threads(ground: Path, walker: Walker, resolve: Resolve) -> None:
    (ground / "own" / "file").touch()
    assert resolve("/proc/self/status").name == f"/proc/{walker.pid}/status"
    assert resolve("/proc/thread-self/status").name == f"/proc/{walker.pid}/task/{walker.pid}/status"
    assert resolve("/proc/self/cwd").name == str(ground / "own")
    assert resolve("/proc/self/cwd/file").name == str(ground / "own" / "file")
    assert resolve("/proc/self/root").name == "/"
    assert resolve("/proc/self/../self/../../proc/self/cwd/..").name == str(ground)
    assert resolve("/proc/self", follow=False).name == "/proc/self"
    assert resolve(f"/proc/{os.getpid()}/status").name == f"/proc/{os.getpid()}/status"
    assert resolve("/proc/mounts").name == f"/proc/{walker.pid}/mounts"


def test_dev_fd_is_the_threads(ground: Path, walker: Walker, resolve: Resolve, entry: Resolve) -> None:
    (ground / "own" / "file").touch()
    number = walker.ask("keep", b"file")["number"]
    for path in (f"/dev/fd/{number}", f"/proc/self/fd/{number}", f"/proc/thread-self/fd/{number}"):
        assert resolve(path).name == str(ground / "own" / "file")
        assert entry(path, follow=True).name == str(ground / "own" / "file")
    assert fails(lambda: resolve("/dev/fd/999")) == errno.ENOENT
    assert resolve("/dev/stdin").unnamed
    directory = walker.ask("keep", b".")["number"]
    assert entry(f"/dev/fd/{directory}/new").name == str(ground / "own" / "new")


def test_links_that_lead_into_proc(ground: Path, walker: Walker, resolve: Resolve, entry: Resolve) -> None:
    (ground / "own" / "link").symlink_to("/proc/self/cwd/made")
    assert fails(lambda: resolve("link")) == errno.ENOENT
    assert entry("link", follow=True) == Object(str(ground / "own" / "made"), None)
    (ground / "own" / "me").symlink_to("/proc/self")
    assert resolve("me/status").name == f"/proc/{walker.pid}/status"


def test_deleted_files_through_proc(ground: Path, walker: Walker, resolve: Resolve) -> None:
    (ground / "own" / "file").touch()
    number = walker.ask("keep", b"file")["number"]
    (ground / "own" / "file").unlink()
    assert resolve(f"/proc/self/fd/{number}").unnamed


@pytest.mark.parametrize("path", ["/proc/self/cwd/", "/proc/self/cwd/.", "/proc/self/cwd//", "/proc/self/cwd/./"])
def test_a_slash_at_the_end_follows_the_last_link(ground: Path, walker: Walker, resolve: Resolve, path: str) -> None:
    """lchown("/proc/self/cwd/") changes the directory, not the link."""
    assert walker.opens(path.encode(), follow=False).name == str(ground / "own")
    assert resolve(path, follow=False).name == str(ground / "own")
    assert resolve("/proc/self/cwd", follow=False).name == f"/proc/{walker.pid}/cwd"


@pytest.mark.parametrize("path", ["/proc/self/exe/", "/proc/self/exe/.", "/proc/self/exe/..", "/proc/self/status/"])
def test_a_file_in_proc_is_no_directory(walker: Walker, resolve: Resolve, path: str) -> None:
    assert walker.opens(path.encode()).errno == errno.ENOTDIR
    assert fails(lambda: resolve(path)) == errno.ENOTDIR


def test_a_path_of_too_many_steps_through_proc_is_not_followed(resolve: Resolve) -> None:
    assert resolve("/proc/self/" + "./" * 100).exists
    with pytest.raises(CannotRead, match="steps"):
        resolve("/proc/self/cwd/" + "../own/" * 200)


# ---- openat2's RESOLVE_ flags


def test_resolve_flags_hold_for_what_is_looked_up(ground: Path, walker: Walker, resolve: Resolve) -> None:
    (ground / "own" / "file").touch()
    (ground / "own" / "link").symlink_to("file")
    here = walker.ask("keep", b".")["number"]
    assert resolve("file", directory=here, how=calls.RESOLVE_BENEATH).name == str(ground / "own" / "file")
    assert fails(lambda: resolve("../own/file", directory=here, how=calls.RESOLVE_BENEATH)) == errno.EXDEV
    assert fails(lambda: resolve("/etc", directory=here, how=calls.RESOLVE_BENEATH)) == errno.EXDEV
    assert fails(lambda: resolve("link", directory=here, how=calls.RESOLVE_NO_SYMLINKS)) == errno.ELOOP


def test_resolve_in_root_takes_the_descriptor_as_root(ground: Path, walker: Walker, resolve: Resolve) -> None:
    (ground / "own" / "etc").mkdir()
    (ground / "own" / "link").symlink_to("/etc")
    here = walker.ask("keep", b".")["number"]
    for path in ("/etc", "/../../etc", "link"):
        assert resolve(path, directory=here, how=calls.RESOLVE_IN_ROOT).name == str(ground / "own" / "etc")


# ---- another root


def test_a_thread_in_another_root(looker: Looker, ground: Path) -> None:
    (ground / "own" / "etc").mkdir()
    (ground / "own" / "etc" / "file").touch()
    (ground / "own" / "link").symlink_to("/etc/file")
    (ground / "own" / "up").symlink_to("../../../../etc/file")
    with Walker(identity(USER), ground / "own", ground / "own") as walker:
        root = open_link(f"{walker.pid}/root")
        try:
            where = place(walker, root)
            for path in (b"/etc/file", b"link", b"up", b"/../../etc/file"):
                inode = walker.ask("open", path)["inode"]
                found = looker(lambda path=path: looker.resolver.object(where, AT_FDCWD, path))
                assert found.status is not None
                assert found.status.st_ino == inode == (ground / "own" / "etc" / "file").stat().st_ino
            made = looker(lambda: looker.resolver.entry(where, AT_FDCWD, b"/../new"))
            assert not made.exists
            # and back: the next thread is in the daemon's root again
            outside = looker(lambda: looker.resolver.object(place(walker), AT_FDCWD, os.fsencode(ground)))
            assert outside.name == str(ground)
        finally:
            os.close(root)
