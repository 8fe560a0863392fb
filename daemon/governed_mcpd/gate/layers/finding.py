"""What one layer found about one Action."""

from dataclasses import dataclass
from typing import Literal

Result = Literal["pass", "deny", "ask"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`rule` is a stable id and `reason` a sentence; `dangerous_ppm` is P(dangerous) in millionths, of layer 5 only.

    `close` says that a threshold was near: such an approval carries no lease.
    """

    result: Result
    rule: str
    reason: str
    dangerous_ppm: int | None = None
    model: str = ""
    close: bool = False


PASS = Finding("pass", "", "")
