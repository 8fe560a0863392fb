"""Renders text from outside for the journal: what looks like a credential is masked, what is long is cut.

Masking too much costs a reader some detail (the digest still proves what it was); masking too little writes a secret
to a file that is kept for years. So the patterns err on the side of masking. All of it is linear in the text:
repetitions are bounded, or run over a class that cannot match what follows them, and what comes in is cut first.

Not found: a password that looks like a word and that nothing names (`mytool hunter2`).
"""

import re
from collections.abc import Sequence
from typing import Final

import orjson
from blake3 import blake3

MASK: Final = "[redacted]"
MAX_WORDS: Final = 64
MAX_WORD: Final = 256
# Text beyond this is neither searched nor shown. What a cut may have torn apart is not shown either: _TORN characters.
_SEARCHED: Final = 8192
_TORN: Final = 256
_MAX_DEPTH: Final = 32

_NAMES: Final = (
    r"(?:passw(?:or)?d|passphrase|passcode|secret|token(?!iz)|api[_-]?key|credential|oauth|authorization|auth(?![a-z])"
    r"|(?:access|private|encryption|signing|account|master|shared|ssh|deploy|auth|license)[_-]?key"
    r"|[_-](?:pwd|pass|pat)(?![a-z])|(?<![a-z])pass(?=[=:])|connection[_-]?string)"
)
_VALUE: Final = r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s&"'][^\s&]*)"""
_SECRET_NAME: Final = re.compile(_NAMES, re.IGNORECASE)
_MASKS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----.*?(?:-----END [A-Z0-9 ]{1,40}-----|\Z)", re.DOTALL), MASK),
    # Headers: to the end of the line, because cookies and schemes have spaces in them.
    (re.compile(r"((?:authorization|cookie)[\"']?\s{0,4}[:=]\s{0,4}[\"']?)[^\r\n\"']+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(rf"({_NAMES}[\w.-]{{0,40}}[\"']?\s{{0,4}}(?:=>|=|:)\s{{0,4}}){_VALUE}", re.I | re.S), rf"\1{MASK}"),
    (re.compile(rf"((?<!\S)-[\w-]{{0,40}}{_NAMES}[\w-]{{0,40}}\s{{1,4}})(?!-){_VALUE}", re.I | re.S), rf"\1{MASK}"),
    (re.compile(r"(pass(?:word|phrase|code)\s{1,4}(?:is|was)\s{1,4})\S+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"(bearer\s{1,4})[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"(://)[^/\s?#'\"]{1,256}@"), rf"\1{MASK}@"),
    (re.compile(r"([?&](?:key|sig|signature|code|session|sid|x-amz-\w{1,20})=)[^&\s#]+", re.IGNORECASE), rf"\1{MASK}"),
    # The forms that issuers give their tokens.
    (
        re.compile(
            r"(?<![A-Za-z0-9_-])(?:sk-[\w-]{8,}|(?:AKIA|ASIA|AROA|AIDA|AGPA)[A-Z0-9]{12,}|gh[pousr]_\w{16,}"
            r"|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{8,}|AIza[\w-]{30,}|ya29\.[\w.-]{16,}"
            r"|eyJ[\w-]{8,}\.[\w.-]{8,}|npm_\w{16,}|pypi-[\w-]{16,}|hf_\w{16,}|[rsp]k_(?:live|test)_\w{8,}"
            r"|SG\.[\w.-]{16,}|dop_v1_\w{16,}|AGE-SECRET-KEY-1\w+)"
        ),
        MASK,
    ),
)
_RUN: Final = re.compile(r"[A-Za-z0-9_+/=-]{20,}")
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_KINDS: Final = tuple(re.compile(kind) for kind in ("[0-9]", "[A-Z]", "[a-z]"))
# Lower-case parts, one of which every text has that a pattern above matches (_RUN apart).
_SIGNS: Final = (
    *("pass", "secret", "token", "key", "cred", "auth", "pwd", "cookie", "bearer", "-----", "://", "_pat", "-pat"),
    *("connection", "sk-", "akia", "asia", "aroa", "aida", "agpa", "xox", "eyj", "sk_", "rk_", "pk_", "?", "&"),
)
# Programs whose one-letter options take a secret: as the next word, or joined to the letter.
_NEXT: Final = {"sshpass": "-p", "curl": "-u", "redis-cli": "-a", "ldapsearch": "-w", "ldapmodify": "-w", "login": "-p"}
_JOINED: Final = {"mysql": "-p", "mysqldump": "-p", "mariadb": "-p", "sshpass": "-p", "curl": "-u", "7z": "-p"}
_PROGRAM: Final = re.compile("|".join({*_NEXT, *_JOINED}))
_SPACES: Final = re.compile(r"(\s+)")


def redact(text: str, limit: int = MAX_WORD) -> str:
    """`text` with credentials masked, at most about `limit` characters; what was cut is said as `…(+N)`."""
    short = _searched(text)
    if _suspicious(short):
        short = _mask(short)
    if len(short) > limit:
        short = short[:limit]
    elif len(text) <= _SEARCHED:
        return short
    return f"{short}…(+{max(len(text) - len(short), 0)})"


def mask(text: str) -> str:
    """`text` whole, with credentials masked: for content that goes on, not to a record."""
    return _mask(text) if _suspicious(text) else text


def render_argv(argv: Sequence[str]) -> tuple[str, list[str]]:
    """(BLAKE3 digest in hex of all words, each followed by a zero byte; the first words, redacted).

    Words are str in surrogateescape form. A secret that can be guessed can be guessed from the digest too.
    """
    joined = "\0".join(argv)
    digest = blake3((joined + "\0").encode("utf-8", "surrogateescape") if argv else b"").hexdigest()
    if len(joined) <= MAX_WORD and len(argv) <= MAX_WORDS and not _suspicious(joined):
        return digest, list(argv)
    words = _mask_options(list(argv[:MAX_WORDS]))
    shown = [redact(word) for word in words]
    if len(argv) > MAX_WORDS:
        shown.append(f"…(+{len(argv) - MAX_WORDS} words)")
    return digest, shown


def render_arguments(arguments: bytes, limit: int = 2048) -> tuple[str, str]:
    """(BLAKE3 digest in hex, redacted rendering) of a tool call's arguments, which are JSON.

    A member whose name looks like a credential's is masked whole; every string is redacted.
    """
    digest = blake3(arguments).hexdigest()
    try:
        value: object = orjson.loads(arguments) if len(arguments) <= _SEARCHED * 2 else None
    except orjson.JSONDecodeError:
        value = None
    if value is None:
        return digest, redact(arguments.decode("utf-8", "replace"), limit)
    rendered = orjson.dumps(_mask_json(value, 0)).decode()
    return digest, rendered if len(rendered) <= limit else f"{rendered[:limit]}…(+{len(rendered) - limit})"


def _searched(text: str) -> str:
    if len(text) <= _SEARCHED:
        return text
    short, tail = text[: _SEARCHED - _TORN], text[_SEARCHED - _TORN : _SEARCHED]
    kept = tail.rsplit(maxsplit=1)
    return short + tail[: tail.rfind(kept[-1])] if len(kept) > 1 else short


def _suspicious(text: str) -> bool:
    lower = text.lower()
    for sign in _SIGNS:
        if sign in lower:
            return True
    return _RUN.search(text) is not None or _PROGRAM.search(text) is not None


def _mask(text: str) -> str:
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return _RUN.sub(lambda found: MASK if _random_looking(found[0]) else found[0], text)


def _random_looking(run: str) -> bool:
    """Whether 20 or more characters read like a random token: words and numbers of a letter or two.

    The mean word or number of paths, CamelCase and snake_case has four characters and more; that of random hex, base36
    and base64 two. Between slashes it takes all three kinds of characters: paths have short names.
    """
    share = len(_WORD.findall(run)) / len(run)
    digit, upper, lower = (kind.search(run) is not None for kind in _KINDS)
    if "/" in run:
        return share >= 0.33 and digit and upper and lower
    return (share >= 0.33 and digit) or (share >= 0.45 and upper and lower)


def _mask_options(words: list[str]) -> list[str]:
    """Masks words that are secret for what stands before them: `--password X`, `curl -u X`, `NAME=X`."""
    programs: set[str] = set()
    hide_next = False
    for index, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if hide_next and not (word.startswith("-") and _SECRET_NAME.search(words[index - 1])):
            words[index], hide_next = MASK, False
            continue
        if equals and len(name) <= 80 and not _SPACES.search(name) and _SECRET_NAME.search(name):
            words[index] = f"{name}={MASK}"
            continue
        if word.startswith("-"):
            hide_next = any(_NEXT.get(program) == word for program in programs) or (
                not equals and len(word) <= 80 and _SECRET_NAME.search(word) is not None
            )
            joined = any(word.startswith(_JOINED.get(program, "\0")) and len(word) > 2 for program in programs)
            if joined and not word.startswith("--"):
                words[index] = word[:2] + MASK
        elif len(word) <= _SEARCHED and _SPACES.search(word) and _PROGRAM.search(word):
            # A command line in one word, as after `sh -c`.
            inner = _SPACES.split(word)
            inner[::2] = _mask_options(inner[::2])
            words[index] = "".join(inner)
        else:
            hide_next = False
            programs.add(word.rsplit("/", 1)[-1])
    return words


def _mask_json(value: object, depth: int) -> object:
    if depth > _MAX_DEPTH:
        return MASK
    if isinstance(value, dict):
        items = value.items()
        return {
            redact(name): MASK if _SECRET_NAME.search(name[:_TORN]) else _mask_json(item, depth + 1)
            for name, item in items
        }
    if isinstance(value, list):
        return [_mask_json(item, depth + 1) for item in value]
    return redact(value, 1024) if isinstance(value, str) else value
