"""An action and its context as data in a prompt: JSON whose texts cannot end it, and cannot make special tokens.

Within a text every letter, digit, blank and plain punctuation mark stands as it is; all else is an escape of JSON. So
no text holds a quote, a bracket of any kind, a bar, a backslash or a line end. Tokenizers find special tokens (`<s>`,
`[INST]`, `<|im_end|>`, `|||PHONE_NUMBER|||`) by their spelling, and each of those has one of these characters.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import Context, SideEffect, ToolCall, Untrusted

_PLAIN = r"A-Za-z0-9 .,:;/_@=+()'!?#%&*~$^`-"
_ODD = re.compile(f"[^{_PLAIN}]")
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
# How much a text may be given of what is left, where not all fits.
_TASK_SHARE, _EARLIER_SHARE = 4, 8
_MOST_EFFECTS = 8
_MOST_TEXTS = 16
_SHARE = 600
_LONGEST_CALL = 4096
_MOST_VALUES = 32
_WINDOW = 200
_TRIES = 12
_LEAST = 256


class TooLong(ValueError):
    """An action that does not fit. It is never cut: what is left out could be what harms."""


def escaped(text: str) -> bytes:
    """`text` as it stands between the quotes of a JSON text."""
    return _ODD.sub(_escape, text).encode("utf-8", "backslashreplace")


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    if code > 127:
        kind = unicodedata.category(char)
        # A combining mark at the beginning would change the quote before it.
        if kind[0] in "LN" or (kind[0] == "M" and match.start() > 0):
            return char
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"


def written(value: Any) -> bytes:
    """`value` as JSON in which texts are escaped as above."""
    if isinstance(value, str):
        return b'"' + escaped(value) + b'"'
    if isinstance(value, dict):
        return b"{" + b",".join(written(key) + b":" + written(child) for key, child in value.items()) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(written, value)) + b"]"
    if value is None or isinstance(value, bool):
        return {None: b"null", True: b"true", False: b"false"}[value]
    return repr(value).encode("ascii")


@dataclass(frozen=True, slots=True)
class Data:
    """The lines of one prompt's data, and how many characters of the context were left out for want of room."""

    lines: bytes
    left_out: int


def of(reading: Reading, room: int) -> Data:
    """The action, whole, after as much of its context as fits in `room` bytes. Raises TooLong, MalformedArguments.

    The context comes first, so that actions in the same context share it, and the action is nearest to the verdict.
    What is shown of untrusted content begins with what surrounds the action's own values: padding cannot push that out.
    """
    action = b'{"action":' + written(_action(reading)) + b"}\n"
    left = room - len(action)
    if left < _LEAST:
        raise TooLong(
            f"the action takes {len(action)} bytes of a prompt that has room for {max(room - _LEAST, 0)}: "
            "it is never shortened; a model with a longer context can judge it"
        )
    context = reading.action.context
    cut = _Cutter()
    task = b'{"task":' + cut.text(context.task, (), left // _TASK_SHARE) + b"}\n"
    around = b'{"surroundings":' + cut.effects(context, left // _EARLIER_SHARE) + b"}\n"
    if len(task) + len(around) > left:  # by the shares this cannot be
        raise TooLong(f"task and surroundings take {len(task) + len(around)} bytes of {left}")
    left -= len(task) + len(around) + len(b'{"untrusted":[]}\n')
    untrusted = b'{"untrusted":' + cut.untrusted(context, _values(reading), left) + b"}\n"
    return Data(task + around + untrusted + action, cut.left_out)


def _action(reading: Reading) -> dict[str, Any]:
    what = reading.action.what
    if isinstance(what, ToolCall):
        return {"tool": what.tool, "server": what.server, "arguments": reading.arguments}
    return _effect(what)


def _effect(effect: SideEffect) -> dict[str, Any]:
    parts = {"operation": effect.operation.value, "object": effect.object}
    more = {"second": effect.second, "argv": effect.argv, "details": dict(effect.details)}
    return parts | {name: value for name, value in more.items() if value}


def _values(reading: Reading) -> list[str]:
    """What untrusted content may have told the agent to do: the values of the action, longest first."""
    what = reading.action.what
    if isinstance(what, ToolCall):
        found = [text for _, text in reading.leaves]
    else:
        found = [what.object, what.second, *what.argv[1:], *re.split(r"[/:]", what.object)]
    some = {text for text in found if 4 <= len(text) <= 400}
    return sorted(some, key=lambda text: (-len(text), text))[:_MOST_VALUES]


def _shown(call: ToolCall) -> str:
    return call.arguments[:_LONGEST_CALL].decode("utf-8", "replace")


class _Cutter:
    """Shortens texts to a size in bytes as they are written, and counts the characters that it left out."""

    def __init__(self) -> None:
        self.left_out = 0

    def text(self, text: str, values: Sequence[str], room: int) -> bytes:
        """One text: itself, or a list of its parts, with the number of characters left out between them."""
        if len(text) <= room and len(whole := written(text)) <= room:
            return whole
        size = room
        for _ in range(_TRIES):
            parts = _parts(text, _spans(len(text), _mentions(text, values), size))
            found = written(parts)
            if len(found) <= room:
                self.left_out += sum(part for part in parts if isinstance(part, int))
                return found
            size = min(size * room // len(found), size - 16)
        self.left_out += len(text)
        return written([len(text)])

    def effects(self, context: Context, room: int) -> bytes:
        """Where the agent works, the calls in flight, and what it did last."""
        parts: dict[str, list[Any]] = {
            "home": [context.home],
            "directories": list(context.directories[:4]),
            "calls": [{"tool": call.tool, "arguments": _shown(call)} for call in context.calls[-_MOST_EFFECTS:]],
            "earlier": [_effect(effect) for effect in context.earlier[-_MOST_EFFECTS:]],
        }
        while len(found := written({name: value for name, value in parts.items() if value})) > room:
            name = next(name for name in ("earlier", "calls", "directories", "home") if parts[name])
            self.left_out += len(written(parts[name].pop(0)))
        return found

    def untrusted(self, context: Context, values: Sequence[str], room: int) -> bytes:
        """Texts that mention a value of the action, newest first, in most of the room; other new ones in the rest.

        Texts that are too long get equal shares. Only as many are shown as leaves each a share worth reading: otherwise
        many texts would do what a long one cannot.
        """
        texts = dict.fromkeys(reversed(context.untrusted))
        holding = [item for item in texts if any(value in item.text for value in values)]
        found = set(holding)
        others = [item for item in texts if item not in found]
        most = min(max(room // _SHARE, 1), _MOST_TEXTS)
        shown: dict[Untrusted, bytes] = {}
        self._share(holding[:most], values, room * 3 // 4 if others else room, shown)
        left = room - sum(len(text) + 1 for text in shown.values())
        self._share(others[: min(max(left // _SHARE, 1), _MOST_TEXTS)], values, left, shown)
        self.left_out += sum(len(item.text) for item in texts if item not in shown)
        return b"[" + b",".join(shown[item] for item in reversed(texts) if item in shown) + b"]"

    def _share(
        self, items: Sequence[Untrusted], values: Sequence[str], room: int, shown: dict[Untrusted, bytes]
    ) -> None:
        """Puts `items` into `shown`, the shortest first: what one does not need is the next one's."""
        for index, item in enumerate(sorted(items, key=lambda item: len(item.text))):
            share = room // (len(items) - index)
            start = b'{"source":' + written(item.source[:32]) + b',"text":'
            if share >= len(start) + 80:
                shown[item] = start + self.text(item.text, values, share - len(start) - 2) + b"}"
                room -= len(shown[item]) + 1


def _mentions(text: str, values: Sequence[str]) -> list[tuple[int, int]]:
    """Where `text` first and last mentions each value."""
    found = ((text.find(value), text.rfind(value), len(value)) for value in values)
    return list(dict.fromkeys((at, at + size) for first, last, size in found if first >= 0 for at in (first, last)))


def _spans(size: int, mentions: Sequence[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    """Which parts of a text to show: what surrounds its mentions, in half of the room; its beginning and its end."""
    wanted: list[tuple[int, int]] = []
    left = room // 2
    for start, end in mentions:
        around = min(_WINDOW, room // 8)
        cost = end - start + 2 * around + 16
        if cost <= left:
            wanted.append((max(start - around, 0), min(end + around, size)))
            left -= cost
    rest = max(left + room // 2 - 64, 0) // 2
    wanted += [(0, min(rest, size)), (max(size - rest, 0), size)]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(wanted):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _parts(text: str, spans: Sequence[tuple[int, int]]) -> list[str | int]:
    parts: list[str | int] = []
    at = 0
    for start, end in (*spans, (len(text), len(text))):
        if start > at:
            parts.append(start - at)
        if end > start:
            parts.append(text[start:end])
        at = end
    return parts
