"""A Seal that enforces nothing and writes down every call, as JSON lines; and the daemon with it.

    telling_seal.py FILE DAEMON_OPTIONS…

It stands at the protocol's boundary, where the kernel's programs would: what the daemon hands over, in which order, and
whether the descriptors still lead to the objects, can be seen without BPF LSM. That the kernel refuses anything is
tested in virtual machines only. A name with `ungrantable` in it cannot be granted; one with `tells` causes two events.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from governed_mcpd.config import Config
from governed_mcpd.grant.seal import Grant, GrantFailed, Seal, SealEvent, Target
from governed_mcpd.service.main import main

STRANGER = "f00dfeed0001"  # a sandbox that no daemon knows


class TellingSeal:
    """See above."""

    name = "telling"
    reason = "tests"

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", encoding="utf-8", errors="surrogateescape", buffering=1)  # noqa: SIM115
        self._lock = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._events: list[SealEvent] = []
        self._drops: set[str] = set()

    def adopt(self, sandbox: str, pid: int, pidfd: int, *, reads: bool = False) -> None:
        # Whether the filter is there already: the mark has to come first.
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            filters = next(line.split()[1] for line in status if line.startswith("Seccomp_filters"))
        self._tell(call="adopt", sandbox=sandbox, pid=pid, reads=reads, filters=int(filters))

    def protect(self, sandbox: str, descriptors: Iterable[int]) -> None:
        self._tell(call="protect", sandbox=sandbox, objects=[_leads_to(number) for number in descriptors])

    def grant(self, grant: Grant) -> None:
        effect = grant.effect
        if "ungrantable" in effect.object:
            raise GrantFailed("it is called so")
        if "tells" in effect.object:
            self._events.append(SealEvent(grant.sandbox, grant.thread, "file.write", "/switched", "no grant", 3))
            self._events.append(SealEvent(STRANGER, 1, "file.write", "/elsewhere", "no grant", 0))
            os.eventfd_write(self._event, 1)
        if "drops" in effect.object:
            self._drops.add(grant.sandbox)
        if "floods" in effect.object:
            self._events += [
                SealEvent(grant.sandbox, grant.thread, "file.write", f"/switched/{number}", "no grant", 0)
                for number in range(1000)
            ]
            os.eventfd_write(self._event, 1)
        self._tell(
            call="grant",
            sandbox=grant.sandbox,
            thread=grant.thread,
            operation=effect.operation.value,
            object=effect.object,
            second=effect.second,
            details=dict(effect.details),
            targets=[_target(target) for target in grant.targets],
            argv=[os.fsdecode(word) for word in grant.argv],
            environment=[os.fsdecode(word) for word in grant.environment],
            seconds=grant.expires - time.monotonic(),
        )

    def release(self, sandbox: str) -> None:
        # What the kernel did not tell one by one, and nobody is woken for.
        if sandbox in self._drops:
            self._events.append(SealEvent(sandbox, 0, "", "", "not told one by one", 7))
        self._tell(call="release", sandbox=sandbox)

    def events(self) -> int:
        return self._event

    def take_events(self) -> list[SealEvent]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        taken, self._events = self._events, []
        return taken

    def _tell(self, **what: object) -> None:
        with self._lock:
            self._file.write(json.dumps(what) + "\n")


def _target(target: Target) -> dict[str, object]:
    return {
        "object": _leads_to(target.object) if target.object >= 0 else None,
        "parent": _leads_to(target.parent) if target.parent >= 0 else None,
        "name": os.fsdecode(target.name),
    }


def _leads_to(descriptor: int) -> list[object]:
    return [os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_ino]


def _choose(_: Config) -> Seal:
    return TellingSeal(TOLD)


if __name__ == "__main__":
    TOLD = sys.argv.pop(1)
    sys.exit(main(_choose))
