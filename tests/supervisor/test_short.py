"""The short way of a leased open (subjects/covered.c), alone, on held calls of a real process: it serves what it was
told of, and hands over everything that differs in one thing."""

import os
import select
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from governed_mcpd.journal.journal import Journal
from governed_mcpd.journal.records import Prepared, effect_record
from governed_mcpd.journal.verify import verify
from governed_mcpd.kernel.held import Held
from governed_mcpd.kernel.procfs import PROC
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern
from governed_mcpd.nouns.verdict import allow
from governed_mcpd.pause.object import DESCRIPTORS
from governed_mcpd.subjects import leases
from governed_mcpd.subjects.covered import Covered
from tests.journal.test_journal_writer import wait_until
from tests.pause.held import Guest
from tests.pause.looker import held_numbers
from tests.supervisor.acting import acting, sandbox

OPENS = "for _ in range(20): os.close(os.open(sys_path, os.O_WRONLY))"


class Short:
    """A guest in a directory of its own, a journal, and what serves its leased opens."""

    def __init__(self, ground: Path, act: str) -> None:
        self.path = ground / "file"
        self.path.touch()
        self.acting = acting()
        self.journal = Journal(str(ground / "state"))
        self.sandbox = sandbox(self.acting)
        self.waiting: dict[int, object] = {}
        self.slot = bytearray(8)
        self.recorded = 0
        self.lease = leases.Held(LEASE, allow("lease", "r", "it holds", "v"), 1000, time.monotonic() + 60)
        self.guest = Guest(ground, act, user=0, prepare=f"sys_path = {str(self.path)!r}")
        numbers = {name: number for number, name in held_numbers().items()}
        self.covered = Covered(
            self.guest.listener.descriptor,
            (numbers.get("open", -1), numbers["openat"]),
            0,
            PROC,
            DESCRIPTORS,
            True,
            self.sandbox,
            self.waiting,
            self.journal.direct(),
            self.slot,
        )
        self.covered.room = 1 << 20
        self._waited = select.epoll()
        self._waited.register(self.guest.pidfd, select.EPOLLIN)

    def learn(self, held: Held, flags: str = "write") -> None:
        effect = SideEffect(Operation.FILE_WRITE, str(self.path), details={"flags": flags})
        record = effect_record(self.acting.subject, effect, self.lease.verdict, pause_us=0, seal="none")
        parts = Prepared(record).parts
        self.covered.add(held, self.lease, self.lease.expires, effect, parts, self.acting.ledger.changes)

    def run(self, then: Callable[["Short"], object] = lambda short: None) -> list[Held]:
        """Learns from the first open and lets it go; then calls `then`. Returns what was handed over besides."""
        self.journal.append({"kind": "daemon.stop", "reason": "a first record: whoever syncs is awake"})
        wait_until(lambda: not self.journal._idle)
        before = self.journal.length
        self.guest.go()
        handed: list[Held] = []
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = self.covered.serve(self._waited.fileno(), 1.0)
            if isinstance(found, Held):
                assert int.from_bytes(self.slot, "little") == found.id, "a restarted daemon would not know of it"
                if found.number in self._opens() and not handed:
                    self.learn(found)
                    then(self)
                handed.append(found)
                self.guest.listener.proceed(found.id)
            elif found is None and self._waited.poll(0):
                break
            else:
                assert found is None
        assert self.guest.answers() == []
        self.recorded = self.journal.length - before
        return handed[1:]

    def _opens(self) -> set[int]:
        return {number for number, name in held_numbers().items() if name in ("open", "openat")}

    def close(self) -> None:
        self._waited.close()
        self.guest.close()
        self.journal.close()


LEASE = Lease(frozenset({Operation.FILE_WRITE}), Pattern.parse("/x"), 1000, 60, "v")


@pytest.fixture
def ground() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="governed-short-") as name:
        yield Path(name)


@pytest.fixture
def started(ground: Path) -> Iterator[Callable[[str], Short]]:
    made: list[Short] = []

    def start(act: str) -> Short:
        made.append(Short(ground, act))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_what_is_known_is_served(started: Callable[[str], Short], ground: Path) -> None:
    short = started(OPENS)
    assert short.run() == []
    assert short.recorded == 19
    assert short.lease.left == 1000 - 19
    assert short.acting.allowed == 19
    assert [effect.object for effect in short.acting.earlier] == [str(short.path)] * 19
    assert short.slot == bytes(8), "nothing is unanswered"
    room = short.covered.room
    assert (1 << 20) - 19 * 1000 < room < (1 << 20) - 19 * 300
    short.journal.close()
    report = verify(str(ground / "state"))
    assert report.records == short.journal.length


ONE_THING: dict[str, Callable[[Short], object]] = {
    "a child Subject": lambda short: setattr(short.sandbox, "children", {"child": acting()}),
    "a pause that waits": lambda short: short.waiting.update({1: "a thread has been interrupted"}),
    "a tool call to be told from others": lambda short: setattr(short.acting.inflight.server, "governed", True),
    "another lease": lambda short: short.acting.ledger.clear(),
    "no use left": lambda short: setattr(short.lease, "left", 0),
    "no budget taken": lambda short: setattr(short.covered, "room", 0),
    "the journal is about to close": lambda short: setattr(short.journal, "_closing", True),
}


@pytest.mark.parametrize("what", ONE_THING)
def test_what_differs_in_one_thing_is_handed_over(started: Callable[[str], Short], what: str) -> None:
    short = started(OPENS)
    try:
        assert len(short.run(ONE_THING[what])) == 19
        assert short.recorded == 0
        assert short.acting.allowed == 0
    finally:
        short.journal._closing = False


@pytest.mark.parametrize(
    "other",
    [
        "os.open(sys_path, os.O_RDWR)",
        "os.open(sys_path, os.O_WRONLY | os.O_TRUNC)",
        "os.open(sys_path, os.O_WRONLY | os.O_APPEND)",
        "os.open(os.path.dirname(sys_path), os.O_WRONLY | 0o20000000 | os.O_DIRECTORY)",
        "os.open('/dev/null', os.O_WRONLY)",
        "os.open('/proc/self/comm', os.O_WRONLY)",
        "os.link(sys_path, sys_path + '2')",
        "os.open(os.path.dirname(sys_path), os.O_RDONLY)",
    ],
)
def test_another_call_is_handed_over(started: Callable[[str], Short], other: str) -> None:
    """Between two that are served."""
    short = started(f"{OPENS}\n{other}\n{OPENS}")
    assert len(short.run()) == 1
    assert short.recorded == 39


def test_a_lease_that_is_over_covers_nothing(started: Callable[[str], Short]) -> None:
    short = started(OPENS)

    def ends(one: Short) -> None:
        one.lease.expires = time.monotonic()
        one.learn(Held(1, 1, one_open(), (0, 0, os.O_WRONLY, 0, 0, 0)))

    assert len(short.run(ends)) == 19
    assert short.recorded == 0


def one_open() -> int:
    return next(number for number, name in held_numbers().items() if name == "openat")


def test_it_waits_for_others_as_well_and_not_for_ever(started: Callable[[str], Short]) -> None:
    short = started("pass")  # it has not been told to go yet
    begun = time.monotonic()
    assert short.covered.serve(short._waited.fileno(), 0.1) is None
    assert time.monotonic() - begun > 0.09
    assert short.covered.looked_at() is None
    assert not short.covered.overtake(1, "nothing is looked at")
    assert short.run() == []


@pytest.mark.parametrize("bad", ["slot", "waiting", "numbers", "listener"])
def test_what_it_cannot_be_made_of(ground: Path, bad: str) -> None:
    journal = Journal(str(ground / "state"))
    numbers: object = (2, 257) if bad != "numbers" else (2,)
    waiting: object = {} if bad != "waiting" else []
    listener = 0 if bad != "listener" else 1 << 20
    slot = bytearray(8 if bad != "slot" else 4)
    one = sandbox(acting())
    with pytest.raises((TypeError, ValueError, OSError)):
        Covered(listener, numbers, 0, PROC, DESCRIPTORS, True, one, waiting, journal.direct(), slot)  # type: ignore[arg-type]  # that is the test
    journal.close()
