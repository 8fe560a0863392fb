"""The leases of one sandbox: for which effects an earlier verdict still holds."""

import time
from dataclasses import dataclass

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import PatternKind
from governed_mcpd.nouns.verdict import Verdict, allow

MAX_LEASES = 4096


@dataclass(slots=True)
class Held:
    """A lease in use, and what is said of an effect that it covers."""

    lease: Lease
    verdict: Verdict
    left: int
    expires: float
    judged: bool = False
    prepared: object = None  # what whoever records its uses keeps with it


class Ledger:
    """Leases by object where they are exact, and in a short list where they cover more."""

    def __init__(self) -> None:
        self._exact: dict[tuple[Operation, str], Held] = {}
        self._wide: list[Held] = []
        self.changes = 0  # counts `add` and `clear`: what was said of leases before holds no longer

    def add(self, lease: Lease, rule: str, judged: SideEffect | None = None) -> None:
        """`rule` is that of the verdict that the lease came with, `judged` the effect that it was given for: a lease
        for exactly that needs none of the daemon's own checks again. What else the gate grants does."""
        self.changes += 1
        verdict = allow("lease", rule, "an earlier verdict still holds", lease.policy_version)
        held = Held(lease, verdict, lease.uses, time.monotonic() + lease.seconds)
        if lease.pattern.kind is PatternKind.EXACT:
            held.judged = judged is not None and _is_for(lease, judged)
            if len(self._exact) >= MAX_LEASES:
                self._drop_expired()
            if len(self._exact) < MAX_LEASES:
                for operation in lease.operations:
                    self._exact[operation, lease.pattern.text] = held
        elif len(self._wide) < MAX_LEASES:
            self._wide.append(held)

    def judged(self, effect: SideEffect, policy_version: str) -> Held | None:
        """The lease that was given for this very effect, when the daemon itself had nothing against it; a use spent."""
        if _special(effect):
            return None
        held = self._exact.get((effect.operation, effect.object))
        if held is None or not held.judged or held.left <= 0 or held.lease.policy_version != policy_version:
            return None
        if effect.second or time.monotonic() >= held.expires:
            return None
        held.left -= 1
        return held

    def use(self, effect: SideEffect, policy_version: str) -> Held | None:
        """The lease that covers the effect, one use of it spent. An effect on two objects needs both covered; running a
        program is never covered, since a lease says nothing about arguments."""
        if effect.operation is Operation.PROCESS_EXEC or _special(effect):
            return None
        now = time.monotonic()
        first = self._find(effect.operation, effect.object, policy_version, now)
        if first is None:
            return None
        if effect.second and effect.operation is not Operation.FILE_SYMLINK:
            second = self._find(effect.operation, effect.second, policy_version, now)
            if second is None:
                return None
            if second is not first:
                second.left -= 1
        first.left -= 1
        return first

    def use_any(self, spellings: tuple[SideEffect, ...], policy_version: str) -> Held | None:
        """The same, for an effect that can be spoken of in several ways (subjects/names)."""
        return next((held for spelled in spellings if (held := self.use(spelled, policy_version)) is not None), None)

    def covers(self, effect: SideEffect, policy_version: str) -> bool:
        """Whether a lease covers an effect on one object; no use is spent."""
        return self._find(effect.operation, effect.object, policy_version, time.monotonic()) is not None

    def clear(self) -> None:
        self.changes += 1
        self._exact.clear()
        self._wide.clear()

    def _find(self, operation: Operation, name: str, policy_version: str, now: float) -> Held | None:
        held = self._exact.get((operation, name))
        if held is not None:
            if held.left > 0 and now < held.expires and held.lease.policy_version == policy_version:
                return held
            del self._exact[operation, name]
        if self._wide:
            self._wide = [held for held in self._wide if held.left > 0 and now < held.expires]
            for held in self._wide:
                lease = held.lease
                if (
                    operation in lease.operations
                    and lease.policy_version == policy_version
                    and lease.pattern.matches(name)
                ):
                    return held
        return None

    def _drop_expired(self) -> None:
        now = time.monotonic()
        self._exact = {key: held for key, held in self._exact.items() if held.left > 0 and now < held.expires}


def _is_for(lease: Lease, effect: SideEffect) -> bool:
    """Whether the lease covers no more than an effect that was judged. What runs a program is never so covered."""
    return (
        lease.operations == {effect.operation}
        and lease.pattern.text == effect.object
        and effect.operation is not Operation.PROCESS_EXEC
        and not effect.second
    )


def _special(effect: SideEffect) -> bool:
    """Making something set-uid, set-gid or sticky: more than a lease on the name says, so it is always judged."""
    mode = effect.details.get("mode")
    return mode is not None and int(mode, 8) & 0o7000 != 0
