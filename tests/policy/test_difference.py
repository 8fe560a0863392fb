"""What a new set allows more, said before it is applied."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from governed_mcpd.policy.difference import changes, widens
from governed_mcpd.policy.load import PolicySet, parse

Documents = dict[str, dict[str, Any]]
BASE: Documents = {
    "profile": {
        "kind": "Profile",
        "name": "default",
        "reads": "pause",
        "envelope": {"read": ["/usr", "/etc"], "write": ["${cwd}"], "execute": ["/usr"]},
        "protected": ["${home}/.ssh", "/etc/shadow"],
        "free": [{"operations": ["file.write", "file.create"], "on": "${scratch}/**"}],
        "ceiling": [{"operations": ["file.write"], "on": "${cwd}/**", "uses": 100, "seconds": 60}],
        "durable": ["net.connect"],
        "limits": {"pending": 64},
        "environment": {"keep": [], "drop": ["DISPLAY"]},
    },
    "strict": {"kind": "Profile", "name": "strict", "envelope": {"read": ["/usr"]}},
    "agent": {"kind": "Agent", "name": "default", "tier": "AiEnhanced", "users": ["ada"], "profiles": ["default"]},
    "tool": {
        "kind": "Tool",
        "name": "git",
        "tools": {
            "commit": {
                "tier": "AiEnhanced",
                "rate": {"per_second": 1, "burst": 5},
                "pin": "a" * 64,
                "input_schema": {"type": "object"},
                "contract": [{"operations": ["file.write"], "on": "${cwd}/.git/objects/**"}],
            }
        },
    },
    "constitution": {"kind": "Constitution", "name": "c", "cedar": "forbid(principal, action, resource);"},
    "gate": {
        "kind": "Gate",
        "name": "g",
        "thresholds": {"ask": 500, "deny": 900},
        "operations": {"file.write": {"tier": "AiEnhanced", "rate": {"per_second": 10, "burst": 10}}},
    },
}


def policy(documents: Documents) -> PolicySet:
    return parse({f"{name}.yaml": yaml.safe_dump(document).encode() for name, document in documents.items()})


def changed(change: Callable[[Documents], object]) -> PolicySet:
    documents = copy.deepcopy(BASE)
    change(documents)
    return policy(documents)


OLD = policy(BASE)
COMMIT = ("tool", "tools", "commit")


def put(*path: Any) -> Callable[[Documents], object]:
    """`put("gate", "mode", "shadow")` sets that field."""

    def change(documents: Documents) -> None:
        *way, last, value = path
        place: Any = documents
        for key in way:
            place = place[key]
        place[last] = value

    return change


def add(*path: Any) -> Callable[[Documents], object]:
    def change(documents: Documents) -> None:
        *way, value = path
        place: Any = documents
        for key in way:
            place = place[key]
        place.append(value)

    return change


def drop(*path: Any) -> Callable[[Documents], object]:
    def change(documents: Documents) -> None:
        *way, last = path
        place: Any = documents
        for key in way:
            place = place[key]
        del place[last]

    return change


def served(more: dict[str, Any]) -> Callable[[Documents], object]:
    """A model server judges."""
    return lambda documents: documents["gate"].update(
        {"backend": "vllm", "vllm": {"url": "unix:/run/s", "model": "m", **more}}
    )


WIDER = [
    (add("profile", "envelope", "read", "/var"), "the envelope adds read /var"),
    (add("profile", "envelope", "write", "/srv"), "the envelope adds write /srv"),
    (add("profile", "envelope", "execute", "/opt"), "the envelope adds execute /opt"),
    (put("profile", "envelope", "write", ["/"]), "the envelope adds write /"),
    (put("profile", "reads", "envelope"), "reads no longer pause"),
    (drop("profile", "protected", 0), "${home}/.ssh is no longer protected"),
    (put("profile", "protected", ["${home}/.ssh/id_rsa", "/etc/shadow"]), "${home}/.ssh is no longer protected"),
    (add("profile", "free", {"operations": ["file.read"], "on": "/usr/**"}), "file.read on /usr/** runs free"),
    (put("profile", "free", 0, "operations", ["file.write", "file.unlink"]), "runs free"),
    (put("profile", "free", 0, "on", "${cwd}/**"), "file.write, file.create on ${cwd}/** runs free"),
    (put("profile", "ceiling", 0, "uses", 101), "leases may cover file.write on ${cwd}/**, 101 uses in 60 s"),
    (put("profile", "ceiling", 0, "seconds", 61), "leases may cover"),
    (put("profile", "ceiling", 0, "on", "/**"), "leases may cover file.write on /**"),
    (put("profile", "durable", []), "records of net.connect are no longer on disk"),
    (put("profile", "limits", "pending", 65), "limits.pending goes up from 64 to 65"),
    (add("profile", "environment", "keep", "AWS_TOKEN"), "the variable AWS_TOKEN is kept"),
    (put("profile", "environment", "drop", []), "the variable DISPLAY is no longer dropped"),
    (put("new", {"kind": "Profile", "name": "wide", "envelope": {"read": ["/"]}}), "Profile wide: is new"),
    (put("agent", "tier", "System"), "its tier goes up from AiEnhanced to System"),
    (put("agent", "users", []), "anyone in group governed may run it"),
    (put("agent", "users", ["ada", "bob"]), "bob may run it"),
    (put("agent", "profiles", ["default", "strict"]), "it may run under profile strict"),
    (put("agent", "profiles", ["strict", "default"]), "it may run under profile strict"),
    (put("new", {"kind": "Agent", "name": "b", "tier": "Classic", "profiles": ["default"]}), "Agent b: is new"),
    (put(*COMMIT, "tier", "Classic"), "the least tier goes down from AiEnhanced to Classic"),
    (put(*COMMIT, "rate", "burst", 6), "its rate goes up to 1/s, burst 6"),
    (drop(*COMMIT, "rate"), "its rate goes up to no limit"),
    (drop(*COMMIT, "pin"), "its pin is removed"),
    (put(*COMMIT, "pin", "b" * 64), "its pin changes"),
    (put(*COMMIT, "input_schema", {}), "its input schema changes"),
    (
        add(*COMMIT, "contract", {"operations": ["file.create"], "argument": "$.path", "under": True}),
        "adds file.create on $.path and beneath",
    ),
    (put("tool", "tools", "push", {}), "push: is new"),
    (put("tool", "tools", {"push": {}}), "commit is no longer declared"),
    (drop("tool"), "Tool git is removed"),
    (put("constitution", "cedar", "permit(principal, action, resource);"), "Constitution c changes"),
    (drop("constitution"), "Constitution c is removed"),
    (
        put("new", {"kind": "Constitution", "name": "d", "cedar": "permit(principal, action, resource);"}),
        "Constitution d is new",
    ),
    (put("gate", "mode", "shadow"), "mode shadow: nothing is refused any more"),
    (put("gate", "uncertain", "flag"), "allowed and flagged"),
    (put("gate", "thresholds", "ask", 501), "the threshold ask goes up from 500 to 501"),
    (put("gate", "thresholds", "deny", 1000), "the threshold deny goes up from 900 to 1000"),
    (put("gate", "class_thresholds", {"net": {"ask": 501, "deny": 900}}), "net: the threshold ask goes up from 500 to"),
    (served({}), "another backend judges: embedded → vllm"),
    (put("gate", "alpha_thousandths", 800), "alpha goes from 900 to 800"),
    (put("gate", "operations", {}), "file.write: the least tier goes down"),
    (put("gate", "operations", "file.write", "rate", "per_second", 11), "file.write: its rate goes up to 11/s"),
    (put("gate", "person_seconds", 700), "person_seconds goes up from 600 to 700"),
]

NARROWER = [
    put("profile", "envelope", "read", ["/usr"]),
    put("profile", "envelope", "read", ["/usr", "/etc", "/usr/share"]),
    add("profile", "protected", "/etc/gshadow"),
    put("profile", "protected", ["${home}", "/etc/shadow"]),
    put("profile", "free", []),
    put("profile", "free", 0, "on", "${scratch}/a/**"),
    put("profile", "ceiling", 0, "uses", 1),
    put("profile", "ceiling", 0, "on", "${cwd}/src/**"),
    put("profile", "durable", ["net.connect", "file.write"]),
    put("profile", "limits", "pending", 1),
    add("profile", "environment", "drop", "SSH_AUTH_SOCK"),
    drop("strict"),
    put("agent", "tier", "Classic"),
    put(*COMMIT, "tier", "System"),
    put(*COMMIT, "rate", "burst", 1),
    put(*COMMIT, "contract", []),
    put("gate", "thresholds", "ask", 100),
    put("gate", "class_thresholds", {"net": {"ask": 400, "deny": 900}}),
    put("gate", "operations", "file.read", {"tier": "System"}),
    put("gate", "operations", "file.write", "rate", "burst", 1),
    put("gate", "person_seconds", 60),
    put("gate", "description", "other words"),
]


@pytest.mark.parametrize(("change", "said"), WIDER)
def test_wider(change: Callable[[Documents], object], said: str) -> None:
    new = changed(change)
    found = widens(OLD, new)
    assert any(said in sentence for sentence in found), found
    assert changes(OLD, new)
    assert all(sentence.isprintable() for sentence in found + changes(OLD, new))


@pytest.mark.parametrize("change", NARROWER)
def test_narrower_is_not_called_wider(change: Callable[[Documents], object]) -> None:
    new = changed(change)
    assert widens(OLD, new) == []
    assert changes(OLD, new)


def test_the_same_is_the_same() -> None:
    assert widens(OLD, policy(BASE)) == []
    assert changes(OLD, policy(BASE)) == []


def test_changes_are_told_field_by_field() -> None:
    new = changed(put("gate", "thresholds", "ask", 100))
    assert changes(OLD, new) == ["Gate: thresholds.ask goes from 500 to 100"]
    new = changed(put("profile", "protected", ["/etc/shadow", "/etc/gshadow"]))
    assert changes(OLD, new) == ["Profile default: protected adds /etc/gshadow and removes ${home}/.ssh"]
    new = changed(put("constitution", "cedar", "permit(principal,\naction, resource);"))
    assert changes(OLD, new) == ["Constitution c: cedar: the text changes"]


def test_another_model_server_or_another_way_to_ask_it_is_said() -> None:
    old = changed(served({}))
    for more in ({"model": "n"}, {"url": "unix:/run/t"}, {"before": "x"}, {"fingerprint": [1] * 7}):
        assert widens(old, changed(served(more))) == [
            "Gate: another server or model judges, or it is asked otherwise: read the new vllm"
        ]
    assert widens(old, changed(served({}))) == []
