"""The processes of governed-mcpd itself, which no sandbox signals or steers: the daemon, its gate and its resolver."""

import os
import socket
import struct

from governed_mcpd.kernel import procfs
from governed_mcpd.nouns.action import SideEffect

_UCRED = struct.Struct("iII")


class OwnProcesses:
    """`sockets` are where gate and resolver listen: whoever does there is one of them. They may be started again at any
    time, so it is asked for each time; signals that leave a sandbox are rare."""

    def __init__(self, *sockets: str) -> None:
        self._listeners = dict.fromkeys(sockets, 0)

    def reached(self, effect: SideEffect) -> bool:
        """Whether the object of a signal is one of them: the process, one of its threads, or its process group."""
        own = self._pids()
        try:
            if procfs.status(int(effect.object.removeprefix("process:"))).tgid in own:
                return True
        except (ValueError, procfs.Gone):
            pass  # no process of ours: those are there
        group = effect.details.get("group", "")
        return bool(group) and any(group == _group(pid) for pid in own)

    def _pids(self) -> tuple[int, ...]:
        """One that does not listen just now is the one that did, until another does."""
        self._listeners = {path: _listener(path) or pid for path, pid in self._listeners.items()}
        return (os.getpid(), *filter(None, self._listeners.values()))


def _listener(path: str) -> int:
    """The process that listens on a unix socket (SO_PEERCRED of a connection, unix(7)); 0 when none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)  # the leader asks: it does not wait where too many have connected
        try:
            connection.connect(path)
            pid, _, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        except OSError:
            return 0
    return int(pid)


def _group(pid: int) -> str:
    try:
        return str(procfs.stat(pid).group)
    except procfs.Gone:
        return ""
