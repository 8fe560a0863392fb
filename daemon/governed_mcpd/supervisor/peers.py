"""Who is at the other end of a control connection: SO_PEERCRED and SO_PEERGROUPS of unix(7), socket(7)."""

import errno
import os
import socket
import struct
from dataclasses import dataclass

from governed_mcpd.kernel import procfs
from governed_mcpd.kernel.cgroup import Cgroup

SO_PEERGROUPS, SO_PEERPIDFD = 59, 77  # asm-generic/socket.h; the second since Linux 6.5
_UCRED = struct.Struct("iII")
_PIDFD = struct.Struct("i")
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
        sandboxed = pid <= 0 or sandboxes.holds(procfs.cgroup(pid)) or not _lives(connection, pid)
    except (procfs.Gone, OSError):
        sandboxed = True
    return Peer(pid, uid, gid, groups, sandboxed)


def _lives(connection: socket.socket, pid: int) -> bool:
    """Whether who connected still has this pid, after its cgroup was read.

    A process that connects, hands the connection to another one and ends leaves its pid to somebody who may stand
    outside. Kernels before 6.5 cannot tell.
    """
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, _PIDFD.size)
    except OSError as error:
        return error.errno == errno.ENOPROTOOPT
    (pidfd,) = _PIDFD.unpack(raw)
    try:
        info = procfs.read(f"self/fdinfo/{pidfd}")
    finally:
        os.close(pidfd)
    return b"Pid:\t%d\n" % pid in info
