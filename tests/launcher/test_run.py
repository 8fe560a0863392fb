"""`governedctl run` with the real daemon, as an ordinary user and as root."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support.instance import Instance
from tests.support.users import ROOT, STRANGER, USER, identity

both = pytest.mark.parametrize("user", [USER, ROOT])


@both
@pytest.mark.parametrize("code", [0, 1, 7, 125, 126, 127, 255])
def test_the_exit_code_is_the_commands(daemon: Instance, user: int, code: int) -> None:
    assert daemon.run("sh", "-c", f"exit {code}", user=user).returncode == code


@both
def test_a_signal_that_ends_the_command_ends_the_launcher(daemon: Instance, user: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT):
        done = daemon.run("sh", "-c", f"kill -{number.value} $$; sleep 5", user=user)
        assert done.returncode == -number


@both
def test_not_found_and_not_executable(daemon: Instance, user: int) -> None:
    missing = daemon.run("no-such-command", user=user)
    assert missing.returncode == 127
    assert missing.stderr.endswith("governedctl run: no-such-command: command not found\n")
    assert daemon.run("./no-such", user=user).returncode == 127
    assert daemon.run("/etc/passwd", user=user).returncode == 126
    assert daemon.run("/usr", user=user).returncode == 126
    work = daemon.work_of(user)
    script = work / "bare"
    script.write_text("echo hi\n")
    script.chmod(0o755)
    assert daemon.run("./bare", user=user).returncode == 126
    script.write_text("#!/no/such/interpreter\n")
    assert daemon.run("./bare", user=user).returncode == 127
    script.unlink()


def test_streams_and_arguments_go_through_as_they_are(daemon: Instance) -> None:
    words = ["", "a b", "'", "$x", "\n", "-x", "--"]
    code = "import sys, os; os.write(1, repr([os.fsencode(w) for w in sys.argv[1:]]).encode()); os.write(2, b'E')"
    done = daemon.run("/usr/bin/python3", "-c", code, *words, b"\xff", quiet=True)
    assert done.stdout == repr([word.encode() for word in words] + [b"\xff"])
    assert done.stderr == "E"
    assert daemon.run("cat", stdin="one\ntwo\n").stdout == "one\ntwo\n"


STATUS = """
import json, os, resource, signal
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "uid": os.getuid(), "cwd": os.getcwd(), "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
    "environment": dict(os.environ), "core": resource.getrlimit(resource.RLIMIT_CORE), "pgrp": os.getpgrp(),
    **{key: status[key].strip() for key in ("NoNewPrivs", "Seccomp", "CapBnd", "CapEff", "CapInh", "CapAmb", "SigBlk")},
    "sigpipe": open("/proc/self/status").read().split("SigIgn:")[1].split()[0],
}))
"""


@both
def test_what_the_command_finds(daemon: Instance, user: int) -> None:
    extra = {"GITHUB_TOKEN": "x", "MY_API_KEY": "y", "HARMLESS": "z"}
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    done = subprocess.run(
        daemon.command("run", "--", "/usr/bin/python3", "-I", "-c", STATUS),
        capture_output=True, text=True, timeout=30, check=False, pass_fds=[writing], cwd=daemon.work_of(user),
        env=daemon.environment(user, extra), **identity(user),
    )  # fmt: skip
    os.close(reading)
    os.close(writing)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["uid"] == user
    assert found["cwd"] == str(daemon.work_of(user))
    assert found["descriptors"][:3] == [0, 1, 2]
    assert len(found["descriptors"]) == 4, "and the one that lists them"
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
    assert int(found["SigBlk"], 16) == 0
    assert found["core"] == [0, 0]
    environment = found["environment"]
    assert "GITHUB_TOKEN" not in environment
    assert "MY_API_KEY" not in environment
    assert environment["HARMLESS"] == "z"
    assert environment["GOVERNED_SANDBOX"]
    assert os.path.basename(environment["TMPDIR"]) == environment["GOVERNED_SANDBOX"]
    assert "not passed on" in done.stderr
    assert "GITHUB_TOKEN, MY_API_KEY" in done.stderr
    if user == ROOT:
        bounding = int(found["CapBnd"], 16)
        for capability in (21, 19, 12, 13, 16, 17, 27, 31, 39, 38, 40):  # SYS_ADMIN, SYS_PTRACE, NET_ADMIN, …
            assert not bounding >> capability & 1, capability
        assert bounding >> 1 & 1, "root stays root towards files"
        assert found["CapEff"] == found["CapBnd"]
    else:
        assert int(found["CapEff"], 16) == 0


def test_ignored_signals_stay_as_they_were(daemon: Instance) -> None:
    code = "import signal; print(int(signal.getsignal(signal.SIGHUP)))"
    inside = daemon.run("/usr/bin/env", "--default-signal=TERM", "sh", "-c", "grep SigIgn /proc/self/status")
    assert int(inside.stdout.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    nohup = subprocess.run(
        ["env", "--ignore-signal=HUP", *daemon.command("run", "--quiet", "--", "/usr/bin/python3", "-c", code)],
        capture_output=True, text=True, timeout=30, check=False, env=daemon.environment(ROOT), cwd=daemon.root_work,
    )  # fmt: skip
    assert nohup.stdout.split()[-1] == str(int(signal.SIG_IGN)), nohup.stderr


def test_quiet_silences_everything_but_failures(daemon: Instance) -> None:
    loud = daemon.run("sh", "-c", ": > /no-such-file; true", env={"A_TOKEN": "x"})
    assert "seal: none" in loud.stderr
    assert "not passed on" in loud.stderr
    quiet = daemon.run("true", quiet=True, env={"A_TOKEN": "x"})
    assert quiet.stderr == ""
    assert "no-such" in daemon.run("no-such", quiet=True).stderr


def test_a_refusal_is_one_line_and_an_errno(daemon: Instance) -> None:
    target = daemon.home / ".bashrc"
    code = f"try:\n    open({str(target)!r}, 'a')\nexcept OSError as error:\n    print(error.errno)"
    script = daemon.work / "attempt.py"
    script.write_text(code)
    done = daemon.run("/usr/bin/python3", str(script))
    assert done.stdout in ("1\n", "13\n")
    refusals = [line for line in done.stderr.splitlines() if line.startswith("governed: refused")]
    assert len(refusals) == 1
    assert str(target) in refusals[0]
    assert "to ask for it" in refusals[0]
    assert not target.exists()
    assert daemon.run("/usr/bin/python3", str(script), quiet=True).stderr == ""


def test_signals_sent_to_the_launcher_reach_the_command(daemon: Instance) -> None:
    code = (
        "import os, signal, time\n"
        "got = []\n"
        "def hear(number, _): got.append(number); os.write(1, b'%d\\n' % number)\n"
        "for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM): signal.signal(number, hear)\n"
        "print('ready', flush=True)\n"
        "while len(got) < 3: time.sleep(0.02)\n"
    )
    program = daemon.spawn("/usr/bin/python3", "-c", code, quiet=True)
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
        program.send_signal(number)
        assert program.stdout.readline() == f"{int(number)}\n".encode()
    assert program.wait(10) == 0


def test_stopping_and_continuing(daemon: Instance) -> None:
    program = daemon.spawn(
        "/usr/bin/python3", "-c", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nprint('on')"
    )
    _, status = os.waitpid(program.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGSTOP
    os.kill(program.pid, signal.SIGCONT)
    assert program.stdout is not None
    assert program.stdout.readline() == b"on\n"
    assert program.wait(10) == 0


def test_what_the_command_leaves_running_ends_with_it(daemon: Instance) -> None:
    done = daemon.run("sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!", timeout=20)
    left = int(done.stdout)
    daemon.wait_until(lambda: True if not os.path.exists(f"/proc/{left}") else None, "the background process to end")


def test_a_killed_launcher_takes_the_sandbox_with_it(daemon: Instance) -> None:
    program = daemon.spawn("sh", "-c", "sleep 300 & echo $$; wait", quiet=True)
    assert program.stdout is not None
    shell = int(program.stdout.readline())
    program.kill()
    program.wait(10)
    daemon.wait_until(lambda: True if not os.path.exists(f"/proc/{shell}") else None, "the sandbox to end")
    daemon.wait_until(lambda: True if not daemon.sandboxes() else None, "the daemon to forget it")


def test_nested_runs_make_a_child_subject(daemon: Instance) -> None:
    program = daemon.command("run", "--quiet", "--", "sh", "-c", "echo inner $GOVERNED_SANDBOX; exit 9")
    done = daemon.run(*program, timeout=20)
    assert done.returncode == 9, done.stderr
    assert done.stdout.startswith("inner ")
    filters = daemon.run(
        "/usr/bin/env", *daemon.command("run", "--quiet", "--", "grep", "Seccomp_f", "/proc/self/status")
    )
    assert filters.stdout.split() == ["Seccomp_filters:", "1"], "no second filter, no second listener"


def test_a_user_who_is_not_in_the_group_is_told_so(daemon: Instance) -> None:
    done = daemon.ctl("run", "--", "true", user=STRANGER, cwd="/")
    assert done.returncode == 125
    assert "group" in done.stderr


def test_an_unknown_profile_is_125_and_says_which_there_are(daemon: Instance) -> None:
    done = daemon.run("true", profile="no-such")
    assert done.returncode == 125
    assert "no-such" in done.stderr
    assert "default" in done.stderr


def test_no_daemon_is_125_and_says_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("none")
    done = launch(str(directory))
    assert done.returncode == 125
    assert "does not run" in done.stderr


# ---- a daemon that misbehaves


def launch(runtime_dir: str, *options: str) -> "subprocess.CompletedProcess[str]":
    code = "import sys\nfrom governed_mcpd.launcher.main import run_command\nsys.exit(run_command(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, "--runtime-dir", runtime_dir, *options, "--", "sh", "-c", "echo ran"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def plan(**fields: object) -> bytes:
    from governed.v1 import control_pb2 as pb

    given: dict[str, object] = {"sandbox": "abc", "token": "t", "envelope": pb.Envelope(read=[b"/"], execute=[b"/"])}
    return framed(pb.ControlReply(run=pb.RunPlan(**{**given, **fields})).SerializeToString())  # type: ignore[arg-type]


def adopted() -> bytes:
    from governed.v1 import control_pb2 as pb

    return framed(pb.ControlReply(adopted=pb.Adopted(sandbox="abc")).SerializeToString())


def limited() -> bytes:
    from governed.v1 import control_pb2 as pb

    return plan(limits=[pb.Limit(resource="moon", soft=1, hard=1)])


GOOD_FILTER = bytes.fromhex("060000000000ff7f")  # BPF_RET ALLOW
MISBEHAVIOURS = {
    "closes at once": ([b""], "closed the connection"),
    "half a message": ([b"\0\0\0\x20abc"], "closed the connection"),
    "a huge length": ([b"\xff\xff\xff\xff"], "was announced"),
    "garbage": ([b"\0\0\0\x03\xff\xff\xff"], "message of the daemon"),
    "another reply": ([adopted()], "different versions"),
    "no token": ([plan(token="")], "no token"),
    "dies before adoption": ([plan(), b""], "closed the connection"),
    "answers adoption with something else": ([plan(), plan()], "different versions"),
    "an unknown limit": ([limited(), adopted()], "moon"),
    "half a filter": ([plan(filter=b"abc"), adopted()], "a filter of 3 bytes"),
    "a filter that the kernel refuses": ([plan(filter=b"\xff" * 8), adopted()], "seccomp"),
    "dies after the listener came": ([plan(filter=GOOD_FILTER), adopted()], "closed the connection"),
    "a path that is not canonical": ([], "canonical"),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_a_daemon_that_misbehaves_runs_nothing(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    from governed.v1 import control_pb2 as pb

    replies, says = MISBEHAVIOURS[name]
    if not replies:
        replies = [plan(envelope=pb.Envelope(read=[b"/usr/../etc"])), adopted()]
    directory = tmp_path_factory.mktemp("d")
    pid = os.fork()
    if pid == 0:
        serve(f"{directory}/control.sock", replies)
    try:
        deadline = time.monotonic() + 10
        while not os.path.exists(f"{directory}/ready") and time.monotonic() < deadline:
            time.sleep(0.01)
        done = launch(str(directory))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert done.returncode == 125
    assert done.stdout == "", "the command must not have run"
    assert says in done.stderr


def serve(path: str, replies: list[bytes]) -> None:
    """The n-th connection gets the n-th reply to its first message; after an empty or the last one it is closed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(8)
    open(os.path.join(os.path.dirname(path), "ready"), "w").close()
    kept = []
    for number, reply in enumerate(replies):
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(reply)
        if not reply or number == len(replies) - 1:
            if reply and number:
                connection.recv(65536)  # what comes next is not answered
            connection.close()
        else:
            kept.append(connection)
    listener.close()
    time.sleep(30)
    os._exit(0)
