"""Constitutions, parsed and checked once, and cut up by action.

cedarpy (FACTS): a policy whose condition fails is skipped, and a skipped forbid allows, so any error is a refusal;
policies are checked against the schema when they are applied, so that none can fail for a name that does not exist.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import cedarpy

from governed_mcpd.policy.documents import Constitution

SCHEMA_TEXT = files(__package__).joinpath("schema.cedarschema").read_text(encoding="utf-8")
SCHEMA = cedarpy.Schema.from_str(SCHEMA_TEXT)
_ID = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}\Z")
_POLICY = re.compile(r"policy(\d+)\Z")
_LONGEST_REASON = 400
LEAST_JOINED = 2
_JOINED = "*"  # no id of a policy (_ID)
_KNOWN_ANNOTATIONS = frozenset(("id", "reason", "decision"))


class ConstitutionError(ValueError):
    """A constitution that cannot be used; the text has every problem, one per line."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy: who decides (`rule` of a verdict), the sentence a person reads, and its place in the text."""

    id: str
    reason: str
    forbids: bool
    asks: bool
    order: int


@dataclass(frozen=True, slots=True)
class Slice:
    """The policies whose scope fits one action. `plain` leaves out those that ask; None where there are none.

    `quick` has the forbids as one policy: what it allows, and without an error, `whole` allows by the same permits. It
    says nothing of what it does not allow. None where nothing is gained.
    `reads` are the attributes of the context that these policies read; None for all of them. Cedar takes about a
    microsecond for each attribute it is given, so the others are left out.
    """

    whole: Any
    plain: Any | None
    quick: Any | None
    reads: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Compiled:
    """All constitutions of a set: the policies by action, and what is said about each."""

    slices: Mapping[str, Slice]
    rules: Mapping[str, Rule]


def actions() -> dict[str, frozenset[str]]:
    """The schema's actions that apply to something, each with itself and the groups above it."""
    declared: dict[str, frozenset[str]] = {}
    applied: list[str] = []
    for statement in re.findall(r'action ((?:"[^"]+",?\s*)+)(.*?);', SCHEMA_TEXT, re.DOTALL):
        names = re.findall(r'"([^"]+)"', statement[0])
        groups = re.search(r'in \["([^"]+)"\]', statement[1])
        above = declared[groups[1]] if groups else frozenset[str]()
        for name in names:
            declared[name] = above | {name}
            if "appliesTo" in statement[1]:
                applied.append(name)
    return {name: declared[name] for name in applied}


ACTIONS = actions()
ACTION_ENTITIES = [
    {"uid": {"type": "Action", "id": name}, "attrs": {}, "parents": [{"type": "Action", "id": up} for up in parents]}
    for name, parents in {
        **{name: above - {name} for name, above in ACTIONS.items()},
        "file.change": frozenset(("file",)),
        "file": frozenset[str](),
        "net": frozenset[str](),
        "process": frozenset[str](),
    }.items()
]


def problems(constitution: Constitution) -> list[str]:
    """What is wrong with a constitution's Cedar, with "line N: " in front where the line is known."""
    try:
        text = json.loads(cedarpy.policies_to_json_str(constitution.cedar))
    except ValueError as error:
        return [f"line {_line_of_error(constitution.cedar)}: {error}"]
    lines = _policy_lines(constitution.cedar)
    found: list[str] = []
    if text.get("templates"):
        found.append("a policy with ?principal or ?resource: templates are not used here")
    seen: dict[str, str] = {}
    for name, policy in _in_order(text["staticPolicies"]):
        line = _at(lines, name)
        found += [f"{line}{said}" for said in _annotation_problems(policy, seen, line)]
    if not text["staticPolicies"]:
        found.append("no policy: without a permit everything is refused")
    result = cedarpy.validate_policies(constitution.cedar, SCHEMA)
    if not result.validation_passed:
        found += [f"{_at(lines, error.policy_id)}{error.error}" for error in result.errors]
        if not result.errors:
            found.append("the policies do not fit the schema")
    return found


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
    return Compiled({action: _slice(action, policies, rules) for action in ACTIONS}, rules)


def _slice(action: str, policies: Mapping[str, dict[str, Any]], rules: Mapping[str, Rule]) -> Slice:
    """Sound: a policy is left out only where its scope names other actions, so it could neither apply nor fail."""
    fitting = {key: {**policy, "action": {"op": "All"}} for key, policy in policies.items() if _fits(policy, action)}
    plain = {key: policy for key, policy in fitting.items() if not rules[key].asks}
    reads: set[str] = set()
    known = all(_collect_reads(policy["conditions"], reads) for policy in fitting.values())
    return Slice(
        whole=_parsed(fitting),
        plain=_parsed(plain) if len(plain) < len(fitting) else None,
        quick=_quick(fitting),
        reads=tuple(sorted(reads)) if known else None,
    )


def _quick(policies: Mapping[str, dict[str, Any]]) -> Any | None:
    """Cedar takes two microseconds for each policy, and a third of that for one more alternative in a condition. The
    alternatives are joined with ||: where that is false and none of them failed, every one of them is false."""
    alternatives = {key: _alternative(policy) for key, policy in policies.items() if policy["effect"] == "forbid"}
    joined = [expression for expression in alternatives.values() if expression is not None]
    if len(joined) < LEAST_JOINED:
        return None
    together = {key: policy for key, policy in policies.items() if alternatives.get(key) is None}
    everything = {"op": "All"}
    together[_JOINED] = {
        "effect": "forbid",
        "principal": everything,
        "action": everything,
        "resource": everything,
        "conditions": [{"kind": "when", "body": _any_of(joined)}],
        "annotations": {},
    }
    try:
        return _parsed(together)
    except ValueError:
        return None  # too deep, with the conditions inside: each policy is asked by itself


def _alternative(policy: Mapping[str, Any]) -> Any | None:
    """When a policy applies, its scope included, as one expression; None for what is not said here."""
    parts: list[Any] = []
    for variable in ("principal", "resource"):
        scope = policy[variable]
        if scope["op"] == "is" and scope.keys() == {"op", "entity_type"}:
            parts.append({"is": {"left": {"Var": variable}, "entity_type": scope["entity_type"]}})
        elif scope != {"op": "All"}:
            return None
    for condition in policy["conditions"]:
        if condition["kind"] not in ("when", "unless"):
            return None
        body = condition["body"]
        parts.append(body if condition["kind"] == "when" else {"!": {"arg": body}})
    whole: Any = parts[0] if parts else {"Value": True}
    for part in parts[1:]:
        whole = {"&&": {"left": whole, "right": part}}
    return whole


def _any_of(expressions: Sequence[Any]) -> Any:
    """Halved again and again, so that a hundred are seven deep."""
    if len(expressions) == 1:
        return expressions[0]
    middle = len(expressions) // 2
    return {"||": {"left": _any_of(expressions[:middle]), "right": _any_of(expressions[middle:])}}


def _collect_reads(expression: Any, reads: set[str]) -> bool:
    """Adds `context.name` of an expression's JSON to `reads`. False where the context is used in any other way."""
    if isinstance(expression, list):
        return all(_collect_reads(part, reads) for part in expression)
    if not isinstance(expression, dict):
        return True
    if expression == {"Var": "context"}:
        return False
    read = expression.get(".")
    if len(expression) == 1 and isinstance(read, dict) and read.get("left") == {"Var": "context"}:
        reads.add(read["attr"])
        return True
    return all(_collect_reads(part, reads) for part in expression.values())


def _parsed(policies: Mapping[str, Any]) -> Any:
    text = {"staticPolicies": policies, "templates": {}, "templateLinks": []}
    return cedarpy.PolicySet.from_json_str(json.dumps(text))


def _fits(policy: Mapping[str, Any], action: str) -> bool:
    scope = policy["action"]
    entities = scope.get("entities") or ([scope["entity"]] if "entity" in scope else [])
    names = {entity["id"] for entity in entities}
    if scope["op"] == "==":
        return action in names
    if scope["op"] == "in":
        return not names.isdisjoint(ACTIONS[action])
    return True  # All, and what a later Cedar may add: kept, and decided by Cedar


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
