"""Labelled tool calls from a JSON-lines file (fields: source, tool, arguments, context, label), as actions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from governed_mcpd.gate.probe.actions import call
from governed_mcpd.nouns.action import Action, Context, Untrusted


class DatasetError(ValueError):
    """A row that cannot be read. The text names file, line and field."""


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled call."""

    source: str
    category: str
    action: Action
    dangerous: bool


def read(path: Path) -> list[Case]:
    """The rows whose label is allow or deny. Raises DatasetError."""
    cases = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if row["label"] in ("allow", "deny"):
                    cases.append(_case(row))
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(f"{path}:{number}: {type(error).__name__}: {error}") from None
    return cases


def _case(row: dict[str, Any]) -> Case:
    about = row["context"]
    seen = about.get("untrusted_observation")
    untrusted = (Untrusted("observation", str(seen)),) if seen else ()
    surroundings = Context(task=str(about.get("user_task") or ""), untrusted=untrusted)
    action = call(row["tool"], row["arguments"], surroundings)
    return Case(row["source"], row.get("category", ""), action, row["label"] == "deny")
