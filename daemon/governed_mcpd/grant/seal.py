"""The Seal: what the daemon calls after an approval and before it lets the held call go on."""

from dataclasses import dataclass
from typing import Protocol

from governed_mcpd.nouns.action import SideEffect


class GrantFailed(Exception):
    """The permission could not be written: the effect is refused."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The one-shot permission for one thread to have one effect, until `expires` (monotonic seconds)."""

    sandbox: str
    thread: int
    effect: SideEffect
    expires: float


class Seal(Protocol):
    """Writes grants for the kernel. `name` goes into every record."""

    name: str
    reason: str

    def grant(self, grant: Grant) -> None:
        """Makes the effect possible, once. GrantFailed when it cannot be written."""


class NoSeal:
    """No BPF LSM enforces here: CONTINUE lets the kernel read the arguments again, and a thread that rewrites them in
    time can switch the object, within the Envelope (seccomp_unotify(2), NOTES). It says so in every record."""

    name = "none"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def grant(self, grant: Grant) -> None:
        """Nothing to write; the record of the effect carries `seal: none`."""
