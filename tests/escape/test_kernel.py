"""Calls that reach the machine, or the user's other programs, without a path; and terminals."""

import errno
import os
import pty
import re
import select
import subprocess
import termios
import time

import pytest

from tests.escape.arena import Arena, refused
from tests.support.users import ROOT, USER, identity

ANYONE = ["userfaultfd", "add-key", "keyctl", "request-key", "shm", "sem", "msg", "mq", "personality", "dispatch"]
BY_ROOT = [
    "bpf",
    "perf",
    "reboot",
    "kexec",
    "kexec-file",
    "swapon",
    "swapoff",
    "clock",
    "clock-set",
    "module",
    "module-file",
    "unmodule",
    "acct",
    "hostname",
    "ports",
    "log",
    "quota",
    "fanotify",
    "prctl-mm",
]
NOT_HERE = (errno.ENOSYS, errno.EOPNOTSUPP)  # what a kernel without it says


@pytest.mark.parametrize("attack", ANYONE)
def test_what_anyone_can_do_outside(arena: Arena, user: int, attack: str) -> None:
    """Keys, System V and POSIX IPC, page faults in the hand of a program, other rules for system calls."""
    assert arena.proof(user, "kernel", attack).worked
    assert refused(arena.attack(user, "kernel", attack), errno.EPERM, errno.ENOSYS)


@pytest.mark.parametrize("attack", BY_ROOT)
def test_what_root_can_do_outside(arena: Arena, attack: str) -> None:
    """The machine, its clock, its modules, programs in its kernel. Where it would do harm the arguments are wrong, so
    that the kernel says so after it has checked permission."""
    outside = arena.proof(ROOT, "kernel", attack)
    assert outside.worked or outside.errno in NOT_HERE, str(outside)
    for user in (ROOT, USER):
        assert refused(arena.attack(user, "kernel", attack), errno.EPERM, errno.ENOSYS), user


def test_the_clock_is_not_even_asked(arena: Arena, user: int) -> None:
    """adjtimex reads and sets; clock_gettime, which programs use, passes."""
    assert arena.proof(user, "kernel", "adjust").worked
    assert refused(arena.attack(user, "kernel", "adjust"), errno.EPERM)


@pytest.mark.parametrize("attack", ["unknown", "negative"])
def test_calls_that_nobody_knows(arena: Arena, user: int, attack: str) -> None:
    """A number that this kernel has not, and one that none has."""
    assert refused(arena.attack(user, "kernel", attack), errno.ENOSYS)


def test_neighbours_that_work(arena: Arena, user: int) -> None:
    """Asking for the personality, setting the own name."""
    for attack in ("personality-query", "own-name"):
        assert arena.attack(user, "kernel", attack).worked


def test_core_dumps(arena: Arena, user: int) -> None:
    """None is written, and the limit cannot be raised again."""
    assert arena.proof(user, "kernel", "dumps").worked
    assert refused(arena.attack(user, "kernel", "dumps"), errno.EPERM)
    before = {path.name for path in arena.work(user).iterdir()}
    done = arena.instance.run("/bin/sh", "-c", "ulimit -c; kill -SEGV $$", user=user, profile="escape")
    assert done.stdout == "0\n"
    assert done.returncode == -11
    assert {path.name for path in arena.work(user).iterdir()} == before


class Terminal:
    """A pseudo-terminal with a program of the user in it, which it controls."""

    def __init__(self, arena: Arena, user: int, *command: object) -> None:
        self.master, slave = pty.openpty()
        self.name = os.ttyname(slave)
        os.chown(self.name, user, user)
        os.chmod(self.name, 0o600)
        settings = termios.tcgetattr(slave)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        # setsid -c makes standard input the controlling terminal
        self.process = subprocess.Popen(
            ["setsid", "-c", "-w", *map(os.fspath, map(str, command))],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=arena.instance.environment(user),
            cwd=arena.work(user),
            **identity(user),
        )
        os.close(slave)
        self.output = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(30)
        os.close(self.master)

    def until(self, pattern: bytes, seconds: float = 60) -> "re.Match[bytes]":
        """Reads until the pattern has appeared."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.output)) is None:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"waited for {pattern!r}: {self.output!r}"
            try:
                self.output += os.read(self.master, 4096)
            except OSError:  # EIO: nobody has the other end any more
                assert re.search(pattern, self.output), f"{pattern!r} never came: {self.output!r}"
        return found


SAID = rb"(worked|refused (\d+))\r?\n"


@pytest.mark.parametrize("attack", ["sti", "sti-dirty", "linux", "discipline", "async", "async-ioctl"])
def test_the_controlling_terminal_is_not_steered(arena: Arena, user: int, attack: str) -> None:
    """TIOCSTI types into it what the shell outside runs; the console pastes; line disciplines are kernel
    code; O_ASYNC signals its foreground process group, which need not be the sandbox's."""
    program = arena.bin / "kernel"
    with Terminal(arena, user, program, attack, "x") as outside:
        assert outside.until(SAID)[1] == b"worked"
    inside = arena.instance.command("run", "--profile", "escape", "--", str(program), attack, "x")
    with Terminal(arena, user, *inside) as terminal:
        found = terminal.until(SAID)
        assert found[2] == str(errno.EPERM).encode(), terminal.output
    neighbour = arena.instance.command("run", "--profile", "escape", "--", str(program), "size")
    with Terminal(arena, user, *neighbour) as terminal:
        assert terminal.until(SAID)[1] == b"worked"


@pytest.mark.parametrize("attack", ["tty-read", "tty-write"])
def test_other_terminals(arena: Arena, user: int, attack: str) -> None:
    """What is typed in another terminal of the same user is neither read nor forged; the own terminal can be used, and
    so can /dev/tty. (A profile whose opens pause sees to it by the judge, any other by the Envelope.)"""
    with Terminal(arena, user, "sleep", "300") as other:
        assert arena.proof(user, "kernel", attack, other.name).worked
        for profile in ("escape", "escape-reads", "wide"):
            outcome = arena.attack(user, "kernel", attack, other.name, profile=profile)
            assert refused(outcome), (profile, str(outcome))
        if attack == "tty-write":
            other.until(rb"attack\r\n", 10)  # the one from outside
            assert other.output.count(b"attack") == 1
    for profile in ("escape", "escape-reads"):
        for name in ("/dev/tty", "$(tty)"):
            line = f"{arena.bin / 'kernel'} {attack} {name}"
            inside = arena.instance.command("run", "--profile", profile, "--", "/bin/sh", "-c", line)
            with Terminal(arena, user, *inside) as terminal:
                assert terminal.until(SAID)[1] == b"worked", (profile, name, terminal.output)


def test_an_own_pseudo_terminal(arena: Arena, user: int) -> None:
    """/dev/ptmx and the other end of it, where opens for reading pause."""
    assert arena.proof(user, "kernel", "own-pty").worked
    for profile in ("escape-reads", "wide"):
        assert arena.attack(user, "kernel", "own-pty", profile=profile).worked, profile
