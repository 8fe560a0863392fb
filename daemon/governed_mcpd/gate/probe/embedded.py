"""The embedded backend: a logistic head over the features, in plain Python. No language model, and it says so."""

import importlib.resources
import json
import math
from dataclasses import dataclass

from governed_mcpd.gate.probe import features
from governed_mcpd.gate.probe.logits import Logits, ProbeError
from governed_mcpd.gate.reading import Reading

ARTIFACT = "embedded.json"
FORMAT = "governed-mcpd logistic head 1"


@dataclass(frozen=True, slots=True)
class LogisticHead:
    """ℓ(Dangerous) − ℓ(Safe) is the weighted sum of the features."""

    model: str
    weights: tuple[float, ...]

    @property
    def trouble(self) -> str:
        """Nothing: it is here or the gate does not start."""
        return ""

    def probe(self, reading: Reading) -> Logits:
        """The two logits for one action. Raises ProbeError."""
        try:
            found = features.extract(reading)
        except (ValueError, RuntimeError) as error:
            raise ProbeError(f"the action cannot be read: {error}") from None
        parts = [
            (part, at)
            for at, (weight, value) in enumerate(zip(self.weights, found, strict=True))
            if (part := weight * value)
        ]
        half = math.fsum(part for part, _ in parts) / 2
        strongest = sorted(parts, key=lambda item: -abs(item[0]))
        because = tuple(f"{features.NAMES[index]} ({part:+.1f})" for part, index in strongest[:4])
        # A head that has two outputs gives all its mass to them.
        return Logits(-half, half, 1.0, because)


def load() -> LogisticHead:
    """The model that comes with the package. Raises ProbeError when it is missing, damaged, or of other features."""
    try:
        text = importlib.resources.files(__package__).joinpath(ARTIFACT).read_text("utf-8")
        document = json.loads(text)
    except (OSError, ValueError) as error:
        raise ProbeError(f"{ARTIFACT} cannot be read: {error}; run make gate-model") from None
    return from_document(document)


def from_document(document: object) -> LogisticHead:
    """A model from its artifact. Raises ProbeError."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ProbeError(f"{ARTIFACT} is not a {FORMAT!r}: run make gate-model")
    if document.get("features_version") != features.version():
        raise ProbeError(f"{ARTIFACT} was trained with other features than this code has: run make gate-model")
    weights = document.get("weights")
    if not isinstance(weights, dict) or list(weights) != list(features.NAMES):
        raise ProbeError(f"{ARTIFACT} has weights for other features: run make gate-model")
    numbers = tuple(weights.values())
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ProbeError(f"{ARTIFACT} has a weight that is not a finite number: run make gate-model")
    return LogisticHead(str(document.get("model", "")), tuple(float(number) for number in numbers))
