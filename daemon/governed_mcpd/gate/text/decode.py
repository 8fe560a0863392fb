"""Every form in which a text may carry another one: look-alikes, percent, base64, hex, escapes, nested JSON.

The output is bounded in depth and size. Text that is encoded more often, or grows past the bound, is not looked through
quietly: DecodeBound is raised, and the pre-filter refuses.
"""

import base64
import binascii
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable

from governed_mcpd.gate import strictjson

MAX_DEPTH = 5
MAX_CHARS = 16 * 1024 * 1024
_JSON_LIMIT = 4 * 1024 * 1024
# Stands between texts that are searched together; no pattern crosses it.
SEPARATOR = "\x1e"
_JSON_STARTS = frozenset('{["\n\r\t ')


class DecodeBound(ValueError):
    """Text that is encoded too often or unfolds to too much."""


# These expressions are character classes with one greedy quantifier each: linear, although `re` is a backtracker.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_ASCII_RUN = re.compile(rb"[ -~\t\r\n]{8,}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){12,}")
_ESCAPED_HEX = re.compile(r"(?:\\x[0-9A-Fa-f]{2}){4,}")
_ESCAPED_UNICODE = re.compile(r"\\u([0-9A-Fa-f]{4})")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_ENTITY = re.compile(r"&#(x[0-9A-Fa-f]{1,6}|[0-9]{1,7});")

ROT13 = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm"
)

# Letters that look like Latin ones and that NFKC leaves alone (Unicode TR 39 confusables, the common part).
_LOOKALIKES = {
    ord(char): latin
    for latin, chars in {
        "a": "аɑα", "b": "Ьβ", "c": "сϲᴄ", "d": "ԁ", "e": "еєε", "g": "ɡց", "h": "һհ", "i": "іıιӏ", "j": "јϳ",
        "k": "кκ", "l": "ⅼǀ", "m": "мᴍ", "n": "пոη", "o": "оοօᴏ", "p": "рρ", "q": "ԛզ", "r": "гᴦ", "s": "ѕ", "t": "тτ",
        "u": "υսᴜ", "v": "ѵνᴠ", "w": "ԝωᴡ", "x": "хχ", "y": "уγү", "z": "ᴢ",
        "A": "АΑ", "B": "ВΒ", "C": "СϹ", "E": "ЕΕ", "G": "Ԍ", "H": "НΗ", "I": "ІΙӀ", "J": "Ј", "K": "КΚ", "M": "МΜ",
        "N": "Ν", "O": "ОΟՕ", "P": "РΡ", "S": "ЅՏ", "T": "ТΤ", "U": "Ս", "V": "Ѵ", "W": "Ԝ", "X": "ХΧ",
        "Y": "УΥҮ", "Z": "Ζ", "-": "‐‑‒–—−", "'": "’‘‛", '"': "“”„«»", "/": "⁄∕",
    }.items()
    for char in chars
}  # fmt: skip
# Soft hyphen, zero-width and bidirectional marks, variation selectors: shown to nobody, read by every model.
_INVISIBLE = dict.fromkeys(
    [
        *(0xAD, 0x34F, 0x61C, 0x180E, 0xFEFF),
        *(*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFE00, 0xFE10)),
    ]
)
# Tag characters carry ASCII that no terminal shows (U+E0020 to U+E007E).
_TAGGED = re.compile("[\U000e0020-\U000e007e]+")
_CONTROLS = {code: None for code in (*range(0x20), 0x7F) if chr(code) not in "\t\n\r\x0b\x0c\x1e"}


def fold(text: str) -> str:
    """`text` as a reader sees it: compatibility forms, look-alikes and hidden characters resolved, accents removed."""
    if not text.isprintable():
        text = text.translate(_CONTROLS)
    if text.isascii():
        return text
    text = _TAGGED.sub(_untagged, text)
    text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).translate(_LOOKALIKES)
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def _untagged(match: re.Match[str]) -> str:
    return " " + "".join(chr(ord(char) - 0xE0000) for char in match[0])


def views(text: str) -> list[str]:
    """`text` folded, and every text found inside it. Raises DecodeBound."""
    found: list[str] = []
    seen: set[str] = set()
    total = 0
    stack = [(text, 0)]
    while stack:
        current, depth = stack.pop()
        folded = fold(current)
        if folded in seen:
            continue
        seen.add(folded)
        found.append(folded)
        total += len(folded)
        if total > MAX_CHARS:
            raise DecodeBound(f"unfolds to more than {MAX_CHARS} characters")
        inner = _inside(folded)
        if inner and depth >= MAX_DEPTH:
            raise DecodeBound(f"encoded more than {MAX_DEPTH} times over")
        stack.extend((item, depth + 1) for item in inner if item not in seen)
    return found


def _inside(text: str) -> list[str]:
    inner: list[str] = []
    if "%" in text and _PERCENT.search(text):
        separators = text.replace("%1e", "%20").replace("%1E", "%20")  # what is decoded cannot pose as our separator
        inner.append(urllib.parse.unquote(separators, errors="replace"))
    if "&#" in text and _ENTITY.search(text):
        inner.append(_ENTITY.sub(_entity, text))
    if "\\" in text:
        inner.extend(_unescaped(text))
    if len(text) >= 16:
        inner.extend(_join(_base64_texts(text)))
    for part in text.split(SEPARATOR):
        if part[:1] in _JSON_STARTS:
            inner.extend(_join(_nested_json(part)))
    return inner


def _join(texts: list[str]) -> list[str]:
    """One text for all of them: a lock file has thousands of encoded words, and each would be looked at by itself."""
    return [join(texts)] if texts else []


def join(texts: Iterable[str]) -> str:
    """`texts` as one, apart from each other; a separator inside one of them becomes a space."""
    return SEPARATOR.join(text.replace(SEPARATOR, " ") if SEPARATOR in text else text for text in texts)


def _entity(match: re.Match[str]) -> str:
    digits = match[1]
    code = int(digits[1:], 16) if digits[0] == "x" else int(digits)
    return chr(code) if 0x1F < code < 0xD800 or 0xE000 <= code < 0x110000 else " "


def _unescaped(text: str) -> list[str]:
    found = []
    if _ESCAPED_UNICODE.search(text):
        plain = _ESCAPED_UNICODE.sub(lambda match: chr(int(match[1], 16)).replace(SEPARATOR, " "), text)
        # Pairs of surrogates are one character; lone ones become a question mark.
        found.append(plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    for match in _ESCAPED_HEX.finditer(text):
        found.extend(_as_text(bytes.fromhex(match[0].replace("\\x", ""))))
    return found


def _base64_texts(text: str) -> list[str]:
    found = []
    for match in _BASE64.finditer(text):
        word = match[0].rstrip("=").replace("-", "+").replace("_", "/")
        if _HEX.fullmatch(word):
            found.extend(_as_text(bytes.fromhex(word)))
        # Where the encoded part begins inside the word is not known ("sha512-…", "name/…"): it has one of four phases.
        for phase in range(4):
            found.extend(_base64_runs(word[phase:], whole=phase == 0))
    return found


def _base64_runs(word: str, *, whole: bool) -> list[str]:
    # Four characters carry three bytes; a remainder of one carries nothing and is dropped.
    word = word[:-1] if len(word) % 4 == 1 else word
    try:
        raw = base64.b64decode(word + "=" * (-len(word) % 4))
    except binascii.Error:
        return []
    if whole and (text := _as_text(raw)):
        return text
    return [run.decode("ascii") for run in _ASCII_RUN.findall(raw)]


def _as_text(raw: bytes) -> list[str]:
    """`raw` as a text that a person wrote, if it is one: mostly letters and spaces, in UTF-8 or UTF-16."""
    for encoding in ("utf-8", "utf-16-le") if b"\0" in raw[:8] else ("utf-8",):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        printable = sum(char.isprintable() or char in "\n\r\t" for char in text)
        if len(text) >= 6 and printable == len(text):
            return [text]
    return []


def _nested_json(text: str) -> list[str]:
    stripped = text.strip()
    if stripped[:1] not in ("{", "[", '"'):
        return []
    try:
        value = strictjson.parse(stripped.encode("utf-8", "replace"), _JSON_LIMIT)
    except strictjson.StrictJSONError:
        return []  # not JSON; the text itself is looked at anyway
    inner = [leaf for _, leaf in strictjson.leaves(value) if not leaf.isdigit()]
    return [item for item in inner if item != text]
