"""The whole product on a kernel that seals: gate, daemon and sandboxes of the checkout, as in tests/."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bounds import HANG

from tests.support.instance import PROGRAMS, Instance
from tests.support.users import USER

MACHINE = {"python": "checkout", "seconds": 900}

PROFILE = """
kind: Profile
name: worker
envelope: {read: [/], write: ["${cwd}", /dev/null, /dev/tty], execute: [/]}
protected: ["${cwd}/secrets", "${cwd}/token", "${cwd}/forbids"]
free:
  - {operations: [process.exec], on: /**}
  - operations: [file.write, file.create, file.truncate, file.unlink, file.rmdir, file.mkdir, file.rename, file.link,
                 file.symlink, file.mknod, file.chmod, file.chown, file.xattr, file.times, net.connect, net.bind,
                 net.listen]
    on: "${cwd}/**"
ceiling:
  - {operations: [file.write], on: "${cwd}/**", uses: 100000, seconds: 600}
"""
PAUSED = PROFILE.replace("name: worker", "name: paused\nreads: pause").replace(
    "  - {operations: [process.exec], on: /**}", "  - {operations: [process.exec, file.read], on: /**}"
)
AGENT = "{kind: Agent, name: default, tier: Classic, profiles: [worker, paused]}\n"
PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    policies = {"profile-worker.yaml": PROFILE, "profile-paused.yaml": PAUSED, "agent-default.yaml": AGENT}
    with Instance(policies=policies, seal="required") as made:
        (made.work / "secrets").mkdir()
        (made.work / "secrets" / "key").write_text("secret")
        (made.work / "token").write_text("secret")
        (made.work / "plain").write_text("plain")
        yield made


def events(instance: Instance) -> list[dict[str, Any]]:
    return [record for record in instance.journal() if record["kind"] == "seal.event"]


def works(instance: Instance, program: str, profile: str = "worker") -> str:
    """The output of a shell program that has to do its work, without an event."""
    before = len(events(instance))
    done = instance.run("/bin/sh", "-e", "-c", program, profile=profile, timeout=HANG)
    assert done.returncode == 0, (done.stdout, done.stderr, events(instance)[before:])
    assert events(instance)[before:] == []
    return done.stdout


def test_status_and_doctor_have_it_refuse_something(instance: Instance) -> None:
    shown = instance.ctl("status").stdout
    assert "writing a file without a grant was refused; an event came of it; writing it with one worked" in shown
    report = json.loads(instance.ctl("doctor", "--json").stdout)
    found = {feature["feature"]: feature for feature in report["features"]}
    for name in ("bpf-lsm", "seal-refuses", "seal-tells", "seal-grants", "seal-protects"):
        assert (found[name]["works"], found[name]["required"]) == (True, True)
    assert events(instance) == [], "a trial is nobody's attempt"


@pytest.mark.parametrize("profile", ["worker", "paused"])
def test_every_operation_that_is_granted_works(instance: Instance, profile: str) -> None:
    program = f"""
    echo one > {profile}-file; echo two >> {profile}-file; cat {profile}-file
    truncate -s 3 {profile}-file; chmod 640 {profile}-file; touch {profile}-file
    mv {profile}-file {profile}-moved; ln {profile}-moved {profile}-second; ln -s {profile}-moved {profile}-third
    mkdir {profile}-d; rmdir {profile}-d; mkfifo {profile}-fifo; rm {profile}-fifo {profile}-second {profile}-third
    cp {profile}-moved {profile}-copied; echo text > $TMPDIR/x; cat $TMPDIR/x; rm $TMPDIR/x
    echo done 2> /dev/null
    """
    assert works(instance, program, profile) == "one\ntwo\ntext\ndone\n"


def test_programs_and_scripts_start_with_what_was_judged(instance: Instance) -> None:
    shown = "import sys; print(open('/proc/self/cmdline').read().split(chr(0))[:-1])"
    for name, content in (("script", f"#!/usr/bin/python3  -I \n{shown}\n"), ("outer", "#! script x\n")):
        (instance.work / name).write_text(content)
        (instance.work / name).chmod(0o755)
    works(instance, "./script one ''; ./outer two | grep -q two; env LD_BIND_NOW=1 ./script; sh -c 'exec true'")
    assert works(instance, "/usr/bin/env -i PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -c 'print(6*7)'") == "42\n"


def test_sockets(instance: Instance) -> None:
    program = """
import os, socket, threading
server = socket.socket(socket.AF_UNIX)
server.bind("socket")
server.listen()
threading.Thread(target=lambda: server.accept()[0].sendall(b"there"), daemon=True).start()
client = socket.socket(socket.AF_UNIX)
client.connect("socket")
print(client.recv(9))
"""
    (instance.work / "sockets.py").write_text(program)
    assert works(instance, f"{PYTHON} sockets.py") == "b'there'\n"


def test_a_file_that_was_deleted_can_be_opened_again(instance: Instance) -> None:
    program = (
        "import os; d = os.open('gone', os.O_RDWR | os.O_CREAT); os.unlink('gone'); os.open(f'/proc/self/fd/{d}', 1)"
    )
    works(instance, f'{PYTHON} -c "{program}"')


def test_what_is_protected_cannot_be_read_where_the_sandbox_may_write(instance: Instance) -> None:
    done = instance.run("cat", "secrets/key", profile="worker")
    assert (done.returncode, done.stdout) == (1, "")
    record = instance.wait_for_record(lambda one: one["kind"] == "seal.event" and "secrets" in one.get("object", ""))
    assert record["object"] == str(instance.work / "secrets" / "key")
    assert record["operation"] == "file.read"
    assert "governed: refused file.read" in done.stderr
    assert instance.run("cat", "token", profile="worker").returncode == 1
    assert instance.run("cat", "plain", profile="worker").stdout == "plain"
    # Held opens are judged by name and refused before the kernel is asked.
    assert instance.run("cat", "token", profile="paused").returncode == 1
    assert instance.run("cat", "plain", profile="paused").stdout == "plain"


def test_what_takes_its_place_is_protected_as_well(instance: Instance) -> None:
    running = instance.spawn("/bin/sh", "-c", "echo began; read x; cat token; cat plain", profile="worker")
    assert running.stdout is not None
    assert running.stdin is not None
    assert running.stdout.readline() == b"began\n"
    (instance.work / "next").write_text("another secret")
    os.rename(instance.work / "next", instance.work / "token")
    time.sleep(1)
    running.stdin.write(b"\n")
    running.stdin.close()
    assert running.stdout.read() == b"plain"
    running.wait(HANG)


def test_what_is_mounted_there_is_protected_as_well(instance: Instance) -> None:
    mounted = instance.work / "secrets" / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
    try:
        (mounted / "key").write_text("a secret")
        assert instance.run("cat", "secrets/mounted/key", profile="worker").stdout == ""
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)
    assert instance.run("cat", "plain", profile="worker").stdout == "plain"


def test_a_flood_becomes_few_records_and_a_count(instance: Instance) -> None:
    """Each attempt is in the journal: as a record, or as one of those that a record says were dropped."""
    program = """
refused = 0
for _ in range(3000):
    try:
        open("token")
    except PermissionError:
        refused += 1
print(refused)
"""
    before, status = len(instance.journal()), instance.status()
    done = instance.run(PYTHON, "-c", program, profile="worker", quiet=True, timeout=HANG)
    assert done.stdout == "3000\n", done.stderr
    deadline = time.monotonic() + HANG
    while counted(found := instance.journal()[before:]) < 3000:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    assert counted(found) == 3000
    assert len(found) < 600
    told = [one for one in found if one["kind"] == "seal.event" and "object" in one]
    assert {(one["operation"], one["object"]) for one in told} == {("file.read", str(instance.work / "token"))}
    after = instance.status()
    assert after.seal_events - status.seal_events == 3000
    assert after.seal_dropped > status.seal_dropped


def counted(records: list[dict[str, Any]]) -> int:
    """How many refusals of the seal the records stand for."""
    events = [one for one in records if one["kind"] == "seal.event"]
    first = {one["seq"] for one in events}
    again = [one for one in records if one["kind"] == "effect.repeated" and one["first_seq"] in first]
    return sum(1 + one.get("dropped", 0) for one in events) + sum(one["count"] for one in again)


SWITCH = """
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static char name[16] __attribute__((aligned(8))) = "granted";
static volatile int stop;
static void *flip(void *unused) {
  unsigned long names[2];
  memcpy(&names[0], "granted", 8);
  memcpy(&names[1], "forbids", 8);
  while (!stop)
    for (int i = 0; i < 2; i++) *(volatile unsigned long *)name = names[i];
  return 0;
}
int main(void) {
  pthread_t other;
  struct stat target, opened;
  int won = 0, worked = 0;
  stat("forbids", &target);
  pthread_create(&other, 0, flip, 0);
  for (int i = 0; i < ATTEMPTS; i++) {
    int fd = open(name, O_WRONLY);
    if (fd < 0) continue;
    fstat(fd, &opened);
    if (opened.st_ino == target.st_ino) won++; else worked++;
    close(fd);
  }
  stop = 1;
  pthread_join(other, 0);
  printf("%d %d\\n", won, worked);
  return 0;
}
"""


def test_a_switched_name_opens_nothing_and_is_told(instance: Instance) -> None:
    """One thread opens, another switches the name to what the profile protects."""
    for name in ("granted", "forbids"):
        (instance.work / name).write_text(name)
        os.chown(instance.work / name, USER, USER)
    (instance.work / "switch.c").write_text(SWITCH)
    attempts = 1500 if os.environ.get("VM_FULL") else 500
    source, program = instance.work / "switch.c", instance.work / "switch"
    build = ["gcc", "-O2", f"-DATTEMPTS={attempts}", "-pthread", "-o", program, source]
    subprocess.run(build, check=True, timeout=HANG)
    before = instance.status().seal_events
    done = instance.run("./switch", profile="worker", quiet=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    won, worked = map(int, done.stdout.split())
    assert won == 0
    assert worked > 0
    assert instance.status().seal_events > before, "nothing was switched in time: the test is void"
    # The last one may tell only how many there were besides, and has no object.
    assert any(event.get("object") == str(instance.work / "forbids") for event in events(instance))


def test_a_second_daemon_does_not_start(instance: Instance) -> None:
    other = Path("/tmp/second")
    other.mkdir()
    arguments = ["--runtime-dir", other / "run", "--state-dir", other / "state", "--policy-dir", instance.policy_dir]
    done = subprocess.run(
        [PROGRAMS / "governed-mcpd", *arguments, "--seal", "required"],
        env=instance.environment(0), capture_output=True, text=True, timeout=HANG, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert "seal: required" in done.stderr
    assert "another governed-mcpd keeps the seal of this machine" in done.stderr
    assert instance.run("true", profile="worker").returncode == 0


def test_a_killed_daemon_leaves_nothing_possible(instance: Instance) -> None:
    """Its sandbox lives, and nothing more of it happens; the next daemon takes the seal up and ends it."""
    program = """
import os, sys
print("began", flush=True)
sys.stdin.readline()
for act in (lambda: os.open("made-later", os.O_WRONLY | os.O_CREAT), lambda: os.open("secrets/key", os.O_RDONLY),
            lambda: os.execv("/bin/true", ["true"]), lambda: os.unlink("plain")):
    try:
        act()
        print("done", flush=True)
    except OSError as error:
        print("refused", flush=True)
sys.stdin.readline()
"""
    running = instance.spawn(PYTHON, "-c", program, profile="worker")
    assert running.stdout is not None
    assert running.stdin is not None
    assert running.stdout.readline() == b"began\n"
    instance.kill_daemon()
    running.stdin.write(b"\n")
    running.stdin.flush()
    assert [running.stdout.readline() for _ in range(4)] == [b"refused\n"] * 4
    assert (instance.work / "plain").exists()
    assert not (instance.work / "made-later").exists()
    instance.start_daemon()
    assert running.wait(HANG) == -signal.SIGKILL or running.returncode != 0
    assert instance.run("cat", "plain", profile="worker").stdout == "plain"
    assert instance.ctl("journal", "verify", "--state-dir", instance.state_dir).returncode == 0
