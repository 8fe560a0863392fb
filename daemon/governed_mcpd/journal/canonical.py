"""Canonical JSON: RFC 8785 without floats, plus one form for text that is not UTF-8.

- Object members are sorted by the UTF-16 code units of their names (RFC 8785, 3.2.3). orjson sorts by UTF-8 bytes,
  which is the order of code points. The two differ only between names with a character above U+FFFF (surrogates
  D800–DFFF in UTF-16) and names with one from U+E000 to U+FFFF. So orjson sorts when all names are ASCII; otherwise
  we sort.
- Numbers are integers from -(2^53-1) to 2^53-1. RFC 8785 knows IEEE doubles only: a larger integer would be rounded by
  a reader that follows it, and then has another hash. Floats are refused.
- A str in surrogateescape form (os.fsdecode of bytes that are not UTF-8) becomes {"b64": "<base64 of the bytes>"}. So
  an object with `b64` as its only member is refused as input: a reader would take it for bytes.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Final

import orjson

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 64
_SORTED: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_AS_GIVEN: Final = orjson.OPT_STRICT_INTEGER
_SCALARS: Final = frozenset((str, int, bool, type(None)))
_BYTES_FORM: Final = b'{"b64":'


class CanonicalError(TypeError):
    """A value with no canonical form. The message says where it is and what was expected."""


def canonical(value: object) -> bytes:
    """The canonical JSON of dicts (str names), lists, tuples, str, int, bool and None; CanonicalError for the rest."""
    if _plain(value, 0):
        try:
            return orjson.dumps(value, option=_SORTED)
        except orjson.JSONEncodeError:
            pass  # text that is not UTF-8, or an integer out of range: the slow way handles or names it
    return orjson.dumps(_normal(value, "value", 0), option=_AS_GIVEN)


def parse(body: bytes) -> object:
    """The value of canonical JSON, {"b64": …} as str in surrogateescape form; CanonicalError when it is not JSON.

    Does not prove that `body` is canonical: that holds when canonical(parse(body)) == body.
    """
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise CanonicalError(f"not JSON: {error}") from None
    # The bytes of _BYTES_FORM cannot stand inside a JSON string: its quotes would be escaped there.
    return _revive(value) if _BYTES_FORM in body else value


def _plain(value: object, depth: int) -> bool:
    """Whether orjson alone gives the canonical form (or an error)."""
    items: Iterable[object]
    if type(value) is dict:
        if not _plain_names(value):
            return False
        items = value.values()
    elif type(value) is list or type(value) is tuple:
        items = value
    else:
        return type(value) in _SCALARS
    if depth >= MAX_DEPTH:
        return False
    for item in items:
        kind = type(item)
        if kind is str or kind is int:
            continue
        if kind not in _SCALARS and not _plain(item, depth + 1):
            return False
    return True


def _plain_names(value: dict[str, object]) -> bool:
    try:
        return "".join(value).isascii() and not (len(value) == 1 and "b64" in value)
    except TypeError:
        return False


def _normal(value: object, where: str, depth: int) -> object:
    """The same value in exact built-in types, members in order, bytes in their form."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise CanonicalError(f"{where} is {int(value)}: expected an integer within ±(2^53-1), or a string")
        return int(value)
    if depth >= MAX_DEPTH:
        raise CanonicalError(f"{where[:200]} is nested deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        members = sorted((_name(name, where), name) for name in value)
        if any(one[0] == other[0] for one, other in pairwise(members)):
            raise CanonicalError(f"{where} has two members of the same name")
        if len(members) == 1 and members[0][1] == "b64":
            raise CanonicalError(f"{where} has `b64` as its only member: that form is kept for bytes")
        return {str.__str__(name): _normal(value[name], f"{where}.{name}", depth + 1) for _, name in members}
    if isinstance(value, list | tuple):
        return [_normal(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    expected = "an integer of a smaller unit" if isinstance(value, float) else "object, array, str, int, bool or None"
    raise CanonicalError(f"{where} is a {type(value).__name__}: expected {expected}")


def _name(name: object, where: str) -> bytes:
    """The sort key of a member's name."""
    if not isinstance(name, str):
        raise CanonicalError(f"{where} has the member name {name!r}: expected a str")
    try:
        return name.encode("utf-16-be")
    except UnicodeEncodeError:
        raise CanonicalError(f"{where} has the member name {name!r}: names have to be UTF-8") from None


def _text(text: str, where: str) -> object:
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        return str.__str__(text)
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise CanonicalError(f"{where} is text with a lone surrogate that stands for no byte") from None
    try:
        return raw.decode()  # escapes that together are UTF-8 after all
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(raw).decode("ascii")}


def _revive(value: object) -> object:
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(encoded := value.get("b64"), str):
            try:
                return base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape")
            except (binascii.Error, ValueError):
                raise CanonicalError(f"{encoded[:40]!r} is not base64") from None
        return {name: _revive(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_revive(item) for item in value]
    return value
