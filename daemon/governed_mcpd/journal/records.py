"""The kinds of records, and builders for those whose content needs care.

Every record has `kind`, and from the journal `seq` and `time_us` (wall clock, microseconds since 1970). What belongs
to a sandbox has `sandbox`. Empty fields are left out. Field names are those of the nouns. There are no floats:
P(dangerous) is `dangerous_ppm`, times say their unit.
"""

import errno as errno_names
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from governed_mcpd.journal.canonical import CanonicalError, canonical
from governed_mcpd.journal.errors import RecordRefused
from governed_mcpd.journal.redact import redact, render_argv
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.subject import Subject, Tier
from governed_mcpd.nouns.verdict import LayerReport, Verdict

KINDS: Final[Mapping[str, str]] = {
    "journal.open": "a writer took up the journal: format, key (hex) that signs its checkpoints, boot (boot id), pid",
    "journal.truncated": "a crash cut the last line of file short; its bytes, with digest (BLAKE3), were removed",
    "journal.recovered": "writing works again: reason it had failed for, refused (appends in between), since_us",
    "daemon.start": "version, seal, seal_reason, policy_version",
    "daemon.stop": "reason",
    "policy.activate": "policy_version, previous, by_uid, widens (what the new set allows besides)",
    "sandbox.start": "sandbox, subject, argv, cwd, pid, seal, policy_version, task_given, task (redacted)",
    "sandbox.resumed": "like sandbox.start: a daemon that was started again supervises it from here on",
    "sandbox.end": "sandbox, reason, allowed, refused",
    "sandbox.frozen": "sandbox, reason; its effects wait until someone thaws it",
    "sandbox.thawed": "sandbox, by_uid, more_bytes (added to its journal budget)",
    "effect": "a side effect and its verdict: see effect_record",
    "effect.repeated": "count further effects like record first_seq were refused in the same way, since_us to until_us",
    "effect.gone": "the thread was gone before the answer to the effect of record first_seq reached it",
    "effect.after": "a durable effect (record first_seq) is over: before and after, each size and digest of the object",
    "name.answer": "what was found for the name of record first_seq: code, addresses, aliases (the chain of names)",
    "seal.event": "the kernel refused what no grant was for: see seal_event_record",
    "approval": "a person's answer: approval (id), approve, by_uid, note, sandbox, operation, object (or server, tool)",
    "call": "a tool call and its verdict: see calls/records",
    "call.end": "a tool call is over: call, outcome, what came back (source, size, digest, …), effects",
    "call.refused": "a gateway refused a request by itself: method, rule, reason, from_server",
    "content": "content of a server that belongs to no tool call: source, size, digest, findings, handling",
    "tools.pinned": "tools that were listed for the first time: server, tools (name and pin), by first use",
    "tools.withheld": "tools that a server listed and its client does not get: server, tools (name, rule, reason, pin)",
    "tools.approved": "a person accepted what a server lists: server, of_uid, by_uid, tools (name and pin)",
}
MAX_TEXT: Final = 1024
# Details in the daemon's own words: nothing in them comes from outside.
_OWN_WORDS: Final = frozenset(
    {"flags", "mode", "size", "device", "owner", "signal", "group", "replaces", "address", "dns"}
)
# What a prepared record leaves open, in the order in which canonical JSON has them.
_OPEN: Final = ("pause_us", "seq", "time_us")
_TIERS: Final = {
    Tier.CLASSIC: "Classic",
    Tier.AI_ENHANCED: "AiEnhanced",
    Tier.AI_NATIVE: "AiNative",
    Tier.SYSTEM: "System",
}


def effect_record(  # noqa: PLR0912 (a branch per field that may be empty; the hot path has no loop over them)
    subject: Subject,
    effect: SideEffect,
    verdict: Verdict,
    *,
    pause_us: int,
    gate_us: int = 0,
    seal: str,
    errno: int = 0,
    lease: str = "",
    approved_by: str = "",
    task_given: bool = False,
    before: tuple[int, str] | None = None,
    calls: Sequence[str] | None = None,
    call: str = "",
) -> dict[str, object]:
    """The record of a side effect that was decided.

    `pause_us` is how long the thread was held, `gate_us` the part of it that the gate took (0: not asked). `errno` is
    what the thread got (0: CONTINUE). `lease` names the lease that covered it, `approved_by` the person. `before` is
    size and BLAKE3 digest of the object, for durable operations. Text from outside is redacted or bounded here.
    `calls` are the tool calls that were in flight in that server (None: no gateway stands in front of it), `call` the
    one whose contract entails the effect.
    """
    record: dict[str, object] = {
        "kind": "effect",
        "sandbox": subject.sandbox,
        "subject": subject_fields(subject),
        "operation": effect.operation._value_,
        "object": effect.object,
        "decision": verdict.decision._value_,
        "layer": verdict.layer,
        "rule": verdict.rule,
        "pause_us": pause_us,
        "seal": seal,
    }
    if effect.second:
        record["second"] = effect.second
    if effect.argv:
        record["argv"] = _argv(effect.argv)
    if effect.details:
        record["details"] = {
            name: text if name in _OWN_WORDS else redact(text) for name, text in effect.details.items()
        }
    if verdict.reason:
        record["reason"] = reason_text(verdict.reason)
    if verdict.dangerous_ppm is not None:
        record["dangerous_ppm"] = verdict.dangerous_ppm
    if verdict.policy_version:
        record["policy_version"] = verdict.policy_version
    if verdict.layers:
        record["layers"] = [layer_fields(report) for report in verdict.layers]
    if verdict.would_deny:
        record["would_deny"] = True
    if verdict.model:
        record["model"] = verdict.model
    if gate_us:
        record["gate_us"] = gate_us
    if errno:
        record["errno"] = errno_names.errorcode.get(errno, str(errno))
    if lease:
        record["lease"] = lease
    if approved_by:
        record["approved_by"] = approved_by
    if task_given:
        record["task_given"] = True
    if call:
        record["call"] = call
    elif calls is not None:
        record["outside_contract"] = True
        record["calls"] = list(calls)
    if before:
        record["before"] = _state(before)
    return record


class Prepared:
    """A record that is written again and again, with other times only: its canonical JSON, ready but for `pause_us`,
    `seq` and `time_us`. RecordRefused is raised here, not when it is written."""

    __slots__ = ("parts",)

    def __init__(self, record: Mapping[str, object]) -> None:
        if record.get("kind") not in KINDS or "pause_us" not in record or not all(map(str.isascii, record)):
            raise RecordRefused(f"a record with the fields {sorted(record)[:20]} cannot be prepared")
        members = {**record, "seq": 0, "time_us": 0}
        # Names in their order (RFC 8785; they are ASCII), cut where a number goes.
        parts, text = [], b"{"
        try:
            for name in sorted(members):
                text += canonical(name) + b":"
                if name in _OPEN:
                    parts.append(text)
                    text = b","
                else:
                    text += canonical(members[name]) + b","
        except CanonicalError as error:
            raise RecordRefused(f"a record of kind {record['kind']}: {error}") from None
        before_pause, before_seq, before_time = parts
        self.parts = (before_pause, before_seq, before_time, text[:-1] + b"}" if text != b"," else b"}")

    def body(self, pause_us: int, seq: int, time_us: int) -> bytes:
        """The canonical JSON of the record with these."""
        before_pause, before_seq, before_time, rest = self.parts
        return b"%b%d%b%d%b%d%b" % (before_pause, pause_us, before_seq, seq, before_time, time_us, rest)


def answer_record(
    sandbox: str, first_seq: int, name: str, code: str, addresses: Sequence[str], aliases: Sequence[str]
) -> dict[str, object]:
    """What a name led to: the addresses that it stands for in this sandbox from here on."""
    record: dict[str, object] = {"kind": "name.answer", "sandbox": sandbox, "first_seq": first_seq, "name": name}
    record["code"] = code[:32]
    if addresses:
        record["addresses"] = list(addresses)
    if aliases:
        record["aliases"] = list(aliases)
    return record


def effect_after_record(
    sandbox: str, first_seq: int, before: tuple[int, str] | None, after: tuple[int, str] | None
) -> dict[str, object]:
    """What a durable effect did: size and BLAKE3 digest of the object before and after; None: it did not exist."""
    record: dict[str, object] = {"kind": "effect.after", "sandbox": sandbox, "first_seq": first_seq}
    if before:
        record["before"] = _state(before)
    if after:
        record["after"] = _state(after)
    return record


def seal_event_record(
    sandbox: str, *, thread: int, operation: str, object_: str, reason: str, dropped: int, seal: str
) -> dict[str, object]:
    """What the seal refused: for which object that the kernel itself resolved, and why. `dropped` events before it (of
    any sandbox) were lost to a rate limit. `sandbox` may be one that the daemon does not know."""
    record: dict[str, object] = {"kind": "seal.event", "sandbox": sandbox, "seal": seal}
    if operation:
        record["operation"] = operation
    if object_:
        record["object"] = object_
    if thread:
        record["thread"] = thread
    if reason:
        record["reason"] = redact(reason, MAX_TEXT)
    if dropped:
        record["dropped"] = dropped
    return record


def sandbox_start_record(
    subject: Subject,
    argv: Sequence[str],
    *,
    cwd: str,
    pid: int,
    seal: str,
    policy_version: str,
    task: str = "",
) -> dict[str, object]:
    """A sandbox begins. `argv` and `task` are redacted here."""
    record: dict[str, object] = {
        "kind": "sandbox.start",
        "sandbox": subject.sandbox,
        "subject": subject_fields(subject),
        "argv": _argv(argv),
        "cwd": cwd,
        "pid": pid,
        "seal": seal,
        "policy_version": policy_version,
    }
    if task:
        record["task_given"] = True
        record["task"] = redact(task, MAX_TEXT)
    return record


def subject_fields(subject: Subject) -> dict[str, object]:
    fields: dict[str, object] = {
        "agent": subject.agent,
        "tier": _TIERS[subject.tier],
        "uid": subject.uid,
        "profile": subject.profile,
    }
    if subject.server:
        fields["server"] = subject.server
    if subject.parent:
        fields["parent"] = subject.parent
    return fields


def _argv(argv: Sequence[str]) -> dict[str, object]:
    digest, words = render_argv(argv)
    return {"digest": digest, "words": words}


def layer_fields(report: LayerReport) -> dict[str, object]:
    fields: dict[str, object] = {
        "layer": report.layer,
        "result": report.result,
        "nanoseconds": report.nanoseconds,
    }
    if report.rule:
        fields["rule"] = report.rule
    if report.reason:
        fields["reason"] = reason_text(report.reason)
    return fields


def _state(state: tuple[int, str]) -> dict[str, object]:
    return {"size": state[0], "digest": state[1]}


def reason_text(text: str) -> str:
    """Reasons may quote an argument; most are the same few sentences."""
    return _short_reason(text) if len(text) <= 256 else redact(text, MAX_TEXT)


@lru_cache(maxsize=512)
def _short_reason(text: str) -> str:
    return redact(text, MAX_TEXT)
