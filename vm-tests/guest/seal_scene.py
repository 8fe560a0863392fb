"""A sealed process that does one thing at a time, and the daemon's side of it: for the tests of the seal alone.

The process is forked from the test, marked, and then told over a pipe what to do; it says with which errno that ended.
No filter holds its calls: what refuses here is the seal, and nothing else.
"""

import os
import pickle
import select
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import seal_acts
from bounds import HANG

from governed_mcpd.grant.lsm import LsmSeal
from governed_mcpd.grant.seal import Grant, SealEvent, Target
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation

SECONDS = float(HANG)
_LENGTH = struct.Struct("I")


class Actor:
    """The process. `act` is a function of this module's users, found again by its name after the fork."""

    def __init__(self) -> None:
        ask_read, self._ask = os.pipe()
        self._answer, answer_write = os.pipe()
        # A thread that is about to exec says its id through one, and waits for the other: for its grant.
        self.ready, ready_write = os.pipe()
        go_read, self.go = os.pipe()
        self.inside, outside = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            for descriptor in (self._ask, self._answer, self.ready, self.go):
                os.close(descriptor)
            seal_acts.READY, seal_acts.GO, seal_acts.OUTSIDE = ready_write, go_read, outside
            self._serve(ask_read, answer_write)
        for descriptor in (ask_read, answer_write, ready_write, go_read):
            os.close(descriptor)
        outside.close()
        self.pidfd = os.pidfd_open(self.pid)

    def _serve(self, asked: int, answer: int) -> None:
        signal.alarm(2 * HANG)
        try:
            while True:
                (length,) = _LENGTH.unpack(_exactly(asked, _LENGTH.size))
                function, arguments = pickle.loads(_exactly(asked, length))
                try:
                    found: Any = (0, function(*arguments))
                except OSError as failure:
                    found = (failure.errno, None)
                except BaseException:
                    found = (-1, traceback.format_exc())
                data = pickle.dumps(found)
                os.write(answer, _LENGTH.pack(len(data)) + data)
        finally:
            os._exit(1)

    def tries(self, function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
        """(errno or 0, what it returned). An error of another kind is raised here."""
        data = pickle.dumps((function, arguments))
        os.write(self._ask, _LENGTH.pack(len(data)) + data)
        if not select.select([self._answer], [], [], SECONDS)[0]:
            raise AssertionError(f"{function.__name__} did not end")
        (length,) = _LENGTH.unpack(_exactly(self._answer, _LENGTH.size))
        number, value = pickle.loads(_exactly(self._answer, length))
        assert number != -1, value
        return number, value

    def end(self) -> None:
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.inside.close()
        for descriptor in (self.pidfd, self._ask, self._answer, self.ready, self.go):
            os.close(descriptor)


def start(
    found: "Scene",
    path: str,
    argv: list[str],
    environment: dict[str, str],
    granted: dict[str, Any] | None = None,
    act: Callable[..., int] = seal_acts.spawn,
) -> int:
    """Has a child of the actor start a program, granted as `granted` says where that differs; the wait status."""
    said: dict[str, Any] = {"programs": [path], "argv": argv, "environment": environment} | (granted or {})

    def grant() -> None:
        thread = int.from_bytes(os.read(found.actor.ready, 4), "little")
        try:
            if said["programs"]:
                found.grant(
                    Operation.PROCESS_EXEC,
                    path,
                    *[found.thing(os.path.realpath(one)) for one in said["programs"]],
                    argv=tuple(word.encode() for word in said["argv"]),
                    environment=tuple(f"{name}={value}".encode() for name, value in said["environment"].items()),
                    thread=thread,
                )
        finally:
            os.write(found.actor.go, b"x")

    helper = threading.Thread(target=grant)
    helper.start()
    number, status = found.actor.tries(act, path, argv, environment)
    helper.join(SECONDS)
    assert number == 0
    return int(status)


def _exactly(descriptor: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = os.read(descriptor, length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class Scene:
    """A seal, a sandbox, and its process."""

    def __init__(self, seal: LsmSeal, sandbox: str, *, reads: bool = False) -> None:
        self.seal = seal
        self.sandbox = sandbox
        self.actor = Actor()
        self._held: list[int] = []
        seal.adopt(sandbox, self.actor.pid, self.actor.pidfd, reads=reads)

    def tries(self, function: Callable[..., Any], *arguments: Any) -> int:
        """The errno, 0 when it worked."""
        return self.actor.tries(function, *arguments)[0]

    def hold(self, path: str, *, follow: bool = False) -> int:
        """An O_PATH descriptor that stays open as long as the scene."""
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        self._held.append(os.open(path, flags))
        return self._held[-1]

    def thing(self, path: str) -> Target:
        return Target(self.hold(path))

    def entry(self, path: str, *, there: bool) -> Target:
        parent = self.hold(os.path.dirname(path), follow=True)
        return Target(self.hold(path) if there else -1, parent, os.path.basename(path).encode())

    def grant(
        self,
        operation: Operation,
        name: str,
        *targets: Target,
        second: str = "",
        argv: tuple[bytes, ...] = (),
        environment: tuple[bytes, ...] = (),
        details: dict[str, str] | None = None,
        thread: int = 0,
        seconds: float = 30.0,
    ) -> None:
        effect = SideEffect(operation, name, second, details=details or {})
        self.seal.grant(
            Grant(
                self.sandbox, thread or self.actor.pid, effect, time.monotonic() + seconds, targets, argv, environment
            )
        )

    def events(self) -> list[SealEvent]:
        return [event for event in self.seal.take_events() if event.sandbox == self.sandbox]

    def end(self) -> None:
        self.actor.end()
        self.seal.release(self.sandbox)
        for descriptor in self._held:
            os.close(descriptor)


@contextmanager
def scene(seal: LsmSeal, *, reads: bool = False) -> Iterator[Scene]:
    """A sandbox of its own for one test."""
    found = Scene(seal, f"test-{os.urandom(4).hex()}", reads=reads)
    try:
        seal.take_events()
        yield found
    finally:
        found.end()


_LOADED: list[LsmSeal] = []
_LOCK = threading.Lock()


def loaded() -> LsmSeal:
    """The seal of this machine, loaded once for all tests of a file."""
    with _LOCK:
        if not _LOADED:
            _LOADED.append(LsmSeal())
        return _LOADED[0]
