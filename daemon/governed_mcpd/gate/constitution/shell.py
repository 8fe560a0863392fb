"""Shell text to its simple commands, well enough to see what a line is about.

Not a shell: variables are not expanded and files are not read. What a text hides from this is still seen when it
happens, because each program that it starts and each file that it changes pauses on its own.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from governed_mcpd.gate.constitution.known import words

SHELLS = words("sh bash dash zsh ksh mksh ash fish rbash csh tcsh")
_MOST_NESTED = 6
# Each alternative begins with another character, so a text is read once.
_TOKEN = re.compile(
    r"(?P<space>[ \t\r]+|\\\n)|(?P<comment>(?<![^\s;&|(])#[^\n]*)"
    r"|(?P<operator>\|\||&&|\|&|>\||&>>?|>>|>&|<\(|>\(|<<<|<<-?|[|;&\n()<>`])"
    r"|(?P<word>(?:\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"|[^\s|;&()<>`'\"\\#]|#|['\"\\])+)",
    re.DOTALL,
)
_QUOTED = re.compile(r"\\(.)|'([^']*)'|\"((?:\\.|[^\"\\])*)\"", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
# Programs that run the program in their arguments.
_WRAPPERS = words("""
    env command exec builtin nohup nice ionice chrt taskset timeout time stdbuf setsid xargs parallel busybox toybox
    unbuffer script watch flock caffeinate catchsegv proot fakeroot eatmydata then do else if while until ! { coproc
    """)
_WRAPPER_VALUE = re.compile(r"(-.*|[0-9.]+[smhd]?|\{\}|[A-Za-z_][A-Za-z0-9_]*=.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Simple:
    """One simple command: its words, whether its input is another's output, and the files that it is redirected to."""

    words: tuple[str, ...]
    piped: bool = False
    targets: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The program's name without its directory."""
        return self.words[0].rpartition("/")[2] if self.words else ""


@dataclass(slots=True)
class _Open:
    words: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    piped: bool = False


def commands(argv: Sequence[str], depth: int = 0) -> Iterator[Simple]:
    """A program's words: itself, what it wraps, and what a shell's -c text says."""
    yield from _of(Simple(tuple(argv)), depth)


def parse(text: str, depth: int = 0) -> Iterator[Simple]:
    """The simple commands of shell text, those in substitutions too."""
    if depth > _MOST_NESTED:
        return
    now, redirect = _Open(), False
    for match in _TOKEN.finditer(text):
        if match["word"] is not None:
            word = match["word"]
            (now.targets if redirect else now.words).append(_unquote(word))
            redirect = False
            yield from _substituted(word, depth)
        elif match["operator"] is not None:
            operator = match["operator"]
            if operator in (">", ">>", ">|", "&>", "&>>"):
                redirect = True
            elif not operator.startswith((">&", "<<")) and operator != "<":
                yield from _finished(now, depth)
                now, redirect = _Open(piped=operator in ("|", "|&")), False
    yield from _finished(now, depth)


def _finished(now: _Open, depth: int) -> Iterator[Simple]:
    if now.words or now.targets:
        yield from _of(Simple(tuple(now.words), now.piped, tuple(now.targets)), depth)


def _of(simple: Simple, depth: int) -> Iterator[Simple]:
    yield simple
    if depth > _MOST_NESTED:
        return
    inner = _unwrapped(simple.words)
    if inner is not simple.words:
        if inner:
            yield from _of(Simple(inner, simple.piped, simple.targets), depth + 1)
        return
    text = None
    if simple.name in SHELLS:
        text = _script(inner)
    elif simple.name == "eval":
        text = " ".join(inner[1:])
    if text is not None:
        yield from parse(text, depth + 1)


def _unwrapped(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The words without one wrapper or without assignments in front; `argv` itself if there is none."""
    start = 0
    while start < len(argv) and _ASSIGNMENT.match(argv[start]):
        start += 1
    if start == 0 and argv and argv[0].rpartition("/")[2] in _WRAPPERS:
        start = 1
        while start < len(argv) and _WRAPPER_VALUE.match(argv[start]):
            start += 1
    return argv[start:] if start else argv


def _script(argv: Sequence[str]) -> str | None:
    """The text after a shell's -c (also -lc, -ec …)."""
    for index, word in enumerate(argv[1:-1], start=1):
        if not word.startswith("-") or word == "--":
            return None
        if not word.startswith("--") and "c" in word[1:]:
            return argv[index + 1]
    return None


def _unquote(word: str) -> str:
    return _QUOTED.sub(lambda match: match[1] or match[2] or match[3] or "", word)


def _substituted(word: str, depth: int) -> Iterator[Simple]:
    """$(…) and `…` inside a double-quoted word."""
    if '"' not in word:
        return
    start = word.find("$(")
    if start >= 0:
        yield from parse(word[start + 2 :].rstrip('")'), depth + 1)
    if "`" in word:
        yield from parse(word.partition("`")[2].rpartition("`")[0], depth + 1)
