"""A program under the real filter whose held calls are looked at by the daemon's own Observer, and then go on.

It stands where a sandboxed program would; only the rest of the daemon is missing.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from governed_mcpd.kernel import calls, procfs
from governed_mcpd.kernel.notify import Held, Listener
from governed_mcpd.pause.observation import Effects, Observation
from governed_mcpd.pause.resolve import Place
from governed_mcpd.sandbox.filter import compile_filter
from tests.pause.looker import Looker, held_numbers
from tests.support.users import identity

SECONDS = 20
ANSWER: Callable[[Observation], int] = lambda observation: 0  # noqa: E731 - the default of a parameter

# `call` is what the acts use: system calls by name, no libc in between. Nothing is imported after the filter is there.
GUEST = r"""
import ctypes, errno, json, os, select, signal, socket, struct, sys, threading, time
import prctl
from governed_mcpd.kernel import seccomp
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
setup = json.loads(sys.stdin.readline())
numbers = {name: number for number, name in setup["numbers"].items()}
def call(name, *args):
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in args]
    answer = libc.syscall(ctypes.c_long(int(numbers[name])), *words)
    answers.append(answer if answer >= 0 else errno.errorcode[ctypes.get_errno()])
    return answer
def pages(count):
    "memory of so many pages, with a hole behind it"
    start = libc.mmap(None, (count + 1) * 4096, 3, 0x22, -1, 0)
    libc.munmap(start + count * 4096, 4096)
    return start
def words(*texts):
    array = (ctypes.c_char_p * (len(texts) + 1))(*texts, None)
    kept.append(array)
    return array
def msghdr(address):
    buffer = ctypes.create_string_buffer(address, len(address))
    kept.append(buffer)
    return struct.pack("QIxxxxQQQQixxxx", ctypes.addressof(buffer), len(address), 0, 0, 0, 0, 0)
def inet(host, port):
    return struct.pack("=H", 2) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
def inet6(host, port):
    return struct.pack("=H", 10) + struct.pack("!HI", port, 0) + socket.inet_pton(socket.AF_INET6, host) + bytes(4)
answers, kept = [], []
exec(setup["prepare"])
act = compile(setup["act"], "act", "exec")
prctl.set_no_new_privs(1)
listener = seccomp.install_filter(bytes.fromhex(setup["filter"]), 0)
os.write(1, b"%d\n" % listener)
os.read(0, 1)
exec(act)
os.write(1, json.dumps(answers).encode())
os._exit(0)
"""


class Seen(NamedTuple):
    """One held call: its name and what the Observer made of it."""

    call: str
    observation: Observation


class Watched(NamedTuple):
    """What the acts answered (or the errno's name), and what was held."""

    answers: list[Any]
    seen: list[Seen]

    @property
    def observations(self) -> list[Observation]:
        return [seen.observation for seen in self.seen]

    @property
    def effects(self) -> list[tuple[str, str, str]]:
        """(operation, object, second) of every effect, in order."""
        found = []
        for observation in self.observations:
            if isinstance(observation, Effects):
                found += [(effect.operation.value, effect.object, effect.second) for effect in observation.effects]
        return found


class Session:
    """The guest and what it starts stand for the sandbox."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.launcher = os.getppid()  # of the test: nobody in the guest's group

    def reaches(self, tid: int, pid: int) -> bool:
        return procfs.stat(pid).session == self.pid

    def launcher_of(self, tid: int) -> int:
        return self.launcher

    def dns_of(self, socket: int) -> str:
        """Nothing leads anywhere here: the descriptor is one of the guest's sockets all the same."""
        return f"to {os.readlink(f'/proc/self/fd/{socket}').partition(':')[0]}"

    def borrow(self, tgid: int, number: int) -> int:
        pidfd = os.pidfd_open(tgid)
        try:
            return calls.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)


class Guest:
    """A process that does `act` once it is told to `go`. Its listener is ours."""

    def __init__(self, cwd: Path, act: str, *, user: int, prepare: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", GUEST],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            start_new_session=True,
            **identity(user),
        )
        self.pid = self.process.pid
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        setup = {
            "numbers": held_numbers(), "prepare": prepare, "act": act,
            "filter": compile_filter(reads_pause=True).hex(),
        }  # fmt: skip
        self.process.stdin.write(json.dumps(setup).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1].decode())
        self.pidfd = os.pidfd_open(self.pid)
        self.listener = Listener(calls.pidfd_getfd(self.pidfd, int(line)))

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"x")
        self.process.stdin.flush()

    def answers(self) -> list[Any]:
        """What its calls answered, once it has ended."""
        out, err = self.process.communicate(timeout=SECONDS)
        return json.loads(out) if out else [err.decode()]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.listener.descriptor)
        os.close(self.pidfd)


def watch(
    looker: Looker, cwd: Path, act: str, *, user: int, prepare: str = "", answer: Callable[[Observation], int] = ANSWER
) -> Watched:
    """Runs `act` in a guest; each held call gets `answer`: 0 to go on, or an errno."""
    guest = Guest(cwd, act, user=user, prepare=prepare)
    try:
        guest.go()
        inside, numbers = Session(guest.pid), held_numbers()
        seen = looker(lambda: _serve(looker, guest.listener, guest.pidfd, inside, answer, numbers))
        return Watched(guest.answers(), seen)
    finally:
        guest.close()


def _serve(
    looker: Looker,
    listener: Listener,
    pidfd: int,
    inside: Session,
    answer: Callable[[Observation], int],
    numbers: dict[int, str],
) -> list[Seen]:
    seen: list[Seen] = []
    poll = select.poll()
    poll.register(listener.descriptor, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while True:
        ready = dict(poll.poll(SECONDS * 1000))
        assert ready, f"nothing happens any more; seen so far: {seen}"
        if ready.get(listener.descriptor, 0) & select.POLLIN:
            held: Held | None = listener.receive()
            if held is None:
                continue
            observation = looker.observer.observe(held, Place(held.tid, None, None), inside)
            seen.append(Seen(numbers[held.number], observation))
            number = answer(observation)
            if number:
                listener.refuse(held.id, number)
            else:
                listener.proceed(held.id)
        elif pidfd in ready:
            return seen
