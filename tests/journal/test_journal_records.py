"""The kinds of records and their builders."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governed_mcpd.journal.canonical import canonical, parse
from governed_mcpd.journal.errors import RecordRefused
from governed_mcpd.journal.records import KINDS, Prepared, effect_after_record, effect_record, sandbox_start_record
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.subject import Subject, Tier
from governed_mcpd.nouns.verdict import Decision, LayerReport, Verdict, deny

SUBJECT = Subject("claude", Tier.AI_ENHANCED, "s-1", 1000, "default", server="git")


def test_an_effect_with_everything() -> None:
    effect = SideEffect(
        Operation.PROCESS_EXEC, "/usr/bin/curl", "second", ("curl", "-u", "me:pw"), {"mode": "0755", "token": "x"}
    )
    layers = (
        LayerReport("schema", "pass", nanoseconds=900),
        LayerReport("prefilter", "deny", "exfil", "sends password=hunter2", 4000),
    )
    verdict = Verdict(
        Decision.DENY, "prefilter", "exfil", "sends password=hunter2", 870_000, "v1", layers, would_deny=True, model="m"
    )
    record = effect_record(
        SUBJECT,
        effect,
        verdict,
        pause_us=31,
        gate_us=20,
        seal="none",
        errno=errno.EPERM,
        lease="call-7",
        approved_by="uid 0",
        task_given=True,
        before=(12, "ab"),
    )
    argv = record.pop("argv")
    assert isinstance(argv, dict)
    assert argv["words"] == ["curl", "-u", "[redacted]"]
    assert len(argv["digest"]) == 64
    assert record == {
        "kind": "effect",
        "sandbox": "s-1",
        "subject": {"agent": "claude", "tier": "AiEnhanced", "uid": 1000, "profile": "default", "server": "git"},
        "operation": "process.exec",
        "object": "/usr/bin/curl",
        "second": "second",
        "details": {"mode": "0755", "token": "x"},
        "decision": "deny",
        "layer": "prefilter",
        "rule": "exfil",
        "reason": "sends password=[redacted]",
        "dangerous_ppm": 870_000,
        "policy_version": "v1",
        "would_deny": True,
        "model": "m",
        "layers": [
            {"layer": "schema", "result": "pass", "nanoseconds": 900},
            {
                "layer": "prefilter",
                "result": "deny",
                "nanoseconds": 4000,
                "rule": "exfil",
                "reason": "sends password=[redacted]",
            },
        ],
        "pause_us": 31,
        "gate_us": 20,
        "seal": "none",
        "errno": "EPERM",
        "lease": "call-7",
        "approved_by": "uid 0",
        "task_given": True,
        "before": {"size": 12, "digest": "ab"},
    }
    assert parse(canonical(record)) == record


def test_empty_fields_are_left_out() -> None:
    record = effect_record(
        SUBJECT, SideEffect(Operation.FILE_WRITE, "/a"), deny("envelope", "envelope", ""), pause_us=0, seal="none"
    )
    assert set(record) == {
        *("kind", "sandbox", "subject", "operation", "object", "decision", "layer", "rule", "pause_us", "seal")
    }


def test_zero_is_a_probability() -> None:
    verdict = Verdict(Decision.ALLOW, "probe", "below", "", dangerous_ppm=0)
    record = effect_record(SUBJECT, SideEffect(Operation.FILE_WRITE, "/a"), verdict, pause_us=1, seal="none")
    assert record["dangerous_ppm"] == 0


def test_a_name_that_is_not_utf_8_stays_itself() -> None:
    name = os.fsdecode(b"/tmp/\xff\xfe")
    record = effect_record(
        SUBJECT, SideEffect(Operation.FILE_WRITE, name), deny("a", "b", "c"), pause_us=1, seal="none"
    )
    assert parse(canonical(record)) == record


def test_long_text_from_the_gate_is_bounded() -> None:
    layers = (LayerReport("probe", "deny", "r", "word " * 10_000, 1),)
    verdict = Verdict(Decision.DENY, "probe", "r", "word " * 10_000, layers=layers)
    record = effect_record(SUBJECT, SideEffect(Operation.FILE_WRITE, "/a"), verdict, pause_us=1, seal="none")
    assert len(canonical(record)) < 4000


def test_the_start_of_a_sandbox() -> None:
    record = sandbox_start_record(
        SUBJECT,
        ["tool", "--password", "hunter2"],
        cwd="/home/u",
        pid=7,
        seal="none",
        policy_version="v1",
        task="use token=abc to log in",
    )
    text = canonical(record).decode()
    assert "hunter2" not in text
    assert "abc" not in text
    assert record["task_given"] is True
    without = sandbox_start_record(SUBJECT, ["tool"], cwd="/", pid=7, seal="none", policy_version="v1")
    assert "task" not in without
    assert "task_given" not in without


def test_what_a_durable_effect_did() -> None:
    record = effect_after_record("s-1", 7, None, (3, "cd"))
    assert record == {"kind": "effect.after", "sandbox": "s-1", "first_seq": 7, "after": {"size": 3, "digest": "cd"}}


def test_every_kind_is_named_and_documented() -> None:
    assert set(KINDS) >= {
        *("journal.open", "journal.truncated", "daemon.start", "daemon.stop", "policy.activate", "sandbox.start"),
        *("sandbox.end", "sandbox.frozen", "sandbox.thawed", "effect", "effect.repeated", "effect.gone", "approval"),
    }
    assert all(len(text) > 5 for text in KINDS.values())


# Names as records have them, and text that could be mistaken for what is left open.
_names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(
    lambda name: name not in ("kind", "seq", "time_us", "b64")
)
_text = st.text() | st.sampled_from(['"pause_us":%d', "%", "%%d", '\\"seq\\":0', os.fsdecode(b"\xff%s")])
_values = st.recursive(
    _text | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)
_times = st.integers(0, 2**53 - 1)


@given(fields=st.dictionaries(_names, _values, max_size=8), times=st.tuples(_times, _times, _times))
def test_a_prepared_record_is_the_same_bytes(fields: dict[str, object], times: tuple[int, int, int]) -> None:
    pause_us, seq, time_us = times
    record = {**fields, "kind": "effect", "pause_us": 0}
    whole = canonical({**record, "pause_us": pause_us, "seq": seq, "time_us": time_us})
    assert Prepared(record).body(pause_us, seq, time_us) == whole


@pytest.mark.parametrize(
    "record", [{"kind": "effect"}, {"kind": "unheard-of", "pause_us": 0}, {"kind": "effect", "pause_us": 0, "é": 1}]
)
def test_what_cannot_be_prepared(record: dict[str, object]) -> None:
    with pytest.raises(RecordRefused):
        Prepared(record)


def test_a_value_without_a_canonical_form_cannot_be_prepared() -> None:
    with pytest.raises(RecordRefused):
        Prepared({"kind": "effect", "pause_us": 0, "object": 0.5})
