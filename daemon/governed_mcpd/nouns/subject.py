"""Who acts."""

from dataclasses import dataclass
from enum import IntEnum


class Tier(IntEnum):
    """Trust tiers of Governed MCP (PAPERS: layer 2); a higher one may do what a lower one may."""

    CLASSIC = 1
    AI_ENHANCED = 2
    AI_NATIVE = 3
    SYSTEM = 4


@dataclass(frozen=True, slots=True)
class Subject:
    """An agent, or the tool server that one runs, inside one sandbox."""

    agent: str
    tier: Tier
    sandbox: str
    uid: int
    profile: str
    server: str = ""
    parent: str = ""
