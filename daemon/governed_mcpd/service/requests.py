"""What each request on the control socket does, and who may ask for it."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2
from governed_mcpd import __version__
from governed_mcpd.calls.records import MOST_NAMES
from governed_mcpd.calls.session import Asked
from governed_mcpd.calls.sessions import Sessions
from governed_mcpd.control import framing
from governed_mcpd.journal.errors import JournalError
from governed_mcpd.journal.journal import Journal
from governed_mcpd.kernel import lsm
from governed_mcpd.names.lookups import Lookup
from governed_mcpd.nouns import wire
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.policy import difference
from governed_mcpd.policy.load import PolicyError, PolicySet
from governed_mcpd.policy.store import StoreError
from governed_mcpd.service.life import Life
from governed_mcpd.service.policies import NothingBefore, Policies
from governed_mcpd.service.server import Connection
from governed_mcpd.service.trial import Trial
from governed_mcpd.service.view import View
from governed_mcpd.subjects.peers import Peer
from governed_mcpd.subjects.plan import Refused
from governed_mcpd.subjects.sandbox import Acting, Sandbox, shortened
from governed_mcpd.subjects.sandboxes import Sandboxes
from governed_mcpd.supervisor.gate import Gate, GateRefused
from governed_mcpd.supervisor.questions import Question

log = logging.getLogger(__name__)
ADOPT_SECONDS = 30.0
FOLLOW_SECONDS = 0.2
MAX_NOTE = 1024
MOST_SHOWN = 4096  # characters of a command line or a task in a list
MOST_LISTED = 12 * 1024 * 1024
Item = TypeVar("Item", pb.Approval, pb.ToolState)


class Requests:
    """The handler of the control sockets."""

    def __init__(
        self,
        *,
        groups: tuple[int, int],
        sandboxes: Sandboxes,
        life: Life,
        policies: Policies,
        gate: Gate,
        journal: Journal,
        state_dir: str,
        trial: Trial | None,
        sessions: Sessions,
    ) -> None:
        self._group, self._admin_group = groups
        self._sandboxes = sandboxes
        self._life = life
        self._worker = life.worker
        self._decider = life.decider
        self._questions = life.decider.questions
        self._policies = policies
        self._gate = gate
        self._journal = journal
        self._sessions = sessions
        self._seal = life.seal
        self._state_dir = state_dir
        self._trial = trial
        self._started_us = time.time_ns() // 1000
        self._open: dict[str, Callable[[Connection, pb.ControlRequest], None]] = {
            "run": self._run,
            "adopt": self._adopt,
            "status": self._status,
            "sandbox_list": self._sandbox_list,
            "get": self._get,
            "journal_read": self._journal_read,
            "explain": self._explain,
            "sandbox_kill": self._sandbox_kill,
            "mcp_open": self._mcp_open,
            "tool_list": self._tool_list,
        }
        self._admin: dict[str, Callable[[Connection, pb.ControlRequest], None]] = {
            "sandbox_thaw": self._sandbox_thaw,
            "apply": self._apply,
            "rollback": self._rollback,
            "approval_list": self._approval_list,
            "approval_decide": self._approval_decide,
            "tool_approve": self._tool_approve,
        }

    def handle(self, connection: Connection, request: pb.ControlRequest) -> None:
        """Answers one request; refusals go to the peer as Error."""
        which = request.WhichOneof("request") or ""
        try:
            self._permit(connection, which)
            (self._open.get(which) or self._admin[which])(connection, request)
        except Refused as refusal:
            connection.error(refusal.code, str(refusal))
        except GateRefused as refusal:
            connection.error(refusal.code, str(refusal))
        except PolicyError as problem:
            connection.error("bad-policy", str(problem))
        except StoreError as problem:
            connection.error("store-failed", str(problem))
        except NothingBefore as problem:
            connection.error("nothing-before", str(problem))
        except JournalError as problem:
            connection.error("journal-failed", str(problem))

    def _permit(self, connection: Connection, which: str) -> None:
        peer = connection.peer
        if connection.nested:
            if which not in ("run", "adopt", "mcp_open"):
                raise Refused("forbidden", "a process inside a sandbox may only ask for a child Subject")
            return
        if peer.sandboxed:
            raise Refused("forbidden", "a process inside a sandbox may not speak to the daemon here")
        if which in self._open:
            if not peer.may_run(self._group, self._admin_group):
                raise Refused(
                    "forbidden", f"uid {peer.uid} is not in the group that may run sandboxes (gid {self._group})"
                )
        elif which in self._admin:
            if not peer.may_govern(self._admin_group):
                raise Refused("forbidden", f"{which} needs the administrators' group (gid {self._admin_group}) or root")
        else:
            raise Refused("bad-request", f"request {which or 'without content'} is not known here")

    # ---- a launcher, and its child

    def _run(self, connection: Connection, request: pb.ControlRequest) -> None:
        if connection.nested:
            self._run_child(connection, request.run)
            return
        sandbox, plan = self._sandboxes.plan(connection.peer, request.run, connection.push)
        plan.seal = self._seal.name
        if self._seal.name == "none":
            plan.notes.append(f"seal: none ({self._seal.reason})")
        reason = "its launcher went away"
        try:
            connection.reply(pb.ControlReply(run=plan))
            if connection.receive(None) is not None:
                reason = "its launcher sent something that it must not send"
        except (OSError, framing.FramingError) as error:
            reason = f"its launcher failed: {error}"
        finally:
            self._life.end(sandbox, reason)

    def _run_child(self, connection: Connection, run: pb.RunRequest) -> None:
        sandbox, acting, plan = self._sandboxes.plan_child(connection.peer, run)
        plan.seal = self._seal.name
        try:
            connection.reply(pb.ControlReply(run=plan))
            connection.receive(None)
        finally:
            self._life.end_child(sandbox, acting, "its launcher went away")

    def _adopt(self, connection: Connection, request: pb.ControlRequest) -> None:
        sandbox, acting = self._sandboxes.adopt(connection.peer, request.adopt.token)
        version = self._policies.active.version
        if acting is not sandbox.main:
            self._worker.ask(lambda: self._life.begin_child(sandbox, acting, version))
            self._life.lookups.ready(acting)
            connection.reply(pb.ControlReply(adopted=pb.Adopted(sandbox=acting.subject.sandbox)))
            return
        connection.reply(pb.ControlReply(adopted=pb.Adopted(sandbox=sandbox.id)))
        following = connection.receive(ADOPT_SECONDS)
        if following is None or following.WhichOneof("request") != "listen":
            raise Refused("bad-request", "after adoption the child sends its listener")
        self._sandboxes.supervise(sandbox, following.listen.listener)
        self._worker.ask(lambda: self._life.begin(sandbox, version))
        self._life.lookups.ready(acting)
        connection.reply(pb.ControlReply(listening=pb.Listening()))

    # ---- a gateway

    def _mcp_open(self, connection: Connection, request: pb.ControlRequest) -> None:
        with self._sessions.opened(connection.peer, connection.nested, request.mcp_open, connection.socket) as opened:
            session, told = opened
            connection.reply(pb.ControlReply(mcp_opened=told))
            while (following := connection.receive(None)) is not None:
                if following.WhichOneof("request") != "mcp":
                    raise Refused("bad-request", "a gateway's connection carries messages of the gateway only")
                session.message(following.mcp)

    def _tool_list(self, connection: Connection, request: pb.ControlRequest) -> None:
        wanted, peer = request.tool_list, connection.peer
        if wanted.others and not peer.may_govern(self._admin_group):
            raise Refused("forbidden", "other users' servers are shown to administrators only")
        states = self._sessions.tools(wanted.server, peer.uid, wanted.others)
        connection.reply(pb.ControlReply(tools=pb.ToolList(tools=_fitting(states))))

    def _tool_approve(self, connection: Connection, request: pb.ControlRequest) -> None:
        wanted, uid = request.tool_approve, connection.peer.uid
        accepted = self._sessions.approve(wanted, uid)
        self._journal.append(
            {
                "kind": "tools.approved",
                "server": wanted.server,
                "of_uid": wanted.uid,
                "by_uid": uid,
                "tools": [{"name": name, "pin": pin} for name, pin in list(accepted.items())[:MOST_NAMES]],
            }
        )
        named = ", ".join(sorted(accepted)) or "nothing"
        connection.reply(pb.ControlReply(done=pb.Done(message=f"accepted of {wanted.server}: {named}")))

    # ---- seeing

    def _probes(self) -> list[pb.Probe]:
        """What the seal does, found by having it do so."""
        if self._trial is None:
            remedy = "; ".join(lsm.missing()) or 'see the reason; then set seal = "required", which is the default'
            return [pb.Probe(feature="bpf-lsm", works=False, detail=f"seal: none ({self._seal.reason})", remedy=remedy)]
        found = self._trial.findings()
        works = all(finding.works for finding in found)
        whole = pb.Probe(feature="bpf-lsm", works=works, detail=f"seal {self._seal.name}", remedy=found[0].remedy)
        return [whole, *(pb.Probe(feature=f.feature, works=f.works, detail=f.detail, remedy=f.remedy) for f in found)]

    def _status(self, connection: Connection, request: pb.ControlRequest) -> None:
        gate = self._gate.describe()
        questions = self._questions
        connection.reply(
            pb.ControlReply(
                status=pb.Status(
                    version=__version__,
                    seal=self._seal.name,
                    seal_reason=self._seal.reason,
                    policy_version=self._policies.active.version,
                    gate="serving" if gate.serving else "unavailable",
                    gate_reason=gate.reason,
                    backend=f"{gate.backend} {gate.model}".strip(),
                    sandboxes=sum(1 for _ in self._sandboxes),
                    pending=self._worker.ask(lambda: questions.pending),
                    records=self._journal.length,
                    head=self._journal.head,
                    started_us=self._started_us,
                    journal=self._journal.failure or "ok",
                    waiting=self._worker.ask(self._waiting),
                    names_reason=self._life.lookups.reason,
                    upstreams=self._life.lookups.link.upstreams,
                    seal_events=self._life.events.seen,
                    seal_dropped=self._life.events.dropped,
                    remotes=gate.remotes,
                    probes=self._probes() if request.status.try_seal else [],
                )
            )
        )

    def _waiting(self) -> int:
        return len(self._questions.approvals) + len(self._life.lookups.approvals) + len(self._sessions.questions)

    def _sees(self, peer: Peer, uid: int) -> bool:
        return peer.may_govern(self._admin_group) or peer.uid == uid

    def _sandbox_list(self, connection: Connection, _: pb.ControlRequest) -> None:
        infos: list[pb.SandboxInfo] = []
        for sandbox in self._sandboxes:
            if self._sees(connection.peer, sandbox.uid):
                pending = self._worker.ask(partial(self._questions.pending_in, sandbox))
                infos += [_info(sandbox, acting, pending) for acting in (sandbox.main, *sandbox.children.values())]
        connection.reply(pb.ControlReply(sandboxes=pb.SandboxList(sandboxes=infos)))

    def _own(self, connection: Connection, identity: str) -> Sandbox:
        sandbox = self._sandboxes.get(identity)
        if sandbox is None or not self._sees(connection.peer, sandbox.uid):
            raise Refused(
                "unknown-sandbox", f"there is no sandbox {identity!r} that you may see: governedctl sandbox list"
            )
        return sandbox

    def _sandbox_kill(self, connection: Connection, request: pb.ControlRequest) -> None:
        sandbox = self._own(connection, request.sandbox_kill.sandbox)
        if not connection.peer.may_govern(self._admin_group):
            raise Refused("forbidden", f"kill needs the administrators' group (gid {self._admin_group}) or root")
        sandbox.cgroup.kill()
        connection.reply(pb.ControlReply(done=pb.Done(message=f"sandbox {sandbox.id} was killed")))

    def _sandbox_thaw(self, connection: Connection, request: pb.ControlRequest) -> None:
        sandbox = self._own(connection, request.sandbox_thaw.sandbox)
        if sandbox.state != "frozen":
            raise Refused("not-frozen", f"sandbox {sandbox.id} is {sandbox.state}")
        more = request.sandbox_thaw.more_bytes or sandbox.main.rules[0].limits.journal_mib << 20
        self._worker.ask(lambda: self._life.thaw(sandbox, connection.peer.uid, more))
        connection.reply(pb.ControlReply(done=pb.Done(message=f"sandbox {sandbox.id} goes on, with {more} bytes more")))

    def _get(self, connection: Connection, request: pb.ControlRequest) -> None:
        active = self._policies.active
        files = [nouns_pb2.PolicySet.File(name=name, content=content) for name, content in sorted(active.files.items())]
        connection.reply(pb.ControlReply(documents=nouns_pb2.PolicySet(files=files, version=active.version)))

    def _journal_read(self, connection: Connection, request: pb.ControlRequest) -> None:
        wanted = request.journal_read
        everything = connection.peer.may_govern(self._admin_group)
        # The records of a call are its sandbox's.
        sandbox = wanted.sandbox or wanted.call.rpartition("-c")[0]
        view = View(self._state_dir, sandbox, None if everything else connection.peer.uid, wanted.call)
        for line in view.last(wanted.last_n) if wanted.last_n else view.since(max(wanted.first, 1)):
            connection.reply(pb.ControlReply(record=pb.JournalRecord(line=line, more=True)))
        while wanted.follow and not connection.closed():
            for line in view.news():
                connection.reply(pb.ControlReply(record=pb.JournalRecord(line=line, more=True)))
            time.sleep(FOLLOW_SECONDS)
        connection.reply(pb.ControlReply(record=pb.JournalRecord(more=False)))

    def _explain(self, connection: Connection, request: pb.ControlRequest) -> None:
        action = request.explain.action
        try:
            wire.action_from_pb(action)
        except wire.WireError as error:
            raise Refused("bad-request", str(error)) from None
        connection.reply(pb.ControlReply(verdict=self._gate.explain(action)))

    # ---- steering

    def _apply(self, connection: Connection, request: pb.ControlRequest) -> None:
        files = {file.name: file.content for file in request.apply.files}
        if len(files) != len(request.apply.files):
            raise Refused("bad-request", "two policy files have the same name")
        self._change(connection, self._policies.apply(files, connection.peer.uid))

    def _rollback(self, connection: Connection, _: pb.ControlRequest) -> None:
        self._change(connection, self._policies.rollback(connection.peer.uid))

    def _change(self, connection: Connection, change: tuple[PolicySet, PolicySet]) -> None:
        new, old = change
        self._sessions.policy_changed()
        connection.reply(
            pb.ControlReply(
                policy=pb.PolicyChange(
                    version=new.version,
                    previous=old.version,
                    widens=difference.widens(old, new),
                    changes=difference.changes(old, new),
                    active=True,
                )
            )
        )

    def _approval_list(self, connection: Connection, _: pb.ControlRequest) -> None:
        approvals = self._worker.ask(
            lambda: [
                *(_approval(question) for question in self._questions.approvals.values()),
                *(_approval(lookup) for lookup in self._life.lookups.approvals.values()),
                *(_approval(asked) for _, asked in self._sessions.questions.values()),
            ]
        )
        connection.reply(pb.ControlReply(approvals=pb.ApprovalList(approvals=_fitting(approvals))))

    def _approval_decide(self, connection: Connection, request: pb.ControlRequest) -> None:
        wanted = request.approval_decide
        note = wanted.note[:MAX_NOTE]
        answer = (wanted.id, wanted.approve, connection.peer.uid, note)
        known = self._worker.ask(
            lambda: any(
                room.person_answered(*answer, self._decider.policy_version)
                for room in (self._questions, self._life.lookups, self._sessions)
            )
        )
        if not known:
            raise Refused("unknown-approval", f"nothing waits as {wanted.id!r} (any more): governedctl approvals list")
        said = "approved" if wanted.approve else "denied"
        connection.reply(pb.ControlReply(done=pb.Done(message=f"{wanted.id} was {said}")))


def _approval(question: Question | Lookup | Asked) -> pb.Approval:
    """Without the earlier effects, and with the first words of a long command line: many have to fit into one list."""
    assert question.verdict is not None
    action, effect = question.action, question.action.what
    if isinstance(effect, SideEffect):
        effect = replace(effect, argv=shortened(effect.argv, MOST_SHOWN))
    return pb.Approval(
        id=question.id,
        action=wire.action_to_pb(replace(action, what=effect, context=replace(action.context, earlier=()))),
        verdict=wire.verdict_to_pb(question.verdict),
        asked_us=question.asked_us,
        deadline_us=question.deadline_us,
        waiting=len(question.waiting),
    )


def _fitting(approvals: list[Item]) -> list[Item]:
    """The first of them, the oldest, as many as one message takes: the others show when those are answered."""
    fitting: list[Item] = []
    left = MOST_LISTED
    for approval in approvals:
        left -= approval.ByteSize() + 16
        if left < 0:
            log.warning("%d to be listed: only the first %d fit into the list", len(approvals), len(fitting))
            break
        fitting.append(approval)
    return fitting


def _info(sandbox: Sandbox, acting: Acting, pending: int) -> pb.SandboxInfo:
    return pb.SandboxInfo(
        subject=wire.subject_to_pb(acting.subject),
        argv=[os.fsencode(word) for word in shortened(tuple(map(os.fsdecode, acting.argv)), MOST_SHOWN)],
        pid=acting.pid,
        started_us=int(acting.started * 1e6),
        allowed=acting.allowed,
        refused=acting.refused,
        pending=pending,
        state=sandbox.state,
        task=acting.task[:MOST_SHOWN],
        scratch=os.fsencode(sandbox.scratch),
        seal_events=sandbox.events,
    )
