"""What a program sees of a refusal, and what the person at the terminal does."""

import json
import re
import signal

import pytest

from tests.programs.stage import Stage
from tests.support.instance import Instance
from tests.support.users import ROOT, USER

# Each attempt on `where`; what it prints is compared with what is expected for a place that is refused or allowed.
ATTEMPTS = """
import errno, fcntl, json, os, socket, subprocess, sys
where = sys.argv[1]
def path(name): return os.path.join(where, name)
def opens(flags): return lambda: os.close(os.open(path("there"), flags))
def xattr(): os.setxattr(path("there"), "user.x", b"y")
def bind():
    with socket.socket(socket.AF_UNIX) as s: s.bind(path("sock"))
def flags():
    fd = os.open(path("there"), os.O_RDONLY)
    try: fcntl.ioctl(fd, 0x40086602, b"\\0" * 8)
    finally: os.close(fd)
def descriptor(call):
    def act():
        fd = os.open(path("there"), os.O_RDONLY)
        try: call(fd)
        finally: os.close(fd)
    return act
attempts = {
    "create": lambda: os.close(os.open(path("new"), os.O_CREAT | os.O_WRONLY)),
    "write": opens(os.O_WRONLY), "read+write": opens(os.O_RDWR), "truncating": opens(os.O_TRUNC),
    "append": opens(os.O_WRONLY | os.O_APPEND),
    "truncate": lambda: os.truncate(path("there"), 0),
    "mkdir": lambda: os.mkdir(path("dir")), "symlink": lambda: os.symlink("x", path("link")),
    "hard link": lambda: os.link(path("there"), path("hard")),
    "mknod": lambda: os.mkfifo(path("fifo")),
    "chmod": lambda: os.chmod(path("there"), 0o600), "fchmod": descriptor(lambda fd: os.fchmod(fd, 0o600)),
    "chown": lambda: os.chown(path("there"), -1, os.getgid()),
    "fchown": descriptor(lambda fd: os.fchown(fd, -1, os.getgid())),
    "xattr": xattr, "times": lambda: os.utime(path("there")), "ftimes": descriptor(lambda fd: os.utime(fd)),
    "rename": lambda: os.rename(path("there"), path("there2")),
    "rename back": lambda: os.rename(path("there2"), path("there")),
    "unlink": lambda: os.unlink(path("there")), "rmdir": lambda: os.rmdir(path("empty")),
    "bind": bind, "execute": lambda: subprocess.run([path("program")], check=True),
}
answers = {}
for name, attempt in attempts.items():
    try: attempt(); answers[name] = "ok"
    except OSError as error: answers[name] = errno.errorcode[error.errno]
print(json.dumps(answers))
"""

FILES = {
    "allowed/there": "x", "allowed/program": "#!/bin/true\n", "allowed/protected/there": "x",
    "refused/there": "x", "refused/program": "#!/bin/true\n",
}  # fmt: skip


def refusals(stderr: str) -> list[str]:
    """The launcher's lines. The command writes to the same stderr: it may have begun a line when one comes."""
    return re.findall(r"governed: refused .*", stderr)


def attempts(instance: Instance, stage: Stage, where: str, *, quiet: bool = True) -> tuple[dict[str, str], str]:
    stage.fresh(FILES)
    for name in ("allowed", "refused", "allowed/protected"):
        (stage.directory / name / "empty").mkdir()
    done = instance.run(
        "python3", "-c", ATTEMPTS, where, user=stage.user, profile="narrow", cwd=stage.directory, quiet=quiet
    )
    assert done.returncode == 0, done
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("where", ["refused", "allowed/protected"])
def test_a_refusal_is_eperm_or_eacces(either: Stage, where: str) -> None:
    answers, _ = attempts(either.instance, either, where)
    outcomes = {name: answer for name, answer in answers.items() if answer not in ("EPERM", "EACCES")}
    # What is not there cannot be renamed back or run: that is not a refusal.
    assert outcomes in ({"rename back": "ENOENT"}, {"rename back": "ENOENT", "execute": "ENOENT"})
    for name in ("there", "empty"):
        assert (either.directory / where / name).exists()
    assert (either.directory / where / "there").read_text() == "x"


def test_and_beside_it_everything_works(either: Stage) -> None:
    answers, stderr = attempts(either.instance, either, "allowed")
    # Binding, and programs that are not the system's, no profile lets run free here: the gate was asked.
    expected = {"execute": "EPERM"}
    assert {name: answer for name, answer in answers.items() if answer != "ok" and name != "bind"} == expected, stderr


def test_one_line_for_each_refusal_says_the_rule_and_how_to_ask(roomy: Instance, stage: Stage) -> None:
    answers, stderr = attempts(roomy, stage, "refused", quiet=False)
    refused = refusals(stderr)
    by_daemon = [line for line in refused if "daemon/envelope" in line]
    for line in by_daemon:
        assert f" {stage.directory}/refused/" in line
        assert "outside the envelope of profile narrow" in line
        assert "to ask for it" in line
    operations = {line.split()[2] for line in refused}
    assert {"file.create", "file.write", "file.truncate", "file.mkdir", "file.chmod", "file.unlink"} <= operations
    silent_at_most = sum(answer in ("EPERM", "EACCES") for answer in answers.values())
    told = len(refused) + sum(
        int(line.split()[3]) for line in stderr.splitlines() if line.startswith("governed: … and")
    )
    assert 0 < told <= silent_at_most


def test_quiet_says_nothing(roomy: Instance, stage: Stage) -> None:
    _, stderr = attempts(roomy, stage, "refused", quiet=True)
    assert stderr == ""


def test_the_line_names_a_record_that_can_be_shown(roomy: Instance, stage: Stage) -> None:
    stage.fresh({})
    done = roomy.run("touch", "new", cwd=stage.directory, profile="narrow")
    assert done.returncode == 1
    (line,) = refusals(done.stderr)
    number = line.partition("(record ")[2].partition(";")[0]
    shown = roomy.ctl("journal", "show", number, "--json")
    record = json.loads(shown.stdout)
    assert (record["operation"], record["decision"], record["rule"]) == ("file.create", "deny", "envelope")
    assert record["object"] == str(stage.directory / "new")


HOSTILE = "x\x1b]0;owned\x07\nsecond line\u202etxt.exe"


def test_names_do_not_steer_the_terminal(roomy: Instance, stage: Stage) -> None:
    stage.fresh({})
    done = roomy.run("touch", HOSTILE, b"\xff\xfe", cwd=stage.directory, profile="narrow")
    lines = refusals(done.stderr)
    assert len(lines) == 2
    assert all("\x1b" not in line and "\u202e" not in line and "\udcff" not in line for line in lines)
    assert "\\x1b" in lines[0]
    assert "\\xff\\xfe" in lines[1]


def test_tmpfile_outside_the_envelope_fails_without_harm(roomy: Instance, stage: Stage) -> None:
    """tmpfile(3) of glibc knows /tmp only, with or without TMPDIR."""
    stage.fresh({})
    script = "import ctypes; libc = ctypes.CDLL(None); libc.tmpfile.restype = ctypes.c_void_p; print(libc.tmpfile())"
    done = roomy.run("python3", "-c", script, cwd=stage.directory, profile="roomy")
    assert (done.returncode, done.stdout) == (0, "None\n")


# ---- exit codes


@pytest.mark.parametrize("code", [0, 1, 77, 124, 125, 126, 127, 128, 130, 255])
def test_the_commands_code(roomy: Instance, code: int) -> None:
    assert roomy.run("sh", "-c", f"exit {code}", profile="roomy").returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGPIPE])
@pytest.mark.parametrize("user", [USER, ROOT])
def test_the_launcher_dies_of_the_same_signal(roomy: Instance, number: int, user: int) -> None:
    done = roomy.run("sh", "-c", f"kill -{int(number)} $$", profile="roomy", user=user)
    assert done.returncode == -number


def test_what_cannot_be_started(roomy: Instance, stage: Stage) -> None:
    stage.fresh({"plain": "text\n", "wrong": "#!/nonexistent\n"})

    def code(*argv: str, profile: str = "roomy") -> int:
        return roomy.run(*argv, profile=profile, cwd=stage.directory).returncode

    assert code("no-such-program-anywhere") == 127
    assert code("./missing") == 127
    assert code("./wrong") == 127
    assert code("./plain") == 126
    assert code("/") == 126
    assert code("true", profile="no-such-profile") == 125
    assert code("true") == 0
    assert roomy.ctl("--runtime-dir", "/nonexistent", "run", "--", "true").returncode == 125


def test_a_program_that_may_not_run_is_126_and_says_why(roomy: Instance, stage: Stage) -> None:
    stage.fresh({"allowed/program": "#!/bin/sh\necho ran\n"})
    done = roomy.run("allowed/program", profile="narrow", cwd=stage.directory)
    assert (done.returncode, done.stdout) == (126, "")
    assert "governed: refused process.exec" in done.stderr
    done = roomy.run("sh", "allowed/program", profile="narrow", cwd=stage.directory)
    assert (done.returncode, done.stdout) == (0, "ran\n")
