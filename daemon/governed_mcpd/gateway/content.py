"""What comes from a server is looked through before the client gets it: results, resources, prompts, descriptions.

The patterns are the gate's own (layer 4). Here they run where the content is, so that a result does not travel twice:
what is found is told to the daemon, and policy says what happens.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from governed_mcpd.gate.text import decode
from governed_mcpd.gate.text.patterns import PatternSearchFailed, Scope, shipped
from governed_mcpd.journal.redact import mask

MOST_SCANNED = 4 * 1024 * 1024  # characters of one message; more counts as not looked through
MOST_TOLD = 16 * 1024  # characters that the daemon remembers of it
_NO_TEXT = frozenset({"image", "audio", "video", "font", "model"})
_TEXTUAL = re.compile("json|xml|script|yaml|toml|sql|text|html|csv|sh|graphql|form|ndjson|markdown|tex|rtf")
Binary = dict[int, str]
_TAGS = range(0xE0000, 0xE0080)
_JOINERS = frozenset("\u200c\u200d\ufe0e\ufe0f")


def binary(body: Any) -> Binary:
    """Where `body`, a result or the params of a request, holds base64 of images, audio and files, which is nothing that
    a model reads: the objects, by id(), and their member for it. Only the places where MCP has it: anywhere else, and
    where it says that it is text, it is text."""
    found: Binary = {}
    if not isinstance(body, dict):
        return found
    contents = _objects(body.get("contents"))
    for block in (*_objects(body.get("content")), *_of_messages(body.get("messages"))):
        if block.get("type") in ("image", "audio"):
            found[id(block)] = "data"
        elif block.get("type") == "resource":
            contents.extend(_objects([block.get("resource")]))
    for resource in contents:
        if _is_binary(resource.get("mimeType")):
            found[id(resource)] = "blob"
    return found


def _is_binary(kind: Any) -> bool:
    """Whether a MIME type is of something that is no text."""
    top, _, sub = (kind if isinstance(kind, str) else "").strip().casefold().partition("/")
    return top in _NO_TEXT or (top == "application" and bool(sub) and _TEXTUAL.search(sub) is None)


def _of_messages(value: Any) -> Iterator[dict[str, Any]]:
    for message in _objects(value):
        content = message.get("content")
        yield from _objects(content if isinstance(content, list) else [content])


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def strings(value: Any, skipped: Binary | None = None) -> Iterator[str]:
    """Every text beneath `value`, member names that are no plain names included, but for what `binary` has found."""
    binary = skipped or {}
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            left_out = binary.get(id(node)) if binary else None
            for name, child in node.items():
                if not name.isidentifier():
                    yield name
                if name != left_out:
                    stack.append(child)
        elif isinstance(node, list):
            stack.extend(node)


def scan(texts: list[str]) -> list[str]:
    """What is injected, as "rule: reason". Fails closed: what cannot be looked through is a finding."""
    if sum(map(len, texts)) > MOST_SCANNED:
        return [f"content-bound: more than {MOST_SCANNED} characters are not looked through"]
    found: dict[str, str] = {}
    patterns = shipped()
    try:
        for view in decode.views(decode.join(texts)):
            for text in (view, view.translate(decode.ROT13)):
                for item in patterns.search(text, Scope.PROSE):
                    if item.effect == "deny":
                        found[item.id] = item.reason
    except (decode.DecodeBound, PatternSearchFailed) as error:
        found["content-bound"] = str(error)
    return [f"{rule}: {reason}" for rule, reason in found.items()]


def scan_tool(form: dict[str, Any]) -> list[str]:
    """What is wrong with what a tool says of itself: injected instructions, and characters that nobody sees."""
    texts = list(strings(form))
    hidden = next((char for text in texts if not text.isascii() for char in _hidden(text)), None)
    found = [f"invisible-characters: it has U+{ord(hidden):04X}, which is not shown"] if hidden else []
    return found + scan(texts)


def _hidden(text: str) -> Iterator[str]:
    """Characters that are not shown: format, private and unassigned ones. Joiners inside emoji and scripts that need
    them are shown, in a way; so they count only next to letters of the Latin alphabet."""
    for index, char in enumerate(text):
        if ord(char) in _TAGS or unicodedata.category(char) in ("Cf", "Co", "Cn", "Cc"):
            if char in "\n\t\r":
                continue
            before = text[index - 1] if index else ""
            if char in _JOINERS and before and not before.isascii():
                continue
            yield char


def told(texts: Iterable[str]) -> list[str]:
    """The beginning of the texts, as much as the daemon remembers."""
    left, found = MOST_TOLD, []
    for text in texts:
        if left <= 0:
            break
        if text.strip():
            found.append(text[:left])
            left -= len(text) + 1
    return ["\n".join(found)] if found else []


def masked(value: Any, skipped: Binary | None = None) -> tuple[Any, bool]:
    """`value` with what looks like a credential masked in every text, but for what `binary` has found, and whether
    there was any."""
    if isinstance(value, str):
        new = mask(value)
        return new, new != value
    if isinstance(value, dict):
        left_out = skipped.get(id(value)) if skipped else None
        pairs = {name: (child, False) if name == left_out else masked(child, skipped) for name, child in value.items()}
        return {name: child for name, (child, _) in pairs.items()}, any(changed for _, changed in pairs.values())
    if isinstance(value, list):
        items = [masked(item, skipped) for item in value]
        return [item for item, _ in items], any(changed for _, changed in items)
    return value, False
