"""Ways to reach processes outside the sandbox: their memory, descriptors, signals, limits; and out of namespaces."""

import errno
import subprocess

import pytest

from tests.escape.arena import Arena, refused
from tests.support.users import OTHER, ROOT, USER


@pytest.mark.parametrize(
    ("attack", "more", "harm"),
    [
        ("vm-write", (), "memory"),
        ("trace", (), "memory"),
        ("proc-mem", ("/proc/%ld/mem",), "memory"),
        ("proc-mem", ("/proc/%ld/task/%ld/mem",), "memory"),
        ("proc-mem", ("/proc/self/../%ld/mem",), "memory"),
    ],
)
def test_the_memory_of_a_process_outside(
    arena: Arena, user: int, attack: str, more: tuple[str, ...], harm: str
) -> None:
    """Written from outside, not from inside."""
    with arena.victim(user) as victim:
        assert arena.proof(user, "processes", attack, victim.pid, victim.address, *more).worked
        assert harm in victim.suffered()
        for profile in ("escape", "escape-reads", "wide"):
            outcome = arena.attack(user, "processes", attack, victim.pid, victim.address, *more, profile=profile)
            assert refused(outcome), (profile, str(outcome))
        assert victim.suffered() == []


@pytest.mark.parametrize("attack", ["vm-read", "proc-mem-read", "environment", "compare", "vm-advise"])
def test_the_inside_of_a_process_outside(arena: Arena, user: int, attack: str) -> None:
    """Read from outside, not from inside."""
    with arena.victim(user) as victim:
        if attack != "vm-advise" or user == ROOT:  # CAP_SYS_NICE
            assert arena.proof(user, "processes", attack, victim.pid, victim.address).worked
        for profile in ("escape", "wide"):
            assert refused(arena.attack(user, "processes", attack, victim.pid, victim.address, profile=profile))


def test_the_descriptors_of_a_process_outside(arena: Arena, user: int) -> None:
    """pidfd_getfd, its links in /proc, and its root directory."""
    with arena.victim(user) as victim:
        for attack, what in (
            ("getfd", victim.descriptor),
            ("proc-fd", victim.descriptor),
            ("proc-root", victim.secret),
        ):
            assert arena.proof(user, "processes", attack, victim.pid, what).worked, attack
            for profile in ("escape", "escape-reads", "wide"):
                assert refused(arena.attack(user, "processes", attack, victim.pid, what, profile=profile)), attack


@pytest.mark.parametrize("attack", ["kill", "tkill", "tgkill", "queue", "tgqueue", "pidfd-signal", "kill-group"])
def test_signals_to_a_process_outside(arena: Arena, user: int, attack: str) -> None:
    """Refused, and recorded with the process; inside they are allowed."""
    with arena.victim(user) as victim:
        assert arena.proof(user, "processes", attack, victim.pid).worked
        assert victim.suffered() == ["signal"]
        assert refused(arena.attack(user, "processes", attack, victim.pid))
        assert victim.suffered() == []
        records = arena.records(f"process:{victim.pid}")
        assert {record["operation"] for record in records} == {"process.signal"}
        assert {record["decision"] for record in records} <= {"deny", "ask"}
    assert arena.attack(user, "processes", "child-signal").worked


def test_signals_with_rubbish_in_the_register(arena: Arena, user: int) -> None:
    """The kernel looks at 32 bits of a pid, and so does the supervisor."""
    with arena.victim(user) as victim:
        assert arena.proof(user, "processes", "kill-dirty", victim.pid).worked
        assert victim.suffered() == ["signal"]
        assert refused(arena.attack(user, "processes", "kill-dirty", victim.pid))
        assert victim.suffered() == []


def test_signals_to_a_group_by_pidfd(arena: Arena, user: int) -> None:
    """PIDFD_SIGNAL_PROCESS_GROUP (Linux 6.9): all members count, not only the process that the descriptor names."""
    with arena.victim(user) as victim:
        outside = arena.proof(user, "processes", "pidfd-group", victim.pid)
        if outside.worked:
            assert victim.suffered() == ["signal"]
            assert arena.attack(user, "processes", "own-pidfd-group").worked
        else:
            assert refused(outside, errno.EINVAL), str(outside)  # an older kernel
        assert refused(arena.attack(user, "processes", "pidfd-group", victim.pid))
        assert victim.suffered() == []


def test_a_directory_of_proc_is_a_pidfd(arena: Arena, user: int) -> None:
    """pidfd_send_signal takes it; what is no pidfd to the supervisor is refused."""
    with arena.victim(user) as victim:
        assert arena.proof(user, "processes", "procfd-signal", victim.pid).worked
        assert victim.suffered() == ["signal"]
        assert refused(arena.attack(user, "processes", "procfd-signal", victim.pid), errno.EBADF, errno.EPERM)
        assert victim.suffered() == []


@pytest.mark.parametrize("attack", ["kill-all", "kill-own-group"])
def test_signals_to_many(arena: Arena, user: int, attack: str) -> None:
    """Everybody, and the process group, which has the launcher in it: both reach outside. (Signal 0: it asks only.)"""
    assert arena.proof(user, "processes", attack).worked
    assert refused(arena.attack(user, "processes", attack), errno.EPERM)


@pytest.mark.parametrize("attack", ["setown", "setown-ex", "fiosetown", "siocspgrp"])
def test_signals_without_kill(arena: Arena, user: int, attack: str) -> None:
    """The owner of a descriptor gets a signal when data comes."""
    with arena.victim(user) as victim:
        assert arena.proof(user, "processes", attack, victim.pid).worked
        assert victim.suffered() == ["signal"]
        assert refused(arena.attack(user, "processes", attack, victim.pid), errno.EPERM)
        assert victim.suffered() == []


@pytest.mark.parametrize("attack", ["prlimit", "priority", "affinity", "idle"])
def test_burdens_on_a_process_outside(arena: Arena, user: int, attack: str) -> None:
    """Limits that end it, priorities that starve it."""
    with arena.victim(user) as victim:
        assert refused(arena.attack(user, "processes", attack, victim.pid)), attack
        assert victim.suffered() == []
        assert arena.proof(user, "processes", attack, victim.pid).worked
    assert arena.attack(user, "processes", "own-priority").worked


@pytest.mark.parametrize(("attack", "group", "everyone"), [("priority-of", 1, 2), ("io-priority-of", 2, 3)])
def test_burdens_on_a_group_and_on_a_whole_user(
    arena: Arena, user: int, attack: str, group: int, everyone: int
) -> None:
    """With 0 these mean the caller's group, which has the launcher in it, and all processes of the caller's user."""
    proof = (OTHER, "processes", attack, everyone) if attack == "priority-of" else (ROOT, "processes", attack, group)
    assert arena.proof(*proof).worked
    for who in (group, everyone):
        assert refused(arena.attack(user, "processes", attack, who), errno.EPERM), who
    for own in ("own-priority", "own-io-priority"):
        assert arena.attack(user, "processes", own).worked


NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}


@pytest.mark.parametrize("name", NAMESPACES)
def test_namespaces(arena: Arena, user: int, name: str) -> None:
    """By unshare, clone and clone3. An ordinary user outside gets them with a user namespace."""
    flag = NAMESPACES[name]
    user_namespace = 0 if user == ROOT else NAMESPACES["user"]
    for attack in ("unshare", "clone", "clone3"):
        assert arena.proof(user, "processes", attack, hex(flag | user_namespace)).worked, attack
        for flags in {flag, flag | user_namespace, flag | NAMESPACES["user"]}:
            assert refused(arena.attack(user, "processes", attack, hex(flags))), (attack, hex(flags))
    assert arena.attack(user, "processes", "clone", "0").worked
    assert arena.attack(user, "processes", "unshare", hex(0x200)).worked


def test_time_namespaces(arena: Arena, user: int) -> None:
    """CLONE_NEWTIME, which lies where clone keeps the exit signal."""
    flag = 0x80 | (0 if user == ROOT else NAMESPACES["user"])
    assert arena.proof(user, "processes", "unshare", hex(flag)).worked
    assert refused(arena.attack(user, "processes", "unshare", hex(0x80)), errno.EPERM)
    assert refused(arena.attack(user, "processes", "unshare", hex(flag)), errno.EPERM)


def test_entering_other_namespaces_and_roots(arena: Arena) -> None:
    """What root can do outside, nobody can inside: setns, chroot, pivot_root, mounts old and new."""
    with arena.victim(ROOT) as victim:
        target = arena.base / "mounts"
        target.mkdir()
        attacks: list[tuple[object, ...]] = [
            ("enter", victim.pid, "uts"),
            ("enter-pidfd", victim.pid),
            ("chroot", arena.work(ROOT)),
            ("pivot", target),
            ("mount", target),
            ("umount", target),
            ("bind-mount", arena.bin, target),
            ("fsopen",),
            ("open-tree", target),
            ("fspick", target),
            ("move-mount", target),
            ("mount-setattr", target),
        ]
        for attack in attacks:
            assert arena.proof(ROOT, "processes", *attack).worked, attack
            for user in (ROOT, USER):
                for profile in ("escape", "wide"):
                    outcome = arena.attack(user, "processes", *attack, profile=profile)
                    assert refused(outcome), (attack, profile, str(outcome))
        subprocess.run(["umount", "-l", str(target)], check=True, timeout=30)


def test_a_process_born_in_another_cgroup(arena: Arena) -> None:
    """clone3 CLONE_INTO_CGROUP."""
    from governed_mcpd.kernel import cgroup

    hierarchy = cgroup.find()
    own = hierarchy.mount + hierarchy.own
    assert arena.proof(ROOT, "processes", "into-cgroup", own).worked
    for user in (ROOT, USER):
        assert refused(arena.attack(user, "processes", "into-cgroup", own), errno.ENOSYS)


@pytest.mark.parametrize("attack", ["listener", "listener-wide"])
def test_an_own_listener_while_the_daemon_lives(arena: Arena, user: int, attack: str) -> None:
    """Whoever had one would answer itself. A further filter without one only narrows."""
    assert arena.proof(user, "processes", attack).worked
    assert refused(arena.attack(user, "processes", attack), errno.EPERM)
    assert arena.attack(user, "processes", "narrower").worked


@pytest.mark.parametrize("attack", ["memfd-exec", "memfd-fexec"])
def test_programs_without_a_name(arena: Arena, user: int, attack: str) -> None:
    """Code that no file holds; a program that has a name can be executed by descriptor."""
    program = arena.bin / "processes"
    assert arena.proof(user, "processes", attack, program).worked
    assert refused(arena.attack(user, "processes", attack, program), errno.EPERM)
    assert arena.attack(user, "processes", "execveat", program).worked


def test_a_program_that_was_deleted(arena: Arena, user: int) -> None:
    """Executed through the descriptor that is left of it."""
    program = arena.bin / "processes"
    assert arena.proof(user, "processes", "deleted-exec", program, arena.work(user) / arena.new("gone")).worked
    for profile in ("escape", "wide"):
        target = arena.work(user) / arena.new("gone")
        assert refused(arena.attack(user, "processes", "deleted-exec", program, target, profile=profile)), profile


def test_a_program_that_was_copied_to_the_scratch_directory(arena: Arena, user: int) -> None:
    """Files there are free; running one is judged as anywhere (this arena's profile lets programs run free)."""
    done = arena.instance.run(
        "/bin/sh", "-c", 'cp /bin/echo "$TMPDIR/e" && "$TMPDIR/e" ran "$TMPDIR"', user=user, profile="escape"
    )
    assert done.stdout.startswith("ran "), done
    path = done.stdout.split()[1] + "/e"
    rules = {record["operation"]: record["rule"] for record in arena.records(path)}
    assert rules["file.create"] == "scratch"
    assert rules["process.exec"] == "free"


def test_arguments_of_programs_at_the_end_of_a_page(arena: Arena, user: int) -> None:
    """argv that crosses pages is read whole; one that goes on into nothing is what the kernel says it is."""
    program = arena.bin / "processes"
    assert arena.attack(user, "processes", "argv-crossing", program).worked
    assert refused(arena.proof(user, "processes", "argv-unmapped", program), errno.EFAULT)
    assert refused(arena.attack(user, "processes", "argv-unmapped", program), errno.EFAULT)
    executed = [record["argv"] for record in arena.records(program) if record["operation"] == "process.exec"]
    assert any("said" in str(argv) for argv in executed), executed
