"""What one line of the pause table says about one system call."""

import errno
from dataclasses import dataclass
from enum import StrEnum

EXACT = 0xFFFF_FFFF_FFFF_FFFF
"""Mask of a Test that compares the whole register. An int with rubbish in its upper half does not match: where a match
is what lets the call pass, that is the safe side."""


class Disposition(StrEnum):
    """What the filter does with a call."""

    PASS = "pass"  # noqa: S105 - no password
    HOLD = "hold"
    REFUSE = "refuse"


class Carrier(StrEnum):
    """What makes the disposition hold against an adversary.

    filter: the register decides, nothing can change it afterwards. landlock: the kernel checks the real object against
    the Envelope. held: the supervisor reads what the call names; it can be rewritten before the kernel reads it again.
    seal: the BPF LSM programs check the real object against the Grant, which closes that.
    """

    FILTER = "filter"
    LANDLOCK = "landlock"
    HELD = "held"
    SEAL = "seal"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the filter answers to a call with given registers; `errno` is 0 unless it refuses."""

    disposition: Disposition
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Test:
    """Whether a register, masked, equals a value. Registers only: what lies in memory can change after it was read."""

    argument: int
    mask: int
    value: int

    __test__ = False  # pytest would take it for a test class

    def __post_init__(self) -> None:
        if not 0 <= self.argument <= 5 or self.value & ~self.mask or not 0 < self.mask <= EXACT:
            raise ValueError(f"{self}: expected an argument 0 to 5, a mask of 64 bits, a value within the mask")

    def matches(self, arguments: tuple[int, ...]) -> bool:
        return arguments[self.argument] & self.mask == self.value


@dataclass(frozen=True, slots=True)
class Condition:
    """An exception to a Row: all of its tests match, and no earlier condition did."""

    disposition: Disposition
    tests: tuple[Test, ...]
    reason: str
    errno: int = errno.EPERM

    def matches(self, arguments: tuple[int, ...]) -> bool:
        return all(test.matches(arguments) for test in self.tests)

    @property
    def answer(self) -> Answer:
        return Answer(self.disposition, self.errno if self.disposition is Disposition.REFUSE else 0)


@dataclass(frozen=True, slots=True)
class Row:
    """One system call: the disposition that holds unless a condition matches, what carries it, and why."""

    name: str
    disposition: Disposition
    carriers: frozenset[Carrier]
    reason: str
    errno: int = errno.EPERM
    conditions: tuple[Condition, ...] = ()

    @property
    def answer(self) -> Answer:
        return Answer(self.disposition, self.errno if self.disposition is Disposition.REFUSE else 0)

    def decide(self, arguments: tuple[int, ...]) -> Answer:
        """What the filter has to answer for these six registers."""
        for condition in self.conditions:
            if condition.matches(arguments):
                return condition.answer
        return self.answer


_BY_FILTER = frozenset({Carrier.FILTER})
BY_LANDLOCK = frozenset({Carrier.LANDLOCK})
HELD = frozenset({Carrier.HELD, Carrier.SEAL})
HELD_IN_ENVELOPE = frozenset({Carrier.HELD, Carrier.LANDLOCK, Carrier.SEAL})


def passes(reason: str, *names: str, carriers: frozenset[Carrier] = _BY_FILTER) -> tuple[Row, ...]:
    return tuple(Row(name, Disposition.PASS, carriers, reason) for name in names)


def holds(reason: str, *names: str, carriers: frozenset[Carrier] = HELD) -> tuple[Row, ...]:
    return tuple(Row(name, Disposition.HOLD, carriers, reason) for name in names)


def refuses(reason: str, *names: str, errno: int = errno.EPERM) -> tuple[Row, ...]:
    return tuple(Row(name, Disposition.REFUSE, _BY_FILTER, reason, errno) for name in names)
