"""Decides labelled cases with layers 4, 5 and 6, alone and together, and reports what came out.

Layers 1 to 3 need what a static case does not have: a pinned tool, an agent's tier, a clock.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from governed_mcpd.gate.active import ActivationError, Active, Room, compile_set
from governed_mcpd.gate.decide import Layers
from governed_mcpd.gate.evaluate.cases import Case, by_source
from governed_mcpd.gate.evaluate.score import Outcome, figures, percentile
from governed_mcpd.gate.layers.finding import Finding
from governed_mcpd.gate.layers.rate import Buckets
from governed_mcpd.gate.probe import embedded, selftest
from governed_mcpd.gate.probe.logits import Probe
from governed_mcpd.gate.probe.vllm.backend import VllmProbe
from governed_mcpd.gate.reading import Reading
from governed_mcpd.policy.documents import Gate
from governed_mcpd.policy.load import PolicySet

FORMAT = "governed-mcpd evaluation 1"
LAYERS = {4: "prefilter", 5: "probe", 6: "constitution"}
ALL = (4, 5, 6)
Choice = tuple[int, ...]
COMBINATIONS: tuple[Choice, ...] = tuple(chosen for size in range(len(ALL) + 1) for chosen in combinations(ALL, size))


@dataclass(frozen=True, slots=True)
class Decided:
    """What each layer found about one case, and how long that took, in milliseconds."""

    case: Case
    findings: dict[int, Finding]
    milliseconds: dict[int, float]

    def decision(self, layers: Choice = ALL) -> str:
        """What these layers together decide: the severest of what they found."""
        results = [self.findings[layer].result for layer in layers]
        if "deny" in results:
            return "deny"
        return "ask" if "ask" in results else "allow"

    @property
    def dangerous(self) -> float:
        """P(dangerous) of layer 5; 1 where it had no answer."""
        ppm = self.findings[5].dangerous_ppm
        return 1.0 if ppm is None else ppm / 1_000_000

    def outcome(self, gate: Gate, layers: Choice = ALL) -> Outcome:
        """For the figures. What another layer asks or denies counts at least as that threshold of layer 5."""
        decision = self.decision(layers)
        score = self.dangerous if 5 in layers else 0.0
        floor = {"allow": 0.0, "ask": gate.thresholds.ask / 1000, "deny": gate.thresholds.deny / 1000}[decision]
        return Outcome(self.case.dangerous, decision, max(score, floor))


def layers_of(policy: PolicySet, probe: Probe | None = None) -> Layers:
    """The layers of `policy` with `probe`, or with what its Gate document names. Raises ProbeError, ActivationError."""
    return prepared(policy, probe).active.layers


@dataclass(frozen=True, slots=True)
class Prepared:
    """A policy set whose model was measured and separates. `fingerprint` (thousandths): of a model on a server."""

    active: Active
    bias: float
    fingerprint: tuple[int, ...] | None = None


def prepared(policy: PolicySet, probe: Probe | None = None) -> Prepared:
    """`policy`, ready to decide, with `probe` instead of the embedded model. Raises ProbeError, ActivationError."""
    head = probe or embedded.load()
    bias = selftest.prove(head)
    active = compile_set(policy, Room(head, bias, Buckets()))
    if not isinstance(active.probe, VllmProbe):
        return Prepared(active, bias)
    if probe is not None:
        raise ActivationError("the Gate document names a model server: no other model can stand in for that one")
    model = active.probe.wait()
    return Prepared(active, model.bias, tuple(round(value * 1000) for value in model.fingerprint))


def decide_all(cases: Sequence[Case], layers: Layers) -> list[Decided]:
    """Every case by every layer, one after the other on this thread, past refusals too."""
    return [_decide(case, layers) for case in cases]


def _decide(case: Case, layers: Layers) -> Decided:
    reading = Reading(case.action)
    checks = {4: layers.prefilter.check, 5: layers.probe.check, 6: layers.constitution.check}
    findings: dict[int, Finding] = {}
    times: dict[int, float] = {}
    for layer, check in checks.items():
        begun = time.perf_counter_ns()
        try:
            findings[layer] = check(reading)
        # As in decide(): a layer that fails has refused.
        except Exception as error:
            findings[layer] = Finding("deny", f"{LAYERS[layer]}-error", f"{type(error).__name__}: {error}"[:300])
        times[layer] = (time.perf_counter_ns() - begun) / 1e6
    return Decided(case, findings, times)


def report(decided: Sequence[Decided], policy: PolicySet, model: str, unknown: int = 0) -> dict[str, Any]:
    """The whole evaluation as JSON can say it."""
    gate = policy.gate
    groups = by_source(item.case for item in decided)
    of_source = {source: [item for item in decided if item.case.source == source] for source in groups}
    return {
        "format": FORMAT,
        "backend": gate.backend,
        "model": model,
        "policy_version": policy.version,
        "thresholds": {"ask": gate.thresholds.ask / 1000, "deny": gate.thresholds.deny / 1000},
        "layers": [LAYERS[layer] for layer in ALL],
        "cases": len(decided),
        "unknown_left_out": unknown,
        "sources": [
            {"source": source, **_group(items, gate), "categories": _categories(items, gate)}
            for source, items in of_source.items()
        ],
        "ablation": [
            {
                "layers": [LAYERS[layer] for layer in chosen],
                "latency_ms": _times([sum(item.milliseconds[layer] for layer in chosen) for item in decided]),
                "sources": [
                    {"source": source, **figures([item.outcome(gate, chosen) for item in items])}
                    for source, items in of_source.items()
                ],
            }
            for chosen in COMBINATIONS
        ],
        "rules": _rules(decided),
        "latency_ms": _latency(decided),
    }


def _group(items: Sequence[Decided], gate: Gate) -> dict[str, Any]:
    found = figures([item.outcome(gate) for item in items])
    seen = [item.outcome(gate) for item in items if item.case.seen]
    found["with_observation"] = figures(seen) if seen else None
    return found


def _categories(items: Sequence[Decided], gate: Gate) -> list[dict[str, Any]]:
    names = dict.fromkeys(item.case.category for item in items)
    return [
        {"category": name, **figures([item.outcome(gate) for item in items if item.case.category == name])}
        for name in names
    ]


def _rules(decided: Sequence[Decided]) -> list[dict[str, Any]]:
    """How often each rule refused, rightly and wrongly."""
    found: dict[tuple[int, str, str], list[int]] = {}
    for item in decided:
        for layer, finding in item.findings.items():
            if finding.result != "pass":
                counts = found.setdefault((layer, finding.rule, finding.result), [0, 0])
                counts[item.case.dangerous] += 1
    return [
        {"layer": LAYERS[layer], "rule": rule, "result": result, "allowed": counts[0], "dangerous": counts[1]}
        for (layer, rule, result), counts in sorted(found.items())
    ]


def _latency(decided: Sequence[Decided]) -> dict[str, Any]:
    return {
        **_times([sum(item.milliseconds.values()) for item in decided]),
        "layers": {LAYERS[layer]: _times([item.milliseconds[layer] for item in decided]) for layer in ALL},
    }


def _times(values: list[float]) -> dict[str, float]:
    return {"p50": round(percentile(values, 0.5), 3), "p99": round(percentile(values, 0.99), 3)}
