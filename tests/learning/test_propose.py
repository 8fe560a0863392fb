"""What is learned from a run, and what a server that knows that it is watched gets itself: nothing wide."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from blake3 import blake3

from governed_mcpd.learning.observe import observe
from governed_mcpd.learning.propose import Proposal, propose
from governed_mcpd.learning.write import NotSaid, document, prove, text
from governed_mcpd.policy.documents import Effect
from governed_mcpd.policy.load import read_files

CWD = "/home/u/work"
SHIPPED = read_files(Path(__file__).resolve().parents[2] / "policies")
Record = dict[str, Any]
Doing = tuple[str, str]  # operation and object


class Run:
    """The records of one run of one server."""

    def __init__(self, server: str = "notes") -> None:
        self._numbers = itertools.count(1)
        self.server = server
        start = {"kind": "sandbox.start", "sandbox": "s1", "subject": {"server": server}, "cwd": CWD}
        self.records: list[Record] = [{"seq": next(self._numbers), **start}]

    def effect(self, operation: str, name: str, during: Iterable[str], **more: Any) -> None:
        record = {"kind": "effect", "sandbox": "s1", "operation": operation, "object": name, "decision": "allow"}
        self.records.append({"seq": next(self._numbers), **record, "calls": list(during), **more})

    def call(self, tool: str, arguments: Record, *doings: Doing, text: str | None = None) -> str:
        """One call, and what happened while it was alone in flight."""
        number = next(self._numbers)
        exact = orjson.dumps(arguments)
        told = {"digest": blake3(exact).hexdigest(), "text": exact.decode() if text is None else text}
        record = {"kind": "call", "sandbox": "s1", "server": self.server, "tool": tool, "decision": "allow"}
        self.records.append({"seq": number, **record, "call": f"s1-c{number}", "arguments": told})
        for operation, name in doings:
            self.effect(operation, name, [f"s1-c{number}"])
        return f"s1-c{number}"

    def proposals(self, **more: Any) -> dict[str, Proposal]:
        return {found.tool: found for found in propose(observe(self.server, self.records), **more)}

    def written(self, **more: Any) -> str:
        """The text, proved to be read as what is meant."""
        seen = observe(self.server, self.records)
        proposals = propose(seen, **more)
        found = text(seen, proposals, {})
        prove(found, document(self.server, proposals, {}), SHIPPED)
        return found


def entries(proposal: Proposal) -> list[tuple[tuple[str, ...], str, str]]:
    return [(entry.operations, entry.argument or entry.on, entry.how) for entry in proposal.entries]


def test_what_follows_from_an_argument_is_proposed() -> None:
    run = Run()
    run.call("write", {"path": "a.txt", "text": "x"}, ("file.create", f"{CWD}/a.txt"))
    run.call("write", {"path": "b.txt", "text": "x"}, ("file.create", f"{CWD}/b.txt"))
    run.call("write", {"path": "b.txt", "text": "x"}, ("file.truncate", f"{CWD}/b.txt"))
    found = run.proposals()["write"]
    # Truncating was seen with one value only: that is no rule yet, and it is said.
    assert entries(found) == [(("file.create",), "$.path", "exact")]
    assert found.entries[0].seen == ("file.create: in 2 of 3 calls, 2 different values",)
    assert any("file.truncate" in said for said in found.left_out)
    assert 'argument: "$.path"' in run.written()


def test_lists_and_nested_arguments_and_commands() -> None:
    run = Run()
    for name in ("a", "b"):
        run.call(
            "read",
            {"files": [f"{name}1", f"{name}2"], "in": {"log": f"/var/{name}.log"}},
            ("file.read", f"{CWD}/{name}1"),
            ("file.read", f"{CWD}/{name}2"),
            ("file.read", f"/var/{name}.log"),
        )
        one = run.call("sh", {"command": f"make {name}"})
        run.effect("process.exec", "/usr/bin/dash", [one], argv={"words": ["/bin/sh", "-c", f"make {name}"]})
    found = run.proposals()
    assert entries(found["read"]) == [
        (("file.read",), "$.files[*]", "exact"),
        (("file.read",), "$.in.log", "exact"),
    ]  # fmt: skip
    assert entries(found["sh"]) == [(("process.exec",), "$.command", "command")]
    assert 'names: "command"' in run.written()


def test_a_program_that_writes_beside_and_renames() -> None:
    run = Run()
    for name in ("a", "b"):
        path = f"{CWD}/{name}"
        one = run.call("save", {"path": name}, ("file.create", f"{path}.7f3.tmp"))
        run.effect("file.rename", f"{path}.7f3.tmp", [one], second=path)
    assert (("file.create", "file.rename"), "$.path", "beside") in entries(run.proposals()["save"])
    # Without the rename, a name that only begins like the argument is another file.
    other = Run()
    for name in ("a", "b"):
        other.call("save", {"path": name}, ("file.create", f"{CWD}/{name}.sh"))
    assert other.proposals()["save"].entries == []


def test_a_name_that_is_an_argument_is_not_beside_another() -> None:
    run = Run()
    for name in ("a", "b"):
        one = run.call("move", {"source": name, "destination": f"{name}.old"})
        run.effect("file.rename", f"{CWD}/{name}", [one], second=f"{CWD}/{name}.old")
    rename = ("file.rename",)
    assert entries(run.proposals()["move"]) == [(rename, "$.destination", "exact"), (rename, "$.source", "exact")]


def test_one_value_is_no_rule() -> None:
    run = Run()
    for _ in range(5):
        run.call("write", {"path": "a.txt"}, ("file.create", f"{CWD}/a.txt"))
    found = run.proposals()["write"]
    assert found.entries == []
    assert "does not follow from an argument that had two different values" in found.left_out[0]


# ---- the server lies


def test_what_every_call_does_besides_is_said_and_not_proposed() -> None:
    run = Run()
    for name in ("a", "b", "c"):
        run.call("read", {"path": name}, ("file.read", f"{CWD}/{name}"), ("file.write", "/home/u/.bashrc"),
                 ("net.connect", "tcp:203.0.113.9:443"), ("process.exec", "/bin/sh"))  # fmt: skip
    for constants in (False, True):
        found = run.proposals(constants=constants)["read"]
        assert entries(found) == [(("file.read",), "$.path", "exact")]
        said = "\n".join(found.left_out)
        assert all(name in said for name in ("/home/u/.bashrc", "203.0.113.9", "/bin/sh"))
        assert "in 3 of 3 calls" in said


def test_constants_only_when_asked_for_beneath_the_directory_and_in_every_call() -> None:
    run = Run()
    for number, name in enumerate(("a", "b", "c")):
        sometimes = [("file.write", f"{CWD}/sometimes")] if number else []
        run.call("add", {"name": name}, ("file.write", f"{CWD}/graph.json"), ("file.write", "/etc/other"), *sometimes)
    assert run.proposals()["add"].entries == []
    assert entries(run.proposals(constants=True)["add"]) == [(("file.write",), "${cwd}/graph.json", "exact")]
    assert run.proposals(reads_only=["add"], constants=True)["add"].entries == []


def test_a_file_whose_name_is_a_pattern() -> None:
    """A file called ** in the directory: as a constant it would be read as everything in it."""
    run = Run()
    for name in ("a", "b"):
        run.call("add", {"name": name}, ("file.write", f"{CWD}/**"), ("file.write", f"{CWD}/${{home}}/x"),
                 ("file.write", f"{CWD}/x*"), ("file.write", f"{CWD}/fine"))  # fmt: skip
    found = run.proposals(constants=True)["add"]
    assert entries(found) == [(("file.write",), "${cwd}/fine", "exact")]
    assert "/**" not in [line.split("on: ")[-1] for line in run.written(constants=True).splitlines() if " on: " in line]


@pytest.mark.parametrize("break_", ["\n", "\r", "\x85", "\u2028", "\u2029"], ids=repr)
def test_a_name_does_not_end_its_comment(break_: str) -> None:
    """What is left out stands in comments; a file's name can hold anything, a document of the server's among it."""
    planted = f"{CWD}/x{break_}    contract:{break_}      - operations: [file.write]{break_}        on: /**"
    run = Run()
    for name in ("a", "b"):
        run.call("read", {"path": name}, ("file.read", f"{CWD}/{name}"), ("file.write", planted))
    written = run.written()
    assert "on: /**" in written, "it is said"
    assert [line for line in written.splitlines() if "on: /**" in line and not line.strip().startswith("#")] == []


def test_a_tool_whose_name_is_no_line() -> None:
    run = Run()
    run.call("x\n  outside: decide", {"path": "a"}, ("file.read", f"{CWD}/a"))
    with pytest.raises(NotSaid, match="not printable"):
        run.written()
    quoted = Run()
    for name in ("a", "b"):
        quoted.call('x": {}, "y', {"path": name}, ("file.read", f"{CWD}/{name}"))
    assert json.dumps('x": {}, "y') in quoted.written(), "a quote is only a quote"


def test_a_directory_that_holds_everything_explains_nothing() -> None:
    """The caller names its whole project, or /: then whatever the server does lies beneath an argument."""
    for root in (CWD, "/home/u", "/", "."):
        run = Run()
        for number in range(4):
            names = [("file.write", f"{CWD}/sub{number}/{other}") for other in range(3)]
            run.call("scan", {"root": root if number % 2 else "/home"}, *names)
        assert run.proposals()["scan"].entries == [], root


def test_beneath_a_directory_needs_two_directories_and_many_names() -> None:
    run = Run()
    for name in ("a", "b"):
        run.call("scan", {"root": name}, *(("file.read", f"{CWD}/{name}/{number}") for number in range(3)))
        run.call("mark", {"root": name}, ("file.write", f"{CWD}/{name}/.mark"))
    found = run.proposals()
    assert entries(found["scan"]) == [(("file.read",), "$.root", "under")]
    assert "everything beneath the directory" in run.written()
    assert found["mark"].entries == [], "one name beneath each is not everything beneath each"


def test_what_was_refused_or_would_have_been() -> None:
    run = Run()
    for name in (".ssh/id_rsa", ".ssh/id_ed25519"):
        one = run.call("read", {"path": f"/home/u/{name}"})
        run.effect("file.read", f"/home/u/{name}", [one], would_deny=True, rule="no-credentials")
        run.effect("file.write", f"/home/u/{name}", [one], decision="deny", rule="envelope")
    found = run.proposals()["read"]
    assert found.entries == []
    assert any("the gate would have refused it: no-credentials" in said for said in found.left_out)
    assert any("refused: envelope" in said for said in found.left_out)


def test_effects_that_no_call_or_several_had() -> None:
    run = Run()
    one, two = run.call("write", {"path": "a"}), run.call("write", {"path": "b"})
    run.effect("file.create", f"{CWD}/a", [one, two])
    run.effect("file.create", f"{CWD}/b", [one, two])
    run.effect("file.create", f"{CWD}/a", [])
    run.effect("file.create", f"{CWD}/b", [])
    assert run.proposals()["write"].entries == []
    written = run.written()
    assert "2 effects happened while several calls were in flight" in written
    assert "2 effects happened while no call was in flight" in written


def test_a_tool_that_says_that_it_only_reads() -> None:
    run = Run()
    for name in ("a", "b"):
        run.call("look", {"path": name}, ("file.read", f"{CWD}/{name}"), ("file.unlink", f"{CWD}/{name}"))
    assert entries(run.proposals()["look"]) == [(("file.read", "file.unlink"), "$.path", "exact")]
    careful = run.proposals(reads_only=["look"])["look"]
    assert entries(careful) == [(("file.read",), "$.path", "exact")]
    assert any("file.unlink" in said and "only reads" in said for said in careful.left_out)


def test_arguments_that_were_redacted_explain_nothing() -> None:
    run = Run()
    for name in ("a", "b"):
        run.call("read", {"path": name}, ("file.read", f"{CWD}/{name}"), text=json.dumps({"path": f"{CWD}/{name}"}))
    found = run.proposals()["read"]
    assert found.entries == []
    assert any("2 calls whose arguments" in said for said in found.left_out)


def test_the_least_of_it_is_what_the_contract_means() -> None:
    """Read back, each entry is one that a contract has."""
    run = Run()
    for name in ("a", "b"):
        run.call("read", {"path": name}, ("file.read", f"{CWD}/{name}"))
    meant = document("notes", list(run.proposals().values()), {})
    assert [Effect.model_validate(entry).argument for entry in meant["tools"]["read"]["contract"]] == ["$.path"]


def test_where_a_url_leads_is_proposed() -> None:
    run = Run()
    for host in ("a.example.org", "b.example.org"):
        one = run.call("fetch", {"url": f"https://{host}/page", "note": "x"}, ("net.resolve", f"name:{host}"))
        run.effect("net.connect", f"tcp:{host}:443", [one], details={"address": "192.0.2.7"})
        run.effect("net.connect", "tcp:collector.example.net:443", [one])
    two = run.call("ask", {"server": "192.0.2.9:8080"}, ("net.connect", "tcp:192.0.2.9:8080"))
    run.effect("net.connect", "tcp:[2001:db8::1]:80", [two])
    run.call("ask", {"server": "http://[2001:db8::2]"}, ("net.connect", "tcp:[2001:db8::2]:80"))
    found = run.proposals()
    assert entries(found["fetch"]) == [(("net.connect", "net.resolve"), "$.url", "endpoint")]
    assert any("collector.example.net" in said for said in found["fetch"].left_out)
    assert entries(found["ask"]) == [(("net.connect",), "$.server", "endpoint")]
    assert any("2001:db8::1" in said for said in found["ask"].left_out)
    assert 'names: "endpoint"' in run.written()


def test_one_host_is_no_rule() -> None:
    run = Run()
    for page in ("one", "two"):
        run.call("fetch", {"url": f"https://a.example.org/{page}"}, ("net.connect", "tcp:a.example.org:443"))
    assert run.proposals()["fetch"].entries == []
