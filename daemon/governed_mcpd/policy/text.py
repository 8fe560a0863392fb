"""YAML text to plain values, with the place of each.

A subset: no anchors and aliases (they multiply: a kilobyte can become gigabytes), no tags, no key twice. Plain scalars
are read as in YAML 1.2's core schema, not 1.1's: `on`, `no` and `12:30` are text, and only true and false are booleans.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from governed_mcpd.policy.problem import PolicyError, Problem, printable

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_DOCUMENTS = 256
# libyaml's parser is some twenty times faster; where PyYAML was built without it, the one in Python does the same.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,18}\Z")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: line and column from 1, the places of its members, and those of its keys."""

    line: int
    column: int
    members: dict[str | int, "Place"] = field(default_factory=dict)
    keys: dict[str, "Place"] = field(default_factory=dict)
    block: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """One YAML document: its plain value, and where everything in it stands."""

    value: Any
    place: Place


def read(file: str, content: bytes) -> list[Text]:
    """The documents of one file. Raises PolicyError, which names the first thing that cannot be read."""
    if len(content) > MAX_BYTES:
        raise _error(file, None, f"{len(content)} bytes", f"at most {MAX_BYTES}", "split it into several files")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        found = f"byte 0x{content[error.start]:02x}"
        place = Place(line, column)
        raise _error(file, place, found, "UTF-8 text", "save the file as UTF-8") from None
    try:
        return _documents(file, yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(0, 0)
        found = printable(error.problem or error.context or "something else")
        if "nesting depth" in found:  # libyaml's own bound, which it may come to before its events come here
            raise _error(file, place, "too many levels", f"at most {MAX_DEPTH}", "nest less") from None
        raise _error(file, place, found, "YAML", "correct the YAML there") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"the character {error.character!r}" if isinstance(error.character, int) else repr(error.character)
        raise _error(file, Place(line, 1), printable(found), "printable text", "remove the character") from None


def _documents(file: str, events: Iterator[Any]) -> list[Text]:
    found: list[Text] = []
    for event in events:
        if not isinstance(event, yaml.DocumentStartEvent):
            continue
        if len(found) >= MAX_DOCUMENTS:
            place = _place(event)
            raise _error(file, place, "one more document", f"at most {MAX_DOCUMENTS} in a file", "split the file")
        found.append(_value(file, events, next(events), 1))
    # `---` with nothing after it is how people end a file, or separate with one too many.
    return [text for text in found if text.value is not None]


def _value(file: str, events: Iterator[Any], event: Any, depth: int) -> Text:
    place = _place(event)
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        found = f"the anchor or alias {printable(event.anchor)!r}"
        raise _error(file, place, found, "no anchors and aliases", "write the value out where it is needed")
    if getattr(event, "tag", None) is not None:
        raise _error(file, place, f"the tag {printable(event.tag)!r}", "no tags", "leave it out")
    if depth > MAX_DEPTH:
        raise _error(file, place, f"{depth} levels", f"at most {MAX_DEPTH}", "nest less")
    if isinstance(event, yaml.ScalarEvent):
        block = event.style in ("|", ">")
        return Text(_scalar(event), Place(place.line, place.column, block=block))
    if isinstance(event, yaml.SequenceStartEvent):
        return _sequence(file, events, place, depth)
    return _mapping(file, events, place, depth)


def _sequence(file: str, events: Iterator[Any], place: Place, depth: int) -> Text:
    values: list[Any] = []
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            break
        member = _value(file, events, event, depth + 1)
        place.members[len(values)] = member.place
        values.append(member.value)
    return Text(values, place)


def _mapping(file: str, events: Iterator[Any], place: Place, depth: int) -> Text:
    values: dict[str, Any] = {}
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            break
        where = _place(event)
        if not isinstance(event, yaml.ScalarEvent):
            raise _error(file, where, "a key that is not text", "a field's name", "write the key as plain text")
        _value(file, events, event, depth + 1)  # a key may carry neither anchor nor tag
        key = event.value
        if key in values:
            first = place.keys[key].line
            found = f"the key {printable(key)!r} again"
            raise _error(file, where, found, f"it once (line {first})", "remove one of the two")
        member = _value(file, events, next(events), depth + 1)
        values[key] = member.value
        place.keys[key] = where
        place.members[key] = member.place
    return Text(values, place)


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.style is not None and event.style != "":
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    return text


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def _error(file: str, place: Place | None, found: str, expected: str, remedy: str) -> PolicyError:
    at = place or Place(0, 0)
    return PolicyError([Problem(file, at.line, at.column, "", found, expected, remedy)])
