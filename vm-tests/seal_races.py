"""The race that a filter alone loses: a second thread switches the argument after it was approved.

A supervisor of this test's own approves what it reads first, and lets the call go on. With the seal no attack may win;
without it every one has to, or the test shows nothing.
"""

import errno
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bounds import HANG
from seal_scene import loaded

from governed_mcpd.grant.lsm import LsmSeal
from governed_mcpd.grant.seal import Grant, Target
from governed_mcpd.kernel import calls
from governed_mcpd.kernel.notify import Held, Listener
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation

FULL = os.environ.get("VM_FULL") == "1"
MACHINE = {"python": "checkout", "seconds": 1500, "full_parameters": "preempt=full"}
ATTEMPTS = 2000 if FULL else 500
SECONDS = float(HANG)
SOURCES = Path(__file__).parent / "guest" / "attacks"


@dataclass
class Arena:
    """What an attack is about: two objects, of which only the first is ever approved."""

    mode: str
    place: Path
    programs: Path
    good: str = ""
    bad: str = ""
    won: int = 0
    sockets: list[socket.socket] = field(default_factory=list)

    def begin(self) -> None:
        self.good, self.bad = (str(self.place / name) for name in ("good", "evil"))
        if self.mode in ("open", "read", "unlink", "rename"):
            self.put_back()
        elif self.mode == "exec":
            shutil.copy2(self.programs / "good", self.good)
            shutil.copy2(self.programs / "evil", self.bad)
        elif self.mode == "argv":
            self.good, self.bad = "good", "evil"
        elif self.mode == "connect":
            for _ in range(2):
                self.sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                self.sockets[-1].bind(("127.0.0.1", 0))
            self.good, self.bad = (str(one.getsockname()[1]) for one in self.sockets)

    def put_back(self) -> None:
        for path in (self.good, self.bad):
            with open(path, "w", encoding="ascii") as made:
                made.write("x")

    def settle(self) -> None:
        """Counts what the attack cannot see itself, and makes everything as it was."""
        if self.mode == "create":
            for path in (self.good, self.bad):
                if os.path.exists(path):
                    self.won += path == self.bad
                    os.unlink(path)
        elif self.mode in ("unlink", "rename"):
            self.won += not os.path.exists(self.bad)
            if not (os.path.exists(self.good) and os.path.exists(self.bad)):
                self.put_back()
            (self.place / "moved").unlink(missing_ok=True)


@dataclass(frozen=True)
class Outcome:
    """How often the bad one happened, how often the good one did, and how often neither."""

    won: int
    worked: int
    failed: int


class Supervisor:
    """Approves the first reading. `seal` is None for the race without one."""

    def __init__(self, arena: Arena, seal: LsmSeal | None, sandbox: str) -> None:
        self._arena = arena
        self._seal = seal
        self._sandbox = sandbox
        self._memory = calls.MemoryReader()
        self._held: list[int] = []

    def answer(self, listener: Listener, held: Held) -> None:
        self._arena.settle()
        if not self._is_good(held):
            listener.refuse(held.id, errno.EPERM)
            return
        time.sleep(0.001)  # a decision takes its time; on a crowded machine the other thread gets its turn in it
        if self._seal is not None:
            for descriptor in self._held:
                os.close(descriptor)
            self._held = []
            self._seal.grant(self._grant(held.tid))
        listener.proceed(held.id)

    def _is_good(self, held: Held) -> bool:
        arena = self._arena
        if arena.mode == "connect":
            address = self._memory.read(held.tid, held.args[1], 16)
            return int.from_bytes(address[2:4], "big") == int(arena.good)
        pointer = held.args[1 if arena.mode in ("open", "read", "create") else 0]
        if arena.mode == "argv":
            words = self._memory.read(held.tid, held.args[1], 16)
            pointer = int.from_bytes(words[8:16], "little")
        text = self._memory.read(held.tid, pointer, 256).partition(b"\0")[0]
        return text == os.fsencode(arena.good)

    def _open(self, path: str) -> int:
        self._held.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
        return self._held[-1]

    def _entry(self, *, there: bool) -> Target:
        good = Path(self._arena.good)
        return Target(self._open(str(good)) if there else -1, self._open(str(good.parent)), good.name.encode())

    def _grant(self, thread: int) -> Grant:
        mode, good = self._arena.mode, self._arena.good
        argv: tuple[bytes, ...] = ()
        targets: tuple[Target, ...] = ()
        if mode in ("open", "read"):
            operation = Operation.FILE_WRITE if mode == "open" else Operation.FILE_READ
            targets = (Target(self._open(good)),)
        elif mode == "create":
            operation, targets = Operation.FILE_CREATE, (self._entry(there=False),)
        elif mode == "unlink":
            operation, targets = Operation.FILE_UNLINK, (self._entry(there=True),)
        elif mode == "rename":
            operation = Operation.FILE_RENAME
            above = self._open(str(self._arena.place))
            targets = (self._entry(there=True), Target(-1, above, b"moved"))
        elif mode == "connect":
            operation, good = Operation.NET_CONNECT, f"udp:127.0.0.1:{good}"
        else:
            operation = Operation.PROCESS_EXEC
            program = good if mode == "exec" else str(self._arena.programs / "says")
            targets = (Target(self._open(program)),)
            argv = (b"program",) if mode == "exec" else (b"program", good.encode())
        effect = SideEffect(operation, good)
        return Grant(self._sandbox, thread, effect, time.monotonic() + 5, targets, argv)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attack and what it starts, compiled here."""
    where = tmp_path_factory.mktemp("programs")
    where.chmod(0o755)
    for name, words in {
        "race": ["-pthread", str(SOURCES / "race.c")],
        "good": ["-static", "-DSTATUS=10", str(SOURCES / "says.c")],
        "evil": ["-static", "-DSTATUS=20", str(SOURCES / "says.c")],
        "says": ["-static", str(SOURCES / "says.c")],
    }.items():
        subprocess.run(["gcc", "-O1", "-o", str(where / name), *words], check=True, timeout=HANG)
    return where


def race(mode: str, seal: LsmSeal | None, place: Path, programs: Path) -> Outcome:
    """Runs one attack."""
    arena = Arena(mode, place, programs)
    arena.begin()
    sandbox = f"race-{mode}"
    words = [str(programs / "race"), mode, arena.good, arena.bad, str(ATTEMPTS), str(programs / "says")]
    with ExitStack() as kept:
        attack = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=place, env={}, bufsize=0
        )  # fmt: skip
        kept.callback(attack.wait)
        kept.callback(attack.kill)
        assert attack.stdin is not None
        assert attack.stdout is not None
        assert attack.stdout.readline() == b"ready\n"
        pidfd = os.pidfd_open(attack.pid)
        kept.callback(os.close, pidfd)
        if seal is not None:
            seal.adopt(sandbox, attack.pid, pidfd)
            kept.callback(seal.release, sandbox)
            if mode == "read":
                secret = os.open(arena.bad, os.O_PATH)
                kept.callback(os.close, secret)
                seal.protect(sandbox, [secret])
        attack.stdin.write(b"x")
        number = int(attack.stdout.readline())
        listener = Listener(calls.pidfd_getfd(pidfd, number))
        kept.callback(os.close, listener.descriptor)
        attack.stdin.write(b"x")
        supervise(Supervisor(arena, seal, sandbox), listener, pidfd)
        arena.settle()
        won, worked, failed = (int(word) for word in attack.stdout.readline().split())
        if seal is not None:
            seal.take_events()
    return Outcome(won + arena.won, worked, failed)


def supervise(supervisor: Supervisor, listener: Listener, pidfd: int) -> None:
    """Answers until the attack has ended."""
    poll = select.poll()
    poll.register(listener.descriptor, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        ready = dict(poll.poll(10_000))
        if ready.get(listener.descriptor, 0) & select.POLLIN:
            held = listener.receive()
            if held is not None:
                supervisor.answer(listener, held)
        elif ready:
            return
    raise AssertionError("the attack did not end")


MODES = ["open", "create", "unlink", "rename", "connect", "exec", "argv", "read"]


@pytest.mark.parametrize("mode", MODES)
def test_the_seal_wins_and_without_it_the_attack_does(
    mode: str, tmp_path: Path, programs: Path, record_property: Callable[[str, object], None]
) -> None:
    def one(name: str, run: Callable[[Path], Outcome]) -> Outcome:
        place = tmp_path / name
        place.mkdir()
        found = run(place)
        record_property(name, f"{found.won} won, {found.worked} worked, {found.failed} neither")
        return found

    sealed = one("sealed", lambda place: race(mode, loaded(), place, programs))
    alone = one("filter-alone", lambda place: race(mode, None, place, programs))
    assert alone.won > 0, "without the seal the attack has to win, or it shows nothing"
    assert sealed.won == 0
    assert sealed.worked > ATTEMPTS // 50, "the seal refuses the switched object, not the work"
