"""From calls and their effects to contracts, as narrow as what was seen.

An argument explains a name when it is that name (or, where the program writes beside and renames, the beginning of it;
or a directory above it). It is believed when it did so for two different values. Everything else is said, not proposed.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from governed_mcpd.learning.observe import Call, Happened, Seen
from governed_mcpd.nouns.endpoint import destination
from governed_mcpd.nouns.operation import FILE_CHANGES, NETWORK, Operation
from governed_mcpd.nouns.pattern import Pattern, PatternError, PatternKind

LEAST_VALUES = 2
LEAST_BENEATH = 3  # different names beneath a directory, before everything beneath it is believed
MOST_ENTRIES = 64  # of one tool: policy/documents
MOST_LEFT_OUT = 40  # that are said of one tool
_SHELLS = ("sh", "/bin/sh", "bash", "/bin/bash", "/usr/bin/sh", "/usr/bin/bash")
_READS = frozenset({Operation.FILE_READ, Operation.NET_RESOLVE, Operation.NET_CONNECT})
_LEADS = NETWORK | {Operation.NET_RESOLVE}
EXACT, BESIDE, UNDER, COMMAND, ENDPOINT = "exact", "beside", "under", "command", "endpoint"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a contract, and how often each of its operations was seen. `on` is a constant."""

    operations: tuple[str, ...]
    argument: str = ""
    how: str = EXACT
    on: str = ""
    seen: tuple[str, ...] = ()


@dataclass(slots=True)
class Proposal:
    """What is proposed for one tool. `left_out` says what was seen besides, and why it is not proposed."""

    tool: str
    calls: int
    entries: list[Entry] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def propose(seen: Seen, reads_only: Iterable[str] = (), *, constants: bool = False) -> list[Proposal]:
    """One proposal for each tool that was called. `reads_only`: tools that say of themselves that they only read.
    `constants`: also places that are always the same, beneath the server's directory."""
    tools: dict[str, list[Call]] = defaultdict(list)
    for call in seen.calls:
        tools[call.tool].append(call)
    says_reads = frozenset(reads_only)
    return [
        _of_tool(tool, calls, only_reads=tool in says_reads, constants=constants)
        for tool, calls in sorted(tools.items())
    ]


@dataclass(frozen=True, slots=True)
class _Link:
    """One way in which one name of one effect follows from one argument of its call."""

    argument: str
    how: str
    value: str
    happened: Happened
    name: str
    call: int


def _of_tool(tool: str, calls: list[Call], *, only_reads: bool, constants: bool) -> Proposal:
    found = Proposal(tool, len(calls))
    links: list[_Link] = []
    unreadable = sum(call.arguments is None for call in calls)
    for number, call in enumerate(calls):
        for happened in call.effects:
            if not happened.refused:
                links += _links(number, call, happened)
    believed = _believed(links, only_reads)
    found.entries = _entries(believed, len(calls))
    covered = {(link.call, link.happened, link.name) for group in believed.values() for link in group}
    rest = list(_rest(calls, covered))
    if constants:
        found.entries += _constants(rest, calls, found.left_out, only_reads)
        taken = {entry.on for entry in found.entries if entry.on}
        rest = [
            (number, happened)
            for number, happened in rest
            if happened.refused or _constant(happened.names[0], calls[number].cwd) not in taken
        ]
    found.left_out += _left_out(rest, calls, only_reads)
    if unreadable:
        found.left_out.append(f"{unreadable} calls whose arguments the journal does not have whole (redacted or long)")
    if len(found.entries) > MOST_ENTRIES:
        found.left_out.append(f"{len(found.entries)} entries: more than the {MOST_ENTRIES} that a contract may have")
        found.entries = []
    return found


# ---- what follows from an argument


def _links(number: int, call: Call, happened: Happened) -> Iterator[_Link]:
    leaves = list(_leaves(call.arguments or {}))
    whole = {_path(value, call.cwd) for _, value in leaves if isinstance(value, str)}
    for argument, value in leaves:
        if happened.operation == Operation.PROCESS_EXEC:
            if happened.argv in _command_lines(value):
                yield _Link(argument, COMMAND, repr(value), happened, happened.names[0], number)
            continue
        if not isinstance(value, str):
            continue
        if happened.operation in _LEADS:
            if happened.names[0] in _destinations(value):
                yield _Link(argument, ENDPOINT, happened.names[0], happened, happened.names[0], number)
            continue
        path = _path(value, call.cwd)
        if path is None:
            continue
        for name in happened.names:
            if name == path:
                yield _Link(argument, EXACT, path, happened, name, number)
            elif name in whole:
                continue  # another argument is this name: that says more than that it begins like this one
            elif name.startswith(path + ".") and "/" not in name[len(path) :]:
                yield _Link(argument, BESIDE, path, happened, name, number)
            elif name.startswith(path + "/") and not _wide(path, call.cwd):
                yield _Link(argument, UNDER, path, happened, name, number)


def _leaves(arguments: Mapping[str, Any], above: str = "$") -> Iterator[tuple[str, Any]]:
    """Every argument by its JSONPath, as far as a contract can name it."""
    for name, value in arguments.items():
        if not name.isascii() or not name.replace("_", "a").replace("-", "a").isalnum() or name[0] in "-0123456789":
            continue
        path = f"{above}.{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        elif isinstance(value, list):
            yield path, value  # a command line, perhaps
            for item in value[:256]:
                if isinstance(item, str):
                    yield f"{path}[*]", item
        else:
            yield path, value


def _path(text: str, cwd: str) -> str | None:
    """The path that a server in `cwd` means, by its letters alone: a symlink makes the names differ, and then nothing
    is learned."""
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if not text or "\0" in text or len(text) >= 4096 or text.startswith("~") or not cwd:
        return None
    return os.path.normpath(os.path.join(cwd, text))


def _destinations(text: str) -> tuple[str, ...]:
    """What is looked up and connected to when a server follows a URL or HOST:PORT. An address that no lookup led to is
    spoken of as such, and follows from a text that has it."""
    try:
        leads = destination(text)
    except ValueError:
        return ()
    return leads.endpoint, leads.name


def _wide(path: str, cwd: str) -> bool:
    """Whether so much lies beneath a directory that anything a server does would seem to follow from it."""
    return cwd == path or cwd.startswith(path.rstrip("/") + "/") or path.count("/") < 2


def _command_lines(value: Any) -> tuple[tuple[str, ...], ...]:
    if isinstance(value, list):
        return (tuple(value),) if value and all(isinstance(word, str) for word in value) else ()
    if not isinstance(value, str) or not value.strip():
        return ()
    return tuple((shell, "-c", value) for shell in _SHELLS)


def _believed(links: list[_Link], only_reads: bool) -> dict[tuple[str, str, str], list[_Link]]:
    """The links by argument, way and operation that followed two different values of the argument. A directory explains
    only what no name explains better."""
    groups: dict[tuple[str, str, str], list[_Link]] = defaultdict(list)
    for link in links:
        groups[link.argument, link.how, link.happened.operation].append(link)
    found: dict[tuple[str, str, str], list[_Link]] = {}
    for key, group in groups.items():
        argument, how, operation = key
        if len({link.value for link in group}) < LEAST_VALUES or (only_reads and _changes(operation)):
            continue
        if how == BESIDE and not _replaces(groups, argument):
            continue
        found[key] = group
    named = {(link.call, link.name) for (_, how, _), group in found.items() if how != UNDER for link in group}
    for key in [key for key in found if key[1] == UNDER]:
        left = [link for link in found[key] if (link.call, link.name) not in named]
        # The same names beneath every value are no sign that anything else beneath it is meant.
        tails = {link.name[len(link.value) :] for link in left}
        if len({link.value for link in left}) < LEAST_VALUES or len(tails) < LEAST_BENEATH:
            del found[key]
        else:
            found[key] = left
    return found


def _replaces(groups: Mapping[tuple[str, str, str], list[_Link]], argument: str) -> bool:
    """Whether what is written beside the file is renamed over it, each time."""
    beside = groups.get((argument, BESIDE, Operation.FILE_RENAME), [])
    onto = {(link.call, link.value) for link in groups.get((argument, EXACT, Operation.FILE_RENAME), [])}
    return len({link.value for link in beside if (link.call, link.value) in onto}) >= LEAST_VALUES


def _changes(operation: str) -> bool:
    """readOnlyHint (MCP, ToolAnnotations): it does not modify its environment. What fetches pages says so of itself."""
    return operation not in _READS


def _entries(believed: Mapping[tuple[str, str, str], list[_Link]], calls: int) -> list[Entry]:
    by_argument: dict[tuple[str, str], dict[str, list[_Link]]] = defaultdict(dict)
    for (argument, how, operation), group in believed.items():
        by_argument[argument, how][operation] = group
    found = []
    for (argument, how), operations in sorted(by_argument.items()):
        seen = tuple(
            f"{operation}: in {len({link.call for link in group})} of {calls} calls, "
            f"{len({link.value for link in group})} different values"
            for operation, group in sorted(operations.items())
        )
        found.append(Entry(tuple(sorted(operations)), argument, how, seen=seen))
    return found


# ---- what does not


def _rest(calls: list[Call], covered: set[tuple[int, Happened, str]]) -> Iterator[tuple[int, Happened]]:
    for number, call in enumerate(calls):
        for happened in call.effects:
            if happened.refused or any((number, happened, name) not in covered for name in happened.names):
                yield number, happened


def _constants(
    rest: list[tuple[int, Happened]], calls: list[Call], left_out: list[str], only_reads: bool
) -> list[Entry]:
    """Places beneath the server's directory that every call touched, by their whole names."""
    touched: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for number, happened in rest:
        changes = happened.operation in FILE_CHANGES
        if happened.refused or len(happened.names) != 1 or not (changes or happened.operation == Operation.FILE_READ):
            continue
        if changes and only_reads:
            continue
        on = _constant(happened.names[0], calls[number].cwd)
        if on:
            touched[on][happened.operation].add(number)
    found = []
    for on, operations in sorted(touched.items()):
        if len(calls) < LEAST_VALUES or len(set().union(*operations.values())) < len(calls):
            continue
        seen = tuple(f"{name}: in {len(numbers)} of {len(calls)} calls" for name, numbers in sorted(operations.items()))
        found.append(Entry(tuple(sorted(operations)), on=on, seen=seen))
    return found


def _constant(name: str, cwd: str) -> str:
    """The name as a document can say it; empty for what lies elsewhere, or would be read as more than one name."""
    if not cwd or cwd == "/" or not name.startswith(cwd + "/"):
        return ""
    rest = name[len(cwd) :]
    try:
        # A file may be called `**`: as a pattern that is a whole directory.
        if "${" in rest or Pattern.parse(rest) != Pattern(PatternKind.EXACT, rest):
            return ""
    except PatternError:
        return ""
    return "${cwd}" + rest


def _left_out(rest: list[tuple[int, Happened]], calls: list[Call], only_reads: bool) -> list[str]:
    counted: Counter[tuple[str, str]] = Counter()
    for _, happened in {(number, item): item for number, item in rest}:
        why = happened.refused or "does not follow from an argument that had two different values"
        if only_reads and _changes(happened.operation) and not happened.refused:
            why = "the tool says of itself that it only reads"
        counted[happened.text, why] += 1
    said = [f"{text}: in {count} of {len(calls)} calls; {why}" for (text, why), count in counted.most_common()]
    if len(said) > MOST_LEFT_OUT:
        said[MOST_LEFT_OUT:] = [f"and {len(said) - MOST_LEFT_OUT} others"]
    return said
