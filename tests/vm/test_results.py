"""What a guest reports, and what the harness makes of it: only what ran and passed is a success."""

import json

import pytest
from harness.plan import Plan, Wishes
from harness.results import Results

PLAN = Plan(("some.py",), ("some.py",), ("some.py::test_one", "some.py::test_two"), Wishes(), "")
GOOD = [
    {"event": "collected", "tests": ["some.py::test_one", "some.py::test_two[a]", "some.py::test_two[b]"]},
    {"event": "test", "id": "some.py::test_one", "outcome": "passed", "seconds": 0.5, "figures": {}},
    {"event": "test", "id": "some.py::test_two[a]", "outcome": "passed", "seconds": 0.5, "figures": {}},
    {"event": "test", "id": "some.py::test_two[b]", "outcome": "passed", "seconds": 0.5, "figures": {}},
    {"event": "status", "status": 0},
    {"event": "done"},
]


def faults(events: list[dict[str, object]], ended: str = "off") -> list[str]:
    """What the harness says about these events."""
    results = Results()
    for event in events:
        results.take(json.dumps(event))
    return results.faults(PLAN, ended)


def test_what_tests_measured_is_kept() -> None:
    results = Results()
    results.take(json.dumps({**GOOD[1], "figures": {"won": "0 of 500"}}))
    assert results.figures == {"some.py::test_one": {"won": "0 of 500"}}


def test_all_that_was_expected_passed() -> None:
    assert faults(GOOD) == []


def test_a_second_phase_adds_to_the_first() -> None:
    first = [{"event": "collected", "tests": ["some.py::test_one"]}, GOOD[1], {"event": "status", "status": 0}]
    second = [{"event": "collected", "tests": ["some.py::test_two[a]"]}, GOOD[2], *GOOD[4:]]
    assert faults([*first, *second]) == []
    assert faults([*first, GOOD[5]]) == ["some.py::test_two did not run"]


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_what_did_not_pass_is_a_fault(outcome: str) -> None:
    events = [*GOOD]
    events[2] = {**GOOD[2], "outcome": outcome}
    assert faults(events) == [f"some.py::test_two[a] {outcome}"]


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (1, ["some.py::test_one did not run", "some.py::test_one was found, and did not run"]),
        (3, ["some.py::test_two[b] was found, and did not run"]),
        (5, ["the machine went off before its tests were through"]),
    ],
)
def test_what_is_missing_is_a_fault(left_out: int, said: list[str]) -> None:
    assert faults([event for number, event in enumerate(GOOD) if number != left_out]) == said


def test_nothing_at_all_is_not_a_success() -> None:
    assert len(faults([])) == 3


@pytest.mark.parametrize("ended", ["timeout", "crashed"])
def test_a_machine_that_did_not_end_well_is_a_fault(ended: str) -> None:
    assert len(faults(GOOD, ended)) == 1


def test_a_status_other_than_zero_is_a_fault() -> None:
    events = [*GOOD]
    events[4] = {"event": "status", "status": 5}
    assert faults(events) == ["what ran in the machine ended with 5"]


def test_a_test_that_ran_twice_is_a_fault() -> None:
    assert faults([*GOOD[:2], *GOOD[1:]]) == ["some.py::test_one ran twice"]


@pytest.mark.parametrize("line", ["", "{", "[]", '"text"', '{"event": "test"}', '{"event": "new"}', "{}"])
def test_what_cannot_be_read_is_a_fault(line: str) -> None:
    results = Results()
    for event in GOOD:
        results.take(json.dumps(event))
    results.take(line)
    assert len(results.faults(PLAN, "off")) == 1
