"""Nouns over the wire and back; messages that say too little or too much."""

import os

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from governed.v1 import nouns_pb2 as pb
from governed_mcpd.nouns import wire
from governed_mcpd.nouns.action import Action, Context, SideEffect, ToolCall, Untrusted
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern, PatternKind
from governed_mcpd.nouns.subject import Subject, Tier
from governed_mcpd.nouns.verdict import Decision, LayerReport, Verdict

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
name = st.binary(max_size=20).map(os.fsdecode)  # what the kernel knows: any bytes
number = st.integers(0, 0xFFFF_FFFF)
subjects = st.builds(Subject, text, st.sampled_from(Tier), text, number, text, text, text)
effects = st.builds(
    SideEffect,
    st.sampled_from(Operation),
    name,
    name,
    st.lists(name, max_size=3).map(tuple),
    st.dictionaries(text, text, max_size=3),
)
tool_calls = st.builds(ToolCall, text, text, st.binary(max_size=20))
contexts = st.builds(
    Context, text, st.lists(text, max_size=2).map(tuple), text, text, st.lists(tool_calls, max_size=2).map(tuple),
    st.lists(effects, max_size=2).map(tuple), st.lists(st.builds(Untrusted, text, text), max_size=2).map(tuple),
)  # fmt: skip
actions = st.builds(Action, text, subjects, st.one_of(effects, tool_calls), contexts)
endpoint = st.builds("{}:{}:{}".format, st.sampled_from(["tcp", "udp"]), st.just("*"), st.integers(0, 65535))
patterns = st.one_of(
    st.builds(Pattern, st.just(PatternKind.EXACT), name.filter(bool)),
    st.builds(Pattern, st.just(PatternKind.UNDER), name.map("/{}".format)),
    st.builds(Pattern, st.just(PatternKind.ENDPOINT), endpoint),
)
leases = st.builds(
    Lease, st.frozensets(st.sampled_from(Operation), min_size=1), patterns, st.integers(1, wire.MAX_LEASE_USES),
    st.integers(1, wire.MAX_LEASE_SECONDS), text, text,
)  # fmt: skip
reports = st.builds(LayerReport, text, text, text, text, number)


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    decision = draw(st.sampled_from(Decision))
    some = text.filter(bool)
    return Verdict(
        decision, draw(some), draw(some), draw(text), draw(st.none() | st.integers(0, 1_000_000)), draw(text),
        tuple(draw(st.lists(reports, max_size=3))), draw(st.none() | leases) if decision is Decision.ALLOW else None,
        draw(st.booleans()), draw(text),
    )  # fmt: skip


@given(actions)
@settings(deadline=None)
def test_actions(action: Action) -> None:
    raw = wire.action_to_pb(action).SerializeToString()
    assert wire.action_from_pb(pb.Action.FromString(raw)) == action


@given(verdicts())
@settings(deadline=None)
def test_verdicts(verdict: Verdict) -> None:
    raw = wire.verdict_to_pb(verdict).SerializeToString()
    assert wire.verdict_from_pb(pb.Verdict.FromString(raw)) == verdict


@given(effects, st.dictionaries(name, name, max_size=3), st.lists(name, max_size=2))
@settings(deadline=None)
def test_names_that_are_not_utf8_are_told_everywhere(
    effect: SideEffect, details: dict[str, str], directories: list[str]
) -> None:
    """Objects and arguments exactly; details and directories, which are for people and the constitution, nearly."""
    odd = SideEffect(effect.operation, effect.object, effect.second, effect.argv, details)
    context = Context(directories=tuple(directories), home=directories[0] if directories else "", earlier=(odd,))
    action = Action("1", Subject("a", Tier.CLASSIC, "s", 1, "p"), odd, context)
    found = wire.action_from_pb(pb.Action.FromString(wire.action_to_pb(action).SerializeToString()))
    assert isinstance(found.what, SideEffect)
    assert (found.what.object, found.what.second, found.what.argv) == (effect.object, effect.second, effect.argv)
    assert len(found.context.directories) == len(directories)


def good_action() -> pb.Action:
    return wire.action_to_pb(
        Action("1", Subject("a", Tier.CLASSIC, "s", 1, "p"), SideEffect(Operation.FILE_WRITE, "/x"), Context())
    )


def good_verdict() -> pb.Verdict:
    lease = Lease(frozenset({Operation.FILE_WRITE}), Pattern.parse("/a/**"), 1, 1)
    return wire.verdict_to_pb(Verdict(Decision.ALLOW, "layer", "rule", "", lease=lease))


ACTIONS = {
    "what": lambda m: m.ClearField("effect"),
    "subject": lambda m: m.ClearField("subject"),
    "tier": lambda m: m.subject.ClearField("tier"),
    "tier is 77": lambda m: setattr(m.subject, "tier", 77),
    "operation": lambda m: setattr(m.effect, "operation", "file.destroy"),
    "operation is ''": lambda m: m.effect.ClearField("operation"),
}
VERDICTS = {
    "decision": lambda m: m.ClearField("decision"),
    "decision is 99": lambda m: setattr(m, "decision", 99),
    "layer": lambda m: m.ClearField("layer"),
    "rule": lambda m: m.ClearField("rule"),
    "dangerous_ppm": lambda m: setattr(m, "dangerous_ppm", 1_000_001),
    "only an approval has a lease": lambda m: setattr(m, "decision", pb.DECISION_DENY),
    "lease.operations": lambda m: m.lease.ClearField("operations"),
    "lease.operations is 'x'": lambda m: m.lease.operations.append("x"),
    "lease.uses": lambda m: setattr(m.lease, "uses", 0),
    "lease.uses is 1000001": lambda m: setattr(m.lease, "uses", 1_000_001),
    "lease.seconds": lambda m: setattr(m.lease, "seconds", 0),
    "lease.seconds is 86401": lambda m: setattr(m.lease, "seconds", 86_401),
    "pattern.kind": lambda m: m.lease.pattern.ClearField("kind"),
    "pattern.text": lambda m: setattr(m.lease.pattern, "text", b"relative"),
}


@pytest.mark.parametrize("says", ACTIONS)
def test_an_action_that_is_not_one(says: str) -> None:
    message = good_action()
    wire.action_from_pb(message)
    ACTIONS[says](message)
    with pytest.raises(wire.WireError, match=says):
        wire.action_from_pb(message)


@pytest.mark.parametrize("says", VERDICTS)
def test_a_verdict_that_is_not_one(says: str) -> None:
    message = good_verdict()
    wire.verdict_from_pb(message)
    VERDICTS[says](message)
    with pytest.raises(wire.WireError, match=says):
        wire.verdict_from_pb(message)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=500)
def test_garbage_is_refused_or_whole(raw: bytes) -> None:
    for kind, read, write in (
        (pb.Action, wire.action_from_pb, wire.action_to_pb),
        (pb.Verdict, wire.verdict_from_pb, wire.verdict_to_pb),
    ):
        try:
            noun = read(kind.FromString(raw))
        except (DecodeError, wire.WireError):
            continue
        assert read(write(noun)) == noun
