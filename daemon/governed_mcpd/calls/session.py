"""One gateway's connection: its server's tools, its calls, and what comes back.

A call: listed and accepted → the six layers at the gate → a person, where they ask → record → leases of the contract →
answer. Reading and asking the gate is done by the connection's thread; what follows belongs to the leader.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2
from governed_mcpd.calls import contract, records
from governed_mcpd.calls.memory import Memory
from governed_mcpd.calls.pins import PinsFailed
from governed_mcpd.calls.tools import Catalogue, Listed, Objection, Withheld
from governed_mcpd.journal.errors import JournalError
from governed_mcpd.nouns.action import Action, Context, ToolCall
from governed_mcpd.nouns.subject import Subject
from governed_mcpd.nouns.verdict import Decision, Verdict, allow, deny
from governed_mcpd.nouns.wire import text
from governed_mcpd.policy.documents import Tool
from governed_mcpd.policy.load import PolicySet
from governed_mcpd.subjects.inflight import Call, Entailed
from governed_mcpd.subjects.plan import Refused
from governed_mcpd.subjects.rules import Places
from governed_mcpd.subjects.sandbox import Acting
from governed_mcpd.supervisor.gate import Gate
from governed_mcpd.supervisor.lanes import Timer, Worker
from governed_mcpd.supervisor.records import Recorder

log = logging.getLogger(__name__)
SCHEMA = "schema"
DAEMON = "daemon"
PERSON = "person"
MOST_CALLS = 256  # of one gateway, at the same time
MOST_ASKED = 16  # of them with the gate, withdrawn ones too: its gateway is read no further meanwhile
MOST_ARGUMENTS = 1024 * 1024
MOST_TASK = 16384
MOST_TEXTS = 64
_OUTCOMES = ("result", "error", "cancelled", "gone")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every gateway's connection needs of the daemon."""

    gate: Gate
    worker: Worker
    recorder: Recorder
    policies: Callable[[], PolicySet]
    person_seconds: Callable[[], float]
    seal: str


@dataclass(slots=True)
class Asked:
    """One call until it is answered. `number` is the gateway's, `verdict` the gate's, once a person is asked. It has
    the fields of supervisor/questions.Question that a list of approvals shows."""

    number: int
    id: str
    action: Action
    pin: str
    entailed: tuple[Entailed, ...]
    begun: int  # perf_counter_ns
    task_from: str
    over: bool = False
    verdict: Verdict | None = None
    asked_us: int = 0
    deadline_us: int = 0
    timer: Timer | None = None
    approved_by: str = ""
    waiting: tuple[object, ...] = field(default=(None,))


class Session:
    """`send` writes an answer to the gateway, without waiting; `questions` are the daemon's, by id: those of calls that
    wait for a person are put there."""

    def __init__(
        self,
        around: Surroundings,
        subject: Subject,
        places: Places,
        acting: Acting | None,
        catalogue: Catalogue,
        memory: Memory,
        questions: dict[str, tuple["Session", Asked]],
        send: Callable[[pb.McpAnswer], None],
        task: str,
    ) -> None:
        self.subject = subject
        self.acting = acting  # None: a remote server, whose process is not here
        self._around = around
        self._places = places
        self._catalogue = catalogue
        self._memory = memory
        self._questions = questions
        self._send = send
        self._task, self._task_from = task, "launcher"
        self._asked: dict[int, Asked] = {}
        self._let_through: dict[str, int] = {}  # calls in flight: their records
        self._withheld: list[dict[str, str]] = []  # as it was recorded last
        self._list: tuple[tuple[bytes, str, int], pb.McpToolsJudged] | None = None
        self._count = 0
        self._closed = False
        self._lock = threading.Lock()
        self._room = threading.Semaphore(MOST_ASKED)

    @property
    def server(self) -> str:
        return self.subject.server

    def document(self) -> Tool | None:
        """The Tool document of its server, under the active policy."""
        return self._around.policies().tools.get(self.server)

    @property
    def shadow(self) -> bool:
        """Whether the gate records what it would refuse, and lets it happen."""
        return self._around.policies().gate.mode == "shadow"

    def content_policy(self) -> pb.ContentPolicy:
        """What the gateway does with content."""
        document = self.document()
        if document is None:
            return pb.ContentPolicy(instructions="mark", secrets="pass")
        return pb.ContentPolicy(instructions=document.results.instructions, secrets=document.results.secrets)

    def policy_changed(self) -> None:
        """Another policy was applied: the gateway handles content by it from now on."""
        self._send(pb.McpAnswer(content=self.content_policy()))

    # ---- what the gateway says

    def message(self, message: pb.McpMessage) -> None:
        """Handles one message, in their order; a call waits until fewer than MOST_ASKED are with the gate. Refused for
        what no gateway says."""
        which = message.WhichOneof("what")
        if which == "call":
            self._call(message.id, message.call)
        elif which == "tools":
            self._tools(message.id, message.tools)
        elif which == "end":
            self._memory.add(self._source(message.end.content), message.end.content.texts[:MOST_TEXTS])
            self._post(partial(self._end, message.end))
        elif which == "cancel":
            self._post(partial(self._cancel, message.cancel.call))
        elif which == "content":
            self._memory.add(self._source(message.content), message.content.texts[:MOST_TEXTS])
            record = records.content_record(self.subject, message.content)
            self._post(lambda: self._around.recorder.note(record))
        elif which == "refusal":
            refusal = records.refusal_record(self.subject, message.refusal)
            key = ("call.refused", refusal["method"], refusal["rule"])
            self._post(lambda: self._refused_alone(key, refusal))
        elif which == "ready":
            self._post(self._ready)

    def _source(self, content: pb.McpContent) -> str:
        return f"{self.server} {content.source}"

    def _post(self, call: Callable[[], None]) -> None:
        self._around.worker.post(call)

    # ---- tools

    def _tools(self, number: int, message: pb.McpTools) -> None:
        if not message.tools and message.digest:
            known = self._list is not None and self._list[0] == self._as_judged(message.digest)
            answer = self._list[1] if self._list is not None and known else pb.McpToolsJudged(changed=True)
            self._send(pb.McpAnswer(id=number, tools=answer))
            return
        try:
            withheld, fresh = self._catalogue.judge(message.tools, self.document(), shadow=self.shadow)
        except PinsFailed as failure:
            log.error("%s: no tools: %s", self.server, failure)
            why = Objection("pins-unreadable", "what is accepted of this server cannot be read or written")
            withheld, fresh = [Withheld(index, "", why) for index in range(len(message.tools))], {}
        if fresh:
            pinned = [{"name": name, "pin": pin} for name, pin in fresh.items()]
            self._note(records.tools_record("tools.pinned", self.subject, self.server, pinned))
        named = [{"name": tool.name, "rule": tool.objection.rule, "reason": tool.objection.reason} for tool in withheld]
        if named and named != self._withheld:  # a client that lists again and again fills no journal
            self._note(records.tools_record("tools.withheld", self.subject, self.server, named))
        self._withheld = named
        told = [
            pb.Withheld(
                index=tool.index, name=text(tool.name), rule=tool.objection.rule, reason=text(tool.objection.reason)
            )
            for tool in withheld
        ]
        judged = pb.McpToolsJudged(withheld=told)
        self._list = (self._as_judged(message.digest), judged)
        self._send(pb.McpAnswer(id=number, tools=judged))

    def _as_judged(self, digest: bytes) -> tuple[bytes, str, int]:
        """What a judgement of a list depends on."""
        return digest, self._around.policies().version, self._catalogue.generation

    def _note(self, record: records.Record) -> None:
        self._post(lambda: self._around.recorder.note(record))

    # ---- 1. a call is asked for

    def _call(self, number: int, message: pb.McpCall) -> None:
        begun = time.perf_counter_ns()
        if message.task and self.acting is not None and not self.subject.parent:
            # The user's own client: what it says last about the task counts for what follows.
            self._task, self._task_from = message.task[:MOST_TASK], "client"
            self.acting.task = self._task
        elif message.task and self.acting is None:
            self._task, self._task_from = message.task[:MOST_TASK], "client"
        with self._lock:
            if number in self._asked:
                raise Refused(
                    "bad-request", f"the call {number} is being decided already: each has a number of its own"
                )
            self._count += 1
            identity = f"{self.subject.sandbox}-c{self._count}"
            too_many = len(self._asked) + len(self._let_through) >= MOST_CALLS
        document = self.document()
        try:
            listed, objection = self._catalogue.of_call(message.tool, document, shadow=self.shadow)
        except PinsFailed as failure:
            log.error("%s: no calls: %s", self.server, failure)
            listed, objection = None, Objection("pins-unreadable", "what is accepted of this server cannot be read")
        if message.no_list:
            listed, objection = None, Objection("tool-not-listed", text(message.no_list[:500]))
        call = ToolCall(self.server, message.tool[:512], message.arguments, listed.schema if listed else b"")
        action = Action(identity, self.subject, call, self._context())
        asked = Asked(number, identity, action, listed.pin if listed else "", (), begun, self._task_from)
        version = self._around.policies().version
        refusal = _refusal(objection, message, too_many, version)
        if refusal is not None:
            self._post(partial(self._answer, asked, refusal))
            return
        asked.entailed = self._entailed(listed, document, message.arguments)
        with self._lock:
            self._asked[number] = asked
        self._room.acquire()
        self._around.gate.decide(action, partial(self._judged, asked))

    def _context(self) -> Context:
        """What surrounds the call. The leader changes some of it meanwhile: then it is looked at again."""
        if self.acting is None:
            places = self._places
            context = Context(directories=(places.cwd,), home=places.home, untrusted=self._memory.items)
        else:
            for _ in range(8):
                try:
                    context = self.acting.context()
                    break
                except RuntimeError:  # a collection changed while it was read
                    continue
            else:
                context = self._around.worker.ask(self.acting.context)
        return replace(context, task=self._task)

    def _entailed(self, listed: Listed | None, document: Tool | None, arguments: bytes) -> tuple[Entailed, ...]:
        entry = document.tools.get(listed.name) if listed is not None and document is not None else None
        if entry is None or not entry.contract or self.acting is None:
            return ()
        try:
            value: Any = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return ()  # layer 1 says what is wrong with them
        return contract.entailed(entry.contract, value, self._places) if isinstance(value, dict) else ()

    # ---- 2. the gate has answered; perhaps a person is asked

    def _judged(self, asked: Asked, verdict: Verdict) -> None:
        self._room.release()
        if asked.over:
            return
        if verdict.decision is not Decision.ASK:
            self._answer(asked, verdict)
            return
        seconds = self._around.person_seconds()
        asked.verdict = verdict
        asked.asked_us = time.time_ns() // 1000
        asked.deadline_us = asked.asked_us + int(seconds * 1e6)
        expired = deny(PERSON, "approval-timeout", f"nobody answered within {seconds:.0f} s", verdict.policy_version)
        asked.timer = self._around.worker.after(seconds, partial(self._answer, asked, expired))
        self._questions[asked.id] = (self, asked)
        waiting = pb.McpWaiting(approval=asked.id, reason=text(verdict.reason), deadline_us=asked.deadline_us)
        self._send(pb.McpAnswer(id=asked.number, waiting=waiting))

    def person_answered(self, asked: Asked, approve: bool, uid: int, note: str, policy_version: str) -> None:
        """JournalFailed: then it does not count."""
        assert asked.verdict is not None
        self._around.recorder.approval(asked.action, approve, uid, note)
        said = f"{'approved' if approve else 'denied'} by uid {uid}" + (f": {note}" if note else "")
        asked.approved_by = f"uid {uid}"
        self._answer(asked, (allow if approve else deny)(PERSON, asked.verdict.rule, said, policy_version))

    # ---- 3. record, leases, answer

    def _answer(self, asked: Asked, verdict: Verdict) -> None:
        if asked.over:
            return
        self._settle(asked)
        version = self._around.policies().version
        if verdict.decision is Decision.ALLOW and verdict.layer != PERSON and verdict.policy_version != version:
            verdict = deny(DAEMON, "policy-changed", "policy changed while this waited: it may be tried again", version)
        try:
            sequence = self._record(asked, verdict)
        except JournalError as failure:
            log.error("%s: a call is refused, since the journal fails: %s", self.server, failure)
            self._around.recorder.unrecorded += 1
            verdict, sequence = deny(DAEMON, "journal-failed", "the journal cannot be written", version), 0
        allowed = verdict.decision is Decision.ALLOW
        if allowed:
            self._begin(asked, sequence, version)
        self._send(
            pb.McpAnswer(
                id=asked.number,
                decided=pb.McpDecided(
                    decision=nouns_pb2.DECISION_ALLOW if allowed else nouns_pb2.DECISION_DENY,
                    call=asked.id,
                    record=sequence,
                    rule=verdict.rule,
                    reason=text(verdict.reason),
                    content=self.content_policy(),
                ),
            )
        )

    def _settle(self, asked: Asked) -> None:
        asked.over = True
        self._questions.pop(asked.id, None)
        if asked.timer is not None:
            asked.timer.cancel()
        with self._lock:
            self._asked.pop(asked.number, None)

    def _record(self, asked: Asked, verdict: Verdict) -> int:
        call = asked.action.what
        assert isinstance(call, ToolCall)
        record = records.call_record(
            self.subject,
            call,
            asked.id,
            verdict,
            pin=asked.pin,
            seal=self._around.seal,
            gate_us=(time.perf_counter_ns() - asked.begun) // 1000,
            approved_by=asked.approved_by,
            task=asked.action.context.task,
            task_from=asked.task_from,
            remote=self.acting is None,
        )
        if verdict.decision is Decision.ALLOW:
            return self._around.recorder.write(record)
        key = ("call", call.tool, verdict.layer, verdict.rule, record["arguments"]["digest"])
        return self._around.recorder.write_refusal(key, record)

    def _begin(self, asked: Asked, sequence: int, version: str) -> None:
        self._let_through[asked.id] = sequence
        if self.acting is None:
            return
        call = asked.action.what
        assert isinstance(call, ToolCall)
        self.acting.ledger.clear()  # what was decided before was decided without this call
        given = contract.leases(asked.entailed, self.acting.rules, asked.id, version)
        self.acting.inflight.begin(Call(asked.id, call, asked.entailed, sequence), given)

    # ---- 4. it is over

    def _end(self, end: pb.McpCallEnd) -> None:
        sequence = self._let_through.pop(end.call, None)
        if sequence is None:
            return
        outcome = end.outcome if end.outcome in _OUTCOMES else "error"
        record = records.end_record(self.subject, end.call, sequence, outcome, end.content)
        if self.acting is not None:
            self.acting.ledger.clear()
            call = self.acting.inflight.end(end.call)
            if call is not None:
                record["effects"] = call.effects
        self._around.recorder.note(record)

    def _cancel(self, number: int) -> None:
        asked = self._asked.get(number)
        if asked is not None and not asked.over:
            withdrawn = deny(DAEMON, "withdrawn", "its client waits no longer", self._around.policies().version)
            self._answer(asked, withdrawn)

    def _refused_alone(self, key: object, record: records.Record) -> None:
        try:
            self._around.recorder.write_refusal(key, record)
        except JournalError:
            self._around.recorder.unrecorded += 1

    def _ready(self) -> None:
        if self.acting is not None:
            self.acting.inflight.server.ready = True

    def close(self) -> None:
        """The gateway is gone: nothing of it waits, and nothing it let through is in flight. On the leader."""
        for asked in list(self._asked.values()):
            self._answer(asked, deny(DAEMON, "withdrawn", "its gateway is gone", self._around.policies().version))
        for identity in list(self._let_through):
            self._end(pb.McpCallEnd(call=identity, outcome="gone"))


def _refusal(objection: Objection | None, message: pb.McpCall, too_many: bool, version: str) -> Verdict | None:
    """What is refused before the gate is asked."""
    if objection is not None:
        return deny("tier" if objection.rule == "tier" else SCHEMA, objection.rule, objection.reason, version)
    if len(message.arguments) > MOST_ARGUMENTS:
        reason = f"the arguments have {len(message.arguments)} bytes: at most {MOST_ARGUMENTS} are judged"
        return deny(SCHEMA, "malformed", reason, version)
    if too_many:
        return deny(DAEMON, "too-many-calls", f"{MOST_CALLS} calls of this server are in flight already", version)
    return None
