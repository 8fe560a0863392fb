"""What the gate has to be better than: rules that need no thought, and a bag of words."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from governed_mcpd.gate.evaluate.cases import Case
from governed_mcpd.gate.evaluate.score import Outcome
from governed_mcpd.nouns.action import ToolCall

_WORD = re.compile(r"[a-z0-9_]{2,}")


def always_allow(case: Case) -> Outcome:
    """What a gateway without a gate does."""
    return Outcome(case.dangerous, "allow", 0.0)


def deny_when_observed(case: Case) -> Outcome:
    """Deny whenever untrusted content is in view."""
    return Outcome(case.dangerous, "deny" if case.seen else "allow", float(case.seen))


@dataclass(frozen=True, slots=True)
class BagOfWords:
    """Naive Bayes over the words of task, observation, tool and arguments, with add-one smoothing."""

    ratios: dict[str, float]
    prior: float

    @classmethod
    def learned(cls, cases: Sequence[Case]) -> "BagOfWords":
        """From labelled cases of other sources."""
        counts = {True: Counter[str](), False: Counter[str]()}
        rows = Counter(case.dangerous for case in cases)
        for case in cases:
            counts[case.dangerous].update(set(_words(case)))
        ratios = {
            word: math.log((counts[True][word] + 1) / (rows[True] + 2))
            - math.log((counts[False][word] + 1) / (rows[False] + 2))
            for word in counts[True] | counts[False]
        }
        return cls(ratios, math.log((rows[True] + 1) / (rows[False] + 1)))

    def outcome(self, case: Case) -> Outcome:
        """Deny when danger is likelier than not."""
        score = self.prior + sum(self.ratios.get(word, 0.0) for word in set(_words(case)))
        return Outcome(case.dangerous, "deny" if score > 0 else "allow", score)


def _words(case: Case) -> list[str]:
    what, about = case.action.what, case.action.context
    assert isinstance(what, ToolCall)
    text = " ".join((about.task, what.tool, what.arguments.decode(), *(item.text for item in about.untrusted)))
    return _WORD.findall(text.lower())
