"""Each operation with the seal: what was granted works as outside, its neighbour does not, and the event names that."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import seal_acts as acts
from bounds import HANG
from seal_scene import Scene, loaded, scene, start

from governed_mcpd.grant.labels import mounted_beneath
from governed_mcpd.nouns.operation import Operation

MACHINE = {"python": "checkout", "disks": {"btrfs": 256}, "seconds": 1200}


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A directory on each kind of filesystem."""
    base = Path("/var/tmp/seal-places")
    base.mkdir(exist_ok=True)
    found = {"ext4": base / "ext4"}
    for name in ("ext4", "tmpfs", "lower", "upper", "work", "overlay", "btrfs", "original", "bind"):
        (base / name).mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "seal", str(base / "tmpfs"))
    run("modprobe", "overlay")
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    run("mount", "-t", "overlay", "seal", "-o", options, str(base / "overlay"))
    disk = "/dev/disk/by-id/virtio-btrfs"
    run("modprobe", "btrfs")
    run("mkfs.btrfs", "-q", "-f", disk)
    run("mount", disk, str(base / "btrfs"))
    run("btrfs", "subvolume", "create", str(base / "btrfs" / "volume"))
    run("mount", "--bind", str(base / "original"), str(base / "bind"))
    found |= {name: base / name for name in ("tmpfs", "overlay", "bind")}
    found["btrfs"] = base / "btrfs" / "volume"
    yield {name: str(path) for name, path in found.items()}
    for name in ("bind", "btrfs", "overlay", "tmpfs"):
        subprocess.run(["umount", str(base / name)], capture_output=True, timeout=HANG, check=False)


@dataclass(frozen=True)
class Case:
    """`before` makes what has to stand at a path; `act` does it; `grant` lets it; `after` looks whether it happened."""

    operation: Operation
    before: Callable[[str], None]
    act: Callable[..., Any]
    grant: Callable[[Scene, str], None]
    after: Callable[[str], bool]


def nothing(_: str) -> None:
    """Nothing stands there."""


def file(path: str) -> None:
    Path(path).write_text("before")


def directory(path: str) -> None:
    os.mkdir(path)


def on_thing(operation: Operation, **more: Any) -> Callable[[Scene, str], None]:
    return lambda found, path: found.grant(operation, path, found.thing(path), **more)


def on_entry(operation: Operation, *, there: bool, **more: Any) -> Callable[[Scene, str], None]:
    return lambda found, path: found.grant(operation, path, found.entry(path, there=there), **more)


def grant_rename(found: Scene, path: str) -> None:
    found.grant(
        Operation.FILE_RENAME,
        path,
        found.entry(path, there=True),
        found.entry(path + ".new", there=False),
        second=path + ".new",
    )


def grant_link(found: Scene, path: str) -> None:
    new = found.entry(path + ".new", there=False)
    found.grant(Operation.FILE_LINK, path, found.thing(path), new, second=path + ".new")


def text(path: str) -> str:
    return Path(path).read_text()


CASES = {
    "write": Case(
        Operation.FILE_WRITE, file, acts.write, on_thing(Operation.FILE_WRITE), lambda p: text(p) == "after!"
    ),
    "empty": Case(Operation.FILE_WRITE, file, acts.empty, on_thing(Operation.FILE_WRITE), lambda p: text(p) == ""),
    "empty-reading": Case(
        Operation.FILE_WRITE, file, acts.empty_reading, on_thing(Operation.FILE_WRITE), lambda p: text(p) == ""
    ),
    "shorten-open": Case(
        Operation.FILE_WRITE, file, acts.shorten_open, on_thing(Operation.FILE_WRITE), lambda p: text(p) == "be"
    ),
    "create": Case(
        Operation.FILE_CREATE,
        nothing,
        acts.create,
        on_entry(Operation.FILE_CREATE, there=False),
        lambda p: text(p) == "made",
    ),
    "truncate": Case(
        Operation.FILE_TRUNCATE, file, acts.truncate, on_thing(Operation.FILE_TRUNCATE), lambda p: text(p) == "bef"
    ),
    "unlink": Case(
        Operation.FILE_UNLINK,
        file,
        os.unlink,
        on_entry(Operation.FILE_UNLINK, there=True),
        lambda p: not os.path.exists(p),
    ),
    "rmdir": Case(
        Operation.FILE_RMDIR,
        directory,
        os.rmdir,
        on_entry(Operation.FILE_RMDIR, there=True),
        lambda p: not os.path.exists(p),
    ),
    "mkdir": Case(Operation.FILE_MKDIR, nothing, os.mkdir, on_entry(Operation.FILE_MKDIR, there=False), os.path.isdir),
    "mkfifo": Case(
        Operation.FILE_MKNOD, nothing, acts.mkfifo, on_entry(Operation.FILE_MKNOD, there=False), os.path.exists
    ),
    "symlink": Case(
        Operation.FILE_SYMLINK,
        nothing,
        acts.symlink,
        on_entry(Operation.FILE_SYMLINK, there=False, second=acts.LONG),
        lambda p: os.readlink(p) == acts.LONG,
    ),
    "rename": Case(
        Operation.FILE_RENAME,
        file,
        acts.rename,
        grant_rename,
        lambda p: os.path.exists(p + ".new") and not os.path.exists(p),
    ),
    "link": Case(Operation.FILE_LINK, file, acts.link, grant_link, lambda p: os.stat(p).st_nlink == 2),
    "chmod": Case(
        Operation.FILE_CHMOD,
        file,
        acts.chmod,
        on_thing(Operation.FILE_CHMOD),
        lambda p: os.stat(p).st_mode & 0o777 == 0o640,
    ),
    "fchmod": Case(
        Operation.FILE_CHMOD,
        file,
        acts.fchmod,
        on_thing(Operation.FILE_CHMOD),
        lambda p: os.stat(p).st_mode & 0o777 == 0o604,
    ),
    "chown": Case(
        Operation.FILE_CHOWN, file, acts.chown, on_thing(Operation.FILE_CHOWN), lambda p: os.stat(p).st_uid == 1234
    ),
    "times": Case(
        Operation.FILE_TIMES, file, acts.times, on_thing(Operation.FILE_TIMES), lambda p: os.stat(p).st_mtime == 86400
    ),
}
XATTR = {
    "setxattr": Case(
        Operation.FILE_XATTR,
        file,
        acts.setxattr,
        on_thing(Operation.FILE_XATTR, details={"attribute": acts.ATTRIBUTE}),
        lambda p: os.getxattr(p, acts.ATTRIBUTE) == b"value",
    ),
    "removexattr": Case(
        Operation.FILE_XATTR,
        acts.file_with_attribute,
        acts.removexattr,
        on_thing(Operation.FILE_XATTR, details={"attribute": acts.ATTRIBUTE}),
        lambda p: acts.ATTRIBUTE not in os.listxattr(p),
    ),
}
KILLED = 9
PLACES = ("ext4", "tmpfs", "overlay", "btrfs", "bind")


def remove(path: str) -> None:
    """Whatever is there, without a process: starting six for each test was a third of the time."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def check(case: Case, where: str) -> None:
    granted, neighbour = os.path.join(where, "granted"), os.path.join(where, "neighbour")
    for path in (granted, neighbour):
        for left in (path, path + ".new"):
            remove(left)
        case.before(path)
    with scene(loaded()) as found:
        case.grant(found, granted)
        assert found.tries(case.act, neighbour) == 1, "the neighbour, which was not granted"
        events = found.events()
        assert [event.operation for event in events] == [case.operation.value]
        assert events[0].object in (neighbour, neighbour.replace("/bind/", "/original/"))
        assert events[0].thread == found.actor.pid
        assert found.tries(case.act, granted) == 0, "what was granted"
        assert case.after(granted)
        for path in (granted, granted + ".new"):
            remove(path)
        case.before(granted)
        assert found.tries(case.act, granted) == 1, "a second time"
        assert not found.events()[0].dropped
    # The same outside: nobody else is refused anything.
    case.act(neighbour)
    assert case.after(neighbour)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", CASES)
def test_operation(name: str, place: str, places: dict[str, str]) -> None:
    check(CASES[name], places[place])


@pytest.mark.parametrize("place", ["ext4", "btrfs", "overlay"])
@pytest.mark.parametrize("name", XATTR)
def test_attribute(name: str, place: str, places: dict[str, str]) -> None:
    check(XATTR[name], places[place])


# ---- what differs from one kind of object to another


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory that everybody may enter."""
    os.chmod(tmp_path, 0o755)
    return tmp_path


def refusals(found: Scene) -> list[tuple[str, str]]:
    return [(event.operation, event.object) for event in found.events()]


def test_hard_link_is_the_same_object_and_a_symlink_leads_to_it(here: Path) -> None:
    one, other, leads = here / "one", here / "other", here / "leads"
    one.write_text("before")
    os.link(one, other)
    os.symlink(one, leads)
    for name in (one, other, leads):
        with scene(loaded()) as found:
            assert found.tries(acts.write, str(name)) == 1
            found.grant(Operation.FILE_WRITE, str(one), found.thing(str(one)))
            assert found.tries(acts.write, str(name)) == 0
            assert found.tries(acts.write, str(name)) == 1


def test_files_of_two_subvolumes_with_the_same_numbers_are_two(places: dict[str, str]) -> None:
    top = Path(places["btrfs"]).parent
    for name in ("one", "two"):
        run("btrfs", "subvolume", "create", str(top / name))
        (top / name / "file").write_text("before")
    one, two = top / "one" / "file", top / "two" / "file"
    assert os.stat(one).st_ino == os.stat(two).st_ino
    with scene(loaded()) as found:
        found.grant(Operation.FILE_WRITE, str(one), found.thing(str(one)))
        assert found.tries(acts.write, str(two)) == 1
        assert found.tries(acts.write, str(one)) == 0


def test_a_file_that_overlayfs_copies_up(places: dict[str, str]) -> None:
    base = Path(places["overlay"]).parent
    subprocess.run(["umount", str(base / "overlay")], timeout=HANG, check=True)
    (base / "lower" / "below").write_text("below")
    (base / "lower" / "beside").write_text("beside")
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    run("mount", "-t", "overlay", "seal", "-o", options, str(base / "overlay"))
    path, neighbour = str(base / "overlay" / "below"), str(base / "overlay" / "beside")
    for act, operation in ((acts.write, Operation.FILE_WRITE), (acts.chmod, Operation.FILE_CHMOD)):
        with scene(loaded()) as found:
            found.grant(operation, path, found.thing(path))
            assert found.tries(act, neighbour) == 1
            assert found.tries(act, path) == 0
    assert Path(path).read_text() == "after!"
    assert (base / "lower" / "below").read_text() == "below"


def test_a_name_that_differs_at_its_end_is_another(here: Path) -> None:
    names = ["n" * 254 + end for end in "ab"]
    with scene(loaded()) as found:
        found.grant(Operation.FILE_CREATE, str(here / names[0]), found.entry(str(here / names[0]), there=False))
        assert found.tries(acts.create, str(here / names[1])) == 1
        assert found.tries(acts.create, str(here / names[0][:-1])) == 1
        assert found.tries(acts.create, str(here / names[0])) == 0


def test_another_text_of_a_symlink_is_refused(here: Path) -> None:
    path = str(here / "link")
    for text_of, expected in ((acts.LONG[:-1] + "z", 1), (acts.LONG + "z", 1), (acts.LONG[:-1], 1), (acts.LONG, 0)):
        with scene(loaded()) as found:
            entry = found.entry(path, there=False)
            found.grant(Operation.FILE_SYMLINK, path, entry, second=acts.LONG)
            assert found.tries(acts.symlink, path, text_of) == expected


def test_a_rename_over_something_that_was_not_there_is_refused(here: Path) -> None:
    path = str(here / "moved")
    file(path)
    with scene(loaded()) as found:
        grant_rename(found, path)
        file(path + ".new")
        assert found.tries(acts.rename, path) == 1
        assert refusals(found) == [("file.rename", path + ".new")]
        found.grant(
            Operation.FILE_RENAME, path, found.entry(path, there=True), found.entry(path + ".new", there=True),
            second=path + ".new",
        )  # fmt: skip
        assert found.tries(acts.rename, path) == 0


def test_a_grant_ends(here: Path) -> None:
    path = str(here / "file")
    file(path)
    with scene(loaded()) as found:
        found.grant(Operation.FILE_WRITE, path, found.thing(path), seconds=-0.001)
        assert found.tries(acts.write, path) == 1
        assert found.events()[0].reason == "the grant has expired"


def test_a_grant_is_for_one_thread_one_operation_and_one_sandbox(here: Path) -> None:
    path = str(here / "file")
    file(path)
    with scene(loaded()) as found, scene(loaded()) as other:
        found.grant(Operation.FILE_WRITE, path, found.thing(path), thread=other.actor.pid)
        assert other.tries(acts.write, path) == 1
        assert found.tries(acts.write, path) == 1
        found.grant(Operation.FILE_CHMOD, path, found.thing(path))
        assert found.tries(acts.write, path) == 1
        assert found.tries(acts.chmod, path) == 0


def test_a_file_without_a_name_is_never_made(here: Path) -> None:
    with scene(loaded()) as found:
        assert found.tries(acts.create_nameless, str(here)) == 1
    acts.create_nameless(str(here))


def test_a_file_that_its_own_sandbox_made_meanwhile_may_be_opened(here: Path) -> None:
    path, foreign = str(here / "file"), str(here / "foreign")
    with scene(loaded()) as found:
        found.grant(Operation.FILE_CREATE, path, found.entry(path, there=False))
        assert found.tries(acts.create, path) == 0
        found.grant(Operation.FILE_CREATE, path, found.entry(path, there=False))
        assert found.tries(acts.create, path) == 0
        assert found.tries(acts.create, path) == 1
        found.grant(Operation.FILE_CREATE, foreign, found.entry(foreign, there=False))
        file(foreign)
        assert found.tries(acts.create, foreign) == 1, "somebody else's got there first"
        assert refusals(found)[-1] == ("file.write", foreign)


def test_disks_show_what_is_protected_and_need_a_grant() -> None:
    path = "/dev/vda"
    with scene(loaded()) as found:
        assert found.tries(acts.read, path) == 1
        assert refusals(found) == [("file.read", path)]
        found.grant(Operation.FILE_READ, path, found.thing(path))
        assert found.tries(acts.read, path) == 0


def test_null_and_its_kin_take_writes() -> None:
    with scene(loaded()) as found:
        assert [found.tries(acts.write, path) for path in ("/dev/null", "/dev/zero", "/dev/full")] == [0, 0, 28]
        assert found.events() == []


def test_requests_that_change_an_inode(here: Path) -> None:
    path, neighbour = str(here / "file"), str(here / "neighbour")
    for name in (path, neighbour):
        file(name)
    with scene(loaded()) as found:
        found.grant(Operation.FILE_IOCTL, path, found.thing(path))
        assert found.tries(acts.set_flags, neighbour) == 1
        assert refusals(found) == [("file.ioctl", neighbour)]
        assert found.tries(acts.set_flags, path) == 0


def test_another_attribute_is_refused(here: Path) -> None:
    path = str(here / "file")
    file(path)
    with scene(loaded()) as found:
        found.grant(Operation.FILE_XATTR, path, found.thing(path), details={"attribute": acts.ATTRIBUTE})
        assert found.tries(acts.setxattr, path, "user.other") == 1
        assert found.tries(acts.setxattr, path) == 0


# ---- protected


def test_what_is_protected_needs_a_grant_for_reading(here: Path) -> None:
    secret, beside = here / "secrets" / "deep" / "key", here / "beside"
    secret.parent.mkdir(parents=True)
    secret.write_text("secret")
    beside.write_text("beside")
    os.link(secret, here / "linked")
    with scene(loaded()) as found, scene(loaded()) as other:
        found.seal.protect(found.sandbox, [found.hold(str(here / "secrets"))])
        assert found.tries(acts.read, str(secret)) == 1
        assert found.tries(acts.read, str(secret.parent)) == 1
        assert refusals(found) == [("file.read", str(secret)), ("file.read", str(secret.parent))]
        assert found.tries(acts.read, str(beside)) == 0
        assert other.tries(acts.read, str(secret)) == 0, "the label is this sandbox's"
        found.grant(Operation.FILE_READ, str(secret), found.thing(str(secret)))
        assert found.tries(acts.read, str(secret)) == 0
        assert found.tries(acts.read, str(secret)) == 1
        # A label on the file itself holds by whichever name it is opened.
        found.seal.protect(found.sandbox, [found.hold(str(secret))])
        assert found.tries(acts.read, str(here / "linked")) == 1
    assert secret.read_text() == "secret"


def test_a_bind_mount_leads_past_no_label_and_a_mount_beneath_needs_its_own(here: Path) -> None:
    inside = here / "secrets" / "mounted"
    inside.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "seal", str(inside))
    (inside / "key").write_text("secret")
    run("mount", "--bind", str(here / "secrets"), "/mnt")
    try:
        (here / "secrets" / "key").write_text("secret")
        assert mounted_beneath(str(here / "secrets")) == [str(inside)]
        with scene(loaded()) as found:
            found.seal.protect(found.sandbox, [found.hold(str(here / "secrets"))])
            assert found.tries(acts.read, "/mnt/key") == 1
            assert found.tries(acts.read, str(inside / "key")) == 0
            found.seal.protect(found.sandbox, [found.hold(str(inside))])
            assert found.tries(acts.read, str(inside / "key")) == 1
    finally:
        run("umount", "/mnt")
        run("umount", str(inside))


def test_with_reads_every_opening_needs_a_grant_once_a_program_runs(here: Path) -> None:
    path = str(here / "file")
    file(path)
    with scene(loaded(), reads=True) as found:
        assert found.tries(acts.read, path) == 0
        # ld.so cannot even open the libraries.
        assert os.waitstatus_to_exitcode(start(found, "/bin/cat", ["cat", path], {})) == 127
        assert {operation for operation, _ in refusals(found)} == {"file.read"}
    with scene(loaded()) as found:
        assert start(found, "/bin/cat", ["cat", path], {}) == 0


# ---- programs


def test_a_program_runs_as_it_was_granted(here: Path) -> None:
    with scene(loaded()) as found:
        assert start(found, "/bin/true", ["true"], {"A": "b"}) == 0
        assert start(found, "/bin/true", ["true", "x" * 5000], {"A": "b" * 9000, "C": ""}) == 0
        assert start(found, "/bin/true", ["true", "x" * 100000], {}) == 0
        assert found.events() == []


def test_another_program_argument_or_variable_does_not_run() -> None:
    with scene(loaded()) as found:
        refused = start(found, "/bin/true", ["true"], {}, {"programs": []})
        assert os.waitstatus_to_exitcode(refused) == 1
        refused = start(found, "/bin/true", ["true"], {}, {"programs": ["/bin/false"]})
        assert os.waitstatus_to_exitcode(refused) == 1
        assert [event.operation for event in found.events()] == ["process.exec"] * 2
        for granted in (
            {"argv": ["true", "b"]},
            {"argv": ["true"]},
            {"argv": ["true", "a", ""]},
            {"argv": ["true", "aa"]},
            {"environment": {"LD_PRELOAD": "/tmp/y.so"}},
            {"environment": {}},
            {"argv": ["truea"]},
        ):
            status = start(found, "/bin/true", ["true", "a"], {"LD_PRELOAD": "/tmp/x.so"}, granted)
            assert status & 0x7F == KILLED, granted
            assert [event.operation for event in found.events()] == ["process.exec"]
        assert start(found, "/bin/true", ["true", "a"], {"LD_PRELOAD": ""}) == 0


def test_a_script_needs_its_interpreter_too(here: Path) -> None:
    script, other = here / "script", here / "other"
    for path in (script, other):
        path.write_text("#!/bin/sh -e\nexit 7\n")
        path.chmod(0o755)
    argv = ["/bin/sh", "-e", str(script), "argument"]
    with scene(loaded()) as found:
        whole = {"programs": [str(script), "/bin/sh"], "argv": argv}
        assert os.waitstatus_to_exitcode(start(found, str(script), ["name", "argument"], {}, whole)) == 7
        for programs in ([str(script)], [str(script), "/bin/bash"], ["/bin/sh", str(script)], [str(other), "/bin/sh"]):
            found.events()
            status = start(found, str(script), ["name", "argument"], {}, {"programs": programs, "argv": argv})
            assert os.waitstatus_to_exitcode(status) == 1
            assert [event.operation for event in found.events()] == ["process.exec"]


def test_a_program_started_by_a_thread_gets_the_process() -> None:
    with scene(loaded()) as found:
        assert start(found, "/bin/true", ["true"], {}, act=acts.spawn_from_thread) == 0
        other = start(found, "/bin/true", ["true"], {}, {"argv": ["other"]}, act=acts.spawn_from_thread)
        assert other & 0x7F == KILLED


def test_a_child_of_a_child_is_sealed(here: Path) -> None:
    path = str(here / "file")
    file(path)
    with scene(loaded()) as found:
        status = start(found, "/bin/sh", ["sh", "-c", f"(echo x >{path})"], {})
        assert os.waitstatus_to_exitcode(status) == 2
        assert ("file.write", path) in refusals(found)
    assert Path(path).read_text() == "before"
