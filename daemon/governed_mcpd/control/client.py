"""The client's side of the control socket, for CLI and launcher. Light: no YAML, no pydantic, no terminal library."""

import errno
import os
import socket
from collections.abc import Iterator
from types import TracebackType

from governed.v1 import control_pb2 as pb
from governed_mcpd.control.framing import FramingError, receive, send, socket_path

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0  # more than a gate's deadline (30 s): explain waits for the gate


class ControlError(Exception):
    """The daemon's answer is an Error. `code` is stable and for programs; the text is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class DaemonUnreachable(ControlError):
    """No daemon answers there, it went away while it was asked, or it may not be asked (`code` is then "forbidden").

    The text says what to do.
    """

    def __init__(self, message: str, code: str = "daemon-unreachable") -> None:
        super().__init__(code, message)


class ControlClient:
    """One connection. Ask and answer take turns; a run or a followed journal then carries further replies."""

    def __init__(self, sock: socket.socket, path: str, timeout: float | None = ANSWER_SECONDS) -> None:
        self.sock = sock
        self.path = path
        self._timeout = timeout

    def ask(self, request: pb.ControlRequest, want: str = "") -> pb.ControlReply:
        """The daemon's reply to `request`; of the kind `want` (a field of ControlReply) if that is given.

        ControlError for an Error reply, DaemonUnreachable when no reply comes in time.
        """
        self.tell(request)
        reply = self._receive(self._timeout)
        if reply is None:
            raise DaemonUnreachable(
                f"the daemon at {self.path} closed the connection without an answer: see its log for the reason"
            )
        return _checked(reply, want)

    def tell(self, request: pb.ControlRequest) -> None:
        """Sends `request`; the answers are read with `replies`."""
        self.sock.settimeout(self._timeout)
        try:
            send(self.sock, request)
        except TimeoutError:
            raise DaemonUnreachable(
                f"the daemon at {self.path} took no request for {self._timeout:g} s: is it busy or stopped?"
            ) from None
        except OSError as error:
            if self._has_answered():
                return  # it said why it listens no longer, and closed: that is its answer
            raise DaemonUnreachable(
                f"the connection to the daemon at {self.path} broke while asking: {error.strerror}"
            ) from None

    def _has_answered(self) -> bool:
        """Whether something that was not read yet has come."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def replies(self, want: str = "", timeout: float | None = None) -> Iterator[pb.ControlReply]:
        """What the daemon sends until it closes the stream. `timeout` (seconds) bounds the silence before each."""
        while (reply := self._receive(timeout)) is not None:
            yield _checked(reply, want)

    def fileno(self) -> int:
        """For poll(2): readable when a reply, or the end of the stream, is there."""
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, timeout: float | None) -> pb.ControlReply | None:
        self.sock.settimeout(timeout)
        try:
            return receive(self.sock, pb.ControlReply)
        except TimeoutError:
            raise DaemonUnreachable(f"the daemon at {self.path} gave no answer within {timeout:g} s") from None
        except FramingError as error:
            raise ControlError(
                "bad-reply", f"{self.path} answered with something that is not the control protocol: {error}"
            ) from None
        except OSError as error:
            raise DaemonUnreachable(f"the connection to the daemon at {self.path} broke: {error.strerror}") from None


def connect(runtime_dir: str, timeout: float | None = ANSWER_SECONDS) -> ControlClient:
    """A connection to the daemon that uses `runtime_dir`; `timeout` (seconds) bounds the wait for each answer."""
    path = socket_path(runtime_dir)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.settimeout(CONNECT_SECONDS)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        code = "forbidden" if error.errno in (errno.EACCES, errno.EPERM) else "daemon-unreachable"
        raise DaemonUnreachable(_why_unreachable(path, error), code) from None
    return ControlClient(sock, path, timeout)


def _checked(reply: pb.ControlReply, want: str) -> pb.ControlReply:
    kind = reply.WhichOneof("reply")
    if kind == "error":
        raise ControlError(reply.error.code or "unspecified", reply.error.message or "the daemon gave no reason")
    if kind is None or (want and kind != want):
        raise ControlError(
            "bad-reply",
            f"the daemon answered with {kind or 'a kind of reply that this program does not know'}, expected "
            f"{want or 'one that it knows'}: are program and daemon of the same version?",
        )
    return reply


def _why_unreachable(path: str, error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"{path}: nothing took the connection within {CONNECT_SECONDS:g} s: is governed-mcpd stopped or stuck?"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return (
            f"{path} does not exist: is governed-mcpd running (systemctl status governed-mcpd), "
            "and is this its runtime directory (--runtime-dir, GOVERNED_RUNTIME_DIR)?"
        )
    if error.errno == errno.ECONNREFUSED:
        return f"{path} is there but nobody listens: governed-mcpd has ended; start it (systemctl start governed-mcpd)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{path}: {os.strerror(error.errno)}: is your user in group governed, or governed-admin "
            "(usermod -aG governed USER, then log in again)?"
        )
    if error.errno is None:  # the path is longer than sun_path (108 bytes)
        return f"{path}: {error}: choose a shorter runtime directory"
    return f"{path}: {error.strerror}"
