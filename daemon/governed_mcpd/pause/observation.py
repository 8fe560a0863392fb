"""What the supervisor learned by looking at a held call."""

from dataclasses import dataclass, field

from governed_mcpd.grant.seal import Target
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.pause.handles import Handles


@dataclass(slots=True)
class Effects:
    """The call would have these side effects; all of them have to be allowed for it to run.

    With a seal there is exactly one, and besides it what a Grant needs: `targets`, and of an exec the exact `argv` and
    `environment`. `handles` owns the descriptors in `targets`; who drops the observation closes them.
    """

    effects: tuple[SideEffect, ...]
    targets: tuple[Target, ...] = ()
    argv: tuple[bytes, ...] = ()
    environment: tuple[bytes, ...] = ()
    handles: Handles | None = field(default=None, compare=False)

    def close(self) -> None:
        """Gives the descriptors back; again does nothing."""
        if self.handles is not None:
            self.handles.close()


@dataclass(frozen=True, slots=True)
class Harmless:
    """The call turned out to have no effect that anybody has to judge (a send without an address, a signal to the
    sandbox itself). `unjudged` is what a seal has to be told of all the same."""

    why: str
    unjudged: Effects | None = None


@dataclass(frozen=True, slots=True)
class Impossible:
    """The kernel would answer this errno for the object as it is: the thread gets it now, and nothing happens.

    It is not passed on to the kernel: another thread could make the call possible in between, ungranted.
    """

    errno: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What the call means could not be found out: refused, with the rule and the reason."""

    rule: str
    reason: str
    operation: str = "unknown"
    object: str = ""
    errno: int = 1  # EPERM


Observation = Effects | Harmless | Impossible | Unreadable


def let_go_of(observation: Observation) -> None:
    """Closes what an observation holds that nobody acts upon."""
    effects = observation.unjudged if isinstance(observation, Harmless) else observation
    if isinstance(effects, Effects):
        effects.close()


class CannotRead(Exception):
    """Raised inside the pause room while reading arguments; becomes Unreadable."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason


class WouldFail(Exception):
    """Raised inside the pause room when the kernel would refuse by itself; becomes Impossible."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.errno = number
