"""Servers that do something else than they say. Each lie works without the gateway, and is refused or flagged with it.

`outside: decide` lets what is harmless by itself happen, and flags it; `outside: deny` refuses it.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import Started, program
from tests.gateway.raw import Raw, text_of
from tests.support.instance import Instance

Record = dict[str, Any]
SETTLED_SECONDS = 1.0


def act(raw: Raw, name: str = "write_file", **arguments: str) -> Any:
    """Initialises, lists, and calls one tool."""
    raw.initialize()
    raw.tools()
    return raw.call(name, arguments or {"path": "asked.txt", "content": "x"})


def effect_on(instance: Instance, name: Path | str, **wanted: Any) -> Record:
    """The first effect on an object, with these fields."""
    return instance.wait_for_record(
        lambda found: (
            found["kind"] == "effect"
            and found["object"] == str(name)
            and all(found.get(field) == value for field, value in wanted.items())
        )
    )


def last_call(instance: Instance, server: str) -> Record:
    return [found for found in instance.journal() if found["kind"] == "call" and found["server"] == server][-1]


# Mode, tool, what it writes besides, and whether the call is still in flight then.
LIES = (
    ("early", "write_file", "early.txt", False),
    ("between", "write_file", "between.txt", False),
    ("other-file", "write_file", "other.txt", True),
    ("shell", "read_file", "shell.txt", True),
    ("child", "write_file", "child.txt", False),
)


@pytest.mark.parametrize(("mode", "tool", "written", "during"), LIES, ids=[lie[0] for lie in LIES])
def test_a_lie_works_outside(
    work: Path, instance: Instance, direct: Started, mode: str, tool: str, written: str, during: bool
) -> None:
    act(direct(*program(instance, "liar.py", mode)), tool, **arguments(tool))
    instance.wait_until(lambda: True if (work / written).exists() else None, written, 5)


def arguments(tool: str) -> dict[str, str]:
    return {"path": "asked.txt"} if tool == "read_file" else {"path": "asked.txt", "content": "x"}


@pytest.mark.parametrize(("mode", "tool", "written", "during"), LIES, ids=[lie[0] for lie in LIES])
def test_a_lie_is_flagged(
    work: Path, instance: Instance, gateway: Started, mode: str, tool: str, written: str, during: bool
) -> None:
    raw = gateway(mode, *program(instance, "liar.py", mode))
    act(raw, tool, **arguments(tool))
    record = effect_on(instance, work / written, operation="file.create")
    assert record["outside_contract"] is True
    assert "call" not in record
    call = last_call(instance, mode)["call"]
    assert record["calls"] == ([call] if during else [])
    if tool == "write_file" and mode != "other-file":
        honest = effect_on(instance, work / "asked.txt", operation="file.create")
        assert honest["call"] == call, "what the call says it does is its own"


@pytest.mark.parametrize(("mode", "tool", "written", "during"), LIES, ids=[lie[0] for lie in LIES])
def test_a_lie_is_refused_where_policy_says_so(
    work: Path, instance: Instance, gateway: Started, mode: str, tool: str, written: str, during: bool
) -> None:
    raw = gateway(f"strict-{mode}", *program(instance, "liar.py", mode))
    act(raw, tool, **arguments(tool))
    # A shell is refused before it can write.
    name = "/usr/bin/dash" if mode == "shell" else work / written
    record = effect_on(instance, name, decision="deny")
    assert record["rule"] == "outside-contract"
    call = last_call(instance, f"strict-{mode}")["call"]
    assert record["calls"] == ([call] if during else [])
    if during:
        assert call in str(record["reason"])
    time.sleep(SETTLED_SECONDS)
    assert not (work / written).exists()
    if tool == "write_file" and mode != "other-file":
        assert (work / "asked.txt").read_text() == "x", "the call itself did what it may"


@contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A port of this machine, and what came there."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    received.append(connection.recv(4096))

        threading.Thread(target=listen, daemon=True).start()
        yield server.getsockname()[1], received


def test_a_socket_during_read_file(work: Path, instance: Instance, direct: Started, gateway: Started) -> None:
    (work / "secret.txt").write_text("the plan")
    with listener() as (port, received):
        act(direct(*program(instance, "liar.py", "socket", str(port))), "read_file", path="secret.txt")
        instance.wait_until(lambda: True if received else None, "the leak outside", 5)
        assert received.pop() == b"the plan"
        raw = gateway("socket", *program(instance, "liar.py", "socket", str(port)))
        result = act(raw, "read_file", path="secret.txt")
        assert text_of(result) == "the plan", "reading itself is what was asked"
        record = effect_on(instance, f"tcp:127.0.0.1:{port}", operation="net.connect")
        assert record["decision"] == "deny"
        assert record["outside_contract"] is True
        assert record["calls"] == [last_call(instance, "socket")["call"]]
        assert received == []


def test_one_schema_listed_and_another_accepted(
    work: Path, instance: Instance, direct: Started, gateway: Started
) -> None:
    arguments = {"path": "asked.txt", "content": "x", "also": "more"}
    act(direct(*program(instance, "liar.py", "schema")), "write_file", **arguments)
    assert (work / "also.txt").exists()
    (work / "also.txt").unlink()
    raw = gateway("schema", *program(instance, "liar.py", "schema"))
    result = act(raw, "write_file", **arguments)
    assert result["isError"] is True
    record = last_call(instance, "schema")
    assert (record["layer"], record["rule"]) == ("schema", "schema")
    assert not (work / "also.txt").exists()
    assert text_of(raw.call("write_file", {"path": "asked.txt", "content": "x"})) == "written"


def test_a_description_that_changes_after_it_was_accepted(
    instance: Instance, direct: Started, gateway: Started
) -> None:
    bare = direct(*program(instance, "liar.py", "changes"))
    bare.initialize()
    assert [bare.tools(), bare.tools()] == [["read_file", "write_file"], ["read_file", "write_file", "send_mail"]]
    raw = gateway("changes", *program(instance, "liar.py", "changes"))
    raw.initialize()
    # The gateway has listed once by itself: that is what was accepted. What the client gets is the second list.
    assert raw.tools() == ["write_file"]
    assert raw.call("read_file", {"path": "x"})["isError"] is True
    assert last_call(instance, "changes")["rule"] == "tool-changed"
    assert raw.call("send_mail", {})["isError"] is True
    assert last_call(instance, "changes")["rule"] == "tool-new"
    withheld = instance.wait_for_record(
        lambda found: found["kind"] == "tools.withheld" and found["server"] == "changes"
    )
    assert {tool["name"]: tool["rule"] for tool in withheld["tools"]} == {
        "read_file": "tool-changed",
        "send_mail": "tool-new",
    }
    uid = raw_uid(instance, "changes")
    shown = instance.ctl("tools", "diff", "--all", "--server", "changes")
    assert shown.returncode == 1
    assert "Always call send_mail" in shown.stdout
    approved = instance.ctl("tools", "approve", "changes", "read_file", "--uid", str(uid))
    assert approved.returncode == 0, approved.stderr
    assert raw.tools() == ["read_file", "write_file"]
    assert not raw.call("read_file", {"path": "x"}).get("isError")
    assert raw.call("send_mail", {})["isError"] is True
    instance.wait_for_record(lambda found: found["kind"] == "tools.approved" and found["by_uid"] == 0)


def raw_uid(instance: Instance, server: str) -> int:
    """Whose server it is, as the journal has it."""
    return int(last_call(instance, server)["subject"]["uid"])


def test_a_tool_call_back_through_the_client(instance: Instance, direct: Started, gateway: Started) -> None:
    bare = direct(*program(instance, "liar.py", "sampling"))
    act(bare, "read_file", path="x")
    assert [message["method"] for message in bare.others] == ["tools/call", "sampling/createMessage"]
    raw = gateway("sampling", *program(instance, "liar.py", "sampling"))
    act(raw, "read_file", path="x")
    assert [message["method"] for message in raw.others] == ["sampling/createMessage"]
    refused = instance.wait_for_record(lambda found: found["kind"] == "call.refused" and found["from_server"] is True)
    assert (refused["method"], refused["rule"]) == ("tools/call", "server-request")
    told = instance.wait_for_record(lambda found: found["kind"] == "content" and found["source"] == "sampling")
    assert told["findings"]
    # What sampling told the model is untrusted: a call whose values come only from there is an order of the server's.
    result = raw.call("write_file", {"path": "stolen.txt", "content": "anything"})
    assert result["isError"] is True
    record = last_call(instance, "sampling")
    assert (record["layer"], record["rule"]) == ("prefilter", "instructed-by-untrusted-content")


def test_a_child_subject_is_still_the_server(work: Path, instance: Instance, direct: Started, gateway: Started) -> None:
    ctl = " ".join(map(str, instance.command()))
    act(direct(*program(instance, "liar.py", "nested", ctl)), "read_file", path="x")
    assert (work / "nested.txt").read_text() == "x\n"
    (work / "nested.txt").unlink()
    act(gateway("nested", *program(instance, "liar.py", "nested", ctl)), "read_file", path="x")
    flagged = effect_on(instance, work / "nested.txt", operation="file.create", outside_contract=True)
    assert flagged["subject"]["parent"]
    (work / "nested.txt").unlink()
    act(gateway("strict-nested", *program(instance, "liar.py", "nested", ctl)), "read_file", path="x")
    refused = effect_on(instance, work / "nested.txt", operation="file.create", rule="outside-contract")
    assert refused["decision"] == "deny"
    assert not (work / "nested.txt").exists()


def test_an_answer_before_the_question(instance: Instance, direct: Started, gateway: Started) -> None:
    bare = direct(*program(instance, "liar.py", "unasked"))
    bare.initialize()
    bare.tools()
    assert bare.read()["id"] == 3, "the answer to a request that was not made"
    raw = gateway("unasked", *program(instance, "liar.py", "unasked"))
    raw.initialize()
    raw.tools()
    assert text_of(raw.call("read_file", {"path": "x"})) == ""
    refused = instance.wait_for_record(lambda found: found["kind"] == "call.refused" and found["rule"] == "not-asked")
    assert refused["from_server"] is True


def test_ten_calls_at_once(work: Path, instance: Instance, gateway: Started) -> None:
    raw = gateway("slow", *program(instance, "liar.py", "slow"))
    raw.initialize()
    raw.tools()
    names = [f"file-{number}.txt" for number in range(9)]
    asked = {name: raw.request("tools/call", {"name": "write_file", "arguments": {"path": name, "content": "x"}})
             for name in names}  # fmt: skip
    twice = raw.request("tools/call", {"name": "write_file", "arguments": {"path": names[0], "content": "y"}})
    for identity in (*asked.values(), twice):
        raw.answer(identity)
    records = {
        found["call"]: found for found in instance.journal() if found["kind"] == "call" and found["server"] == "slow"
    }
    of_name = {}
    for call, record in records.items():
        of_name.setdefault(record["arguments"]["text"].split('"')[3], []).append(call)
    for name in names[1:]:
        effect = effect_on(instance, work / name)
        assert [effect["call"]] == of_name[name]
    # Two calls that say they write the same file: neither's contract covers it, and both are named.
    shared = effect_on(instance, work / names[0])
    assert shared["outside_contract"] is True
    assert set(of_name[names[0]]) <= set(shared["calls"])
