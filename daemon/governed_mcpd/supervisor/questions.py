"""What the gate or a person is asked: identical questions are joined, their number is bounded, every one has an end.

Belongs to the leader (supervisor/lanes).
"""

import errno
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from governed_mcpd.kernel import procfs
from governed_mcpd.nouns.action import Action, SideEffect
from governed_mcpd.nouns.verdict import Decision, Verdict, allow, deny
from governed_mcpd.subjects.sandbox import Acting, Sandbox
from governed_mcpd.supervisor import notices
from governed_mcpd.supervisor.judge import DAEMON
from governed_mcpd.supervisor.lanes import Timer, Worker
from governed_mcpd.supervisor.pauses import Pause
from governed_mcpd.supervisor.records import Recorder

log = logging.getLogger(__name__)
PERSON = "person"
# Open questions for each side effect of a sandbox that may wait. An exec asks about its interpreter too. And one that a
# signal has interrupted waits no longer, but is with the gate until it has answered: a thread with a timer could ask
# without end.
QUESTIONS_EACH = 4
Answer = Callable[[Verdict], None]
Decided = Callable[[Pause, int, Verdict], None]


class GateClient(Protocol):
    """Asks the gate. The answer comes on the leader, exactly once, as a refusal when the gate does not answer."""

    def decide(self, action: Action, answer: Answer) -> None: ...


@dataclass(slots=True)
class Question:
    """One question, and the pauses that wait for its answer. `verdict` is the gate's ask, once a person is asked."""

    id: str
    key: object
    sandbox: str
    action: Action
    waiting: list[tuple[Pause, int]] = field(default_factory=list)
    verdict: Verdict | None = None
    timer: Timer | None = None
    asked_us: int = 0
    deadline_us: int = 0
    deserted: int = 0  # sweeps in a row that found nobody waiting


class Questions:
    """`decided` is told the answer for each effect of each pause that waits for it; `withdrawn`, which pauses wait no
    longer though nobody answered."""

    worker: Worker
    decided: Decided
    withdrawn: Callable[[Pause], None]

    def __init__(self, gate: GateClient, recorder: Recorder) -> None:
        self._gate = gate
        self._recorder = recorder
        self._open: dict[object, Question] = {}
        self._open_in: dict[str, int] = {}  # how many, by sandbox
        self._waiting: dict[str, dict[int, Pause]] = {}  # by sandbox and thread
        self._ids = itertools.count(1)
        self.person_seconds = 600.0
        self.approvals: dict[str, Question] = {}

    @property
    def pending(self) -> int:
        """Pauses that wait."""
        return sum(len(waiting) for waiting in self._waiting.values())

    def waiting_in(self, sandbox: Sandbox) -> dict[int, Pause]:
        """The pauses that wait in a sandbox, by thread; the same dict for as long as it lives."""
        return self._waiting.setdefault(sandbox.id, {})

    def pending_in(self, sandbox: Sandbox) -> int:
        return len(self._waiting.get(sandbox.id, ()))

    def ask(self, pause: Pause, index: int) -> None:
        """Asks about one effect of a pause."""
        sandbox, acting = pause.sandbox, pause.acting
        waiting = self.waiting_in(sandbox)
        limit = acting.rules[0].limits.pending
        if pause.held.tid not in waiting and len(waiting) >= limit:
            reason = f"{limit} side effects of this sandbox wait already"
            self.decided(pause, index, deny(DAEMON, "too-many-pending", reason, pause.policy_version))
            return
        waiting[pause.held.tid] = pause
        pause.asked = time.perf_counter_ns()
        effect = acting.footprint.describe(pause.effects[index], partial(_inside, sandbox))
        key = _key(acting, effect)
        question = self._open.get(key)
        if question is not None:
            question.waiting.append((pause, index))
            return
        count = self._open_in.get(sandbox.id, 0)
        if count >= limit * QUESTIONS_EACH:
            reason = f"{count} questions of this sandbox are open already, with those that were interrupted"
            self.decided(pause, index, deny(DAEMON, "too-many-pending", reason, pause.policy_version))
            return
        action = Action(f"{sandbox.id}-{next(self._ids)}", acting.subject, effect, acting.context())
        question = self._open[key] = Question(action.id, key, sandbox.id, action, [(pause, index)])
        self._open_in[sandbox.id] = count + 1
        self._gate.decide(action, partial(self._gate_answered, question))

    def interrupted(self, sandbox: Sandbox, tid: int) -> None:
        """A thread waits in one call at a time: when it comes with another, a signal has ended the earlier one."""
        earlier = self._waiting.get(sandbox.id, {}).pop(tid, None)
        if earlier is not None:
            self._drop(earlier)

    def sweep(self) -> None:
        """Drops what waits no longer: its thread was killed, or a signal ended the call and nothing came after it.

        A person's question that nobody waits for stays until the next sweep: a call that a signal has interrupted comes
        again at once, and would otherwise be another question each time.
        """
        for waiting in self._waiting.values():
            for tid, pause in list(waiting.items()):
                if pause.sandbox.listener is not None and not pause.sandbox.listener.waits(pause.held.id):
                    del waiting[tid]
                    self._drop(pause)
        for question in list(self._open.values()):
            question.deserted = 0 if question.waiting else question.deserted + 1
            if question.deserted > 1 and question.verdict is not None:
                self._close(question)

    def settled(self, pause: Pause) -> None:
        """A pause waits no longer."""
        waiting = self._waiting.get(pause.sandbox.id, {})
        if waiting.get(pause.held.tid) is pause:
            del waiting[pause.held.tid]

    def forget(self, sandbox: Sandbox) -> list[Pause]:
        """Drops what waits for a sandbox that ends, and returns it."""
        waiting = self._waiting.pop(sandbox.id, {})
        dropped = list(waiting.values())
        waiting.clear()  # who was given it (waiting_in) holds it on
        for question in list(self._open.values()):
            if question.sandbox == sandbox.id:
                self._close(question)
        return dropped

    def _drop(self, dropped: Pause) -> None:
        dropped.over = True
        for question in list(self._open.values()):
            question.waiting = [(pause, index) for pause, index in question.waiting if pause is not dropped]
        self.withdrawn(dropped)

    # ---- answers

    def person_answered(self, question_id: str, approve: bool, uid: int, note: str, policy_version: str) -> bool:
        """A person's answer; False when there is no such question (any more). JournalFailed: then it does not count."""
        question = self.approvals.get(question_id)
        if question is None or question.verdict is None:
            return False
        self._recorder.approval(question.action, approve, uid, note)
        who = f"uid {uid}"
        said = f"{'approved' if approve else 'denied'} by {who}" + (f": {note}" if note else "")
        for pause, _ in question.waiting:
            pause.approved_by = who
        self._answer(question, (allow if approve else deny)(PERSON, question.verdict.rule, said, policy_version))
        return True

    def _gate_answered(self, question: Question, verdict: Verdict) -> None:
        if verdict.decision is not Decision.ASK:
            self._answer(question, verdict)
        elif self._open.get(question.key) is question:
            self._ask_person(question, verdict)

    def _ask_person(self, question: Question, verdict: Verdict) -> None:
        question.verdict = verdict
        question.asked_us = time.time_ns() // 1000
        question.deadline_us = question.asked_us + int(self.person_seconds * 1e6)
        self.approvals[question.id] = question
        reason = f"nobody answered within {self.person_seconds:.0f} s; asked by {verdict.layer}/{verdict.rule}"
        expired = deny(PERSON, "approval-timeout", reason, verdict.policy_version)
        question.timer = self.worker.after(self.person_seconds, partial(self._answer, question, expired))
        effect = question.action.what
        assert isinstance(effect, SideEffect)
        for sandbox in {pause.sandbox.id: pause.sandbox for pause, _ in question.waiting}.values():
            notices.waiting(sandbox, effect.operation, effect.object, verdict, question.id)

    def _answer(self, question: Question, verdict: Verdict) -> None:
        if self._open.get(question.key) is not question:
            return
        self._close(question)
        now = time.perf_counter_ns()
        for pause, index in question.waiting:
            pause.gate_us = (now - pause.asked) // 1000
            try:
                self.decided(pause, index, verdict)
            except Exception:
                # As in the loop (supervisor/lanes): a defect is no approval, and the others still get their answer.
                log.exception("sandbox %s: a verdict could not be carried out: refused", pause.sandbox.id)
                if pause.sandbox.listener is not None:
                    pause.sandbox.listener.refuse(pause.held.id, errno.EPERM)

    def _close(self, question: Question) -> None:
        del self._open[question.key]
        left = self._open_in.pop(question.sandbox) - 1
        if left:
            self._open_in[question.sandbox] = left
        self.approvals.pop(question.id, None)
        if question.timer is not None:
            question.timer.cancel()


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
        tuple(acting.inflight.calls),
    )
