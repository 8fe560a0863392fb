"""Whether the process that listens at the server's address is still the one that was measured.

A connection over which nothing is sent stays open as long as its server lives, and ends with it: no answer of the
server says that it was restarted, with the same model or another one, but this does. (A proxy in between may end it
too; then the model is measured again without need.)
"""

import select
import socket
from urllib.parse import urlsplit


class Witness:
    """One idle connection. Raises OSError when it cannot be opened."""

    def __init__(self, url: str, seconds: float) -> None:
        self._socket: socket.socket | None = None
        self._socket = _connected(url, seconds)

    @property
    def same(self) -> bool:
        """False when the connection ended, or when something came that nobody asked for."""
        if self._socket is None:
            return False
        # One poll object serves one thread at a time.
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLRDHUP)
        return not poll.poll(0)

    def __del__(self) -> None:
        # Not earlier: another thread may look at it while this one is replaced.
        if self._socket is not None:
            self._socket.close()


def _connected(url: str, seconds: float) -> socket.socket:
    if url.startswith("unix:"):
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plain.settimeout(seconds)
            plain.connect(url.removeprefix("unix:"))
        except OSError:
            plain.close()
            raise
        return plain
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.create_connection((parts.hostname or "", port), seconds)
    # A machine that vanished says nothing: ask it, a minute apart (tcp(7)).
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return found
