"""Untrusted text in the other readings that a model makes of it: decoded, rotated, reversed, spaced out, in leet.

A reading counts only when it is language (common words of English stand in it), so that ordinary text gains none.
"""

import functools
import re

from governed_mcpd.gate.text import decode
from governed_mcpd.gate.text.intents import ENGLISH

_WORD = re.compile(r"[a-z]{2,}")
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W_][ ._*-]){3,}[^\W_](?![^\W_])")
_GAPS = re.compile(r"[ ._*-]")
_LEET = str.maketrans("013457@$!|", "oieastasil")
_LANGUAGE = 3  # different common words


@functools.lru_cache(maxsize=256)
def readings(text: str) -> tuple[str, ...]:
    """`text` first, then what it hides, each once. Raises decode.DecodeBound."""
    found: dict[str, None] = {text: None}
    views = decode.views(text)
    for inner in views[1:]:
        if inner.strip():
            found[inner] = None
    plain = _common(views[0])
    for view in views:
        for other in (view.translate(decode.ROT13), view[::-1], _closed_up(view), view.translate(_LEET)):
            if other != view and len(_common(other) - plain) >= _LANGUAGE:
                found[other] = None
    return tuple(found)


def _closed_up(text: str) -> str:
    """`S e n d   i t` → `Send it`."""
    if _SPACED.search(text) is None:
        return text
    wide = re.sub(r"\s{2,}|\s/\s", "\x1f", text)
    return _SPACED.sub(lambda match: _GAPS.sub("", match[0]), wide).replace("\x1f", " ")


def _common(text: str) -> frozenset[str]:
    return ENGLISH.intersection(_WORD.findall(text.lower()))
