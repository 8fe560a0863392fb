"""Nouns to protobuf and back. Reading is strict: what a message leaves out or has too much of is a WireError."""

import os
from functools import lru_cache

from governed.v1 import nouns_pb2 as pb
from governed_mcpd.nouns.action import Action, Context, SideEffect, ToolCall, Untrusted
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern, PatternError, PatternKind
from governed_mcpd.nouns.subject import Subject, Tier
from governed_mcpd.nouns.verdict import Decision, LayerReport, Verdict


class WireError(ValueError):
    """A message that does not say what it has to. The text names the field and what was expected."""


_DECISIONS = {
    pb.DECISION_ALLOW: Decision.ALLOW,
    pb.DECISION_DENY: Decision.DENY,
    pb.DECISION_ASK: Decision.ASK,
}
_DECISIONS_OUT = {decision: number for number, decision in _DECISIONS.items()}
_KINDS = {
    pb.Pattern.KIND_EXACT: PatternKind.EXACT,
    pb.Pattern.KIND_UNDER: PatternKind.UNDER,
    pb.Pattern.KIND_ENDPOINT: PatternKind.ENDPOINT,
    pb.Pattern.KIND_NAME: PatternKind.NAME,
}
_KINDS_OUT = {kind: number for number, kind in _KINDS.items()}
MOST_KNOWN = 1024  # earlier effects, and Subjects, that are kept converted
MOST_KNOWN_BYTES = 8192  # of one of them
MAX_LEASE_USES = 1_000_000
MAX_LEASE_SECONDS = 86_400


def text(value: str) -> str:
    """`value` as a string field takes it: what was not UTF-8 (a path in surrogateescape form) as U+FFFD."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def subject_to_pb(subject: Subject) -> pb.Subject:
    return pb.Subject(
        agent=subject.agent,
        tier=pb.Tier.ValueType(subject.tier),
        sandbox=subject.sandbox,
        uid=subject.uid,
        profile=subject.profile,
        server=subject.server,
        parent=subject.parent,
    )


def subject_from_pb(message: pb.Subject) -> Subject:
    """The same one for all actions of a Subject."""
    body = message.SerializeToString()
    return (_subject if len(body) <= MOST_KNOWN_BYTES else _subject.__wrapped__)(body)


@lru_cache(maxsize=MOST_KNOWN)
def _subject(body: bytes) -> Subject:
    message = pb.Subject.FromString(body)
    if message.tier not in (tier.value for tier in Tier):
        raise WireError(f"subject.tier is {message.tier}: expected a tier from 1 (Classic) to 4 (System)")
    return Subject(
        agent=message.agent,
        tier=Tier(message.tier),
        sandbox=message.sandbox,
        uid=message.uid,
        profile=message.profile,
        server=message.server,
        parent=message.parent,
    )


def effect_to_pb(effect: SideEffect) -> pb.SideEffect:
    return pb.SideEffect(
        operation=effect.operation.value,
        object=os.fsencode(effect.object),
        second=os.fsencode(effect.second),
        argv=[os.fsencode(word) for word in effect.argv],
        details={text(name): text(value) for name, value in effect.details.items()},
    )


def effect_from_pb(message: pb.SideEffect) -> SideEffect:
    return SideEffect(
        operation=_operation(message.operation, "effect.operation"),
        object=os.fsdecode(message.object),
        second=os.fsdecode(message.second),
        argv=tuple(os.fsdecode(word) for word in message.argv),
        details=dict(message.details),
    )


# Earlier effects are told with every question, mostly the same ones as with the last: each is converted once.
_told: dict[int, tuple[SideEffect, pb.SideEffect]] = {}


def _earlier_to_pb(effect: SideEffect) -> pb.SideEffect:
    """The same message for the same object (an effect has no hash); nobody changes it."""
    known = _told.get(id(effect))
    if known is not None and known[0] is effect:
        return known[1]
    if len(_told) >= MOST_KNOWN:
        _told.clear()
    message = effect_to_pb(effect)
    _told[id(effect)] = effect, message
    return message


def _earlier_from_pb(message: pb.SideEffect) -> SideEffect:
    body = message.SerializeToString()
    return _known(body) if len(body) <= MOST_KNOWN_BYTES else effect_from_pb(message)


@lru_cache(maxsize=MOST_KNOWN)
def _known(body: bytes) -> SideEffect:
    return effect_from_pb(pb.SideEffect.FromString(body))


def call_to_pb(call: ToolCall) -> pb.ToolCall:
    return pb.ToolCall(server=call.server, tool=call.tool, arguments=call.arguments, input_schema=call.input_schema)


def call_from_pb(message: pb.ToolCall) -> ToolCall:
    return ToolCall(message.server, message.tool, message.arguments, message.input_schema)


def context_to_pb(context: Context) -> pb.Context:
    return pb.Context(
        task=context.task,
        directories=[text(directory) for directory in context.directories],
        home=text(context.home),
        scratch=context.scratch,
        calls=[call_to_pb(call) for call in context.calls],
        earlier=[_earlier_to_pb(effect) for effect in context.earlier],
        untrusted=[pb.Untrusted(source=item.source, text=item.text) for item in context.untrusted],
    )


def context_from_pb(message: pb.Context) -> Context:
    return Context(
        task=message.task,
        directories=tuple(message.directories),
        home=message.home,
        scratch=message.scratch,
        calls=tuple(call_from_pb(call) for call in message.calls),
        earlier=tuple(_earlier_from_pb(effect) for effect in message.earlier),
        untrusted=tuple(Untrusted(item.source, item.text) for item in message.untrusted),
    )


def action_to_pb(action: Action) -> pb.Action:
    message = pb.Action(id=action.id, subject=subject_to_pb(action.subject), context=context_to_pb(action.context))
    if isinstance(action.what, SideEffect):
        message.effect.CopyFrom(effect_to_pb(action.what))
    else:
        message.call.CopyFrom(call_to_pb(action.what))
    return message


def action_from_pb(message: pb.Action) -> Action:
    which = message.WhichOneof("what")
    if which is None:
        raise WireError("action.what is missing: expected a call or an effect")
    if not message.HasField("subject"):
        raise WireError("action.subject is missing: every action has one")
    what = call_from_pb(message.call) if which == "call" else effect_from_pb(message.effect)
    return Action(message.id, subject_from_pb(message.subject), what, context_from_pb(message.context))


def pattern_to_pb(pattern: Pattern) -> pb.Pattern:
    return pb.Pattern(kind=_KINDS_OUT[pattern.kind], text=os.fsencode(pattern.text))


def pattern_from_pb(message: pb.Pattern) -> Pattern:
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise WireError(f"pattern.kind is {message.kind}: expected exact, under, endpoint or name")
    try:
        return Pattern(kind, os.fsdecode(message.text))
    except PatternError as error:
        raise WireError(f"pattern.text: {error}") from None


def lease_to_pb(lease: Lease) -> pb.Lease:
    return pb.Lease(
        operations=sorted(operation.value for operation in lease.operations),
        pattern=pattern_to_pb(lease.pattern),
        uses=lease.uses,
        seconds=lease.seconds,
        policy_version=lease.policy_version,
        call=lease.call,
    )


def lease_from_pb(message: pb.Lease) -> Lease:
    if not message.operations:
        raise WireError("lease.operations is empty: a lease names what it covers")
    if not 0 < message.uses <= MAX_LEASE_USES:
        raise WireError(f"lease.uses is {message.uses}: expected 1 to {MAX_LEASE_USES}")
    if not 0 < message.seconds <= MAX_LEASE_SECONDS:
        raise WireError(f"lease.seconds is {message.seconds}: expected 1 to {MAX_LEASE_SECONDS}")
    return Lease(
        operations=frozenset(_operation(name, "lease.operations") for name in message.operations),
        pattern=pattern_from_pb(message.pattern),
        uses=message.uses,
        seconds=message.seconds,
        policy_version=message.policy_version,
        call=message.call,
    )


def verdict_to_pb(verdict: Verdict) -> pb.Verdict:
    message = pb.Verdict(
        decision=_DECISIONS_OUT[verdict.decision],
        layer=verdict.layer,
        rule=verdict.rule,
        reason=verdict.reason,
        policy_version=verdict.policy_version,
        layers=[
            pb.LayerReport(
                layer=layer, result=result, rule=rule, reason=reason, nanoseconds=min(nanoseconds, 0xFFFFFFFF)
            )
            for layer, result, rule, reason, nanoseconds in verdict.layers
        ],
        would_deny=verdict.would_deny,
        model=verdict.model,
    )
    if verdict.dangerous_ppm is not None:
        message.dangerous_ppm = verdict.dangerous_ppm
    if verdict.lease is not None:
        message.lease.CopyFrom(lease_to_pb(verdict.lease))
    return message


def verdict_from_pb(message: pb.Verdict) -> Verdict:
    decision = _DECISIONS.get(message.decision)
    if decision is None:
        raise WireError(f"verdict.decision is {message.decision}: expected allow, deny or ask")
    if not message.layer or not message.rule:
        raise WireError("verdict.layer or verdict.rule is empty: every verdict says who decided by what")
    if message.HasField("dangerous_ppm") and message.dangerous_ppm > 1_000_000:
        raise WireError(f"verdict.dangerous_ppm is {message.dangerous_ppm}: expected 0 to 1000000")
    lease = lease_from_pb(message.lease) if message.HasField("lease") else None
    if lease is not None and decision is not Decision.ALLOW:
        raise WireError(f"verdict.lease comes with {decision}: only an approval has a lease")
    return Verdict(
        decision=decision,
        layer=message.layer,
        rule=message.rule,
        reason=message.reason,
        dangerous_ppm=message.dangerous_ppm if message.HasField("dangerous_ppm") else None,
        policy_version=message.policy_version,
        layers=tuple(
            LayerReport(report.layer, report.result, report.rule, report.reason, report.nanoseconds)
            for report in message.layers
        ),
        lease=lease,
        would_deny=message.would_deny,
        model=message.model,
    )


def _operation(name: str, field: str) -> Operation:
    try:
        return Operation(name)
    except ValueError:
        raise WireError(f"{field} is {name!r}: expected one of {', '.join(Operation)}") from None
