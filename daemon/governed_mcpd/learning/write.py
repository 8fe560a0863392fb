"""A proposal as the text of a Tool document, proved to be read as what was meant.

Every name in it comes from a server: of tools, of files, in schemas. None may end a comment, or a string, and go on as
a member. So text that is not printable is escaped in comments and refused as a value; and the text is read again, by
the loader that `apply` uses, and compared with what it is meant to say.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from governed_mcpd.learning.observe import Seen
from governed_mcpd.learning.propose import BESIDE, COMMAND, ENDPOINT, UNDER, Entry, Proposal
from governed_mcpd.policy.documents import Tool
from governed_mcpd.policy.load import parse
from governed_mcpd.policy.problem import PolicyError
from governed_mcpd.policy.text import read as read_text

MOST_SAID = 300  # characters of one comment
_WIDTH = 118


class NotSaid(Exception):
    """The proposal cannot be written as a document that says it. The text says why."""


def document(server: str, proposals: Iterable[Proposal], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The Tool document as plain values."""
    tools: dict[str, Any] = {}
    for proposal in proposals:
        entry: dict[str, Any] = {"tier": "Classic"}
        if isinstance(schemas.get(proposal.tool), dict):
            entry["input_schema"] = schemas[proposal.tool]
        if proposal.entries:
            entry["contract"] = [_values(item) for item in proposal.entries]
        tools[proposal.tool] = entry
    return {"kind": "Tool", "name": server, "tools": tools}


def text(seen: Seen, proposals: list[Proposal], schemas: Mapping[str, Any]) -> str:
    """The document with comments on how often each thing was seen."""
    lines = [*_head(seen), "kind: Tool", f"name: {_word(seen.server)}", "tools:"]
    for proposal in proposals:
        lines += [f"  {_word(proposal.tool)}:", *_comment(f"called {proposal.calls} times", 4), "    tier: Classic"]
        if isinstance(schemas.get(proposal.tool), dict):
            dumped = yaml.safe_dump(schemas[proposal.tool], sort_keys=False, width=_WIDTH - 6)
            lines += ["    input_schema:", *("      " + line for line in dumped.splitlines())]
        if proposal.entries:
            lines.append("    contract:")
            for entry in proposal.entries:
                lines += _entry(entry)
        if proposal.left_out:
            lines += _comment("not proposed:", 4)
            for said in proposal.left_out:
                lines += _comment("  " + said, 4)
    return "\n".join(lines) + "\n"


def prove(written: str, meant: Mapping[str, Any], active: Mapping[str, bytes]) -> None:
    """That the text is read as what is meant, together with the active documents, as `apply` reads them. NotSaid."""
    server = str(meant["name"])
    others: dict[str, bytes] = {}
    for name, content in active.items():
        found = [read.value for read in read_text(name, content)]
        if not any(isinstance(v, dict) and (v.get("kind"), v.get("name")) == ("Tool", server) for v in found):
            others[name] = content
        elif len(found) > 1:
            raise NotSaid(f"{name} has the document of {server} beside others: put it into a file of its own first")
    try:
        read = parse({**others, f"tool-{server}.yaml": written.encode()})
    except PolicyError as error:
        raise NotSaid(f"what was seen cannot be said in a document:\n{error}") from None
    if read.tools[server] != Tool.model_validate(dict(meant)):
        raise NotSaid("the document would be read as something else than what was seen: nothing is proposed")


def _head(seen: Seen) -> list[str]:
    said = [
        f"Learned from {len(seen.calls)} calls of {seen.server} ({seen.runs} runs, records {seen.first}-{seen.last}).",
        "Nobody has accepted this yet, and the server may have known that it was watched. Read what each tool may do",
        "and what was left out, remove what its purpose does not need, choose tiers and rates, then apply it.",
    ]
    if not seen.reads:
        said.append("Reads were not seen: the profile did not pause them (profile demo does).")
    if seen.shared:
        said.append(f"{seen.shared} effects happened while several calls were in flight: they count for none.")
    if seen.outside:
        kinds = sorted({happened.operation for happened in seen.outside})
        said.append(f"{len(seen.outside)} effects happened while no call was in flight ({', '.join(kinds)}):")
        said.append("no contract covers them; each is decided by itself.")
    return [line for sentence in said for line in _comment(sentence, 0)]


def _entry(entry: Entry) -> list[str]:
    lines = [line for said in entry.seen for line in _comment(said, 6)]
    if entry.how == UNDER:
        lines += _comment("everything beneath the directory that the caller names", 6)
    values = _values(entry)
    lines.append(f"      - operations: [{', '.join(values.pop('operations'))}]")
    return [*lines, *(f"        {name}: {_word(value)}" for name, value in values.items())]


def _values(entry: Entry) -> dict[str, Any]:
    values: dict[str, Any] = {"operations": list(entry.operations)}
    if entry.on:
        return {**values, "on": entry.on}
    values["argument"] = entry.argument
    if entry.how in (COMMAND, ENDPOINT):
        values["names"] = entry.how
    elif entry.how in (UNDER, BESIDE):
        values[entry.how] = True
    return values


def _word(value: Any) -> str:
    """One value on one line. NotSaid for a text that no line should hold."""
    if isinstance(value, str) and not value.isprintable():
        raise NotSaid(f"{value!r} has characters that are not printable: nothing of it is proposed")
    return json.dumps(value, ensure_ascii=False)


def _comment(said: str, indent: int) -> list[str]:
    """One line, whatever is in it."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in said)
    shown = shown.encode("utf-8", "backslashreplace").decode()
    return [f"{' ' * indent}# {shown[:MOST_SAID]}"]
