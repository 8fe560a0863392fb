"""Taking sandboxes over from a daemon that was killed, with a service manager that keeps descriptors.

The manager here is the test: it receives FDSTORE messages with their descriptors (sd_pid_notify_with_fds(3)) and starts
the next daemon with LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES (sd_listen_fds(3)), as systemd does.
"""

import array
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.instance import PROGRAMS, Instance

PROFILE = """
kind: Profile
name: kept
envelope: {read: [/], write: ["${cwd}", /dev/null], execute: [/]}
free:
  - {operations: [process.exec], on: /**}
  - {operations: [file.write, file.create], on: "${cwd}/**"}
"""
AGENT = "{kind: Agent, name: default, tier: Classic, profiles: [kept]}\n"
FIRST_FD = 3


class Manager:
    """Keeps descriptors by name, like systemd."""

    def __init__(self, path: Path) -> None:
        self.kept: dict[str, int] = {}
        self.messages: list[str] = []
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._socket.close()
        for descriptor in self.kept.values():
            os.close(descriptor)

    def _listen(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(8192, socket.CMSG_SPACE(64 * 4))
            except OSError:
                return
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            self.messages.append(data.decode())
            if "FDSTOREREMOVE" in fields:
                descriptor = self.kept.pop(fields["FDNAME"], -1)
                if descriptor >= 0:
                    os.close(descriptor)
            for level, kind, body in ancillary:
                assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                received = array.array("i", body)
                assert fields.get("FDSTORE") == "1", fields
                assert len(received) == 1
                self.kept[fields["FDNAME"]] = received[0]

    def start(self, instance: Instance) -> None:
        """Starts the daemon with what is kept, as descriptors from 3 on."""
        names = list(self.kept)
        script = (
            'export LISTEN_PID=$$; exec "$0" "$@"'
            if names
            else 'unset LISTEN_FDS LISTEN_FDNAMES LISTEN_PID; exec "$0" "$@"'
        )
        descriptors = [self.kept[name] for name in names]
        arguments = ["--runtime-dir", instance.runtime_dir, "--state-dir", instance.state_dir]
        arguments += ["--policy-dir", instance.policy_dir, "--seal", "best-effort"]
        environment = {
            **instance.environment(0),
            "NOTIFY_SOCKET": str(self.path),
            "LISTEN_FDS": str(len(names)),
            "LISTEN_FDNAMES": ":".join(names),
        }
        # Low numbers may be taken here: a helper moves the descriptors to where sd_listen_fds(3) looks for them.
        mover = [str(PROGRAMS / "python"), str(Path(__file__).with_name("start_with_fds.py"))]
        with open(instance.base / "governed-mcpd.log", "ab") as log:
            instance.daemon = subprocess.Popen(
                [*mover, ",".join(map(str, descriptors)), "/bin/sh", "-c", script, str(PROGRAMS / "governed-mcpd")]
                + [str(argument) for argument in arguments],
                env=environment,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        instance.wait_for_gate()


@pytest.fixture
def instance() -> Iterator[Instance]:
    with Instance(policies={"profile-kept.yaml": PROFILE, "agent-default.yaml": AGENT}) as made:
        yield made


@pytest.fixture
def manager(instance: Instance) -> Iterator[Manager]:
    made = Manager(instance.base / "notify")
    instance.stop_daemon()
    made.start(instance)
    yield made
    made.close()


WORK = """
import os, sys, time
os.open("first", os.O_WRONLY | os.O_CREAT)
print("began", flush=True)
sys.stdin.readline()
os.open("second", os.O_WRONLY | os.O_CREAT)
try:
    os.open("/etc/nowhere", os.O_WRONLY | os.O_CREAT)
except PermissionError:
    print("refused", flush=True)
sys.exit(5)
"""


def test_a_restarted_daemon_goes_on_with_a_running_sandbox(instance: Instance, manager: Manager) -> None:
    running = instance.spawn("python3", "-c", WORK)
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stdout.readline() == b"began\n"
    identity = instance.sandboxes()[0].subject.sandbox
    assert {f"sandbox-{identity}-{part}" for part in ("listener", "command", "state", "unanswered")} <= set(
        manager.kept
    )
    instance.kill_daemon()
    manager.start(instance)
    assert [info.subject.sandbox for info in instance.sandboxes()] == [identity]
    running.stdin.write(b"\n")
    running.stdin.flush()
    assert running.stdout.readline() == b"refused\n"
    assert running.wait(20) == 5
    assert (instance.work / "second").exists()
    instance.wait_until(lambda: True if not instance.sandboxes() else None, "the sandbox to end")
    kinds = [record["kind"] for record in instance.journal(identity)]
    assert "sandbox.resumed" in kinds
    assert kinds[-1] == "sandbox.end"
    instance.wait_until(
        lambda: True if not any(identity in name for name in manager.kept) else None, "the descriptors to be dropped"
    )


def test_a_call_that_the_dead_daemon_had_received_is_refused_not_lost(instance: Instance, manager: Manager) -> None:
    """Held for a gate that does not answer; the daemon is killed; the next one refuses by the id that was kept."""
    assert instance.gate is not None
    program = "import os\ntry:\n  os.mkdir('d')\nexcept PermissionError:\n  print('refused', flush=True)\ninput()\n"
    os.kill(instance.gate.pid, 19)  # SIGSTOP: the fixture's own gate
    try:
        running = instance.spawn("python3", "-c", program)
        instance.wait_until(
            lambda: True if any(info.pending for info in instance.sandboxes()) else None, "the call to be held", 20
        )
        instance.kill_daemon()
    finally:
        os.kill(instance.gate.pid, 18)  # SIGCONT
    manager.start(instance)
    assert running.stdout is not None
    assert running.stdin is not None
    assert running.stdout.readline() == b"refused\n"
    running.stdin.close()
    assert running.wait(20) != 0
    assert not (instance.work / "d").exists()


def test_without_what_was_kept_the_sandbox_is_ended(instance: Instance, manager: Manager) -> None:
    running = instance.spawn("python3", "-c", WORK)
    assert running.stdout is not None
    assert running.stdout.readline() == b"began\n"
    instance.kill_daemon()
    for descriptor in manager.kept.values():
        os.close(descriptor)
    manager.kept.clear()
    manager.start(instance)
    assert running.wait(20) != 0
    assert not instance.sandboxes()
