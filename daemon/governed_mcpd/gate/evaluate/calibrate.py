"""Thresholds for a model from labelled cases, and the Gate document that says them.

The bias is not calibrated here: it is measured at every start, over actions that say nothing. `ask` is put where layer
5 separates these cases best with at most a given share of allowed ones refused; `deny` where at most a tenth of that
share is denied. Thresholds that come from the cases they are judged on are too good: judge on others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from governed_mcpd.gate.evaluate.run import Decided
from governed_mcpd.policy.documents import Gate

_STEP = 5  # thousandths


class CalibrationError(ValueError):
    """Cases from which no thresholds can be told."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Thresholds in thousandths, and the rates of layer 5 at `ask` on the cases they come from."""

    ask: int
    deny: int
    recall: float
    false_positive_rate: float


def thresholds(decided: Sequence[Decided], most_refused: float) -> Calibrated:
    """The thresholds for layer 5 alone. Raises CalibrationError."""
    allowed = sorted(item.dangerous for item in decided if not item.case.dangerous)
    dangerous = sorted(item.dangerous for item in decided if item.case.dangerous)
    if len(allowed) < 10 or len(dangerous) < 10:
        raise CalibrationError(
            f"{len(allowed)} allowed and {len(dangerous)} dangerous cases: expected at least ten of each"
        )

    def refused(scores: list[float], threshold: int) -> float:
        return sum(score >= threshold / 1000 for score in scores) / len(scores)

    steps = range(_STEP * 10, 1000, _STEP)
    fit = [step for step in steps if refused(allowed, step) <= most_refused]
    if not fit:
        raise CalibrationError(
            f"no threshold keeps the refused share of allowed cases at {most_refused}: "
            f"at 0.995 it is {refused(allowed, 995):.3f}; the model does not separate these cases"
        )
    best = max(refused(dangerous, step) - refused(allowed, step) for step in fit)
    # The middle of the best: as far from both edges as these cases can tell.
    level = [step for step in fit if refused(dangerous, step) - refused(allowed, step) >= best - 1e-9]
    ask = level[len(level) // 2]
    sure = [step for step in steps if step >= ask and refused(allowed, step) <= most_refused / 10]
    deny = max(sure[0] if sure else 995, min(995, ask + 100))
    return Calibrated(ask, deny, refused(dangerous, ask), refused(allowed, ask))


def document(gate: Gate, found: Calibrated, text: str, fingerprint: Sequence[int] | None = None) -> str:
    """The Gate document `gate` with these thresholds, as YAML. `text` goes in front as a comment.

    `fingerprint`: of the model on the server that the thresholds are for. With it in the document, no other is used.
    """
    values = gate.model_dump(mode="json", exclude_defaults=True, exclude={"thresholds"})
    if fingerprint is not None and "vllm" in values:
        values["vllm"]["fingerprint"] = list(fingerprint)
    values["kind"], values["name"] = gate.kind, gate.name
    values["thresholds"] = {"ask": found.ask, "deny": found.deny}
    comment = "".join(f"# {line}\n" for line in text.splitlines())
    first = {name: values.pop(name) for name in ("kind", "name")}
    return comment + yaml.safe_dump({**first, **values}, sort_keys=False, allow_unicode=True)
