"""JSON from strangers, read strictly: what two readers could understand differently is refused.

RFC 8259 leaves duplicate keys, NaN and lone surrogates to the reader; a tool server may pick another meaning than the
gate did, so none of them gets through.
"""

import json
from typing import Any, NoReturn

MAX_DEPTH = 64
MAX_NODES = 200_000
_CONTAINERS = frozenset((dict, list))


class StrictJSONError(ValueError):
    """Text that is not strict JSON, or past a bound. The message says which rule was broken."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise StrictJSONError(f"the key {key[:60]!r} stands twice in one object")
            seen.add(key)
    return result


def _constant(name: str) -> NoReturn:
    raise StrictJSONError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise StrictJSONError(f"the number {text[:40]} is too large")
    return value


# Made once: json.loads makes one each time, which takes longer than reading an ordinary message with it.
_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)


def parse(text: bytes, limit: int, most: int = MAX_NODES) -> Any:
    """The value of `text`, at most `limit` bytes of UTF-8 and `most` values. Raises StrictJSONError."""
    if len(text) > limit:
        raise StrictJSONError(f"{len(text)} bytes: expected at most {limit}")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJSONError(f"not UTF-8 at byte {error.start}") from None
    try:
        value = _DECODER.decode(decoded)
    except StrictJSONError:
        raise
    except RecursionError:
        raise StrictJSONError(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise StrictJSONError(f"not JSON: {str(error)[:120]}") from None
    # UTF-8 has no lone surrogates: only an escape can bring one in.
    _check(value, most, escapes=b"\\u" in text)
    return value


def _check(value: Any, most: int, escapes: bool) -> None:
    """Depth and number of values; and the texts, where there was an escape that may stand for half a character."""
    stack: list[tuple[Any, int]] = [(value, 1)]
    nodes = 1
    while stack:
        node, depth = stack.pop()
        if isinstance(node, str):
            _check_text(node)
            continue
        if not isinstance(node, dict | list):
            continue
        if depth > MAX_DEPTH:
            raise StrictJSONError(f"nested deeper than {MAX_DEPTH}")
        nodes += len(node)
        if nodes > most:
            raise StrictJSONError(f"more than {most} values")
        children: Any = node.values() if isinstance(node, dict) else node
        if escapes:
            stack.extend((child, depth + 1) for child in (*node, *children))
        else:
            # Scalars are most of what there is, and nothing can be wrong with them.
            stack += [(child, depth + 1) for child in children if child.__class__ in _CONTAINERS]


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise StrictJSONError("a lone surrogate in a string") from None


def leaves(value: Any) -> list[tuple[str, str]]:
    """Every string and number beneath `value`, and every key that is not a plain name, with the name nearest above."""
    found: list[tuple[str, str]] = []
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, str):
            found.append((name, node))
        elif isinstance(node, dict):
            for key, child in node.items():
                if not key.isidentifier():
                    found.append((name, key))
                stack.append((key, child))
        elif isinstance(node, list):
            stack.extend((name, child) for child in node)
        elif isinstance(node, int | float) and not isinstance(node, bool):
            found.append((name, str(node)))
    found.reverse()
    return found
