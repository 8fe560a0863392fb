"""Policies cut up by what they are about, so that Cedar is given few of them and little to read for each question."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cedarpy

from governed_mcpd.gate.constitution.schema import ACTIONS
from governed_mcpd.gate.constitution.sieve import Sieve, settled

LEAST_JOINED = 2
_JOINED = "*"  # no id of a policy (compiled.py)
_EVERYTHING = {"op": "All"}


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
    """The policies whose scope fits one action on one type of resource. `plain` leaves out those that ask; None where
    there are none.

    `quick` has the forbids as one policy: what it allows, and without an error, `whole` allows by the same permits. It
    says nothing of what it does not allow. None where nothing is gained.
    `reads` are the attributes of the context that these policies read; None for all of them. Cedar takes about a
    microsecond for each attribute it is given, so the others are left out.
    `names_resource`: whether a policy asks which resource it is. Where none does, the question is the same for all of
    them, and its answer known.
    """

    whole: Any
    plain: Any | None
    quick: Any | None
    reads: tuple[str, ...] | None
    names_resource: bool


@dataclass(frozen=True, slots=True)
class Policies:
    """What applies to one action on one type of resource. `rest`: without the forbids of `sieve`, for the facts that it
    rejects; None where no forbid can be set aside by facts."""

    all: Slice
    sieve: Sieve | None
    rest: Slice | None

    def on(self, facts: Mapping[str, Any]) -> Slice:
        """Those that may apply."""
        return self.all if self.sieve is None or self.rest is None or not self.sieve.rejects(facts) else self.rest


class Cut:
    """One set of policies, to be cut up by action and type of resource."""

    def __init__(self, policies: Mapping[str, dict[str, Any]], rules: Mapping[str, Rule]) -> None:
        self._policies = policies
        self._rules = rules
        # Most actions have the same policies as others: parsing those once is half of what activation takes.
        self._made: dict[tuple[str, frozenset[str]], Policies] = {}

    def policies_for(self, action: str, kind: str) -> Policies:
        """Those for one action on one type of resource. Sound: a policy is left out only where its scope names other
        actions or another type of resource, so it could neither apply nor fail."""
        fitting = {
            key: policy
            for key, policy in self._policies.items()
            if _fits(policy, action) and policy["resource"].get("entity_type", kind) == kind
        }
        same = kind, frozenset(fitting)
        if same not in self._made:
            self._made[same] = _applying({key: _asked(policy, kind) for key, policy in fitting.items()}, self._rules)
        return self._made[same]


def _asked(policy: dict[str, Any], kind: str) -> dict[str, Any]:
    """A policy without what is known of every question that it is asked about: the action, and what types there are."""
    return {
        **policy,
        "action": _EVERYTHING,
        "principal": _without_type(policy["principal"], "Agent"),
        "resource": _without_type(policy["resource"], kind),
    }


def _applying(fitting: Mapping[str, dict[str, Any]], rules: Mapping[str, Rule]) -> Policies:
    """What these policies, asked together, become: with a sieve where some of them can be set aside by facts."""
    conditions: dict[str, Any] = {}
    for key, policy in fitting.items():
        condition = _alternative(policy) if policy["effect"] == "forbid" else None
        if condition is not None and settled(condition):
            conditions[key] = condition
    rest = {key: policy for key, policy in fitting.items() if key not in conditions}
    return Policies(
        all=_slice(fitting, rules),
        sieve=Sieve(conditions.values()) if conditions else None,
        rest=_slice(rest, rules) if conditions else None,
    )


def _without_type(scope: dict[str, Any], kind: str) -> dict[str, Any]:
    """A scope for entities that are known to be of type `kind`."""
    return _EVERYTHING if scope == {"op": "is", "entity_type": kind} else scope


def _slice(policies: Mapping[str, dict[str, Any]], rules: Mapping[str, Rule]) -> Slice:
    plain = {key: policy for key, policy in policies.items() if not rules[key].asks}
    reads: set[str] = set()
    known = all(_collect_reads(policy["conditions"], reads) for policy in policies.values())
    return Slice(
        whole=parsed(policies),
        plain=parsed(plain) if len(plain) < len(policies) else None,
        quick=joined(policies),
        reads=tuple(sorted(reads)) if known else None,
        names_resource=any(
            policy["resource"] != _EVERYTHING or _names(policy["conditions"], {"Var": "resource"})
            for policy in policies.values()
        ),
    )


def joined(policies: Mapping[str, dict[str, Any]]) -> Any | None:
    """Cedar takes two microseconds for each policy, and a third of that for one more alternative in a condition. The
    alternatives are joined with ||: where that is false and none of them failed, every one of them is false."""
    alternatives = {key: _alternative(policy) for key, policy in policies.items() if policy["effect"] == "forbid"}
    conditions = [expression for expression in alternatives.values() if expression is not None]
    if len(conditions) < LEAST_JOINED:
        return None
    together = {key: policy for key, policy in policies.items() if alternatives.get(key) is None}
    together[_JOINED] = {
        "effect": "forbid",
        "principal": _EVERYTHING,
        "action": _EVERYTHING,
        "resource": _EVERYTHING,
        "conditions": [{"kind": "when", "body": _any_of(conditions)}],
        "annotations": {},
    }
    try:
        return parsed(together)
    except ValueError:
        return None  # too deep, with the conditions inside: each policy is asked by itself


def _alternative(policy: Mapping[str, Any]) -> Any | None:
    """When a policy applies, its scope included, as one expression; None for what is not said here."""
    parts: list[Any] = []
    for variable in ("principal", "resource"):
        scope = policy[variable]
        if scope["op"] == "is" and scope.keys() == {"op", "entity_type"}:
            parts.append({"is": {"left": {"Var": variable}, "entity_type": scope["entity_type"]}})
        elif scope != _EVERYTHING:
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


def _names(expression: Any, variable: dict[str, str]) -> bool:
    """Whether `variable` stands anywhere in an expression's JSON."""
    if isinstance(expression, list):
        return any(_names(part, variable) for part in expression)
    if not isinstance(expression, dict):
        return False
    return expression == variable or any(_names(part, variable) for part in expression.values())


def parsed(policies: Mapping[str, Any]) -> Any:
    """A cedarpy.PolicySet of policies in Cedar's JSON. ValueError."""
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
    if scope["op"] == "All":
        return True
    # What a policy says of actions is not asked again once it is cut: nothing that is unknown here may pass for All.
    raise ValueError(f"a policy whose scope says {scope['op']!r} of actions: expected ==, in, or nothing")
