"""The way of one side effect: observation → judge → gate or person → record → grant → reply. Read it top to bottom.

Runs on the leader only (supervisor/lanes), so nothing here waits: the gate, a person and the disk answer later.
"""

import errno
import logging
import time
from collections import deque
from functools import partial

from governed_mcpd.grant.seal import Grant, GrantFailed, Seal
from governed_mcpd.journal.errors import JournalFailed, RecordRefused
from governed_mcpd.kernel.notify import Held
from governed_mcpd.nouns.operation import FILE_CHANGES
from governed_mcpd.nouns.verdict import Decision, Verdict, deny
from governed_mcpd.pause.handles import Handles
from governed_mcpd.pause.observation import Effects, Harmless, Impossible, Observation, Unreadable
from governed_mcpd.subjects.sandbox import Sandbox
from governed_mcpd.supervisor import notices
from governed_mcpd.supervisor.digests import Digests, States
from governed_mcpd.supervisor.judge import DAEMON, Judge, keep_lease
from governed_mcpd.supervisor.lanes import Worker
from governed_mcpd.supervisor.pauses import Pause
from governed_mcpd.supervisor.questions import PERSON, Questions
from governed_mcpd.supervisor.records import Recorder
from governed_mcpd.supervisor.short import ShortWay

log = logging.getLogger(__name__)
GRANT_SECONDS = 5.0
GRANTS_HELD = 256


class Decider:
    """Everything between looking at a held call and answering it."""

    worker: Worker
    short: ShortWay

    def __init__(self, judge: Judge, questions: Questions, recorder: Recorder, seal: Seal, digests: Digests) -> None:
        self._judge = judge
        self._recorder = recorder
        self._seal = seal
        self._digests = digests
        self.questions = questions
        questions.decided = self._decided
        questions.withdrawn = self._withdrawn
        self.policy_version = ""
        self._granted: deque[tuple[float, Handles]] = deque()

    # ---- 1. what was seen

    def observed(self, sandbox: Sandbox, held: Held, observation: Observation, started: int) -> None:
        """A held call was looked at; `started` is perf_counter_ns at its arrival."""
        listener = sandbox.listener
        assert listener is not None
        if isinstance(observation, Effects):
            self._pause(sandbox, held, observation, started)
        elif isinstance(observation, Harmless):
            if observation.unjudged is None:
                listener.proceed(held.id)
            else:
                self._unjudged(sandbox, held, observation.unjudged, started)
        elif isinstance(observation, Impossible):
            listener.refuse(held.id, observation.errno)
        else:
            self._unreadable(sandbox, held, observation, started)

    def _unjudged(self, sandbox: Sandbox, held: Held, seen: Effects, started: int) -> None:
        """Nobody has to judge it, and there is no record; but a seal knows no harmless effect on a file."""
        assert sandbox.listener is not None
        try:
            self._grant(sandbox, held, seen)
        except GrantFailed as failure:
            seen.close()
            effect = seen.effects[0]
            refused = Unreadable("grant-failed", str(failure), effect.operation, effect.object)
            self._unreadable(sandbox, held, refused, started)
            return
        sandbox.listener.proceed(held.id)

    def _unreadable(self, sandbox: Sandbox, held: Held, seen: Unreadable, started: int) -> None:
        acting = sandbox.main
        verdict = deny(DAEMON, seen.rule, seen.reason, self.policy_version)
        pause_us = (time.perf_counter_ns() - started) // 1000
        sequence = 0
        try:
            sequence = self._recorder.unreadable(acting, seen, verdict, pause_us, self._seal.name)
        except JournalFailed:
            self._recorder.unrecorded += 1
        acting.refused += 1
        notices.refused(sandbox, seen.operation, seen.object, verdict, sequence)
        assert sandbox.listener is not None
        sandbox.listener.refuse(held.id, seen.errno)

    # ---- 2. who decides: the daemon's own rules, or else the gate, or else a person

    def _pause(self, sandbox: Sandbox, held: Held, seen: Effects, started: int) -> None:
        acting = sandbox.acting(held.tid)
        effects = acting.named(seen.effects, self.policy_version)
        pause = Pause(sandbox, acting, held, seen, effects, [None] * len(effects), started, self.policy_version)
        self.questions.interrupted(sandbox, held.tid)
        if self._covered(pause):
            return
        pause.ties = tuple(acting.inflight.tie(effect) for effect in effects)
        pause.verdicts = [
            self._judge.verdict(sandbox, acting, effect, self.policy_version, tie)
            for effect, tie in zip(effects, pause.ties, strict=True)
        ]
        if pause.decided:
            self._finish(pause)
            return
        for index in range(len(effects)):
            if pause.verdicts[index] is None and not pause.over:
                self.questions.ask(pause, index)

    def _covered(self, pause: Pause) -> bool:
        """The short way, of most effects: the lease holds that was given for this very effect, no tool call has to be
        told from another, and no digest is taken. Record, grant and reply are those of the long way; False sends
        everything else there, also what cannot be recorded."""
        acting, effect = pause.acting, pause.effects[0]
        if len(pause.effects) > 1 or acting.inflight.server.governed:
            return False
        for rules in acting.rules:
            if effect.operation in rules.durable:
                return False
        lease = self._judge.judged(acting, effect, self.policy_version)
        if lease is None:
            return False
        try:
            sequence = self._recorder.covered(pause, lease, self._seal.name)
        except (JournalFailed, RecordRefused):
            return False
        pause.over = True
        self._let_go(pause, sequence)
        self.short.learn(pause, lease)
        return True

    def _decided(self, pause: Pause, index: int, verdict: Verdict) -> None:
        """The gate or a person has answered."""
        if pause.over:
            return
        pause.verdicts[index] = verdict
        if verdict.lease is not None and verdict.decision is Decision.ALLOW:
            keep_lease(pause.acting, pause.effects[index], verdict, pause.ties[index], self.policy_version)
        if pause.decided:
            self.questions.settled(pause)
            self._finish(pause)

    # ---- 3. record

    def _finish(self, pause: Pause) -> None:
        pause.over = True
        if pause.sandbox.listener is None:
            pause.seen.close()
            return  # it has ended; its threads are gone
        if pause.policy_version != self.policy_version:
            self._judge_again(pause)
        durable = any(effect.operation in rules.durable for rules in pause.acting.rules for effect in pause.effects)
        if pause.refusal is None and durable:
            self._digest(pause)
        else:
            self._record(pause)

    def _judge_again(self, pause: Pause) -> None:
        """Policy changed while it waited: an approval under the old one does not count, a person's does within the new
        bounds."""
        for index, effect in enumerate(pause.effects):
            verdict = pause.verdicts[index]
            refusal = self._judge.refusal(pause.sandbox, pause.acting, effect, self.policy_version)
            if refusal is None and verdict is not None and verdict.layer != PERSON:
                reason = "policy changed while this waited: it may be tried again"
                refusal = deny(DAEMON, "policy-changed", reason, self.policy_version)
            if refusal is not None and verdict is not None and verdict.decision is Decision.ALLOW:
                pause.verdicts[index] = refusal

    def _digest(self, pause: Pause) -> None:
        """What is durable is digested before the record, and on disk before the effect."""
        changed = _changed_files(pause)
        if not changed:
            pause.before = {}
            self._record(pause)
            return

        def digested(found: States | str) -> None:
            if pause.sandbox.listener is None:
                pause.seen.close()  # it has ended meanwhile
                return
            pause.before = {} if isinstance(found, str) else found
            if isinstance(found, str):
                pause.verdicts[0] = deny(DAEMON, "digest-unavailable", found, self.policy_version)
            self._record(pause)

        self._digests.take(pause.sandbox, changed, digested)

    def _record(self, pause: Pause) -> None:
        refusal = pause.refusal
        try:
            sequence = self._recorder.effects(pause, self._seal.name, errno.EPERM if refusal else 0)
        except (JournalFailed, RecordRefused) as failure:
            self._refuse_unrecorded(pause, failure)
            return
        if refusal is not None:
            self._refuse(pause, pause.verdicts.index(refusal), refusal, sequence)
        elif pause.before is None:
            self._let_go(pause, sequence)
        else:
            for name in _changed_files(pause):
                pause.acting.changed.setdefault(name, (sequence, pause.before.get(name)))
            self._recorder.when_durable(
                sequence, lambda failed: self.worker.post(partial(self._on_disk, pause, sequence, failed))
            )

    def _on_disk(self, pause: Pause, sequence: int, failed: Exception | None) -> None:
        if failed is not None:
            self._recorder.gone(pause.acting, sequence, "journal-failed")
            self._refuse_unrecorded(pause, failed)
        elif pause.sandbox.listener is not None:
            self._let_go(pause, sequence)
        else:
            pause.seen.close()

    # ---- 4. grant, and reply

    def _let_go(self, pause: Pause, sequence: int) -> None:
        sandbox, acting = pause.sandbox, pause.acting
        assert sandbox.listener is not None
        try:
            self._grant(sandbox, pause.held, pause.seen)
        except GrantFailed as failure:
            self._recorder.gone(acting, sequence, "grant-failed")
            self._refuse(pause, 0, deny(DAEMON, "grant-failed", str(failure), self.policy_version), sequence)
            return
        # The reply first: the thread need not wait for the bookkeeping, which only later effects ask for.
        if not sandbox.listener.proceed(pause.held.id):
            self._recorder.gone(acting, sequence, "thread-gone")
        acting.allowed += 1
        for effect in pause.effects:
            acting.remember(effect)
            acting.footprint.note(effect)

    def _grant(self, sandbox: Sandbox, held: Held, seen: Effects) -> None:
        """Tells the seal what the call may do, once. What the grant is for stays open until others have come after it:
        an inode that nobody holds may be forgotten by the kernel, and the grant with it. GrantFailed."""
        expires = time.monotonic() + GRANT_SECONDS
        for effect in seen.effects:
            self._seal.grant(Grant(sandbox.id, held.tid, effect, expires, seen.targets, seen.argv, seen.environment))
        if seen.handles is not None:
            if len(self._granted) == GRANTS_HELD:
                self._granted.popleft()[1].close()
            self._granted.append((expires, seen.handles))

    def tick(self) -> None:
        """Lets go of what grants were for that hold no longer: a file system with something open on it cannot be
        unmounted."""
        now = time.monotonic()
        while self._granted and self._granted[0][0] < now:
            self._granted.popleft()[1].close()

    def _refuse(self, pause: Pause, index: int, refusal: Verdict, sequence: int) -> None:
        pause.seen.close()
        effect = pause.effects[index]
        pause.acting.refused += 1
        notices.refused(pause.sandbox, effect.operation, effect.object, refusal, sequence)
        if pause.sandbox.listener is not None:
            pause.sandbox.listener.refuse(pause.held.id, errno.EPERM)

    def _refuse_unrecorded(self, pause: Pause, failure: Exception) -> None:
        """Without a record there is no effect. The refusal itself is told, and counted."""
        log.error("sandbox %s: refused, since the journal fails: %s", pause.sandbox.id, failure)
        self._recorder.unrecorded += 1
        reason = f"the journal cannot be written: {failure}"
        self._refuse(pause, 0, deny(DAEMON, "journal-failed", reason, self.policy_version), 0)

    # ---- when nobody waits any more

    def forget(self, sandbox: Sandbox) -> None:
        """Refuses what waits for a sandbox that ends: its threads are about to be killed, and the record says so."""
        for pause in self.questions.forget(sandbox):
            self._abandon(pause, "sandbox-ended", "the sandbox ended while this waited", errno.EPERM)

    def interrupt(self, sandbox: Sandbox) -> None:
        """Answers what waits for a sandbox that goes on under another daemon."""
        for pause in self.questions.forget(sandbox):
            reason = "the daemon was restarted while this waited: it may be tried again"
            self._abandon(pause, "daemon-restarted", reason, errno.EINTR)
            if sandbox.listener is not None:
                sandbox.listener.refuse(pause.held.id, errno.EINTR)

    def _withdrawn(self, pause: Pause) -> None:
        """What was attempted is recorded all the same: asking and going away is no way to try things unseen."""
        reason = "its thread waits no longer: it was killed, or a signal ended the call"
        self._abandon(pause, "withdrawn", reason, errno.EINTR)

    def _abandon(self, pause: Pause, rule: str, reason: str, number: int) -> None:
        pause.over = True
        pause.seen.close()
        pause.acting.refused += 1
        refusal = deny(DAEMON, rule, reason, self.policy_version)
        pause.verdicts = [verdict or refusal for verdict in pause.verdicts]
        try:
            self._recorder.effects(pause, self._seal.name, number)
        except (JournalFailed, RecordRefused):
            self._recorder.unrecorded += 1


def _changed_files(pause: Pause) -> list[str]:
    """The files that a held call changes, as far as they have names."""
    return [
        name
        for effect in pause.effects
        if effect.operation in FILE_CHANGES
        for name in (effect.object, effect.second)
        if name.startswith("/")
    ]
