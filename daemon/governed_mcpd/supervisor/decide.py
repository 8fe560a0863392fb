"""The way of one side effect: observation → judge → gate or person → record → grant → reply. Read it top to bottom.

Runs on the leader only (supervisor/lanes), so nothing here waits: the gate, a person and the disk answer later.
"""

import errno
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from governed.v1 import control_pb2 as pb
from governed_mcpd.grant.seal import Grant, GrantFailed, Seal
from governed_mcpd.journal.errors import JournalFailed, RecordRefused
from governed_mcpd.kernel import procfs
from governed_mcpd.kernel.notify import Held
from governed_mcpd.nouns.action import Action, SideEffect
from governed_mcpd.nouns.operation import FILE_CHANGES
from governed_mcpd.nouns.verdict import Decision, Verdict, allow, deny
from governed_mcpd.pause.observation import Effects, Harmless, Impossible, Observation, Unreadable
from governed_mcpd.supervisor.digests import Digests, States
from governed_mcpd.supervisor.judge import DAEMON, Judge
from governed_mcpd.supervisor.lanes import Timer, Worker
from governed_mcpd.supervisor.records import Recorder
from governed_mcpd.supervisor.sandbox import Acting, Sandbox

log = logging.getLogger(__name__)
GRANT_SECONDS = 5.0
DIGEST_SECONDS = 10.0
Key = tuple[str, str, SideEffect]
Answer = Callable[[Verdict], None]


class GateClient(Protocol):
    """Asks the gate. The answer comes on the leader, exactly once, as a refusal when the gate does not answer."""

    def decide(self, action: Action, answer: Answer) -> None: ...


@dataclass(slots=True)
class Pause:
    """One held call, until every one of its effects is decided."""

    sandbox: Sandbox
    acting: Acting
    held: Held
    effects: tuple[SideEffect, ...]
    verdicts: list[Verdict | None]
    started: int
    asked: int = 0
    gate_us: int = 0
    approved_by: str = ""
    before: States | None = None  # of the files that it changes, when it is durable
    over: bool = False


@dataclass(slots=True)
class Question:
    """One question to the gate or a person, and the pauses that wait for its answer."""

    id: str
    action: Action
    waiting: list[tuple[Pause, int]] = field(default_factory=list)
    verdict: Verdict | None = None
    timer: Timer | None = None
    asked_us: int = 0
    deadline_us: int = 0


class Decider:
    """Everything between looking at a held call and answering it."""

    def __init__(self, judge: Judge, gate: GateClient, recorder: Recorder, seal: Seal, digests: Digests) -> None:
        self._judge = judge
        self._digests = digests
        self._gate = gate
        self._recorder = recorder
        self._seal = seal
        self._questions: dict[object, Question] = {}
        self._ids = itertools.count(1)
        self.worker: Worker
        self.policy_version = ""
        self.person_seconds = 600.0
        self.approvals: dict[str, Question] = {}

    @property
    def pending(self) -> int:
        """Pauses that wait for the gate or a person."""
        return sum(len(question.waiting) for question in self._questions.values())

    # ---- 1. what was seen

    def observed(self, sandbox: Sandbox, held: Held, observation: Observation, started: int) -> None:
        listener = sandbox.listener
        assert listener is not None
        if isinstance(observation, Effects):
            self._pause(sandbox, held, observation.effects, started)
        elif isinstance(observation, Harmless):
            listener.proceed(held.id)
        elif isinstance(observation, Impossible):
            listener.refuse(held.id, observation.errno)
        else:
            self._unreadable(sandbox, held, observation, started)

    def _unreadable(self, sandbox: Sandbox, held: Held, seen: Unreadable, started: int) -> None:
        acting = sandbox.main
        verdict = deny(DAEMON, seen.rule, seen.reason, self.policy_version)
        try:
            self._recorder.unreadable(acting, seen, verdict, _microseconds(started), self._seal.name)
        except JournalFailed:
            self._recorder.unrecorded += 1
        acting.refused += 1
        self._tell(sandbox, pb.Notice.KIND_REFUSED, seen.operation, seen.object, verdict)
        assert sandbox.listener is not None
        sandbox.listener.refuse(held.id, seen.errno)

    def _pause(self, sandbox: Sandbox, held: Held, effects: tuple[SideEffect, ...], started: int) -> None:
        acting = sandbox.acting(held.tid)
        verdicts = [self._judge.verdict(sandbox, acting, effect, self.policy_version) for effect in effects]
        pause = Pause(sandbox, acting, held, effects, verdicts, started)
        if None not in verdicts or any(v is not None and v.decision is Decision.DENY for v in verdicts):
            self._finish(pause)
            return
        self._interrupted(sandbox, held.tid)
        sandbox.waiting[held.tid] = pause
        for index in range(len(effects)):
            if pause.verdicts[index] is None and not pause.over:
                self._ask(pause, index)

    def _interrupted(self, sandbox: Sandbox, tid: int) -> None:
        """A thread waits in one call at a time: when it comes with another, a signal has ended the earlier one."""
        earlier = sandbox.waiting.pop(tid, None)
        if earlier is not None:
            earlier.over = True
            for question in self._questions.values():
                question.waiting = [(pause, index) for pause, index in question.waiting if pause is not earlier]

    # ---- 2. who is asked

    def _ask(self, pause: Pause, index: int) -> None:
        sandbox = pause.sandbox
        effect = pause.acting.footprint.describe(pause.effects[index], partial(_inside, sandbox))
        limit = pause.acting.rules[0].limits.pending
        if len(sandbox.waiting) > limit:
            reason = f"{limit} side effects of this sandbox wait already"
            self._decided(pause, index, deny(DAEMON, "too-many-pending", reason, self.policy_version))
            return
        key = _key(pause.acting, effect)
        question = self._questions.get(key)
        pause.asked = time.perf_counter_ns()
        if question is not None:
            question.waiting.append((pause, index))
            return
        action = Action(f"{sandbox.id}-{next(self._ids)}", pause.acting.subject, effect, pause.acting.context())
        question = self._questions[key] = Question(action.id, action, [(pause, index)])
        self._gate.decide(action, lambda verdict: self._gate_answered(key, question, verdict))

    def _gate_answered(self, key: object, question: Question, verdict: Verdict) -> None:
        if verdict.decision is not Decision.ASK:
            self._answer(key, question, verdict)
            return
        question.verdict = verdict
        question.asked_us = time.time_ns() // 1000
        question.deadline_us = question.asked_us + int(self.person_seconds * 1e6)
        self.approvals[question.id] = question
        expired = deny("person", "approval-timeout", f"nobody answered within {self.person_seconds:.0f} s")
        question.timer = self.worker.after(self.person_seconds, lambda: self._answer(key, question, expired))
        for sandbox in {pause.sandbox.id: pause.sandbox for pause, _ in question.waiting}.values():
            effect = question.action.what
            assert isinstance(effect, SideEffect)
            self._tell(sandbox, pb.Notice.KIND_WAITING, effect.operation, effect.object, verdict, approval=question.id)

    def person_answered(self, question_id: str, approve: bool, uid: int, note: str) -> Question | None:
        """A person's answer to a question; None when there is no such question (any more). JournalFailed."""
        question = self.approvals.get(question_id)
        if question is None or question.verdict is None:
            return None
        self._recorder.approval(question.action, approve, uid, note)
        who = f"uid {uid}"
        said = f"{'approved' if approve else 'denied'} by {who}" + (f": {note}" if note else "")
        verdict = (allow if approve else deny)("person", question.verdict.rule, said, self.policy_version)
        key = next(key for key, other in self._questions.items() if other is question)
        for pause, _ in question.waiting:
            pause.approved_by = who
        self._answer(key, question, verdict)
        return question

    def _answer(self, key: object, question: Question, verdict: Verdict) -> None:
        if self._questions.pop(key, None) is None:
            return
        self.approvals.pop(question.id, None)
        if question.timer is not None:
            question.timer.cancel()
        now = time.perf_counter_ns()
        for pause, index in question.waiting:
            pause.gate_us = (now - pause.asked) // 1000
            self._decided(pause, index, verdict)

    # ---- 3. what was decided

    def _decided(self, pause: Pause, index: int, verdict: Verdict) -> None:
        if pause.over:
            return
        pause.verdicts[index] = verdict
        if verdict.decision is Decision.ALLOW and None in pause.verdicts:
            return
        pause.sandbox.waiting.pop(pause.held.tid, None)
        if verdict.lease is not None and verdict.decision is Decision.ALLOW:
            self._lease(pause.acting, verdict)
        self._finish(pause)

    def _lease(self, acting: Acting, verdict: Verdict) -> None:
        lease = verdict.lease
        for rules in acting.rules:
            lease = rules.cut(lease) if lease is not None else None
        if lease is not None and lease.policy_version == self.policy_version:
            acting.ledger.add(lease, verdict.rule)

    def _finish(self, pause: Pause) -> None:
        pause.over = True
        sandbox, acting = pause.sandbox, pause.acting
        if sandbox.listener is None:
            return  # it has ended; its threads are gone
        refusal = next((v for v in pause.verdicts if v is not None and v.decision is not Decision.ALLOW), None)
        durable = acting.rules[-1].durable
        if refusal is None and not durable.isdisjoint(effect.operation for effect in pause.effects):
            self._digest(pause)
            return
        self._record(pause, refusal)

    def _record(self, pause: Pause, refusal: Verdict | None) -> None:
        sandbox, acting = pause.sandbox, pause.acting
        assert sandbox.listener is not None
        try:
            sequence = self._recorder.effects(pause, self._seal.name, errno.EPERM if refusal else 0)
        except (JournalFailed, RecordRefused) as failure:
            self._refuse_unrecorded(pause, failure)
            return
        if refusal is not None:
            acting.refused += 1
            effect = pause.effects[pause.verdicts.index(refusal)]
            self._tell(sandbox, pb.Notice.KIND_REFUSED, effect.operation, effect.object, refusal, record=sequence)
            sandbox.listener.refuse(pause.held.id, errno.EPERM)
            return
        if pause.before is None:
            self._let_go(pause, sequence)
            return
        for name in _changed_files(pause):
            acting.changed.setdefault(name, (sequence, pause.before.get(name)))
        self._recorder.when_durable(
            sequence, lambda failed: self.worker.post(lambda: self._on_disk(pause, sequence, failed))
        )

    def _digest(self, pause: Pause) -> None:
        """What is durable is digested before the record, and on disk before the effect."""
        late = self.worker.after(DIGEST_SECONDS, lambda: digested(f"no digest within {DIGEST_SECONDS:.0f} s"))

        def digested(found: States | str) -> None:
            if pause.before is not None or pause.sandbox.listener is None:
                return
            late.cancel()
            pause.before = {} if isinstance(found, str) else found
            refusal = None
            if isinstance(found, str):
                refusal = pause.verdicts[0] = deny(DAEMON, "digest-unavailable", found, self.policy_version)
            self._record(pause, refusal)

        self._digests.take(_changed_files(pause), digested)

    def _on_disk(self, pause: Pause, sequence: int, failed: Exception | None) -> None:
        if failed is not None:
            self._refuse_unrecorded(pause, failed)
        elif pause.sandbox.listener is not None:
            self._let_go(pause, sequence)

    # ---- 4. grant, and reply

    def _let_go(self, pause: Pause, sequence: int) -> None:
        sandbox = pause.sandbox
        listener = sandbox.listener
        assert listener is not None
        try:
            for effect in pause.effects:
                self._seal.grant(Grant(sandbox.id, pause.held.tid, effect, time.monotonic() + GRANT_SECONDS))
        except GrantFailed as failure:
            verdict = deny(DAEMON, "grant-failed", str(failure), self.policy_version)
            self._recorder.gone(pause.acting, sequence, "grant-failed")
            self._tell(sandbox, pb.Notice.KIND_REFUSED, pause.effects[0].operation, pause.effects[0].object, verdict)
            listener.refuse(pause.held.id, errno.EPERM)
            return
        pause.acting.allowed += 1
        for effect in pause.effects:
            pause.acting.earlier.append(effect)
            pause.acting.footprint.note(effect)
        if not listener.proceed(pause.held.id):
            self._recorder.gone(pause.acting, sequence, "thread-gone")

    def _refuse_unrecorded(self, pause: Pause, failure: Exception) -> None:
        """Without a record there is no effect. The refusal itself is told, and counted."""
        log.error("sandbox %s: refused, since the journal fails: %s", pause.sandbox.id, failure)
        pause.acting.refused += 1
        self._recorder.unrecorded += 1
        verdict = deny(DAEMON, "journal-failed", f"the journal cannot be written: {failure}", self.policy_version)
        effect = pause.effects[0]
        self._tell(pause.sandbox, pb.Notice.KIND_REFUSED, effect.operation, effect.object, verdict)
        if pause.sandbox.listener is not None:
            pause.sandbox.listener.refuse(pause.held.id, errno.EPERM)

    # ---- when a sandbox ends

    def forget(self, sandbox: Sandbox) -> None:
        """Refuses what waits for a sandbox that ends: its threads are about to be killed, and the record says so."""
        for pause in sandbox.waiting.values():
            pause.over = True
            ended = deny(DAEMON, "sandbox-ended", "the sandbox ended while this waited", self.policy_version)
            pause.verdicts = [verdict or ended for verdict in pause.verdicts]
            try:
                self._recorder.effects(pause, self._seal.name, errno.EPERM)
            except (JournalFailed, RecordRefused):
                self._recorder.unrecorded += 1
        sandbox.waiting.clear()
        for key, question in list(self._questions.items()):
            question.waiting = [(pause, index) for pause, index in question.waiting if pause.sandbox is not sandbox]
            if not question.waiting:
                del self._questions[key]
                self.approvals.pop(question.id, None)
                if question.timer is not None:
                    question.timer.cancel()

    def _tell(
        self,
        sandbox: Sandbox,
        kind: pb.Notice.Kind.ValueType,
        operation: str,
        name: str,
        verdict: Verdict,
        *,
        record: int = 0,
        approval: str = "",
    ) -> None:
        sandbox.notify(
            pb.Notice(
                kind=kind,
                operation=operation,
                object=name.encode("utf-8", "surrogateescape"),
                layer=verdict.layer,
                rule=verdict.rule,
                reason=verdict.reason,
                approval=approval,
                record=record,
            )
        )


def _changed_files(pause: Pause) -> list[str]:
    """The files that a held call changes, as far as they have names."""
    return [
        name
        for effect in pause.effects
        if effect.operation in FILE_CHANGES
        for name in (effect.object, effect.second)
        if name.startswith("/")
    ]


def _inside(sandbox: Sandbox, pid: int) -> bool:
    try:
        return sandbox.holds_process(pid)
    except procfs.Gone:
        return False


def _key(acting: Acting, effect: SideEffect) -> object:
    return (
        acting.cgroup.path,
        effect.operation,
        effect.object,
        effect.second,
        effect.argv,
        tuple(sorted(effect.details.items())),
    )


def _microseconds(started: int) -> int:
    return (time.perf_counter_ns() - started) // 1000
