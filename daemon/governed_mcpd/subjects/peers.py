"""Who is at the other end of a control connection: SO_PEERCRED and SO_PEERGROUPS of unix(7), socket(7)."""

import errno
import socket
import struct
from dataclasses import dataclass, replace

from governed_mcpd.kernel import procfs
from governed_mcpd.kernel.cgroup import Cgroup
from governed_mcpd.kernel.procfs import Credentials

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
    pidfd: int  # of who connected; -1 where the kernel cannot tell (before Linux 6.5). The connection closes it

    @property
    def credentials(self) -> Credentials:
        """What its file access is checked against, as the connection says; never its process id's, which may change."""
        return Credentials(self.uid, self.gid, tuple(sorted(self.groups)))

    def lives(self) -> bool:
        """Whether `pid` still means who connected. Ask after looking at the process, before believing what was seen: a
        process that hands its connection to another and ends leaves its pid to somebody else's."""
        if self.pidfd < 0:
            return True
        return b"Pid:\t%d\n" % self.pid in procfs.read(f"self/fdinfo/{self.pidfd}")

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
    pidfd = _pidfd_of(connection)
    try:
        path = procfs.cgroup(pid)
    except (procfs.Gone, OSError):
        return Peer(pid, uid, gid, groups, True, pidfd)
    peer = Peer(pid, uid, gid, groups, pid <= 0 or sandboxes.holds(path), pidfd)
    return peer if peer.lives() else replace(peer, sandboxed=True)


def _pidfd_of(connection: socket.socket) -> int:
    """SO_PEERPIDFD; -1 where the kernel has none. A peer that is gone already has none either: OSError."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, _PIDFD.size)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return -1
        raise
    (pidfd,) = _PIDFD.unpack(raw)
    return int(pidfd)
