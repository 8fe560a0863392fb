"""Who is at the other end of a control connection: SO_PEERCRED and SO_PEERGROUPS of unix(7), socket(7)."""

import socket
import struct
from dataclasses import dataclass

from governed_mcpd.kernel import procfs
from governed_mcpd.kernel.cgroup import Cgroup

SO_PEERGROUPS = 59  # asm-generic/socket.h
_UCRED = struct.Struct("iII")
_MOST_GROUPS = 256


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected. `sandboxed`: it stands in the cgroup of a sandbox."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    sandboxed: bool

    def may_run(self, group: int, admin_group: int) -> bool:
        """Whether it may run sandboxes and see its own."""
        return self.may_govern(admin_group) or (not self.sandboxed and (group in self.groups or group == self.gid))

    def may_govern(self, admin_group: int) -> bool:
        """Whether it may apply policy, approve, kill, and read all."""
        if self.sandboxed:
            return False
        return self.uid == 0 or admin_group in self.groups or admin_group == self.gid


def peer_of(connection: socket.socket, sandboxes: Cgroup) -> Peer:
    """Reads the peer's credentials. A peer that cannot be looked at counts as sandboxed: it gets nothing."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * _MOST_GROUPS)
    groups = frozenset(struct.unpack(f"{len(raw) // 4}I", raw))
    try:
        sandboxed = pid <= 0 or sandboxes.holds(procfs.cgroup(pid))
    except (procfs.Gone, OSError):
        sandboxed = True
    return Peer(pid, uid, gid, groups, sandboxed)
