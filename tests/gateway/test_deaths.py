"""A client, a server or the daemon that dies while a call is in flight: no process is left, and no lease."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import HERE, POLICIES, Started, program
from tests.gateway.raw import Raw
from tests.gateway.test_stdio import runs
from tests.support.instance import Instance
from tests.support.users import USER, identity

# A client that starts its server as clients do, calls a tool that waits, and says so.
CLIENT = """
import json, subprocess, sys, time
p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def send(number, method, params):
    p.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\\n")
    p.stdin.flush()
info = {"name": "c", "version": "1"}
send(1, "initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info})
p.stdout.readline()
send(2, "tools/call", {"name": "write_file", "arguments": {"path": "asked.txt", "content": "x"}})
print(p.pid, flush=True)
time.sleep(600)
"""


def in_flight(instance: Instance, server: str) -> dict[str, Any]:
    """The call that was let through and is not over."""
    return instance.wait_for_record(
        lambda found: found["kind"] == "call" and found["server"] == server and found["decision"] == "allow"
    )


def left_nothing(instance: Instance, call: dict[str, Any], pids: list[int]) -> None:
    """The call is over as one that nobody answered, its sandbox is gone, and so is every process."""
    sandbox = str(call["sandbox"])
    end = instance.wait_for_record(lambda found: found["kind"] == "call.end" and found["call"] == call["call"], 20)
    assert end["outcome"] == "gone"
    instance.wait_until(
        lambda: None if any(info.subject.sandbox == sandbox for info in instance.sandboxes()) else True,
        "the sandbox to end", 20,
    )  # fmt: skip
    instance.wait_until(lambda: None if any(map(runs, pids)) else True, "its processes to end", 10)


def processes(instance: Instance, sandbox: str) -> list[int]:
    return [info.pid for info in instance.sandboxes() if info.subject.sandbox == sandbox]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_client_dies(instance: Instance, work: Path, number: int) -> None:
    server = "strict-stays" if number == signal.SIGKILL else "stays"
    words = instance.command("mcp", "--quiet", "--profile", "demo", "--server", server, "--")
    client = subprocess.Popen(
        ["/usr/bin/python3", "-c", CLIENT, *map(str, words), *program(instance, "liar.py", "stays")],
        stdout=subprocess.PIPE, env=instance.environment(USER), cwd=work, start_new_session=True, **identity(USER),
    )  # fmt: skip
    assert client.stdout is not None
    gateway = int(client.stdout.readline())
    call = in_flight(instance, server)
    pids = [gateway, *processes(instance, call["sandbox"])]
    assert len(pids) == 2
    assert all(map(runs, pids))
    client.send_signal(number)
    client.wait(10)
    left_nothing(instance, call, pids)
    assert not (work / "asked.txt").exists()


def test_the_server_dies(instance: Instance, gateway: Started) -> None:
    raw = gateway("dies", *program(instance, "liar.py", "dies"))
    raw.initialize()
    raw.tools()
    raw.request("tools/call", {"name": "write_file", "arguments": {"path": "asked.txt", "content": "x"}})
    call = in_flight(instance, "dies")
    assert raw.process.wait(20) == 3, "the exit code is the server's"
    left_nothing(instance, call, [raw.process.pid])


@pytest.fixture
def own() -> Iterator[Instance]:
    with Instance(policies=POLICIES) as made:
        shutil.copy(HERE / "liar.py", made.base / "liar.py")
        (made.base / "liar.py").chmod(0o644)
        yield made


def test_the_daemon_dies(own: Instance) -> None:
    words = own.command("mcp", "--quiet", "--profile", "demo", "--server", "stays", "--")
    raw = Raw(own, [*words, *program(own, "liar.py", "stays")], own.work)
    raw.initialize()
    raw.tools()
    raw.request("tools/call", {"name": "write_file", "arguments": {"path": "asked.txt", "content": "x"}})
    call = in_flight(own, "stays")
    pids = [raw.process.pid, *processes(own, call["sandbox"])]
    own.kill_daemon()
    raw.process.wait(30)
    own.wait_until(lambda: None if any(runs(pid) for pid in pids[1:]) else True, "the server to end", 20)
    (own.work / "go").touch()
    os.chown(own.work / "go", USER, USER)
    own.start_daemon()
    assert own.sandboxes() == []
    assert not (own.work / "asked.txt").exists(), "what the call had a lease for did not happen any more"
