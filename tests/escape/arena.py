"""Where the attacks are tried: one instance with a profile that leaves them as much room as a profile can, real attack
programs, things outside and protected things inside that they are after, and a victim of the same uid.

Every attack runs twice: outside any sandbox, where it has to work (else it proves nothing), and inside.
"""

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.instance import CHECKOUT, Instance
from tests.support.users import identity

PROGRAMS = Path(__file__).parent / "programs"
NAMES = ("files", "processes", "network", "kernel", "life")

_PROFILE = """
kind: Profile
name: {name}
reads: {reads}
envelope:
  read: [/usr, /bin, /sbin, /lib, /lib64, /etc, /proc, /sys, /dev/null, "{base}/readable"]
  write: ["${{cwd}}", "${{scratch}}", /dev/null, /dev/zero, /dev/tty, /dev/ptmx, /dev/pts]
  execute: [/usr, /bin, /sbin, /lib, /lib64, "${{scratch}}", "{base}/attack", "{checkout}"]
protected: ["${{cwd}}/protected", "${{cwd}}/above/protected"]
free:
  - {{operations: [file.read, process.exec], on: /**}}
  - {{operations: {changes}, on: "${{cwd}}/**"}}
  - {{operations: [net.bind, net.listen, net.connect, net.send], on: "unix:@free-{base}"}}
  - {{operations: [net.connect, net.send, net.bind, net.listen], on: "tcp:127.0.0.2:*"}}
  - {{operations: [net.connect, net.send, net.bind], on: "udp:127.0.0.2:*"}}
limits: {{pending: 64, processes: 512, scratch_mib: 16, journal_mib: 64}}
"""
# For child Subjects.
_NARROW = """
kind: Profile
name: narrow
envelope:
  read: [/usr, /bin, /lib, /lib64, /etc, /proc, /dev/null, "{base}/attack", "{checkout}"]
  write: ["${{cwd}}/narrow"]
  execute: [/usr, /bin, /lib, /lib64, "{base}/attack"]
free:
  - {{operations: {every}, on: /**}}
"""
# The whole file system lies in this one's envelope, and everything runs free: what is refused, the daemon never allows.
_WIDE = """
kind: Profile
name: wide
envelope: {{read: [/], write: [/], execute: [/]}}
free:
  - {{operations: {every}, on: /**}}
"""
# Reads the whole file system, and only the envelope bounds that.
_EVERYTHING = """
kind: Profile
name: everything
envelope: {{read: [/], write: ["${{cwd}}", "${{scratch}}", /dev/null], execute: [/]}}
free:
  - {{operations: {every}, on: /**}}
"""
_CHANGES = (
    "[file.write, file.create, file.truncate, file.unlink, file.rmdir, file.rename, file.link, file.symlink, "
    "file.mkdir, file.mknod, file.chmod, file.chown, file.xattr, file.times, file.ioctl]"
)
_EVERY = _CHANGES[:-1] + ", file.read, process.exec]"
_AGENT = """
kind: Agent
name: default
tier: System
profiles: [escape, escape-reads, wide, everything, narrow]
"""
_GATE = """
kind: Gate
name: gate
person_seconds: 1
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack program said: worked, or the errno of its refusal."""

    worked: bool
    errno: int
    output: str
    stderr: str

    def __str__(self) -> str:
        return "worked" if self.worked else f"refused {errno.errorcode.get(self.errno, self.errno)}"


class Arena:
    """The instance and what is in it. `user` is who attacks: an ordinary user, or root."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.base = instance.base
        self.bin = self.base / "attack"
        self._count = 0

    @classmethod
    @contextmanager
    def open(cls) -> Iterator["Arena"]:
        """Starts an instance whose policies know their own place, and compiles the programs into it."""
        instance = Instance(policies={"agent-default.yaml": _AGENT, "gate.yaml": _GATE})
        values = {"base": instance.base, "changes": _CHANGES, "every": _EVERY, "checkout": CHECKOUT}
        for name, reads in (("escape", "envelope"), ("escape-reads", "pause")):
            text = _PROFILE.format(name=name, reads=reads, **values)
            (instance.policy_dir / f"profile-{name}.yaml").write_text(text)
        for name, text in (("wide", _WIDE), ("everything", _EVERYTHING), ("narrow", _NARROW)):
            (instance.policy_dir / f"profile-{name}.yaml").write_text(text.format(**values))
        arena = cls(instance)
        arena._build()
        with instance:
            yield arena

    def _build(self) -> None:
        self.bin.mkdir()
        (self.base / "readable").mkdir()
        for name in (*NAMES, "victim", "race"):
            flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
            target = [str(PROGRAMS / f"{name}.c"), "-o", str(self.bin / name)]
            subprocess.run(["gcc", *flags, *target], check=True, timeout=120)

    # ---- what they are after

    def new(self, name: str = "f") -> str:
        """A name that no other attack uses."""
        self._count += 1
        return f"{name}{self._count}"

    def work(self, user: int) -> Path:
        """Where the attackers work: in the envelope, effects run free."""
        return self.instance.work_of(user)

    def outside(self, user: int, content: str = "untouched\n") -> Path:
        """A file of the user that lies outside the envelope, in a directory of theirs."""
        directory = self.base / f"outside-{user}"
        return self._file(directory, self.new(), user, content)

    def readable(self, user: int, content: str = "untouched\n") -> Path:
        """A file of the user that the envelope lets be read, and not written."""
        directory = self.base / "readable" / str(user)
        return self._file(directory, self.new(), user, content)

    def protected(self, user: int, content: str = "untouched\n") -> Path:
        """A file in a protected subtree inside the envelope."""
        return self._file(self.work(user) / "protected", self.new(), user, content)

    def own(self, user: int, content: str = "untouched\n") -> Path:
        """A file that the sandbox may do with as it likes."""
        return self._file(self.work(user), self.new(), user, content)

    @staticmethod
    def _file(directory: Path, name: str, user: int, content: str) -> Path:
        if not directory.exists():
            directory.mkdir(parents=True)
            os.chown(directory, user, user)
        path = directory / name
        path.write_text(content)
        os.chown(path, user, user)
        return path

    # ---- attacks

    def attack(self, user: int, program: str, *arguments: object, profile: str = "escape") -> Outcome:
        """Runs an attack inside a sandbox."""
        words = [str(self.bin / program), *map(str, arguments)]
        return _outcome(self.instance.run(*words, user=user, profile=profile, timeout=120))

    def proof(self, user: int, program: str, *arguments: object) -> Outcome:
        """Runs the same attack outside."""
        return _outcome(self.instance.as_user(user, str(self.bin / program), *map(str, arguments), timeout=120))

    def records(self, name: object) -> list[dict[str, Any]]:
        """The records of effects on one object."""
        wanted = os.fspath(name) if isinstance(name, Path) else str(name)
        return [record for record in self.instance.journal() if wanted in (record.get("object"), record.get("second"))]

    def victim(self, user: int) -> "Victim":
        """A process of the same uid, outside any sandbox."""
        return Victim(self, user)


class Victim:
    """Sits outside, with a variable, an open file and signal handlers, and says what happened to it."""

    def __init__(self, arena: Arena, user: int) -> None:
        self.secret = arena.outside(user, "the victim's secret\n")
        self.process = subprocess.Popen(
            [str(arena.bin / "victim"), str(self.secret)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
            env=arena.instance.environment(user),
            cwd="/",
            start_new_session=True,
            **identity(user),
        )
        assert self.process.stdout is not None
        pid, address, descriptor = self.process.stdout.readline().split()
        self.pid, self.address, self.descriptor = int(pid), int(address), int(descriptor)

    def __enter__(self) -> "Victim":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

    def suffered(self) -> list[str]:
        """Asks it: `memory` when its variable changed, `signal` when one arrived; empty when it is well."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()


def _outcome(done: "subprocess.CompletedProcess[str]") -> Outcome:
    found = re.search(r"^(worked|refused|setup)(?: (\S+))?(?: (\d+))?$", done.stdout, re.MULTILINE)
    assert found is not None, f"the attack program said nothing: {done}"
    assert found[1] != "setup", f"the attack could not be prepared ({found[0]}): {done}"
    return Outcome(found[1] == "worked", int(found[2] or 0), done.stdout, done.stderr)


def refused(outcome: Outcome, *numbers: int) -> bool:
    """Whether it was refused, with one of these (with EPERM, EACCES or ENOSYS when none is given)."""
    return not outcome.worked and outcome.errno in (numbers or (errno.EPERM, errno.EACCES, errno.ENOSYS))
