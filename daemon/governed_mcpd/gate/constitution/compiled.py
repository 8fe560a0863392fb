"""Constitutions, parsed and checked once, and cut up by action.

cedarpy (FACTS): a policy whose condition fails is skipped, and a skipped forbid allows, so any error is a refusal;
policies are checked against the schema when they are applied, so that none can fail for a name that does not exist.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cedarpy

from governed_mcpd.gate.constitution import limits
from governed_mcpd.gate.constitution.schema import ACTIONS, RESOURCES, SCHEMA
from governed_mcpd.gate.constitution.slices import Cut, Policies, Rule, parsed
from governed_mcpd.policy.documents import Constitution

_ID = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}\Z")
_POLICY = re.compile(r"policy(\d+)\Z")
_LONGEST_REASON = 400
_TOO_DEEP = "a condition is nested too deep (as is a row of more than 50 || or &&): write a set, or several policies"
_KNOWN_ANNOTATIONS = frozenset(("id", "reason", "decision"))


class ConstitutionError(ValueError):
    """A constitution that cannot be used; the text has every problem, one per line."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """All constitutions of a set: the policies by action and type of resource, and what is said about each."""

    policies: Mapping[tuple[str, str], Policies]
    rules: Mapping[str, Rule]


def problems(constitution: Constitution) -> list[str]:
    """What is wrong with a constitution's Cedar, with "line N: " in front where the line is known."""
    if bounds := list(limits.problems(constitution.cedar)):
        return bounds
    try:
        text = json.loads(cedarpy.policies_to_json_str(constitution.cedar))
    except ValueError as error:
        return [f"line {_line_of_error(constitution.cedar)}: {error}"]
    except RecursionError:
        return [_TOO_DEEP]
    lines = _policy_lines(constitution.cedar)
    found: list[str] = []
    if text.get("templates"):
        found.append("a policy with ?principal or ?resource: templates are not used here")
    seen: dict[str, str] = {}
    for name, policy in _in_order(text["staticPolicies"]):
        line = _at(lines, name)
        found += [f"{line}{said}" for said in _annotation_problems(policy, seen, line)]
        if not _readable(policy):
            found.append(f"{line}{_TOO_DEEP}")
    if not text["staticPolicies"]:
        found.append("no policy: without a permit everything is refused")
    result = cedarpy.validate_policies(constitution.cedar, SCHEMA)
    if not result.validation_passed:
        found += [f"{_at(lines, error.policy_id)}{error.error}" for error in result.errors]
        if not result.errors:
            found.append("the policies do not fit the schema")
    return found


def _readable(policy: Mapping[str, Any]) -> bool:
    """Whether Cedar takes the policy as JSON, in which it is cut up: that may be 128 deep."""
    try:
        parsed({"policy": policy})
    except ValueError:
        return False
    return True


def compile_all(constitutions: Mapping[str, Constitution]) -> Compiled:
    """Raises ConstitutionError. With several constitutions, rules are named CONSTITUTION/ID."""
    wrong = [f"{name}: {said}" for name, document in constitutions.items() for said in problems(document)]
    if wrong:
        raise ConstitutionError("\n".join(wrong))
    policies: dict[str, dict[str, Any]] = {}
    rules: dict[str, Rule] = {}
    for name in sorted(constitutions):
        text = json.loads(cedarpy.policies_to_json_str(constitutions[name].cedar))
        for _, policy in _in_order(text["staticPolicies"]):
            annotations = policy["annotations"]
            key = annotations["id"] if len(constitutions) == 1 else f"{name}/{annotations['id']}"
            forbids = policy["effect"] == "forbid"
            rules[key] = Rule(key, annotations["reason"], forbids, annotations.get("decision") == "ask", len(rules))
            policies[key] = policy
    cut = Cut(policies, rules)
    try:
        found = {(action, kind): cut.policies_for(action, kind) for action in ACTIONS for kind in RESOURCES[action]}
    except ValueError as error:
        raise ConstitutionError(str(error)) from None
    return Compiled(found, rules)


def _annotation_problems(policy: Mapping[str, Any], seen: dict[str, str], line: str) -> list[str]:
    annotations = policy.get("annotations") or {}
    name, reason, decision = annotations.get("id"), annotations.get("reason"), annotations.get("decision")
    found: list[str] = []
    if not name:
        found.append('a policy without @id("…"): the id is the rule of its verdicts')
    elif not _ID.match(name):
        found.append(f"@id({name!r}): expected a name of a-z, 0-9, '.', '_' and '-', at most 64 characters")
    elif name in seen:
        found.append(f"@id({name!r}) again: each policy has its own ({seen[name] or 'line ?'} has it)")
    else:
        seen[name] = line.rstrip(": ")
    if not reason or not reason.strip():
        found.append(f"@id({name!r}): no @reason: expected the sentence that a person reads")
    elif len(reason) > _LONGEST_REASON or not reason.isprintable():
        found.append(f"@id({name!r}): @reason is one line of at most {_LONGEST_REASON} characters")
    if decision is not None and (decision != "ask" or policy["effect"] != "forbid"):
        found.append(f'@id({name!r}): @decision({decision!r}): expected "ask", and on a forbid')
    unknown = sorted(set(annotations) - _KNOWN_ANNOTATIONS)
    if unknown:
        found.append(f"@id({name!r}): unknown annotation @{unknown[0]}: expected @id, @reason, @decision")
    return found


def _in_order(policies: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Cedar names them policy0, policy1, … as they stand in the text; JSON objects have no order."""
    return sorted(policies.items(), key=lambda item: _number(item[0]))


def _number(name: str) -> int:
    match = _POLICY.match(name)
    return int(match[1]) if match else 0


def _at(lines: Sequence[int], name: str) -> str:
    match = _POLICY.match(name)
    return f"line {lines[int(match[1])]}: " if match and int(match[1]) < len(lines) else ""


_PIECE = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|@|\b(?:permit|forbid)\b|[;\n]')


def _policy_lines(text: str) -> list[int]:
    """The line of each policy: where its first annotation or its effect stands."""
    found: list[int] = []
    inside = False
    for match in _PIECE.finditer(text):
        if match[0] == ";":
            inside = False
        elif match[0] in ("@", "permit", "forbid") and not inside:
            inside = True
            found.append(text.count("\n", 0, match.start()) + 1)
    return found


def _line_of_error(text: str) -> int:
    """cedarpy's errors carry no place: the mistake is in the first policy up to which the text does not parse."""
    starts = _policy_lines(text)
    lines = text.split("\n")
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        end = starts[middle + 1] - 1 if middle + 1 < len(starts) else len(lines)
        try:
            cedarpy.policies_to_json_str("\n".join(lines[:end]))
            low = middle + 1
        except ValueError:
            high = middle
    return starts[min(low, len(starts) - 1)] if starts else 1
