"""The patterns of the pre-filter, compiled into one RE2 set per scope."""

import functools
import importlib.resources
from dataclasses import dataclass
from enum import StrEnum

import re2
import yaml

from governed_mcpd.gate.text.decode import fold

# A set whose automaton outgrows its memory reports no match at all, which would read as "nothing found". The empty
# pattern always matches: when it is missing from an answer, the search itself failed.
_CANARY = ""
_MEMORY = 128 * 1024 * 1024


class PatternSearchFailed(RuntimeError):
    """RE2 gave up on a text; nothing is known about it."""


class Scope(StrEnum):
    """Which strings a pattern is for: every one, those that are run, or those that are not."""

    ANY = "any"
    COMMAND = "command"
    PROSE = "prose"


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One entry of patterns.yaml. `effect` is deny, ask or hint."""

    id: str
    category: str
    effect: str
    scope: Scope
    reason: str


class PatternSet:
    """Finds the suspicions of a text in time linear in its length (RE2)."""

    def __init__(self, suspicions: list[tuple[Suspicion, list[str]]]) -> None:
        self._sets = {scope: _compile(suspicions, scope) for scope in (Scope.COMMAND, Scope.PROSE)}

    def search(self, text: str, scope: Scope) -> list[Suspicion]:
        """Every suspicion of `scope` (or of any) in `text`, in the order of the file. Raises PatternSearchFailed."""
        compiled, owners = self._sets[scope]
        matched = compiled.Match(text.encode("utf-8", "replace"))
        if len(matched) == 1:
            if matched[0] == 0:
                return []
        elif 0 in matched:
            found = {owners[index - 1] for index in matched if index}
            return [suspicion for suspicion in dict.fromkeys(owners) if suspicion in found]
        raise PatternSearchFailed(f"the pattern search gave up on a text of {len(text)} characters")


def _compile(suspicions: list[tuple[Suspicion, list[str]]], scope: Scope) -> tuple["re2.Set", list[Suspicion]]:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = _MEMORY
    compiled, owners = re2.Set.SearchSet(options), []
    compiled.Add(_CANARY)
    for suspicion, patterns in suspicions:
        if suspicion.scope in (Scope.ANY, scope):
            for pattern in patterns:
                # Texts are searched folded, which turns Cyrillic letters that look like Latin ones into those.
                compiled.Add(pattern if pattern.isascii() else fold(pattern))
                owners.append(suspicion)
    compiled.Compile()
    return compiled, owners


@functools.cache
def shipped() -> PatternSet:
    """The patterns that come with the package."""
    return PatternSet(entries())


def entries() -> list[tuple[Suspicion, list[str]]]:
    """patterns.yaml, read. Raises KeyError or ValueError for an entry that is not complete."""
    text = importlib.resources.files(__package__).joinpath("patterns.yaml").read_text("utf-8")
    found = []
    for entry in yaml.safe_load(text):
        if entry["effect"] not in ("deny", "ask", "hint"):
            raise ValueError(f"{entry['id']}: effect {entry['effect']!r}: expected deny, ask or hint")
        suspicion = Suspicion(entry["id"], entry["category"], entry["effect"], Scope(entry["scope"]), entry["reason"])
        found.append((suspicion, list(entry["patterns"])))
    return found
