"""What the contract of a tool means for the arguments of one call: patterns of objects, and leases within the ceiling.

Paths are resolved here and now, as the daemon; the effect that comes later is compared with the name that the kernel
knows. A symlink that changes in between makes the two differ, and the effect is decided by itself.
"""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from governed_mcpd.nouns.endpoint import destination
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern, PatternError, PatternKind
from governed_mcpd.policy.documents import Effect
from governed_mcpd.subjects.inflight import Entailed
from governed_mcpd.subjects.rules import Places, Rules

MOST_VALUES = 256
USES = 10_000
SECONDS = 86_400  # the lease ends with the call; the ceiling says how long at most
_PATH_MAX = 4096
_LOOKUP = frozenset((Operation.NET_RESOLVE,))
_SHELLS = ("sh", "/bin/sh", "bash", "/bin/bash", "/usr/bin/sh", "/usr/bin/bash")


def entailed(contract: Iterable[Effect], arguments: Mapping[str, Any], places: Places) -> tuple[Entailed, ...]:
    """What a call with these arguments entails. An argument that is missing, or names nothing, entails nothing."""
    found: list[Entailed] = []
    for effect in contract:
        operations = frozenset(effect.operations)
        if effect.on is not None:
            pattern = _constant(effect.on, places)
            beside = effect.beside and pattern.kind is PatternKind.EXACT
            found.append(Entailed(operations, pattern, stem=pattern.text if beside else ""))
        if effect.argument is not None:
            for value in _values(arguments, effect.argument):
                found += _of_value(effect, operations, value, places)
    return tuple(found)


def leases(entries: Iterable[Entailed], chain: Iterable[Rules], call: str, policy_version: str) -> list[Lease]:
    """The leases of a call, each within the ceiling of every profile of the chain. What is beside a file, what runs a
    program, and what no ceiling has, gets none: it is entailed, and decided by itself all the same."""
    found: list[Lease] = []
    chain = tuple(chain)
    for entry in entries:
        if entry.pattern is None:
            continue
        for operation in entry.operations - {Operation.PROCESS_EXEC}:
            lease: Lease | None = Lease(frozenset({operation}), entry.pattern, USES, SECONDS, policy_version, call)
            for rules in chain:
                lease = rules.cut(lease) if lease is not None else None
            if lease is not None:
                found.append(lease)
    return found


def _constant(text: str, places: Places) -> Pattern:
    expanded = places.expand(text)
    if expanded.endswith("/**"):
        return Pattern.parse(os.path.realpath(expanded[:-3] or "/").rstrip("/") + "/**")
    return Pattern.parse(os.path.realpath(expanded) if expanded.startswith("/") else expanded)


def _values(arguments: Mapping[str, Any], path: str) -> Iterator[Any]:
    """What stands at a JSONPath of member names; each member of a list where it ends in [*]."""
    each = path.endswith("[*]")
    value: Any = arguments
    for name in path.removesuffix("[*]").split(".")[1:]:
        if not isinstance(value, Mapping) or name not in value:
            return
        value = value[name]
    if not each:
        yield value
    elif isinstance(value, list):
        yield from value[:MOST_VALUES]


def _of_value(effect: Effect, operations: frozenset[Operation], value: Any, places: Places) -> list[Entailed]:
    if effect.names == "command":
        words = _command(value)
        return [Entailed(operations, words=words)] if words else []
    if not isinstance(value, str) or not value:
        return []
    if effect.names == "endpoint":
        return _of_endpoint(operations, value)
    path = _path(value, places)
    if path is None:
        return []
    kind = PatternKind.UNDER if effect.under else PatternKind.EXACT
    return [Entailed(operations, Pattern(kind, path), stem=path if effect.beside else "")]


def _path(text: str, places: Places) -> str | None:
    """The canonical path that a server in `places.cwd` means; None for what no kernel takes as one."""
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if text == "~" or text.startswith("~/"):
        text = places.home + text[1:]
    if not text or "\0" in text or len(text) >= _PATH_MAX:
        return None
    try:
        return os.path.realpath(os.path.join(places.cwd, text))
    except (OSError, UnicodeError):
        return None


def _of_endpoint(operations: frozenset[Operation], text: str) -> list[Entailed]:
    """Where a URL or HOST:PORT leads. A name entails looking it up, and connecting to what it led to in this
    sandbox."""
    try:
        leads = destination(text)
        found: list[Entailed] = []
        if leads.endpoint and operations - _LOOKUP:
            found.append(Entailed(operations - _LOOKUP, Pattern(PatternKind.ENDPOINT, leads.endpoint)))
        if leads.name and operations & _LOOKUP:
            found.append(Entailed(_LOOKUP, Pattern(PatternKind.NAME, leads.name)))
    except (ValueError, PatternError):
        return []
    return found


def _command(value: Any) -> tuple[tuple[str, ...], ...]:
    """The command lines that an argument stands for: its words, and itself as the text that a shell gets."""
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        return (tuple(value),)
    if not isinstance(value, str) or not value.strip():
        return ()
    try:
        words = tuple(shlex.split(value))
    except ValueError:
        words = ()
    shells = tuple((shell, "-c", value) for shell in _SHELLS)
    return (words, *shells) if words else shells
