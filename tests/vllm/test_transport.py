"""HTTP to a model server, against real small servers: one deadline over all, connections kept, answers bounded."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.gate.probe.vllm import transport
from governed_mcpd.gate.probe.vllm.transport import Transport, TransportError
from governed_mcpd.gate.remote import authority
from tests.vllm.web import Reply, Web


def get(transport: Transport, seconds: float = 5.0) -> bytes:
    return transport.request("GET", "/x", None, time.monotonic() + seconds).body


def test_connections_are_kept_and_what_is_sent_arrives() -> None:
    with Web(lambda asked: Reply(body=asked.body or b"none")) as web:
        transport = Transport(web.url, 4)
        for number in range(20):
            body = f"{number}".encode() * 1000
            answer = transport.request("POST", "/v1/x", body, time.monotonic() + 5)
            assert (answer.status, answer.body) == (200, body)
        assert get(transport) == b"none"
        assert web.connections == 1
        assert {asked.path for asked in web.asked} == {"/v1/x", "/x"}


def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    with Web(lambda _: Reply(body=b"yes"), str(tmp_path / "s")) as web:
        assert get(Transport(web.url, 1)) == b"yes"


@pytest.mark.parametrize("reply", [Reply(wait=30.0), Reply(pause=0.05), Reply(body=b"x" * 100_000, pause=0.001)])
def test_slow_answers_end_at_the_deadline(reply: Reply) -> None:
    """Also one that sends a byte now and then, in its head or in its body: no single read of it is late."""
    answers = [reply]
    with Web(lambda _: answers[0]) as web:
        transport = Transport(web.url, 1)
        begun = time.monotonic()
        with pytest.raises(TransportError, match="no answer in time"):
            get(transport, 0.5)
        assert 0.4 < time.monotonic() - begun < 1.5
        answers[0] = Reply(body=b"quick")
        assert get(transport) == b"quick"


def test_a_server_that_takes_no_more_bytes_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport = Transport(f"http://127.0.0.1:{server.getsockname()[1]}", 1)
        begun = time.monotonic()
        with pytest.raises(TransportError, match="no answer in time"):
            transport.request("POST", "/x", b"x" * (64 << 20), begun + 0.5)
        assert time.monotonic() - begun < 1.5


def test_past_the_bound_requests_wait_within_their_deadline() -> None:
    go = threading.Event()

    def answer(_: object) -> Reply:
        go.wait(10)
        return Reply(body=b"done")

    with Web(answer) as web, ThreadPoolExecutor(8) as pool:
        transport = Transport(web.url, 2)
        held = [pool.submit(get, transport, 10) for _ in range(2)]
        while len(web.asked) < 2:
            time.sleep(0.01)
        with pytest.raises(TransportError, match="busy"):
            get(transport, 0.3)
        waiting = [pool.submit(get, transport, 10) for _ in range(4)]
        go.set()
        assert [one.result(10) for one in (*held, *waiting)] == [b"done"] * 6
        assert web.connections <= 3


Serving = AbstractContextManager[tuple[str, Callable[[], int]]]


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, Callable[[], int]]]:
    """Has each connection served by a thread of its own: the URL, and how many connections there were."""
    accepted = [0]
    server = socket.create_server(("127.0.0.1", 0))

    def attend(connection: socket.socket) -> None:
        with suppress(ConnectionError), connection:
            serve(connection)

    def run() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            accepted[0] += 1
            threading.Thread(target=attend, args=(connection,), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", lambda: accepted[0]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def saying(*pieces: bytes, tls: ssl.SSLContext | None = None, go: threading.Semaphore | None = None) -> Serving:
    """A server that answers the first request of each connection with the first piece, and says each of the others
    after it; with `go`, when that allows it."""

    def serve(accepted: socket.socket) -> None:
        with accepted if tls is None else tls.wrap_socket(accepted, True) as connection:
            connection.recv(65536)
            for number, piece in enumerate(pieces):
                if number and go is not None:
                    assert go.acquire(timeout=5)
                connection.sendall(piece)
            connection.recv(65536)

    return serving(serve)


RIGHT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
WRONG = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"


@pytest.mark.parametrize("pieces", [(RIGHT + WRONG,), (RIGHT + b"x",), (RIGHT[:-2], RIGHT[-2:] + WRONG)])
def test_what_comes_with_an_answer_answers_nothing(pieces: tuple[bytes, ...]) -> None:
    """A second answer, in the same breath, is not the next question's."""
    with saying(*pieces) as (url, accepted):
        transport = Transport(url, 1)
        for number in range(3):
            assert get(transport) == b"right"
            assert accepted() == number + 1


def test_what_comes_before_the_next_question_does_not_answer_it() -> None:
    go = threading.Semaphore(0)
    with saying(RIGHT, WRONG, go=go) as (url, accepted):
        transport = Transport(url, 1)
        for number in range(3):
            assert get(transport) == b"right"
            assert accepted() == number + 1
            (kept,) = transport._kept
            go.release()
            deadline = time.monotonic() + 5
            while kept.silent():
                assert time.monotonic() < deadline, "nothing came"


@pytest.mark.parametrize(
    "answer", [RIGHT.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), RIGHT.replace(b"HTTP/1.1", b"HTTP/1.0")]
)
def test_a_server_that_keeps_nothing_open_is_asked_anew(answer: bytes) -> None:
    with saying(answer) as (url, accepted):
        transport = Transport(url, 1)
        assert [get(transport) for _ in range(3)] == [b"right"] * 3
        assert accepted() == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nright",  # as long as the connection lasts, or cut
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nright",
        b"HTTP/2 200 OK\r\nContent-Length: 5\r\n\r\nright",
        b"HTTP/1.1 0200 OK\r\nContent-Length: 5\r\n\r\nright",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + RIGHT,
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_none(answer: bytes) -> None:
    with saying(answer) as (url, _), pytest.raises(TransportError, match="broke off"):
        get(Transport(url, 1))


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_after_an_answer_without_a_body_comes_another_connection(status: bytes) -> None:
    """Its body, if it has one all the same, is not read."""
    with saying(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n", RIGHT) as (url, accepted):
        transport = Transport(url, 1)
        for number in range(2):
            assert get(transport) == b""
            assert accepted() == number + 1


def test_a_head_without_its_body_is_tried_again_on_a_kept_connection() -> None:
    with closing(2, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n") as (url, accepted):
        transport = Transport(url, 1)
        assert [get(transport) for _ in range(4)] == [b"ok"] * 4
        assert accepted() == 2


def test_reasons_are_one_short_line() -> None:
    with saying(b"HTTP/9 \xff\xfe\0" + b"y" * 60_000 + b"\r\n\r\n") as (url, _):
        with pytest.raises(TransportError) as said:
            get(Transport(url, 1))
        assert str(said.value).isprintable()
        assert len(str(said.value)) < 400


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_that_cannot_be_is_an_error(host: str) -> None:
    with pytest.raises(TransportError, match="cannot reach"):
        get(Transport(f"http://{host}:1", 1))


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """For a server on loopback that the machine's authorities have certified."""
    made = authority.create(tmp_path / "ca")
    issued = made.issue_gate("gate", ["127.0.0.1"]).directory
    monkeypatch.setenv("SSL_CERT_FILE", str(issued / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued / "own.pem", issued / "own.key")
    return context


def filling(size: int) -> bytes:
    """An answer of exactly so many bytes."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    length = size - len(head % size)
    return head % length + b"r" * length


@pytest.mark.parametrize("size", [len(RIGHT), 8192])
def test_bytes_that_tls_still_holds_answer_nothing(certified: ssl.SSLContext, size: int) -> None:
    """Both in one record, of which the first fills what is read at once: poll(2) does not see the second."""
    right = RIGHT if size == len(RIGHT) else filling(size)
    assert len(right) == size
    with saying(right + WRONG, tls=certified) as (url, accepted):
        transport = Transport(url.replace("http:", "https:"), 1)
        for number in range(3):
            assert b"wrong" not in get(transport)
            assert accepted() == number + 1


def test_the_deadline_is_over_all_addresses_and_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two addresses that drop what comes, and one that takes the connection and says nothing."""
    with socket.socket() as full, socket.create_server(("127.0.0.1", 0)) as silent:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", at.getsockname()) for at in (full, full, silent)]
        for found in (addresses, addresses[2:]):
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: found)
            begun = time.monotonic()
            with pytest.raises(TransportError, match="no answer in time"):
                get(Transport("https://model.example", 1), 0.5)
            assert time.monotonic() - begun < 1.5
        for one in waiting:
            one.close()


@pytest.mark.parametrize(
    "early", [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 3]
)
def test_what_is_said_before_the_answer_is_not_the_answer(early: bytes) -> None:
    """Taken for it, the answer itself would be the next question's."""
    for pieces in ((early + RIGHT,), (early, RIGHT), (early[:20], early[20:], RIGHT)):
        with saying(*pieces) as (url, _):
            assert get(Transport(url, 1)) == b"right"


PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 500 \r\n", b"HTTP/1.1 103\r\n\r\n", b"HTTP/1.1 204 No Content\r\n", b"\r\n",
        b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Connection: close\r\n", b"X: y\r\n", b"right", RIGHT,
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.binary(max_size=20), max_size=8).map(b"".join))
def test_whatever_comes_is_one_answer_or_none(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        connection = transport._Connection(ours)
        try:
            status, body, keep = connection.exchange(b"asked", time.monotonic() + 5)
        except (transport._NoAnswer, transport._TooLong):
            return
        assert 200 <= status < 600
        if keep:  # nothing of what came is left for the next one
            assert data.endswith(b"\r\n\r\n" + body)
            assert b"close" not in data.rpartition(b"HTTP/")[2].partition(b"\r\n\r\n")[0]


def closing(answers: int, last: bytes = b"") -> Serving:
    """A server that closes each connection after so many answers and `last`."""

    def serve(connection: socket.socket) -> None:
        for _ in range(answers):
            if not connection.recv(65536):
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        # The next request is read, and gets no answer: the worst moment to close.
        if connection.recv(65536):
            connection.sendall(last)

    return serving(serve)


def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    with closing(1) as (url, accepted):
        transport = Transport(url, 1)
        assert [get(transport) for _ in range(5)] == [b"ok"] * 5
        assert accepted() == 5


def test_a_new_connection_that_breaks_off_is_an_error_and_tried_once() -> None:
    with closing(0) as (url, accepted):
        with pytest.raises(TransportError, match="broke off"):
            get(Transport(url, 1))
        assert accepted() == 1


@pytest.mark.parametrize("cut", [0, 10, 60, 75])
def test_half_an_answer_is_none(cut: int) -> None:
    with Web(lambda _: Reply(body=b"x" * 50, cut=cut)) as web, pytest.raises(TransportError, match="broke off"):
        get(Transport(web.url, 1))


def test_an_answer_past_the_bound_is_none() -> None:
    with Web(lambda _: Reply(body=b"x" * (5 << 20))) as web, pytest.raises(TransportError, match="more than"):
        get(Transport(web.url, 1))


def test_nobody_there_says_where() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(TransportError, match=f"cannot reach {url}"):
        get(Transport(url, 1))
    with pytest.raises(TransportError, match=r"cannot reach /nonexistent/vllm\.sock"):
        get(Transport("unix:/nonexistent/vllm.sock", 1))


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent's variables do not reach the gate; an operator's proxy is still no place for what is judged."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Web(lambda _: Reply(body=b"direct")) as web:
        assert get(Transport(web.url, 1)) == b"direct"
