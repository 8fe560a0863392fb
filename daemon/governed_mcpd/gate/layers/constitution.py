"""Layer 6: Cedar policies over subject, action and context."""

import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import cedarpy
import orjson

from governed_mcpd.gate.constitution.compiled import Compiled, ConstitutionError, compile_all, problems
from governed_mcpd.gate.constitution.places import NotCanonical
from governed_mcpd.gate.constitution.request import Request, requests, text
from governed_mcpd.gate.constitution.schema import ACTION_ENTITIES, SCHEMA
from governed_mcpd.gate.constitution.slices import Rule
from governed_mcpd.gate.layers.finding import Finding
from governed_mcpd.gate.reading import MalformedArguments, Reading
from governed_mcpd.nouns.subject import Subject
from governed_mcpd.policy.documents import Constitution

__all__ = ["ConstitutionError", "ConstitutionLayer", "check", "problems"]

check = problems
MOST_KNOWN = 4096  # answers that are kept
MOST_KNOWN_BYTES = 2048  # of the context of one of them
_Question = tuple[Subject, str, str, str, bytes]  # who; action, type and id of the resource; the context as JSON
_Answer = tuple[bool, tuple[str, ...]]  # whether it is allowed, and the policies that say so


class ConstitutionLayer:
    """Asks Cedar about each object of an Action. What Cedar does not clearly allow is refused.

    Cedar knows allow and deny. A forbid with @decision("ask") asks a person where nothing else stands against the
    action: where a permit applies, and no forbid without that annotation does.
    """

    name = "constitution"

    def __init__(self, constitutions: Mapping[str, Constitution], own_directories: Iterable[str] = ()) -> None:
        """`own_directories`: where this instance of governed-mcpd keeps its files. Raises ConstitutionError."""
        self._compiled: Compiled = compile_all(constitutions)
        # Cedar's answer depends on nothing else, and most calls of a tool are the same question: no fact against it.
        self._known = lru_cache(maxsize=MOST_KNOWN)(_authorize)
        self._own = frozenset(os.path.normpath(directory).lower() for directory in own_directories)

    @property
    def principles(self) -> tuple[str, ...]:
        """Why its rules forbid, each sentence once, in the order of the text. Not of those that ask a person."""
        rules = sorted(self._compiled.rules.values(), key=lambda rule: rule.order)
        return tuple(dict.fromkeys(rule.reason for rule in rules if rule.forbids and not rule.asks))

    def check(self, reading: Reading) -> Finding:
        """Refusals are values: nothing that an Action holds makes this raise."""
        try:
            asked = [self._ask(reading.action.subject, request) for request in requests(reading, self._own)]
        except NotCanonical as error:
            return Finding("deny", "unknown-object", f"the object cannot be told: {text(str(error))}")
        except MalformedArguments as error:
            return Finding("deny", "unreadable-arguments", str(error))
        except Exception as error:
            # A mapping or Cedar that fails says nothing about the action, so nothing is allowed by it.
            kind = type(error).__name__
            return Finding("deny", "policy-error", f"the constitution could not be asked ({kind}: {error})"[:400])
        return min(asked, key=_weight)

    def _ask(self, subject: Subject, request: Request) -> Finding:
        context = request.context
        parts = self._compiled.policies[request.action, request.resource_type].on(context)
        if parts.reads is not None:
            context = {name: context[name] for name in parts.reads}
        resource = request.resource_id if parts.names_resource else ""
        question = (subject, request.action, request.resource_type, resource, orjson.dumps(context))
        if parts.quick is not None:
            found = self._answer(question, parts.quick)
            if not isinstance(found, Finding) and found[0]:
                return self._allowed(found)
        found = self._answer(question, parts.whole)
        if isinstance(found, Finding):
            return found
        if found[0]:
            return self._allowed(found)
        rules = self._rules(found[1])
        firm = [rule for rule in rules if not rule.asks]
        if firm:
            return Finding("deny", firm[0].id, firm[0].reason)
        if rules and parts.plain is not None:
            found = self._answer(question, parts.plain)
            if isinstance(found, Finding):
                return found
            if found[0]:
                return Finding("ask", rules[0].id, rules[0].reason)
        return Finding("deny", "no-permit", "no policy of the constitution permits this")

    def _allowed(self, found: _Answer) -> Finding:
        rule = self._rules(found[1])[0]
        return Finding("pass", rule.id, rule.reason)

    def _answer(self, question: _Question, policies: Any) -> _Answer | Finding:
        return (self._known if len(question[-1]) <= MOST_KNOWN_BYTES else _authorize)(question, policies)

    def _rules(self, names: Iterable[str]) -> list[Rule]:
        """In the order of the text: the first one gives the reason."""
        return sorted((self._compiled.rules[name] for name in names), key=lambda rule: rule.order)


def _weight(finding: Finding) -> int:
    return ("deny", "ask", "pass").index(finding.result)


def _authorize(question: _Question, policies: Any) -> _Answer | Finding:
    """Cedar's answer; a Finding where an answer cannot be relied on."""
    subject, action, resource_type, resource_id, context = question
    asked = {
        "principal": {"type": "Agent", "id": text(subject.agent)},
        "action": {"type": "Action", "id": action},
        "resource": {"type": resource_type, "id": resource_id},
        "context": context.decode(),
    }
    result = cedarpy.is_authorized(asked, policies, _principal(subject))
    allowed = result.decision == cedarpy.Decision.Allow
    if result.diagnostics.errors:
        # Cedar skips a policy that fails: a forbid that was skipped would have allowed.
        return Finding("deny", "policy-error", f"a policy failed: {result.diagnostics.errors[0]}"[:400])
    if not allowed and result.decision != cedarpy.Decision.Deny:
        return Finding("deny", "policy-error", "the constitution gave no decision")
    return allowed, tuple(result.diagnostics.reasons)


@lru_cache(maxsize=1024)
def _principal(subject: Subject) -> Any:
    """The agent as an entity, with the groups of the actions: parsed once per Subject."""
    agent = {
        "uid": {"type": "Agent", "id": text(subject.agent)},
        "attrs": {
            "tier": int(subject.tier),
            "uid": subject.uid,
            "profile": text(subject.profile),
            "server": text(subject.server),
            "sandbox": text(subject.sandbox),
            "nested": subject.parent != "",
        },
        "parents": [],
    }
    return cedarpy.Entities.from_json_str(orjson.dumps([agent, *ACTION_ENTITIES]).decode(), SCHEMA)
