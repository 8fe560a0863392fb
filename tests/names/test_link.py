"""The daemon's connection to the resolver: who listens there has to be its user."""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from governed.v1 import resolver_pb2 as pb
from governed_mcpd.control.framing import encode, receive
from governed_mcpd.names.link import SOCKET, Link


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path / SOCKET))
    server.listen()
    return server


def linked(path: Path, uid: int | None) -> tuple[Link, list[str]]:
    link, said = Link(str(path), uid, lambda call: call()), list[str]()
    link.connected = lambda: said.append("connected")
    link.lost = lambda: said.append("lost")
    link.heard = lambda message: said.append(message.WhichOneof("what") or "")
    link.start()
    return link, said


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("uid", "expected"), [(60999, "expected uid 60999"), (None, "no user that the configuration")])
def test_somebody_else_is_not_believed(tmp_path: Path, uid: int | None, expected: str) -> None:
    with listening(tmp_path):
        link, said = linked(tmp_path, uid)
        wait(lambda: expected in link.reason)
        assert said == []
        link.stop()


def test_a_connection_that_ends_is_made_again(tmp_path: Path) -> None:
    with listening(tmp_path) as server:
        link, said = linked(tmp_path, os.geteuid())
        for _ in range(2):
            peer, _ = server.accept()
            with peer:
                peer.sendall(encode(pb.FromResolver(serving=pb.ResolverServing(upstreams=["192.0.2.1#53"]))))
                wait(lambda: not link.reason)
                link.send(pb.ToResolver(open=pb.ResolverOpen(subject="s")))
                message = receive(peer, pb.ToResolver)
                assert message is not None
                assert message.open.subject == "s"
                peer.sendall(encode(pb.FromResolver(opened=pb.ResolverOpened(subject="s", port=1))))
                wait(lambda: said[-1] == "opened")
            wait(lambda: said[-1] == "lost")
            assert link.reason
        assert said == ["connected", "opened", "lost"] * 2
        link.stop()


def test_one_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    """The daemon never waits for it."""
    with listening(tmp_path) as server:
        link, said = linked(tmp_path, os.geteuid())
        peer, _ = server.accept()
        with peer:
            peer.sendall(encode(pb.FromResolver(serving=pb.ResolverServing(reason="none"))))
            wait(lambda: not link.reason)
            begun = time.monotonic()
            flood = threading.Thread(
                target=lambda: [link.send(pb.ToResolver(open=pb.ResolverOpen(subject="s" * 900))) for _ in range(5000)]
            )
            flood.start()
            flood.join(10)
            assert not flood.is_alive()
            assert time.monotonic() - begun < 5
            wait(lambda: said and said[-1] == "lost")
        link.stop()
