"""Leases: how often, how long, under which policy, on which objects."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern, PatternKind
from governed_mcpd.subjects import leases
from governed_mcpd.subjects.leases import Ledger
from governed_mcpd.subjects.rules import Ceiling

WRITE, CREATE, RENAME = Operation.FILE_WRITE, Operation.FILE_CREATE, Operation.FILE_RENAME


def lease(pattern: str, *operations: Operation, uses: int = 1, seconds: int = 60, policy: str = "v1") -> Lease:
    return Lease(frozenset(operations or {WRITE}), Pattern.parse(pattern), uses, seconds, policy)


def holds(ledger: Ledger, name: str, operation: Operation = WRITE, second: str = "", policy: str = "v1") -> bool:
    return ledger.use(SideEffect(operation, name, second), policy) is not None


@pytest.mark.parametrize("pattern", ["/a/b", "/a/**", "/**"])
def test_so_many_uses_and_no_more(pattern: str) -> None:
    ledger = Ledger()
    ledger.add(lease(pattern, WRITE, CREATE, uses=3), "rule")
    assert [holds(ledger, "/a/b", operation) for operation in (WRITE, CREATE, WRITE, WRITE, CREATE)] == [
        True, True, True, False, False]  # fmt: skip


@pytest.mark.parametrize("pattern", ["/a/b", "/a/**"])
def test_until_it_expires(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    ledger.add(lease(pattern, uses=10, seconds=5), "rule")
    assert holds(ledger, "/a/b")
    now = time.monotonic()
    monkeypatch.setattr(leases.time, "monotonic", lambda: now + 4.9)
    assert holds(ledger, "/a/b")
    monkeypatch.setattr(leases.time, "monotonic", lambda: now + 5.1)
    assert not holds(ledger, "/a/b")


@pytest.mark.parametrize("pattern", ["/a/b", "/a/**"])
def test_only_under_its_own_policy(pattern: str) -> None:
    ledger = Ledger()
    ledger.add(lease(pattern, uses=10), "rule")
    assert not holds(ledger, "/a/b", policy="v2")
    ledger.add(lease(pattern, uses=10), "rule")
    assert holds(ledger, "/a/b", policy="v1")


def test_only_its_operations_and_objects() -> None:
    ledger = Ledger()
    ledger.add(lease("/a/**", uses=10), "rule")
    assert not holds(ledger, "/a/b", CREATE)
    assert not holds(ledger, "/b")
    assert holds(ledger, "/a/b")


def test_both_objects_have_to_be_covered() -> None:
    ledger = Ledger()
    ledger.add(lease("/a/**", RENAME, uses=10), "rule")
    assert not holds(ledger, "/a/x", RENAME, "/b/x")
    assert not holds(ledger, "/b/x", RENAME, "/a/x")
    assert holds(ledger, "/a/x", RENAME, "/a/y")
    ledger.add(lease("/b/x", RENAME, uses=1), "other")
    assert holds(ledger, "/a/x", RENAME, "/b/x")
    assert not holds(ledger, "/a/x", RENAME, "/b/x")


def test_the_text_of_a_symlink_is_no_object() -> None:
    ledger = Ledger()
    ledger.add(lease("/a/**", Operation.FILE_SYMLINK, uses=2), "rule")
    assert holds(ledger, "/a/link", Operation.FILE_SYMLINK, "/etc/passwd")


def test_running_a_program_is_never_covered() -> None:
    ledger = Ledger()
    for pattern in ("/bin/true", "/**"):
        ledger.add(lease(pattern, Operation.PROCESS_EXEC, WRITE, uses=10), "rule")
    assert not holds(ledger, "/bin/true", Operation.PROCESS_EXEC)
    assert holds(ledger, "/bin/true", WRITE)


def test_a_new_policy_ends_all() -> None:
    ledger = Ledger()
    ledger.add(lease("/a/**", uses=10), "rule")
    ledger.add(lease("/b", uses=10), "rule")
    ledger.clear()
    assert not holds(ledger, "/a/x")
    assert not holds(ledger, "/b")


def test_the_number_of_leases_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_LEASES", 100)
    ledger = Ledger()
    for number in range(300):
        ledger.add(lease(f"/exact/{number}"), "rule")
        ledger.add(lease(f"/wide/{number}/**"), "rule")
    covered = (
        [n for n in range(300) if holds(ledger, f"/exact/{n}")],
        [n for n in range(300) if holds(ledger, f"/wide/{n}/x")],
    )
    assert [len(numbers) for numbers in covered] == [100, 100]
    ledger.add(lease("/after"), "rule")  # those that were used up make room
    assert holds(ledger, "/after")


operations = st.frozensets(st.sampled_from([WRITE, CREATE, RENAME]), min_size=1)
pattern_texts = st.sampled_from(
    ["/a", "/a/b", "/a/**", "/a/b/**", "/**", "tcp:*:1", "tcp:10.0.0.1:1", "tcp:10.0.0.0/8:1"]
)
bounds = st.integers(1, 10)
a_lease = st.builds(Lease, operations, pattern_texts.map(Pattern.parse), bounds, bounds, st.just("v1"))
a_ceiling = st.builds(Ceiling, operations, pattern_texts.map(Pattern.parse), bounds, bounds)
objects = st.sampled_from(["/a", "/a/b", "/a/b/c", "/b", "tcp:10.0.0.1:1", "tcp:11.0.0.1:1"])


@given(a_lease, a_ceiling, objects)
@settings(max_examples=500)
def test_a_ceiling_cuts(given_lease: Lease, ceiling: Ceiling, name: str) -> None:
    cut = ceiling.cut(given_lease)
    if cut is None:
        assert not (given_lease.operations & ceiling.operations) or not given_lease.pattern.within(ceiling.pattern)
        return
    assert cut.operations <= given_lease.operations & ceiling.operations
    assert cut.uses == min(given_lease.uses, ceiling.uses)
    assert cut.seconds == min(given_lease.seconds, ceiling.seconds)
    assert (cut.policy_version, cut.call) == (given_lease.policy_version, given_lease.call)
    if cut.pattern.matches(name):
        assert ceiling.pattern.matches(name)
        assert given_lease.pattern.matches(name)


@given(st.lists(a_lease, max_size=4), st.lists(st.tuples(objects, st.sampled_from([WRITE, CREATE])), max_size=40))
@settings(max_examples=300)
def test_no_effect_is_covered_more_often_than_leases_say(
    given_leases: list[Lease], wanted: list[tuple[str, Operation]]
) -> None:
    ledger = Ledger()
    for one in given_leases:
        ledger.add(one, "rule")
    covered = [(name, operation) for name, operation in wanted if holds(ledger, name, operation)]
    assert len(covered) <= sum(one.uses for one in given_leases)
    for name, operation in covered:
        assert any(operation in one.operations and one.pattern.matches(name) for one in given_leases)


def test_pattern_kinds_are_what_the_ledger_knows() -> None:
    assert {kind.value for kind in PatternKind} == {"exact", "under", "endpoint", "name"}


def test_a_lease_on_a_name_and_what_lies_beneath_it() -> None:
    ledger = Ledger()
    ledger.add(lease("name:api.example.org", Operation.NET_RESOLVE, uses=3), "rule")
    assert holds(ledger, "name:api.example.org", Operation.NET_RESOLVE)
    assert not holds(ledger, "name:example.org", Operation.NET_RESOLVE)
    assert not holds(ledger, "name:api.example.org.attacker.test", Operation.NET_RESOLVE)
    assert not holds(ledger, "name:api.example.org", Operation.NET_CONNECT)


def test_a_lease_says_nothing_about_set_uid() -> None:
    """Refused with 04755; made with 0755, removed, made again with 04755: the lease on the name must not do."""
    ledger = Ledger()
    plain = SideEffect(Operation.FILE_CREATE, "/p/a", details={"mode": "0o755"})
    ledger.add(Lease(frozenset({Operation.FILE_CREATE}), Pattern.parse("/p/a"), 10, 60, "v"), "rule", judged=plain)
    assert ledger.judged(plain, "v") is not None
    assert ledger.use(plain, "v") is not None
    for mode in ("0o4755", "0o2755", "0o1777"):
        special = SideEffect(Operation.FILE_CREATE, "/p/a", details={"mode": mode})
        assert ledger.judged(special, "v") is None
        assert ledger.use(special, "v") is None


def test_only_a_lease_for_the_very_effect_spares_the_daemons_own_checks() -> None:
    """The gate is not trusted more than needed: what it grants besides is looked at as if it came without a lease."""
    asked = SideEffect(Operation.FILE_READ, "/p/a")
    for lease in (
        Lease(frozenset({Operation.FILE_READ}), Pattern.parse("/etc/shadow"), 10, 60, "v"),
        Lease(frozenset({Operation.FILE_READ}), Pattern.parse("/p/**"), 10, 60, "v"),
        Lease(frozenset({Operation.FILE_READ, Operation.FILE_WRITE}), Pattern.parse("/p/a"), 10, 60, "v"),
    ):
        ledger = Ledger()
        ledger.add(lease, "rule", judged=asked)
        for name in ("/p/a", "/etc/shadow"):
            for operation in (Operation.FILE_READ, Operation.FILE_WRITE):
                assert ledger.judged(SideEffect(operation, name), "v") is None
