"""The leases of one sandbox: for which effects an earlier verdict still holds."""

import time
from dataclasses import dataclass

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import PatternKind

MAX_LEASES = 4096


@dataclass(slots=True)
class Held:
    """A lease in use."""

    lease: Lease
    rule: str
    left: int
    expires: float


class Ledger:
    """Leases by object where they are exact, and in a short list where they cover more."""

    def __init__(self) -> None:
        self._exact: dict[tuple[Operation, str], Held] = {}
        self._wide: list[Held] = []

    def add(self, lease: Lease, rule: str) -> None:
        """`rule` is the rule of the verdict that the lease came with."""
        held = Held(lease, rule, lease.uses, time.monotonic() + lease.seconds)
        if lease.pattern.kind is PatternKind.EXACT:
            if len(self._exact) >= MAX_LEASES:
                self._drop_expired()
            if len(self._exact) < MAX_LEASES:
                for operation in lease.operations:
                    self._exact[operation, lease.pattern.text] = held
        elif len(self._wide) < MAX_LEASES:
            self._wide.append(held)

    def use(self, effect: SideEffect, policy_version: str) -> Held | None:
        """The lease that covers the effect, one use of it spent. An effect on two objects needs both covered; running a
        program is never covered, since a lease says nothing about arguments."""
        if effect.operation is Operation.PROCESS_EXEC:
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

    def clear(self) -> None:
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
