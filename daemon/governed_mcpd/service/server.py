"""The control sockets: `control.sock` for people and launchers, `sandbox.sock` for launchers inside sandboxes.

A thread for each connection, bounded in number; a peer that sends garbage, half a message or nothing gets an error or
is dropped, and nobody else waits for it.
"""

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from governed.v1 import control_pb2 as pb
from governed_mcpd.control import framing
from governed_mcpd.kernel.cgroup import Cgroup
from governed_mcpd.subjects.peers import Peer, peer_of

log = logging.getLogger(__name__)
SANDBOX_SOCKET = "sandbox.sock"
REQUEST_SECONDS = 10.0
MAX_CONNECTIONS = 2048
MAX_PER_UID = 600  # on each socket: what runs in a sandbox cannot keep its user from the other
ACCEPT_AGAIN_SECONDS = 0.1
RESERVED = 64  # connections that only root can use
MAX_REQUEST = 16 * 1024 * 1024
_OUTBOX = 256 * 1024
_NEEDED = frozenset({pb.Notice.KIND_FROZEN, pb.Notice.KIND_ENDED})  # few, and not lost behind many refusals


class Connection:
    """One peer. Replies may come from the leader as well, which must not wait: see `push`."""

    def __init__(self, sock: socket.socket, peer: Peer, nested: bool) -> None:
        self.socket = sock
        self.peer = peer
        self.nested = nested
        self.unsent = 0
        self._outbox = bytearray()
        self._lock = threading.Lock()

    def receive(self, seconds: float | None) -> pb.ControlRequest | None:
        """The next request; None when the peer has closed. FramingError, TimeoutError, OSError."""
        if self.socket.gettimeout() != seconds:
            self.socket.settimeout(seconds)
        return framing.receive(self.socket, pb.ControlRequest, limit=MAX_REQUEST)

    def reply(self, message: pb.ControlReply) -> None:
        """Sends, and waits for the peer at most REQUEST_SECONDS. OSError."""
        with self._lock:
            self.socket.settimeout(REQUEST_SECONDS)
            if self._outbox:
                self.socket.sendall(self._outbox)
                self._outbox.clear()
            framing.send(self.socket, message)

    def error(self, code: str, message: str) -> None:
        self.reply(pb.ControlReply(error=pb.Error(code=code, message=message)))

    def close(self) -> None:
        """Gives back the descriptors."""
        self.socket.close()
        if self.peer.pidfd >= 0:
            os.close(self.peer.pidfd)

    def closed(self) -> bool:
        """Whether the peer has closed its end, or sent something where nothing is expected."""
        self.socket.settimeout(0)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def push(self, notice: pb.Notice) -> None:
        """Sends a notice without waiting; a launcher that does not read loses notices, and they are counted."""
        frame = framing.encode(pb.ControlReply(notice=notice))
        # Whoever reads a long reply slowly holds this lock for as long: the leader does not wait for that.
        if not self._lock.acquire(blocking=False):
            self.unsent += 1
            return
        try:
            self._push(frame, needed=notice.kind in _NEEDED)
        finally:
            self._lock.release()

    def _push(self, frame: bytes, needed: bool) -> None:
        if len(self._outbox) + len(frame) > _OUTBOX and not needed:
            self.unsent += 1
            return
        self._outbox += frame
        room = select.poll()
        room.register(self.socket, select.POLLOUT)
        if not room.poll(0):
            return  # with a timeout set, socket.send waits for room first, whatever its flags say
        try:
            sent = self.socket.send(self._outbox, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self._outbox.clear()
            return
        del self._outbox[:sent]


class Handler(Protocol):
    """Answers requests; runs in the connection's thread."""

    def handle(self, connection: Connection, request: pb.ControlRequest) -> None: ...


class Server:
    """Accepts on both sockets until closed."""

    def __init__(self, runtime_dir: str, group: int, sandboxes: Cgroup, handler: Handler) -> None:
        self._sandboxes = sandboxes
        self._handler = handler
        self._lock = threading.Lock()
        self._connections: dict[Connection, tuple[int, bool]] = {}
        self._stopping = False
        self.paths = (framing.socket_path(runtime_dir), os.path.join(runtime_dir, SANDBOX_SOCKET))
        self._control = _listen(self.paths[0], group, 0o660)
        # Any user may run a sandboxed launcher; who connects here has to stand in a sandbox.
        self._nested = _listen(self.paths[1], group, 0o666)

    def start(self) -> None:
        for listener, nested in ((self._control, False), (self._nested, True)):
            threading.Thread(target=self._accept, args=(listener, nested), name="accept", daemon=True).start()

    def refuse(self) -> None:
        """Accepts nobody any more; who is there already gets no further request answered."""
        self._stopping = True
        for listener in (self._control, self._nested):
            _shut(listener)  # wakes accept, which close does not
            listener.close()

    def close(self) -> None:
        """Closes what is open, and removes the sockets."""
        self.refuse()
        with self._lock:
            for connection in self._connections:
                _shut(connection.socket)
        for path in self.paths:
            if os.path.exists(path):
                os.unlink(path)

    def _accept(self, listener: socket.socket, nested: bool) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                # No descriptor is free, or the peer is gone already: neither may end the accepting.
                log.warning("a connection could not be taken: %s", error)
                time.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            try:
                self._take(sock, nested)
            except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
                log.warning("a peer cannot be served and is dropped: %s", error)
                sock.close()

    def _take(self, sock: socket.socket, nested: bool) -> None:
        connection = Connection(sock, peer_of(sock, self._sandboxes), nested)
        refusal = self._admit(connection)
        if refusal is not None:
            _quietly(lambda: connection.error(*refusal))
            connection.close()
            return
        try:
            threading.Thread(target=self._serve, args=(connection,), name="control", daemon=True).start()
        except RuntimeError:
            self._left(connection)
            connection.close()
            raise

    def _admit(self, connection: Connection) -> tuple[str, str] | None:
        """Counts it in; or says why not, as code and message."""
        peer, owner = connection.peer, (connection.peer.uid, connection.nested)
        if connection.nested and not peer.sandboxed:
            return "not-sandboxed", "only a process inside a sandbox may ask here for a child Subject"
        privileged = peer.uid == 0 and not peer.sandboxed
        with self._lock:
            if len(self._connections) >= MAX_CONNECTIONS - (0 if privileged else RESERVED):
                return "too-many-connections", f"{MAX_CONNECTIONS - RESERVED} connections are open: close some"
            if not privileged and sum(other == owner for other in self._connections.values()) >= MAX_PER_UID:
                return "too-many-connections", f"{MAX_PER_UID} connections of uid {peer.uid} are open: close some"
            self._connections[connection] = owner
        return None

    def _left(self, connection: Connection) -> None:
        with self._lock:
            self._connections.pop(connection, None)

    def _serve(self, connection: Connection) -> None:
        try:
            while (request := connection.receive(REQUEST_SECONDS)) is not None:
                if self._stopping:
                    connection.error("stopping", "the daemon is stopping: ask again when it runs")
                    return
                self._handler.handle(connection, request)
        except framing.FramingError as error:
            _quietly(partial(connection.error, "bad-message", str(error)))
        except TimeoutError:
            _quietly(lambda: connection.error("too-slow", f"no whole request came within {REQUEST_SECONDS:.0f} s"))
        except OSError as error:
            log.debug("peer %d went away: %s", connection.peer.pid, error)
        except Exception:
            log.exception("a request of peer %d failed", connection.peer.pid)
            _quietly(lambda: connection.error("internal", "the daemon failed at this request; its log says more"))
        finally:
            self._left(connection)
            connection.close()


def _listen(path: str, group: int, mode: int) -> socket.socket:
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    os.chown(path, 0, group)
    os.chmod(path, mode)
    listener.listen(128)
    return listener


def _shut(sock: socket.socket) -> None:
    _quietly(lambda: sock.shutdown(socket.SHUT_RDWR))


def _quietly(call: Callable[[], None]) -> None:
    """For a last word to a peer that may be gone."""
    try:
        call()
    except (OSError, framing.FramingError) as error:
        log.debug("a peer was gone before it could be told: %s", error)
