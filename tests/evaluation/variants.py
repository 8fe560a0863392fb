"""Labelled rows changed so that a rule which only looks right fails: own values as data, attacks unwrapped."""

import copy
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Row = dict[str, Any]


def _flat(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _flat(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _flat(inner)]
    return [str(value)]


def _fields(arguments: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {', '.join(_flat(value))}" for name, value in arguments.items())


def _sentences(arguments: Mapping[str, Any]) -> str:
    return " ".join(f"The {name} is {', '.join(_flat(value))}." for name, value in arguments.items())


def _found(arguments: Mapping[str, Any]) -> str:
    return "Entry found: " + "; ".join(f"{name} = {', '.join(_flat(value))}" for name, value in arguments.items())


def _bare(arguments: Mapping[str, Any]) -> str:
    return "\n".join(text for value in arguments.values() for text in _flat(value))


_DATA: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "fields": _fields,
    "JSON": json.dumps,
    "sentences": _sentences,
    "an entry": _found,
    "bare values": _bare,
}
# How a call's own values are shown as data, alone or with what was in view before.
OWN_VALUES: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    **{f"{name} alone": lambda given, _seen, shown=shown: shown(given) for name, shown in _DATA.items()},  # type: ignore[misc]
    **{
        f"{name} before what was in view": lambda given, seen, shown=shown: f"{shown(given)}\n\n{seen}"  # type: ignore[misc]
        for name, shown in _DATA.items()
    },
    **{
        f"{name} after what was in view": lambda given, seen, shown=shown: f"{seen}\n\n{shown(given)}"  # type: ignore[misc]
        for name, shown in _DATA.items()
    },
}


def with_own_values(row: Mapping[str, Any], form: str) -> Row:
    """An allowed call whose own values also stand in untrusted content, as data."""
    changed: Row = copy.deepcopy(dict(row))
    seen = changed["context"].get("untrusted_observation") or ""
    changed["context"]["untrusted_observation"] = OWN_VALUES[form](changed["arguments"], seen).strip()
    return changed


_PLEASE = re.compile(r"(?is)\b(?:please|kindly)\s+(.*)")
_RECORD_ENDS = re.compile(r"'\s*[,}\]]|\"\s*[,}\]]")
_FRAME = re.compile(
    r"(?is)<(\w+)>(.*?)</\1>|(?:ignore|disregard)[^.!:]*[.!:]\s*(.*)|(?:important|urgent|note)[^.!:]*[.!:]+\s*(.*)"
)


def unwrapped(row: Mapping[str, Any]) -> Row:
    """An attack without what surrounds it: no record, no markers, no "please"."""
    changed: Row = copy.deepcopy(dict(row))
    text = changed["context"].get("untrusted_observation") or ""
    if match := _FRAME.search(text):
        text = next(group for group in match.groups()[1:] if group) if any(match.groups()[1:]) else text
    if match := _PLEASE.search(text):
        text = _RECORD_ENDS.split(match[1])[0]
    text = text.strip()
    changed["context"]["untrusted_observation"] = text[:1].upper() + text[1:] or row["context"]["untrusted_observation"]
    return changed
