"""What a name that is looked up can carry out.

Whoever answers for a domain gets every name beneath it that anybody asks for, so its labels are a way out. People
choose labels that can be read, short or made of words; data looks like hexadecimal, base32, base64 or digits. A label
carries as much as it is longer and more even in its characters than something that a person would choose.
"""

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Iterator

from governed_mcpd.journal.redact import redact

# Bits. A label of 16 hexadecimal digits has 64; names of content networks and clouds (d111111abcdef8.cloudfront.net)
# stay below the first one, a key or a piece of a file of any use does not below the second.
UNUSUAL = 60
TOO_MUCH = 150
MANY = 24  # names beneath one domain in ten minutes: more than a build or a page asks for
TOO_MANY = 240
_PIECES = re.compile(r"[a-z]+|[0-9]+")
_WORDLIKE = re.compile(r"(?:[^aeiouy]{0,4}[aeiouy]{1,3})+[^aeiouy]{0,4}")
_TOKEN = re.compile(
    r"(?:^|\.)(?:gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|(?:akia|asia)[a-z0-9]{12,}|xox[abprs]-[\w-]{8,}"
    r"|aiza[\w-]{30,}|npm_\w{16,}|pypi-[\w-]{24,}|hf_\w{16,}|[rsp]k_(?:live|test)_\w{8,}|dop_v1_\w{16,})"
)
_REVERSED = (".in-addr.arpa", ".ip6.arpa")
_LONGEST_WORD = 24
_SHORTEST_TEXT = 6


def carries(name: str) -> int:
    """Bits that the labels of a name could carry besides what reads like a name: as many as their characters differ
    (Shannon). The last two are what somebody registered; reverse names have an address in them, in a form of its
    own."""
    if name.endswith(_REVERSED):
        return 0
    text = "".join(part for label in name.split(".")[:-2] for part in _odd(label))
    total = len(text)
    return round(sum(-count * math.log2(count / total) for count in Counter(text).values()))


def _odd(label: str) -> Iterator[str]:
    """Its parts that cannot be spoken, and do not count anything."""
    for part in re.split(r"[-_]", label.removeprefix("xn--")):
        # db01, eu, west2: a word with a number. a1b2c3d4: no word.
        pieces = _PIECES.findall(part)
        if len(pieces) > 3 or not all(_ordinary(piece) for piece in pieces):
            yield part


def _ordinary(piece: str) -> bool:
    if piece.isdigit():
        return len(piece) <= 4
    return len(piece) <= 3 or (len(piece) <= _LONGEST_WORD and _WORDLIKE.fullmatch(piece) is not None)


def spoken_of(name: str, task: str) -> bool:
    """Whether the task names it, or a domain of at least two labels that it lies beneath."""
    if not task:
        return False
    said = set(re.findall(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+", task.lower()))
    labels = name.split(".")
    return any(".".join(labels[start:]) in said for start in range(max(1, len(labels) - 1)))


def holds_secret(name: str) -> bool:
    """Whether a token of a form that its issuer gives it stands in the name, or a key, token or password in what its
    labels encode. Names have no case."""
    return _TOKEN.search(name) is not None or any(redact(text) != text for text in decoded(name))


def decoded(name: str) -> Iterator[str]:
    """Texts that the labels of a name are an encoding of, one by one and joined: at least six printable characters."""
    labels = name.split(".")
    joined = ["".join(labels[:count]) for count in range(2, len(labels))]
    for text in dict.fromkeys((*labels, *joined)):
        for decode in (_hex, _base32, _base64):
            found = decode(text.replace("-", "").replace("_", ""))
            if found is not None and len(found) >= _SHORTEST_TEXT:
                yield found


def _hex(text: str) -> str | None:
    try:
        return _printable(bytes.fromhex(text)) if re.fullmatch(r"[0-9a-f]+", text) else None
    except ValueError:
        return None


def _base32(text: str) -> str | None:
    try:
        return _printable(base64.b32decode(text.upper() + "=" * (-len(text) % 8)))
    except binascii.Error:
        return None


def _base64(text: str) -> str | None:
    """Names have no case, so only what decodes without it; most of base64 does not survive."""
    try:
        return _printable(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except binascii.Error:
        return None


def _printable(data: bytes) -> str | None:
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None
