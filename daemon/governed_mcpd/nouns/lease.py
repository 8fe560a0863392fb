"""For which further Actions a Verdict holds without asking again."""

from dataclasses import dataclass

from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern


@dataclass(frozen=True, slots=True)
class Lease:
    """Operations on objects of one pattern, `uses` times within `seconds`, under one policy version."""

    operations: frozenset[Operation]
    pattern: Pattern
    uses: int
    seconds: int
    policy_version: str = ""
    call: str = ""
