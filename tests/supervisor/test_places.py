"""The directory and home of a command are looked at with the rights of who asks: the daemon tells nothing more."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from governed.v1 import control_pb2 as pb
from governed_mcpd.kernel.borrow import borrowed
from governed_mcpd.kernel.procfs import Credentials
from governed_mcpd.policy.load import load_directory
from governed_mcpd.subjects import plan
from governed_mcpd.subjects.envelope import landlock
from governed_mcpd.subjects.peers import Peer
from governed_mcpd.subjects.rules import Places, make
from tests.supervisor.acting import profile
from tests.support.instance import SHIPPED_POLICIES, Instance
from tests.support.users import GROUP, OTHER, ROOT, USER

PROFILE = """
kind: Profile
name: homely
envelope: {read: [/], write: ["${cwd}", /dev/null], execute: [/]}
protected: ["${home}/.ssh"]
free:
  - {operations: [process.exec], on: /**}
"""
AGENT = "kind: Agent\nname: default\ntier: Classic\nprofiles: [homely]\n"


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance(policies={"profile-homely.yaml": PROFILE, "agent-default.yaml": AGENT}) as made:
        secret = made.base / "secret"
        (secret / "there").mkdir(parents=True)
        secret.chmod(0o700)
        yield made


def _peer(uid: int) -> Peer:
    return Peer(os.getpid(), uid, uid, frozenset({GROUP}), sandboxed=False, pidfd=-1)


def _asked(uid: int, cwd: Path | str, home: Path | str) -> Places | str:
    """The places that the daemon takes, or its refusal without the name that was asked for."""
    message = pb.RunRequest(argv=[b"true"], cwd=os.fsencode(cwd), home=os.fsencode(home))
    try:
        return plan.read(load_directory(SHIPPED_POLICIES), _peer(uid), message, "/scratch").places
    except plan.Refused as refused:
        return f"{refused.code}: {refused}".replace(repr(str(cwd)), "CWD").replace(repr(str(home)), "HOME")


def test_what_may_not_be_entered_is_refused_as_what_is_not_there(instance: Instance) -> None:
    secret = instance.base / "secret"
    closed = ["", "there", "missing", "there/missing"]
    homes = {_asked(USER, instance.work, secret / name) for name in closed}
    directories = {_asked(USER, secret / name, instance.home) for name in closed}
    homes.add(_asked(USER, instance.work, "/nonexistent"))
    assert len(directories) == 1
    assert "no such directory, or uid" in str(directories)
    # Users of services have no home: the scratch directory stands for it.
    assert homes == {Places(str(instance.work), "/scratch", "/scratch")}
    assert _asked(ROOT, secret / "there", secret) == Places(str(secret / "there"), str(secret), "/scratch")


def test_own_directories_are_taken_by_their_own_names(instance: Instance) -> None:
    deep = instance.home / "deep"
    deep.mkdir()
    link = instance.work / "link"
    link.symlink_to(deep)
    for path in (deep, link):
        os.chown(path, USER, USER, follow_symlinks=False)
    assert _asked(USER, link, instance.home) == Places(str(deep), str(instance.home), "/scratch")
    assert "no-directory" in str(_asked(OTHER, link, instance._homes[OTHER]))
    done = instance.run("pwd", cwd=deep, env={"HOME": str(deep)})
    assert (done.returncode, done.stdout) == (0, f"{deep}\n")


def test_the_daemons_own_proc_is_nobodys_directory(instance: Instance) -> None:
    names = ["/proc/self/cwd", "/proc/self/fd/0", "/proc/self/fd/900", "/proc/self/root/root", "/proc/thread-self/root"]
    assert len({_asked(USER, name, instance.home) for name in names}) == 1
    assert _asked(USER, "/proc", instance.home) == Places("/proc", str(instance.home), "/scratch")


def test_a_user_without_a_home_runs_commands(instance: Instance) -> None:
    said = set()
    for name in ("there", "missing"):
        path = str(instance.base / "secret" / name)
        done = instance.run("sh", "-c", "ls -d $HOME || echo $?", env={"HOME": path})
        assert (done.returncode, done.stdout) == (0, "2\n")
        said.add(done.stderr.replace(path, "HOME"))
    assert len(said) == 1


def test_an_envelope_names_only_what_its_reader_may_list(instance: Instance) -> None:
    """A directory above the home that may be searched and not listed is opened up for what the rules name."""
    above = instance.base / "above"
    for name in ("home", "another"):
        (above / name).mkdir(parents=True)
    (above / "home" / "notes").write_text("")
    above.chmod(0o711)
    wide = profile(envelope={"read": [str(above)], "write": [], "execute": []}, protected=["${home}/.ssh"])
    rules = make(wide, Places("/", str(above / "home"), str(instance.work)))
    seen = {}
    for uid in (ROOT, USER):
        with borrowed(Credentials(uid, uid, ())):
            seen[uid] = list(landlock(rules, (), sealed=True).read)
    notes, another = (os.fsencode(above / name) for name in ("home/notes", "another"))
    assert notes in seen[USER]
    assert another not in seen[USER]
    assert {notes, another} <= set(seen[ROOT])


def test_borrowed_rights_come_back(instance: Instance) -> None:
    def who() -> list[str]:
        lines = Path("/proc/thread-self/status").read_text().splitlines()
        return [line for line in lines if line.startswith(("Uid", "Gid", "Groups", "CapEff"))]

    own = who()
    with borrowed(Credentials(USER, USER, (GROUP,))), pytest.raises(PermissionError):
        os.listdir(instance.base / "secret")
    assert who() == own
    assert os.listdir(instance.base / "secret") == ["there"]
