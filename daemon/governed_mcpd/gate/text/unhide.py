"""Untrusted text in the other readings that a model makes of it: decoded, rotated, reversed, spaced out, in leet.

A reading counts only when it is language (common words of English stand in it), so that ordinary text gains none.
"""

import functools
import re

from governed_mcpd.gate import strictjson
from governed_mcpd.gate.text import decode
from governed_mcpd.gate.text.intents import ENGLISH

_WORD = re.compile(r"[a-z]{2,}")
_SPACED = re.compile(r"(?<!\S)(?:\S ){3,}\S(?!\S)")
_DOTTED = re.compile(r"(?<![^\W_])(?:[^\W_][._*-]){3,}[^\W_](?![^\W_])")
_GAPS = re.compile(r"[ ._*-]")
_FEW = 1  # word on a line of a text that was broken up
_LEET = str.maketrans("013457@$!|", "oieastasil")
_LANGUAGE = 3  # different common words


@functools.lru_cache(maxsize=64)
def readings(text: str) -> tuple[str, ...]:
    """`text` first (JSON as a line for each field), then what it hides, each once. Raises decode.DecodeBound."""
    found: dict[str, None] = {_fields(text): None}
    views = decode.views(text)
    for inner in views[1:]:
        if inner.strip():
            found[inner] = None
    plain = _common(views[0])
    for view in views:
        for other in (view.translate(decode.ROT13), view[::-1], _closed_up(view), view.translate(_LEET)):
            if other != view and len(_common(other) - plain) >= _LANGUAGE:
                found[other] = None
        if (other := _one_line(view)) != view and len(_common(view)) >= _LANGUAGE:
            found[other] = None
    return tuple(found)


def _fields(text: str) -> str:
    """JSON as its fields, each on a line: raw, it would be one sentence, and an order in one field an order in all."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        value = strictjson.parse(text.strip().encode("utf-8", "replace"), decode.MAX_CHARS)
    except strictjson.StrictJSONError:
        return text
    return "\n".join(f"{name}: {leaf}" for name, leaf in strictjson.leaves(value)) or text


def _closed_up(text: str) -> str:
    """`S e n d   i t` → `Send it`."""
    if _SPACED.search(text):
        wide = re.sub(r"\s{2,}|\s/\s", "\ufffc ", text).replace("\ufffc ", " \ufffc ")
        text = _SPACED.sub(lambda match: match[0].replace(" ", ""), wide).replace("\ufffc", " ")
    return _DOTTED.sub(lambda match: _GAPS.sub("", match[0]), text)


def _one_line(text: str) -> str:
    """A text with a line for each word, put together."""
    lines = [line for line in text.splitlines() if line.strip()]
    short = sum(len(line.split()) <= _FEW for line in lines)
    return " ".join(lines) if len(lines) > _LANGUAGE and short * 5 >= len(lines) * 4 else text


def _common(text: str) -> frozenset[str]:
    return ENGLISH.intersection(_WORD.findall(text.lower()))
