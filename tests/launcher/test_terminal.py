"""Terminals: what a person sees in bash and python3 inside a sandbox is what they see outside."""

import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pexpect
import pytest

from tests.support.instance import Instance
from tests.support.users import ROOT, USER, identity

PROMPT = "READY> "
BASH = ["/bin/bash", "--norc", "--noprofile", "-i"]
PYTHON = ["/usr/bin/python3", "-q"]
SECONDS = 15
Script = Callable[["pexpect.spawn[bytes]"], None]

both = pytest.mark.parametrize("user", [USER, ROOT])


@contextmanager
def terminal(daemon: Instance, argv: list[str], user: int, inside: bool) -> "Iterator[pexpect.spawn[bytes]]":
    """A program on a pseudo-terminal of its own, in a session of its own, as `user`."""
    command = [*map(str, daemon.command("run", "--quiet", "--")), *argv] if inside else argv
    environment = daemon.environment(
        user, {"TERM": "xterm", "PS1": PROMPT, "HISTFILE": "", "PYTHON_HISTORY": "/dev/null", "INPUTRC": "/dev/null"}
    )
    settings = identity(user)
    if settings:
        # pexpect does not change users; this does, before anything else runs.
        groups = ",".join(map(str, settings["extra_groups"]))
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={groups}", *command]
    child = pexpect.spawn(
        command[0], command[1:], env=environment, cwd=str(daemon.work_of(user)), timeout=SECONDS, dimensions=(24, 80)
    )
    try:
        yield child
    finally:
        child.close(force=True)


def transcript(daemon: Instance, argv: list[str], user: int, inside: bool, script: Script) -> str:
    """What came on the terminal, with process ids and the sandbox's own names made the same."""
    with terminal(daemon, argv, user, inside) as child:
        seen = bytearray()
        child.logfile_read = _Log(seen)
        script(child)
        child.expect(pexpect.EOF)
        child.close()
        text = seen.decode()
        return re.sub(r"\b[0-9]{3,7}\b", "N", text) + f"[{child.exitstatus} {child.signalstatus}]"


class _Log:
    def __init__(self, seen: bytearray) -> None:
        self._seen = seen

    def write(self, data: bytes) -> None:
        self._seen += data

    def flush(self) -> None:
        """Nothing is buffered."""


def interrupt(child: "pexpect.spawn[bytes]") -> None:
    child.expect_exact(PROMPT)
    child.sendline("sleep 60; echo not-reached")
    child.expect_exact("sleep 60; echo not-reached\r\n")
    _settle(child)
    child.sendintr()
    child.expect_exact(PROMPT)
    child.sendline("echo code $?; exit 3")


def stop_and_foreground(child: "pexpect.spawn[bytes]") -> None:
    child.expect_exact(PROMPT)
    child.sendline("cat")
    child.expect_exact("cat\r\n")
    _settle(child)
    child.sendcontrol("z")
    child.expect_exact("Stopped")
    child.expect_exact(PROMPT)
    child.sendline("jobs")
    child.expect_exact("Stopped")
    child.expect_exact(PROMPT)
    child.sendline("fg")
    child.expect_exact("cat\r\n")
    _settle(child)
    child.sendline("line")
    child.expect_exact("line\r\nline\r\n")
    child.sendeof()
    child.expect_exact(PROMPT)
    child.sendline("exit 0")


def background(child: "pexpect.spawn[bytes]") -> None:
    child.expect_exact(PROMPT)
    child.sendline("sleep 0.3 & wait; echo waited")
    child.expect_exact("\r\nwaited\r\n")
    child.expect_exact(PROMPT)
    child.sendline("cat & sleep 0.3; jobs")  # reading the terminal from the background stops it
    child.expect_exact("Stopped")
    child.expect_exact(PROMPT)
    child.sendline("kill -KILL %1; sleep 0.3")
    child.expect_exact("Killed")
    child.expect_exact(PROMPT)
    child.sendline("exit")


def resize(child: "pexpect.spawn[bytes]") -> None:
    child.expect_exact(PROMPT)
    child.sendline("stty size; trap 'echo resized' WINCH")
    child.expect_exact("24 80\r\n")
    child.expect_exact(PROMPT)
    child.setwinsize(30, 100)
    _settle(child)
    child.sendline("stty size; exit")
    child.expect_exact("30 100\r\n")


def completion(child: "pexpect.spawn[bytes]") -> None:
    child.expect_exact(PROMPT)
    child.send("echo /etc/debian_v\t")
    child.expect_exact("/etc/debian_version")
    child.sendline("")
    child.expect_exact(PROMPT)
    child.send("ech ko\x01\x1b[C\x1b[C\x1b[C\x0bo edited\r")  # beginning of line, three right, kill, type
    child.expect_exact("\redited\r\n")
    child.expect_exact(PROMPT)
    child.send("\x1b[A\r")  # the previous line
    child.expect_exact("\redited\r\n")
    child.expect_exact(PROMPT)
    child.sendline("exit")


def pipelines(child: "pexpect.spawn[bytes]") -> None:
    child.expect_exact(PROMPT)
    child.sendline("seq 5 | tac | head -2; false | true; echo ${PIPESTATUS[@]}; (exit 4); echo $?")
    child.expect_exact("1 0\r\n4\r\n")
    child.expect_exact(PROMPT)
    child.sendline("tty >/dev/null && test -t 0 && test -t 1 && test -t 2 && echo terminal")
    child.expect_exact("\rterminal\r\n")
    child.expect_exact(PROMPT)
    child.sendline("exit 5")


@both
@pytest.mark.parametrize("script", [interrupt, stop_and_foreground, background, resize, completion, pipelines])
def test_bash(daemon: Instance, user: int, script: Script) -> None:
    outside = transcript(daemon, BASH, user, False, script)
    inside = transcript(daemon, BASH, user, True, script)
    assert inside == outside


def python_session(child: "pexpect.spawn[bytes]") -> None:
    child.expect_exact(">>> ")
    child.sendline("1 + 1")
    child.expect_exact("2\r\n>>> ")
    child.sendline("import time; time.sleep(60)")
    child.expect_exact("sleep(60)\r\n")
    _settle(child)
    child.sendintr()
    child.expect_exact("KeyboardInterrupt\r\n>>> ")
    child.send("impo\t")
    child.expect_exact("import ")
    child.sendline("os")
    child.expect_exact(">>> ")
    child.sendline("os.get_terminal_size()")
    child.expect_exact("columns=80, lines=24")
    child.expect_exact(">>> ")
    child.setwinsize(40, 120)
    _settle(child)
    child.sendline("os.get_terminal_size()")
    child.expect_exact("columns=120, lines=40")
    child.expect_exact(">>> ")
    child.send("prin\x08\x08\x08\x0847 - 5\r")
    child.expect_exact("42\r\n>>> ")
    child.sendline("exit(6)")


@both
def test_python(daemon: Instance, user: int) -> None:
    outside = transcript(daemon, PYTHON, user, False, python_session)
    inside = transcript(daemon, PYTHON, user, True, python_session)
    assert inside == outside
    assert inside.endswith("[6 None]")


@both
@pytest.mark.parametrize(("key", "number"), [("c", signal.SIGINT), ("\\", signal.SIGQUIT)])
def test_keys_that_end_a_program_end_the_launcher_by_that_signal(
    daemon: Instance, user: int, key: str, number: int
) -> None:
    for inside in (False, True):
        with terminal(daemon, ["/bin/cat"], user, inside) as child:
            child.sendline("up")
            child.expect_exact("up\r\nup\r\n")
            child.sendcontrol(key)
            child.expect(pexpect.EOF)
            child.close()
            assert child.signalstatus == number


@both
def test_the_launcher_is_a_job_of_the_shell_that_started_it(daemon: Instance, user: int) -> None:
    """^Z stops launcher and command, the shell outside says so, and fg goes on: as without the launcher."""

    def script(child: "pexpect.spawn[bytes]", program: str) -> str:
        child.expect_exact(PROMPT)
        child.sendline(f"{program} cat")
        child.expect_exact("cat\r\n")
        child.sendline("up")
        child.expect_exact("up\r\nup\r\n")
        child.sendcontrol("z")
        child.expect_exact("Stopped")
        child.expect_exact(PROMPT)
        child.sendline("bg")  # it reads the terminal from there, and so stops again
        _settle(child)
        child.sendline("jobs")
        child.expect_exact("Stopped")
        child.expect_exact(PROMPT)
        child.sendline("fg")
        child.expect_exact("cat\r\n")
        _settle(child)
        child.sendline("again")
        child.expect_exact("again\r\nagain\r\n")
        child.sendcontrol("c")
        child.expect_exact(PROMPT)
        child.sendline("echo code $?")
        child.expect(rb"code (\d+)\r\n")
        assert child.match is not None
        code = child.match.group(1).decode()
        child.expect_exact(PROMPT)
        child.sendline("exit")
        child.expect(pexpect.EOF)
        return code

    with terminal(daemon, BASH, user, False) as child:
        outside = script(child, "")
    with terminal(daemon, BASH, user, False) as child:
        inside = script(child, " ".join(map(str, daemon.command("run", "--quiet", "--"))))
    assert inside == outside == str(128 + signal.SIGINT)


def test_a_closed_terminal_hangs_the_command_up(daemon: Instance) -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGHUP, lambda *_: (open('hup', 'w').close(), os._exit(0)))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    marker = daemon.work / "hup"
    with terminal(daemon, ["/usr/bin/python3", "-c", code], USER, True) as child:
        child.expect_exact("ready")
        child.close(force=False)
        daemon.wait_until(lambda: True if marker.exists() else None, "the command to hear SIGHUP")
    marker.unlink()


def _settle(child: "pexpect.spawn[bytes]") -> None:
    """Until the foreground job reads or sleeps: a key that comes before it has the terminal would go elsewhere."""
    import time

    time.sleep(0.4 if sys.gettrace() is None else 1.0)
    assert child.isalive()
