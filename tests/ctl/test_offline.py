"""governedctl where no daemon runs: usage, exit codes, errors as text and as JSON, what needs no daemon."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2 as nouns
from governed_mcpd.control.framing import receive, send
from governed_mcpd.kernel import lsm
from tests.ctl.program import PROGRAM, governedctl

HOSTILE = "\x1b]0;owned\x07[red]x[/red]\u202e"
POLICY = """# what is allowed
kind: Profile
name: default
envelope: {read: [/usr]}
---
kind: Agent
name: default
tier: AiNative
profiles: [default]
"""
SHOWN = "\\x1b]0;owned\\x07[red]x[/red]\\u202e"


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["sandbox", "list"],
        ["sandbox", "kill", "x"],
        ["sandbox", "thaw", "x"],
        ["rollback"],
        ["get"],
        ["approvals", "list"],
        ["approvals", "approve", "x"],
        ["approvals", "deny", "x"],
        ["journal", "tail"],
        ["journal", "tail", "-f", "-n", "0"],
        ["journal", "show", "1"],
        ["explain", "--operation", "file.write", "--object", "/x"],
    ],
)
def test_without_a_daemon_the_exit_code_is_3(tmp_path: Path, command: list[str]) -> None:
    done = governedctl("--runtime-dir", tmp_path, *command)
    assert (done.returncode, done.stdout) == (3, "")
    assert "is governed-mcpd running" in done.stderr
    done = governedctl("--runtime-dir", tmp_path, *command, "--json")
    assert (done.returncode, done.stdout) == (3, "")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "daemon-unreachable"
    assert str(tmp_path) in error["message"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["frob"], "No such command 'frob'"),
        (["status", "--frob"], "No such option"),
        (["--runtime-dir"], "requires an argument"),
        (["journal", "show", "0"], "0 is not in the range x>=1"),
        (["journal", "show", "x"], "'x' is not a valid int"),
        (["explain"], "say what to explain"),
        (["explain", "--operation", "file.write"], "--object is missing"),
        (["explain", "--operation", "file.frob", "--object", "/x"], "expected one of file.read"),
        (["explain", "--operation", "file.write", "--tool", "a", "b"], "say what to explain"),
        (["explain", "--tool", "a", "b", "--arguments", "{"], "--arguments is not JSON"),
        (["explain", "--tool", "a", "b", "--arguments", "[]"], "expected a JSON object"),
        (["explain", "--action", "/nonexistent.json"], "No such file"),
    ],
)
def test_wrong_usage_is_2_with_a_reason(command: list[str], said: str) -> None:
    done = governedctl(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    if command != ["--runtime-dir"]:
        done = governedctl(*command, "--json")
        assert done.returncode == 2
        assert json.loads(done.stderr)["error"]["code"] == "usage"


def test_a_wrong_configuration_is_2_and_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('\nruntime_dri = "/x"\n')
    done = governedctl("--config", path, "status")
    assert done.returncode == 2
    assert f"{path}:2: runtime_dri: there is no such setting" in done.stderr


def test_the_configuration_says_where_the_daemon_is(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'runtime_dir = "{tmp_path}/file"\n')
    assert f"{tmp_path}/file/" in governedctl("--config", path, "status").stderr
    env = {"GOVERNED_CONFIG": str(path), "GOVERNED_RUNTIME_DIR": f"{tmp_path}/env"}
    assert f"{tmp_path}/env/" in governedctl("status", env=env).stderr
    assert f"{tmp_path}/option/" in governedctl("--runtime-dir=option", "status", env=env, cwd=tmp_path).stderr


def test_help_lists_commands_and_exit_codes() -> None:
    done = governedctl("--help")
    assert done.returncode == 0
    for word in ("run", "status", "sandbox", "apply", "rollback", "get", "validate", "doctor", "explain", "approvals"):
        assert word in done.stdout
    assert "3 the daemon cannot be reached" in " ".join(done.stdout.split())
    assert governedctl("--version").stdout.startswith("governedctl ")


def test_completion_knows_the_commands() -> None:
    env = {"_GOVERNEDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "governedctl journal ", "COMP_CWORD": "2"}
    assert governedctl(env=env).stdout.split() == ["tail", "show", "verify"]


def test_starting_imports_no_grpc_and_stays_quick() -> None:
    heavy = ("grpc", "pydantic", "rich", "yaml", "governed_mcpd.ctl.doctor", "governed_mcpd.ctl.journal")
    code = (
        "import atexit, sys; from governed_mcpd.ctl.app import start\n"
        f"atexit.register(lambda: print([name for name in {heavy} if name in sys.modules]))\n"
        "start(['status'], as_json=False)\n"
    )
    python = PROGRAM.parent / "python"
    env = {**os.environ, "GOVERNED_RUNTIME_DIR": "/nonexistent"}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=env)
    assert (done.returncode, done.stdout) == (3, "[]\n"), done.stderr


def test_no_command_imports_what_must_not_be_there_when_doctor_forks() -> None:
    code = (
        "import sys; from governed_mcpd.ctl.app import app; app(); "
        "print('grpc' in sys.modules, 'pydantic' in sys.modules)"
    )
    python = PROGRAM.parent / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_run_starts_without_the_terminal_libraries(tmp_path: Path) -> None:
    code = (
        "import os, sys; from governed_mcpd.ctl.main import main\n"
        "def ended(code):\n"
        "    os.write(1, ' '.join(map(str, (code, *(m in sys.modules for m in HEAVY)))).encode())\n"
        "    leave(code)\n"
        "HEAVY = ('typer', 'rich', 'yaml', 'pydantic')\n"
        "leave, os._exit = os._exit, ended  # the fast path ends so, and asks nobody\n"
        "main()\n"
    )
    python = str(PROGRAM.parent / "python")
    for options in (["--runtime-dir", str(tmp_path)], [f"--runtime-dir={tmp_path}"]):
        command = [python, "-c", code, *options, "run", "--", "/bin/true"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.split() == ["125", "False", "False", "False", "False"]
        assert str(tmp_path) in done.stderr  # the option before the command reached the launcher
    assert "usage: governedctl run" in governedctl("run", "--help").stdout


def test_validate_names_file_line_field_and_expectation(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Profile\nname: default\nenvelope:\n  read: [/usr]\n  wriet: [/tmp]\n")
    done = governedctl("validate", "-f", tmp_path)
    assert done.returncode == 1
    assert "a.yaml:5:" in done.stderr
    assert "did you mean write?" in done.stderr
    done = governedctl("validate", "-f", tmp_path, "--json")
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "policy"
    assert (error["details"][0]["file"], error["details"][0]["line"]) == ("a.yaml", 5)


def test_validate_accepts_what_is_right(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POLICY)
    done = governedctl("validate", "-f", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["valid"], found["profiles"], found["agents"]) == (True, 1, 1)
    assert len(found["version"]) == 64


def test_doctor_says_what_is_missing_and_how_to_mend_it(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'runtime_dir = "{tmp_path}"\ngroup = "no-such-group-x"\nadmin_group = 0\nseal = "best-effort"\n')
    done = governedctl("--config", config, "doctor", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    features = {feature["feature"]: feature for feature in report["features"]}
    for name in ("seccomp-user-notification", "landlock", "cgroup-v2", "pidfd-getfd", "openat2", "admin-group"):
        assert features[name]["works"] is True, features[name]
    assert features["group"]["works"] is False
    assert "groupadd --system no-such-group-x" in features["group"]["remedy"]
    assert features["daemon"]["works"] is False
    assert features["gate"]["works"] is None
    # Without a daemon nobody tries; what the kernel itself says is missing is told.
    assert (features["bpf-lsm"]["works"], features["bpf-lsm"]["required"]) == (False if lsm.missing() else None, False)
    assert all(feature["works"] or feature["remedy"] for feature in report["features"])
    people = governedctl("--config", config, "doctor")
    assert people.returncode == 1
    assert "FAILED" in people.stdout


# ---- a scripted peer on the socket, for answers that a healthy daemon does not give

Answer = Callable[[pb.ControlRequest], list[pb.ControlReply]]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[[Answer], Path]]:
    """Answers each connection's one request with the given function, in the directory that it returns."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "control.sock"))
    listener.listen()

    def serve(answer: Answer) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = receive(connection, pb.ControlRequest)
                if request is not None:
                    with contextlib.suppress(OSError):
                        for reply in answer(request):
                            send(connection, reply)

    def start(answer: Answer) -> Path:
        threading.Thread(target=serve, args=[answer], daemon=True).start()
        return tmp_path

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def sandbox_list(_: pb.ControlRequest) -> list[pb.ControlReply]:
    info = pb.SandboxInfo(
        subject=nouns.Subject(sandbox="s1", agent=HOSTILE, profile="default", uid=1000),
        argv=[b"sh", HOSTILE.encode(), b"\xff"],
        pid=42,
        state="running",
    )
    return [pb.ControlReply(sandboxes=pb.SandboxList(sandboxes=[info]))]


def test_names_from_a_sandbox_cannot_act_on_a_terminal(peer: Callable[[Answer], Path]) -> None:
    directory = peer(sandbox_list)
    plain = governedctl("--runtime-dir", directory, "sandbox", "list")
    assert plain.returncode == 0
    assert SHOWN in plain.stdout
    assert "\x1b" not in plain.stdout
    for width in (400, 80):  # a table, and blocks because a table does not fit
        child = pexpect.spawn(
            str(PROGRAM),
            ["--runtime-dir", str(directory), "sandbox", "list"],
            env={**os.environ, "TERM": "xterm-256color"},
            dimensions=(50, width),
            timeout=30,
        )
        seen = child.read().decode()
        child.close()
        assert child.exitstatus == 0
        assert SHOWN in seen
        assert "\x07" not in seen
        assert "\x1b]" not in seen


def test_json_keeps_every_byte(peer: Callable[[Answer], Path]) -> None:
    done = governedctl("--runtime-dir", peer(sandbox_list), "sandbox", "list", "--json")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    (info,) = json.loads(done.stdout)["sandboxes"]
    assert info["argv"] == ["sh", HOSTILE, {"b64": "/w=="}]
    assert info["subject"]["agent"] == HOSTILE


def test_forbidden_is_4_and_other_errors_are_1(peer: Callable[[Answer], Path]) -> None:
    def answer(request: pb.ControlRequest) -> list[pb.ControlReply]:
        code = "forbidden" if request.HasField("rollback") else "unknown-sandbox"
        return [pb.ControlReply(error=pb.Error(code=code, message=f"no: {HOSTILE}"))]

    directory = peer(answer)
    done = governedctl("--runtime-dir", directory, "rollback")
    assert (done.returncode, done.stderr) == (4, f"governedctl: no: {SHOWN}\n")
    done = governedctl("--runtime-dir", directory, "sandbox", "kill", "s9", "--json")
    assert done.returncode == 1
    assert json.loads(done.stderr) == {"error": {"code": "unknown-sandbox", "message": f"no: {HOSTILE}"}}


def test_a_record_with_hostile_names_is_one_line(peer: Callable[[Answer], Path]) -> None:
    record = {"kind": "effect", "object": "/tmp/a\n\x1b[2J", "operation": "file.write", "seq": 7, "time_us": 0}
    line = b"0" * 64 + b" " + json.dumps(record, sort_keys=True).encode() + b"\n"
    directory = peer(lambda _: [pb.ControlReply(record=pb.JournalRecord(line=line))])
    done = governedctl("--runtime-dir", directory, "journal", "tail")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert "/tmp/a\\n\\x1b[2J" in done.stdout
    shown = governedctl("--runtime-dir", directory, "journal", "show", "7")
    assert "/tmp/a\\n\\x1b[2J" in shown.stdout
    assert json.loads(governedctl("--runtime-dir", directory, "journal", "show", "7", "--json").stdout) == {
        "hash": "0" * 64,
        **record,
    }
    assert governedctl("--runtime-dir", directory, "journal", "show", "8").returncode == 1


def test_explain_sends_the_object_as_the_kernel_names_it(peer: Callable[[Answer], Path], tmp_path: Path) -> None:
    asked: list[pb.ControlRequest] = []

    def answer(request: pb.ControlRequest) -> list[pb.ControlReply]:
        if request.HasField("get"):
            file = nouns.PolicySet.File(name="a.yaml", content=POLICY.encode())
            return [pb.ControlReply(documents=nouns.PolicySet(version="v", files=[file]))]
        asked.append(request)
        reports = [nouns.LayerReport(layer="tier", result="deny", rule="least-tier", reason=HOSTILE, nanoseconds=1500)]
        verdict = nouns.Verdict(decision=nouns.DECISION_DENY, layer="tier", rule="least-tier", layers=reports)
        return [pb.ControlReply(verdict=verdict)]

    directory = peer(answer)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    command = ["--runtime-dir", directory, "explain", "--operation", "file.write", "--object", "link/f", "--task", "t"]
    done = governedctl(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    action = asked[0].explain.action
    assert action.effect.object == os.fsencode(tmp_path.resolve() / "real" / "f")
    assert (action.subject.tier, action.subject.profile) == (nouns.TIER_AI_NATIVE, "default")
    assert (action.context.task, list(action.context.directories)) == ("t", [str(tmp_path.resolve())])
    assert SHOWN in done.stdout
    assert "1.5 µs" in done.stdout
    assert governedctl(*command, "--exit-code", cwd=tmp_path).returncode == 1
    unknown = governedctl(*command, "--agent", "nobody", cwd=tmp_path)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "there is no agent 'nobody'; there are default" in unknown.stderr


def test_get_shows_one_document_as_it_is_written(peer: Callable[[Answer], Path]) -> None:
    file = nouns.PolicySet.File(name="a.yaml", content=POLICY.encode())
    directory = peer(lambda _: [pb.ControlReply(documents=nouns.PolicySet(version="v", files=[file]))])
    done = governedctl("--runtime-dir", directory, "get", "Agent", "default")
    assert done.returncode == 0, done.stderr
    assert "kind: Agent\nname: default\ntier: AiNative" in done.stdout
    assert "Profile" not in done.stdout
    everything = json.loads(governedctl("--runtime-dir", directory, "get", "--json").stdout)
    assert everything == {"files": [{"name": "a.yaml", "content": POLICY}], "version": "v"}
    assert governedctl("--runtime-dir", directory, "get", "Agent", "nobody").returncode == 1
    assert governedctl("--runtime-dir", directory, "get", "Gate").returncode == 1
    assert governedctl("--runtime-dir", directory, "get", "Frob").returncode == 2


def test_a_reader_that_leaves_is_no_error(peer: Callable[[Answer], Path]) -> None:
    record = {"kind": "daemon.start", "seq": 1, "time_us": 0, "reason": "x" * 500}
    line = b"0" * 64 + b" " + json.dumps(record, sort_keys=True).encode()
    replies = [pb.ControlReply(record=pb.JournalRecord(line=line, more=True))] * 2000
    directory = peer(lambda _: replies)
    program = subprocess.Popen(
        [PROGRAM, "--runtime-dir", directory, "journal", "tail", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.readline()
    program.stdout.close()
    begun = time.monotonic()
    assert program.wait(30) == -signal.SIGPIPE  # quietly, as other programs end there
    assert program.stderr.read() == b""
    program.stderr.close()
    assert time.monotonic() - begun < 20
