"""What of a Constitution's text is bounded before Cedar sees it: Cedar recurses, and its time grows with the text.

Cedar's parser ends the process (a stack overflow) for a few thousand brackets inside each other. The gate's process is
everybody's, so nothing of that kind gets to it.
"""

import re
from collections.abc import Iterator

MOST_POLICIES = 1000
MOST_NESTED = 64
LONGEST_LITERAL = 4096
_WORD = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|[()\[\]{};]|\bif\b', re.DOTALL)


def problems(text: str) -> Iterator[str]:
    """Each with "line N: " in front; at most one of a kind."""
    opened = policies = 0
    conditionals = 0  # of the policy: their last part stands inside them, without a bracket
    said: set[str] = set()
    for match in _WORD.finditer(text):
        word = match[0]
        found = ""
        if word.startswith('"'):
            if len(word) > LONGEST_LITERAL:
                found = f"a text of more than {LONGEST_LITERAL} characters"
        elif word in "([{":
            opened += 1
        elif word in ")]}":
            opened = max(0, opened - 1)
        elif word == "if":
            conditionals += 1
        elif word == ";":
            policies += 1
            opened = conditionals = 0
            if policies > MOST_POLICIES:
                found = f"more than {MOST_POLICIES} policies: write sets, or patterns"
        if opened + conditionals > MOST_NESTED:
            found = f"nested more than {MOST_NESTED} deep (brackets, and if inside if)"
        if found and found not in said:
            said.add(found)
            yield f"line {text.count(chr(10), 0, match.start()) + 1}: {found}"
