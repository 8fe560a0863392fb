"""`governedctl tools learn`: a server without a Tool document, watched in shadow mode; what the document then does."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2
from tests.gateway.conftest import HERE, files_document, program
from tests.gateway.raw import Raw, text_of
from tests.support.instance import SHIPPED_POLICIES, Instance
from tests.support.users import USER, identity

SHADOW = (SHIPPED_POLICIES / "gate.yaml").read_text().replace("mode: enforce", "mode: shadow")
Record = dict[str, Any]


@pytest.fixture(scope="module")
def shadow() -> Iterator[Instance]:
    """Everything in shadow mode, and no document of the servers here."""
    with Instance(policies={"gate.yaml": SHADOW}) as made:
        shutil.copy(HERE / "liar.py", made.base / "liar.py")
        (made.base / "liar.py").chmod(0o644)
        yield made


def started(instance: Instance, server: str, mode: str, work: Path, *words: str) -> Raw:
    command = program(instance, "liar.py", mode, *words)
    return Raw(
        instance, instance.command("mcp", "--quiet", "--profile", "demo", "--server", server, "--", *command), work
    )


def directory(instance: Instance, name: str) -> Path:
    made = instance.work / name
    made.mkdir()
    os.chown(made, USER, USER)
    return made


def use(raw: Raw) -> None:
    """What a person does to have it learned: each tool, with several values."""
    raw.initialize()
    raw.tools()
    for name in ("one.txt", "two.txt", "three.txt"):
        assert text_of(raw.call("write_file", {"path": name, "content": f"the text of {name}"})) == "written"
    for name in ("one.txt", "two.txt"):
        assert text_of(raw.call("read_file", {"path": name})) == f"the text of {name}"


def learned(instance: Instance, server: str, *options: str) -> str:
    done = instance.ctl("tools", "learn", server, *options, user=USER)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contracts(text: str) -> dict[str, list[Record]]:
    from governed_mcpd.policy.text import read

    (found,) = read("learned.yaml", text.encode())
    return {name: tool.get("contract", []) for name, tool in found.value["tools"].items()}


def test_learned_applied_and_enforced(shadow: Instance) -> None:
    work = directory(shadow, "honest")
    with started(shadow, "files", "honest", work) as raw:
        use(raw)
    call = shadow.wait_for_record(lambda found: found["kind"] == "call" and found["server"] == "files")
    assert (call["decision"], call["would_deny"], call["rule"]) == ("allow", True, "unknown-tool")
    text = learned(shadow, "files")
    write = {"operations": ["file.create"], "argument": "$.path"}
    assert contracts(text) == {
        "read_file": [{"operations": ["file.read"], "argument": "$.path"}],
        "write_file": [write],
    }
    assert "# file.create: in 3 of 3 calls, 3 different values" in text
    assert "input_schema:" in text
    with Instance(policies={"tool-files.yaml": text}) as enforcing:
        shutil.copy(HERE / "liar.py", enforcing.base / "liar.py")
        honest, other = directory(enforcing, "honest"), directory(enforcing, "other")
        with started(enforcing, "files", "honest", honest) as raw:
            raw.initialize()
            assert raw.tools() == ["read_file", "write_file"]
            assert text_of(raw.call("write_file", {"path": "new.txt", "content": "x"})) == "written"
            covered = enforcing.wait_for_record(lambda found: found.get("object") == str(honest / "new.txt"))
            assert covered["layer"] == "contract"
            assert covered["call"]
        with started(enforcing, "files", "other-file", other) as raw:
            raw.initialize()
            raw.call("write_file", {"path": "new.txt", "content": "x"})
            flagged = enforcing.wait_for_record(lambda found: found.get("object") == str(other / "other.txt"))
            assert flagged["outside_contract"] is True
            assert "call" not in flagged


def test_a_liar_learns_nothing_for_itself(shadow: Instance) -> None:
    """It does something besides in every call; the document has what its arguments say, and tells of the rest."""
    for mode, said in (("other-file", "other.txt"), ("shell", "/usr/bin/dash"), ("early", "early")):
        work = directory(shadow, mode)
        server = f"liar-{mode}"
        with started(shadow, server, mode, work) as raw:
            raw.initialize()
            raw.tools()
            for name in ("one.txt", "two.txt"):
                (work / name).write_text("x")
                raw.call("write_file", {"path": name, "content": "x"})
                raw.call("read_file", {"path": name})
        text = learned(shadow, server)
        allowed = {(op, entry.get("argument")) for tool in contracts(text).values() for entry in tool
                   for op in entry["operations"]}  # fmt: skip
        assert allowed <= {("file.read", "$.path"), ("file.write", "$.path"), ("file.create", "$.path"),
                           ("file.truncate", "$.path")}, mode  # fmt: skip
        assert said in text, "a person sees it"


def test_a_tool_with_planted_words_is_withheld_in_shadow_too(shadow: Instance) -> None:
    with started(shadow, "poisoned", "poison", directory(shadow, "poison")) as raw:
        raw.initialize()
        assert raw.tools() == ["write_file"]
        assert raw.call("read_file", {"path": "x"})["isError"] is True
    record = shadow.wait_for_record(lambda found: found["kind"] == "tools.withheld" and found["server"] == "poisoned")
    assert [tool["name"] for tool in record["tools"]] == ["read_file"]


def test_a_server_whose_name_is_a_path_is_not_known_in_shadow(shadow: Instance) -> None:
    """What is accepted lies in a file of the server's name; the name comes from whoever runs the gateway."""
    name = "../../../escape"
    with shadow.connect() as client:
        client.tell(pb.ControlRequest(mcp_open=pb.McpOpenRequest(remote=pb.RunRequest(
            argv=[b"true"], cwd=b"/", home=b"/root", server=name))))  # fmt: skip
        opened = next(client.replies("mcp_opened", timeout=10))
        assert opened.mcp_opened.sandbox.startswith("remote-")
        form = json.dumps({"name": "x", "inputSchema": {"type": "object"}}).encode()
        tools = pb.McpTools(tools=[pb.ListedTool(form=form)], digest=b"1")
        client.tell(pb.ControlRequest(mcp=pb.McpMessage(id=1, tools=tools)))
        judged = next(client.replies("mcp", timeout=10)).mcp
        assert [tool.rule for tool in judged.tools.withheld] == ["unknown-tool"]
        client.tell(pb.ControlRequest(mcp=pb.McpMessage(id=2, call=pb.McpCall(tool="x", arguments=b"{}"))))
        assert next(client.replies("mcp", timeout=10)).mcp.decided.decision == nouns_pb2.DECISION_DENY
    assert not list(shadow.state_dir.parent.rglob("escape*"))


def test_watching(shadow: Instance) -> None:
    work = directory(shadow, "watched")
    with started(shadow, "watched", "honest", work) as raw:
        use(raw)  # before: does not count
    watching = subprocess.Popen(
        list(map(str, shadow.command("tools", "learn", "watched", "--watch"))),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=shadow.environment(USER), cwd=work,
        **identity(USER),
    )  # fmt: skip
    assert watching.stderr is not None
    assert "watching" in watching.stderr.readline()
    with started(shadow, "watched", "honest", work) as raw:
        raw.initialize()
        raw.tools()
        for name in ("four.txt", "five.txt"):
            raw.call("write_file", {"path": name, "content": "x"})
    shadow.wait_for_record(lambda found: found.get("object") == str(work / "five.txt"))
    time.sleep(1.0)  # until what is followed has come
    watching.send_signal(signal.SIGINT)
    text, errors = watching.communicate(timeout=20)
    assert watching.returncode == 0, errors
    assert "Learned from 2 calls" in text
    assert list(contracts(text)) == ["write_file"]


def test_nothing_seen_and_enforcing(shadow: Instance) -> None:
    done = shadow.ctl("tools", "learn", "never-run", user=USER)
    assert done.returncode == 1
    assert "mode: shadow" in done.stderr
    with Instance(policies={"tool-honest.yaml": files_document("honest")}) as enforcing:
        shutil.copy(HERE / "liar.py", enforcing.base / "liar.py")
        with started(enforcing, "unheard", "honest", enforcing.work) as raw:
            raw.initialize()
            assert raw.tools() == [], "where the gate enforces, a server without a document offers nothing"
