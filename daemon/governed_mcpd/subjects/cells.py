"""Where sandboxes live: a cgroup for each, beneath one that holds all of them.

Under systemd they are scopes of their own in a slice, which outlive the daemon; elsewhere, cgroups beneath its own.
"""

import os
import time
from typing import Protocol

from blake3 import blake3

from governed_mcpd.kernel import procfs
from governed_mcpd.kernel.cgroup import Cgroup, Hierarchy
from governed_mcpd.subjects import units

SLICE = "governed.slice"
_PREFIX, _SUFFIX = "governed-", ".scope"
_SCOPE_SECONDS = 5.0


class Cells(Protocol):
    """Makes and finds the cgroups of sandboxes. Whoever stands beneath `all` is sandboxed."""

    all: Cgroup

    def of(self, identity: str) -> Cgroup:
        """The cgroup of a sandbox, which need not be there yet."""

    def prepare(self, identity: str, processes: int) -> bool:
        """What can be done before there is a process. False where the number of processes cannot be bounded. OSError,
        NoCgroup."""

    def adopt(self, identity: str, pid: int, processes: int) -> None:
        """Moves a process there. OSError."""

    def there(self) -> dict[str, Cgroup]:
        """Those that exist, by sandbox."""

    def close(self) -> None:
        """Ends everything that is left in any of them."""


class Beneath:
    """Cgroups beneath the daemon's own, in one of this instance, so that two do not end each other's sandboxes."""

    def __init__(self, hierarchy: Hierarchy, runtime_dir: str) -> None:
        shown = "".join(c if c.isalnum() else "-" for c in runtime_dir.strip("/"))[-48:]
        name = f"governed-{shown}-{blake3(os.fsencode(os.path.realpath(runtime_dir))).hexdigest(8)}"
        self.all = Cgroup(hierarchy, hierarchy.own).child(name)
        self.all.create()

    def of(self, identity: str) -> Cgroup:
        return self.all.child(identity)

    def prepare(self, identity: str, processes: int) -> bool:
        cgroup = self.of(identity)
        cgroup.create()
        return cgroup.limit_processes(processes)

    def adopt(self, identity: str, pid: int, processes: int) -> None:
        self.of(identity).adopt(pid)

    def there(self) -> dict[str, Cgroup]:
        return {cgroup.name: cgroup for cgroup in self.all.children()}

    def close(self) -> None:
        self.all.end()


class Scopes:
    """Transient scopes of systemd: restarting the daemon's unit, also with every process of it killed, leaves them."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.all = Cgroup(hierarchy, f"/{SLICE}")

    def of(self, identity: str) -> Cgroup:
        return self.all.child(f"{_PREFIX}{identity}{_SUFFIX}")

    def prepare(self, identity: str, processes: int) -> bool:
        return True  # a scope begins with its first process, and its TasksMax with it

    def adopt(self, identity: str, pid: int, processes: int) -> None:
        cgroup = self.of(identity)
        try:
            units.start_scope(cgroup.name, SLICE, pid, processes)
        except units.NoUnit as failure:
            raise OSError(5, str(failure)) from failure
        deadline = time.monotonic() + _SCOPE_SECONDS
        while not cgroup.holds(procfs.cgroup(pid)):  # systemd answers when the job is queued
            if time.monotonic() > deadline:
                raise OSError(110, f"systemd has not made {cgroup.name} within {_SCOPE_SECONDS:.0f} s")
            time.sleep(0.001)

    def there(self) -> dict[str, Cgroup]:
        return {
            cgroup.name.removeprefix(_PREFIX).removesuffix(_SUFFIX): cgroup
            for cgroup in self.all.children()
            if cgroup.name.startswith(_PREFIX) and cgroup.name.endswith(_SUFFIX)
        }

    def close(self) -> None:
        for cgroup in self.there().values():
            cgroup.end()
