"""Calls that wait for a person, calls of a client that is sandboxed itself, and the task."""

import json
import os
import select
import shutil
import signal
import time
from pathlib import Path

import pytest

from governed.v1 import control_pb2 as pb
from governed_mcpd.calls.session import MOST_ASKED
from governed_mcpd.gateway.link import Link, open_link
from tests.gateway.conftest import HERE, POLICIES, PYTHON, Started, program
from tests.gateway.raw import Raw, text_of
from tests.support.instance import Instance

# Fetched data names a destination that the task does not: a person is asked.
DATA = "Minutes of the meeting. Contact: reports@partner.example. Next meeting in May."
ASKED = {"text": "reports@partner.example"}


@pytest.fixture
def asked(instance: Instance, gateway: Started) -> Raw:
    """A gateway whose next call (ASKED) is one that a person decides."""
    raw = gateway("echo", *program(instance, "echo.py"), options=("--task", "Summarise the minutes"))
    raw.initialize()
    raw.call("echo", {"text": DATA})
    return raw


def waiting(instance: Instance) -> str:
    """The id of what waits for a person."""

    def found() -> str | None:
        listed = json.loads(instance.ctl("approvals", "list", "--json").stdout)["approvals"]
        return str(listed[0]["id"]) if listed else None

    return instance.wait_until(found, "a question for a person")


def test_a_person_approves(instance: Instance, asked: Raw) -> None:
    identity = asked.request("tools/call", {"name": "echo", "arguments": ASKED, "_meta": {"progressToken": "p1"}})
    approval = waiting(instance)
    progress = asked.read()
    assert progress["method"] == "notifications/progress"
    assert progress["params"]["progressToken"] == "p1"
    assert approval in progress["params"]["message"]
    shown = instance.ctl("approvals", "list")
    assert "echo/echo" in shown.stdout
    assert instance.ctl("approvals", "approve", approval, "--note", "fine").returncode == 0
    assert text_of(asked.answer(identity)["result"]) == ASKED["text"]
    record = [found for found in instance.journal() if found["kind"] == "call"][-1]
    assert (record["decision"], record["layer"], record["approved_by"]) == ("allow", "person", "uid 0")
    assert record["call"] == approval


def test_a_person_denies(instance: Instance, asked: Raw) -> None:
    identity = asked.request("tools/call", {"name": "echo", "arguments": ASKED})
    assert instance.ctl("approvals", "deny", waiting(instance)).returncode == 0
    assert asked.answer(identity)["result"]["isError"] is True
    assert asked.others == [], "without a token there is no progress to tell"


def test_a_client_that_waits_no_longer(instance: Instance, asked: Raw) -> None:
    identity = asked.request("tools/call", {"name": "echo", "arguments": ASKED})
    waiting(instance)
    asked.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": identity}})
    instance.wait_for_record(lambda found: found["kind"] == "call" and found["rule"] == "withdrawn")
    assert json.loads(instance.ctl("approvals", "list", "--json").stdout)["approvals"] == []
    assert text_of(asked.call("echo", {"text": "and goes on"})) == "and goes on"


def test_what_was_withdrawn_of_a_batch_does_not_go_with_the_rest(instance: Instance, gateway: Started) -> None:
    raw = gateway("echo", *program(instance, "echo.py"), options=("--task", "Summarise the minutes"))
    raw.initialize("2025-03-26")
    raw.call("echo", {"text": DATA})
    calls = [{"name": "echo", "arguments": arguments} for arguments in ({"text": "first"}, ASKED)]
    batch = [{"jsonrpc": "2.0", "id": f"b{at}", "method": "tools/call", "params": one} for at, one in enumerate(calls)]
    raw.send(batch)
    approval = waiting(instance)
    raw.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "b0"}})
    instance.wait_for_record(lambda found: found["kind"] == "call.end" and found["outcome"] == "cancelled")
    assert instance.ctl("approvals", "approve", approval).returncode == 0
    (answer,) = raw.read()
    assert (answer["id"], text_of(answer["result"])) == ("b1", ASKED["text"])
    waits = raw.request("tools/call", {"name": "echo", "arguments": ASKED})
    waiting(instance)
    withdraw = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": waits}}
    raw.send([{"jsonrpc": "2.0", "id": "p", "method": "ping"}, withdraw])
    (answer,) = raw.read()
    assert answer["id"] == "p", "the batch goes on without what the server has not heard of"
    assert text_of(raw.call("echo", {"text": "and goes on"})) == "and goes on"


def test_calls_that_were_withdrawn_are_still_the_gates_work(instance: Instance, gateway: Started) -> None:
    """Calling and cancelling without end brings no more than so many questions to the gate, and into memory."""
    raw = gateway("echo", *program(instance, "echo.py"))
    raw.initialize()
    assert text_of(raw.call("echo", {"text": "before"})) == "before"
    assert instance.gate is not None

    def over() -> list[str]:
        calls = [found for found in instance.journal(raw_sandbox) if found["kind"] == "call"]
        return [found["rule"] for found in calls if found["decision"] == "deny"]

    raw_sandbox = next(found for found in reversed(instance.journal()) if found["kind"] == "call")["sandbox"]
    instance.gate.send_signal(signal.SIGSTOP)
    try:
        for number in range(1000, 1100):
            call = {"name": "echo", "arguments": {"text": str(number)}}
            raw.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": call})
            cancelled = {"requestId": number}
            raw.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled})
        instance.wait_until(lambda: len(over()) >= MOST_ASKED, "the calls that are withdrawn at once")
        time.sleep(1)
        assert over() == ["withdrawn"] * MOST_ASKED, "the others are not read"
    finally:
        instance.gate.send_signal(signal.SIGCONT)
    assert text_of(raw.call("echo", {"text": "after"})) == "after"
    calls = [found for found in instance.journal(raw_sandbox) if found["kind"] == "call"]
    assert len(calls) == 102, "each has its record"
    assert raw.others == [], "nobody waits for an answer to what was withdrawn"


def test_one_number_is_one_call(instance: Instance) -> None:
    """Whoever speaks as a gateway and gives all calls one number has not more of them at the gate."""
    remote = pb.RunRequest(server="echo", profile="demo", argv=[b"http://127.0.0.1:9/"], cwd=b"/", home=b"/")
    link = open_link(str(instance.runtime_dir), nested=False, request=pb.McpOpenRequest(remote=remote))
    said: list[pb.McpAnswer | None] = []
    form = b'{"description":"","inputSchema":{"type":"object"},"name":"echo"}'
    link.ask(pb.McpMessage(tools=pb.McpTools(tools=[pb.ListedTool(form=form)])), said.append)
    read(link, said)
    assert said[0] is not None
    assert not said[0].tools.withheld
    assert instance.gate is not None
    instance.gate.send_signal(signal.SIGSTOP)
    try:
        call = pb.McpCall(tool="echo", arguments=b'{"text":"x"}')
        link.tell(pb.McpMessage(id=7, call=call))
        link.tell(pb.McpMessage(id=8, call=call))
        assert not select.select([link], [], [], 1)[0], "both are with the gate"
        link.tell(pb.McpMessage(id=7, call=call))
        while not link.gone:  # first it is told that the two are withdrawn
            assert select.select([link], [], [], 10)[0]
            link.readable()
    finally:
        instance.gate.send_signal(signal.SIGCONT)
        link.close()


def read(link: Link, said: list[pb.McpAnswer | None]) -> None:
    while not said:
        assert select.select([link], [], [], 20)[0]
        link.readable()


def test_the_clients_word_about_the_task(instance: Instance, gateway: Started) -> None:
    raw = gateway("echo", *program(instance, "echo.py"))
    raw.initialize()
    raw.call("echo", {"text": DATA})
    record = [found for found in instance.journal() if found["kind"] == "call"][-1]
    assert record["task_given"] is False
    task = "Tell reports@partner.example about it"
    result = raw.call("echo", ASKED, _meta={"governed-mcpd/task": task})
    assert text_of(result) == ASKED["text"], "the task names the address: nobody is asked"
    record = [found for found in instance.journal() if found["kind"] == "call"][-1]
    assert (record["task_given"], record["task_from"]) == (True, "client")


def test_the_task_from_the_environment(instance: Instance, gateway: Started) -> None:
    raw = gateway("echo", *program(instance, "echo.py"), env={"GOVERNED_TASK": "Say hello"})
    raw.initialize()
    raw.call("echo", {"text": "hello"})
    record = [found for found in instance.journal() if found["kind"] == "call"][-1]
    assert (record["task_given"], record["task_from"]) == (True, "launcher")


def test_a_client_in_a_sandbox(instance: Instance, work: Path) -> None:
    """The client and its gateway are sandboxed: the server is a child Subject, and the client sets no task."""
    ctl = " ".join(map(str, instance.command("mcp", "--quiet", "--profile", "demo", "--server", "honest", "--")))
    server = " ".join(program(instance, "liar.py", "honest"))
    script = work / "client.py"
    script.write_text(
        f"""
import json, subprocess
p = subprocess.Popen({f"{ctl} {server}".split()!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def ask(number, method, params):
    p.stdin.write(json.dumps({{"jsonrpc": "2.0", "id": number, "method": method, "params": params}}).encode() + b"\\n")
    p.stdin.flush()
    return json.loads(p.stdout.readline())
info = {{"name": "c", "version": "1"}}
ask(1, "initialize", {{"protocolVersion": "2025-06-18", "capabilities": {{}}, "clientInfo": info}})
print(json.dumps(ask(2, "tools/list", {{}})))
meta = {{"governed-mcpd/task": "Do whatever you like"}}
arguments = {{"path": {str(work / "inner.txt")!r}, "content": "x"}}
print(json.dumps(ask(3, "tools/call", {{"name": "write_file", "arguments": arguments, "_meta": meta}})))
arguments = {{"path": "/etc/cron.d/x", "content": "x"}}
print(json.dumps(ask(4, "tools/call", {{"name": "write_file", "arguments": arguments}})))
p.stdin.close()
p.wait(20)
"""
    )
    done = instance.run(PYTHON, str(script), profile="demo", task="Write inner.txt", cwd=work, timeout=90)
    assert done.returncode == 0, done.stderr
    listed, written, refused = map(json.loads, done.stdout.strip().splitlines())
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["read_file", "write_file"]
    assert text_of(written["result"]) == "written"
    assert refused["result"]["isError"] is True
    assert (work / "inner.txt").read_text() == "x"
    record = [found for found in instance.journal() if found["kind"] == "call" and found["decision"] == "allow"][-1]
    assert record["subject"]["parent"]
    assert record["task_from"] == "launcher"
    effect = instance.wait_for_record(lambda found: found.get("object") == str(work / "inner.txt") and "call" in found)
    assert effect["call"] == record["call"]
    assert not (instance.state_dir / "tools" / "60601" / "honest.json").exists(), (
        "what runs there accepts nothing for good"
    )


def test_a_daemon_that_dies_lets_nothing_through(work: Path) -> None:
    with Instance(policies=POLICIES) as own:
        shutil.copy(HERE / "echo.py", own.base / "echo.py")
        words = own.command("mcp", "--quiet", "--profile", "demo", "--server", "echo", "--", *program(own, "echo.py"))
        with Raw(own, words, own.work) as raw:
            raw.initialize()
            assert text_of(raw.call("echo", {"text": "before"})) == "before"
            servers = [os.pidfd_open(info.pid) for info in own.sandboxes()]
            assert servers
            own.kill_daemon()
            raw.send(
                {
                    "jsonrpc": "2.0",
                    "id": 99,
                    "method": "tools/call",
                    "params": {"name": "echo", "arguments": {"text": "x"}},
                }
            )
            answer = raw.read(10)
            assert answer is None or answer["result"]["isError"] is True
            raw.process.wait(20)
            for server in servers:
                assert select.select([server], [], [], 20)[0], "the server outlives its gateway"
                os.close(server)
            own.start_daemon()
