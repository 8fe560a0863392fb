"""Messages that the gateway and whoever reads after it could take for different ones."""

import json
import time

from tests.gateway.conftest import Started, program
from tests.gateway.raw import Raw, text_of
from tests.support.instance import PROGRAMS, Instance

CALL = {"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": {"name": "repeat", "arguments": {"text": "in"}}}
WITHIN = json.dumps(CALL).encode()
CARRIER = b'{"jsonrpc":"2.0","method":"notifications/x","params":{"x":\r' + WITHIN + b"\r}}"


def heard(raw: Raw) -> list[object]:
    """What comes within a second besides answers."""
    found: list[object] = []
    deadline = time.monotonic() + 1
    while (message := raw.read(max(0.0, deadline - time.monotonic()))) is not None:
        found.append(message)
    return found


def test_a_call_inside_a_notification(instance: Instance, direct: Started, gateway: Started) -> None:
    """Python's text streams, and so its SDK's servers, end a line at CR as well."""
    command = ["/usr/bin/env", str(PROGRAMS / "python"), str(instance.base / "modern.py")]
    bare = direct(*command)
    bare.initialize()
    bare.write(CARRIER)
    assert text_of(bare.answer(77)["result"]) == "in", "the server takes it for a call"
    raw = gateway("modern", *command)
    raw.initialize()
    raw.write(CARRIER)
    assert heard(raw) == []
    # Its answer would be one to what it was not asked, which no client gets.
    assert not [found for found in instance.journal() if found["kind"] in ("call", "call.refused")]
    assert text_of(raw.call("repeat", {"text": "still"})) == "still"
    assert [found["tool"] for found in instance.journal() if found["kind"] == "call"] == ["repeat"]


def test_a_request_without_an_id(instance: Instance, gateway: Started) -> None:
    raw = gateway("echo", *program(instance, "echo.py"))
    raw.initialize()
    raw.send({name: value for name, value in CALL.items() if name != "id"})
    answer = raw.read()
    assert (answer["id"], answer["error"]["code"]) == (None, -32600)
    record = instance.wait_for_record(lambda found: found["kind"] == "call.refused" and found["rule"] == "no-id")
    assert record["method"] == "tools/call"
    raw.send({"jsonrpc": "2.0", "method": "notifications/anything"})
    assert raw.ask("ping")["result"] == {}


def test_what_cannot_be_asked_holds_up_nothing(instance: Instance, gateway: Started) -> None:
    """The gateway's own list has what the client says of its version: here a number that nobody can write."""
    raw = gateway("echo", *program(instance, "echo.py"))
    raw.initialize()
    assert "error" in raw.ask("tools/list", {"_meta": {"io.modelcontextprotocol/x": 10**30}})
    assert raw.tools() == ["echo"]


def test_members_that_differ_in_case(instance: Instance, gateway: Started) -> None:
    raw = gateway("echo", *program(instance, "echo.py"))
    raw.initialize()
    for params in (
        {"name": "echo", "Name": "other", "arguments": {"text": "x"}},
        {"name": "echo", "arguments": {"text": "x"}, "Arguments": {"text": "y"}},
        {"name": "echo", "arguments": {"text": "x", "Text": "y"}},
    ):
        answer = raw.ask("tools/call", params)
        assert "to some readers" in answer["error"]["message"]
    assert text_of(raw.call("echo", {"text": "x"})) == "x"
