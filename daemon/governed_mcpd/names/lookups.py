"""What sandboxes look up: each name is a side effect of its own, net.resolve on `name:HOST`, and passes the daemon's
rules, the gate and perhaps a person before governed-resolver asks anybody. What it finds is remembered for the Subject.

The name that is judged is the one that the resolver received and will ask for: no thread can change it in between.
Runs on the leader, except where it says otherwise.
"""

import ipaddress
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from governed.v1 import resolver_pb2 as pb
from governed_mcpd.journal.errors import JournalFailed, RecordRefused
from governed_mcpd.journal.records import answer_record, effect_record
from governed_mcpd.names.link import Link
from governed_mcpd.names.redirect import Redirect
from governed_mcpd.nouns.action import Action, SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import NAME
from governed_mcpd.nouns.verdict import Decision, Verdict, allow, deny
from governed_mcpd.pause.call import LED
from governed_mcpd.subjects.inflight import Tie
from governed_mcpd.subjects.sandbox import Acting, Sandbox
from governed_mcpd.supervisor import notices
from governed_mcpd.supervisor.gate import GATE
from governed_mcpd.supervisor.judge import DAEMON, Judge, keep_lease
from governed_mcpd.supervisor.lanes import Timer, Worker
from governed_mcpd.supervisor.questions import PERSON, GateClient
from governed_mcpd.supervisor.records import Recorder

log = logging.getLogger(__name__)
OPEN_SECONDS = 2.0  # how long a command waits for its Subject's port before it begins
MOST_ADDRESSES = 64
# libc asks again when it was refused, perhaps another server: that is no new question. And a program gives up long
# before a person has answered: when it is started again, it gets what was approved.
REFUSED_SECONDS = 15.0
APPROVED_SECONDS = 120.0
MOST_KEPT = 4096
MOST_NAME = 1024  # 255 bytes, each perhaps as \DDD
_ADDRESSES = ("A", "AAAA")


@dataclass(slots=True)
class Resolving:
    """A Subject that can look up names. `port` is the resolver's for it; 0: none (yet)."""

    sandbox: Sandbox
    acting: Acting
    opened: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    waiting: int = 0


@dataclass(slots=True)
class Lookup:
    """One name of one Subject until it is decided: `ids` are the resolver's, of A and AAAA for instance. It has the
    fields of supervisor/questions.Question that a list of approvals shows."""

    key: object
    subject: Resolving
    effect: SideEffect
    action: Action
    tie: Tie | None
    during: tuple[str, ...]  # the tool calls that were in flight
    started: int  # perf_counter_ns
    ids: list[int]
    over: bool = False
    verdict: Verdict | None = None
    asked: int = 0
    asked_us: int = 0
    deadline_us: int = 0
    timer: Timer | None = None
    approved_by: str = ""

    @property
    def id(self) -> str:
        return self.action.id

    @property
    def waiting(self) -> list[int]:
        return self.ids


@dataclass(frozen=True, slots=True)
class Kept:
    """What was said to a lookup, for the next one like it; `until` is time.monotonic()."""

    until: float
    verdict: Verdict
    approved_by: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lookups need of the daemon."""

    judge: Judge
    gate: GateClient
    recorder: Recorder
    worker: Worker
    policy_version: Callable[[], str]
    person_seconds: Callable[[], float]
    seal: str


class Lookups:
    """`approvals` are those that wait for a person, by id."""

    def __init__(self, around: Surroundings, redirect: Redirect, link: Link) -> None:
        self._around = around
        self.redirect = redirect
        self.link = link
        self._subjects: dict[str, Resolving] = {}
        self._open: dict[object, Lookup] = {}
        self._kept: dict[object, Kept] = {}
        self._allowed: dict[int, tuple[Resolving, str, int]] = {}  # by the resolver's id: Subject, name, record
        self._ids = itertools.count(1)
        self.approvals: dict[str, Lookup] = {}
        link.heard, link.connected, link.lost = self._heard, self._connected, self._lost

    @property
    def reason(self) -> str:
        """Why no name can be looked up; empty when it can. For every thread."""
        return self.redirect.reason or self.link.reason

    # ---- Subjects

    def attach(self, sandbox: Sandbox) -> None:
        """Before its command begins; from any thread. Where it fails, DNS of the sandbox is refused."""
        try:
            self.redirect.attach(sandbox.id, sandbox.cgroup)
        except OSError as error:
            log.error("sandbox %s: its DNS cannot be led anywhere, and is refused: %s", sandbox.id, error)
            return
        sandbox.dns = self._where

    def _where(self, socket: int) -> str:
        if self.reason:
            return self.reason
        return LED if self.redirect.leads(socket) else "this socket was made outside the sandbox"

    def begin(self, sandbox: Sandbox, acting: Acting) -> None:
        """A Subject is about to act."""
        identity = acting.subject.sandbox
        self._subjects[identity] = Resolving(sandbox, acting)
        self.link.send(pb.ToResolver(open=pb.ResolverOpen(subject=identity)))

    def ready(self, acting: Acting) -> None:
        """Waits a moment until its DNS has somewhere to go. Not for the leader."""
        subject = self._subjects.get(acting.subject.sandbox)
        if subject is not None and not self.reason:
            subject.opened.wait(OPEN_SECONDS)

    def end(self, acting: Acting) -> None:
        """It acts no longer."""
        identity = acting.subject.sandbox
        subject = self._subjects.pop(identity, None)
        if subject is None:
            return
        self.link.send(pb.ToResolver(close=pb.ResolverClose(subject=identity)))
        self.redirect.close(acting.cgroup)
        for lookup in [one for one in self._open.values() if one.subject is subject]:
            self._abandon(lookup, "sandbox-ended", "the sandbox ended while this waited")
        self._allowed = {number: entry for number, entry in self._allowed.items() if entry[0] is not subject}

    # ---- the resolver

    def _connected(self) -> None:
        for identity in self._subjects:
            self.link.send(pb.ToResolver(open=pb.ResolverOpen(subject=identity)))

    def _lost(self) -> None:
        for subject in self._subjects.values():
            self.redirect.close(subject.acting.cgroup)
            subject.port = 0
        for lookup in list(self._open.values()):
            self._abandon(lookup, "resolver-gone", "governed-resolver ended while this waited")
        self._allowed.clear()

    def _heard(self, message: pb.FromResolver) -> None:
        which = message.WhichOneof("what")
        if which == "opened":
            self._opened(message.opened)
        elif which == "lookup":
            self._asked(message.lookup)
        elif which == "answer":
            self._answered(message.answer)

    def _opened(self, message: pb.ResolverOpened) -> None:
        subject = self._subjects.get(message.subject)
        if subject is None:
            return
        if message.port:
            try:
                self.redirect.open(subject.acting.cgroup, message.port)
                subject.port = message.port
            except OSError as error:
                log.error("%s: its DNS cannot be led anywhere: %s", message.subject, error)
        else:
            log.error("%s: the resolver has no port for it: %s", message.subject, message.reason)
        subject.opened.set()

    # ---- 1. a name is asked for

    def _asked(self, message: pb.ResolverLookup) -> None:
        subject = self._subjects.get(message.subject)
        if subject is None:
            self._say(message.id, allowed=False)
            return
        name, kind = message.name[:MOST_NAME], message.type
        key = (message.subject, name, "" if kind in _ADDRESSES else kind)
        lookup = self._open.get(key)
        if lookup is not None:
            lookup.ids.append(message.id)
            return
        lookup = self._new(key, subject, name, kind, message.id)
        self._open[key] = lookup
        version = self._around.policy_version()
        acting = subject.acting
        verdict = self._around.judge.verdict(subject.sandbox, acting, lookup.effect, version, lookup.tie)
        verdict = verdict or self._before(lookup, version)
        limit = acting.rules[0].limits.pending
        if verdict is None and subject.waiting >= limit:
            verdict = deny(DAEMON, "too-many-pending", f"{limit} names of this Subject wait already", version)
        if verdict is not None:
            self._settle(lookup, verdict)
            return
        subject.waiting += 1
        lookup.asked = time.perf_counter_ns()
        self._around.gate.decide(lookup.action, partial(self._judged, lookup))

    def _new(self, key: object, subject: Resolving, name: str, kind: str, number: int) -> Lookup:
        acting = subject.acting
        details = {"beneath": str(acting.names.beneath(name))}
        if kind not in _ADDRESSES:
            details["type"] = kind
        effect = SideEffect(Operation.NET_RESOLVE, NAME + name, details=details)
        action = Action(f"{subject.sandbox.id}-n{next(self._ids)}", acting.subject, effect, acting.context())
        during = tuple(acting.inflight.calls)
        return Lookup(
            key, subject, effect, action, acting.inflight.tie(effect), during, time.perf_counter_ns(), [number]
        )

    def _before(self, lookup: Lookup, version: str) -> Verdict | None:
        """What the gate or a person has just said to the same."""
        kept = self._kept.get(_kept_as(lookup))
        if kept is None or time.monotonic() > kept.until or kept.verdict.policy_version != version:
            return None
        lookup.approved_by = kept.approved_by
        return kept.verdict

    def _keep(self, lookup: Lookup, verdict: Verdict) -> None:
        allowed = verdict.decision is Decision.ALLOW
        if not lookup.asked or verdict.layer in (DAEMON, GATE) or (allowed and verdict.layer != PERSON):
            return  # nobody's judgement of the name; or the gate's, which says by a lease for how long it holds
        seconds = APPROVED_SECONDS if allowed else REFUSED_SECONDS
        self._kept.pop(_kept_as(lookup), None)
        self._kept[_kept_as(lookup)] = Kept(time.monotonic() + seconds, verdict, lookup.approved_by)
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    # ---- 2. the gate has answered; perhaps a person is asked

    def _judged(self, lookup: Lookup, verdict: Verdict) -> None:
        if lookup.over:
            return
        if verdict.decision is not Decision.ASK:
            self._settle(lookup, verdict)
            return
        seconds = self._around.person_seconds()
        lookup.verdict = verdict
        lookup.asked_us = time.time_ns() // 1000
        lookup.deadline_us = lookup.asked_us + int(seconds * 1e6)
        reason = f"nobody answered within {seconds:.0f} s; asked by {verdict.layer}/{verdict.rule}"
        expired = deny(PERSON, "approval-timeout", reason, verdict.policy_version)
        lookup.timer = self._around.worker.after(seconds, partial(self._settle, lookup, expired))
        self.approvals[lookup.id] = lookup
        notices.waiting(lookup.subject.sandbox, lookup.effect.operation, lookup.effect.object, verdict, lookup.id)

    def person_answered(self, identity: str, approve: bool, uid: int, note: str, policy_version: str) -> bool:
        """False when nothing waits under this id. JournalFailed: then the answer does not count."""
        lookup = self.approvals.get(identity)
        if lookup is None or lookup.verdict is None:
            return False
        self._around.recorder.approval(lookup.action, approve, uid, note)
        lookup.approved_by = f"uid {uid}"
        said = f"{'approved' if approve else 'denied'} by uid {uid}" + (f": {note}" if note else "")
        self._settle(lookup, (allow if approve else deny)(PERSON, lookup.verdict.rule, said, policy_version))
        return True

    # ---- 3. lease, record, answer

    def _settle(self, lookup: Lookup, verdict: Verdict) -> None:
        if lookup.over:
            return
        self._close(lookup)
        subject, effect = lookup.subject, lookup.effect
        acting, version = subject.acting, self._around.policy_version()
        if verdict.decision is Decision.ALLOW and verdict.policy_version != version and verdict.layer != PERSON:
            verdict = deny(DAEMON, "policy-changed", "policy changed while this waited: it may be tried again", version)
        if verdict.decision is Decision.ALLOW and verdict.lease is not None:
            keep_lease(acting, effect, verdict, lookup.tie, version)
        self._keep(lookup, verdict)
        try:
            sequence = self._record(lookup, verdict)
        except (JournalFailed, RecordRefused) as failure:
            log.error("sandbox %s: a lookup is refused, since the journal fails: %s", subject.sandbox.id, failure)
            self._around.recorder.unrecorded += 1
            self._refuse(lookup, deny(DAEMON, "journal-failed", "the journal cannot be written", version), 0)
            return
        if verdict.decision is not Decision.ALLOW:
            self._refuse(lookup, verdict, sequence)
            return
        if any(Operation.NET_RESOLVE in rules.durable for rules in acting.rules):
            post = self._around.worker.post
            self._around.recorder.when_durable(
                sequence, lambda failed: post(partial(self._on_disk, lookup, sequence, failed))
            )
        else:
            self._let_go(lookup, sequence)

    def _on_disk(self, lookup: Lookup, sequence: int, failed: Exception | None) -> None:
        if failed is None:
            self._let_go(lookup, sequence)
            return
        self._around.recorder.gone(lookup.subject.acting, sequence, "journal-failed")
        reason = f"the journal cannot be written: {failed}"
        self._refuse(lookup, deny(DAEMON, "journal-failed", reason, self._around.policy_version()), 0)

    def _let_go(self, lookup: Lookup, sequence: int) -> None:
        acting = lookup.subject.acting
        acting.allowed += 1
        acting.remember(lookup.effect)
        for number in lookup.ids:
            self._allowed[number] = (lookup.subject, lookup.effect.object.removeprefix(NAME), sequence)
            self._say(number, allowed=True)

    def _refuse(self, lookup: Lookup, verdict: Verdict, sequence: int) -> None:
        lookup.subject.acting.refused += 1
        notices.refused(lookup.subject.sandbox, lookup.effect.operation, lookup.effect.object, verdict, sequence)
        for number in lookup.ids:
            self._say(number, allowed=False)

    def _record(self, lookup: Lookup, verdict: Verdict) -> int:
        acting, recorder = lookup.subject.acting, self._around.recorder
        now = time.perf_counter_ns()
        free = verdict.layer == DAEMON and verdict.decision is Decision.ALLOW
        tie = None if free else lookup.tie
        record = effect_record(
            acting.subject,
            lookup.effect,
            verdict,
            pause_us=(now - lookup.started) // 1000,
            gate_us=(now - lookup.asked) // 1000 if lookup.asked else 0,
            seal=self._around.seal,
            approved_by=lookup.approved_by,
            task_given=bool(acting.task),
            calls=tie.calls if tie else None,
            call=tie.call if tie else "",
        )
        if verdict.decision is Decision.ALLOW:
            return recorder.write(record)
        key = ("net.resolve", lookup.effect.object, verdict.layer, verdict.rule, *(tie.calls if tie else ()))
        return recorder.write_refusal(key, record)

    def _close(self, lookup: Lookup) -> None:
        lookup.over = True
        self._open.pop(lookup.key, None)
        self.approvals.pop(lookup.id, None)
        if lookup.timer is not None:
            lookup.timer.cancel()
        if lookup.asked:
            lookup.subject.waiting -= 1

    def _abandon(self, lookup: Lookup, rule: str, reason: str) -> None:
        """What was asked for is recorded all the same."""
        self._settle(lookup, deny(DAEMON, rule, reason, self._around.policy_version()))

    # ---- 4. what came back

    def _answered(self, message: pb.ResolverAnswer) -> None:
        """Noted first: whoever asked may connect as soon as it has the answer."""
        found = self._allowed.pop(message.id, None)
        if found is None:
            return
        subject, name, sequence = found
        addresses = [text for one in message.addresses[:MOST_ADDRESSES] if (text := _address(one))]
        aliases = tuple(alias[:MOST_NAME] for alias in message.aliases[:MOST_ADDRESSES])
        subject.acting.names.learn(name, addresses, aliases, message.seconds)
        self._around.recorder.note(
            answer_record(subject.acting.subject.sandbox, sequence, name, message.code, addresses, aliases)
        )
        self.link.send(pb.ToResolver(noted=pb.ResolverNoted(id=message.id)))

    def _say(self, number: int, *, allowed: bool) -> None:
        self.link.send(pb.ToResolver(decided=pb.ResolverDecided(id=number, allowed=allowed)))


def _kept_as(lookup: Lookup) -> object:
    """The same name of the same Subject, during the same tool calls: what was approved for one is not for another."""
    return lookup.key, lookup.during


def _address(text: str) -> str:
    """As pause/network writes it; empty for what is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)
