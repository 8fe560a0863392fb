"""From a tool's contract and a call's arguments to patterns, leases and ties."""

from pathlib import Path

import pytest

from governed_mcpd.calls.contract import entailed, leases
from governed_mcpd.nouns.action import SideEffect, ToolCall
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.policy.documents import Effect, EnvelopePaths, LeaseCeiling, Profile
from governed_mcpd.subjects.inflight import Call, InFlight
from governed_mcpd.subjects.rules import Places, make

WRITE, READ, EXEC, CONNECT = Operation.FILE_WRITE, Operation.FILE_READ, Operation.PROCESS_EXEC, Operation.NET_CONNECT
RENAME, RESOLVE = Operation.FILE_RENAME, Operation.NET_RESOLVE


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "inner").mkdir()
    return Places(str(tmp_path), "/home/ana", str(tmp_path / "scratch"))


def effect(**fields: object) -> Effect:
    return Effect.model_validate({"operations": ["file.write"], **fields})


def call(contract: list[Effect], arguments: dict[str, object], places: Places, identity: str = "s-c1") -> Call:
    return Call(identity, ToolCall("server", "tool", b"{}"), entailed(contract, arguments, places))


def test_paths(places: Places) -> None:
    here = places.cwd
    of_path = call([effect(argument="$.path")], {"path": "inner/../notes.txt"}, places)
    assert of_path.entails(SideEffect(WRITE, f"{here}/notes.txt"))
    assert not of_path.entails(SideEffect(WRITE, f"{here}/other.txt"))
    assert not of_path.entails(SideEffect(READ, f"{here}/notes.txt"))
    home = call([effect(argument="$.path")], {"path": "~/x"}, places)
    assert home.entails(SideEffect(WRITE, "/home/ana/x"))
    url = call([effect(argument="$.path")], {"path": f"file://{here}/a%20b"}, places)
    assert url.entails(SideEffect(WRITE, f"{here}/a b"))


def test_a_symlink_is_its_target(places: Places) -> None:
    Path(places.cwd, "link").symlink_to("/etc/passwd")
    through = call([effect(argument="$.path")], {"path": "link"}, places)
    assert through.entails(SideEffect(WRITE, "/etc/passwd"))
    assert not through.entails(SideEffect(WRITE, f"{places.cwd}/link"))


def test_lists_and_inner_members(places: Places) -> None:
    found = call([effect(argument="$.work.files[*]")], {"work": {"files": ["a", "b", 3, None]}}, places)
    assert found.entails(SideEffect(WRITE, f"{places.cwd}/b"))
    for arguments in ({}, {"work": {}}, {"work": {"files": "a"}}, {"work": ["files"]}):
        assert entailed([effect(argument="$.work.files[*]")], arguments, places) == ()


def test_under_and_beside(places: Places) -> None:
    here = places.cwd
    under = call([effect(argument="$.path", under=True)], {"path": "inner"}, places)
    assert under.entails(SideEffect(WRITE, f"{here}/inner/deep/file"))
    assert not under.entails(SideEffect(WRITE, f"{here}/innermost"))
    beside = call(
        [effect(operations=["file.write", "file.rename"], argument="$.path", beside=True)], {"path": "n"}, places
    )
    assert beside.entails(SideEffect(WRITE, f"{here}/n.5f3a.tmp"))
    assert beside.entails(SideEffect(RENAME, f"{here}/n.5f3a.tmp", f"{here}/n"))
    assert not beside.entails(SideEffect(RENAME, f"{here}/n.5f3a.tmp", f"{here}/other"))
    assert not beside.entails(SideEffect(WRITE, f"{here}/n.d/inner"))


def test_beside_a_constant(places: Places) -> None:
    here = places.cwd
    graph = call([effect(on="${cwd}/graph.json", beside=True)], {}, places)
    assert graph.entails(SideEffect(WRITE, f"{here}/graph.json"))
    assert graph.entails(SideEffect(WRITE, f"{here}/graph.json.7f3.tmp"))
    assert not graph.entails(SideEffect(WRITE, f"{here}/graph.jsonx"))
    assert not graph.entails(SideEffect(WRITE, f"{here}/graph.json.d/x"))
    assert not call([effect(on="${cwd}/graph.json")], {}, places).entails(SideEffect(WRITE, f"{here}/graph.json.tmp"))
    below = call([effect(on="${cwd}/inner/**", beside=True)], {}, places)
    assert not below.entails(SideEffect(WRITE, f"{here}/inner.d")), "beside a directory there is nothing of it"


def test_both_objects_of_a_rename(places: Places) -> None:
    contract = [effect(operations=["file.rename"], argument=name) for name in ("$.source", "$.destination")]
    found = call(contract, {"source": "a", "destination": "b"}, places)
    assert found.entails(SideEffect(RENAME, f"{places.cwd}/a", f"{places.cwd}/b"))
    assert not found.entails(SideEffect(RENAME, f"{places.cwd}/a", f"{places.cwd}/c"))


def test_addresses_and_commands(places: Places) -> None:
    contract = [effect(operations=["net.connect"], argument="$.url", names="endpoint")]
    assert call(contract, {"url": "https://192.0.2.7/x"}, places).entails(SideEffect(CONNECT, "tcp:192.0.2.7:443"))
    assert call(contract, {"url": "[2001:db8::1]:80"}, places).entails(SideEffect(CONNECT, "tcp:[2001:db8::1]:80"))
    assert entailed(contract, {"url": "https:///x"}, places) == (), "no host"
    contract = [effect(operations=["process.exec"], argument="$.command", names="command")]
    found = call(contract, {"command": "git log -1"}, places)
    assert found.entails(SideEffect(EXEC, "/usr/bin/git", argv=("git", "log", "-1")))
    assert found.entails(SideEffect(EXEC, "/usr/bin/dash", argv=("sh", "-c", "git log -1")))
    assert not found.entails(SideEffect(EXEC, "/usr/bin/git", argv=("git", "push")))


def led(name: str, address: str) -> SideEffect:
    """A connection to an address that this Subject got for a name."""
    return SideEffect(CONNECT, name, details={"address": address, "names": name.split(":")[1]})


def test_names(places: Places) -> None:
    contract = [effect(operations=["net.connect", "net.resolve"], argument="$.url", names="endpoint")]
    found = call(contract, {"url": "https://API.Example.org./x"}, places)
    assert found.entails(SideEffect(RESOLVE, "name:api.example.org"))
    assert not found.entails(SideEffect(RESOLVE, "name:secret.api.example.org"))
    assert found.entails(led("tcp:api.example.org:443", "192.0.2.7"))
    assert not found.entails(led("tcp:other.example.org:443", "192.0.2.7"))
    assert not found.entails(SideEffect(CONNECT, "tcp:192.0.2.7:443", details={"unresolved": "yes"}))
    assert not found.entails(led("tcp:api.example.org:80", "192.0.2.7"))
    number = call(contract, {"url": "https://192.0.2.7/x"}, places)
    assert number.entails(led("tcp:api.example.org:443", "192.0.2.7")), "the argument was the address"
    assert not number.entails(led("tcp:api.example.org:443", "192.0.2.8"))
    german = call(contract, {"url": "https://bücher.example/"}, places)
    assert german.entails(SideEffect(RESOLVE, "name:xn--bcher-kva.example"))
    only = [effect(operations=["net.connect"], argument="$.url", names="endpoint")]
    assert not call(only, {"url": "https://api.example.org"}, places).entails(
        SideEffect(RESOLVE, "name:api.example.org")
    )


def rules(places: Places) -> object:
    ceiling = LeaseCeiling(operations=[WRITE], on="${cwd}/**", uses=5, seconds=60)
    profile = Profile(kind="Profile", name="p", envelope=EnvelopePaths(read=["/"], write=["${cwd}"]), ceiling=[ceiling])
    return make(profile, places)


def test_leases_keep_to_the_ceiling(places: Places) -> None:
    contract = [
        effect(operations=["file.write", "file.rename"], argument="$.path"),
        effect(on="/etc/hosts"),
        effect(operations=["process.exec"], on="/usr/bin/git"),
    ]
    found = leases(entailed(contract, {"path": "n"}, places), [rules(places)], "s-c1", "v1")  # type: ignore[list-item]
    assert [(lease.operations, lease.pattern.text, lease.uses, lease.call) for lease in found] == [
        (frozenset({WRITE}), f"{places.cwd}/n", 5, "s-c1")
    ]


def test_ties(places: Places) -> None:
    flight = InFlight()
    wanted = SideEffect(WRITE, f"{places.cwd}/a")
    assert flight.tie(wanted) is None, "without a gateway there is nothing to be outside of"
    flight.server.governed = True
    tie = flight.tie(wanted)
    assert tie is not None
    assert (tie.outside, tie.calls) == (True, ())
    contract = [effect(argument="$.path")]
    one, other = (call(contract, {"path": "a"}, places, name) for name in ("s-c1", "s-c2"))
    given = leases(one.entailed, [rules(places)], "s-c1", "v1")  # type: ignore[list-item]
    flight.begin(one, given)
    tie = flight.tie(wanted)
    assert tie is not None
    assert tie.call == "s-c1"
    verdict = flight.verdict(wanted, tie, "v1")
    assert verdict is not None
    assert verdict.layer == "contract"
    assert flight.verdict(wanted, tie, "v2") is None, "another policy, another lease"
    assert flight.of_child().verdict(wanted, tie, "v1") is None, "a child Subject has none of the leases"
    flight.begin(other, [])
    shared = flight.tie(wanted)
    assert shared is not None
    assert (shared.call, shared.calls) == ("", ("s-c1", "s-c2")), "two calls say it: neither's"
    flight.end("s-c2")
    flight.end("s-c1")
    assert flight.verdict(wanted, tie, "v1") is None, "the lease has ended with its call"
    flight.server.denies_outside = lambda: True
    outside = flight.verdict(wanted, flight.tie(wanted), "v1")
    assert outside is not None
    assert outside.rule == "outside-contract"
    running = SideEffect(EXEC, "/usr/bin/node", argv=("node",))
    assert flight.verdict(running, flight.tie(running), "v1") is None, "its own start"
    flight.server.ready = True
    assert flight.verdict(running, flight.tie(running), "v1") is not None
