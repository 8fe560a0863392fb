"""Layer 3: token buckets per agent and tool, and per agent and operation."""

import threading
import time
from collections.abc import Callable, Mapping

from governed_mcpd.gate.layers.finding import PASS, Finding
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.policy.documents import Gate, Rate, Tool

MAX_BUCKETS = 65_536
Key = tuple[str, str]


class Buckets:
    """Token buckets, bounded in number.

    When there are too many, those that are full again go first: they are the same as new ones. Throwing out the least
    recently used would give an agent a fresh bucket for touching enough other ones, so when none is full, new ones are
    refused. `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = MAX_BUCKETS) -> None:
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._buckets: dict[Key, tuple[float, float, Rate]] = {}  # tokens, when, rate

    def take(self, key: Key, rate: Rate, spend: bool) -> str:
        """Takes a token (or only looks, when not `spend`); says why there is none, or nothing."""
        with self._lock:
            now = self._clock()
            tokens = self._tokens(key, rate, now)
            if tokens is None:
                if len(self._buckets) >= self._most and not self._make_room(now):
                    return f"{self._most} agents and tools are being counted already"
                tokens = float(rate.burst)
            enough = tokens >= 1.0
            if spend:
                self._buckets[key] = (tokens - 1.0 if enough else tokens, now, rate)
            return "" if enough else f"more than {rate.per_second:g}/s (burst {rate.burst})"

    def _tokens(self, key: Key, rate: Rate, now: float) -> float | None:
        bucket = self._buckets.get(key)
        if bucket is None:
            return None
        tokens, when, _ = bucket
        return min(float(rate.burst), tokens + max(now - when, 0.0) * rate.per_second)

    def _make_room(self, now: float) -> bool:
        full = [
            key for key, (_, _, rate) in self._buckets.items() if (self._tokens(key, rate, now) or 0.0) >= rate.burst
        ]
        for key in full:
            del self._buckets[key]
        return bool(full)


class RateLayer:
    """The rates of the active policy over buckets that outlive it: applying a policy fills no bucket."""

    name = "rate"

    def __init__(self, tools: Mapping[str, Tool], gate: Gate, buckets: Buckets) -> None:
        self._buckets = buckets
        self._tools = {
            (server, tool): entry.rate
            for server, document in tools.items()
            for tool, entry in document.tools.items()
            if entry.rate is not None
        }
        self._operations = {op: rule.rate for op, rule in gate.operations.items() if rule.rate is not None}

    def check(self, reading: Reading, spend: bool = True) -> Finding:
        """Layer 3 on one action; an explanation looks and spends nothing."""
        what = reading.action.what
        if isinstance(what, SideEffect):
            rate, label = self._operations.get(what.operation), str(what.operation)
        else:
            rate, label = self._tools.get((what.server, what.tool)), f"{what.server}/{what.tool}"
        if rate is None:
            return PASS
        agent = reading.action.subject.agent
        problem = self._buckets.take((agent, label), rate, spend)
        return Finding("deny", "rate", f"{label} by {agent}: {problem}") if problem else PASS

    def most_uses(self, reading: Reading) -> int | None:
        """How often a lease may be used without a decision where a rate is set: the burst. None without a rate."""
        what = reading.action.what
        rate = self._operations.get(what.operation) if isinstance(what, SideEffect) else None
        return None if rate is None else rate.burst
