"""The launcher's own wire format says what the generated code says; bytes that are no message are an error."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from governed.v1 import control_pb2 as pb
from governed_mcpd.launcher import protocol
from governed_mcpd.launcher.protocol import DaemonError, ProtocolError, Stream

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)
BYTES = st.binary(max_size=300)
SIZE = st.integers(0, 2**64 - 1)


@given(TEXT, TEXT, TEXT, st.lists(BYTES, max_size=5), BYTES, BYTES, st.lists(BYTES, max_size=5), TEXT, st.booleans())
def test_run_request(
    profile: str,
    agent: str,
    task: str,
    argv: list[bytes],
    cwd: bytes,
    home: bytes,
    environment: list[bytes],
    server: str,
    nested: bool,
) -> None:
    said = protocol.run_request(
        profile=profile, agent=agent, task=task, argv=argv, cwd=cwd, home=home, environment=environment, server=server,
        nested=nested,
    )  # fmt: skip
    expected = pb.RunRequest(
        profile=profile, agent=agent, task=task, argv=argv, cwd=cwd, home=home, environment=environment, server=server,
        nested=nested,
    )  # fmt: skip
    assert pb.ControlRequest.FromString(said) == pb.ControlRequest(run=expected)


@given(TEXT, st.integers(0, 2**31 - 1))
def test_adopt_and_listen_requests(token: str, listener: int) -> None:
    adopt = pb.ControlRequest.FromString(protocol.adopt_request(token))
    assert adopt == pb.ControlRequest(adopt=pb.AdoptRequest(token=token))
    listen = pb.ControlRequest.FromString(protocol.listen_request(listener))
    assert listen == pb.ControlRequest(listen=pb.ListenRequest(listener=listener))


def test_a_task_that_is_not_utf8_is_sent_as_utf8() -> None:
    said = protocol.run_request(
        profile="", agent="", task=os.fsdecode(b"caf\xe9"), argv=[b"\xff"], cwd=b"/", home=b"/", environment=[],
        server="", nested=False,
    )  # fmt: skip
    assert pb.ControlRequest.FromString(said).run.task == "caf?"
    assert pb.ControlRequest.FromString(said).run.argv == [b"\xff"]


PLANS = st.builds(
    pb.RunPlan,
    sandbox=TEXT.filter(bool),
    token=TEXT.filter(bool),
    filter=BYTES,
    filter_flags=st.integers(0, 2**32 - 1),
    scratch=BYTES,
    drop_environment=st.lists(BYTES, max_size=4),
    set_environment=st.lists(st.builds(pb.Variable, name=BYTES, value=BYTES), max_size=4),
    limits=st.lists(st.builds(pb.Limit, resource=TEXT, soft=SIZE, hard=SIZE), max_size=4),
    seal=TEXT,
    notes=st.lists(TEXT, max_size=4),
    envelope=st.builds(
        pb.Envelope,
        **{field.name: st.lists(BYTES, max_size=4) for field in pb.Envelope.DESCRIPTOR.fields},
    ),
)


@given(PLANS)
def test_run_plan(plan: pb.RunPlan) -> None:
    found = protocol.run_plan(protocol.fields(pb.ControlReply(run=plan).SerializeToString()))
    assert found.sandbox == plan.sandbox
    assert found.token == plan.token
    assert found.filter == plan.filter
    assert found.filter_flags == plan.filter_flags
    assert list(found.envelope) == [list(getattr(plan.envelope, field.name)) for field in pb.Envelope.DESCRIPTOR.fields]
    assert found.scratch == plan.scratch
    assert found.drop_environment == list(plan.drop_environment)
    assert found.set_environment == [(entry.name, entry.value) for entry in plan.set_environment]
    assert found.limits == [(entry.resource, entry.soft, entry.hard) for entry in plan.limits]
    assert found.seal == plan.seal
    assert found.notes == list(plan.notes)


NOTICES = st.builds(
    pb.Notice,
    kind=st.sampled_from(list(pb.Notice.Kind.values())),
    operation=TEXT,
    object=BYTES,
    layer=TEXT,
    rule=TEXT,
    reason=TEXT,
    approval=TEXT,
    record=SIZE,
)


@given(NOTICES)
def test_notice(notice: pb.Notice) -> None:
    found = protocol.notice(pb.ControlReply(notice=notice).SerializeToString())
    assert found is not None
    assert found == tuple(getattr(notice, field.name) for field in pb.Notice.DESCRIPTOR.fields)


def test_every_field_of_the_daemons_messages_is_known_here() -> None:
    """A field that is added to the protocol is to be read by the launcher, too, or left out here on purpose."""
    assert len(protocol.RunPlan._fields) == len(pb.RunPlan.DESCRIPTOR.fields)
    assert len(protocol.Envelope._fields) == len(pb.Envelope.DESCRIPTOR.fields)
    assert len(protocol.Limit._fields) == len(pb.Limit.DESCRIPTOR.fields)
    assert protocol.Notice._fields == tuple(field.name for field in pb.Notice.DESCRIPTOR.fields)
    assert len(pb.RunRequest.DESCRIPTOR.fields) == 9
    kinds = {name.removeprefix("KIND_"): value for name, value in pb.Notice.Kind.items() if value}
    assert {name: getattr(protocol, name) for name in kinds} == kinds


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    for read in (protocol.notice, lambda body: protocol.run_plan(protocol.fields(body))):
        with contextlib.suppress(ProtocolError):
            read(data)


def talk(sends: Callable[[socket.socket], None]) -> Stream:
    """A stream whose other end sends what `sends` does, then closes."""
    here, there = socket.socketpair()

    def serve() -> None:
        with there:
            sends(there)

    threading.Thread(target=serve, daemon=True).start()
    return Stream(here.detach())


def framed(message: Message) -> bytes:
    body = message.SerializeToString()
    return len(body).to_bytes(4, "big") + body


def test_frames_in_pieces_and_two_in_one() -> None:
    adopted = framed(pb.ControlReply(adopted=pb.Adopted(sandbox="abc")))
    listening = framed(pb.ControlReply(listening=pb.Listening()))

    def sends(there: socket.socket) -> None:
        for byte in adopted:
            there.sendall(bytes([byte]))
        there.sendall(listening + listening)

    stream = talk(sends)
    protocol.check_adopted(stream.receive())
    protocol.check_listening(stream.receive())
    protocol.check_listening(stream.receive())
    with pytest.raises(ProtocolError, match="closed the connection"):
        stream.receive()


def test_an_error_is_raised_in_the_daemons_words() -> None:
    error = framed(pb.ControlReply(error=pb.Error(code="forbidden", message="you are not in the group")))
    with pytest.raises(DaemonError, match=r"^you are not in the group$"):
        talk(lambda there: there.sendall(error)).receive()


@pytest.mark.parametrize(
    "data", [b"", b"\0\0", b"\0\0\0\x09abc", b"\xff\xff\xff\xff", b"\0\0\0\x01\xff", b"\0\0\0\x02\0\0"]
)
def test_bytes_that_are_no_frame(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        talk(lambda there: there.sendall(data)).receive()


@pytest.mark.parametrize("check", [protocol.run_plan, protocol.check_adopted, protocol.check_listening])
def test_another_reply_than_the_expected_one(check: Callable[[dict[int, list[int | bytes]]], object]) -> None:
    reply = protocol.fields(pb.ControlReply(done=pb.Done(message="x")).SerializeToString())
    with pytest.raises(ProtocolError, match="different versions"):
        check(reply)


def test_a_plan_without_token_or_envelope() -> None:
    for plan in (pb.RunPlan(sandbox="a", token="b"), pb.RunPlan(sandbox="a", envelope=pb.Envelope())):
        with pytest.raises(ProtocolError):
            protocol.run_plan(protocol.fields(pb.ControlReply(run=plan).SerializeToString()))
