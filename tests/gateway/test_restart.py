"""A daemon that was killed while a call was in flight, and the next one: it still knows the server as a governed one.

A gateway ends when it loses its daemon, and ends its server, which takes seconds if that does not obey; one that hangs
ends nothing. The server goes on under the next daemon meanwhile, where nothing that it does is of a call any more.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import HERE, POLICIES, program
from tests.gateway.raw import Raw
from tests.gateway.test_bypasses import effect_on
from tests.supervisor.test_keep import Manager
from tests.support.instance import Instance
from tests.support.users import USER

CALLED = {"level": "info", "data": "called"}  # what the server says as soon as it has the call


@pytest.fixture
def kept() -> Iterator[tuple[Instance, Manager]]:
    with Instance(policies=POLICIES) as made:
        shutil.copy(HERE / "liar.py", made.base / "liar.py")
        (made.base / "liar.py").chmod(0o644)
        manager = Manager(made.base / "notify")
        made.stop_daemon()
        manager.start(made)
        yield made, manager
        manager.close()


@pytest.mark.parametrize("server", ["stays", "strict-stays"])
def test_a_governed_server_stays_one(kept: tuple[Instance, Manager], server: str) -> None:
    instance, manager = kept
    words = instance.command("mcp", "--quiet", "--profile", "demo", "--server", server, "--")
    raw = Raw(instance, [*words, *program(instance, "liar.py", "stays")], instance.work)
    raw.initialize()
    raw.tools()
    raw.request("tools/call", {"name": "write_file", "arguments": {"path": "asked.txt", "content": "x"}})
    call = instance.wait_for_record(lambda found: found["kind"] == "call" and found["server"] == server)
    sandbox = call["sandbox"]
    # The record comes first: stopped between it and the passing on, the gateway leaves the server without its call.
    assert raw.read() == {"jsonrpc": "2.0", "method": "notifications/message", "params": CALLED}
    raw.process.send_signal(signal.SIGSTOP)  # a gateway that hangs
    instance.kill_daemon()
    manager.start(instance)
    assert [info.subject.sandbox for info in instance.sandboxes()] == [sandbox]
    end = instance.wait_for_record(lambda found: found["kind"] == "call.end" and found["call"] == call["call"])
    assert (end["outcome"], end["first_seq"]) == ("gone", call["seq"])
    go(instance.work)
    for name in ("asked.txt", "late.txt"):
        effect = effect_on(instance, instance.work / name)
        assert effect["outside_contract"] is True, "no call is in flight, and its lease is gone"
        assert effect["calls"] == []
        assert (effect["decision"] == "deny") == (server == "strict-stays")
    instance.wait_until(lambda: True if not instance.sandboxes() else None, "the sandbox to end", 20)
    for name in ("asked.txt", "late.txt"):  # only now: the record comes before the effect
        assert (instance.work / name).exists() == (server == "stays")
    assert len([found for found in instance.journal() if found["kind"] == "call.end"]) == 1
    raw.process.send_signal(signal.SIGCONT)
    raw.process.wait(20)


def test_a_call_that_had_ended_is_not_ended_again(kept: tuple[Instance, Manager]) -> None:
    instance, manager = kept
    words = instance.command("mcp", "--quiet", "--profile", "demo", "--server", "stays", "--")
    raw = Raw(instance, [*words, *program(instance, "liar.py", "stays")], instance.work)
    raw.initialize()
    raw.tools()
    raw.call("read_file", {"path": "nothing"})
    instance.wait_for_record(lambda found: found["kind"] == "call.end")
    raw.process.send_signal(signal.SIGSTOP)  # a gateway that hangs
    instance.kill_daemon()
    manager.start(instance)
    go(instance.work)
    assert effect_on(instance, instance.work / "late.txt")["outside_contract"] is True
    assert [found["outcome"] for found in instance.journal() if found["kind"] == "call.end"] == ["result"]
    raw.process.send_signal(signal.SIGCONT)
    raw.process.wait(20)


def go(work: Path) -> None:
    (work / "go").touch()
    os.chown(work / "go", USER, USER)
