"""Writes what happens in sandboxes to the journal: repeated refusals counted, each sandbox within its budget.

Belongs to the leader (supervisor/lanes).
"""

import errno as errno_names
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from blake3 import blake3

from governed_mcpd.grant.seal import SealEvent
from governed_mcpd.journal.budget import Budget
from governed_mcpd.journal.errors import JournalFailed
from governed_mcpd.journal.journal import Durable, Journal
from governed_mcpd.journal.records import (
    Prepared,
    effect_after_record,
    effect_record,
    sandbox_start_record,
    seal_event_record,
)
from governed_mcpd.journal.redact import redact
from governed_mcpd.journal.repeats import Repeats
from governed_mcpd.nouns.action import Action, SideEffect
from governed_mcpd.nouns.verdict import Decision, Verdict
from governed_mcpd.pause.observation import Unreadable
from governed_mcpd.subjects.inflight import Tie
from governed_mcpd.subjects.leases import Held as HeldLease
from governed_mcpd.subjects.sandbox import Acting, Sandbox, State
from governed_mcpd.supervisor.pauses import Pause

DAEMON = "daemon"  # supervisor/judge: the layer of what it decides by itself


@dataclass(slots=True)
class Ready:
    """The record of what a lease covers, and what else it depends on."""

    details: Mapping[str, str]
    task: str
    prepared: Prepared


class Recorder:
    """`on_exhausted` is told the id of a sandbox that has used up its budget."""

    def __init__(self, journal: Journal, on_exhausted: Callable[[str], None]) -> None:
        self._journal = journal
        self._on_exhausted = on_exhausted
        self._budget = Budget()
        self._repeats = Repeats(self._append)
        self.unrecorded = 0

    # ---- effects

    def effects(self, pause: Pause, seal: str, refused_with: int) -> int:
        """Records every effect of one held call; returns the number of the refusal, or of the last. JournalFailed."""
        sequence = 0
        refusal = 0
        ties = pause.ties or (None,) * len(pause.effects)
        for effect, verdict, tie in zip(pause.effects, pause.verdicts, ties, strict=True):
            if verdict is None:
                continue  # another effect of the same call was refused before this one was decided
            if verdict.decision is Decision.ALLOW:
                sequence = self._append(self._effect(pause, effect, verdict, seal, refused_with, tie))
                continue
            words = (effect.object, effect.second, *effect.argv, *(tie.calls if tie else ()))
            key = (effect.operation, verdict.layer, verdict.rule, _digest(*words))
            refusal, _ = self._repeats.refused(
                pause.acting.subject.sandbox,
                key,
                partial(self._effect, pause, effect, verdict, seal, refused_with, tie),
            )
        return refusal or sequence

    def covered(self, pause: Pause, lease: HeldLease, seal: str) -> int:
        """Records a held call whose one effect is covered by the lease that was given for it: the same record at each
        use but for its times, so it is kept ready with the lease. JournalFailed, RecordRefused."""
        acting, effect, ready = pause.acting, pause.effects[0], lease.prepared
        if not isinstance(ready, Ready) or ready.details != effect.details or ready.task is not acting.task:
            given = bool(acting.task)
            record = effect_record(acting.subject, effect, lease.verdict, pause_us=0, seal=seal, task_given=given)
            ready = lease.prepared = Ready(effect.details, acting.task, Prepared(record))
        pause_us = (time.perf_counter_ns() - pause.started) // 1000
        sequence, size = self._journal.append_prepared(ready.prepared, pause_us)
        if not self._budget.spend(pause.sandbox.id, size):
            self._on_exhausted(pause.sandbox.id)
        return sequence

    def take_in_advance(self, sandbox: str, size: int) -> bool:
        """Takes bytes of a sandbox's budget for records that somebody else appends; False when it has not much left."""
        return self._budget.left(sandbox) > 2 * size and self._budget.spend(sandbox, size)

    def _effect(
        self, pause: Pause, effect: SideEffect, verdict: Verdict, seal: str, refused_with: int, tie: Tie | None
    ) -> dict[str, object]:
        # What the daemon lets run free (scratch, its own terminal) is of no contract and needs none.
        told = None if verdict.layer == DAEMON and verdict.decision is Decision.ALLOW else tie
        return effect_record(
            pause.acting.subject,
            effect,
            verdict,
            pause_us=(time.perf_counter_ns() - pause.started) // 1000,
            gate_us=pause.gate_us,
            seal=seal,
            errno=refused_with,
            approved_by=pause.approved_by,
            task_given=bool(pause.acting.task),
            before=(pause.before or {}).get(effect.object),
            calls=told.calls if told else None,
            call=told.call if told else "",
        )

    def unreadable(self, acting: Acting, seen: Unreadable, verdict: Verdict, pause_us: int, seal: str) -> int:
        """Records a held call that could not be read, and was refused. JournalFailed."""
        subject = acting.subject
        record: dict[str, object] = {
            "kind": "effect",
            "sandbox": subject.sandbox,
            "operation": str(seen.operation),
            "object": seen.object,
            "decision": verdict.decision.value,
            "layer": verdict.layer,
            "rule": verdict.rule,
            "reason": redact(verdict.reason),
            "pause_us": pause_us,
            "seal": seal,
            "errno": errno_names.errorcode.get(seen.errno, str(seen.errno)),
            "policy_version": verdict.policy_version,
        }
        key = (str(seen.operation), "unreadable", seen.rule, _digest(seen.object))
        return self._repeats.refused(subject.sandbox, key, lambda: record)[0]

    def seal_event(self, event: SealEvent, seal: str) -> int:
        """Records what the kernel refused; the same again is counted. JournalFailed."""
        record = partial(
            seal_event_record,
            event.sandbox,
            thread=event.thread,
            operation=event.operation,
            object_=event.object,
            reason=event.reason,
            dropped=event.dropped,
            seal=seal,
        )
        if event.dropped:
            return self._append(record())  # counted as the same again, it would take what was dropped with it
        key = ("seal", event.operation, event.reason, _digest(event.object))
        return self._repeats.refused(event.sandbox, key, record)[0]

    def gone(self, acting: Acting, sequence: int, why: str) -> None:
        """An approved effect did not happen after all. A journal that fails now has recorded the approval before."""
        self._try({"kind": "effect.gone", "sandbox": acting.subject.sandbox, "first_seq": sequence, "reason": why})

    def approval(self, action: Action, approve: bool, uid: int, note: str) -> None:
        """A person's answer. JournalFailed: then it does not count."""
        what = action.what
        about = (
            {"operation": what.operation.value, "object": what.object}
            if isinstance(what, SideEffect)
            else {"server": what.server, "tool": what.tool}
        )
        self._append(
            {
                "kind": "approval",
                "sandbox": action.subject.sandbox,
                "approval": action.id,
                "approve": approve,
                "by_uid": uid,
                "note": redact(note),
                **about,
            }
        )

    def after(self, acting: Acting, changed: list[tuple[int, State | None, State | None]]) -> None:
        """How files that were changed durably look now, and how they looked before."""
        for sequence, before, now in changed:
            self._try(effect_after_record(acting.subject.sandbox, sequence, before, now))

    def when_durable(self, sequence: int, callback: Durable) -> None:
        """Calls back from the journal's thread."""
        self._journal.when_durable(sequence, callback)

    def tick(self) -> None:
        """Writes the counts of refusals whose window is over."""
        self._repeats.tick()

    # ---- tool calls

    def write(self, record: Mapping[str, object]) -> int:
        """Records what belongs to a Subject (`sandbox`), on its budget. JournalFailed."""
        return self._append(record)

    def write_refusal(self, key: object, record: Mapping[str, object]) -> int:
        """Records a refusal; one that is like the last is only counted. JournalFailed."""
        return self._repeats.refused(str(record["sandbox"]), key, lambda: record)[0]

    def note(self, record: Mapping[str, object]) -> None:
        """Records what no answer depends on."""
        try:
            self._append(record)
        except JournalFailed:
            self.unrecorded += 1

    def open_budget(self, subject: str, limit: int) -> None:
        """For a Subject without a sandbox: a remote server. `limit` is in bytes."""
        self._budget.open(subject, limit)

    def close_budget(self, subject: str) -> None:
        """It acts no longer: what was counted is written. JournalFailed."""
        self._repeats.end(subject)
        self._budget.end(subject)

    # ---- sandboxes

    def started(self, acting: Acting, seal: str, policy_version: str, limit: int | None) -> None:
        """A Subject begins to act. `limit` (bytes) opens a budget; a child lives on its sandbox's. JournalFailed."""
        record = self._start_record(acting, seal, policy_version)
        if limit is not None:
            self._budget.open(acting.subject.sandbox, limit)
        self._append(record)

    def resumed(self, acting: Acting, seal: str, policy_version: str, limit: int) -> None:
        """A new daemon goes on with it, with a new budget. JournalFailed."""
        self._budget.open(acting.subject.sandbox, limit)
        self._append({**self._start_record(acting, seal, policy_version), "kind": "sandbox.resumed"})

    def _start_record(self, acting: Acting, seal: str, policy_version: str) -> dict[str, object]:
        return sandbox_start_record(
            acting.subject,
            [word.decode("utf-8", "surrogateescape") for word in acting.argv],
            cwd=acting.rules[-1].places.cwd,
            pid=acting.pid,
            seal=seal,
            policy_version=policy_version,
            task=acting.task,
        )

    def ended(self, acting: Acting, reason: str) -> None:
        """It acts no longer."""
        identity = acting.subject.sandbox
        try:
            self._repeats.end(identity)
        except JournalFailed:
            self.unrecorded += 1
        self._try(
            {
                "kind": "sandbox.end",
                "sandbox": identity,
                "reason": reason,
                "allowed": acting.allowed,
                "refused": acting.refused,
            }
        )
        self._budget.end(identity)

    def frozen(self, sandbox: Sandbox, reason: str) -> None:
        self._try({"kind": "sandbox.frozen", "sandbox": sandbox.id, "reason": reason})

    def thawed(self, sandbox: Sandbox, uid: int, more_bytes: int) -> None:
        """Gives more budget. JournalFailed."""
        self._journal.append({"kind": "sandbox.thawed", "sandbox": sandbox.id, "by_uid": uid, "more_bytes": more_bytes})
        self._budget.add(sandbox.id, more_bytes)

    def policy(self, version: str, previous: str, uid: int, widens: list[str]) -> None:
        """A policy set took the place of another. JournalFailed: then it does not."""
        self._journal.append(
            {
                "kind": "policy.activate",
                "policy_version": version,
                "previous": previous,
                "by_uid": uid,
                "widens": widens[:100],
            }
        )

    def stop(self) -> None:
        """Writes every count that is left."""
        self._repeats.stop()

    def _append(self, record: Mapping[str, object]) -> int:
        sequence, size = self._journal.append_sized(record)
        sandbox = str(record["sandbox"]).partition(".")[0]
        if not self._budget.spend(sandbox, size):
            self._on_exhausted(sandbox)
        return sequence

    def _try(self, record: Mapping[str, object]) -> None:
        try:
            self._journal.append(record)
        except JournalFailed:
            self.unrecorded += 1


def _digest(*words: str) -> bytes:
    """Stands for words that may be long: a key is kept for seconds, and a million of them must not be the words."""
    return blake3(b"\0".join(os.fsencode(word) for word in words)).digest()
