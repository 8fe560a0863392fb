"""Bad input on the control socket: a clear error or the door, nothing left behind, and nobody else waits."""

import contextlib
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2 as nouns
from governed_mcpd.control.client import ControlError
from governed_mcpd.service.server import MAX_PER_UID
from tests.faults.common import (
    cgroups,
    daemon_pid,
    descriptors,
    left_behind,
    policies,
    scratches,
    settles,
    threads,
    within,
)
from tests.support.instance import Instance
from tests.support.users import GATE, STRANGER, USER, identity


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance(policies=policies()) as it:
        assert it.run("touch", "first", profile="loose").returncode == 0
        settles(it)
        yield it


@pytest.fixture(autouse=True)
def leaves_nothing(instance: Instance) -> Iterator[None]:
    """Descriptors and threads come back to what they were, and no sandbox is left."""
    pid = daemon_pid(instance)
    before = descriptors(pid), threads(pid)
    yield
    settles(instance, 30)
    within(20, lambda: descriptors(pid) <= before[0], f"{descriptors(pid)} descriptors to become {before[0]}")
    within(20, lambda: threads(pid) <= before[1] + 2, f"{threads(pid)} threads to become {before[1]}")
    assert instance.run("touch", "still", profile="loose").returncode == 0
    settles(instance)


@contextlib.contextmanager
def peer(instance: Instance) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect(str(instance.runtime_dir / "control.sock"))
        yield sock


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def reply(sock: socket.socket) -> pb.ControlReply | None:
    """What the daemon says; None when it closes without a word."""
    try:
        header = b""
        while len(header) < 4:
            if not (piece := sock.recv(4 - len(header))):
                return None
            header += piece
        body = b""
        while len(body) < struct.unpack(">I", header)[0]:
            body += sock.recv(65536)
    except ConnectionResetError:
        return None
    return pb.ControlReply.FromString(body)


GARBAGE: dict[str, tuple[bytes, str]] = {
    "zero-length": (struct.pack(">I", 0), "0 bytes"),
    "huge-length": (struct.pack(">I", 0xFFFF_FFFF), "4294967295 bytes"),
    "just-too-long": (struct.pack(">I", 16 * 1024 * 1024 + 1), "at most"),
    "no-protobuf": (frame(b"\xff" * 64), "ControlRequest"),
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "at most"),
    "unknown-request": (frame(b"\xfa\x7f\x00"), "without content"),
    "a-reply": (frame(pb.ControlReply(done=pb.Done(message="x")).SerializeToString()), ""),
    "truncated-field": (frame(b"\x0a\x7f\x01"), "ControlRequest"),
    "listen-first": (frame(pb.ControlRequest(listen=pb.ListenRequest(listener=3)).SerializeToString()), "listen"),
}


@pytest.mark.parametrize("name", sorted(GARBAGE))
def test_garbage_gets_a_clear_error(instance: Instance, name: str) -> None:
    data, expected = GARBAGE[name]
    with peer(instance) as sock:
        sock.sendall(data)
        said = reply(sock)
    assert said is not None
    assert said.WhichOneof("reply") == "error"
    assert said.error.code
    assert expected in said.error.message


def test_random_bytes_never_end_the_daemon(instance: Instance) -> None:
    dice = random.Random(11)
    for _ in range(150):
        with peer(instance) as sock:
            data = dice.randbytes(dice.randrange(1, 200))
            sock.sendall(data if dice.random() < 0.5 else frame(data))
            sock.shutdown(socket.SHUT_WR)
            said = reply(sock)
            assert said is None or said.HasField("error")


def test_half_a_message_and_silence(instance: Instance) -> None:
    with peer(instance) as sock:
        sock.sendall(struct.pack(">I", 100) + b"half")
        sock.shutdown(socket.SHUT_WR)
        said = reply(sock)
    assert said is not None
    assert "4 of 100 bytes" in said.error.message


def test_slow_drip_is_dropped_and_holds_up_nobody(instance: Instance) -> None:
    with peer(instance) as drip, peer(instance) as silent:
        drip.sendall(struct.pack(">I", 1000))
        began, error = time.monotonic(), None
        drip.settimeout(0.2)
        while error is None and time.monotonic() - began < 25:
            with contextlib.suppress(TimeoutError, OSError):
                drip.send(b"x")
            with contextlib.suppress(TimeoutError):
                error = reply(drip)
                break
            assert instance.status().gate == "serving"
        took = time.monotonic() - began
        said = reply(silent)
    assert error is not None
    assert error.error.code == "too-slow"
    assert 5 < took < 20
    assert said is not None
    assert said.error.code == "too-slow"


IDLE = """
import os, resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held, refused = [], 0
for _ in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    held.append(sock)
time.sleep(0.5)
for sock in held:
    sock.setblocking(False)
    try:
        refused += b"too-many-connections" in sock.recv(4096)
    except BlockingIOError:
        pass
print(refused, flush=True)
sys.stdin.read()
"""


def test_idle_connections_of_one_user_leave_room_for_others(instance: Instance) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 4096, "this test needs RLIMIT_NOFILE of 4096"
    argv = [sys.executable, "-c", IDLE, str(instance.runtime_dir / "control.sock"), str(MAX_PER_UID + 50)]
    program = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **identity(USER))
    try:
        assert program.stdout is not None
        refused = int(program.stdout.readline())
        assert 50 <= refused <= 60
        assert instance.ctl("status").returncode == 0  # root
        assert instance.run("true", user=0, profile="loose").returncode == 0
    finally:
        program.communicate(timeout=20)


# ---- requests that cannot be


def ask(instance: Instance, **request: Any) -> pb.ControlReply:
    with instance.connect() as client:
        return client.ask(pb.ControlRequest(**request))


def refused(instance: Instance, **request: Any) -> ControlError:
    with pytest.raises(ControlError) as caught:
        ask(instance, **request)
    assert caught.value.message
    return caught.value


def run_request(**fields: Any) -> pb.RunRequest:
    return pb.RunRequest(**{"argv": [b"true"], "cwd": b"/tmp", "home": b"/root", "profile": "loose", **fields})


WRONG_RUNS: dict[str, tuple[dict[str, Any], str, str]] = {
    "relative-cwd": ({"cwd": b"work"}, "bad-request", "cwd"),
    "empty-cwd": ({"cwd": b""}, "bad-request", "cwd"),
    "nul-in-cwd": ({"cwd": b"/tmp\0/x"}, "bad-request", "cwd"),
    "long-cwd": ({"cwd": b"/" + b"x" * 5000}, "bad-request", "cwd"),
    "relative-home": ({"home": b"~"}, "bad-request", "home"),
    "nul-in-home": ({"home": b"/root\0"}, "bad-request", "home"),
    "no-argv": ({"argv": []}, "bad-request", "argv"),
    "nul-in-argv": ({"argv": [b"true\0", b"x"]}, "bad-request", "argv"),
    "ten-megabytes": ({"argv": [b"true", b"x" * (10 << 20)]}, "bad-request", "argv"),
    "a-million-words": ({"argv": [b""] * 1_100_000}, "bad-request", "argv"),
    "huge-environment": ({"environment": [b"A_TOKEN" * 1000] * 2000}, "bad-request", "environment"),
    "unknown-profile": ({"profile": "no-such"}, "profile-not-agents", "no-such"),
    "unknown-agent": ({"agent": "no-such"}, "unknown-agent", "no-such"),
    "long-task": ({"task": "x" * 20_000}, "bad-request", "task"),
}


@pytest.mark.parametrize("name", sorted(WRONG_RUNS))
def test_a_run_that_cannot_be(instance: Instance, name: str) -> None:
    fields, code, named = WRONG_RUNS[name]
    error = refused(instance, run=run_request(**fields))
    assert error.code == code
    assert named in error.message
    assert len(error.message) < 1000


def test_a_run_with_odd_bytes_that_can_be(instance: Instance) -> None:
    odd = instance.work / os.fsdecode(b"odd \xff\n\x1b[31m")
    odd.mkdir()
    os.chown(odd, USER, USER)
    done = instance.run("touch", "here", profile="loose", cwd=odd)
    assert (odd / "here").exists() == (done.returncode == 0)
    assert "\x1b" not in done.stderr


def test_nested_run_from_outside_is_told_off(instance: Instance) -> None:
    for user in (0, USER):
        code = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
            "print(s.recv(4096).decode(errors='replace'))"
        )
        path = str(instance.runtime_dir / "sandbox.sock")
        done = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=20, check=True, **identity(user)
        )
        assert "not-sandboxed" in done.stdout


def test_unknown_ids_and_tokens(instance: Instance) -> None:
    assert refused(instance, adopt=pb.AdoptRequest(token="no-such")).code == "unknown-token"
    assert refused(instance, approval_decide=pb.ApprovalDecideRequest(id="x" * 10_000)).code == "unknown-approval"
    assert refused(instance, sandbox_kill=pb.SandboxKillRequest(sandbox="../..")).code == "unknown-sandbox"
    assert refused(instance, sandbox_thaw=pb.SandboxThawRequest(sandbox="x\0")).code == "unknown-sandbox"
    action = nouns.Action(subject=nouns.Subject(tier=99), effect=nouns.SideEffect(operation="file.nothing"))
    assert refused(instance, explain=pb.ExplainRequest(action=action)).code == "bad-request"
    assert refused(instance, explain=pb.ExplainRequest()).code == "bad-request"


def policy_files(instance: Instance, **more: bytes) -> list[nouns.PolicySet.File]:
    files = {path.name: path.read_bytes() for path in instance.policy_dir.iterdir()}
    files |= {f"{name}.yaml": content for name, content in more.items()}
    return [nouns.PolicySet.File(name=name, content=content) for name, content in files.items()]


WRONG_POLICIES = {
    "empty": b"",
    "binary": bytes(range(256)) * 16,
    "nothing": b"null\n",
    "list": b"- kind: Profile\n",
    "deep": b"[" * 20_000 + b"]" * 20_000,
    "deep-mapping": b"kind: Profile\nname: x\nenvelope: " + b"{read: " * 5000 + b"}" * 5000,
    "huge": b"kind: Profile\nname: x\ndescription: '" + b"x" * (9 << 20) + b"'\nenvelope: {read: [/]}\n",
    "alias-bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("j"))),
    "unknown-kind": b"kind: Frobnicator\nname: x\n",
    "unknown-field": b"kind: Profile\nname: x\nenvelope: {read: [/]}\nfrob: 1\n",
    "wrong-type": b"kind: Gate\nname: gate\ngate_seconds: soon\n",
    "python-object": b"kind: !!python/object/apply:os.system ['touch /tmp/pwned']\n",
    "not-utf8": b"kind: Profile\nname: \xff\xfe\n",
    "nul": b"kind: Profile\nname: x\0y\nenvelope: {read: [/]}\n",
}


@pytest.mark.parametrize("name", sorted(WRONG_POLICIES))
def test_a_wrong_policy_file_is_named_and_the_active_set_stays(instance: Instance, name: str) -> None:
    before = instance.status().policy_version
    wanted = nouns.PolicySet(files=policy_files(instance, **{name: WRONG_POLICIES[name]}))
    began = time.monotonic()
    error = refused(instance, apply=wanted)
    assert time.monotonic() - began < 20
    assert error.code in ("bad-policy", "bad-request")
    assert f"{name}.yaml" in error.message
    assert len(error.message) < 20_000
    assert instance.status().policy_version == before


@pytest.mark.parametrize(
    ("field", "text"),
    [("gate_seconds", b"kind: Gate\nname: gate\ngate_seconds: soon\n"), ("frob", b"kind: Gate\nname: g\nfrob: 1\n")],
)
def test_the_error_names_line_and_field(instance: Instance, field: str, text: bytes) -> None:
    files = [file for file in policy_files(instance) if file.name != "gate.yaml"]
    files.append(nouns.PolicySet.File(name="gate.yaml", content=text))
    error = refused(instance, apply=nouns.PolicySet(files=files))
    assert "gate.yaml:3" in error.message
    assert field in error.message


def test_two_files_of_one_name_and_odd_names(instance: Instance) -> None:
    files = policy_files(instance)
    assert "same name" in refused(instance, apply=nouns.PolicySet(files=[*files, files[0]])).message
    for name in ("../../etc/cron.d/x.yaml", "/etc/x.yaml", "", "a/b.yaml", "x\0.yaml", "." * 3, "x" * 300 + ".yaml"):
        extra = nouns.PolicySet.File(name=name, content=files[0].content)
        assert refused(instance, apply=nouns.PolicySet(files=[*files, extra])).code in ("bad-policy", "bad-request")
    assert refused(instance, apply=nouns.PolicySet(files=[])).code == "bad-policy"
    # and the neighbour: the same set as it is may be applied
    assert ask(instance, apply=nouns.PolicySet(files=files)).HasField("policy")


# ---- a peer that dies at each step of adoption

STEPS = ("run", "fork", "adopt", "filter", "listen")
HALFWAY = """
import os, sys
sys.path[:0] = sys.argv[3].split(os.pathsep)
from governed_mcpd.kernel import seccomp
from governed_mcpd.launcher import protocol, child
path, step = sys.argv[1], sys.argv[2]
control = child.connect(path)
control.send(protocol.run_request(profile="loose", agent="", task="", argv=[b"true"], cwd=b"/tmp", home=b"/",
                                  environment=[], server="", nested=False))
plan = protocol.run_plan(control.receive())
def dies(here, who):
    # The one or the other end dies, without a word; the other stays until told.
    if step == here:
        print("dying", flush=True)
        os.kill(os.getpid(), 9)
dies("run", "parent")
parent = os.getpid()
report, reports = os.pipe()
pid = os.fork()
if pid == 0:
    import ctypes
    dies("fork", "child")
    connection = child.connect(path)
    connection.send(protocol.adopt_request(plan.token))
    protocol.check_adopted(connection.receive())
    dies("adopt", "child")
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
    if step == "filter":
        print("dying", flush=True)
    listener = seccomp.install_filter(plan.filter, plan.filter_flags)
    if step == "filter":
        os._exit(9)
    connection.send(protocol.listen_request(listener))
    protocol.check_listening(connection.receive())
    os.write(1, b"dying\\n")
    os._exit(9)
os.waitpid(pid, 0)
if len(sys.argv) > 4:
    sys.stdin.read()
"""


def halfway(instance: Instance, step: str, *more: str) -> subprocess.Popen[bytes]:
    path = str(instance.runtime_dir / "control.sock")
    argv = [sys.executable, "-c", HALFWAY, path, step, os.pathsep.join(filter(None, sys.path)), *more]
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **identity(USER)
    )


@pytest.mark.parametrize("step", STEPS)
def test_a_peer_that_dies_at_each_step(instance: Instance, step: str) -> None:
    programs = [halfway(instance, step) for _ in range(3)]
    for program in programs:
        out, err = program.communicate(timeout=30)
        assert out == b"dying\n", err
        assert b"Traceback" not in err, err
    settles(instance, 30)


def test_a_launcher_that_stays_though_its_child_died(instance: Instance) -> None:
    """The sandbox stays as long as its launcher's connection, takes nothing, and goes with it."""
    program = halfway(instance, "adopt", "stay")
    assert program.stdout is not None
    assert program.stdout.readline() == b"dying\n"
    time.sleep(0.5)
    assert len(cgroups(instance)) == len(scratches(instance)) == 1
    program.communicate(timeout=20)
    settles(instance)


def test_a_child_that_is_not_the_launchers(instance: Instance) -> None:
    """A token is worth nothing to another process, also of the same user."""
    with instance.connect() as client:
        plan = client.ask(pb.ControlRequest(run=run_request()), "run").run
        with pytest.raises(ControlError) as caught, instance.connect() as other:
            other.ask(pb.ControlRequest(adopt=pb.AdoptRequest(token=plan.token)))
        assert caught.value.code == "not-the-child"
        # and it was worth that once: the token is spent
        assert refused(instance, adopt=pb.AdoptRequest(token=plan.token)).code == "unknown-token"


def test_a_launcher_that_sends_more_than_it_should(instance: Instance) -> None:
    with instance.connect() as client:
        client.ask(pb.ControlRequest(run=run_request()), "run")
        assert len(cgroups(instance)) == 1
        client.tell(pb.ControlRequest(run=run_request()))
        within(15, lambda: cgroups(instance) == [], "the sandbox to end")


def test_a_listener_that_is_none(instance: Instance) -> None:
    """Numbers of descriptors that are not there, not listeners, or the launcher's connection."""
    for number in ("0", "2147483647", "12345"):
        code = HALFWAY.replace(
            "listener = seccomp.install_filter(plan.filter, plan.filter_flags)", f"listener = {number}"
        )
        code = code.replace("protocol.check_listening(connection.receive())", "print(connection.receive(), flush=True)")
        path = str(instance.runtime_dir / "control.sock")
        done = subprocess.run(
            [sys.executable, "-c", code, path, "listen", os.pathsep.join(filter(None, sys.path))],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
            **identity(USER),
        )
        assert b"DaemonError" in done.stderr
        settles(instance)


# A launcher that asks for a plan too long for the socket's buffer, reads only its beginning (token and filter), and has
# its child refused something: the notice of that must not wait for a reader that does not read.
UNREAD = """
import ctypes, os, re, socket, sys, time
sys.path[:0] = sys.argv[2].split(os.pathsep)
from governed_mcpd.kernel import seccomp
from governed_mcpd.launcher import protocol, child
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
names = [b"SOME_TOKEN_%06d" % index + b"x" * 80 for index in range(9000)]
stream = protocol.Stream(control.fileno())
stream.send(protocol.run_request(profile="loose", agent="", task="", argv=[b"true"], cwd=b"/tmp", home=b"/",
                                 environment=names, server="", nested=False))
data = b""
while len(data) < 65536:
    data += control.recv(65536 - len(data))
found = re.search(rb"\x12\x20([0-9a-f]{32})\x1a", data)
size, at = protocol._varint(data, found.end())
code = data[at:at + size]
assert len(code) == size
pid = os.fork()
if pid == 0:
    connection = child.connect(sys.argv[1])
    connection.send(protocol.adopt_request(found[1].decode()))
    protocol.check_adopted(connection.receive())
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
    connection.send(protocol.listen_request(seccomp.install_filter(code, 0)))
    protocol.check_listening(connection.receive())
    for index in range(50):
        try:
            os.open("/etc/unread-%d" % index, os.O_WRONLY | os.O_CREAT)
        except PermissionError:
            pass
    os.write(1, b"refused\\n")
    os.read(0, 1)
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_launcher_that_does_not_read_its_plan_holds_up_nobody(instance: Instance) -> None:
    path = str(instance.runtime_dir / "control.sock")
    argv = [sys.executable, "-c", UNREAD, path, os.pathsep.join(filter(None, sys.path))]
    program = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **identity(USER)
    )
    began = time.monotonic()
    slowest = 0.0
    for index in range(3):
        before = time.monotonic()
        assert instance.run("touch", f"beside-{index}", profile="loose").returncode == 0
        slowest = max(slowest, time.monotonic() - before)
    assert program.stdout is not None
    assert program.stdout.readline() == b"refused\n", program.communicate(timeout=10)
    assert time.monotonic() - began < 9
    assert slowest < 5
    program.communicate(timeout=20)


def test_many_at_once_while_others_work(instance: Instance) -> None:
    """Garbage, idle and half-dead peers together: the others' sandboxes start and end meanwhile."""
    with contextlib.ExitStack() as stack:
        for index in range(60):
            sock = stack.enter_context(peer(instance))
            sock.sendall([b"", b"\0", struct.pack(">I", 5000) + b"x", frame(b"\xff" * 100)][index % 4])
        programs = [halfway(instance, step) for step in STEPS]
        for index in range(3):
            assert instance.run("touch", f"meanwhile-{index}", profile="loose").returncode == 0
        for program in programs:
            program.communicate(timeout=30)


def test_strangers_get_nothing(instance: Instance) -> None:
    for user in (STRANGER, GATE):
        done = instance.ctl("status", user=user)
        assert done.returncode == 4
    assert left_behind(instance)["sandboxes"] == []
