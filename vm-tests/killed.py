"""The daemon or the gate is killed under load: nothing becomes possible, and afterwards all is as before."""

import json
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import installed
import pytest
from bounds import HANG
from installed import DAEMON, GATE, USER, WORK

MACHINE = {"product": True, "processors": 1, "seconds": 1500}

PROFILE = """kind: Profile
name: busy
description: changes in one directory without a question, any program, one port
envelope:
  read: [/]
  write: ["${cwd}", "${scratch}", /dev/null]
  execute: [/]
free:
  - {operations: [file.write, file.create, file.truncate, file.unlink, file.rename], on: "${cwd}/free/**"}
  - {operations: [process.exec], on: /**}
  - {operations: [net.connect], on: "tcp:127.0.0.1:8080"}
"""
AGENT = "kind: Agent\nname: default\ntier: Classic\nprofiles: [busy, default]\n"

# Writes without end. When told (by a file that it reads, which needs no grant), tries what a daemon would have to
# approve or what nobody may, each in a child of its own, and says what became of it within so many seconds: an errno,
# `done`, `gone` (another program runs), or `waits`.
LOAD = r"""
import ctypes, json, os, select, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def failing(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), "")

def listener():
    code = bytes([6, 0, 0, 0, 0, 0, 0xff, 0x7f])  # BPF_RET|BPF_K, SECCOMP_RET_ALLOW
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
    failing(libc.syscall(317, 1, 8, ctypes.byref(Program(1, code))))  # SECCOMP_SET_MODE_FILTER, NEW_LISTENER

def pinned():
    name = ctypes.create_string_buffer(b"/sys/fs/bpf/governed-mcpd/grants")
    attributes = ctypes.create_string_buffer(120)
    attributes[0:8] = ctypes.addressof(name).to_bytes(8, "little")
    failing(libc.syscall(321, 7, attributes, 120))  # BPF_OBJ_GET

ATTEMPTS = {
    "open": lambda: os.close(os.open("free/there", os.O_WRONLY)),
    "create": lambda: os.close(os.open("free/new", os.O_WRONLY | os.O_CREAT)),
    "unlink": lambda: os.unlink("free/doomed"),
    "connect": lambda: socket.create_connection(("127.0.0.1", 8080), 60).close(),
    "exec": lambda: os.execv("/bin/touch", ["touch", "free/executed"]),
    "listener": listener,
    "pinned": pinned,
    "mount": lambda: failing(libc.mount(b"none", b"free", b"tmpfs", 0, None)),
    "signal": lambda: os.kill(int(open("pid").read()), signal.SIGCONT),
}

def begin(name):
    readable, writable = os.pipe()
    if os.fork() == 0:
        try:
            ATTEMPTS[name]()
            said = "done"
        except OSError as error:
            said = str(error.errno)
        os.write(writable, said.encode())
        os._exit(0)
    os.close(writable)
    return readable

def outcome(readable, until):
    if not select.select([readable], [], [], max(0, until - time.monotonic()))[0]:
        return "waits"
    return os.read(readable, 100).decode() or "gone"

def work(number):
    count = 0
    while True:
        count += 1
        try:
            os.close(os.open(f"free/load-{number}-{count % 50}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        except OSError:
            time.sleep(0.05)

for number in range(2):
    threading.Thread(target=work, args=(number,), daemon=True).start()
while not os.path.exists("go"):
    time.sleep(0.1)
begun, until = {name: begin(name) for name in ATTEMPTS}, time.monotonic() + float(sys.argv[1])
print(json.dumps({name: outcome(readable, until) for name, readable in begun.items()}), flush=True)
while True:
    time.sleep(1)
"""


@pytest.fixture(scope="module", autouse=True)
def product():
    """The units run with the seal, and the profile is active. A killed daemon comes back only when it is started. Its
    sandboxes go on without it: with nothing but the seal, since systemd lets go of their listeners."""
    where = Path("/etc/systemd/system", f"{DAEMON}.d")
    where.mkdir(parents=True)
    (where / "manual.conf").write_text("[Service]\nRestart=no\n")
    # It would end them: a daemon that is not started again has failed for good.
    installed.run("systemctl", "mask", "--runtime", "governed-orphans.service")
    installed.run("systemctl", "daemon-reload")
    installed.start()
    assert installed.status()["seal"] == "lsm", installed.status()
    installed.set_up_policies(profile_busy=PROFILE, agent_default=AGENT)
    yield
    shutil.rmtree(where)
    installed.run("systemctl", "unmask", "--runtime", "governed-orphans.service")
    installed.run("systemctl", "daemon-reload")


@pytest.fixture
def port():
    """Something listens where the profile lets a sandbox connect; counts who came."""
    listening = socket.create_server(("127.0.0.1", 8080))
    came = []

    def accept():
        while True:
            try:
                came.append(listening.accept()[1])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield came
    listening.shutdown(socket.SHUT_RDWR)  # a thread that waits in accept keeps the port otherwise
    listening.close()


def fresh(*names):
    """The working directory, empty but for the load and these files."""
    installed.run("rm", "-rf", WORK)
    (WORK / "free").mkdir(parents=True)
    (WORK / "load.py").write_text(LOAD)
    for name in names:
        (WORK / "free" / name).write_text("as it was")
    installed.run("chown", "-R", f"{USER}:{USER}", WORK)


def attempted(output):
    """What the load says became of each attempt: the line among its output that is JSON."""

    def said():
        return [line for line in Path(output).read_text().splitlines() if line.startswith("{") and line.endswith("}")]

    return json.loads(installed.wait_until(said, "the attempts")[-1])


def kill_daemon():
    """kill -9, and no daemon afterwards."""
    os.kill(int(installed.shown(DAEMON, "MainPID")), signal.SIGKILL)
    installed.wait_until(lambda: installed.shown(DAEMON, "ActiveState") == "failed", "the daemon to be gone")


def test_what_is_attempted_works_while_the_daemon_lives(port):
    """Otherwise the next test could pass by refusing everything always."""
    fresh("there", "doomed")
    (WORK / "pid").write_text("1")
    sandbox = installed.launch("python3", "load.py", "300", profile="busy", output="/var/tmp/alive")
    try:
        (WORK / "go").touch()
        got = attempted("/var/tmp/alive")
        for name in ("open", "create", "unlink", "connect"):
            assert got[name] == "done", got
        assert (WORK / "free" / "executed").exists(), "what is executed says nothing itself"
        for name in ("listener", "pinned", "mount", "signal"):
            assert got[name] in {"1", "13", "38"}, got
        assert len(port) == 1
    finally:
        sandbox.terminate()
        sandbox.wait(HANG)


def test_nothing_becomes_possible_while_the_daemon_is_dead(port):
    fresh("there", "doomed")
    (WORK / "pid").write_text("1")
    sandbox = installed.launch("python3", "load.py", "15", profile="busy", output="/var/tmp/dead")
    try:
        installed.wait_until(lambda: len(list((WORK / "free").glob("load-*"))) > 20, "the load to run")
        kill_daemon()
        time.sleep(2)  # what was held and granted just before has happened now
        stands = {path: path.stat().st_mtime_ns for path in (WORK / "free").iterdir()}
        (WORK / "go").touch()
        got = attempted("/var/tmp/dead")
        print(got)
        assert "done" not in got.values(), got
        assert got["exec"] != "gone", got
        assert not (WORK / "free" / "executed").exists()
        assert {path: path.stat().st_mtime_ns for path in (WORK / "free").iterdir()} == stands
        assert port == []

        installed.run("systemctl", "start", DAEMON)
        installed.wait_until(installed.serving, "gate and daemon to serve again")
        assert installed.status()["seal"] == "lsm", "the pinned seal is taken up"
        if installed.sandboxes():  # taken over: then it goes on under the new daemon
            count = installed.status()["records"]
            installed.wait_until(lambda: installed.status()["records"] > count + 20, "records of the load")
        else:
            assert sandbox.wait(HANG) != 0
        fresh()
        done = installed.inside("sh", "-c", "echo new > free/file && cat free/file", profile="busy")
        assert done.stdout == "new\n", done.stderr
        assert installed.verified()["ok"]
    finally:
        sandbox.terminate()
        sandbox.wait(HANG)


def test_an_effect_that_waits_for_a_killed_gate_is_refused():
    fresh()
    begun = installed.status()["records"]
    gate = int(installed.shown(GATE, "MainPID"))
    os.kill(gate, signal.SIGSTOP)
    sandbox = installed.launch("sh", "-c", "echo asked > asked; echo ended", profile="busy", output="/var/tmp/asked")
    try:
        installed.wait_until(lambda: installed.status().get("pending"), "the effect to wait for the gate")
        os.kill(gate, signal.SIGKILL)
        assert sandbox.wait(HANG) == 0
        assert "ended" in Path("/var/tmp/asked").read_text()
        assert not (WORK / "asked").exists()
        assert installed.refused("/asked", begun)
    finally:
        sandbox.terminate()
        sandbox.wait(HANG)
    installed.wait_until(installed.serving, "the gate to be back")

    # A gate that was started again is given the policies with the first effect; on a slow machine that takes longer
    # than a verdict may, and that effect is refused.
    def works():
        done = installed.inside("sh", "-c", "echo again > again; cat again", profile="busy")
        return done.stdout == "again\n"

    installed.wait_until(works, "an effect to be allowed again")
    assert installed.verified()["ok"]
