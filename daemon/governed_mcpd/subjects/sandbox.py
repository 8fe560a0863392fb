"""One sandbox while it lives: its subjects, its cgroup, its listener, what it has done."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from governed.v1 import control_pb2 as pb
from governed_mcpd.kernel import calls, procfs
from governed_mcpd.kernel.cgroup import Cgroup
from governed_mcpd.kernel.notify import Listener
from governed_mcpd.nouns.action import Context, SideEffect, Untrusted
from governed_mcpd.nouns.operation import NETWORK
from governed_mcpd.nouns.subject import Subject
from governed_mcpd.pause.resolve import Place
from governed_mcpd.subjects.covered import Covered
from governed_mcpd.subjects.footprint import Footprint
from governed_mcpd.subjects.inflight import InFlight
from governed_mcpd.subjects.leases import Ledger
from governed_mcpd.subjects.names import Names
from governed_mcpd.subjects.rules import Rules
from governed_mcpd.subjects.underway import Underway

State = tuple[int, str]  # of a file: size in bytes, BLAKE3 digest in hex

EARLIER = 64
EARLIER_ARGV = 4096


def shortened(argv: tuple[str, ...], most: int) -> tuple[str, ...]:
    """The first words of a command line, at most about `most` characters; what is left out is said."""
    kept: list[str] = []
    left = most
    for word in argv:
        if len(word) >= left:
            kept.append(word[:left])
            break
        kept.append(word)
        left -= len(word) + 1
    missing = sum(map(len, argv)) - sum(map(len, kept))
    return (*kept, f"…(+{missing})") if missing or len(kept) < len(argv) else argv


@dataclass(slots=True)
class Acting:
    """A Subject inside a sandbox with what binds it: its own rules and those of every Subject above it."""

    subject: Subject
    rules: tuple[Rules, ...]
    task: str
    cgroup: Cgroup
    argv: tuple[bytes, ...]
    launcher: int  # process id
    ledger: Ledger = field(default_factory=Ledger)
    footprint: Footprint = field(default_factory=Footprint)
    names: Names = field(default_factory=Names)
    inflight: InFlight = field(default_factory=InFlight)
    untrusted: Callable[[], tuple[Untrusted, ...]] = tuple  # what its agent has read from servers
    earlier: deque[SideEffect] = field(default_factory=lambda: deque(maxlen=EARLIER))
    changed: dict[str, tuple[int, State | None]] = field(default_factory=dict)  # durably: record, state before
    started: float = field(default_factory=time.time)
    allowed: int = 0
    refused: int = 0
    pid: int = 0

    def remember(self, effect: SideEffect) -> None:
        """One of the earlier effects that the gate is told of: without most of a long command line."""
        if effect.argv and sum(map(len, effect.argv)) + len(effect.argv) > EARLIER_ARGV:
            effect = replace(effect, argv=shortened(effect.argv, EARLIER_ARGV))
        self.earlier.append(effect)

    def named(self, effects: tuple[SideEffect, ...], policy_version: str) -> tuple[SideEffect, ...]:
        """The effects, those to addresses spoken of by the names that were looked up. Of several names it is one that a
        call in flight, what runs free or a lease has."""
        if effects[0].operation not in NETWORK:
            return effects

        def preferred(spoken: SideEffect) -> bool:
            return (
                any(call.entails(spoken) for call in self.inflight.calls.values())
                or all(rules.runs_free(spoken.operation, spoken.object) for rules in self.rules)
                or self.ledger.covers(spoken, policy_version)
            )

        return tuple(self.names.named(effect, preferred) for effect in effects)

    def context(self) -> Context:
        """What the gate is told about the surroundings of an action."""
        places = self.rules[-1].places
        return Context(
            task=self.task,
            directories=(places.cwd,),
            home=places.home,
            scratch=places.scratch,
            calls=self.inflight.context(),
            earlier=tuple(self.earlier),
            untrusted=self.untrusted(),
        )


@dataclass(slots=True)
class Sandbox:
    """The tree of processes under one listener. `main` is the Subject of the launcher's command; `children` are
    Subjects that a nested launcher asked for, each in a cgroup of its own beneath this one's."""

    id: str
    uid: int
    gid: int
    main: Acting
    scratch: str
    notify: Callable[[pb.Notice], None]
    token: str
    children: dict[str, Acting] = field(default_factory=dict)
    sealed: bool = False
    terminal: int = 0
    pidfd: int = -1
    listener: Listener | None = None
    state_descriptor: int = -1  # what the next daemon is told, where a service manager keeps it
    underway: Underway | None = None  # the same for the tool calls in flight
    left_underway: tuple[tuple[str, int], ...] = ()  # those of an earlier daemon: ids, and numbers of their records
    root: int | None = None
    namespace: int | None = None  # the mount namespace that the scratch directory is mounted in, if not the daemon's
    place: Place | None = None
    dns: Callable[[int], str] = lambda _: "nothing leads there from this sandbox"
    covered: Covered | None = None  # serves what a lease covers; None until the sandbox is supervised
    looking: int = 0
    slow: bool = False
    made_terminals: bool = False  # it has opened the multiplexer at least once
    events: int = 0  # what the seal refused it
    stuck: int = 0  # threads of the daemon that were left waiting on its account
    orphan: bool = False  # taken over from an earlier daemon: no launcher's connection says when it ends
    state: str = "planned"
    leaving: bool = False  # somebody ends it
    gone: threading.Event = field(default_factory=threading.Event)

    @property
    def cgroup(self) -> Cgroup:
        return self.main.cgroup

    def place_of(self, tid: int) -> Place:
        """Where names begin for one of its threads."""
        place = self.place
        assert place is not None
        return place if place.tid == tid else Place(tid, place.root, place.credentials)

    def acting(self, tid: int) -> Acting:
        """The Subject that a thread belongs to: by cgroup, which children inherit and the filter lets nobody leave."""
        if not self.children:
            return self.main
        path = procfs.cgroup(tid)
        for child in sorted(self.children.values(), key=lambda child: -len(child.cgroup.path)):
            if child.cgroup.holds(path):
                return child
        return self.main

    def reaches(self, tid: int, pid: int) -> bool:
        """Whether `pid` belongs to the Subject of `tid`, or to one below it: a child Subject has fewer rights than its
        parent, and ending its parent's processes is none of them."""
        return self.acting(tid).cgroup.holds(procfs.cgroup(pid))

    def launcher_of(self, tid: int) -> int:
        """The process id of the launcher that started the Subject of the thread `tid`."""
        return self.acting(tid).launcher

    def holds_process(self, pid: int) -> bool:
        return self.cgroup.holds(procfs.cgroup(pid))

    def borrow(self, tgid: int, number: int) -> int:
        """pidfd_getfd(2) from one of its processes; OSError."""
        pidfd = os.pidfd_open(tgid)
        try:
            if not self.holds_process(tgid):
                raise ProcessLookupError(3, "the process is not in this sandbox any more")
            return calls.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)

    def dns_of(self, socket: int) -> str:
        """As pause/call.Inside has it."""
        return self.dns(socket)

    def close(self) -> None:
        """Gives back the descriptors."""
        listener = self.listener.descriptor if self.listener else None
        for descriptor in (self.pidfd, self.root, self.namespace, listener, self.state_descriptor):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self.pidfd, self.root, self.namespace, self.listener, self.state_descriptor = -1, None, None, None, -1
        self.covered = None  # it holds this sandbox, and a duplicate of the listener
