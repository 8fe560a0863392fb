"""The journal's disk full, and a sandbox that would fill it: no effect without a record, and no flood of records."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.faults.common import LOOSE, count, effects, inside, policies, settles, verified
from tests.support.instance import Instance, Program
from tests.support.users import ADMIN, USER

SMALL = LOOSE.replace("name: loose", "name: small") + "limits: {journal_mib: 1}\n"

# Creates files until one is refused, says so; once told, until one is allowed, says so; and again.
TURNS = """
import errno, os, sys, time
index = 0
for wanted in ("EPERM", "OK") * 2:
    found = ""
    while found != wanted:
        index += 1
        try:
            os.close(os.open(f"turn-{index}", os.O_WRONLY | os.O_CREAT, 0o600))
            found = "OK"
        except OSError as error:
            found = errno.errorcode[error.errno]
            time.sleep(0.005)
    print(wanted, flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def on_a_small_disk(kib: int) -> Iterator[Instance]:
    """An instance whose state directory is a tmpfs of that size."""
    instance = Instance(policies=policies())
    instance.state_dir.mkdir(mode=0o700)
    options = f"size={kib}k,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "state", instance.state_dir], check=True)
    with instance:
        yield instance


def fill(instance: Instance) -> None:
    with open(instance.state_dir / "filler", "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def line(program: Program) -> bytes:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def go_on(program: Program) -> None:
    assert program.stdin is not None
    program.stdin.write(b"\n")
    program.stdin.flush()


def test_a_full_disk_approves_nothing_until_there_is_room() -> None:
    with on_a_small_disk(2048) as instance:
        program = instance.spawn(*inside(TURNS), profile="loose")
        instance.wait_until(lambda: True if (instance.work / "turn-3").exists() else None, "it to work")
        for turn in range(2):
            fill(instance)
            assert line(program) == b"EPERM"
            made = sorted(os.listdir(instance.work))
            assert instance.status().journal != "ok"
            done = instance.run("touch", "meanwhile", profile="loose")  # nor does another sandbox begin
            assert done.returncode in (125, 126)  # its start can still be recorded, or not even that
            assert "journal" in done.stderr
            version = instance.status().policy_version  # nor is another policy taken up
            (instance.policy_dir / "another.yaml").write_text(SMALL.replace("name: small", "name: another"))
            done = instance.ctl("apply", "-f", instance.policy_dir)
            assert done.returncode == 1, done
            assert "space" in done.stderr or "journal" in done.stderr
            assert instance.status().policy_version == version
            assert not (instance.state_dir / "policies" / "active").exists()  # the directory still counts
            assert sorted(os.listdir(instance.work)) == made
            (instance.state_dir / "filler").unlink()
            instance.wait_until(lambda: True if instance.status().journal == "ok" else None, "the journal", 20)
            go_on(program)
            assert line(program) == b"OK"
            if turn == 0:
                go_on(program)
        go_on(program)
        _, said = program.communicate(timeout=20)
        assert program.returncode == 0
        assert b"journal-failed" in said
        settles(instance)
        verified(instance)
        records = instance.journal()
        assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
        recovered = [record for record in records if record["kind"] == "journal.recovered"]
        assert len(recovered) >= 2
        assert all(record["reason"] for record in recovered)
        # What exists was approved on record, all of it.
        approved = {record["object"] for record in effects(records, operation="file.create", decision="allow")}
        assert {str(path) for path in instance.work.glob("turn-*")} <= approved
        assert instance.run("touch", "after", profile="loose").returncode == 0


def test_killed_with_a_full_disk_it_starts_again_when_there_is_room() -> None:
    with on_a_small_disk(1024) as instance:
        program = instance.spawn(*inside(TURNS), profile="loose", quiet=True)
        fill(instance)
        assert line(program) == b"EPERM"
        instance.kill_daemon()
        verified(instance)
        (instance.state_dir / "filler").unlink()
        instance.start_daemon()
        assert program.wait(10) != 0
        verified(instance)
        assert instance.run("touch", "after", profile="loose").returncode == 0


# Refusals that differ, as many as it can, with its progress in a file that is open already.
FLOOD = """
import os, sys
log = os.open("progress", os.O_WRONLY | os.O_CREAT, 0o644)
different, most = sys.argv[1] == "different", int(sys.argv[2])
for index in range(most):
    try:
        os.open(f"/etc/flood-{index if different else 0}", os.O_WRONLY | os.O_CREAT)
        os._exit(3)
    except PermissionError:
        os.pwrite(log, str(index + 1).encode(), 0)
"""


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance(policies=policies(small=SMALL)) as it:
        yield it


def progress(instance: Instance) -> int:
    path = instance.work / "progress"
    return int(path.read_text() or 0) if path.exists() else 0


def state(instance: Instance) -> str | None:
    found = instance.sandboxes()
    return found[0].state if found else None


def frozen(instance: Instance) -> str:
    instance.wait_until(lambda: True if state(instance) == "frozen" else None, "it to be frozen", 60)
    (info,) = instance.sandboxes()
    return info.subject.sandbox


def test_a_flood_of_refusals_freezes_its_sandbox_until_it_is_thawed_or_killed(instance: Instance) -> None:
    (instance.work / "progress").unlink(missing_ok=True)
    flood = instance.spawn(*inside(FLOOD, "different", 1_000_000), profile="small")
    name = frozen(instance)
    time.sleep(0.3)
    so_far = progress(instance)
    assert 500 < so_far < 20_000
    time.sleep(0.5)
    assert progress(instance) == so_far, "it goes on though it is frozen"
    assert flood.poll() is None
    # Others work on, and what is frozen is said everywhere.
    assert instance.run("touch", "beside", profile="small").returncode == 0
    assert "frozen" in instance.ctl("sandbox", "list").stdout
    record = instance.wait_for_record(lambda record: record["kind"] == "sandbox.frozen")
    assert record["sandbox"] == name
    assert "1 MiB" in record["reason"]
    spent = sum(len(json.dumps(one)) for one in instance.journal(name))
    assert spent < 2 << 20

    assert instance.ctl("sandbox", "thaw", name, user=USER).returncode == 4
    assert state(instance) == "frozen"
    assert instance.ctl("sandbox", "thaw", name, user=ADMIN).returncode == 0
    instance.wait_until(lambda: True if progress(instance) > so_far else None, "it to go on")
    assert frozen(instance) == name  # the second budget is used up as well
    assert progress(instance) > so_far + 500
    assert instance.ctl("sandbox", "thaw", "no-such", user=ADMIN).returncode == 1

    assert instance.ctl("sandbox", "kill", name, user=ADMIN).returncode == 0
    _, said = flood.communicate(timeout=20)
    assert flood.returncode != 0
    assert b"frozen" in said
    assert len(said) < 50_000, "the terminal is flooded instead"
    settles(instance)
    kinds = [one["kind"] for one in instance.journal(name)]
    assert kinds.count("sandbox.frozen") == 2
    assert kinds.count("sandbox.thawed") == 1
    assert kinds[-1] == "sandbox.end"
    verified(instance)


def test_a_frozen_sandbox_ends_with_its_launcher(instance: Instance) -> None:
    flood = instance.spawn(*inside(FLOOD, "different", 1_000_000), profile="small", quiet=True)
    frozen(instance)
    flood.kill()
    flood.wait(10)
    settles(instance)


def test_identical_refusals_are_counted_and_freeze_nothing(instance: Instance) -> None:
    (instance.work / "progress").unlink(missing_ok=True)
    before = len(instance.journal())
    done = instance.run(*inside(FLOOD, "same", 20_000), profile="small", timeout=120)
    assert done.returncode == 0, done
    assert progress(instance) == 20_000
    settles(instance)
    records = instance.journal()[before:]
    assert count(records, object="/etc/flood-0", decision="deny") == 20_000
    assert len(effects(records, object="/etc/flood-0")) < 20
    assert len(records) < 100
    assert done.stderr.count("\n") < 200
