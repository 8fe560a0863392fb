"""The loop: real held calls of real processes, and looks that do not come back."""

import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from governed_mcpd.kernel import held
from governed_mcpd.kernel.notify import Held
from governed_mcpd.pause.call import Inside
from governed_mcpd.pause.observation import Effects, Observation, Unreadable
from governed_mcpd.pause.observe import Observer
from governed_mcpd.pause.resolve import Place
from governed_mcpd.subjects.sandbox import Sandbox
from governed_mcpd.supervisor import lanes
from governed_mcpd.supervisor.lanes import Worker
from tests.pause.held import Guest
from tests.pause.looker import held_numbers
from tests.supervisor.acting import acting, sandbox

SECONDS = 20


class Told:
    """Hears what the loop sees; lets every call go on."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Observation]] = []
        self.exits: list[str] = []
        self.empty: list[str] = []
        self.threads: set[int] = set()

    def observed(self, sandbox: Sandbox, held: Held, observation: Observation, started: int) -> None:
        self.threads.add(threading.get_ident())
        name = _name(observation)
        self.seen.append((sandbox.id, name, observation))
        if name == "defect":
            raise RuntimeError("a defect of ours")
        assert sandbox.listener is not None
        if isinstance(observation, Unreadable):
            sandbox.listener.refuse(held.id, errno.EPERM)
        else:
            sandbox.listener.proceed(held.id)

    def exited(self, sandbox: Sandbox) -> None:
        self.exits.append(sandbox.id)

    def emptied(self, sandbox: Sandbox) -> None:
        self.empty.append(sandbox.id)

    def of(self, identity: str) -> list[str]:
        return [name for sandbox, name, _ in self.seen if sandbox == identity]


def _name(observation: Observation) -> str:
    if isinstance(observation, Effects):
        return os.path.basename(observation.effects[0].object)
    return observation.rule if isinstance(observation, Unreadable) else type(observation).__name__


@pytest.fixture
def ground() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="governed-lanes-") as name:
        yield Path(name)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Looking at a file called `stuck` waits like one on a file system that does not answer: in the kernel, until the
    returned function is called."""
    waiting, release = os.pipe()

    class Waits(Observer):
        def observe(self, held: Held, place: Place, inside: Inside) -> Observation:
            found = super().observe(held, place, inside)
            if _name(found) == "stuck":
                os.read(waiting, 1)
            return found

    monkeypatch.setattr(lanes, "Observer", Waits)
    yield lambda: os.close(release)
    for descriptor in (waiting, release):
        try:
            os.close(descriptor)
        except OSError:
            continue


class Loop:
    """A running worker and the guests that it watches."""

    def __init__(self, ground: Path) -> None:
        self.told = Told()
        self.worker = Worker(held_numbers())
        self.worker.listening = self.told
        self.worker.start()
        self._ground = ground
        self._guests: list[tuple[Guest, Sandbox]] = []

    def guest(
        self, identity: str, act: str, covered: "Callable[[Sandbox], Any]" = lambda _: None
    ) -> tuple[Guest, Sandbox]:
        """A guest that is watched, and goes. `covered` makes what stands in for subjects/covered.c."""
        guest = Guest(self._ground, act, user=0, prepare="import time")
        one = sandbox(acting())
        one.id, one.pidfd, one.listener, one.place = identity, guest.pidfd, guest.listener, Place(guest.pid, None, None)
        one.covered = covered(one)
        self.worker.ask(lambda: self.worker.add(one))
        self._guests.append((guest, one))
        guest.go()
        return guest, one

    def close(self) -> None:
        for _, one in self._guests:
            self.worker.ask(lambda one=one: self.worker.remove(one))
        self.worker.stop()
        for guest, _ in self._guests:
            guest.close()


@pytest.fixture
def loop(ground: Path) -> Iterator[Loop]:
    one = Loop(ground)
    yield one
    one.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


OPENS = 'for i in range({count}): call("open", b"{name}%d" % i, os.O_CREAT | os.O_WRONLY, 0o600)'


def opens(name: str, count: int = 1) -> str:
    return OPENS.format(name=name, count=count)


STUCK = 'call("open", b"stuck", os.O_CREAT | os.O_WRONLY, 0o600)'


def test_every_call_is_looked_at_on_one_thread(loop: Loop) -> None:
    guests = [loop.guest(f"g{number}", opens(f"g{number}-", 50))[0] for number in range(3)]
    for number, guest in enumerate(guests):
        assert min(guest.answers()) >= 0
        assert loop.told.of(f"g{number}") == [f"g{number}-{i}" for i in range(50)]
    assert loop.told.threads == {loop.worker.leader_ident}
    assert loop.worker.takeovers == 0
    until(lambda: sorted(loop.told.exits) == ["g0", "g1", "g2"])
    until(lambda: sorted(loop.told.empty) == ["g0", "g1", "g2"])


def test_a_look_that_waits_holds_up_nobody_else(stuck: Callable[[], None], loop: Loop) -> None:
    waiting, slow = loop.guest("slow", f"{STUCK}\n{opens('after', 3)}")
    until(lambda: loop.worker.takeovers == 1)
    others = [loop.guest(f"other{number}", opens("x", 20))[0] for number in range(2)]
    for other in others:
        assert min(other.answers()) >= 0
    assert loop.told.of("slow") == []
    assert slow.slow
    stuck()
    assert min(waiting.answers()) >= 0
    assert loop.told.of("slow") == ["stuck", "after0", "after1", "after2"]
    assert loop.worker.takeovers == 1


def test_its_other_calls_go_to_its_own_lane(stuck: Callable[[], None], loop: Loop) -> None:
    act = f"""
threads = [threading.Thread(target=lambda: exec({STUCK!r})) for _ in range(4)]
[thread.start() for thread in threads]
time.sleep(0.6)
[thread.join() for thread in threads]
"""
    waiting, slow = loop.guest("slow", act)
    until(lambda: loop.worker.takeovers >= 1)
    other, _ = loop.guest("other", opens("x", 20))
    assert min(other.answers()) >= 0
    until(lambda: slow.looking >= 2)
    assert loop.worker.takeovers == 1  # each further stuck look would otherwise cost another leader
    stuck()
    waiting.answers()
    assert loop.told.of("slow").count("stuck") == 4


def test_a_look_that_never_comes_back_is_a_refusal(
    stuck: Callable[[], None], loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "DEADLINE", 0.5)
    waiting, slow = loop.guest("slow", STUCK)
    assert waiting.answers() == ["EPERM"]
    assert loop.told.of("slow") == ["look-timeout"]
    other, _ = loop.guest("other", opens("x"))
    assert min(other.answers()) >= 0
    stuck()  # what the look finds now is too late: nothing more is told
    until(lambda: slow.looking == 0)
    loop.worker.ask(lambda: None)
    assert loop.told.of("slow") == ["look-timeout"]


def test_a_defect_is_a_refusal_and_the_loop_goes_on(loop: Loop) -> None:
    guest, _ = loop.guest("one", f"call('open', b'defect', os.O_CREAT | os.O_WRONLY, 0o600)\n{opens('x')}")
    answers = guest.answers()
    assert answers[0] == "EPERM"
    assert answers[1] >= 0


class Receives:
    """In the place of Covered: receives calls and leaves the rest to Python, until something happens."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.started = 0

    def serve(self, others: int, _seconds: float) -> object:
        assert self._sandbox.listener is not None
        assert others == -1
        self.started = time.perf_counter_ns()
        return held.receive(self._sandbox.listener.descriptor)

    def looked_at(self) -> object:
        return None

    def overtake(self, _id: int, _what: object) -> bool:
        return False


class FailsAtOnce(Receives):
    def serve(self, others: int, seconds: float) -> object:
        raise MemoryError


class FailsWhenNear(Receives):
    def serve(self, others: int, seconds: float) -> object:
        if others >= 0:
            raise MemoryError
        return super().serve(others, seconds)


@pytest.mark.parametrize("covered", [FailsAtOnce, FailsWhenNear])
def test_what_fails_where_leases_are_served_goes_the_long_way(loop: Loop, covered: type[Receives]) -> None:
    guest, one = loop.guest("one", opens("x", 20), covered)
    assert min(guest.answers()) >= 0
    assert loop.told.of("one") == [f"x{number}" for number in range(20)]
    assert one.covered is None
    other, _ = loop.guest("other", opens("y", 5))
    assert min(other.answers()) >= 0
    assert loop.worker.takeovers == 0


class Waits(Receives):
    """Its first look waits in the kernel until `go`, and gives back what it was overtaken with."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        self._waiting, self._go = os.pipe()
        self._found: Held | None = None
        self._instead: object = None

    def serve(self, others: int, seconds: float) -> object:
        self._found = super().serve(-1, seconds)  # type: ignore[assignment]  # a call, or its thread has died
        os.read(self._waiting, 1)
        return self._instead

    def go(self) -> None:
        os.close(self._go)

    def looked_at(self) -> object:
        return (self._found, self.started) if self._found is not None and self._instead is None else None

    def overtake(self, identity: int, what: object) -> bool:
        assert self._found is not None
        assert identity == self._found.id
        self._instead = what
        return True


class Counted:
    """What a next daemon would know: the calls that this one has received and not answered."""

    def __init__(self, room: bool) -> None:
        self._room = room
        self.open: list[int] = []

    def received(self, notification: int) -> bool:
        if self._room:
            self.open.append(notification)
        return self._room

    def answered(self, notification: int) -> None:
        if notification in self.open:
            self.open.remove(notification)


@pytest.mark.parametrize("room", [True, False])
def test_a_call_that_is_overtaken_is_known_to_a_next_daemon_or_refused(loop: Loop, room: bool) -> None:
    counted = Counted(room)

    def covered(one: Sandbox) -> Waits:
        assert one.listener is not None
        one.listener.unanswered = counted
        return Waits(one)

    guest, one = loop.guest("slow", opens("late"), covered)
    until(lambda: loop.worker.takeovers == 1)
    waits = one.covered
    assert isinstance(waits, Waits)
    other, _ = loop.guest("other", opens("x", 20))
    assert min(other.answers()) >= 0
    if room:
        until(lambda: len(counted.open) == 1)
        waits.go()
        assert min(guest.answers()) >= 0
        assert loop.told.of("slow") == ["late0"]
    else:
        assert guest.answers() == ["EAGAIN"]
        waits.go()
        until(lambda: one.stuck == 0)
        assert loop.told.of("slow") == []
    assert counted.open == []
    assert one.looking == 0


def test_calls_and_timers_run_on_the_leader(loop: Loop) -> None:
    ran: list[str] = []
    assert loop.worker.ask(threading.get_ident) == loop.worker.leader_ident
    with pytest.raises(ZeroDivisionError):
        loop.worker.ask(lambda: 1 / 0)

    def set_timers() -> None:
        loop.worker.after(0.2, lambda: ran.append("late"))
        loop.worker.after(0.05, lambda: ran.append("early"))
        loop.worker.after(0.1, lambda: ran.append("never")).cancel()
        loop.worker.after(0.0, lambda: 1 / 0)  # type: ignore[arg-type, return-value]

    loop.worker.ask(set_timers)
    until(lambda: len(ran) == 2)
    assert ran == ["early", "late"]
