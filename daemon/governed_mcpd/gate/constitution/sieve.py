"""Forbids that the facts alone set aside, before Cedar is asked: most conditions begin with a fact that is not there.

Sound, as slicing by action is: a policy is set aside only where Cedar would evaluate its condition to false, and
without an error. Cedar evaluates `&&` and `||` from the left and stops as soon as it can (docs.cedarpolicy.com,
Operators), and so does this; what it does not know is *unknown*, as is everything that comes after it. Nothing is ever
found to apply here: whatever is not set aside, Cedar decides.
"""

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Facts = Mapping[str, Any]
# True, False, or None where it is not known here (a type that does not fit is an error in Cedar, so not known either).
_Test = Callable[[Facts], bool | None]


class Sieve:
    """Conditions of policies, each a disjunction: `rejects` when every one of them is false."""

    __slots__ = ("_ends", "_flags", "_others", "_starts", "_texts")

    def __init__(self, conditions: Iterable[Any]) -> None:
        """`conditions`: expressions in Cedar's JSON, each one `settled`."""
        flags: set[str] = set()
        starts: defaultdict[str, set[str]] = defaultdict(set)
        ends: defaultdict[str, set[str]] = defaultdict(set)
        equal: defaultdict[str, set[str]] = defaultdict(set)
        others: list[_Test] = []
        for condition in conditions:
            for part in _alternatives(condition):
                if (name := _attribute(part)) is not None:
                    flags.add(name)
                elif (same := _equal_text(part)) is not None:
                    equal[same[0]].add(same[1])
                elif (pattern := _one_ended(part)) is not None:
                    name, text, at_start = pattern
                    (starts if at_start else ends)[name].add(text)
                elif (test := _test(part)) is not None:
                    others.append(test)
                else:
                    raise ValueError(f"nothing can be told of {part!r}")
        self._flags = tuple(sorted(flags))
        self._starts = tuple((name, tuple(sorted(texts))) for name, texts in sorted(starts.items()))
        self._ends = tuple((name, tuple(sorted(texts))) for name, texts in sorted(ends.items()))
        self._texts = tuple((name, frozenset(texts)) for name, texts in sorted(equal.items()))
        self._others = tuple(others)

    def rejects(self, facts: Facts) -> bool:
        """Whether none of the conditions holds or fails. A hundred patterns of one attribute are one comparison."""
        for name in self._flags:
            if facts.get(name) is not False:
                return False
        for name, known in self._texts:
            if not isinstance(value := facts.get(name), str) or value in known:
                return False
        for name, texts in self._starts:
            if not isinstance(value := facts.get(name), str) or value.startswith(texts):
                return False
        for name, texts in self._ends:
            if not isinstance(value := facts.get(name), str) or value.endswith(texts):
                return False
        return all(test(facts) is False for test in self._others)


def settled(condition: Any) -> bool:
    """Whether facts can ever set aside a policy with this condition."""
    return all(
        _attribute(part) is not None or _one_ended(part) is not None or _test(part) is not None
        for part in _alternatives(condition)
    )


def _alternatives(expression: Any) -> list[Any]:
    """The operands of a chain of ||, which is false, and without an error, exactly where each of them is."""
    if _kind(expression) == "||":
        sides = expression["||"]
        return _alternatives(sides["left"]) + _alternatives(sides["right"])
    return [expression]


def _kind(expression: Any) -> str:
    return next(iter(expression)) if isinstance(expression, dict) and len(expression) == 1 else ""


def _attribute(expression: Any) -> str | None:
    """NAME of `context.NAME`."""
    if _kind(expression) != "." or expression["."].get("left") != {"Var": "context"}:
        return None
    name: str = expression["."]["attr"]
    return name


def _equal_text(expression: Any) -> tuple[str, str] | None:
    """`context.NAME == "TEXT"`: name and text."""
    if _kind(expression) != "==" or (name := _attribute(expression["=="]["left"])) is None:
        return None
    text = expression["=="]["right"].get("Value")
    return (name, text) if isinstance(text, str) else None


def _one_ended(expression: Any) -> tuple[str, str, bool] | None:
    """`context.NAME like "TEXT*"` or `like "*TEXT"`: name, text, and whether it is the first."""
    if _kind(expression) != "like" or (name := _attribute(expression["like"]["left"])) is None:
        return None
    pieces = _pieces(expression["like"]["pattern"])
    if len(pieces) == 2 and pieces[0] and not pieces[1]:
        return name, pieces[0], True
    if len(pieces) == 2 and pieces[1] and not pieces[0]:
        return name, pieces[1], False
    return None


def _pieces(pattern: list[Any]) -> list[str]:
    """The texts between the wildcards of a pattern: one more than there are wildcards."""
    found = [""]
    for element in pattern:
        if element == "Wildcard":
            found.append("")
        else:
            found[-1] += element["Literal"]
    return found


def _test(expression: Any) -> _Test | None:
    """An expression as a function; None where it would never know anything."""
    kind = _kind(expression)
    made = _TESTS.get(kind)
    return made(expression[kind]) if made else None


def _flag(inside: Any) -> _Test | None:
    name = _attribute({".": inside})
    return None if name is None else lambda facts: value if isinstance(value := facts.get(name), bool) else None


def _constant(value: Any) -> _Test | None:
    return (lambda facts: value) if isinstance(value, bool) else None


def _not(inside: Any) -> _Test | None:
    test = _test(inside["arg"])
    return None if test is None else lambda facts: None if (value := test(facts)) is None else not value


def _and(sides: Any) -> _Test | None:
    left = _test(sides["left"])
    right = _test(sides["right"]) or _unknown
    return None if left is None else lambda facts: right(facts) if (value := left(facts)) is True else value


def _or(sides: Any) -> _Test | None:
    left = _test(sides["left"])
    right = _test(sides["right"]) or _unknown
    return None if left is None else lambda facts: right(facts) if (value := left(facts)) is False else value


def _unknown(facts: Facts) -> None:
    return None


def _like(inside: Any) -> _Test | None:
    name, pieces = _attribute(inside["left"]), _pieces(inside["pattern"])
    if name is None or len(pieces) > 2:
        return None
    if len(pieces) == 1:
        return _on_text(name, lambda value: value == pieces[0])
    start, end = pieces
    least = len(start) + len(end)
    return _on_text(name, lambda value: len(value) >= least and value.startswith(start) and value.endswith(end))


def _equal(sides: Any) -> _Test | None:
    if (same := _equal_text({"==": sides})) is None:
        return None
    name, text = same
    return _on_text(name, lambda value: value == text)


def _compare(holds: Callable[[int, int], bool]) -> Callable[[Any], _Test | None]:
    """`context.NAME < 3`."""

    def made(sides: Any) -> _Test | None:
        name, bound = _attribute(sides["left"]), sides["right"].get("Value")
        if name is None or type(bound) is not int:
            return None
        return lambda facts: holds(value, bound) if type(value := facts.get(name)) is int else None

    return made


def _contains(sides: Any) -> _Test | None:
    """`["a", "b"].contains(context.NAME)`."""
    name, members = _attribute(sides["right"]), sides["left"].get("Set")
    if name is None or not isinstance(members, list):
        return None
    texts = [member.get("Value") for member in members]
    if not all(isinstance(text, str) for text in texts):
        return None
    known = frozenset(texts)
    return _on_text(name, lambda value: value in known)


def _on_text(name: str, holds: Callable[[str], bool]) -> _Test:
    return lambda facts: holds(value) if isinstance(value := facts.get(name), str) else None


_TESTS: dict[str, Callable[[Any], _Test | None]] = {
    ".": _flag,
    "Value": _constant,
    "!": _not,
    "&&": _and,
    "||": _or,
    "like": _like,
    "==": _equal,
    "<": _compare(operator.lt),
    "<=": _compare(operator.le),
    ">": _compare(operator.gt),
    ">=": _compare(operator.ge),
    "contains": _contains,
}
