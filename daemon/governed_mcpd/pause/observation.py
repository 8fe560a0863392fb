"""What the supervisor learned by looking at a held call."""

from dataclasses import dataclass

from governed_mcpd.nouns.action import SideEffect


@dataclass(frozen=True, slots=True)
class Effects:
    """The call would have these side effects; all of them have to be allowed for it to run."""

    effects: tuple[SideEffect, ...]


@dataclass(frozen=True, slots=True)
class Harmless:
    """The call turned out to have no effect (a send without an address, a signal to the sandbox itself)."""

    why: str


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
