"""Which of the tools that a server lists its client gets, and which calls of them are decided at all.

In this order; the first that has something against a tool says why: it is no tool, policy does not know it, the agent's
tier is too low, it is not what was accepted, or (on first use) something was found in what it says of itself.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from governed.v1 import control_pb2 as pb
from governed_mcpd.calls.memory import Memory
from governed_mcpd.calls.pins import FIRST_USE, Pins, pin_of
from governed_mcpd.nouns.subject import Subject, Tier
from governed_mcpd.policy.documents import NAME, Tool, ToolEntry

MOST_LISTED = 4096
MOST_FORM = 256 * 1024  # bytes; more is withheld
MOST_NAME = 128
_PLAIN, _DOTTED = re.compile("[a-z0-9_]+"), re.compile("[a-z0-9_./-]+")
_TIERS = {"Classic": Tier.CLASSIC, "AiEnhanced": Tier.AI_ENHANCED, "AiNative": Tier.AI_NATIVE, "System": Tier.SYSTEM}


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a client does not get a tool; `rule` is stable."""

    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Withheld:
    """A tool that the client does not get: where it stands in the list, and why."""

    index: int
    name: str
    objection: Objection


@dataclass(frozen=True, slots=True)
class Listed:
    """A tool as its server listed it."""

    name: str
    form: bytes
    pin: str
    schema: bytes  # its inputSchema, as JSON
    description: str
    findings: tuple[str, ...]


def read(message: pb.ListedTool) -> Listed | Objection:
    """The tool of a message; an Objection when it is none."""
    if not message.form or len(message.form) > MOST_FORM:
        return Objection("tool-too-large", f"what it says of itself has more than {MOST_FORM} bytes")
    try:
        form = orjson.loads(message.form)
    except orjson.JSONDecodeError as error:
        return Objection("malformed-tool", f"not JSON: {error}")
    name = form.get("name") if isinstance(form, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME:
        return Objection("malformed-tool", f"no name of 1 to {MOST_NAME} characters")
    schema = form.get("inputSchema")
    if not isinstance(schema, dict):
        return Objection("malformed-tool", f"{name}: inputSchema is no object")
    said = " ".join(text for text in (form.get("title"), form.get("description")) if isinstance(text, str))
    return Listed(name, message.form, pin_of(message.form), orjson.dumps(schema), said, tuple(message.findings[:16]))


class Catalogue:
    """The tools of one gateway's server. `lasting`: what is accepted on first use is kept; a gateway inside a sandbox
    accepts for itself only, since whatever runs there could claim to be any server."""

    def __init__(self, subject: Subject, server: str, pins: Pins, memory: Memory, *, lasting: bool) -> None:
        self._subject = subject
        self._server = server
        self._pins = pins
        self._memory = memory
        self._lasting = lasting
        self._first_use: dict[str, str] = {}  # of a gateway inside a sandbox: pins by name
        self._tools: dict[str, tuple[Listed, Objection | None]] = {}

    def judge(
        self, messages: Iterable[pb.ListedTool], document: Tool | None, *, shadow: bool = False
    ) -> tuple[list[Withheld], dict[str, str]]:
        """Judges a whole list: what is withheld, and the pins that were accepted on first use. PinsFailed.

        In `shadow` a client gets tools that policy does not know yet: what they do is how their document is learned.
        """
        found: dict[str, Listed] = {}
        objections: dict[str, Objection] = {}
        names: list[str] = []  # of what is listed, in its order
        withheld: list[Withheld] = []
        for index, message in enumerate(messages):
            tool = read(message)
            if isinstance(tool, Objection):
                withheld.append(Withheld(index, message.name or f"(tool {index + 1})", tool))
                names.append("")
                continue
            names.append(tool.name)
            if tool.name in found:
                objections[tool.name] = Objection("tool-twice", "the server lists two tools of this name")
            elif len(found) >= MOST_LISTED:
                withheld.append(Withheld(index, tool.name, Objection("too-many-tools", f"more than {MOST_LISTED}")))
            else:
                found[tool.name] = tool
        accepted = self._accepted()
        kept = document is not None or (shadow and re.fullmatch(NAME, self._server) is not None)
        first = kept and not accepted
        self._memory.offered[self._server] = frozenset(found)
        fresh: dict[str, str] = {}
        for tool in found.values():
            objection = objections.get(tool.name) or self._objection(tool, document, accepted, first, shadow)
            if objection is not None:
                objections[tool.name] = objection
            elif first:
                fresh[tool.name] = tool.pin
            self._tools[tool.name] = (tool, objection)
        self._tools = {name: entry for name, entry in self._tools.items() if name in found}
        if kept:
            self._keep(found, objections, fresh)
        withheld += [Withheld(at, name, objections[name]) for at, name in enumerate(names) if name in objections]
        return withheld, fresh

    @property
    def generation(self) -> int:
        """Changes when something is accepted."""
        return self._pins.generation

    def of_call(
        self, name: str, document: Tool | None, *, shadow: bool = False
    ) -> tuple[Listed | None, Objection | None]:
        """The tool that a call names, as it was listed last, and what stands against calling it now."""
        listed, before = self._tools.get(name, (None, None))
        if listed is None:
            return None, Objection("tool-not-listed", "the server lists no such tool")
        now = self._objection(listed, document, self._accepted(), False, shadow)
        # What stood against it when it was listed says more than that nobody has accepted it since.
        return listed, before if now is not None and now.rule == "tool-new" and before is not None else now

    def _objection(
        self, tool: Listed, document: Tool | None, accepted: Mapping[str, str], first: bool, shadow: bool
    ) -> Objection | None:
        entry = document.tools.get(tool.name) if document is not None else None
        if entry is None and shadow and re.fullmatch(NAME, self._server) is not None:
            return self._change(tool, ToolEntry(), accepted, first)
        if document is None:
            return Objection("unknown-tool", f"there is no Tool document for the server {self._server}")
        if entry is None:
            return Objection("unknown-tool", f"the Tool document {self._server} has no tool of this name")
        if self._subject.tier < _TIERS[entry.tier]:
            return Objection("tier", f"it needs {entry.tier}")
        return self._change(tool, entry, accepted, first)

    def _change(self, tool: Listed, entry: ToolEntry, accepted: Mapping[str, str], first: bool) -> Objection | None:
        if entry.pin is not None:
            changed = entry.pin != tool.pin
            return Objection("tool-changed", "it is not what the policy's pin says") if changed else None
        if not first:
            if tool.name not in accepted:
                return Objection("tool-new", "it was not there when this server's tools were accepted")
            if accepted[tool.name] != tool.pin:
                return Objection("tool-changed", "it is not what was accepted (governedctl tools diff)")
            return None
        if tool.findings:
            rule, _, reason = tool.findings[0].partition(": ")
            return Objection(rule[:64], reason[:300])
        return self._shadow(tool)

    def _shadow(self, tool: Listed) -> Objection | None:
        """A tool that takes the name of another server's, or speaks of one, may be there to be called in its place, or
        to change how it is called."""
        words = _words(tool.description) if len(self._memory.offered) > 1 else set()
        for server, names in self._memory.offered.items():
            if server == self._server:
                continue
            if tool.name in names:
                return Objection("tool-shadows", f"the server {server} offers a tool of this name")
            spoken = next((name for name in names if "_" in name and name.casefold() in words), None)
            if spoken is not None:
                return Objection("tool-shadows", f"its description speaks of {spoken}, a tool of the server {server}")
        return None

    def _accepted(self) -> Mapping[str, str]:
        return self._pins.accepted(self._subject.uid, self._server) or self._first_use

    def _keep(self, found: Mapping[str, Listed], objections: Mapping[str, Objection], fresh: dict[str, str]) -> None:
        if not self._lasting:
            self._first_use.update(fresh)
            return
        seen = {
            name: (
                tool.pin,
                tool.form.decode(),
                f"{said.rule}: {said.reason}" if (said := objections.get(name)) else "",
            )
            for name, tool in found.items()
        }
        self._pins.listed(self._subject.uid, self._server, seen)
        if fresh:
            self._pins.approve(self._subject.uid, self._server, fresh, FIRST_USE)


def _words(text: str) -> set[str]:
    """What may be a tool's name in a text, whatever stands around it."""
    folded = text.casefold()
    return {*_PLAIN.findall(folded), *(word.strip("./-") for word in _DOTTED.findall(folded))}
