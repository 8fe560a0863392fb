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
        if url.startswith("unix:"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._socket.settimeout(seconds)
                self._socket.connect(url.removeprefix("unix:"))
            except OSError:
                self._socket.close()
                raise
        else:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            self._socket = socket.create_connection((parts.hostname or "", port), seconds)
            # A machine that vanished says nothing: ask it, a minute apart (tcp(7)).
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)

    @property
    def same(self) -> bool:
        """False when the connection ended, or when something came that nobody asked for."""
        # One poll object serves one thread at a time.
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLRDHUP)
        return not poll.poll(0)

    def __del__(self) -> None:
        # Not earlier: another thread may look at it while this one is replaced.
        self._socket.close()
