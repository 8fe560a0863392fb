"""One client's session with one server, message by message, whatever carries them.

A message of the client comes in with two ways out: `reply` to the client, `forward` to the server; one of the server
with `deliver` to the client and `answer` to the server. Nothing here reads, writes or waits.

`tools/call` is frozen (its bytes are written once), asked about, and forwarded as those bytes. `tools/list` comes back
without what the client may not have. Whatever else MCP knows passes as it came. A request that it does not know is
refused, in both directions.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from blake3 import blake3

from governed.v1 import control_pb2 as pb
from governed_mcpd.gateway import content, marking, messages, methods
from governed_mcpd.gateway.calls import Calls, Waiting
from governed_mcpd.gateway.link import Link
from governed_mcpd.gateway.messages import BadMessage, Id, Json, Message
from governed_mcpd.gateway.tools import NO_ANSWER, Offered

Send = Callable[[bytes], None]
MOST_JUDGED = 12 * 1024 * 1024  # what the daemon takes in one frame is more; it is 16 MiB on the wire
LIST, CALL, OTHER = "list", "call", "other"


class Clock(Protocol):
    """Who calls back later."""

    def later(self, seconds: float, call: Callable[[], None]) -> object: ...


@dataclass(slots=True)
class Pending:
    """A request that the server has got and not answered."""

    kind: str
    method: str
    call: str = ""  # the daemon's id of a tool call
    source: str = ""
    policy: pb.ContentPolicy | None = None
    failed: str = ""  # of a list: why the server's whole list was not judged before
    cancelled: bool = False
    broken_off: int = 0  # how often its stream broke off, or was taken up again


@dataclass(frozen=True, slots=True, eq=False)
class _List:
    """A list that waits until the server's whole list is judged, and whom to tell that nobody waits for it."""

    withdrawn: Callable[[], None]


class Exchange:
    """`offered` is what this session's server offers; sessions of one server may share it."""

    def __init__(self, link: Link, clock: Clock, offered: Offered) -> None:
        self._link = link
        self._clock = clock
        self._offered = offered
        self._calls = Calls(link, clock)
        self._pending: dict[tuple[bool, Id], Pending] = {}
        self._lists: dict[tuple[bool, Id], _List] = {}
        self._ready = False
        self.version = ""

    # ---- from the client

    def from_client(self, message: Message, reply: Send, forward: Send, withdrawn: Callable[[], None]) -> None:
        """One message of the client; nothing is forwarded that was not approved, or needs no approval. `withdrawn` is
        called instead of both for what the client does not want any more, and for its saying so."""
        if message.is_request:
            self._request(message, reply, forward, withdrawn)
        elif message.method == methods.CANCELLED:
            self._cancelled(message, forward, withdrawn)
        elif message.is_response or message.method.startswith(methods.NOTIFICATION):
            forward(message.raw)
        else:
            self._refuse(message.method, "no-id", "a request without an id", from_server=False)
            reply(messages.error(None, messages.INVALID_REQUEST, "a request has an id"))

    def _request(self, message: Message, reply: Send, forward: Send, withdrawn: Callable[[], None]) -> None:
        identity, method = message.id, message.method
        assert identity is not None
        key = messages.key(identity)
        if key in self._pending or key in self._lists or self._calls.waits(identity):
            reply(messages.error(identity, messages.INVALID_REQUEST, "a request with this id is in flight already"))
        elif method == "tools/call":
            self._call(message, identity, reply, forward, withdrawn)
        elif method == "tools/list":
            waiting = _List(withdrawn)
            self._lists[key] = waiting
            self._offered.look(message, partial(self._forward_list, message, waiting, reply, forward))
        elif method in methods.CLIENT_REQUESTS or method in methods.TASK_REQUESTS:
            source = f"{method.split('/')[0]} {message.params.get(methods.CONTENT.get(method, ''), '')}"
            self._pending[key] = Pending(OTHER, method, source=source[:200].rstrip())
            forward(message.raw)
        else:
            self._refuse(method, "unknown-request", "no version of MCP has this request", from_server=False)
            text = f"governed-mcpd does not pass on {method[:128]!r}: no version of MCP has this request"
            reply(messages.error(identity, messages.METHOD_NOT_FOUND, text))

    def _forward_list(self, message: Message, waiting: "_List", reply: Send, forward: Send, failed: str) -> None:
        """Also where the server did not give the gateway its list: how it refuses (to ask for a token, perhaps) is for
        the client. A list does not pass then."""
        assert message.id is not None
        if self._lists.get(messages.key(message.id)) is not waiting:  # its client waits for it no longer
            return
        del self._lists[messages.key(message.id)]
        if failed == NO_ANSWER:
            self._refuse(message.method, "no-list", failed, from_server=False)
            reply(messages.error(message.id, messages.INTERNAL_ERROR, f"governed-mcpd: {failed}"))
            return
        self._pending[messages.key(message.id)] = Pending(LIST, message.method, source="tools", failed=failed)
        forward(message.raw)

    def _call(self, message: Message, identity: Id, reply: Send, forward: Send, withdrawn: Callable[[], None]) -> None:
        params = message.params
        name, arguments = params.get("name"), params.get("arguments")
        try:
            if not isinstance(name, str) or not isinstance(arguments, dict | None):
                raise BadMessage(messages.INVALID_REQUEST, "tools/call has a name, and arguments that are an object")
            messages.in_one_way(arguments or {})
            task = _take_task(params)
            judged = messages.dump_exact(arguments if arguments is not None else {})
            size = len(judged) + len(task.encode()) + len(name.encode())
            if size > MOST_JUDGED:
                said = f"the call is {size} bytes when it is written out: at most {MOST_JUDGED}"
                raise BadMessage(messages.INVALID_REQUEST, said)
            frozen = messages.dump_exact(message.value)
        except BadMessage as bad:
            self._refuse("tools/call", "malformed", str(bad), from_server=False)
            reply(messages.error(identity, bad.code, str(bad)))
            return
        call = pb.McpCall(tool=name, arguments=judged, task=task)
        waiting = Waiting(
            identity, call, params.get("_meta"), reply, partial(self._let_through, frozen, name, forward), withdrawn
        )
        self._calls.hold(waiting)
        self._offered.look(message, partial(self._ask, waiting))

    def _ask(self, waiting: Waiting, failed: str) -> None:
        waiting.call.no_list = failed  # what the server may have changed is not called: the daemon refuses it
        self._calls.ask(waiting)

    def _let_through(self, frozen: bytes, name: str, forward: Send, identity: Id, decided: pb.McpDecided) -> None:
        self._pending[messages.key(identity)] = Pending(
            CALL, "tools/call", call=decided.call, source=f"tool {name[:128]}", policy=decided.content
        )
        forward(frozen)

    def _cancelled(self, message: Message, forward: Send, withdrawn: Callable[[], None]) -> None:
        identity = message.params.get("requestId")
        if not isinstance(identity, int | str) or isinstance(identity, bool):
            forward(message.raw)
        elif self._withdraw(identity):  # the server has never heard of it
            withdrawn()
        else:
            pending = self._pending.get(messages.key(identity))
            if pending is not None:
                pending.cancelled = True
                self._end(pending, "cancelled")
            forward(message.raw)

    def _withdraw(self, identity: Id) -> bool:
        """Nobody waits for this request any more; False when it was forwarded, or is none."""
        waiting = self._lists.pop(messages.key(identity), None)
        if waiting is None:
            return self._calls.cancel(identity)
        waiting.withdrawn()
        return True

    # ---- from the server

    def from_server(
        self, message: Message, deliver: Send, answer: Send, requests: Collection[Id] | None = None
    ) -> bool:
        """One message of the server. False when nothing of it is, or will be, delivered. `requests` are those that may
        be answered where it came from; None: all."""
        if message.is_response:
            return self._response(message, deliver, requests)
        if message.is_request:
            return self._server_request(message, deliver, answer)
        if not message.method.startswith(methods.NOTIFICATION):
            self._refuse(message.method, "no-id", "a request without an id", from_server=True)
            return False
        if message.method == methods.LIST_CHANGED:
            self._offered.changed()
        deliver(message.raw)
        return True

    def _response(self, message: Message, deliver: Send, requests: Collection[Id] | None) -> bool:
        if not self._ready:
            self._ready = True
            self._link.tell(pb.McpMessage(ready=pb.McpReady()))
        identity = message.id
        pending = None
        if identity is not None and (requests is None or identity in self.pending_of(requests)):
            pending = self._pending.pop(messages.key(identity), None)
        if pending is None:
            # Also an answer to a call that was not let through yet: the server cannot have got it.
            self._refuse("response", "not-asked", "the server answered what it was not asked", from_server=True)
            return False
        found = message.value.get("result")
        if pending.kind == CALL:
            self._call_result(pending, message, found, deliver)
        elif pending.kind == LIST and isinstance(found, dict) and pending.failed:
            self._refuse(pending.method, "no-list", pending.failed, from_server=False)
            deliver(messages.error(identity, messages.INTERNAL_ERROR, f"governed-mcpd: {pending.failed}"))
        elif pending.kind == LIST and isinstance(found, dict):
            self._offered.filter(found, partial(self._listed, pending, message, found, deliver))
        else:
            if pending.method == "initialize" and isinstance(found, dict):
                self.version = str(found.get("protocolVersion", ""))
            self._other_result(pending, message, deliver)
        return True

    def _listed(self, pending: Pending, message: Message, found: Json, deliver: Send, tools: list[Any] | None) -> None:
        """The tools were judged; the rest of such an answer is looked through as any other."""
        rest = {name: value for name, value in found.items() if name not in ("tools", "nextCursor")}
        told, kept, changed = self._handled(pending, "result", rest, message.raw)
        if told.findings or changed:
            self._link.tell(pb.McpMessage(content=told))
        if tools is None and not changed:
            deliver(message.raw)
            return
        following = {"nextCursor": found["nextCursor"]} if "nextCursor" in found else {}
        judged = {"tools": found["tools"] if tools is None else tools} if "tools" in found else {}
        deliver(_respond(message, {**(kept or {}), **following, **judged}))

    def _call_result(self, pending: Pending, message: Message, found: Any, deliver: Send) -> None:
        told, data = self._looked_through(pending, message)
        if isinstance(found, dict):
            told.is_error = found.get("isError") is True
        self._end(pending, "result" if isinstance(found, dict) else "error", told)
        deliver(data)

    def _other_result(self, pending: Pending, message: Message, deliver: Send) -> None:
        told, data = self._looked_through(pending, message)
        if pending.method in methods.CONTENT or told.findings or told.handling != "passed":
            self._link.tell(pb.McpMessage(content=told))
        deliver(data)

    def _looked_through(self, pending: Pending, message: Message) -> tuple[pb.McpContent, bytes]:
        """What the daemon is told, and what the client gets."""
        member = "result" if "result" in message.value else "error"
        told, kept, changed = self._handled(pending, member, message.value[member], message.raw)
        if not changed:
            return told, message.raw
        if kept is None:
            return told, messages.error(message.id, messages.REFUSED, marking.WITHHELD)
        return told, _respond(message, kept)

    def _handled(self, pending: Pending, member: str, body: Any, raw: bytes) -> tuple[pb.McpContent, Any, bool]:
        """What the daemon is told, what the client gets instead of `body` (None: it cannot have any of it), and whether
        that is anything else."""
        binary = content.binary(body)
        texts = list(content.strings(body, binary))
        findings = content.scan(texts)
        policy = pending.policy or self._link.content
        told = pb.McpContent(
            source=pending.source,
            texts=content.told(texts),
            findings=findings,
            handling="passed",
            size=len(raw),
            digest=blake3(raw).digest(),
        )
        new, changed = body, False
        if policy.secrets == "redact":
            new, changed = content.masked(body, binary)
            told.handling = "redacted" if changed else "passed"
        if findings and policy.instructions == "withhold":
            told.handling = "withheld"
            return told, marking.withheld(pending.method, member, new), True
        if findings and policy.instructions == "mark":
            told.handling = "marked"
            return told, marking.marked(pending.method, member, new, pending.source.partition(" ")[2]), True
        return told, new, changed

    def _end(self, pending: Pending, outcome: str, told: pb.McpContent | None = None) -> None:
        call, pending.call = pending.call, ""
        if call:
            self._link.tell(pb.McpMessage(end=pb.McpCallEnd(call=call, outcome=outcome, content=told)))

    def _server_request(self, message: Message, deliver: Send, answer: Send) -> bool:
        method = message.method
        if method not in methods.SERVER_REQUESTS and method not in methods.TASK_REQUESTS:
            self._refuse(method, "server-request", "a server does not ask a client for this", from_server=True)
            answer(messages.error(message.id, messages.METHOD_NOT_FOUND, "governed-mcpd does not pass this on"))
            return False
        if method in methods.SPEAKING:
            texts = list(content.strings(message.params, content.binary(message.params)))
            findings = content.scan(texts)
            refused = bool(findings) and self._link.content.instructions == "withhold"
            told = pb.McpContent(
                source=method.split("/", maxsplit=1)[0],
                texts=content.told(texts),
                findings=findings,
                handling="withheld" if refused else "passed",
                size=len(message.raw),
                digest=blake3(message.raw).digest(),
            )
            self._link.tell(pb.McpMessage(content=told))
            if refused:
                answer(messages.error(message.id, messages.REFUSED, "governed-mcpd withholds this: it instructs"))
                return False
        deliver(message.raw)
        return True

    def pending_of(self, requests: Collection[Id]) -> list[Id]:
        """Those of some requests that the server has got and not answered."""
        return [identity for identity in requests if messages.key(identity) in self._pending]

    def wanted(self, identity: Id) -> bool:
        """Whether a request that was let through is one that the server is to get: it has not ended meanwhile."""
        pending = self._pending.get(messages.key(identity))
        if pending is not None and pending.cancelled:
            del self._pending[messages.key(identity)]
        return pending is not None and not pending.cancelled

    def unreadable(self, identity: Id, bad: BadMessage) -> bytes | None:
        """What the client gets for an answer of the server that cannot be read; None when it waits for none."""
        pending = self._pending.pop(messages.key(identity), None)
        if pending is None:
            return None
        self._end(pending, "error")
        text = f"the server's answer was withheld by governed-mcpd: {messages.told(bad)}"
        return messages.error(identity, messages.INTERNAL_ERROR, text)

    # ---- the end

    def give_up(self, identity: Id, outcome: str = "cancelled") -> None:
        """Nobody waits for the answer to this request any more, and none will come."""
        if not self._withdraw(identity):
            pending = self._pending.pop(messages.key(identity), None)
            if pending is not None:
                self._end(pending, outcome)

    def give_up_later(self, identity: Id, seconds: float) -> None:
        """Its stream broke off, and may be taken up again, but not after that."""
        pending = self._pending.get(messages.key(identity))
        if pending is None:
            return
        pending.broken_off += 1
        times = pending.broken_off

        def late() -> None:
            if self._pending.get(messages.key(identity)) is pending and pending.broken_off == times:
                self.give_up(identity)

        self._clock.later(seconds, late)

    def taken_up(self, requests: Collection[Id]) -> None:
        """The stream with their answers was taken up again."""
        for identity in self.pending_of(requests):
            self._pending[messages.key(identity)].broken_off += 1

    def abandon(self) -> None:
        """The server is gone, or the client: nothing of it is in flight any more."""
        for pending in self._pending.values():
            self._end(pending, "gone")
        self._pending.clear()
        lists, self._lists = self._lists, {}
        for waiting in lists.values():
            waiting.withdrawn()
        self._calls.abandon()

    def _refuse(self, method: str, rule: str, reason: str, *, from_server: bool) -> None:
        refusal = pb.McpRefusal(method=method[:128], rule=rule, reason=reason[:1000], from_server=from_server)
        self._link.tell(pb.McpMessage(refusal=refusal))


def _respond(message: Message, body: Any) -> bytes:
    member = "result" if "result" in message.value else "error"
    try:
        return messages.dump({"jsonrpc": "2.0", "id": message.id, member: body})
    except BadMessage as bad:  # a number, say, that only its own spelling can tell
        text = f"the server's answer cannot be passed on: {messages.told(bad)}"
        return messages.error(message.id, messages.INTERNAL_ERROR, text)


def _take_task(params: Json) -> str:
    """The task that the client gives in `_meta`; the server does not learn of it."""
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return ""
    task = meta.pop(methods.TASK_META, "")
    return task if isinstance(task, str) else ""
