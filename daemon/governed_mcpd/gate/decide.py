"""The six layers in order; the first refusal ends it."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from governed_mcpd.gate import lease
from governed_mcpd.gate.layers.finding import PASS, Finding
from governed_mcpd.gate.layers.rate import RateLayer
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import Action, SideEffect
from governed_mcpd.nouns.verdict import Decision, LayerReport, Verdict

_LOG = logging.getLogger(__name__)
_LONGEST_REASON = 1000
# The rules of a layer that is decided by remote gates, when none of them had an answer.
NO_ANSWER = frozenset(("gate-unavailable", "gate-timeout", "gate-wrong-policy", "gate-wrong-answer", "gate-failed"))


class ReadingLayer(Protocol):
    """A layer that works on what was read out of the action."""

    def check(self, reading: Reading) -> Finding: ...


class ActionLayer(Protocol):
    """A layer that works on the action itself."""

    def check(self, action: Action) -> Finding: ...


@dataclass(frozen=True, slots=True)
class Layers:
    """The six layers of one policy set."""

    schema: ReadingLayer
    tier: ReadingLayer
    rate: RateLayer
    prefilter: ReadingLayer
    probe: ReadingLayer
    constitution: ActionLayer

    def in_order(self, reading: Reading, spend: bool) -> Iterator[tuple[str, Callable[[], Finding]]]:
        """Name and check of each layer, in the order in which they decide."""
        yield "schema", lambda: self.schema.check(reading)
        yield "tier", lambda: self.tier.check(reading)
        yield "rate", lambda: self.rate.check(reading, spend)
        yield "prefilter", lambda: self.prefilter.check(reading)
        yield "probe", lambda: self.probe.check(reading)
        yield "constitution", lambda: self.constitution.check(reading.action)


@dataclass(frozen=True, slots=True)
class _Decided:
    layer: str
    finding: Finding


def decide(
    action: Action,
    layers: Layers,
    policy_version: str,
    *,
    shadow: bool = False,
    explain: bool = False,
    only: frozenset[str] = frozenset(),
) -> Verdict:
    """The verdict on `action`. A deny of any layer wins over an ask of an earlier one.

    `explain` runs every layer even past a refusal, and spends no rate tokens. `shadow` approves what would be refused,
    and says so in `would_deny`, layer, rule and reason; a layer that failed refuses in shadow too. `only`: the layers
    that a balancer leaves to this gate; without any, all six. Never raises.
    """
    reading = Reading(action)
    reports: list[LayerReport] = []
    denied: _Decided | None = None
    asked: _Decided | None = None
    close = False
    probed: Finding | None = None
    finding = PASS
    for name, check in layers.in_order(reading, spend=not explain):
        if only and name not in only:
            continue
        if denied is not None and not explain:
            reports.append(LayerReport(name, "skipped"))
            continue
        finding, nanoseconds = _run(name, check)
        reports.append(LayerReport(name, finding.result, finding.rule, finding.reason[:_LONGEST_REASON], nanoseconds))
        close = close or finding.close
        if finding.dangerous_ppm is not None or finding.model:
            probed = finding
        if finding.result == "deny":
            denied = denied or _Decided(name, finding)
        elif finding.result == "ask":
            asked = asked or _Decided(name, finding)
    verdict = _verdict(denied, asked, finding, shadow)
    verdict = replace(
        verdict,
        policy_version=policy_version,
        layers=tuple(reports),
        dangerous_ppm=probed.dangerous_ppm if probed else None,
        model=probed.model if probed else "",
    )
    if verdict.decision is Decision.ALLOW and not (shadow or close or explain) and isinstance(action.what, SideEffect):
        most_uses = layers.rate.most_uses(reading)
        verdict = replace(verdict, lease=lease.propose(action.what, policy_version, most_uses))
    return verdict


def _run(name: str, check: Callable[[], Finding]) -> tuple[Finding, int]:
    begun = time.perf_counter_ns()
    try:
        finding = check()
        if finding.result not in ("pass", "deny", "ask"):
            finding = Finding("deny", f"{name}-error", f"the layer answered {finding.result!r}")
    # Whatever goes wrong inside a layer, nothing is known about the action: a refusal, and the server goes on.
    except (Exception, RecursionError) as error:
        _LOG.exception("layer %s failed", name)
        finding = Finding("deny", f"{name}-error", f"the layer failed: {type(error).__name__}: {str(error)[:300]}")
    return finding, time.perf_counter_ns() - begun


def _verdict(denied: _Decided | None, asked: _Decided | None, permit: Finding, shadow: bool) -> Verdict:
    refusal = denied or asked
    if refusal is None:
        return Verdict(
            Decision.ALLOW, "constitution", permit.rule or "all-layers-pass", permit.reason[:_LONGEST_REASON]
        )
    rule, reason = refusal.finding.rule or refusal.layer, refusal.finding.reason[:_LONGEST_REASON]
    if shadow and not rule.endswith("-error") and rule not in NO_ANSWER:
        would = "deny" if denied else "ask"
        return Verdict(Decision.ALLOW, refusal.layer, rule, f"shadow: would {would}: {reason}", would_deny=True)
    return Verdict(Decision.DENY if denied else Decision.ASK, refusal.layer, rule, reason)
