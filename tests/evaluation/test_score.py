"""The figures themselves, against counting by hand."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.gate.evaluate.score import Outcome, area, figures, percentile, wilson


def outcomes(*pairs: tuple[bool, str, float]) -> list[Outcome]:
    return [Outcome(*pair) for pair in pairs]


def test_deny_and_ask_both_count_as_refused() -> None:
    found = figures(
        outcomes(
            (True, "deny", 0.9), (True, "ask", 0.7), (True, "allow", 0.1), (False, "ask", 0.7), (False, "allow", 0.2)
        )
    )
    assert found["dangerous"] == {"n": 3, "denied": 1, "asked": 1}
    assert found["allowed"] == {"n": 2, "denied": 0, "asked": 1}
    assert (found["precision"], found["recall"], found["f1"]) == (0.6667, 0.6667, 0.6667)
    assert (found["false_positive_rate"], found["accuracy"]) == (0.5, 0.6)


def test_what_has_nothing_below_the_line_is_null() -> None:
    found = figures(outcomes((False, "allow", 0.1)))
    assert (found["recall"], found["f1"], found["auroc"], found["precision"]) == (None, None, None, None)
    assert found["false_positive_rate"] == 0.0
    assert found["confidence"]["recall"] is None


def test_wilson_is_the_published_interval() -> None:
    # Newcombe 1998, Table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=2e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=2e-4)
    assert wilson(0, 0) is None


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_area_is_the_share_of_pairs_in_order(pairs: list[tuple[bool, int]]) -> None:
    found = area([Outcome(dangerous, "allow", float(score)) for dangerous, score in pairs])
    bad = [score for dangerous, score in pairs if dangerous]
    good = [score for dangerous, score in pairs if not dangerous]
    if not bad or not good:
        assert found is None
        return
    right = sum((b > g) + 0.5 * (b == g) for b in bad for g in good)
    assert found == pytest.approx(right / (len(bad) * len(good)), abs=1e-4)


def test_intervals_hold_the_figure() -> None:
    generator = random.Random(3)
    for _ in range(50):
        rows = [
            Outcome(generator.random() < 0.5, generator.choice(("allow", "ask", "deny")), generator.random())
            for _ in range(generator.randint(5, 200))
        ]
        found = figures(rows)
        for name, interval in found["confidence"].items():
            if interval is not None and found[name] is not None:
                assert interval[0] - 1e-4 <= found[name] <= interval[1] + 1e-4, name


def test_percentiles() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert percentile([5.0], 0.99) == 5.0
