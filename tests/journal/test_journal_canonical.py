"""Canonical JSON: RFC 8785 without floats, and bytes that are not UTF-8."""

import json
import os
from contextlib import suppress
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governed_mcpd.journal.canonical import MAX_DEPTH, MAX_INTEGER, CanonicalError, canonical, parse

utf8 = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
any_bytes = st.binary(max_size=12).map(os.fsdecode)
integers = st.integers(-MAX_INTEGER, MAX_INTEGER)


def values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | integers | text
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(utf8, inner, max_size=5).filter(lambda value: list(value) != ["b64"])
        ),
        max_leaves=20,
    )


def reference(value: Any) -> str:
    """RFC 8785 by another way: the standard library writes the scalars, names are sorted by UTF-16 code units."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{reference(name)}:{reference(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(reference, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@given(values(utf8))
def test_equals_an_independent_rfc_8785(value: Any) -> None:
    assert canonical(value) == reference(value).encode()


@given(values(utf8 | any_bytes))
def test_comes_back_and_is_stable(value: Any) -> None:
    body = canonical(value)
    assert parse(body) == value
    assert canonical(parse(body)) == body


@given(
    st.lists(st.sampled_from(["a", "\ue000", "\uffff", "\U00010000", "\U0010ffff", "é", "z\U00010000"]), unique=True)
)
def test_names_are_in_the_order_of_utf_16(names: list[str]) -> None:
    value = dict.fromkeys(names, 1)
    assert canonical(value) == reference(value).encode()


def test_code_points_and_utf_16_differ_and_utf_16_counts() -> None:
    assert canonical({"\uffff": 1, "\U00010000": 2}) == '{"\U00010000":2,"\uffff":1}'.encode()


@given(st.binary(max_size=20))
def test_bytes_come_back_as_they_were(raw: bytes) -> None:
    found = parse(canonical({"object": os.fsdecode(raw)}))
    assert isinstance(found, dict)
    assert os.fsencode(found["object"]) == raw


def test_the_form_of_bytes() -> None:
    assert canonical({"object": os.fsdecode(b"/tmp/\xff")}) == b'{"object":{"b64":"L3RtcC//"}}'
    assert canonical({"object": "/tmp/é"}) == '{"object":"/tmp/é"}'.encode()
    # Escapes that together are UTF-8 are the text that they spell: one name has one form.
    assert canonical("\udcc3\udca9") == '"é"'.encode()


def test_subclasses_are_their_values() -> None:
    class Word(StrEnum):
        WRITE = "file.write"

    class Number(IntEnum):
        THREE = 3

    given_ = MappingProxyType({"a": Word.WRITE, "b": Number.THREE, "c": (1, 2)})
    assert canonical(given_) == b'{"a":"file.write","b":3,"c":[1,2]}'
    assert canonical({Word.WRITE: 1}) == b'{"file.write":1}'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, "float"),
        ({"a": {"b": [1, 2.5]}}, r"value\.a\.b\[1\] is a float: expected an integer"),
        (float("nan"), "float"),
        ([float("inf")], "float"),
        (MAX_INTEGER + 1, "2\\^53"),
        ({"a": -MAX_INTEGER - 1}, r"value\.a"),
        (10**40, "2\\^53"),
        (b"bytes", "bytes"),
        ({1: "a"}, "member name 1"),
        ({"a": {1, 2}}, "set"),
        ("\ud800", "lone surrogate"),
        ({"\udcff": 1}, "names have to be UTF-8"),
        ({"b64": "AAAA"}, "only member"),
        ({"a": [{"b64": 1}]}, r"value\.a\[0\]"),
        (object(), "object"),
    ],
)
def test_what_has_no_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(CanonicalError, match=message):
        canonical(value)
    assert canonical({"b64": "AAAA", "other": [1, -MAX_INTEGER, MAX_INTEGER]})


def test_depth_is_bounded() -> None:
    deep: object = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert parse(canonical(deep)) == deep
    for wrap in ([deep], {"a": deep}):
        with pytest.raises(CanonicalError, match="deeper"):
            canonical(wrap)
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(CanonicalError, match="deeper"):
        canonical(endless)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a":NaN}', b'{"b64":"*"}'])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(CanonicalError):
        parse(body)


@given(st.binary(max_size=60))
def test_parse_never_raises_anything_else(body: bytes) -> None:
    with suppress(CanonicalError):
        parse(body)
