"""Framing: what is sent arrives whole, and nothing else is taken for a message."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed.v1 import control_pb2 as pb
from governed_mcpd.control.framing import MAX_MESSAGE, FramingError, encode, receive, send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    left.settimeout(5)
    right.settimeout(5)
    with left, right:
        yield left, right


def sent_raw(data: bytes, limit: int = MAX_MESSAGE) -> pb.ControlRequest | None:
    """What `receive` makes of these bytes followed by the end of the stream."""
    left, right = socket.socketpair()
    with left, right:
        right.settimeout(5)
        left.sendall(data)
        left.shutdown(socket.SHUT_WR)
        return receive(right, pb.ControlRequest, limit=limit)


runs = st.builds(
    lambda profile, task, argv, cwd: pb.ControlRequest(
        run=pb.RunRequest(profile=profile, task=task, argv=argv, cwd=cwd)
    ),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.binary(max_size=300), max_size=20),
    st.binary(max_size=4096),
)


@given(st.lists(runs, min_size=1, max_size=4), st.data())
def test_what_is_sent_arrives_however_it_is_cut(messages: list[pb.ControlRequest], data: st.DataObject) -> None:
    stream = b"".join(encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    left, right = socket.socketpair()
    with left, right:
        right.settimeout(5)

        def write() -> None:
            for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                if end > start:
                    left.sendall(stream[start:end])
            left.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        assert [receive(right, pb.ControlRequest) for _ in messages] == messages
        assert receive(right, pb.ControlRequest) is None
        writer.join()


@given(runs, st.data())
def test_half_a_message_is_an_error(message: pb.ControlRequest, data: st.DataObject) -> None:
    whole = encode(message)
    part = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(FramingError, match="ended inside"):
        sent_raw(whole[:part])
    assert sent_raw(whole) == message


@settings(max_examples=300)
@given(st.binary(max_size=600))
def test_garbage_is_a_message_or_a_framing_error(garbage: bytes) -> None:
    with contextlib.suppress(FramingError):
        sent_raw(garbage)
    with contextlib.suppress(FramingError):
        sent_raw(struct.pack(">I", len(garbage)) + garbage)


def test_a_huge_length_is_refused_before_it_is_read(pair: Pair) -> None:
    left, right = pair
    left.sendall(struct.pack(">I", MAX_MESSAGE + 1))  # and nothing more: refused without waiting for it
    with pytest.raises(FramingError, match=f"at most {MAX_MESSAGE}"):
        receive(right, pb.ControlRequest)


def test_the_largest_message_passes_and_one_byte_more_does_not() -> None:
    def of_size(size: int) -> pb.ControlRequest:
        overhead = len(encode(pb.ControlRequest(run=pb.RunRequest(cwd=b"x" * (size - 40))))) - 4 - (size - 40)
        return pb.ControlRequest(run=pb.RunRequest(cwd=b"x" * (size - overhead)))

    exact = of_size(1000)
    assert len(encode(exact, limit=1000)) == 1004
    assert sent_raw(encode(exact), limit=1000) == exact
    with pytest.raises(FramingError, match="1001 bytes"):
        encode(of_size(1001), limit=1000)
    with pytest.raises(FramingError, match="at most 1000"):
        sent_raw(encode(of_size(1001)), limit=1000)


def test_an_empty_message_is_neither_sent_nor_taken(pair: Pair) -> None:
    with pytest.raises(FramingError, match="empty"):
        send(pair[0], pb.ControlRequest())
    with pytest.raises(FramingError, match="0 bytes"):
        sent_raw(b"\0\0\0\0")


def test_text_that_is_not_utf8_is_refused() -> None:
    body = pb.ControlRequest(run=pb.RunRequest(task="aaaa")).SerializeToString().replace(b"aaaa", b"a\xffaa")
    with pytest.raises(FramingError, match="no ControlRequest"):
        sent_raw(struct.pack(">I", len(body)) + body)


def test_end_of_stream_between_messages_is_none() -> None:
    assert sent_raw(b"") is None


def test_a_peer_that_drips_bytes_is_not_waited_for(pair: Pair) -> None:
    left, right = pair
    message = encode(pb.ControlRequest(run=pb.RunRequest(task="x" * 200)))
    stop = threading.Event()

    def drip() -> None:
        for byte in message[:-1]:
            if stop.wait(0.05):
                return
            left.sendall(bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()
    right.settimeout(0.3)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        receive(right, pb.ControlRequest)
    stop.set()
    thread.join()
    assert time.monotonic() - begun < 2
    assert right.gettimeout() == 0.3  # the caller's timeout is what it was


def test_send_gives_up_when_nobody_reads(pair: Pair) -> None:
    left, _ = pair
    left.settimeout(0.2)
    with pytest.raises(TimeoutError):
        send(left, pb.ControlRequest(run=pb.RunRequest(cwd=b"x" * (8 << 20))))


def test_a_peer_that_is_gone_is_an_os_error_and_no_signal(pair: Pair) -> None:
    left, right = pair
    right.close()
    with pytest.raises(OSError):  # noqa: PT011 - EPIPE or ECONNRESET, as the kernel likes
        send(left, pb.ControlRequest(status=pb.StatusRequest()))


def test_threads_that_share_nothing_do_not_mix(pair: Pair) -> None:
    left, right = pair
    sent = [pb.ControlRequest(run=pb.RunRequest(cwd=os.urandom(70_000))) for _ in range(20)]
    writer = threading.Thread(target=lambda: [send(left, message) for message in sent])
    writer.start()
    assert [receive(right, pb.ControlRequest) for _ in sent] == sent
    writer.join()
