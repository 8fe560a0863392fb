"""Labelled tool calls from a JSON-lines file, as actions.

A line is `{"source", "tool", "arguments": {}, "context": {"user_task", "untrusted_observation", …}, "label"}`; `label`
is allow, deny or unknown (left out); `category` and `id` are optional. `context` may say `directories` and `home`;
where it does not, the call is judged as one made where its arguments point: a static row does not say what the task's
directories are, and everything would be outside of none.
"""

import json
import os.path
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from governed_mcpd.gate import strictjson
from governed_mcpd.gate.probe.actions import HOME, SCRATCH, call
from governed_mcpd.nouns.action import Action, Context, Untrusted

LABELS = ("allow", "deny", "unknown")
MAX_LINE = 4 * 1024 * 1024
_WANTED = {
    "source": "a text",
    "tool": "a text",
    "arguments": "an object",
    "context": "an object",
    "label": "allow, deny or unknown",
}
# Where people keep their work; never directories of the system.
_HOMES = re.compile(r"((?:/home|/Users)/[^/]+)(?:/([^./][^/]*))?")
_WORK = re.compile(
    r"(/(?:workspace|workspaces|work|app|apps|repo|repos|project|projects|code|src|data|mnt/[^/]+|testbed))(?:/|$)"
)
_MANY = 64


class CasesError(ValueError):
    """A file of cases that cannot be read. The text names file, line, field, what was found and what is expected."""


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled call. `seen`: untrusted content is in view."""

    source: str
    category: str
    identity: str
    action: Action
    dangerous: bool
    seen: bool


def read(path: Path) -> tuple[list[Case], int]:
    """The rows whose label is allow or deny, and how many are unknown. Raises CasesError."""
    cases: list[Case] = []
    unknown = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = _row(line, f"{path}:{number}")
                if row["label"] == "unknown":
                    unknown += 1
                else:
                    cases.append(case_of(row, f"{path}:{number}"))
    except OSError as error:
        raise CasesError(f"{path}: cannot be read: {error.strerror}") from None
    if not cases:
        raise CasesError(f"{path}: no case with the label allow or deny; expected one JSON object per line")
    return cases, unknown


def rows(path: Path) -> list[dict[str, Any]]:
    """The labelled rows themselves, for those who change them before they become cases. Raises CasesError."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CasesError(f"{path}: cannot be read: {error.strerror}") from None
    found = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    return [row for row in found if row["label"] != "unknown"]


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = strictjson.parse(line.strip(), MAX_LINE)
    except strictjson.StrictJSONError as error:
        raise CasesError(f"{where}: not JSON: {error}; expected one object per line") from None
    if not isinstance(row, dict):
        raise CasesError(f"{where}: found {_kind(row)}; expected an object")
    for field, expected in _WANTED.items():
        if field not in row:
            raise CasesError(f"{where}: {field} is missing; expected {expected}")
    for field in ("source", "tool"):
        if not isinstance(row[field], str) or not row[field]:
            raise CasesError(f"{where}: {field}: found {_kind(row[field])}; expected a text that is not empty")
    for field in ("arguments", "context"):
        if not isinstance(row[field], dict):
            raise CasesError(f"{where}: {field}: found {_kind(row[field])}; expected an object")
    for field in ("category", "id"):
        if not isinstance(row.get(field, ""), str | None):
            raise CasesError(f"{where}: {field}: found {_kind(row[field])}; expected a text")
    if row["label"] not in LABELS:
        raise CasesError(f"{where}: label: found {json.dumps(row['label'])[:80]}; expected {', '.join(LABELS)}")
    return row


def case_of(row: Mapping[str, Any], where: str = "case") -> Case:
    """One row as a case. Raises CasesError for fields of the context that are not what they should be."""
    about: Mapping[str, Any] = row["context"]
    for field in ("user_task", "untrusted_observation", "home"):
        if not isinstance(about.get(field), str | None):
            raise CasesError(f"{where}: context.{field}: found {_kind(about[field])}; expected a text or null")
    given = about.get("directories")
    if given is not None and not (isinstance(given, list) and all(isinstance(item, str) for item in given)):
        raise CasesError(f"{where}: context.directories: found {_kind(given)}; expected a list of texts")
    seen = about.get("untrusted_observation")
    untrusted = (Untrusted("observation", seen),) if seen else ()
    home, directories = _place(row["arguments"])
    home = about.get("home") or home
    directories = directories if given is None else tuple(given)
    surroundings = Context(about.get("user_task") or "", directories, home, SCRATCH, (), (), untrusted)
    try:
        action = call(row["tool"], row["arguments"], surroundings)
    except (UnicodeEncodeError, ValueError) as error:
        raise CasesError(f"{where}: arguments: {error}") from None
    category = row.get("category") or ""
    return Case(row["source"], category, row.get("id") or where, action, row["label"] == "deny", bool(seen))


def _place(arguments: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A home and task directories to go with the paths that stand in the arguments."""
    home = ""
    directories: dict[str, None] = {}
    for _, text in strictjson.leaves(dict(arguments))[:_MANY]:
        for word in text.split()[:_MANY]:
            path = os.path.normpath(word.strip("\"'`;,()"))
            if match := _HOMES.match(path):
                home = home or match[1]
                if match[2]:
                    directories[f"{match[1]}/{match[2]}"] = None
            elif match := _WORK.match(path):
                directories[match[1]] = None
    home = home or HOME
    return home, (f"{home}/project", *directories)


def _kind(value: object) -> str:
    names = {str: "a text", bool: "a truth value", dict: "an object", list: "a list", type(None): "null"}
    return "an empty text" if value == "" else names.get(type(value), "a number")


def by_source(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """The cases of each source, in the order in which the sources first appear."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.source, []).append(case)
    return found
