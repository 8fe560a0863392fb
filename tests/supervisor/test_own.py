"""The daemon and its gate are not signalled from inside, also where a gate's policies allow every signal."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from governed_mcpd.kernel import landlock
from tests.faults.common import effects, gate, inside
from tests.support.instance import SHIPPED_POLICIES, Instance
from tests.support.users import GATE, ROOT

PROFILE = """
kind: Profile
name: signals
envelope: {read: [/], write: ["${cwd}", /dev/null], execute: [/]}
free:
  - {operations: [process.exec], on: /**}
"""
AGENT = "kind: Agent\nname: default\ntier: Classic\nprofiles: [signals]\n"
# Sends SIGCONT, which harms nobody, in each way to each process of argv; prints what came of it.
SIGNALS = """
import errno, os, signal, sys
def way(name, pid):
    if name == "group":
        os.killpg(os.getpgid(pid), signal.SIGCONT)
    elif name == "pidfd":
        signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGCONT)
    else:
        os.kill(pid if name == "process" else max(map(int, os.listdir(f"/proc/{pid}/task"))), signal.SIGCONT)
for pid in map(int, sys.argv[1:]):
    for name in ("process", "thread", "group", "pidfd"):
        try:
            way(name, pid)
            print("sent")
        except OSError as error:
            print(errno.errorcode[error.errno])
"""


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    forbids = re.compile(r'@id\("no-signals-outside"\)[^;]*;')
    permit = '@id("signals") @reason("for this test") permit (principal, action == Action::"process.signal", resource);'
    constitution, count = forbids.subn(permit, (SHIPPED_POLICIES / "constitution.yaml").read_text())
    assert count == 1
    policies: dict[str, str | None] = {
        "profile-signals.yaml": PROFILE,
        "agent-default.yaml": AGENT,
        "constitution.yaml": constitution,
        "gate.yaml": gate(ask=1000, deny=1000),
    }
    with Instance(policies=policies) as made:
        yield made


def _tried(instance: Instance, *pids: int) -> list[str]:
    done = instance.run(*inside(SIGNALS, *pids), user=ROOT)
    assert done.returncode == 0, done
    return done.stdout.split()


def test_neither_daemon_nor_gate_is_signalled(instance: Instance) -> None:
    assert instance.daemon is not None
    assert instance.gate is not None
    pids = (instance.daemon.pid, instance.gate.pid)
    outside = subprocess.run(inside(SIGNALS, *pids), capture_output=True, text=True, timeout=30, check=True)
    assert outside.stdout.split() == ["sent"] * 8
    assert _tried(instance, *pids) == ["EPERM"] * 8
    refused = effects(instance.journal(), rule="never-own-processes")
    assert {f"process:{pid}" for pid in pids} <= {record["object"] for record in refused}


def test_a_gate_that_was_started_again_is_known(instance: Instance) -> None:
    instance.restart_gate()
    assert instance.gate is not None
    assert _tried(instance, instance.gate.pid) == ["EPERM"] * 4


def test_others_are_signalled_freely(instance: Instance) -> None:
    """Of root, and of the gate's own user: approved, and done where Landlock does not keep signals inside (ABI 6)."""
    come = ["EPERM" if landlock.scopes(landlock.abi()) else "sent"] * 4
    for user in (ROOT, GATE):
        with subprocess.Popen(["sleep", "60"], user=user, group=user, extra_groups=[], start_new_session=True) as other:
            try:
                assert _tried(instance, other.pid) == come
            finally:
                os.kill(other.pid, signal.SIGKILL)
        found = effects(instance.journal(), object=f"process:{other.pid}")
        assert len(found) >= 3
        assert {record["decision"] for record in found} == {"allow"}
