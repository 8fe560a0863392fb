"""What a command line is about: more rights, destruction, running what was just downloaded, staying after the task …"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import re2

from governed_mcpd.gate.constitution import shell, verbs
from governed_mcpd.gate.constitution.shell import Simple
from governed_mcpd.gate.constitution.verbs import Around, any_of

_FORK_BOMB = re2.compile(r"(?s)\(\)\s*\{[^}]*\|[^}]*&\s*\}\s*;")
_FETCH_AND_RUN = re2.compile(
    r"(?s)(?:\b(?:eval|source|(?:ba|z|da|k)?sh|python[0-9.]*|perl|node)\b|(?:^|[;&|\s])\.)\s[^;|&\n]*"
    r"(?:<\(|\$\(|`)\s*(?:curl|wget|fetch)\b"
    r"|\b(?:exec|eval|compile)\s*\(.{0,300}(?:urlopen|requests\.get|httpx\.get|fetch\(|https?://)"
    r"|\b(?:curl|wget)\b[^;|&\n]*(?:-o|-O|--output|--output-document)[ =]?\S+.{0,80}"
    r"(?:chmod\s+(?:\+x|a\+x|u\+x|0?7[0-7]{2})|\b(?:ba|da|z)?sh\s)"
)
_HISTORY = re2.compile(
    r"\bHISTFILE=(?:/dev/null|''|\"\"|$|\s|;)|\bunset\s+(?:-v\s+)?HIST(?:FILE|SIZE)|\bHIST(?:FILE)?SIZE=0"
    r"|\bhistory\s+-[cwdr]|\bset\s+\+o\s+history"
)
_SECRETS = re2.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA|AIDA|AROA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{40,}"
    r"|\bglpat-[A-Za-z0-9_-]{20,}|\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bsk-(?:ant-|proj-|live-)?[A-Za-z0-9_-]{20,}"
    r"|\b[sr]k_live_[A-Za-z0-9]{16,}|\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}|\bnpm_[A-Za-z0-9]{36}"
    r"|\bpypi-[A-Za-z0-9_-]{40,}|\bhf_[A-Za-z0-9]{30,}|\bSG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|(?i:authorization:\s*(?:bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{12,})"
    r"|(?i:\bx-api-key:\s*[A-Za-z0-9._-]{12,})"
    r"|[a-z][a-z0-9+.-]{1,20}://[^\s/:@$]{1,100}:[^\s/@$*]{3,200}@"
    r"|(?i:(?:^|[\s;&])(?:--?(?:password|passwd|passphrase|api-?key|access-?token|auth-?token|secret(?:-?key)?|token)"
    r"[= ]|\b[A-Z0-9_]*(?:PASSWORD|PASSWD|SECRET|API_KEY|ACCESS_KEY|TOKEN)=)['\"]?[^\s'\"$<{*-][^\s'\"]{7,})"
)


@dataclass(frozen=True, slots=True)
class Command:
    """What was found about a command line; the names are those of the Cedar schema."""

    escalation: bool = False
    destructive: bool = False
    downloadAndRun: bool = False  # noqa: N815
    secret: bool = False
    blindsOversight: bool = False  # noqa: N815
    persistence: bool = False
    gitSettings: bool = False  # noqa: N815
    governed: bool = False
    attaches: bool = False


FACTS = tuple(field.name for field in fields(Command))


def of_exec(program: str, argv: Sequence[str], around: Around) -> Command:
    """A program that is about to run. Its file's name and argv[0] both count: busybox acts by the second."""
    rest = argv[1:]
    simple = list(shell.commands([program, *rest]))
    if argv and argv[0].rpartition("/")[2] != program.rpartition("/")[2]:
        simple += shell.commands(argv)
    return _judge(simple, " ".join(rest), program, around)


def of_text(text: str, around: Around) -> Command:
    """A command line that a tool is asked to run."""
    return _judge(list(shell.parse(text)), text, "sh", around)


def secret_in(text: str) -> bool:
    """Whether a key, token or password stands in the text."""
    return _SECRETS.search(_plain(text)) is not None


def _judge(simple: list[Simple], text: str, program: str, around: Around) -> Command:
    plain = _plain(text)
    return Command(
        escalation=any_of(verbs.ESCALATION, simple, around),
        destructive=any_of(verbs.DESTRUCTION, simple, around)
        or any(verbs.raw_device(target) for command in simple for target in command.targets)
        or _FORK_BOMB.search(plain) is not None,
        downloadAndRun=verbs.runs_download(simple) or _FETCH_AND_RUN.search(f"{_plain(program)} {plain}") is not None,
        secret=_SECRETS.search(plain) is not None or any_of(verbs.PASSWORDS, simple, around),
        blindsOversight=any_of(verbs.BLINDING, simple, around) or _HISTORY.search(plain) is not None,
        persistence=any_of(verbs.PERSISTENCE, simple, around)
        or any(verbs.writes_what_stays(command, around) for command in simple),
        gitSettings=any_of(verbs.GIT_SETTINGS, simple, around),
        governed=any_of(verbs.GOVERNED, simple, around),
        attaches=any_of(verbs.ATTACHING, simple, around),
    )


def _plain(text: str) -> str:
    """re2 reads UTF-8: bytes that are none are read by their escapes."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
