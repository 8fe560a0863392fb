"""Whether the seal refuses, found by having it refuse: a marked process tries what it has no grant for.

At every start, and whenever `doctor` or `status` ask. A seal that lets something through is worse than none, which says
so.
"""

import contextlib
import os
import secrets
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from governed_mcpd.grant.seal import Grant, Seal, SealFailed, Target
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.supervisor.events import SealEvents

SECONDS = 10.0
AGAIN_SECONDS = 5.0  # what was found is told again for so long: who asks often does not start many processes
_REMEDY = 'report it, with the output of uname -a; until then run without a seal (seal = "best-effort")'

# `true` is no special builtin: a redirection that fails ends the command, not the shell (dash(1)).
_PROGRAM = """
echo ready
read go; true >> "$1"; echo $?
read go; true >> "$1"; echo $?
read go; true < "$2"; echo $?
read go; true < "$1"; echo $?
read go
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. `remedy`: what to do when it does not work."""

    feature: str
    works: bool
    detail: str
    remedy: str = _REMEDY


class Trial:
    """`take` has `events` take what the kernel has to say, on the thread that they belong to."""

    def __init__(self, seal: Seal, events: SealEvents, directory: str, take: Callable[[], None]) -> None:
        self._seal = seal
        self._events = events
        self._directory = directory
        self._take = take
        self._lock = threading.Lock()
        self._found: tuple[float, list[Finding]] | None = None

    def findings(self) -> list[Finding]:
        """What came of it, at most AGAIN_SECONDS ago."""
        with self._lock:
            if self._found is None or time.monotonic() - self._found[0] > AGAIN_SECONDS:
                self._found = (time.monotonic(), self.attempt())
            return self._found[1]

    def attempt(self) -> list[Finding]:
        """Tries it now."""
        try:
            return list(self._attempt())
        except (SealFailed, OSError, _Strange) as failure:
            return [Finding("seal", False, f"it could not be tried: {failure}")]

    def _attempt(self) -> Iterator[Finding]:
        identity = f"probe-{secrets.token_hex(4)}"
        place = tempfile.mkdtemp(prefix="probe-", dir=self._directory)
        objects = [os.path.join(place, name) for name in ("object", "protected")]
        kept = contextlib.ExitStack()
        with kept:
            kept.callback(shutil.rmtree, place, ignore_errors=True)
            for path in objects:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            opened = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in objects]
            for descriptor in opened:
                kept.callback(os.close, descriptor)
            kept.callback(self._seal.release, identity)
            self._events.expect(identity)
            kept.callback(self._events.expect_no_more, identity)
            kept.callback(self._take)
            one = kept.enter_context(_Marked(objects))
            self._seal.adopt(identity, one.pid, one.pidfd)
            self._seal.protect(identity, [opened[1]])

            refused = one.tries()
            yield Finding("seal-refuses", not refused, _said(refused, "writing a file without a grant"))
            self._take()
            told = self._events.heard(identity) > 0
            yield Finding("seal-tells", told, "an event came of it" if told else "no event came of it")
            effect = SideEffect(Operation.FILE_WRITE, objects[0])
            expires = time.monotonic() + SECONDS
            self._seal.grant(Grant(identity, one.pid, effect, expires, (Target(opened[0]),)))
            granted = one.tries()
            yield Finding("seal-grants", granted, _said(granted, "writing it with one"))
            protected, neighbour = one.tries(), one.tries()
            yield Finding(
                "seal-protects",
                not protected and neighbour,
                f"{_said(protected, 'reading what is protected')}; {_said(neighbour, 'reading what is not')}",
            )


class _Strange(Exception):
    """The process that tries did not do what it was started for."""


class _Marked:
    """A shell that tries one thing at each word, and says whether it could."""

    def __init__(self, objects: list[str]) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _PROGRAM, "probe", *objects],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            bufsize=0,
        )
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def __enter__(self) -> "_Marked":
        if self._line() != "ready":
            raise _Strange("the shell did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(SECONDS)
        os.close(self.pidfd)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def tries(self) -> bool:
        """The next attempt: whether it succeeded."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        status = self._line()
        if not status.isdigit():
            raise _Strange("the process was killed while it tried")
        return status == "0"

    def _line(self) -> str:
        assert self._process.stdout is not None
        text = b""
        deadline = time.monotonic() + SECONDS
        while not text.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise _Strange(f"the process did not answer within {SECONDS:.0f} s")
            piece = self._process.stdout.read(1)
            if not piece:
                return ""
            text += piece
        return text.decode("ascii", "replace").strip()


def _said(worked: bool, what: str) -> str:
    return f"{what} {'worked' if worked else 'was refused'}"
