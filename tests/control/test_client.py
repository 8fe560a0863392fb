"""The client says who does not answer, why, and what to do; answers of the wrong kind are errors."""

import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from governed.v1 import control_pb2 as pb
from governed_mcpd.control import client as control
from governed_mcpd.control.client import ControlError, DaemonUnreachable, connect
from governed_mcpd.control.framing import CONTROL_SOCKET, receive, send

STATUS = pb.ControlRequest(status=pb.StatusRequest())
Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves one connection with the given function, in the directory that it returns."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / CONTROL_SOCKET))
    listener.listen()
    threads: list[threading.Thread] = []

    def start(function: Callable[[socket.socket], None]) -> str:
        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                function(connection)

        threads.append(threading.Thread(target=once))
        threads[-1].start()
        return str(tmp_path)

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def answering(*replies: pb.ControlReply) -> Callable[[socket.socket], None]:
    def function(connection: socket.socket) -> None:
        assert receive(connection, pb.ControlRequest) == STATUS
        for reply in replies:
            send(connection, reply)

    return function


def test_ask_returns_the_reply(serve: Serve) -> None:
    wanted = pb.ControlReply(status=pb.Status(version="1"))
    with connect(serve(answering(wanted))) as client:
        assert client.ask(STATUS, "status") == wanted


def test_replies_come_one_by_one_until_the_end(serve: Serve) -> None:
    notices = [pb.ControlReply(notice=pb.Notice(rule=f"r{n}")) for n in range(3)]
    with connect(serve(answering(*notices))) as client:
        client.tell(STATUS)
        assert list(client.replies("notice", timeout=5)) == notices


def test_an_error_reply_is_a_control_error(serve: Serve) -> None:
    reply = pb.ControlReply(error=pb.Error(code="forbidden", message="you may not"))
    with connect(serve(answering(reply))) as client, pytest.raises(ControlError, match="you may not") as caught:
        client.ask(STATUS)
    assert caught.value.code == "forbidden"


def test_a_reply_of_another_kind_is_refused(serve: Serve) -> None:
    reply = pb.ControlReply(done=pb.Done(message="yes"))
    with connect(serve(answering(reply))) as client, pytest.raises(ControlError, match="done, expected status"):
        client.ask(STATUS, "status")


def test_a_reply_that_this_version_does_not_know_is_refused(serve: Serve) -> None:
    def unknown(connection: socket.socket) -> None:
        receive(connection, pb.ControlRequest)
        body = b"\xfa\x07\x00"  # field 127, length-delimited, empty
        connection.sendall(struct.pack(">I", len(body)) + body)

    with connect(serve(unknown)) as client, pytest.raises(ControlError, match="same version"):
        client.ask(STATUS)


def test_garbage_from_the_socket_is_named(serve: Serve) -> None:
    with (
        connect(serve(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n"))) as client,
        pytest.raises(ControlError, match="not the control protocol") as caught,
    ):
        client.ask(STATUS)
    assert caught.value.code == "bad-reply"


def test_what_was_said_before_the_question_could_be_asked_is_heard(serve: Serve) -> None:
    """A daemon that has too many connections says so at once, and closes."""
    reply = pb.ControlReply(error=pb.Error(code="busy", message="too many connections"))
    gone = threading.Event()

    def busy(connection: socket.socket) -> None:
        send(connection, reply)
        connection.close()
        gone.set()

    with connect(serve(busy)) as client:
        assert gone.wait(5)
        with pytest.raises(ControlError, match="too many connections") as caught:
            client.ask(STATUS)
    assert caught.value.code == "busy"


def test_a_daemon_that_closes_without_an_answer(serve: Serve) -> None:
    with connect(serve(answering())) as client, pytest.raises(DaemonUnreachable, match="without an answer"):
        client.ask(STATUS)


def test_a_daemon_that_says_nothing_is_not_waited_for(serve: Serve) -> None:
    done = threading.Event()

    def silent(connection: socket.socket) -> None:
        receive(connection, pb.ControlRequest)
        done.wait(5)

    with connect(serve(silent), timeout=0.2) as client, pytest.raises(DaemonUnreachable, match=r"within 0\.2 s"):
        client.ask(STATUS)
    done.set()


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="is governed-mcpd running"):
        connect(str(tmp_path))


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / CONTROL_SOCKET))
    with pytest.raises(DaemonUnreachable, match="has ended"):
        connect(str(tmp_path))


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="shorter runtime directory"):
        connect(str(tmp_path / ("x" * 120)))


def test_no_permission_names_the_group(tmp_path: Path) -> None:
    """As an ordinary user in a child, because root may connect to anything."""
    if os.geteuid() != 0:
        pytest.fail("run the tests as root: sudo make test")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = "/tmp/governed-test-" + os.urandom(6).hex()  # pytest's own directory is closed to others
    os.mkdir(path)
    os.chmod(path, 0o755)
    try:
        with listener:
            listener.bind(f"{path}/{CONTROL_SOCKET}")
            os.chmod(f"{path}/{CONTROL_SOCKET}", stat.S_IRUSR | stat.S_IWUSR)
            listener.listen()
            assert _as_nobody(path) == b"group governed"
            os.chmod(f"{path}/{CONTROL_SOCKET}", 0o666)
            assert _as_nobody(path) == b"connected"
    finally:
        os.unlink(f"{path}/{CONTROL_SOCKET}")
        os.rmdir(path)


def _as_nobody(path: str) -> bytes:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            try:
                control.connect(path).close()
                os.write(write, b"connected")
            except DaemonUnreachable as error:
                expected = "group governed" in str(error) and error.code == "forbidden"
                os.write(write, b"group governed" if expected else str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as answer:
        return answer.read()
