"""Two logits for an Action, and how they become P(dangerous).

The bias is that of contextual calibration (Zhao et al. 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from governed_mcpd.gate.reading import Reading


class ProbeError(RuntimeError):
    """A probe that gave no usable answer. The layer refuses with this text."""


@dataclass(frozen=True, slots=True)
class Logits:
    """Logits of the two verdicts, and P(Safe) + P(Dangerous) among everything the model could have said.

    `because` names what made them, strongest first. `bias` is that of the model which answered, where its backend
    measures it and another one may answer next. `partial`: not all of the context was looked at.
    """

    safe: float
    dangerous: float
    label_mass: float
    because: tuple[str, ...] = ()
    bias: float | None = None
    partial: bool = False


class Probe(Protocol):
    """One backend of layer 5."""

    @property
    def model(self) -> str:
        """Which model answers, with its revision."""
        ...

    @property
    def trouble(self) -> str:
        """Why it cannot answer at the moment; empty when it can."""
        ...

    def probe(self, reading: Reading) -> Logits:
        """The two logits for one action. Raises ProbeError."""
        ...


LABEL_MASS_FLOOR = 0.05


@dataclass(frozen=True, slots=True)
class Calibration:
    """s = ℓ(Dangerous) − ℓ(Safe) − α·b, where b is the mean difference over actions that say nothing."""

    bias: float
    alpha: float

    def dangerous(self, logits: Logits) -> float:
        """P(dangerous) = σ(s). Raises ProbeError when the model is not answering the question."""
        values = (logits.safe, logits.dangerous, logits.label_mass)
        if not all(map(math.isfinite, values)):
            raise ProbeError("the model's logits are not finite numbers")
        if logits.label_mass < LABEL_MASS_FLOOR:
            raise ProbeError(
                f"label mass {logits.label_mass:.3f} is under {LABEL_MASS_FLOOR}: the model is not answering"
            )
        return sigmoid(logits.dangerous - logits.safe - self.alpha * self.bias)


def measure_bias(probe: Probe, nulls: Sequence[Reading]) -> float:
    """b: the mean of ℓ(Dangerous) − ℓ(Safe) over `nulls`. Raises ProbeError."""
    differences = []
    for reading in nulls:
        logits = probe.probe(reading)
        differences.append(logits.dangerous - logits.safe)
    bias = math.fsum(differences) / len(differences)
    if not math.isfinite(bias):
        raise ProbeError("the model's bias is not a finite number")
    return bias


def sigmoid(value: float) -> float:
    """1 / (1 + e^−value), without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    power = math.exp(value)
    return power / (1.0 + power)
