"""The daemon killed at any moment, or told to stop: the journal is whole, and no sandbox gains anything by it."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from governed_mcpd.journal.read import entries
from tests.faults.common import cgroups, count, effects, gate, inside, policies, scratches, settles, verified, within
from tests.support.instance import Instance, Program
from tests.support.leftovers import marked

# Tries what is held, for ever, and leaves its findings in a file that it opened in time (writing to it is not held).
# Once the daemon is gone it also tries to be its own supervisor: seccomp(SECCOMP_SET_MODE_FILTER, NEW_LISTENER) with a
# filter that holds or allows everything, and prctl.
ORPHAN = """
import collections, ctypes, errno, json, os, struct, sys, threading, time
log = os.open("found-" + sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
sys.stdout.write("ready\\n")
sys.stdout.flush()
libc = ctypes.CDLL(None, use_errno=True)

class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

def listener(action, flags):
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, action))
    program = Program(1, ctypes.addressof(code))
    ctypes.set_errno(0)
    number = libc.syscall(317, 1, flags, ctypes.byref(program))
    return errno.errorcode.get(ctypes.get_errno(), "OK") if number < 0 else "OK"

def attempt(call):
    try:
        call()
        return "OK"
    except OSError as error:
        return errno.errorcode[error.errno]

index = 0
while True:
    index += 1
    found = {
        "create": attempt(lambda: os.close(os.open(f"made-{sys.argv[1]}-{index}", os.O_WRONLY | os.O_CREAT, 0o600))),
        "exec": "untried",
        "listener": "untried",
        "filter": "untried",
    }
    if found["create"] not in ("OK", "EPERM"):
        found["exec"] = attempt(lambda: os.execv("/bin/true", ["true"]))
        found["unlink"] = attempt(lambda: os.unlink("found-" + sys.argv[1]))
        found["kill"] = attempt(lambda: os.kill(1, 0))
        found["listener"] = listener(0x7FC00000, 8)
        found["prctl"] = "OK" if libc.prctl(22, 2, None) == 0 else "refused"
    os.pwrite(log, json.dumps(found).encode().ljust(256), 0)
    time.sleep(0.002)
"""


def findings(instance: Instance, number: int) -> dict[str, str]:
    text = (instance.work / f"found-{number}").read_text().strip()
    return dict(json.loads(text)) if text else {}


def waits_for_ready(program: Program) -> None:
    assert program.stdout is not None
    line = program.stdout.readline()
    assert line == b"ready\n", (line, program.stderr.read() if program.stderr and not line else "")


def test_killed_under_load_again_and_again() -> None:
    dice = random.Random(20_260_606)
    with Instance(policies=policies()) as instance:
        for turn in range(4):
            numbers = [turn * 10 + index for index in range(3)]
            programs = [instance.spawn(*inside(ORPHAN, number), profile="loose", quiet=True) for number in numbers]
            for program in programs:
                waits_for_ready(program)
            time.sleep(dice.uniform(0.05, 0.5))
            instance.kill_daemon()
            verified(instance)

            for number, program in zip(numbers, programs, strict=True):
                within(
                    10,
                    lambda number=number: findings(instance, number).get("prctl") == "refused",
                    "the orphan to try",
                )
                assert program.poll() is None
                seen = findings(instance, number)
                # Without a supervisor the kernel answers ENOSYS to what is held: seccomp_unotify(2).
                assert seen["create"] == seen["exec"] == seen["unlink"] == seen["kill"] == "ENOSYS", seen
                assert seen["listener"] in ("EPERM", "EBUSY", "ENOSYS"), seen
            made = sorted(os.listdir(instance.work))
            time.sleep(0.1)
            assert sorted(os.listdir(instance.work)) == made
            pids = [int(name) for path in cgroups(instance) for name in (path / "cgroup.procs").read_text().split()]
            assert len(pids) == len(numbers)

            instance.start_daemon()
            for program in programs:
                assert program.wait(10) != 0
            assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
            settles(instance)
            done = instance.run("touch", f"again-{turn}", profile="loose")
            assert done.returncode == 0, done
        verified(instance)
        records = instance.journal()
        assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
        assert sum(record["kind"] == "daemon.start" for record in records) == 5
        # What a file says was made was approved before: no effect without a record.
        recorded = {record["object"] for record in effects(records, operation="file.create", decision="allow")}
        assert {str(path) for path in instance.work.glob("made-*")} <= recorded


def test_killed_while_a_call_waits_for_a_person() -> None:
    with Instance(policies=policies(gate(ask=0, deny=1000))) as instance:
        program = instance.spawn("touch", "waiting", profile="asked")
        instance.wait_until(lambda: True if instance.status().waiting == 1 else None, "the question")
        instance.kill_daemon()
        out, err = program.communicate(timeout=10)
        assert program.returncode == 1
        assert b"Function not implemented" in err, (out, err)
        assert not (instance.work / "waiting").exists()
        instance.start_daemon()
        assert instance.status().waiting == 0
        settles(instance)
        verified(instance)


def test_killed_while_sandboxes_begin() -> None:
    """At each step of adoption: whoever was half way in is out, or dead, after the next start."""
    dice = random.Random(7)
    with Instance(policies=policies()) as instance:
        for _ in range(4):
            programs = [instance.spawn("sleep", "1000", profile="loose", quiet=True) for _ in range(6)]
            time.sleep(dice.uniform(0.02, 0.4))
            instance.kill_daemon()
            verified(instance)
            instance.start_daemon()
            for program in programs:
                assert program.wait(15) != 0
            settles(instance)
            assert [pid for pid in marked(str(instance.base)) if b"sleep" in _command(pid)] == []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_told_to_stop_it_ends_sandboxes_in_order() -> None:
    with Instance(policies=policies()) as instance:
        programs = [instance.spawn(*inside(ORPHAN, number), profile="loose") for number in range(3)]
        for program in programs:
            waits_for_ready(program)
        pids = [int(name) for path in cgroups(instance) for name in (path / "cgroup.procs").read_text().split()]
        # A refusal that was only counted so far: its count must not get lost.
        asked = instance.spawn("sh", "-c", "for n in 1 2 3 4 5; do true > /etc/x; done; sleep 1000", profile="loose")
        instance.wait_for_record(lambda record: record.get("object") == "/etc/x")
        time.sleep(0.3)
        began = time.monotonic()
        instance.stop_daemon()
        assert time.monotonic() - began < 15
        for program in (*programs, asked):
            assert program.wait(10) != 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert cgroups(instance) == []
        assert scratches(instance) == []
        assert not (instance.runtime_dir / "control.sock").exists()
        records = [entry.record for entry in entries(str(instance.state_dir))]
        kinds = [record["kind"] for record in records]
        assert kinds[-1] == "daemon.stop"
        assert kinds.count("sandbox.end") == kinds.count("sandbox.start") == 4
        ends = [record for record in records if record["kind"] == "sandbox.end"]
        assert {record["reason"] for record in ends} == {"the daemon stopped"}
        assert count(records, object="/etc/x", decision="deny") == 5
        verified(instance)
        instance.start_daemon()
        assert instance.run("touch", "after", profile="loose").returncode == 0


def test_a_second_daemon_beside_it_is_refused_and_harms_nothing() -> None:
    with Instance(policies=policies()) as instance:
        program = instance.spawn("sleep", "1000", profile="loose")
        instance.wait_until(lambda: instance.sandboxes() or None, "the sandbox")
        assert instance.daemon is not None
        other = subprocess.run(
            [*map(os.fsencode, instance.daemon.args)],  # type: ignore[union-attr]
            capture_output=True,
            text=True,
            env=instance.environment(0),
            timeout=30,
            check=False,
        )
        assert other.returncode != 0
        assert "governed-mcpd:" in other.stderr
        assert program.poll() is None
        assert instance.status().sandboxes == 1
        assert instance.run("touch", "still", profile="loose").returncode == 0


@contextlib.contextmanager
def notified(instance: Instance, watchdog_us: int) -> Iterator[socket.socket]:
    """Starts the daemon anew with a socket for sd_notify(3)."""
    path = str(instance.base / "notify")
    instance.stop_daemon()
    environment = instance.environment(0, {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": str(watchdog_us)})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, pytest.MonkeyPatch.context() as patch:
        listener.bind(path)
        listener.settimeout(20)
        patch.setattr(instance, "environment", lambda *_: environment)
        instance.start_daemon()
        patch.undo()
        yield listener


def test_what_systemd_is_told() -> None:
    """READY once it serves, WATCHDOG from the loop while it runs, STOPPING when it ends."""
    with Instance(policies=policies()) as instance, notified(instance, 600_000) as listener:
        ready = listener.recv(4096).decode().splitlines()
        assert "READY=1" in ready
        assert any(line.startswith("STATUS=") and "seal" in line for line in ready)
        assert [listener.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        instance.stop_daemon()
        last = listener.recv(4096)
        while last == b"WATCHDOG=1":
            last = listener.recv(4096)
        assert last == b"STOPPING=1"


def test_a_daemon_that_stands_still_feeds_no_watchdog() -> None:
    with Instance(policies=policies()) as instance, notified(instance, 400_000) as listener:
        assert b"READY=1" in listener.recv(4096)
        assert listener.recv(4096) == b"WATCHDOG=1"
        assert instance.daemon is not None
        instance.daemon.send_signal(signal.SIGSTOP)
        try:
            listener.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                while listener.recv(4096):
                    pass
            listener.settimeout(1)
            with pytest.raises(TimeoutError):
                listener.recv(4096)
        finally:
            instance.daemon.send_signal(signal.SIGCONT)
        listener.settimeout(20)
        assert listener.recv(4096) == b"WATCHDOG=1"
