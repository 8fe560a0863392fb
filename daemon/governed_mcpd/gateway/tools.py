"""The server's tools, as its client gets to see them: judged by the daemon as a whole list before the first is called.

A client may call without having listed, and a server may answer the next list differently. So the gateway lists by
itself before the first list or call passes (and again when the server says that its list changed), and each list that
passes is compared with what was judged; what is not the same is judged again, with all the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from blake3 import blake3

from governed.v1 import control_pb2 as pb
from governed_mcpd.gateway import content, messages, methods
from governed_mcpd.gateway.link import Link
from governed_mcpd.gateway.messages import BadMessage, Json, Message

MOST_PAGES = 100
MOST_TOOLS = 4096
MOST_FORM = 256 * 1024  # bytes of one tool
MOST_FORMS = 8 * 1024 * 1024  # of all
FIELDS = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
OWN_SECONDS = 30.0  # for the server's answer to a request of the gateway's own
NO_ANSWER = f"the server did not answer tools/list within {OWN_SECONDS:.0f} s"
_NAMES = frozenset(FIELDS)
Then = Callable[[], None]
Looked = Callable[[str], None]  # why the list could not be had; empty when it was judged
Came = Callable[[Json | Exception], None]
AskServer = Callable[[Json, Came], None]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of a list, and what is pinned of it: its canonical form."""

    name: str
    form: bytes
    listed: Any  # as the server has it


class Offered:
    """What the server offers. `asking` is who sends the gateway's own requests while one list is looked at: it calls
    back with the message that answers one, or with why none does; TimeoutError after OWN_SECONDS."""

    def __init__(self, link: Link, asking: Callable[[], AskServer]) -> None:
        self._link = link
        self._asking = asking
        self._looked = False
        self._looking: list[tuple[AskServer, Json, Looked]] = []  # the first is on behalf of whom it is looked at
        self._changes = 0
        self._findings: dict[bytes, list[str]] = {}  # by form: a description is looked through once
        self._judged: dict[str, Tool] = {}
        self._allowed: frozenset[str] = frozenset()

    def changed(self) -> None:
        """The server says that its list is another now."""
        self._changes += 1
        self._looked = False

    def look(self, message: Message, then: Looked) -> None:
        """Calls `then` once the whole list was judged: at once, when it was; or with why it could not be, and the next
        who asks has it looked at again. `message` is the client's, whose protocol version the gateway's own requests
        have."""
        if self._looked:
            then("")
            return
        meta = message.params.get("_meta")
        envelope = dict(meta) if isinstance(meta, dict) else {}
        envelope = {name: value for name, value in envelope.items() if name.startswith(methods.META_PREFIX)}
        self._looking.append((self._asking(), envelope, then))
        if len(self._looking) == 1:
            self._pages(*self._looking[0][:2])

    def _pages(self, ask: AskServer, envelope: Json) -> None:
        """Asks for one page after the other, as the client's message was sent."""
        changes, found, number = self._changes, list[Any](), 0

        def ask_for(cursor: str | None) -> None:
            nonlocal number
            number += 1
            params: Json = {"_meta": envelope} if envelope else {}
            ask({"method": "tools/list", "params": params if cursor is None else {**params, "cursor": cursor}}, came)

        def came(answer: Json | Exception) -> None:
            failed, page = _page_of(answer)
            if failed:  # nothing is judged: part of a list, taken for all of it, would make the rest new for ever
                self._failed(failed, everybody=isinstance(answer, TimeoutError))
                return
            found.extend(page.get("tools", []))
            following = page.get("nextCursor")
            if isinstance(following, str) and number < MOST_PAGES and len(found) < MOST_TOOLS:
                ask_for(following)
            else:
                self._judge(_tools(found), lambda: self._done(changes))

        ask_for(None)

    def _done(self, changes: int) -> None:
        self._looked = changes == self._changes  # it may have changed meanwhile
        waiting, self._looking = self._looking, []
        for _, _, then in waiting:
            then("")

    def _failed(self, why: str, *, everybody: bool) -> None:
        """For whom it was looked at; others may be who the server answers. One that does not answer keeps nobody."""
        failed, self._looking = (self._looking, []) if everybody else (self._looking[:1], self._looking[1:])
        if self._looking:
            self._pages(*self._looking[0][:2])
        for _, _, then in failed:
            then(why)

    def filter(self, result: Json, then: Callable[[list[Any] | None], None]) -> None:
        """Calls `then` with what the client gets of a list; None when that is all of it. Judged again each time: what
        is accepted changes while a server runs."""
        listed = result.get("tools")
        if not isinstance(listed, list):
            then([])
            return
        tools = _tools(listed)
        names = {tool.name for tool in tools}
        others = [tool for name, tool in self._judged.items() if name not in names]  # of other pages

        def judged() -> None:
            kept = [tool.listed for tool in tools if self._may_have(tool)]
            then(None if len(kept) == len(listed) else kept)

        self._judge([*others, *tools], judged)

    def _may_have(self, tool: Tool) -> bool:
        judged = self._judged.get(tool.name)
        return judged is not None and judged.form == tool.form and tool.name in self._allowed

    def _judge(self, tools: list[Tool], then: Then) -> None:
        """Has the daemon judge a whole list. What is past a bound is not judged, and so not allowed."""
        asked: list[Tool] = []
        left = MOST_FORMS
        for tool in tools[:MOST_TOOLS]:
            size = len(tool.form) if len(tool.form) <= MOST_FORM else 0
            if size > left:
                break
            left -= size
            asked.append(tool)
        digest = blake3(b"\n".join(tool.form for tool in asked)).digest()

        def judged(answer: pb.McpAnswer | None) -> None:
            if answer is not None and answer.tools.changed:
                self._link.ask(pb.McpMessage(tools=self._told(asked, digest)), judged)
                return
            self._judged = {tool.name: tool for tool in asked}
            withheld = (
                {entry.index for entry in answer.tools.withheld} if answer is not None else set(range(len(asked)))
            )
            self._allowed = frozenset(tool.name for index, tool in enumerate(asked) if index not in withheld)
            then()

        self._link.ask(pb.McpMessage(tools=pb.McpTools(digest=digest)), judged)

    def _told(self, tools: list[Tool], digest: bytes) -> pb.McpTools:
        """The whole list, with what was found in it."""
        listed = [
            pb.ListedTool(form=tool.form, findings=self._found_in(tool))
            if len(tool.form) <= MOST_FORM
            else pb.ListedTool(name=tool.name[:128])
            for tool in tools
        ]
        return pb.McpTools(tools=listed, digest=digest if listed else b"")  # nothing is told without a digest

    def _found_in(self, tool: Tool) -> list[str]:
        findings = self._findings.get(tool.form)
        if findings is None:
            if len(self._findings) >= 2 * MOST_TOOLS:
                self._findings.clear()
            findings = self._findings[tool.form] = content.scan_tool(orjson.loads(tool.form))
        return findings


def _page_of(answer: Json | Exception) -> tuple[str, Json]:
    """Why there is no page, and the page. A server that does not know the request has no tools."""
    if isinstance(answer, TimeoutError):
        return NO_ANSWER, {}
    if isinstance(answer, Exception):
        return f"the server's answer to tools/list cannot be used: {messages.told(answer)}", {}
    error = answer.get("error")
    if isinstance(error, dict) and error.get("code") == messages.METHOD_NOT_FOUND:
        return "", {}
    page = answer.get("result")
    if not isinstance(page, dict) or not isinstance(page.get("tools"), list):
        return "the server did not give its tools", {}
    return "", page


def _tools(listed: list[Any]) -> list[Tool]:
    """Those of a list that are tools at all, to every reader the same."""
    found: list[Tool] = []
    for tool in listed:
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            continue
        try:
            messages.in_one_way(tool, _NAMES)
            form = messages.canonical({name: tool[name] for name in FIELDS if tool.get(name) is not None})
        except BadMessage:
            continue
        found.append(Tool(tool["name"], form, tool))
    return found
