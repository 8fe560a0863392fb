"""Which names the addresses came from that a Subject has looked up: its own memory, filled by governed-resolver alone.

An address that was found under several names counts under each: who resolved a name may connect to where it leads.
Which of them a connection is for nobody can see from its address.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.address import kind_of
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import split_endpoint
from governed_mcpd.subjects.rules import Rules

MOST_ADDRESSES = 4096
MOST_NAMES = 8  # of one address
# Programs keep answers for longer than these say (connection pools, Java), so a name is not forgotten with its TTL.
KEEP_SECONDS = 3600.0
MOST_SECONDS = 86_400.0
MOST_PARENTS = 1024
MOST_BENEATH = 4096
COUNT_SECONDS = 600.0
_SENDS = frozenset((Operation.NET_CONNECT, Operation.NET_SEND))


@dataclass(frozen=True, slots=True)
class Name:
    """A name that was looked up, and the names that it led over."""

    text: str
    aliases: tuple[str, ...]
    until: float  # time.monotonic()


@dataclass(slots=True)
class _Parent:
    """The names beneath one domain that were asked for lately."""

    since: float
    names: set[str] = field(default_factory=set)


class Names:
    """Belongs to the leader (supervisor/lanes)."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, Name]] = {}  # by address, then name; what was learnt last stands last
        self._parents: dict[str, _Parent] = {}

    def learn(self, name: str, addresses: Iterable[str], aliases: tuple[str, ...], seconds: int) -> None:
        """An answer that the Subject is about to get."""
        until = time.monotonic() + min(max(float(seconds), KEEP_SECONDS), MOST_SECONDS)
        for address in addresses:
            names = self._of.pop(address, {})
            names.pop(name, None)
            names[name] = Name(name, aliases, until)
            while len(names) > MOST_NAMES:
                del names[next(iter(names))]
            self._of[address] = names
        while len(self._of) > MOST_ADDRESSES:
            del self._of[next(iter(self._of))]

    def of(self, address: str) -> list[Name]:
        """The names of an address, the one that was learnt last first."""
        names = self._of.get(address)
        if names is None:
            return []
        now = time.monotonic()
        return [name for name in reversed(names.values()) if name.until > now]

    def beneath(self, name: str) -> int:
        """How many different names were asked for lately beneath the domain of this one, with it: each of them can
        carry something."""
        parent = domain(name)
        now = time.monotonic()
        found = self._parents.pop(parent, None)
        if found is None or now - found.since > COUNT_SECONDS:
            found = _Parent(now)
        if len(found.names) < MOST_BENEATH:
            found.names.add(name)
        self._parents[parent] = found
        while len(self._parents) > MOST_PARENTS:
            del self._parents[next(iter(self._parents))]
        return len(found.names)

    def named(self, effect: SideEffect, preferred: Callable[[SideEffect], bool]) -> SideEffect:
        """A connection or datagram, spoken of by name. Of several names it is the first that `preferred` likes, or else
        the one that was learnt last. `address` among the details is where it leads; `unresolved`: nobody looked it
        up."""
        parts = split_endpoint(effect.object) if effect.operation in _SENDS else None
        if parts is None or effect.details.get("dns"):
            return effect
        protocol, address, port = parts
        known = self.of(address)
        if not known:
            return replace(effect, details={**effect.details, "unresolved": "yes"})
        all_names = dict.fromkeys(text for name in known for text in (name.text, *name.aliases))
        details = {**effect.details, "address": address, "names": " ".join(all_names)}
        spoken = [replace(effect, object=f"{protocol}:{name.text}:{port}", details=details) for name in known]
        return next(filter(preferred, spoken), spoken[0])


def domain(name: str) -> str:
    """What somebody registered, of a name: its last two labels, or three where the last are like co.uk. Never fewer
    labels for a name with more: spreading names over subdomains must not spread the count."""
    labels = name.split(".")
    second_level = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3:] if second_level else labels[-2:])


def by_address(effect: SideEffect) -> SideEffect:
    """The same, spoken of by its address."""
    address = effect.details.get("address")
    parts = split_endpoint(effect.object) if address else None
    if not address or parts is None:
        return effect
    host = f"[{address}]" if ":" in address else address
    return replace(effect, object=f"{parts[0]}:{host}:{parts[2]}")


def spellings(effect: SideEffect, chain: tuple[Rules, ...]) -> tuple[SideEffect, ...]:
    """How leases and what runs free may cover an effect: by its address; and by its name, unless the address is not a
    public one and a profile does not name it. Whoever answers for a name can make it lead to this machine or to the
    network behind it (DNS rebinding)."""
    address = effect.details.get("address")
    if not address:
        return (effect,)
    numeric = by_address(effect)
    kind = kind_of(address)
    if (kind is not None and not kind.private) or all(rules.names_address(numeric) for rules in chain):
        return effect, numeric
    return (numeric,)
