"""Tool calls that were asked for and not let through yet: with the daemon, or waiting for a person."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2
from governed_mcpd.gateway import messages, methods
from governed_mcpd.gateway.link import Link
from governed_mcpd.gateway.messages import Id, Json

PROGRESS_SECONDS = 5.0
Send = Callable[[bytes], None]


class Clock(Protocol):
    """Who calls back later."""

    def later(self, seconds: float, call: Callable[[], None]) -> object: ...


@dataclass(slots=True)
class Waiting:
    """One call. `approved` forwards it, `withdrawn` is called when its client does not want it any more; `number` is
    the link's once the daemon was asked."""

    identity: Id
    call: pb.McpCall
    meta: Any
    reply: Send
    approved: Callable[[Id, pb.McpDecided], None]
    withdrawn: Callable[[], None]
    number: int = 0
    approval: str = ""
    progress: int = 0
    over: bool = False


class Calls:
    """By the client's ids."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._waiting: dict[tuple[bool, Id], Waiting] = {}

    def waits(self, identity: Id) -> bool:
        return messages.key(identity) in self._waiting

    def hold(self, waiting: Waiting) -> None:
        """From here on an answer to it cannot come from the server."""
        self._waiting[messages.key(waiting.identity)] = waiting

    def ask(self, waiting: Waiting) -> None:
        """Has the daemon decide."""
        if not waiting.over:
            waiting.number = self._link.ask(pb.McpMessage(call=waiting.call), lambda a: self._answered(waiting, a))

    def _answered(self, waiting: Waiting, answer: pb.McpAnswer | None) -> None:
        if waiting.over:
            if answer is not None and answer.decided.decision == nouns_pb2.DECISION_ALLOW:
                # It was approved while its client went away: it is over before it began.
                end = pb.McpCallEnd(call=answer.decided.call, outcome="cancelled")
                self._link.tell(pb.McpMessage(end=end))
            return
        if answer is not None and answer.WhichOneof("what") == "waiting":
            waiting.approval = answer.waiting.approval
            self._tell_progress(waiting)
            return
        self._settle(waiting)
        if answer is not None and answer.decided.decision == nouns_pb2.DECISION_ALLOW:
            waiting.approved(waiting.identity, answer.decided)
            return
        record = answer.decided.record if answer is not None else 0
        waiting.reply(refusal(waiting.identity, waiting.meta, record, gone=answer is None))

    def _settle(self, waiting: Waiting) -> None:
        waiting.over = True
        self._waiting.pop(messages.key(waiting.identity), None)

    def _tell_progress(self, waiting: Waiting) -> None:
        """Says that a person is asked, again and again: clients that count from the last progress wait on."""
        token = waiting.meta.get("progressToken") if isinstance(waiting.meta, dict) else None
        if waiting.over or token is None:
            return
        waiting.progress += 1
        message = f"waiting for a person: governedctl approvals approve {waiting.approval}"
        params = {"progressToken": token, "progress": waiting.progress, "message": message}
        waiting.reply(messages.notification("notifications/progress", params))
        self._clock.later(PROGRESS_SECONDS, lambda: self._tell_progress(waiting))

    def cancel(self, identity: Id) -> bool:
        """Its client waits no longer; False when no such call is held here."""
        waiting = self._waiting.get(messages.key(identity))
        if waiting is None:
            return False
        self._settle(waiting)
        if waiting.number:
            self._link.tell(pb.McpMessage(cancel=pb.McpCancel(call=waiting.number)))
        waiting.withdrawn()
        return True

    def abandon(self) -> None:
        for waiting in list(self._waiting.values()):
            self.cancel(waiting.identity)


def refusal(identity: Id, meta: Any, record: int, *, gone: bool) -> bytes:
    """A result that says so to the model, and nothing about why: what a rule looks for is no business of whoever tries
    to get past it. The record has it all."""
    if gone:
        text = "This tool call was refused: governed-mcpd, which decides about tool calls, does not answer."
    else:
        where = f" (record {record})" if record else ""
        text = (
            f"This tool call was refused by governed-mcpd{where}. It did not reach the server. "
            f"The user can see why: governedctl journal show {record or 'N'}"
        )
    value: Json = {"content": [{"type": "text", "text": text}], "isError": True}
    if isinstance(meta, dict) and str(meta.get(methods.VERSION_META, "")) >= "2026":
        value["resultType"] = "complete"
    return messages.result(identity, value)
