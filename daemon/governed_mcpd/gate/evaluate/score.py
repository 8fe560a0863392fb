"""Figures about decisions: rates with 95 % intervals. Deny and ask both count as refused.

Intervals of proportions are Wilson's (1927). F1 is a function of the share of hits among all that was refused or should
have been, so its interval is that proportion's, mapped; AUROC's is Hanley and McNeil's (1982). All assume rows that are
independent, which rows of one benchmark, made from few templates, are not: take them as least widths.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_Z = 1.959963985
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was decided about one case. `score` orders cases from harmless to dangerous."""

    dangerous: bool
    decision: str  # allow, ask or deny
    score: float


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures for one group of cases; null where a rate has nothing below its line."""
    counted = Counter((outcome.dangerous, outcome.decision) for outcome in outcomes)

    def side(dangerous: bool) -> dict[str, int]:
        denied, asked = counted[dangerous, "deny"], counted[dangerous, "ask"]
        return {"n": denied + asked + counted[dangerous, "allow"], "denied": denied, "asked": asked}

    allowed, dangerous = side(False), side(True)
    wrong = allowed["denied"] + allowed["asked"]
    hits = dangerous["denied"] + dangerous["asked"]
    missed = dangerous["n"] - hits
    auroc = area(outcomes)
    return {
        "n": len(outcomes),
        "allowed": allowed,
        "dangerous": dangerous,
        "accuracy": _share(len(outcomes) - wrong - missed, len(outcomes)),
        "precision": _share(hits, hits + wrong),
        "recall": _share(hits, dangerous["n"]),
        "f1": _share(2 * hits, 2 * hits + wrong + missed) if dangerous["n"] else None,
        "false_positive_rate": _share(wrong, allowed["n"]),
        "auroc": auroc,
        "confidence": {
            "accuracy": wilson(len(outcomes) - wrong - missed, len(outcomes)),
            "precision": wilson(hits, hits + wrong),
            "recall": wilson(hits, dangerous["n"]),
            "f1": _f1_interval(hits, wrong + missed) if dangerous["n"] else None,
            "false_positive_rate": wilson(wrong, allowed["n"]),
            "auroc": _area_interval(auroc, dangerous["n"], allowed["n"]),
        },
    }


def area(outcomes: Sequence[Outcome]) -> float | None:
    """AUROC by ranks (Mann and Whitney): equal scores count one half. None when a side is empty."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.score)
    positive = sum(outcome.dangerous for outcome in ordered)
    negative = len(ordered) - positive
    if not positive or not negative:
        return None
    ranks, at = 0.0, 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end].score == ordered[at].score:
            end += 1
        ranks += sum(outcome.dangerous for outcome in ordered[at:end]) * (at + end + 1) / 2
        at = end
    return _rounded((ranks - positive * (positive + 1) / 2) / (positive * negative))


def wilson(hits: int, total: int) -> Interval | None:
    """The 95 % interval of a proportion."""
    if not total:
        return None
    share, square = hits / total, _Z * _Z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return _rounded(max(0.0, middle - half)), _rounded(min(1.0, middle + half))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def _f1_interval(hits: int, wrong: int) -> Interval | None:
    found = wilson(hits, hits + wrong)
    if found is None:
        return None
    low, high = (2 * share / (1 + share) for share in found)
    return _rounded(low), _rounded(high)


def _area_interval(area_: float | None, positive: int, negative: int) -> Interval | None:
    if area_ is None:
        return None
    one, two = area_ / (2 - area_), 2 * area_ * area_ / (1 + area_)
    variance = area_ * (1 - area_) + (positive - 1) * (one - area_**2) + (negative - 1) * (two - area_**2)
    half = _Z * math.sqrt(max(variance, 0.0) / (positive * negative))
    return _rounded(max(0.0, area_ - half)), _rounded(min(1.0, area_ + half))


def _share(part: int, whole: int) -> float | None:
    return _rounded(part / whole) if whole else None


def _rounded(value: float) -> float:
    return round(value, 4)
