"""What governedctl shows cannot act on a terminal, and what it prints as JSON says all of a message."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2 as nouns
from governed_mcpd.ctl.described import read
from governed_mcpd.ctl.output import Failure, command_line, plain, safe, span


@given(st.one_of(st.text(), st.binary()))
def test_nothing_that_is_shown_can_act(text: str | bytes) -> None:
    shown = safe(text)
    assert all(c == " " or unicodedata.category(c)[0] not in "CZ" for c in shown)
    assert "\n" not in shown


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    assert safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("gpj\u202eexe", "gpj\\u202eexe"),
        (b"caf\xe9", "caf\\xe9"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("\u2028 \u00a0 \x7f \x85", "\\u2028 \\xa0 \\x7f \\x85"),
        ("Grüße 日本", "Grüße 日本"),
    ],
)
def test_how_it_is_shown(text: str | bytes, shown: str) -> None:
    assert safe(text) == shown


def test_lines_are_kept_only_when_asked_for() -> None:
    assert safe("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"


def test_a_command_line_is_quoted() -> None:
    assert command_line([b"sh", b"-c", b"echo 'x y'\n"]) == "sh -c 'echo '\"'\"'x y'\"'\"'\\n'"


def test_spans() -> None:
    assert [span(seconds) for seconds in (-5, 0, 59, 61, 3661, 90061)] == ["0s", "0s", "59s", "1m 1s", "1h 1m", "1d 1h"]


bytes_or_text = st.binary(max_size=20)
actions = st.builds(
    lambda agent, tier, target, argv, details: nouns.Action(
        subject=nouns.Subject(agent=agent, tier=tier),
        effect=nouns.SideEffect(operation="file.write", object=target, argv=argv, details=details),
    ),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from([nouns.TIER_CLASSIC, nouns.TIER_AI_ENHANCED, nouns.TIER_AI_NATIVE, nouns.TIER_SYSTEM]),
    bytes_or_text,
    st.lists(bytes_or_text, max_size=3),
    st.dictionaries(st.sampled_from(["flags", "mode"]), st.sampled_from(["a", "b"])),
)


@given(actions)
def test_an_action_comes_back_from_its_json(action: nouns.Action) -> None:
    assert read(json.loads(json.dumps(plain(action))), nouns.Action, "test") == action


def test_words_and_nulls() -> None:
    verdict = plain(nouns.Verdict(decision=nouns.DECISION_DENY, layer="tier"))
    assert (verdict["decision"], verdict["dangerous_ppm"], verdict["lease"]) == ("deny", None, None)
    assert plain(nouns.Subject(tier=nouns.TIER_AI_NATIVE))["tier"] == "AiNative"
    assert plain(pb.Notice(kind=pb.Notice.KIND_WAITING))["kind"] == "waiting"
    assert plain(nouns.SideEffect(object=b"\xff"))["object"] == {"b64": "/w=="}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], "expected an object"),
        ({"efect": {}}, "efect: no such member; expected one of id, subject"),
        ({"effect": []}, "effect: expected an object"),
        ({"effect": {"operation": 3}}, "operation: expected text"),
        ({"effect": {"object": 3}}, "object: expected text, or"),
        ({"effect": {"object": {"b64": "!"}}}, "object: expected text, or"),
        ({"effect": {"argv": "x"}}, "argv: expected an array"),
        ({"effect": {"details": {"a": 1}}}, "details: expected an object with text members"),
        ({"subject": {"tier": "Emperor"}}, "tier is 'Emperor': expected one of"),
        ({"subject": {"uid": -1}}, "uid:"),
        ({"subject": {"uid": True}}, "uid: True is not expected"),
        ({"subject": {"uid": "0"}}, "uid:"),
    ],
)
def test_a_described_action_with_a_mistake_is_refused(value: object, expected: str) -> None:
    with pytest.raises(Failure, match=expected):
        read(value, nouns.Action, "action.json")
