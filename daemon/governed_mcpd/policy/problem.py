"""What is wrong with a policy document: where, what was found, what was expected, what to do."""

from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST = 120
_SHOWN = 100


def printable(text: str, longest: int = _LONGEST) -> str:
    """Text from a policy file as one line of a terminal: no control characters, bounded."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)
    return safe if len(safe) <= longest else safe[: longest - 1] + "…"


def shown(value: object) -> str:
    """A value from a policy file, for the `found` of a problem."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    return printable(repr(value))


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong. `line` and `column` count from 1; 0 where a whole file is meant."""

    file: str
    line: int
    column: int
    field: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        where = printable(self.file)
        if self.line:
            where += f":{self.line}:{self.column}"
        field = f" {printable(self.field)}:" if self.field else ""
        return f"{where}:{field} found {self.found}, expected {self.expected}; {self.remedy}"


class PolicyError(Exception):
    """Documents that cannot be applied. Nothing of the set is used; `problems` has all that was found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"… and {len(self.problems) - _SHOWN} more problems")
        return "\n".join(lines)
