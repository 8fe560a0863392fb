"""The answer to an Action. A refusal is a value, never an exception."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from governed_mcpd.nouns.lease import Lease


class Decision(StrEnum):
    """allow; deny; or ask a person."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


class LayerReport(NamedTuple):
    """What one layer said (`result`: pass, deny, ask or skipped) and how long it took."""

    layer: str
    result: str
    rule: str = ""
    reason: str = ""
    nanoseconds: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`dangerous_ppm` is P(dangerous) in millionths: the journal has no floats."""

    decision: Decision
    layer: str
    rule: str
    reason: str
    dangerous_ppm: int | None = None
    policy_version: str = ""
    layers: tuple[LayerReport, ...] = ()
    lease: Lease | None = None
    would_deny: bool = False
    model: str = ""


def deny(layer: str, rule: str, reason: str, policy_version: str = "") -> Verdict:
    """A refusal; `layer` is who refuses (a layer of the gate, or the daemon's own check)."""
    return Verdict(Decision.DENY, layer, rule, reason, policy_version=policy_version)


def allow(layer: str, rule: str, reason: str, policy_version: str = "") -> Verdict:
    """An approval that needed no gate call (a Lease, scratch, the controlling terminal)."""
    return Verdict(Decision.ALLOW, layer, rule, reason, policy_version=policy_version)
