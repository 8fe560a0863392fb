"""Files whose digest never comes: they keep their own sandbox waiting, and neither another user nor another sandbox."""

import json
import os
import time
from collections.abc import Iterator

import pytest

from tests.faults.common import daemon_pid, effects, inside, policies, profile, settles, threads, within
from tests.faults.fuse import Silent
from tests.support.instance import Instance, Program
from tests.support.users import OTHER, USER

FREE = "{operations: [file.write, file.create], on: '${cwd}/**'}"
DURABLE = profile("durable", free=FREE) + "durable: [file.write]\n"
ATTEMPTS = 5

# Opens a file that never gives its content for writing, in five threads at once: how each went and how long it took.
HANGS = """
import errno, json, os, sys, threading, time
results = []
def attempt():
    began = time.monotonic()
    try:
        os.open(sys.argv[1], os.O_WRONLY)
        result = "OK"
    except OSError as error:
        result = errno.errorcode[error.errno]
    results.append((result, time.monotonic() - began))
workers = [threading.Thread(target=attempt) for _ in range(int(sys.argv[2]))]
[worker.start() for worker in workers]
print("hangs", flush=True)
[worker.join() for worker in workers]
print(json.dumps(results))
"""
WRITES = "for n in 1 2 3 4; do echo $n >> durable; done"


@pytest.fixture
def instance() -> Iterator[Instance]:
    with Instance(policies=policies(durable=DURABLE)) as made:
        for user in (USER, OTHER):
            path = made.base / f"of-{user}"
            path.mkdir()
            (path / "durable").write_text("before\n")
            for each in (path, path / "durable"):
                os.chown(each, user, user)
        yield made


def _hangs(instance: Instance, silent: Silent) -> Program:
    program = instance.spawn(*inside(HANGS, silent.point / "answers", ATTEMPTS), profile="durable")
    assert program.stdout is not None
    assert program.stdout.readline() == b"hangs\n"
    return program


def _writes(instance: Instance, user: int) -> float:
    """How long a sandbox of `user` takes for its durable writes."""
    began = time.monotonic()
    done = instance.run("sh", "-c", WRITES, user=user, profile="durable", cwd=instance.base / f"of-{user}")
    assert done.returncode == 0, done
    return time.monotonic() - began


def test_a_file_that_hangs_delays_its_own_sandbox_only(instance: Instance) -> None:
    with Silent(instance.work / "silent", USER, statfs=True) as silent:
        program = _hangs(instance, silent)
        began = time.monotonic()
        taken = [_writes(instance, user) for user in (OTHER, USER, OTHER, USER)]
        assert time.monotonic() - began < 9, taken  # before the deadline of what hangs
        out, said = program.communicate(timeout=40)
        assert program.returncode == 0, said
        results = json.loads(out)
        assert [result for result, _ in results] == ["EPERM"] * ATTEMPTS
        assert all(8 < seconds < 20 for _, seconds in results), results
        settles(instance)
        reasons = {record["reason"] for record in effects(instance.journal(), rule="digest-unavailable")}
        assert reasons, said
        assert all("no digest within 10 s" in reason for reason in reasons)
        assert all("does not answer" in reason or "every lane" in reason for reason in reasons)
    lines = (instance.base / f"of-{OTHER}" / "durable").read_text().splitlines()
    assert lines == ["before", *"1234", *"1234"]


def test_many_sandboxes_that_hang_cost_few_threads_and_come_back(instance: Instance) -> None:
    """All lanes of one user wait; another user writes; when the file system is gone, so are the threads."""
    pid = daemon_pid(instance)
    assert _writes(instance, USER) < 5
    settles(instance)
    before = threads(pid)
    with Silent(instance.work / "silent", USER, statfs=True) as silent:
        programs = [_hangs(instance, silent) for _ in range(14)]
        assert _writes(instance, OTHER) < 8
        # One connection per sandbox, sixteen lanes of the user, a few for the other.
        assert threads(pid) <= before + 14 + 16 + 8
        silent.release()
        for program in programs:
            program.communicate(timeout=40)
        assert _writes(instance, USER) < 8
    settles(instance)
    within(20, lambda: threads(pid) <= before + 8, "the threads that waited to come back")
