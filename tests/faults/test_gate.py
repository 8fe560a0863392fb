"""The gate down, slow, started again, or wrong: what is pending is refused with that reason, and nothing waits on."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.common import LOOSE, Record, count, effects, gate, inside, policies, settles
from tests.support.instance import Instance, Program
from tests.support.users import ADMIN

# Opens new files in a loop and says after each second how it went: one JSON object per line, then the last one.
LOAD = """
import collections, errno, json, os, sys, threading, time
threads, seconds = int(sys.argv[1]), float(sys.argv[2])
seen, longest = collections.Counter(), [0.0] * threads
end = time.monotonic() + seconds

def run(me):
    index = 0
    while time.monotonic() < end:
        index += 1
        began = time.monotonic()
        try:
            os.close(os.open(f"load-{os.getpid()}-{me}-{index}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            seen["OK"] += 1
        except OSError as error:
            seen[errno.errorcode[error.errno]] += 1
            time.sleep(0.001)
        longest[me] = max(longest[me], time.monotonic() - began)

workers = [threading.Thread(target=run, args=(me,)) for me in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
print(json.dumps({"seen": seen, "longest": max(longest)}))
"""


def touch(instance: Instance, name: str, profile: str = "loose") -> tuple[int, str]:
    """Creates a file in a sandbox: (exit code, stderr)."""
    done = instance.run("touch", name, profile=profile)
    return done.returncode, done.stderr


def answers(instance: Instance, seconds: float = 10) -> None:
    """Waits until the daemon approves again."""
    names = iter(range(1_000_000))
    instance.wait_until(
        lambda: True if touch(instance, f"again-{next(names)}")[0] == 0 else None, "an approval", seconds
    )


def the_last(instance: Instance, name: str) -> Record:
    """The record of what was tried with `name`."""
    return effects(instance.journal(), object=f"{instance.work}/{name}")[-1]


def test_killed_and_started_again_under_load() -> None:
    with Instance(policies=policies(loose=LOOSE.replace("ceiling", "durable: []\nceiling"))) as instance:
        seconds = 12.0
        programs = [instance.spawn(*inside(LOAD, 6, seconds), profile="loose", quiet=True) for _ in range(4)]
        dice = random.Random(20_260_416)
        end = time.monotonic() + seconds - 3
        kills = 0
        while time.monotonic() < end:
            time.sleep(dice.uniform(0.2, 1.2))
            instance.kill_gate()
            kills += 1
            time.sleep(dice.uniform(0, 0.3))
            instance.restart_gate()
        reports = []
        for program in programs:
            out, err = program.communicate(timeout=60)
            assert program.returncode == 0, err
            reports.append(json.loads(out))
        answers(instance)
        settles(instance)
        records = instance.journal()
        assert kills >= 2
        assert {name for report in reports for name in report["seen"]} == {"OK", "EPERM"}
        assert max(report["longest"] for report in reports) < 10
        refused = effects(records, decision="deny")
        assert {record["rule"] for record in refused} == {"gate-unavailable"}
        assert all(record["errno"] == "EPERM" and record["layer"] == "gate" for record in refused)
        assert count(records, operation="file.create", decision="deny") == sum(
            report["seen"]["EPERM"] for report in reports
        )
        assert instance.status().pending == 0


def test_down_then_up_without_a_new_daemon() -> None:
    with Instance(policies=policies()) as instance:
        assert touch(instance, "before")[0] == 0
        instance.kill_gate()
        code, said = touch(instance, "meanwhile")
        assert code == 1
        assert "gate-unavailable" in said
        assert "Operation not permitted" in said
        assert not (instance.work / "meanwhile").exists()
        assert the_last(instance, "meanwhile")["rule"] == "gate-unavailable"
        instance.start_gate()
        began = time.monotonic()
        answers(instance)
        assert time.monotonic() - began < 10  # with the start of the gate, on a loaded machine
        assert (instance.work / "again-0").exists() or len(list(instance.work.glob("again-*"))) == 1


def test_a_gate_that_has_the_directorys_policies_is_given_the_applied_ones(tmp_path: Path) -> None:
    with Instance(policies=policies()) as instance:
        before = instance.status().policy_version
        other = tmp_path / "applied"
        other.mkdir()
        for path in instance.policy_dir.iterdir():
            (other / path.name).write_bytes(path.read_bytes())
        (other / "gate.yaml").write_text(gate(gate_seconds=7))
        done = instance.ctl("apply", "-f", other, user=0)
        assert done.returncode == 0, done
        applied = instance.status().policy_version
        assert applied != before
        assert touch(instance, "applied")[0] == 0
        instance.kill_gate()
        instance.start_gate()
        answers(instance)
        created = effects(instance.journal(), operation="file.create", decision="allow")
        assert created[-1]["policy_version"] == applied
        assert {record["rule"] for record in effects(instance.journal(), decision="deny")} <= {"gate-unavailable"}
        # Another daemon takes up the applied set as well, not the directory's.
        instance.stop_daemon()
        instance.start_daemon()
        assert instance.status().policy_version == applied
        answers(instance)


def test_stopped_gate_is_a_timeout_and_holds_up_nobody() -> None:
    with Instance(policies=policies(gate(gate_seconds=2))) as instance:
        assert touch(instance, "before")[0] == 0
        assert instance.gate is not None
        instance.gate.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            slow = instance.spawn("touch", "slow", profile="loose")
            # What the daemon decides by itself goes on, in the same time.
            done = instance.run("sh", "-c", ": > $TMPDIR/free && : > /etc/refused", profile="loose")
            assert "envelope" in done.stderr
            _, said = slow.communicate(timeout=30)
            took = time.monotonic() - began
        finally:
            instance.gate.send_signal(signal.SIGCONT)
        assert slow.returncode == 1
        assert b"gate-timeout" in said
        assert 1.5 < took < 15
        assert the_last(instance, "slow")["rule"] == "gate-timeout"
        answers(instance)


@contextmanager
def fake(instance: Instance, mode: str) -> Iterator[Program]:
    """Puts a fake gate where the instance's was."""
    if instance.gate is not None:
        instance.kill_gate()
    link = instance.runtime_dir / "gate.sock"
    if link.is_symlink() or link.exists():
        link.unlink()
    program = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fake_gate.py")), str(link), mode],
        stdout=subprocess.PIPE,
        env={**instance.environment(0), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == b"listening\n"
        yield program
    finally:
        program.kill()
        program.wait()
        assert program.stdout is not None
        program.stdout.close()
        link.unlink(missing_ok=True)


WRONG = {
    "garbage": {"gate-failed", "gate-wrong-answer"},
    "empty": {"gate-wrong-answer"},
    "huge": {"gate-failed"},
    "other-policy": {"gate-wrong-policy"},
    "always-other": {"gate-wrong-policy"},
    "no-decision": {"gate-wrong-answer"},
    "decision-of-the-future": {"gate-wrong-answer"},
    "no-rule": {"gate-wrong-answer"},
    "probability": {"gate-wrong-answer"},
    "lease-uses": {"gate-wrong-answer"},
    "lease-seconds": {"gate-wrong-answer"},
    "lease-operation": {"gate-wrong-answer"},
    "lease-pattern": {"gate-wrong-answer"},
    "lease-on-refusal": {"gate-wrong-answer"},
    "error": {"gate-failed"},
    "late": {"gate-timeout"},
}


@pytest.fixture(scope="module")
def fooled() -> Iterator[Instance]:
    with Instance(policies=policies(gate(gate_seconds=2))) as instance:
        yield instance


@pytest.mark.parametrize("mode", sorted(WRONG))
def test_a_wrong_answer_is_a_refusal(fooled: Instance, mode: str) -> None:
    with fake(fooled, mode):
        fooled.wait_for_gate()
        code, said = touch(fooled, f"wrong-{mode}")
    assert code == 1
    record = the_last(fooled, f"wrong-{mode}")
    assert (record["decision"], record["errno"]) == ("deny", "EPERM")
    assert record["rule"] in WRONG[mode]
    assert record["reason"]
    assert record["rule"] in said
    assert not (fooled.work / f"wrong-{mode}").exists()


def test_the_same_fake_with_a_right_answer_is_believed(fooled: Instance) -> None:
    with fake(fooled, "right"):
        fooled.wait_for_gate()
        assert touch(fooled, "right")[0] == 0


@pytest.mark.parametrize(("mode", "questions"), [("wide-lease", 3), ("other-lease", 3)])
def test_leases_beyond_the_ceiling_or_of_another_policy_cover_nothing(
    fooled: Instance, mode: str, questions: int
) -> None:
    """A lease on everything lies outside the ceiling, which is ${cwd}: it is not used, not even in part."""
    with fake(fooled, mode) as program:
        fooled.wait_for_gate()
        names = [f"{mode}-{index}" for index in range(questions)]
        assert fooled.run("sh", "-c", "".join(f": > {name};" for name in names), profile="loose").returncode == 0
        assert program.stdout is not None
        os.set_blocking(program.stdout.fileno(), False)
        asked = (program.stdout.read() or b"").splitlines()
    assert len([line for line in asked if line.startswith(b"decide")]) == questions


def test_applying_policy_while_the_gate_is_down_changes_nothing(fooled: Instance) -> None:
    if fooled.gate is not None:
        fooled.kill_gate()
    before = fooled.status().policy_version
    done = fooled.ctl("apply", "-f", fooled.policy_dir, "--json", user=ADMIN)
    assert done.returncode != 0
    assert json.loads(done.stderr)["error"]["code"].startswith("gate-")
    assert fooled.status().policy_version == before


def test_many_threads_wait_for_a_gate_that_dies() -> None:
    """All of the bound's pauses are pending when it is killed: every one is answered."""
    with Instance(policies=policies()) as instance:
        assert instance.gate is not None
        instance.gate.send_signal(signal.SIGSTOP)
        programs = [instance.spawn(*inside(LOAD, 40, 1.0), profile="loose", quiet=True) for _ in range(3)]
        instance.wait_until(lambda: True if instance.status().pending >= 120 else None, "all to wait", 30)
        killer = threading.Timer(0.2, instance.kill_gate)
        killer.start()
        reports = [json.loads(program.communicate(timeout=40)[0]) for program in programs]
        killer.join()
        assert {name for report in reports for name in report["seen"]} == {"EPERM"}
        assert instance.status().pending == 0
