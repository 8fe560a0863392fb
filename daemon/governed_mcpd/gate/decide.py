"""The six layers in order; the first refusal ends it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
Check = Callable[[Reading], Finding]


class Layer(Protocol):
    """A layer works on an action and what was read out of it."""

    def check(self, reading: Reading) -> Finding: ...


@dataclass(frozen=True, slots=True)
class Layers:
    """The six layers of one policy set."""

    schema: Layer
    tier: Layer
    rate: RateLayer
    prefilter: Layer
    probe: Layer
    constitution: Layer

    def in_order(self, spend: bool) -> tuple[tuple[str, Check], ...]:
        """Name and check of each layer, in the order in which they decide."""
        return (
            ("schema", self.schema.check),
            ("tier", self.tier.check),
            ("rate", self.rate.check if spend else partial(self.rate.check, spend=False)),
            ("prefilter", self.prefilter.check),
            ("probe", self.probe.check),
            ("constitution", self.constitution.check),
        )


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
    for name, check in layers.in_order(spend=not explain):
        if only and name not in only:
            continue
        if denied is not None and not explain:
            reports.append(LayerReport(name, "skipped"))
            continue
        finding, nanoseconds = _run(name, check, reading)
        reports.append(LayerReport(name, finding.result, finding.rule, finding.reason[:_LONGEST_REASON], nanoseconds))
        close = close or finding.close
        if finding.dangerous_ppm is not None or finding.model:
            probed = finding
        if finding.result == "deny":
            denied = denied or _Decided(name, finding)
        elif finding.result == "ask":
            asked = asked or _Decided(name, finding)
    decision, layer, rule, reason, would_deny = _decision(denied, asked, finding, shadow)
    proposed = None
    if decision is Decision.ALLOW and not (shadow or close or explain) and isinstance(action.what, SideEffect):
        proposed = lease.propose(action.what, policy_version, layers.rate.most_uses(reading))
    return Verdict(
        decision,
        layer,
        rule,
        reason,
        dangerous_ppm=probed.dangerous_ppm if probed else None,
        policy_version=policy_version,
        layers=tuple(reports),
        lease=proposed,
        would_deny=would_deny,
        model=probed.model if probed else "",
    )


def _run(name: str, check: Check, reading: Reading) -> tuple[Finding, int]:
    begun = time.perf_counter_ns()
    try:
        finding = check(reading)
        if finding.result not in ("pass", "deny", "ask"):
            finding = Finding("deny", f"{name}-error", f"the layer answered {finding.result!r}")
    # Whatever goes wrong inside a layer, nothing is known about the action: a refusal, and the server goes on.
    except (Exception, RecursionError) as error:
        _LOG.exception("layer %s failed", name)
        finding = Finding("deny", f"{name}-error", f"the layer failed: {type(error).__name__}: {str(error)[:300]}")
    return finding, time.perf_counter_ns() - begun


def _decision(
    denied: _Decided | None, asked: _Decided | None, permit: Finding, shadow: bool
) -> tuple[Decision, str, str, str, bool]:
    """Decision, layer, rule and reason; and whether only shadow made it an approval."""
    refusal = denied or asked
    if refusal is None:
        return (
            Decision.ALLOW,
            "constitution",
            permit.rule or "all-layers-pass",
            permit.reason[:_LONGEST_REASON],
            False,
        )
    rule, reason = refusal.finding.rule or refusal.layer, refusal.finding.reason[:_LONGEST_REASON]
    if shadow and not rule.endswith("-error") and rule not in NO_ANSWER:
        would = "deny" if denied else "ask"
        return Decision.ALLOW, refusal.layer, rule, f"shadow: would {would}: {reason}", True
    return Decision.DENY if denied else Decision.ASK, refusal.layer, rule, reason, False
