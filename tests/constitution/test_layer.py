"""The layer itself: what Cedar's traps, wrong policies and strange Actions come to."""

import json
import re
from pathlib import Path
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.gate.constitution.compiled import compile_all
from governed_mcpd.gate.constitution.request import requests
from governed_mcpd.gate.constitution.schema import ACTION_ENTITIES, ACTIONS, RESOURCES, SCHEMA, SCHEMA_TEXT
from governed_mcpd.gate.constitution.slices import LEAST_JOINED, Cut, Rule, joined, parsed
from governed_mcpd.gate.layers.constitution import ConstitutionError, ConstitutionLayer, problems
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import Action, Context, SideEffect, ToolCall
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.policy.documents import Constitution
from governed_mcpd.policy.load import load_directory
from tests.constitution import cases

POLICIES = Path(__file__).parents[2] / "policies"
SHIPPED = load_directory(POLICIES).constitutions
COMPILED = compile_all(SHIPPED)
EVERYTHING = cedarpy.PolicySet.from_str(next(iter(SHIPPED.values())).cedar)
PERMIT = '@id("all") @reason("everything") permit (principal, action, resource);\n'
LONG_ROW = PERMIT + '@id("row") @reason("r") forbid (principal, action, resource) when {{ {} }};'
WRITE = cases.action(cases.effect("file.write", f"{cases.TASK}/a"))


def document(cedar: str, name: str = "test") -> Constitution:
    return Constitution(kind="Constitution", name=name, cedar=cedar)


def layer(cedar: str) -> ConstitutionLayer:
    return ConstitutionLayer({"test": document(cedar)})


def test_nothing_permits_without_a_permit() -> None:
    finding = layer('@id("f") @reason("r") forbid (principal, action, resource) when { false };').check(Reading(WRITE))
    assert (finding.result, finding.rule) == ("deny", "no-permit")
    assert ConstitutionLayer({}).check(Reading(WRITE)).rule == "no-permit"
    assert layer(PERMIT).check(Reading(WRITE)).result == "pass"


def test_a_forbid_that_fails_refuses() -> None:
    """Cedar skips it, and says allow: the sum overflows when there is one removal, and fits when there is none."""
    cedar = PERMIT + (
        '@id("overflow") @reason("r") forbid (principal, action == Action::"file.unlink", resource)\n'
        "when { context.removals + 9223372036854775807 < 0 };"
    )
    assert problems(document(cedar)) == []
    unlink = cases.effect("file.unlink", f"{cases.TASK}/a")
    assert layer(cedar).check(Reading(cases.action(unlink))).result == "pass"
    removed = (cases.effect("file.unlink", f"{cases.TASK}/b"),)
    finding = layer(cedar).check(Reading(cases.action(unlink, removed)))
    assert (finding.result, finding.rule) == ("deny", "policy-error")
    assert "overflow" in finding.reason


def test_ask_needs_a_permit_and_yields_to_a_forbid() -> None:
    ask = '@id("a") @reason("why") @decision("ask") forbid (principal, action, resource);\n'
    firm = '@id("f") @reason("no") forbid (principal, action, resource) when { principal.uid == 1000 };\n'
    assert layer(PERMIT + ask).check(Reading(WRITE)).result == "ask"
    assert layer(PERMIT + ask).check(Reading(WRITE)).rule == "a"
    assert layer(ask).check(Reading(WRITE)).rule == "no-permit"
    finding = layer(PERMIT + ask + firm).check(Reading(WRITE))
    assert (finding.result, finding.rule) == ("deny", "f")


def test_either_object_of_a_rename_refuses() -> None:
    cedar = PERMIT + (
        '@id("x") @reason("r") forbid (principal, action in Action::"file.change", resource)'
        ' when { context.path like "/x/*" };'
    )
    for first, second, result in (("/x/a", "/y/a", "deny"), ("/y/a", "/x/a", "deny"), ("/y/a", "/y/b", "pass")):
        assert layer(cedar).check(Reading(cases.action(cases.effect("file.rename", first, second)))).result == result


def test_several_constitutions_hold_together_and_name_their_rules() -> None:
    both = ConstitutionLayer(
        {
            "a": document(PERMIT),
            "b": document('@id("all") @reason("no") forbid (principal, action == Action::"file.write", resource);'),
        }
    )
    assert both.check(Reading(WRITE)).rule == "b/all"
    assert both.check(Reading(cases.action(cases.effect("file.read", "/etc/passwd")))).rule == "a/all"


@pytest.mark.parametrize(
    ("cedar", "said"),
    [
        (PERMIT + "\npermit (principal, action, resource)\nwhen { 1 + };", "line 3: "),
        (
            PERMIT + '\n@id("b") @reason("r")\nforbid (principal, action, resource) when { context.credentail };',
            "line 3: ",
        ),
        ("permit (principal, action, resource);", "line 1: a policy without @id"),
        ('@id("a") permit (principal, action, resource);', "no @reason"),
        ('@id("A B") @reason("r") permit (principal, action, resource);', "expected a name"),
        (PERMIT + PERMIT, "line 2: @id('all') again"),
        ('@id("a") @reason("r") @decision("allow") forbid (principal, action, resource);', "@decision('allow')"),
        ('@id("a") @reason("r") @decision("ask") permit (principal, action, resource);', "@decision('ask')"),
        (
            '@id("a") @reason("r") @desicion("ask") forbid (principal, action, resource);',
            "unknown annotation @desicion",
        ),
        ('@id("a") @reason("r") permit (principal, action == Action::"file.wirte", resource);', "file.wirte"),
        ('@id("a") @reason("r") permit (principal == ?principal, action, resource);', "templates are not used"),
        ("// nothing", "no policy"),
        ('@id("a") @reason("r") forbid (principal, action, resource) when { context.removals > "3" };', ""),
        (
            PERMIT + f"permit (principal, action, resource) when {{ {'!(' * 3000}true{')' * 3000} }};",
            "line 2: nested more",
        ),
        (
            PERMIT + f"permit (principal, action, resource) when {{ {'[' * 65}{']' * 65} == [] }};",
            "line 2: nested more",
        ),
        (PERMIT + f"permit (principal, action, resource) when {{ {'if true then true else ' * 5000}true }};", "nested"),
        (LONG_ROW.format(" || ".join(["principal.nested"] * 100)), "line 2: a condition is nested too deep"),
        (LONG_ROW.format(" || ".join(["principal.nested"] * 2000)), "a condition is nested too deep"),
        (LONG_ROW.format(f'principal.server like "{"x" * 5000}"'), "line 2: a text of more than 4096 characters"),
        (PERMIT * 1001, "more than 1000 policies"),
    ],
)
def test_wrong_constitutions_are_refused(cedar: str, said: str) -> None:
    found = problems(document(cedar))
    assert found
    assert any(said in problem for problem in found), found
    with pytest.raises(ConstitutionError):
        layer(cedar)


def test_just_within_the_bounds_is_taken() -> None:
    row = LONG_ROW.format(" || ".join(["principal.nested"] * 50))
    deep = PERMIT + f'@id("d") @reason("r") forbid (principal, action, resource) when {{ {"(" * 60}false{")" * 60} }};'
    texts = LONG_ROW.format(f'principal.server like "{"x" * 4000}" || principal.server == "// ((((" && {"true"}')
    for cedar in (row, deep, texts):
        assert problems(document(cedar)) == []
        assert layer(cedar).check(Reading(WRITE)).result == "pass"


def test_the_shipped_constitution_is_right() -> None:
    for constitution in SHIPPED.values():
        assert problems(constitution) == []


def test_every_request_fits_the_schema() -> None:
    """Cedar itself checks the request when it is given the schema: every attribute is there, and of its type."""
    everything = cedarpy.PolicySet.from_str("permit (principal, action, resource);")
    principal = {
        "uid": {"type": "Agent", "id": "default"},
        "attrs": {"tier": 1, "uid": 1000, "profile": "p", "server": "", "sandbox": "s", "nested": False},
        "parents": [],
    }
    entities = cedarpy.Entities.from_json_str(json.dumps([principal, *ACTION_ENTITIES]), SCHEMA)
    seen = set()
    for principle in cases.PRINCIPLES.values():
        for case in (*principle.refused, *principle.allowed):
            for request in requests(Reading(cases.action(case.what, case.earlier))):
                question = {
                    "principal": {"type": "Agent", "id": "default"},
                    "action": {"type": "Action", "id": request.action},
                    "resource": {"type": request.resource_type, "id": request.resource_id},
                    "context": json.dumps(request.context),
                }
                result = cedarpy.is_authorized(question, everything, entities, SCHEMA)
                assert result.decision == cedarpy.Decision.Allow, (request, result.diagnostics.errors)
                seen.add(request.action)
    assert seen >= set(ACTIONS) - {"file.chown", "file.times", "file.ioctl", "file.rmdir"}


def test_the_schema_knows_every_operation() -> None:
    assert set(ACTIONS) == {operation.value for operation in Operation} | {"tool.call"}
    types = set(re.findall(r"^entity (\w+)", SCHEMA_TEXT, re.MULTILINE)) - {"Agent"}
    assert {kind for kinds in RESOURCES.values() for kind in kinds} == types
    assert RESOURCES["net.send"] == ("Endpoint", "Socket")


@pytest.mark.parametrize(
    "case", [case for p in cases.PRINCIPLES.values() for case in (*p.refused, *p.allowed)], ids=str
)
def test_slicing_changes_nothing(case: cases.Case) -> None:
    """The same answer as all policies with the whole context give."""
    entities = cedarpy.Entities.from_json_str(
        json.dumps(
            [
                {
                    "uid": {"type": "Agent", "id": "default"},
                    "attrs": {
                        "tier": 1,
                        "uid": 1000,
                        "profile": "default",
                        "server": "",
                        "sandbox": "s1",
                        "nested": False,
                    },
                    "parents": [],
                },
                *ACTION_ENTITIES,
            ]
        )
    )
    for request in requests(Reading(cases.action(case.what, case.earlier))):
        question = {
            "principal": {"type": "Agent", "id": "default"},
            "action": {"type": "Action", "id": request.action},
            "resource": {"type": request.resource_type, "id": request.resource_id},
        }
        whole = cedarpy.is_authorized({**question, "context": json.dumps(request.context)}, EVERYTHING, entities)
        parts = COMPILED.policies[request.action, request.resource_type].all
        assert parts.reads is not None
        little = json.dumps({name: request.context[name] for name in parts.reads})
        part = cedarpy.is_authorized({**question, "context": little}, parts.whole, entities)
        assert part.decision == whole.decision
        assert set(part.diagnostics.reasons) == set(whole.diagnostics.id_annotations_by_reason.values())
        assert not part.diagnostics.errors
        few = COMPILED.policies[request.action, request.resource_type].on(request.context)
        if few is not parts:
            assert few.reads is not None
            assert not few.names_resource
            little = json.dumps({name: request.context[name] for name in few.reads})
            rest = cedarpy.is_authorized({**question, "context": little}, few.whole, entities)
            assert (rest.decision, rest.diagnostics.reasons) == (part.decision, part.diagnostics.reasons)
            assert not rest.diagnostics.errors
        if parts.quick is None:
            assert request.action not in ("file.write", "tool.call", "process.exec", "net.connect")
            continue
        little = json.dumps({name: request.context[name] for name in parts.reads})
        quick = cedarpy.is_authorized({**question, "context": little}, parts.quick, entities)
        assert quick.decision == whole.decision
        if quick.decision == cedarpy.Decision.Allow:
            assert quick.diagnostics.reasons == part.diagnostics.reasons


_UNLINK = '(principal, action == Action::"file.unlink", resource)'
_FAILS = "context.removals + 9223372036854775807 < 0"  # where there is one removal; false where there is none


@pytest.mark.parametrize("others", ["false", "true", "context.removals > 100", "principal.uid == 1000"])
@pytest.mark.parametrize("first", [True, False])
def test_one_of_several_forbids_that_fails_refuses(others: str, first: bool) -> None:
    """Joined to one policy they fail together, or one of them hides that another would have failed."""
    policies = [
        f'@id("fails") @reason("r") forbid {_UNLINK} when {{ {_FAILS} }};',
        f'@id("other") @reason("r") forbid {_UNLINK} when {{ {others} }};',
        f'@id("scope") @reason("r") forbid {_UNLINK.replace("resource", "resource is File")} unless {{ true }};',
    ]
    cedar = PERMIT + "\n".join(policies if first else policies[::-1])
    assert problems(document(cedar)) == []
    asked = layer(cedar)
    assert asked._compiled.policies["file.unlink", "File"].all.quick is not None
    unlink = cases.effect("file.unlink", f"{cases.TASK}/a")
    hit = others in ("true", "principal.uid == 1000")
    assert asked.check(Reading(cases.action(unlink))).result == ("deny" if hit else "pass")
    finding = asked.check(Reading(cases.action(unlink, (cases.effect("file.unlink", f"{cases.TASK}/b"),))))
    assert (finding.result, finding.rule) == ("deny", "policy-error")


_CONDITIONS = st.lists(
    st.tuples(
        st.sampled_from(("when", "unless")),
        st.recursive(
            st.sampled_from(
                (
                    "true", "false", "context.outside", "context.credential", "principal.nested", "principal.tier > 1",
                    'context.path like "/home/*"', 'context.path like "/*/*"', 'context.path like "/*a"',
                    'context.path like "/b"', 'context.path == "/b"', '["/b", "/c"].contains(context.path)',
                    'context.path like "*/a"', "principal.uid == 1000", "context.moved >= 1", "context.moved < 1",
                    'resource == File::"/b"', _FAILS.replace("removals", "moved"),
                )
            ),
            lambda inner: st.one_of(
                inner.map(lambda one: f"!({one})"),
                st.tuples(inner, st.sampled_from(("&&", "||")), inner).map(lambda three: f"({' '.join(three)})"),
            ),
            max_leaves=4,
        ),
    ),
    max_size=3,
)  # fmt: skip
_POLICIES = st.lists(
    st.tuples(
        st.sampled_from(("permit", "forbid", "forbid", "forbid")),
        st.sampled_from(("principal", "principal is Agent", 'principal == Agent::"default"')),
        st.sampled_from(("resource", "resource is File", "resource is Socket", 'resource == File::"/b"')),
        _CONDITIONS,
    ),
    min_size=3,
    max_size=12,
)
# Of another type than a policy expects, or not there: Cedar fails, so a policy fails.
_FACTS = st.fixed_dictionaries(
    {"path": st.sampled_from(("/home/a", "/b", "/"))},
    optional={
        "outside": st.sampled_from((True, False, "true", 0)),
        "credential": st.booleans(),
        "moved": st.sampled_from((0, 1, "1", True)),
    },
)
_Written = list[tuple[str, str, str, list[tuple[str, str]]]]


def _policies_of(written: _Written) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, (effect, principal, resource, conditions) in enumerate(written):
        tail = "".join(f" {kind} {{ {body} }}" for kind, body in conditions)
        text = f"{effect} ({principal}, action, {resource}){tail};"
        found[f"p{number}"] = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"]["policy0"]
        found[f"p{number}"]["annotations"] = {"id": f"p{number}"}
    return found


def _asked(policies: Any, facts: dict[str, Any], resource: str = "") -> tuple[bool, bool, set[str]]:
    """Whether it is allowed, whether a policy failed, and the policies that decided."""
    agent = {"tier": 2, "uid": 1000, "nested": False}
    entities = cedarpy.Entities.from_json_str(
        json.dumps([{"uid": {"type": "Agent", "id": "default"}, "attrs": agent, "parents": []}, *ACTION_ENTITIES])
    )
    question = {
        "principal": {"type": "Agent", "id": "default"},
        "action": {"type": "Action", "id": "file.write"},
        "resource": {"type": "File", "id": resource or facts["path"]},
        "context": json.dumps(facts),
    }
    answer = cedarpy.is_authorized(question, policies, entities)
    return answer.decision == cedarpy.Decision.Allow, bool(answer.diagnostics.errors), set(answer.diagnostics.reasons)


@given(_POLICIES, _FACTS)
@settings(deadline=None, max_examples=200)
def test_joining_forbids_changes_nothing(written: _Written, facts: dict[str, Any]) -> None:
    """What the joined policies allow, each of them by itself allows, by the same permits and without an error; and
    where each by itself allows, the joined ones do."""
    policies = _policies_of(written)
    together = joined(policies)
    if together is None:
        assert sum(policy["effect"] == "forbid" for policy in policies.values()) < LEAST_JOINED + 12
        return
    whole, quick = _asked(parsed(policies), facts), _asked(together, facts)
    if quick[:2] == (True, False):
        assert quick == whole
    if whole[:2] == (True, False):
        assert quick[:2] == (True, False)


@given(_POLICIES, _FACTS)
@settings(deadline=None, max_examples=400)
def test_what_facts_set_aside_could_neither_apply_nor_fail(written: _Written, facts: dict[str, Any]) -> None:
    policies = _policies_of(written)
    rules = {key: Rule(key, "", policy["effect"] == "forbid", False, 0) for key, policy in policies.items()}
    found = Cut(policies, rules).policies_for("file.write", "File")
    few = found.on(facts)
    assert _asked(found.all.whole, facts) == _asked(parsed(policies), facts)
    assert _asked(few.whole, facts) == _asked(found.all.whole, facts)
    if not few.names_resource:
        assert _asked(few.whole, facts, "/b") == _asked(few.whole, facts, "/c") == _asked(few.whole, facts)


@pytest.mark.parametrize(
    ("condition", "facts", "aside"),
    [
        ("context.outside", {"outside": False}, True),
        ("context.outside", {"outside": True}, False),
        ("context.outside", {"outside": "false"}, False),
        ("context.outside", {"outside": 0}, False),
        ("context.outside && context.moved + 9223372036854775807 < 0", {"outside": False, "moved": 1}, True),
        ("context.moved + 9223372036854775807 < 0 && context.outside", {"outside": False, "moved": 1}, False),
        ("context.outside && principal.nested", {"outside": False}, True),
        ("principal.nested && context.outside", {"outside": False}, False),
        ("!context.outside", {"outside": True}, True),
        ('context.path like "/srv/*" || context.path like "*.key"', {"path": "/home/a"}, True),
        ('context.path like "/srv/*" || context.path like "*.key"', {"path": "/srv/a"}, False),
        ('context.path like "/srv/*" || context.path like "*.key"', {"path": "/home/a.key"}, False),
        ('context.path like "/home*a"', {"path": "/homea"}, False),
        ('context.path like "/homea*a"', {"path": "/homea"}, True),
        ('context.path like "/h*m*"', {"path": "/a"}, False),
        ('context.path == "/a"', {"path": "/b"}, True),
        ('["/a", "/c"].contains(context.path)', {"path": "/b"}, True),
        ('["/a", "/b"].contains(context.path)', {"path": "/b"}, False),
        ("context.removals >= 12", {"removals": 11}, True),
        ("context.removals >= 12", {"removals": 12}, False),
        ("context.removals >= 12", {"removals": False}, False),
    ],
)
def test_a_forbid_is_set_aside_by_what_its_condition_begins_with(
    condition: str, facts: dict[str, Any], aside: bool
) -> None:
    cedar = f"permit (principal, action, resource); forbid (principal, action, resource) when {{ {condition} }};"
    policies = json.loads(cedarpy.policies_to_json_str(cedar))["staticPolicies"]
    rules = {key: Rule(key, "", policy["effect"] == "forbid", False, 0) for key, policy in policies.items()}
    found = Cut(policies, rules).policies_for("file.write", "File")
    assert (found.on(facts) is found.rest) == aside


def test_a_scope_of_a_kind_that_nobody_knows_does_not_pass_for_every_action() -> None:
    cedar = 'permit (principal, action == Action::"file.read", resource);'
    policies = json.loads(cedarpy.policies_to_json_str(cedar))["staticPolicies"]
    (key,) = policies
    rules = {key: Rule(key, "", False, False, 0)}
    assert _asked(Cut(policies, rules).policies_for("file.write", "File").all.whole, {"path": "/a"})[0] is False
    policies[key]["action"] = {"op": "like", "pattern": "file.read"}
    with pytest.raises(ValueError, match="'like' of actions"):
        Cut(policies, rules).policies_for("file.write", "File")


def test_actions_with_the_same_policies_share_what_was_made_of_them() -> None:
    cedar = """
    permit (principal, action, resource);
    forbid (principal, action == Action::"file.unlink", resource);
    """
    policies = json.loads(cedarpy.policies_to_json_str(cedar))["staticPolicies"]
    rules = {key: Rule(key, "", policy["effect"] == "forbid", False, 0) for key, policy in policies.items()}
    cut = Cut(policies, rules)
    writes, creates, unlinks = (cut.policies_for(f"file.{name}", "File") for name in ("write", "create", "unlink"))
    assert writes is creates
    assert _asked(writes.all.whole, {"path": "/a"})[0] is True
    assert _asked(unlinks.all.whole, {"path": "/a"})[0] is False


def test_a_policy_that_takes_the_context_in_another_way_gets_all_of_it() -> None:
    cedar = PERMIT + (
        '@id("h") @reason("r") forbid (principal, action == Action::"file.write", resource)'
        ' when { context has path && context.name == "a" };'
    )
    assert layer(cedar).check(Reading(WRITE)).rule == "h"


@pytest.mark.parametrize(
    "what",
    [
        cases.effect("file.write", "relative/path"),
        cases.effect("file.write", f"{cases.TASK}/../.ssh/id_rsa"),
        cases.effect("file.write", f"{cases.TASK}//a"),
        cases.effect("file.write", f"{cases.TASK}/a/"),
        cases.effect("file.write", f"{cases.TASK}/./a"),
        cases.effect("file.write", f"{cases.TASK}/a\0b"),
        cases.effect("file.write", ""),
        cases.effect("file.rename", f"{cases.TASK}/a", ""),
        cases.effect("net.connect", "netlink:0"),
        cases.effect("net.connect", "tcp:1.2.3.4:99999"),
        cases.effect("net.connect", "tcp:1.2.3.4:http"),
        cases.effect("net.connect", "unix:/run/../a"),
        cases.effect("net.connect", "unix:"),
        cases.effect("process.signal", "process:abc"),
        cases.effect("process.signal", "process:0"),
        cases.effect("process.signal", "/bin/sh"),
        cases.effect("process.exec", "sh"),
    ],
    ids=str,
)
def test_what_is_not_canonical_is_refused_even_where_all_is_permitted(what: SideEffect) -> None:
    finding = layer(PERMIT).check(Reading(cases.action(what)))
    assert (finding.result, finding.rule) == ("deny", "unknown-object")
    assert finding.reason.isprintable()


@pytest.mark.parametrize("arguments", [b"[]", b"{", b"\xff", b'{"a":1,"a":2}', b"NaN", b'"x"', b"[" * 100000])
def test_arguments_that_cannot_be_read_are_refused(arguments: bytes) -> None:
    finding = layer(PERMIT).check(Reading(cases.action(ToolCall("s", "t", arguments))))
    assert (finding.result, finding.rule) == ("deny", "unreadable-arguments")
    assert layer(PERMIT).check(Reading(cases.action(ToolCall("s", "t", b"{}")))).result == "pass"


def test_names_that_are_not_utf8_are_judged() -> None:
    shipped = ConstitutionLayer(SHIPPED)
    name = "/caf\udce9.txt"
    assert shipped.check(Reading(cases.action(cases.effect("file.write", cases.TASK + name)))).result == "pass"
    assert shipped.check(Reading(cases.action(cases.effect("file.write", "/srv" + name)))).rule == "no-writes-outside"
    run = SideEffect(Operation.PROCESS_EXEC, "/usr/bin/cat", argv=("cat", name, "\udcff"))
    assert shipped.check(Reading(cases.action(run))).result == "pass"


def test_own_directories_are_governed() -> None:
    shipped = ConstitutionLayer(SHIPPED, ["/home/ada/project/run/"])
    write = cases.action(cases.effect("file.write", "/home/ada/project/run/control"))
    assert shipped.check(Reading(write)).rule == "no-change-of-governed-mcpd"
    assert ConstitutionLayer(SHIPPED).check(Reading(write)).result == "pass"


def test_a_task_started_in_a_system_directory_owns_nothing_of_it() -> None:
    shipped = ConstitutionLayer(SHIPPED)
    for directory in ("/", "/usr", "/tmp"):
        around = Context(directories=(directory,), home="/root")
        action = Action("1", cases.SUBJECT, cases.effect("file.create", f"{directory.rstrip('/')}/new"), around)
        assert shipped.check(Reading(action)).rule == "no-writes-outside"


NAMES = st.text(max_size=40) | st.sampled_from(
    [
        "/",
        "/proc/1/mem",
        "tcp:[::1]:80",
        "tcp:1.2.3.4:5",
        "unix:@a",
        "process:7",
        "/home/ada/project/.git/hooks/x",
        "/dev/sda",
    ]
)
EFFECTS = st.builds(
    SideEffect,
    operation=st.sampled_from(list(Operation)),
    object=NAMES,
    second=NAMES,
    argv=st.lists(st.text(max_size=60), max_size=6).map(tuple),
    details=st.dictionaries(st.sampled_from(["mode", "signal", "attribute", "process"]), st.text(max_size=12)),
)
CALLS = st.builds(ToolCall, server=st.text(max_size=10), tool=st.text(max_size=10), arguments=st.binary(max_size=60))
JSON_CALLS = st.dictionaries(
    st.sampled_from(["path", "url", "command", "args", "host", "x"]),
    st.text(max_size=60) | st.lists(st.text(max_size=20)),
).map(lambda value: ToolCall("s", "t", json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")))


@settings(max_examples=400, deadline=None)
@given(what=EFFECTS | CALLS | JSON_CALLS, earlier=st.lists(EFFECTS, max_size=4).map(tuple), home=NAMES, directory=NAMES)
def test_no_action_makes_it_raise(
    what: SideEffect | ToolCall, earlier: tuple[SideEffect, ...], home: str, directory: str
) -> None:
    around = Context(directories=(directory,), home=home, scratch=home, earlier=earlier)
    finding = _SHIPPED_LAYER.check(Reading(Action("1", cases.SUBJECT, what, around)))
    assert finding.result in ("pass", "ask", "deny")
    assert finding.rule
    assert finding.rule != "policy-error", finding


_SHIPPED_LAYER = ConstitutionLayer(SHIPPED)
