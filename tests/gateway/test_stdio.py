"""The gateway over stdin and stdout: what passes, what is refused, and what the journal says."""

import json
import time
from pathlib import Path

import pytest

from tests.gateway.conftest import Started, program
from tests.gateway.raw import text_of
from tests.support.instance import Instance


def calls(instance: Instance, server: str) -> list[dict[str, object]]:
    return [record for record in instance.journal() if record["kind"] == "call" and record["server"] == server]


def test_a_call_passes_and_stands_in_the_journal(instance: Instance, work: Path, gateway: Started) -> None:
    raw = gateway("honest", *program(instance, "liar.py", "honest"), options=("--task", "Write a note"))
    assert raw.initialize()["result"]["serverInfo"]["name"] == "liar"
    assert raw.tools() == ["read_file", "write_file"]
    result = raw.call("write_file", {"path": str(work / "note.txt"), "content": "Meeting at ten"})
    assert text_of(result) == "written"
    assert (work / "note.txt").read_text() == "Meeting at ten"
    record = calls(instance, "honest")[-1]
    assert record["decision"] == "allow"
    assert [layer["layer"] for layer in record["layers"]] == [
        "schema", "tier", "rate", "prefilter", "probe", "constitution",
    ]  # fmt: skip
    assert record["task_given"] is True
    assert record["task_from"] == "launcher"
    assert len(record["pin"]) == 64
    assert record["policy_version"] == instance.status().policy_version
    assert json.loads(record["arguments"]["text"])["path"].endswith("note.txt")
    end = instance.wait_for_record(lambda found: found["kind"] == "call.end" and found["call"] == record["call"])
    assert end["outcome"] == "result"
    assert end["effects"] >= 1


def test_the_effect_of_a_call_is_covered_by_its_contract(instance: Instance, work: Path, gateway: Started) -> None:
    raw = gateway("honest", *program(instance, "liar.py", "honest"))
    raw.initialize()
    raw.call("write_file", {"path": "beside.txt", "content": "x"})
    record = calls(instance, "honest")[-1]
    effect = instance.wait_for_record(
        lambda found: found.get("object") == str(work / "beside.txt") and found["operation"] == "file.create"
    )
    assert effect["call"] == record["call"]
    assert effect["layer"] == "contract"
    assert "outside_contract" not in effect
    shown = instance.ctl("journal", "show", "--call", str(record["call"]))
    assert shown.returncode == 0, shown.stderr
    assert "tools/call honest/write_file" in shown.stdout
    assert str(work / "beside.txt") in shown.stdout
    assert "call.end" in shown.stdout


def test_a_refused_call_is_a_result_with_the_record(instance: Instance, gateway: Started) -> None:
    raw = gateway("honest", *program(instance, "liar.py", "honest"))
    raw.initialize()
    result = raw.call("write_file", {"path": "/etc/cron.d/backdoor", "content": "* * * * * root sh"})
    assert result["isError"] is True
    record = calls(instance, "honest")[-1]
    assert record["decision"] == "deny"
    assert f"record {record['seq']}" in text_of(result)
    assert record["rule"] not in text_of(result), "what a rule looks for is not told to whoever tries to get past it"
    assert not Path("/etc/cron.d/backdoor").exists()
    neighbour = raw.call("write_file", {"path": "fine.txt", "content": "x"})
    assert text_of(neighbour) == "written"


def test_a_tool_that_nobody_offers_is_not_called(instance: Instance, gateway: Started) -> None:
    raw = gateway("honest", *program(instance, "liar.py", "honest"))
    raw.initialize()
    assert raw.call("send_mail", {})["isError"] is True
    assert calls(instance, "honest")[-1]["rule"] == "tool-not-listed"


def test_a_server_without_a_document_offers_nothing(instance: Instance, gateway: Started) -> None:
    raw = gateway("unheard-of", *program(instance, "liar.py", "honest"))
    raw.initialize()
    assert raw.tools() == []
    assert raw.call("read_file", {"path": "x"})["isError"] is True


def test_requests_that_nobody_knows_are_refused(instance: Instance, gateway: Started) -> None:
    raw = gateway("honest", *program(instance, "liar.py", "honest"))
    raw.initialize()
    answer = raw.ask("tools/execute_everything", {})
    assert answer["error"]["code"] == -32601
    assert instance.wait_for_record(
        lambda found: found["kind"] == "call.refused" and found["method"] == "tools/execute_everything"
    )
    assert raw.ask("ping", {})["result"] == {}, "what MCP knows passes"


def test_the_arguments_are_what_was_judged(instance: Instance, work: Path, gateway: Started) -> None:
    raw = gateway("echo", *program(instance, "echo.py"))
    raw.initialize()
    raw.write(
        b'{"jsonrpc":"2.0","id":77,"method":"tools/call","params":'
        b'{"name":"echo","arguments":{"text":"\\u0041\\u00e9", "times": 2 , "x": 1.0}}}'
    )
    answer = raw.answer(77)
    assert text_of(answer["result"]) == "Aé"
    assert calls(instance, "echo")[-1]["arguments"]["text"] == '{"text":"Aé","times":2,"x":1.0}'


def runs(pid: int) -> bool:
    """Whether a process is there, and not only its entry, which nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


def odd(arguments: bytes) -> bytes:
    """A tools/call with these arguments, whatever they are."""
    return b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"echo","arguments":' + arguments + b"}}"


BAD = {
    "twice": odd(b'{"text":"a","text":"b"}'),
    "surrogate": odd(b'{"text":"\\ud800"}'),
    "number": odd(b'{"text":"a","n":1e999}'),
    "integer": odd(b'{"text":"a","n":123456789012345678901234567890}'),
    "digits": odd(b'{"n":' + b"9" * 9999 + b"}"),
    "written out": odd(b'{"text":"a","n":[' + b",".join([b"1E9"] * 1_400_000) + b"]}"),  # 5.6 MB, and then 16.8
    "deep": odd(b'{"x":' + b"[" * 1000 + b"]" * 1000 + b"}"),
    "constant": odd(b'{"n":NaN}'),
    "not json": b"this is no JSON",
    "not utf-8": b'{"jsonrpc":"2.0","id":5,"method":"\xff"}',
    "both": b'{"jsonrpc":"2.0","id":5,"method":"ping","result":{}}',
    "no version": b'{"id":5,"method":"ping"}',
    "large": b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"x":"' + b"a" * (17 << 20) + b'"}}',
}


@pytest.mark.parametrize(("size", "passes"), [(3 << 20, "whole"), (12 << 20, "marked"), (65 << 20, "not at all")])
def test_large_results_and_a_client_that_takes_its_time(
    instance: Instance, work: Path, gateway: Started, size: int, passes: str
) -> None:
    text = ("A line of a long report.\n" * (size // 25 + 1))[:size]
    (work / "long.txt").write_text(text)
    raw = gateway("honest", *program(instance, "liar.py", "honest"))
    raw.initialize()
    identity = raw.request("tools/call", {"name": "read_file", "arguments": {"path": "long.txt"}})
    time.sleep(1)  # what the pipe does not take waits
    answer = raw.answer(identity)
    if passes == "not at all":
        assert "more than" in answer["error"]["message"], str(answer)[:300]
    else:
        shown = [part["text"] for part in answer["result"]["content"]]
        assert shown[-1] == text
        # More than is looked through counts as if something had been found.
        assert (len(shown) == 2 and "[governed-mcpd:" in shown[0]) == (passes == "marked")
    assert text_of(raw.call("write_file", {"path": "after.txt", "content": "x"})) == "written"


def test_what_can_be_read_in_two_ways_is_an_error(instance: Instance, gateway: Started) -> None:
    raw = gateway("echo", *program(instance, "echo.py"))
    raw.initialize()
    for name, line in BAD.items():
        raw.write(line)
        answer = raw.read()
        assert answer is not None, name
        assert answer["error"]["code"] in (-32700, -32600), (name, answer)
        assert answer["error"]["message"], name
    assert text_of(raw.call("echo", {"text": "still here"})) == "still here"


def test_one_id_is_one_request(instance: Instance, gateway: Started) -> None:
    raw = gateway("slow", *program(instance, "liar.py", "slow"))
    raw.initialize()
    raw.tools()
    request = {"jsonrpc": "2.0", "id": 9, "method": "tools/call"}
    request["params"] = {"name": "write_file", "arguments": {"path": "a", "content": "b"}}
    raw.send(request)
    raw.send(request)
    answers = [raw.read(), raw.read()]
    assert sorted("error" in answer for answer in answers) == [False, True]


def test_batches_belong_to_one_revision(instance: Instance, gateway: Started) -> None:
    raw = gateway("batch-echo", *program(instance, "echo.py"))
    raw.initialize("2025-06-18")
    raw.send([{"jsonrpc": "2.0", "id": 1, "method": "ping"}])
    assert raw.read()["error"]["code"] == -32600


def test_the_gateway_ends_with_its_client_and_leaves_nothing(instance: Instance, gateway: Started) -> None:
    raw = gateway("slow", *program(instance, "liar.py", "slow"))
    raw.initialize()
    raw.tools()
    before = len(calls(instance, "slow"))
    raw.request("tools/call", {"name": "write_file", "arguments": {"path": "a", "content": "b"}})
    instance.wait_until(lambda: True if len(calls(instance, "slow")) > before else None, "the call to be let through")
    sandbox = instance.wait_until(
        lambda: next((info for info in instance.sandboxes() if info.subject.server == "slow"), None), "the sandbox"
    )
    raw.process.kill()
    raw.process.wait()
    instance.wait_until(
        lambda: None if any(i.subject.sandbox == sandbox.subject.sandbox for i in instance.sandboxes()) else True,
        "the sandbox to end",
    )
    assert not runs(sandbox.pid)
    ends = [found for found in instance.journal(sandbox.subject.sandbox) if found["kind"] == "call.end"]
    assert [end["outcome"] for end in ends] == ["gone"]
