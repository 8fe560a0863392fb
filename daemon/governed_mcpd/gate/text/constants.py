"""Program text with its constants put in: `f='/etc/x'; rm "$f"` says the same as `rm "/etc/x"`, and has to be read so.

Assignments of plain values, in shell and in Python, and arguments that a function is called with. No interpreter: what
is computed stays unknown here, and shows when it happens.
"""

import functools
import re

_LONGEST = 256 * 1024
_MOST = 64
_PASSES = 3
_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
_ASSIGNED = re.compile(
    rf"(?:^|[;&|({{\n]|\b(?:export|local|readonly|declare|const|let|var|do"
    rf"|then))[ \t]*({_NAME})[ \t]*(?::[ \t]*\w+[ \t]*)?=[ \t]*"
    r"(?:[rfbu]{0,2}\"([^\"\n$`{]{1,512})\"|[rfbu]{0,2}'([^'\n{]{1,512})'"
    r"|(?:pathlib\.)?Path\([\"']([^\"'\n]{1,512})[\"']\)"
    r"|([\w./~:@%+-]{2,512})(?=[\s;&|)]|$))"
)
_FUNCTION = re.compile(
    rf"\bdef[ \t]+({_NAME})[ \t]*\(([^)\n]{{0,256}})\)|\bfunction[ \t]+({_NAME})|(?:^|\n)[ \t]*({_NAME})[ \t]*\(\)"
)
_POSITIONAL = re.compile(rf"\b(?:local[ \t]+)?({_NAME})=[\"']?\$\{{?([1-9])\}}?[\"']?")
_ARGUMENT = re.compile(r"\"([^\"\n]{0,512})\"|'([^'\n]{0,512})'|([^\s;&|()<>,\"']{1,512})")


@functools.lru_cache(maxsize=64)
def put_in(text: str) -> str:
    """`text` with names replaced by their constants; the same text when there is nothing to replace."""
    if len(text) > _LONGEST or ("=" not in text and "def " not in text):
        return text
    known: dict[str, str] = {}
    for match in _ASSIGNED.finditer(text):
        value = next((group for group in match.groups()[1:] if group is not None), "")
        if value and not value.isdigit() and match[1] not in known and len(known) < _MOST:
            known[match[1]] = value
    known.update(_parameters(text, known))
    if not known:
        return text
    pattern = _uses(known)
    for _ in range(_PASSES):
        replaced = pattern.sub(lambda match: _put(match, known), text)
        if replaced == text or len(replaced) > 2 * _LONGEST:
            break
        text = replaced
    return text


def _put(match: re.Match[str], known: dict[str, str]) -> str:
    """A shell's variable becomes its value, a bare name a text with that value."""
    if match[3]:
        return f"'{known[match[3]]}'"
    return known[match[1] or match[2]]


def _uses(known: dict[str, str]) -> re.Pattern[str]:
    names = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    # $name and ${name} of a shell; {name} of an f-string; and a bare name where Python takes a value.
    return re.compile(rf"\$\{{({names})\}}|\$({names})\b|(?<=[(,=\[{{ ])({names})(?=[),\]}}:])(?![ \t]*=[^=])")


def _parameters(text: str, known: dict[str, str]) -> dict[str, str]:
    """What a function's parameters are where it is called with constants; the first call of each counts."""
    found: dict[str, str] = {}
    positional = [(match[1], int(match[2])) for match in _POSITIONAL.finditer(text)][:_MOST]
    for match in list(_FUNCTION.finditer(text))[:_MOST]:
        name = match[1] or match[3] or match[4]
        python = match[1] is not None
        names = [part.partition(":")[0].partition("=")[0].strip() for part in (match[2] or "").split(",")]
        called = (
            rf"\b{name}\(([^)\n]{{1,512}})\)"
            if python
            else rf"(?:^|[\n;&|(`]|\$\()[ \t]*{name}[ \t]+([^\n;&|)]{{1,512}})"
        )
        for call in list(re.finditer(called, text))[:4]:
            if match.start() <= call.start() < match.end():
                continue  # the definition itself
            given = [_value(argument, known) for argument in _ARGUMENT.findall(call[1])]
            pairs = enumerate(names) if python else ((number - 1, local) for local, number in positional)
            for at, parameter in pairs:
                if parameter and at < len(given) and given[at] and parameter not in known:
                    found.setdefault(parameter, given[at])
            break
    return found


def _value(argument: tuple[str, str, str], known: dict[str, str]) -> str:
    quoted, single, bare = argument
    plain = (quoted or bare).strip()
    name = plain.lstrip("$").strip("{}")
    if name in known:
        return known[name]
    return single or (plain if quoted or "/" in plain else "")
