"""A file system that never answers: whoever touches it waits, and nobody else."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.common import LOOSE, daemon_pid, effects, gate, inside, policies, profile, settles, threads, within
from tests.faults.fuse import Silent
from tests.support.instance import Instance, Program
from tests.support.users import USER

READS = (
    profile("reads", reads="pause")
    .replace("  - {operations: [file.read], on: /**}\n", "")
    .replace(
        "free:\n", "free:\n  - {operations: [file.read], on: /usr/**}\n  - {operations: [file.read], on: /etc/**}\n"
    )
)

# Each attempt in argv[2:] in a thread of its own; meanwhile the first thread goes on creating files. One JSON line when
# all are through: how each went, how long it took, and how many files were created in each second.
ATTEMPTS = """
import ctypes, errno, json, mmap, os, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
point, results, created = sys.argv[1], {}, []

def in_mapping(path):
    # The path lies in a mapping of a file whose pages never come: the supervisor would wait for them, too.
    descriptor = os.open(point + "/answers", os.O_RDONLY)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    address = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    libc.open.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    if libc.open(address, os.O_WRONLY | os.O_CREAT, 0o600) < 0:
        raise OSError(ctypes.get_errno(), "open")

def executed(name):  # os.execv would keep the other threads of Python waiting
    libc.execv(name.encode(), (ctypes.c_char_p * 2)(b"hangs", None))
    raise OSError(ctypes.get_errno(), "execv")

ATTEMPTS = {
    "create": lambda name: os.open(name, os.O_WRONLY | os.O_CREAT, 0o600),
    "truncate": lambda name: os.truncate(name, 0),
    "unlink": lambda name: os.unlink(name),
    "rename": lambda name: os.rename(name, "elsewhere"),
    "exec": lambda name: executed(name),
    "connect": lambda name: socket.socket(socket.AF_UNIX).connect(name),
    "read": lambda name: os.open(name, os.O_RDONLY),
    "mapping": lambda name: in_mapping(point),
}

def attempt(index, name):
    began = time.monotonic()
    try:
        ATTEMPTS[name](f"{point}/hangs-{os.getpid()}-{index}")
        result = "OK"
    except OSError as error:
        result = errno.errorcode[error.errno]
    results[f"{index}:{name}"] = (result, time.monotonic() - began)

workers = [threading.Thread(target=attempt, args=one) for one in enumerate(sys.argv[2:])]
[worker.start() for worker in workers]
print("hangs", flush=True)
index = 0
while any(worker.is_alive() for worker in workers):
    index += 1
    began = time.monotonic()
    os.close(os.open(f"goes-on-{os.getpid()}-{index % 50}", os.O_WRONLY | os.O_CREAT, 0o600))
    created.append(time.monotonic() - began)
    time.sleep(0.005)
print(json.dumps({"results": results, "created": len(created), "longest": max(created)}))
"""


@pytest.fixture(scope="module")
def hanging() -> Iterator[Instance]:
    with Instance(policies=policies(reads=READS)) as instance, Silent(instance.work / "silent", USER):
        yield instance


def start(instance: Instance, *attempts: str, profile: str = "loose") -> Program:
    program = instance.spawn(*inside(ATTEMPTS, instance.work / "silent", *attempts), profile=profile)
    assert program.stdout is not None
    assert program.stdout.readline() == b"hangs\n"
    return program


def others_go_on(instance: Instance, seconds: float) -> float:
    """Starts sandboxes that write, one after the other, for so long; how long the slowest took."""
    slowest, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        assert (
            instance.run("sh", "-c", "for n in 1 2 3 4 5 6 7 8; do : > beside-$n; done", profile="loose").returncode
            == 0
        )
        slowest = max(slowest, time.monotonic() - began)
    return slowest


KINDS = {
    "create": "loose",
    "truncate": "loose",
    "unlink": "loose",
    "rename": "loose",
    "exec": "loose",
    "connect": "loose",
    "mapping": "loose",
    "read": "reads",
}


def test_only_the_thread_that_touches_it_waits(hanging: Instance) -> None:
    programs = {what: start(hanging, what, profile=under) for what, under in KINDS.items()}
    assert others_go_on(hanging, 4) < 8
    for what, program in programs.items():
        out, said = program.communicate(timeout=40)
        assert program.returncode == 0, (what, said)
        told = json.loads(out)
        result, seconds = told["results"][f"0:{what}"]
        assert (what, result) == (what, "EPERM")
        assert 8 < seconds < 25
        assert told["created"] > 50, f"{what}: its other thread stood still"
        assert told["longest"] < 8
        assert b"look-timeout" in said
    settles(hanging)
    refused = effects(hanging.journal(), rule="look-timeout")
    assert len({record["sandbox"] for record in refused}) == len(refused) == len(KINDS)
    assert all(record["decision"] == "deny" and "does not answer" in record["reason"] for record in refused)


def test_many_hang_in_many_sandboxes() -> None:
    """The daemon gains few threads, others go on, the sandboxes can be ended meanwhile, and the threads come back."""
    with Instance(policies=policies()) as instance:
        pid = daemon_pid(instance)
        assert instance.run("touch", "first", profile="loose").returncode == 0
        settles(instance)
        before = threads(pid)
        with Silent(instance.work / "silent", USER) as silent:
            programs = [start(instance, *["create", "unlink", "mapping", "rename"] * 4) for _ in range(5)]
            assert others_go_on(instance, 4) < 10
            # Per sandbox: its connection, one leader that was left behind, two of its lane.
            assert threads(pid) <= before + 5 * 4 + 4
            assert instance.ctl("status").returncode == 0
            for program in programs[:3]:
                (name,) = [info.subject.sandbox for info in instance.sandboxes() if info.pid in _children(program.pid)]
                assert instance.ctl("sandbox", "kill", name).returncode == 0
                assert program.wait(15) != 0
            os.kill(programs[3].pid, signal.SIGKILL)
            programs[4].communicate(timeout=60)
            settles(instance, 30)
            refused = effects(instance.journal(), rule="look-timeout")
            assert len(refused) >= 1
            # Nothing was forgotten: the one that was let run has been told of all its sixteen.
            assert others_go_on(instance, 1) < 8
            assert silent.asked
        within(20, lambda: threads(pid) <= before + 2, "the threads that waited to come back")
        assert instance.run("touch", "last", profile="loose").returncode == 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_started_in_it_waits_alone(hanging: Instance) -> None:
    """The plan for a directory that does not answer is waited for by its launcher only."""
    stuck = hanging.spawn("true", profile="loose", cwd=hanging.work / "silent")
    assert others_go_on(hanging, 2) < 8
    stuck.kill()
    stuck.wait(10)
    assert hanging.run("touch", "after", profile="loose").returncode == 0


def test_a_policy_is_applied_though_a_path_of_a_sandbox_does_not_answer() -> None:
    """Its rules cannot be worked out: it is ended, as all that cannot be supervised. The others follow the new set."""
    later = LOOSE + "protected: ['${cwd}/later/keep']\n"
    with Instance(policies=policies(loose=later)) as instance:
        far = instance.base / "far"
        far.mkdir()
        os.chown(far, USER, USER)
        code = "import sys; print('here', flush=True); sys.stdin.read()"
        stuck, fine = (instance.spawn(*inside(code), profile="loose", cwd=cwd) for cwd in (instance.work, far))
        for program in (stuck, fine):
            assert program.stdout is not None
            assert program.stdout.readline() == b"here\n"
        with Silent(instance.work / "later", USER):
            (instance.policy_dir / "gate.yaml").write_text(gate(gate_seconds=9))
            applying = threading.Thread(target=instance.ctl, args=("apply", "-f", instance.policy_dir))
            before = instance.status().policy_version
            applying.start()
            began = time.monotonic()
            while applying.is_alive():
                done = instance.run("touch", "meanwhile", profile="loose", cwd=far)
                # What waits at the very moment is told to try again.
                assert done.returncode == 0 or "policy-changed" in done.stderr, done
                assert time.monotonic() - began < 40
            assert instance.run("touch", "meanwhile", profile="loose", cwd=far).returncode == 0
            assert instance.status().policy_version != before
            assert stuck.wait(20) != 0
            assert fine.poll() is None
        ends = [record for record in instance.journal() if record["kind"] == "sandbox.end"]
        assert any("does not answer" in record["reason"] for record in ends)
        fine.communicate(timeout=20)
