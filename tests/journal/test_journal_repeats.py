"""Repeated refusals are counted and none is lost; budgets end."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.journal.budget import Budget
from governed_mcpd.journal.errors import JournalFailed
from governed_mcpd.journal.repeats import Repeats


class Sink:
    """Collects records as a journal would, and fails when told to."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, object]] = []
        self.failing = False
        self.now = 100.0

    def append(self, record: Mapping[str, object]) -> int:
        if self.failing:
            raise JournalFailed("disk full")
        self.records.append(record)
        return len(self.records)

    def clock(self) -> float:
        return self.now

    def totals(self) -> Counter[object]:
        """Refusals per object, first ones and counted ones together."""
        found: Counter[object] = Counter()
        for record in self.records:
            found[record["object"]] += int(str(record.get("count", 1)))
        return found


def refuse(repeats: Repeats, sandbox: str, key: str) -> tuple[int, bool]:
    record = {"kind": "effect", "sandbox": sandbox, "object": key, "operation": "file.write", "rule": "r", "layer": "l"}
    record["seal"] = "none"
    return repeats.refused(sandbox, key, lambda: record)


def test_the_first_at_once_and_the_rest_as_one() -> None:
    sink = Sink()
    repeats = Repeats(sink.append, clock=sink.clock)
    assert refuse(repeats, "s-1", "/a") == (1, True)
    for _ in range(6):
        assert refuse(repeats, "s-1", "/a") == (1, False)
    assert len(sink.records) == 1
    sink.now += 4.9
    repeats.tick()
    assert len(sink.records) == 1
    assert repeats.due() == pytest.approx(0.1)
    sink.now += 0.2
    assert repeats.due() == 0
    repeats.tick()
    counted = dict(sink.records[1])
    since, until = counted.pop("since_us"), counted.pop("until_us")
    assert isinstance(since, int)
    assert isinstance(until, int)
    assert since <= until
    assert counted == {
        "kind": "effect.repeated",
        "sandbox": "s-1",
        "first_seq": 1,
        "count": 6,
        "object": "/a",
        "operation": "file.write",
        "layer": "l",
        "rule": "r",
        "seal": "none",
    }
    assert repeats.due() is None
    assert refuse(repeats, "s-1", "/a") == (3, True), "a new window has a first record again"


def test_one_alone_has_no_counted_record() -> None:
    sink = Sink()
    repeats = Repeats(sink.append, clock=sink.clock)
    refuse(repeats, "s-1", "/a")
    refuse(repeats, "s-1", "/b")
    refuse(repeats, "s-2", "/a")
    repeats.stop()
    assert [record["kind"] for record in sink.records] == ["effect"] * 3


def test_a_flood_is_written_in_portions() -> None:
    sink = Sink()
    repeats = Repeats(sink.append, most=1000, clock=sink.clock)
    for _ in range(10_001):
        refuse(repeats, "s-1", "/a")
    assert [record.get("count") for record in sink.records] == [None] + [1000] * 10


def test_the_end_of_a_sandbox_writes_its_counts_only() -> None:
    sink = Sink()
    repeats = Repeats(sink.append, clock=sink.clock)
    for sandbox in ("s-1", "s-2"):
        for _ in range(3):
            refuse(repeats, sandbox, "/a")
    repeats.end("s-1")
    assert [(one["kind"], one["sandbox"]) for one in sink.records[2:]] == [("effect.repeated", "s-1")]
    repeats.stop()
    assert sink.totals() == {"/a": 6}


def test_a_journal_that_fails_loses_no_count() -> None:
    sink = Sink()
    repeats = Repeats(sink.append, most=10, clock=sink.clock)
    refuse(repeats, "s-1", "/a")
    sink.failing = True
    for _ in range(25):
        assert refuse(repeats, "s-1", "/a") == (1, False)
    with pytest.raises(JournalFailed):
        refuse(repeats, "s-1", "/b")
    sink.now += 6
    repeats.tick()
    assert repeats.due() == 0.5, "it is tried again later, not in a loop"
    for ending in (lambda: repeats.end("s-1"), repeats.stop):
        with pytest.raises(JournalFailed):
            ending()
    sink.failing = False
    repeats.tick()
    assert len(sink.records) == 1
    sink.now += 0.6
    repeats.tick()
    assert sink.totals() == {"/a": 26}


steps = st.lists(
    st.tuples(
        st.sampled_from(["refuse"] * 8 + ["tick", "end", "pass", "fail", "mend"]),
        st.sampled_from(["s-1", "s-2"]),
        st.sampled_from(["/a", "/b", "/c", "/d"]),
    ),
    max_size=120,
)


@settings(max_examples=200)
@given(steps)
def test_the_sum_is_the_total(given_steps: list[tuple[str, str, str]]) -> None:
    sink = Sink()
    repeats = Repeats(sink.append, window=3, most=5, keys=3, clock=sink.clock)
    wanted: Counter[object] = Counter()
    for step, sandbox, key in given_steps:
        try:
            match step:
                case "refuse":
                    refuse(repeats, sandbox, key)
                    wanted[key] += 1
                case "tick":
                    repeats.tick()
                case "end":
                    repeats.end(sandbox)
                case "pass":
                    sink.now += 1
                case "fail" | "mend":
                    sink.failing = step == "fail"
        except JournalFailed:
            assert sink.failing
    sink.failing = False
    repeats.stop()
    assert sink.totals() == wanted


def test_budget() -> None:
    budget = Budget()
    assert not budget.spend("s-1", 1), "a sandbox without a budget has none"
    budget.open("s-1", 1000)
    with pytest.raises(ValueError, match="already"):
        budget.open("s-1", 1000)
    assert budget.spend("s-1", 400)
    assert budget.spend("s-1", 600)
    assert budget.left("s-1") == 0
    assert not budget.spend("s-1", 1)
    assert not budget.spend("s-1", 500)
    assert budget.add("s-1", 100) == 100
    assert budget.spend("s-1", 100)
    budget.end("s-1")
    assert not budget.spend("s-1", 1)
    with pytest.raises(ValueError, match="not running"):
        budget.add("s-1", 1)
