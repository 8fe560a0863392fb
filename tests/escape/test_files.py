"""Ways to reach a file that the sandbox may not change."""

import errno
import os
from pathlib import Path

import pytest

from tests.escape.arena import Arena, refused
from tests.support.users import ROOT, USER

CHANGES = [
    "write",
    "openat2",
    "dirty-registers",
    "uring-open",
    "uring-unlink",
    "i386",
    "ro-setflags",
    "ro-setflags-dirty",
    "ro-futimens",
    "ro-fchmod",
    "ro-fchown",
    "ro-fsetxattr",
    "ro-trunc",
    "truncate",
    "chmod",
    "fchmodat2",
    "chown",
    "utimens",
    "lutimens",
    "futimesat",
    "utime",
    "setxattr",
    "unlink",
    "path-times",
    "path-chown",
    "crossing-path",
    "creat",
]
NEVER_INSIDE = {"uring-open", "uring-unlink", "i386", "fchmodat2", "by-handle"}  # refused for own files, too


def _state(path: Path) -> tuple[object, ...]:
    status = path.stat()
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, path.read_bytes(), attributes


@pytest.mark.parametrize("attack", CHANGES)
def test_files_that_the_envelope_lets_be_read_only(arena: Arena, user: int, attack: str) -> None:
    """Outside it changes the file; inside it changes neither what may only be read nor what is protected, and is
    recorded; the sandbox's own file it may change."""
    assert arena.proof(user, "files", attack, arena.readable(user)).worked
    # What is protected cannot be opened for reading either.
    for path in (arena.readable(user),) if attack.startswith("ro-") else (arena.readable(user), arena.protected(user)):
        before = _state(path)
        outcome = arena.attack(user, "files", attack, path)
        assert refused(outcome), (str(outcome), outcome.stderr)
        assert _state(path) == before
        if attack not in NEVER_INSIDE:
            assert any(record["decision"] == "deny" for record in arena.records(path)), arena.records(path)
    if attack not in NEVER_INSIDE:
        outcome = arena.attack(user, "files", attack, arena.own(user))
        assert outcome.worked, (str(outcome), outcome.stderr)


@pytest.mark.parametrize("attack", ["write", "openat2", "chmod", "unlink", "utimens", "setxattr"])
def test_files_outside_the_envelope(arena: Arena, user: int, attack: str) -> None:
    """Not the smallest change, and the record says which rule."""
    assert arena.proof(user, "files", attack, arena.outside(user)).worked
    path = arena.outside(user)
    before = _state(path)
    assert refused(arena.attack(user, "files", attack, path))
    assert _state(path) == before
    assert [record["rule"] for record in arena.records(path)] == ["envelope"]


@pytest.mark.parametrize("attack", ["ro-ftruncate", "ro-fallocate", "ro-mmap"])
def test_data_does_not_change_through_a_descriptor_for_reading(arena: Arena, user: int, attack: str) -> None:
    """The kernel itself sees to that, inside and outside: these calls pass the filter for a good reason."""
    path = arena.readable(user)
    before = _state(path)
    assert not arena.proof(user, "files", attack, path).worked
    assert not arena.attack(user, "files", attack, path).worked
    assert _state(path) == before


def test_a_handle_opens_past_every_path(arena: Arena) -> None:
    """open_by_handle_at, which root can use outside."""
    assert arena.proof(ROOT, "files", "by-handle", arena.readable(ROOT)).worked
    for user in (ROOT, USER):
        path = arena.readable(user)
        assert refused(arena.attack(user, "files", "by-handle", path), errno.EPERM)
        assert path.read_text() == "untouched\n"


def test_other_tables_of_system_calls(arena: Arena, user: int) -> None:
    """32-bit numbers and x32 are refused whatever they ask for (this kernel may have no x32 at all)."""
    assert arena.proof(user, "files", "i386", arena.own(user)).worked
    for attack in ("i386", "x32"):
        path = arena.own(user)
        assert refused(arena.attack(user, "files", attack, path), errno.ENOSYS)
        assert path.read_text() == "untouched\n"


def test_a_ring_connects_unseen(arena: Arena, user: int) -> None:
    """io_uring: the request to connect lies in memory."""
    import socket

    path = arena.base / arena.new("ring.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()
        server.settimeout(10)
        assert arena.proof(user, "files", "uring-connect", path).worked
        server.accept()[0].close()
        assert refused(arena.attack(user, "files", "uring-connect", path), errno.ENOSYS)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


ALIASES = {
    "dots": "{work}/sub/../protected/{name}",
    "slashes": "{work}//protected///./{name}",
    "relative": "protected/{name}",
    "symlink": "{work}/to-file",
    "symlinked-directory": "{work}/to-directory/{name}",
    "proc-self-root": "/proc/self/root{work}/protected/{name}",
    "proc-self-cwd": "/proc/self/cwd/protected/{name}",
    "proc-self-cwd-dots": "/proc/self/cwd/sub/../protected/{name}",
    "thread-self-cwd": "/proc/thread-self/cwd/protected/{name}",
    "proc-dots": "/proc/self/task/../cwd/protected/{name}",
    "symlink-through-proc": "{work}/to-proc/{name}",
    "proc-root-dots": "/proc/self/root/../..{work}/protected/{name}",
}


@pytest.mark.parametrize("alias", ALIASES)
def test_other_names_of_a_protected_file(arena: Arena, user: int, alias: str) -> None:
    """What counts is the object, whatever it is called; the same names lead to the sandbox's own files."""
    work = arena.work(user)
    protected = arena.protected(user)
    own = arena.own(user)
    (work / "sub").mkdir(exist_ok=True)
    links = {
        "to-file": protected,
        "to-directory": work / "protected",
        "to-proc": Path("/proc/self/cwd/protected"),
    }
    for name, target in links.items():
        (work / name).unlink(missing_ok=True)
        (work / name).symlink_to(target)
    path = ALIASES[alias].format(work=work, name=protected.name)
    outcome = arena.attack(user, "files", "write", path)
    assert refused(outcome), (str(outcome), outcome.stderr)
    assert protected.read_text() == "untouched\n"
    assert [record["rule"] for record in arena.records(protected)] == ["protected"]
    # the same way, to the file beside it
    (work / "to-file").unlink()
    (work / "to-file").symlink_to(own)
    for name, target in (("to-directory", work), ("to-proc", Path("/proc/self/cwd"))):
        (work / name).unlink()
        (work / name).symlink_to(target)
    path = ALIASES[alias].format(work=work, name=own.name).replace("protected/", "")
    assert arena.attack(user, "files", "write", path).worked, path
    assert own.read_text() == "untouched\nattack\n"


@pytest.mark.parametrize("link", ["/proc/self/fd/%d", "/dev/fd/%d", "/proc/thread-self/fd/%d", "700:/dev/fd/700"])
def test_opening_again_what_was_only_named(arena: Arena, user: int, link: str) -> None:
    """An O_PATH descriptor is not held; opening it for writing through its magic link is."""
    protected, readable, own = arena.protected(user), arena.readable(user), arena.own(user)
    assert arena.proof(user, "files", "reopen", readable, link).worked
    readable.write_text("untouched\n")
    for path in (protected, readable):
        assert refused(arena.attack(user, "files", "reopen", path, link))
        assert path.read_text() == "untouched\n"
        assert any(record["decision"] == "deny" for record in arena.records(path))
    assert arena.attack(user, "files", "reopen", own, link).worked
    assert own.read_text() == "untouched\nattack\n"


def test_names_that_begin_at_a_descriptor_or_a_directory(arena: Arena, user: int) -> None:
    """openat below an O_PATH directory, chdir, and a thread with a directory of its own."""
    protected, own = arena.protected(user), arena.own(user)
    for attack in ("beneath", "chdir-write", "thread-cwd"):
        assert refused(arena.attack(user, "files", attack, protected.parent, protected.name)), attack
        assert arena.attack(user, "files", attack, own.parent, own.name).worked, attack
    assert protected.read_text() == "untouched\n"
    assert own.read_text() == "untouched\n" + 3 * "attack\n"


def test_a_further_name_for_a_protected_file(arena: Arena, user: int) -> None:
    """Hard links by name, through a magic link, and through an empty path."""
    for attack in ("link", "path-link"):
        for source in (arena.protected(user), arena.outside(user)):
            target = arena.work(user) / arena.new("stolen")
            outcome = arena.attack(user, "files", attack, source, target)
            assert refused(outcome, errno.EPERM, errno.EACCES, errno.EXDEV), (attack, source, str(outcome))
            assert not target.exists()
        assert arena.proof(user, "files", attack, arena.outside(user), arena.work(user) / arena.new("proof")).worked
        target = arena.work(user) / arena.new("linked")
        assert arena.attack(user, "files", attack, arena.own(user), target).worked
        assert target.exists()


def test_moving_what_lies_above_a_protected_subtree(arena: Arena, user: int) -> None:
    """The directory above goes elsewhere, and with it what was protected by its name."""
    above = arena.work(user) / "above"
    (above / "protected").mkdir(parents=True, exist_ok=True)
    for directory in (above, above / "protected"):
        os.chown(directory, user, user)
    (above / "protected/key").write_text("untouched\n")
    away = arena.work(user) / arena.new("away")
    for attack, arguments in (
        ("rename", (above, away)),
        ("rename", (above / "protected", away)),
        ("exchange", (above, arena.own(user))),
        ("exchange", (arena.own(user), above)),
    ):
        assert refused(arena.attack(user, "files", attack, *arguments), errno.EPERM), (attack, arguments)
        assert (above / "protected/key").read_text() == "untouched\n"
    assert arena.proof(user, "files", "rename", above, away).worked
    os.rename(away, above)
    other = arena.work(user) / arena.new("other")
    other.mkdir()
    os.chown(other, user, user)
    assert arena.attack(user, "files", "rename", other, away).worked


def test_a_link_where_protected_things_will_lie(arena: Arena, user: int) -> None:
    """A symlink, made or moved to above a protected name that is not there yet, would lead it into the open."""
    work = arena.work(user)
    above, aside = work / "above", work / arena.new("aside")
    if above.exists():
        os.rename(above, work / arena.new("old"))
    assert refused(arena.attack(user, "files", "symlink", work / "x", above), errno.EPERM)
    assert arena.attack(user, "files", "symlink", work / "x", aside).worked
    assert refused(arena.attack(user, "files", "rename", aside, above), errno.EPERM)
    assert not os.path.lexists(above)


def test_what_a_dangling_link_would_create(arena: Arena, user: int) -> None:
    """open(O_CREAT) makes the target: that is the object."""
    work = arena.work(user)
    for target, allowed in (
        (work / "protected" / arena.new("new"), False),
        (arena.base / f"outside-{user}" / arena.new("new"), False),
        (work / arena.new("new"), True),
    ):
        first, second = work / arena.new("dangling"), work / arena.new("dangling")
        first.symlink_to(second.name)
        second.symlink_to(os.path.relpath(target, work))
        outcome = arena.attack(user, "files", "create", first)
        assert outcome.worked is allowed, (target, str(outcome))
        assert target.exists() is allowed


def test_links_with_a_slash_at_their_end_are_followed(arena: Arena, user: int) -> None:
    """AT_SYMLINK_NOFOLLOW does not hold for `link/`: the kernel changes the directory that it leads to."""
    directory = arena.base / f"outside-{user}"
    arena.outside(user)
    link = arena.work(user) / arena.new("link")
    link.symlink_to(directory)
    os.lchown(link, user, user)
    before = directory.stat().st_mtime_ns
    for path in (f"{link}/", f"/proc/self/cwd/{link.name}/", f"/proc/self/cwd/{link.name}/."):
        assert refused(arena.attack(user, "files", "lutimens", path)), path
        assert directory.stat().st_mtime_ns == before, path
    assert arena.attack(user, "files", "lutimens", link).worked  # the link itself is the sandbox's own
    assert arena.proof(user, "files", "lutimens", f"{link}/").worked
    assert directory.stat().st_mtime_ns != before


def test_a_file_without_a_name(arena: Arena, user: int) -> None:
    """O_TMPFILE cannot be judged by a name: programs fall back to a named one."""
    work = arena.work(user)
    assert arena.proof(user, "files", "tmpfile", work, work / arena.new("named")).worked
    target = work / arena.new("named")
    assert refused(arena.attack(user, "files", "tmpfile", work, target), errno.EOPNOTSUPP)
    assert not target.exists()
    assert arena.attack(user, "files", "create", target).worked


def test_a_file_that_is_called_deleted(arena: Arena, user: int) -> None:
    """d_path(9) says ` (deleted)` of what has no name; a living file may be called so, and is judged all the same."""
    path = arena.protected(user)
    deleted = path.rename(path.with_name(f"{path.name} (deleted)"))
    assert refused(arena.attack(user, "files", "write", deleted))
    assert deleted.read_text() == "untouched\n"
    own = arena.own(user).rename(arena.work(user) / f"{arena.new()} (deleted)")
    assert arena.attack(user, "files", "write", own).worked


@pytest.mark.parametrize("name", ["new\nline", "tab\tand \x1b[31mred", "\u202ebackwards", "ends in space ", "-rf", "*"])
def test_strange_names_are_judged_and_recorded(arena: Arena, user: int, name: str) -> None:
    """As they are."""
    path = arena.protected(user)
    strange = path.rename(path.with_name(f"{path.name}{name}"))
    assert refused(arena.attack(user, "files", "write", strange))
    assert strange.read_text() == "untouched\n"
    assert [record["rule"] for record in arena.records(strange)] == ["protected"]


@pytest.mark.parametrize(
    ("attack", "number"),
    [
        ("null-path", errno.EFAULT),
        ("high-path", errno.EFAULT),
        ("unmapped-path", errno.EFAULT),
        ("unterminated-path", errno.EFAULT),
        ("long-path", errno.ENAMETOOLONG),
    ],
)
def test_arguments_that_cannot_be_read(arena: Arena, user: int, attack: str, number: int) -> None:
    """Nothing is approved; the thread gets what the kernel would say."""
    assert refused(arena.proof(user, "files", attack), number)
    assert refused(arena.attack(user, "files", attack), number)


def test_devices(arena: Arena) -> None:
    """Root makes devices outside, nobody inside; FIFOs are allowed."""
    work = arena.work(ROOT)
    assert arena.proof(ROOT, "files", "device", work / arena.new("device")).worked
    for user in (ROOT, USER):
        for attack in ("device", "chardev"):
            target = arena.work(user) / arena.new("device")
            assert refused(arena.attack(user, "files", attack, target), errno.EPERM)
            assert not target.exists()
        assert arena.attack(user, "files", "fifo", arena.work(user) / arena.new("fifo")).worked


@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run", "/proc/self/oom_score_adj"],
)
def test_the_kernels_own_files(arena: Arena, user: int, path: str) -> None:
    """Written by nobody in a sandbox, root included; all can be read (where the kernel lets it)."""
    if not os.path.exists(path):
        path = "/proc/sys/kernel/hostname"
    assert refused(arena.attack(user, "files", "write", path))
    assert arena.attack(user, "files", "read", "/proc/self/oom_score_adj").worked


def test_leaving_the_cgroup_by_its_files(arena: Arena, user: int) -> None:
    """cgroup.procs is written by no sandbox."""
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    from governed_mcpd.kernel import cgroup

    procs = f"{cgroup.find().mount}{own.rstrip('/')}/cgroup.procs"
    for profile in ("escape", "wide"):
        outcome = arena.attack(user, "files", "write", procs, profile=profile)
        assert refused(outcome), (profile, str(outcome))


def test_the_daemons_own_directories(arena: Arena, user: int) -> None:
    """Even where the profile lets everything run free, they are out of reach; what lies beside them is not."""
    instance = arena.instance
    for directory in (instance.runtime_dir, instance.state_dir, instance.policy_dir):
        for attack in ("create", "mkdir", "fifo"):
            target = directory / arena.new("planted")
            assert refused(arena.attack(user, "files", attack, target, profile="wide")), (attack, target)
            assert not os.path.lexists(target)
            if user == ROOT:  # others cannot even look at some of them
                assert [record["rule"] for record in arena.records(target)] == ["never-own-files"]
        moved = directory.with_name(arena.new("moved"))
        assert refused(arena.attack(user, "files", "rename", directory, moved, profile="wide"))
        assert directory.exists()
    moved = arena.base.with_name(arena.base.name + "-moved")
    assert refused(arena.attack(user, "files", "rename", arena.base, moved, profile="wide"))
    assert refused(arena.attack(user, "files", "exchange", arena.base, arena.own(user), profile="wide"))
    assert arena.attack(user, "files", "create", arena.work(user) / arena.new(), profile="wide").worked


def test_reading_the_daemons_own_files(arena: Arena, user: int) -> None:
    """The journal's key is root's: a sandbox of root could sign a false journal with it. A profile that reads the whole
    file system, without pausing its reads, has everything else in it."""
    neighbour = arena.readable(user)
    secret = arena.instance.state_dir / "journal.key"
    assert arena.proof(user, "files", "read", secret).worked is (user == ROOT)
    for profile in ("everything", "wide"):
        assert refused(arena.attack(user, "files", "read", secret, profile=profile)), profile
    for profile in ("everything", "wide"):
        assert arena.attack(user, "files", "read", neighbour, profile=profile).worked
        assert arena.attack(user, "files", "read", arena.outside(user), profile=profile).worked
