"""The connection to governed-resolver: made again whenever it is lost. Nothing of a sandbox reaches it: the socket lies
in a directory that only root and the resolver's user enter, and who listens there has to be that user."""

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable

from governed.v1 import resolver_pb2 as pb
from governed_mcpd.control.framing import FramingError, encode, receive

log = logging.getLogger(__name__)
SOCKET = "resolver.sock"
RETRY_SECONDS = 0.25
MOST_MESSAGE = 64 * 1024
_UCRED = struct.Struct("iII")
Post = Callable[[Callable[[], None]], None]


class Link:
    """`reason` says why nobody answers, and is empty while somebody does. `heard`, `connected` and `lost` run on the
    leader, which also sends."""

    heard: Callable[[pb.FromResolver], None]
    connected: Callable[[], None]
    lost: Callable[[], None]

    def __init__(self, runtime_dir: str, uid: int | None, post: Post) -> None:
        """`uid`: of governed-resolver; None: there is no such user."""
        self._path = os.path.join(runtime_dir, SOCKET)
        self._uid = uid
        self._post = post
        self._socket: socket.socket | None = None
        self._stopped = threading.Event()
        self.reason = "governed-resolver was not reached yet"
        self.upstreams: tuple[str, ...] = ()

    def start(self) -> None:
        """Connects, from a thread of its own."""
        threading.Thread(target=self._run, name="resolver", daemon=True).start()

    def stop(self) -> None:
        """Nothing is said any more."""
        self._stopped.set()
        self._cut()

    def send(self, message: pb.ToResolver) -> None:
        """Never waits: a resolver that does not read is cut off, and connected to again."""
        sock = self._socket
        if sock is None:
            return
        frame = encode(message)
        try:
            whole = sock.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(frame)
        except OSError:
            whole = False
        if not whole:
            self._cut()

    def _cut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is gone already
                self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                    self._connect(sock)
                    self._listen(sock)
                self._say("governed-resolver has ended the connection")
            except (OSError, FramingError) as error:
                self._say(f"governed-resolver does not answer: {error}")
            self._stopped.wait(RETRY_SECONDS)

    def _say(self, reason: str) -> None:
        if reason != self.reason:
            log.warning("names of sandboxes are not looked up: %s", reason)
        self.reason = reason

    def _connect(self, sock: socket.socket) -> None:
        sock.connect(self._path)
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid != self._uid:
            expected = (
                "no user that the configuration names (resolver_user)" if self._uid is None else f"uid {self._uid}"
            )
            raise FramingError(f"uid {uid} listens at {self._path}: expected {expected}")

    def _listen(self, sock: socket.socket) -> None:
        first = receive(sock, pb.FromResolver, limit=MOST_MESSAGE)
        if first is None or first.WhichOneof("what") != "serving":
            raise FramingError("its first message does not say whom it asks")
        self.upstreams = tuple(first.serving.upstreams)
        self._socket, self.reason = sock, ""
        log.info("governed-resolver answers, and asks %s", " ".join(self.upstreams) or first.serving.reason)
        try:
            self._post(self.connected)
            while (message := receive(sock, pb.FromResolver, limit=MOST_MESSAGE)) is not None:
                self._post(lambda message=message: self.heard(message))  # type: ignore[misc]
        finally:
            self._socket = None
            self._say("governed-resolver has ended the connection")
            self._post(self.lost)
