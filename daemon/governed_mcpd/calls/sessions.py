"""All gateways that are connected: who may open one, for which server, and what people see and accept of it."""

import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from governed.v1 import control_pb2 as pb
from governed_mcpd.calls.memory import Memories
from governed_mcpd.calls.pins import Known, Pins, PinsFailed
from governed_mcpd.calls.session import Asked, Session, Surroundings
from governed_mcpd.calls.tools import Catalogue
from governed_mcpd.control.framing import encode
from governed_mcpd.kernel import procfs
from governed_mcpd.nouns.action import Untrusted
from governed_mcpd.subjects import keep
from governed_mcpd.subjects import plan as plans
from governed_mcpd.subjects.peers import Peer
from governed_mcpd.subjects.plan import Refused
from governed_mcpd.subjects.sandbox import Acting, Sandbox
from governed_mcpd.subjects.sandboxes import Sandboxes

REMOTE = "remote-"
MOST_REMOTE = 256  # gateways to remote servers
Message = pb.McpMessage


class Sessions:
    """Opens and closes them; `questions` are calls that wait for a person (leader only)."""

    def __init__(self, around: Surroundings, sandboxes: Sandboxes, pins: Pins) -> None:
        self._around = around
        self._sandboxes = sandboxes
        self._pins = pins
        self._memories = Memories()
        self._open: set[Session] = set()  # leader only, as the next
        self._remote: dict[str, Callable[[], None]] = {}  # by Subject: how to cut its gateway off
        self.questions: dict[str, tuple[Session, Asked]] = {}

    # ---- one gateway

    @contextmanager
    def opened(
        self, peer: Peer, nested: bool, request: pb.McpOpenRequest, sock: socket.socket
    ) -> Iterator[tuple[Session, pb.McpOpened]]:
        """A session for the gateway at the other end of `sock`, until the block ends. Refused."""
        acting, sandbox = None, None
        if request.sandbox:
            sandbox, acting = self._server_of(peer, nested, request.sandbox)
            subject, places, task = acting.subject, acting.rules[-1].places, acting.task
        else:
            if nested:
                # The connection is the sandbox's own effect already; there is no process of the server to govern.
                raise Refused("forbidden", "inside a sandbox, only servers that run there have a gateway")
            wanted = plans.read(self._around.policies(), peer, request.remote, "")
            subject = plans.subject_of(wanted, REMOTE + secrets.token_hex(6), peer.uid)
            places, task = wanted.places, wanted.task
        client = sandbox.id if nested and sandbox is not None else _client_of(peer)
        memory = self._memories.join(client)
        try:
            catalogue = Catalogue(subject, subject.server, self._pins, memory, lasting=not nested)
            session = Session(
                self._around, subject, places, acting, catalogue, memory, self.questions, _sender(sock), task
            )
            if acting is None:
                self._open_remote(session, sock)
            else:
                assert sandbox is not None
                self._around.worker.ask(lambda: self._govern(session, sandbox, acting, memory.untrusted))
            try:
                yield session, self._told(session)
            finally:
                self._around.worker.ask(lambda: self._close(session))
        finally:
            self._memories.leave(client, subject.server)

    def _server_of(self, peer: Peer, nested: bool, identity: str) -> tuple[Sandbox, Acting]:
        """The Subject whose process is the server. Refused for one that is not the peer's own."""
        sandbox = self._sandboxes.get(identity.partition(".")[0])
        acting = None
        if sandbox is not None:
            acting = sandbox.main if identity == sandbox.id else sandbox.children.get(identity)
        if sandbox is None or acting is None or (not nested and peer.uid not in (sandbox.uid, 0)):
            raise Refused("unknown-sandbox", f"there is no sandbox {identity!r} of yours")
        if nested and (
            self._sandboxes.of_process(peer.pid) is not sandbox
            or acting.subject.parent != sandbox.acting(peer.pid).subject.sandbox
            or not peer.lives()
        ):
            raise Refused("not-your-child", "a gateway in a sandbox speaks for child Subjects of its own only")
        return sandbox, acting

    def _govern(
        self, session: Session, sandbox: Sandbox, acting: Acting, untrusted: Callable[[], tuple[Untrusted, ...]]
    ) -> None:
        server = acting.inflight.server
        if server.governed:
            raise Refused("governed-already", f"a gateway stands in front of {acting.subject.sandbox} already")
        server.governed = True
        self._open.add(session)
        server.underway = sandbox.underway
        keep.describe(sandbox)
        server.denies_outside = lambda: (found := session.document()) is not None and found.outside == "deny"
        acting.untrusted = untrusted

    def _open_remote(self, session: Session, sock: socket.socket) -> None:
        def opened() -> None:
            if len(self._remote) >= MOST_REMOTE:
                raise Refused("too-many-gateways", f"{MOST_REMOTE} gateways to remote servers are open already")
            limits = self._around.policies().profiles[session.subject.profile].limits
            self._around.recorder.open_budget(session.subject.sandbox, limits.journal_mib << 20)
            self._remote[session.subject.sandbox] = partial(_cut, sock)
            self._open.add(session)

        self._around.worker.ask(opened)

    def _close(self, session: Session) -> None:
        self._open.discard(session)
        session.close()
        if session.acting is None:
            self._remote.pop(session.subject.sandbox, None)
            self._around.recorder.close_budget(session.subject.sandbox)

    def policy_changed(self) -> None:
        """Every gateway is told."""
        self._around.worker.ask(self._tell_policy)

    def _tell_policy(self) -> None:
        for session in self._open:
            session.policy_changed()

    def exhausted(self, subject: str) -> None:
        """A remote server's journal budget is used up: there is nothing to freeze, so its gateway is cut off."""
        cut = self._remote.get(subject)
        if cut is not None:
            cut()

    def _told(self, session: Session) -> pb.McpOpened:
        return pb.McpOpened(
            sandbox=session.subject.sandbox,
            policy_version=self._around.policies().version,
            known=session.document() is not None or session.shadow,
            content=session.content_policy(),
        )

    # ---- what people see and accept

    def person_answered(self, identity: str, approve: bool, uid: int, note: str, policy_version: str) -> bool:
        """A person's answer to a call that waits; False when none does. JournalFailed. On the leader."""
        found = self.questions.get(identity)
        if found is None:
            return False
        session, asked = found
        session.person_answered(asked, approve, uid, note, policy_version)
        return True

    def tools(self, server: str, uid: int, everybody: bool) -> list[pb.ToolState]:
        """What is known of servers' tools: of `server` (all, when it is empty), of one user or of everybody."""
        try:
            owners = [key for key in self._pins.everything() if (everybody or key[0] == uid)]
            return [
                _state(owner, name, tool, known)
                for owner, name in owners
                if server in ("", name)
                for tool, known in sorted(self._pins.of(owner, name).items())
            ]
        except PinsFailed as failure:
            raise Refused("pins-failed", str(failure)) from None

    def approve(self, request: pb.ToolApproveRequest, by_uid: int) -> dict[str, str]:
        """Accepts what a server lists now; the pins by tool. Refused."""
        try:
            known = self._pins.of(request.uid, request.server)
            wanted = [request.tool] if request.tool else [name for name, entry in known.items() if entry.seen]
            missing = [name for name in wanted if name not in known or not known[name].seen]
            if missing or not wanted:
                raise Refused("unknown-tool", f"{request.server} of uid {request.uid} has listed no such tool")
            if request.pin and any(known[name].seen != request.pin for name in wanted):
                raise Refused("pin-differs", "the tool is listed with another pin: look again (governedctl tools diff)")
            accepted = self._pins.approve(request.uid, request.server, wanted, f"uid {by_uid}")
        except PinsFailed as failure:
            raise Refused("pins-failed", str(failure)) from None
        return accepted


def _state(uid: int, server: str, tool: str, known: Known) -> pb.ToolState:
    return pb.ToolState(
        uid=uid,
        server=server,
        tool=tool,
        state=known.state,
        pin=known.pin,
        seen=known.seen,
        approved_form=os.fsencode(known.form),
        seen_form=os.fsencode(known.seen_form),
        reason=known.reason,
        approved_us=known.approved_us,
        approved_by=known.approved_by,
    )


def _client_of(peer: Peer) -> object:
    """The program that started the gateway, which is the MCP client: by process id and start."""
    try:
        parent = procfs.status(peer.pid).parent
        return (peer.uid, parent, procfs.read(f"{parent}/stat").rpartition(b")")[2].split()[19])
    except (procfs.Gone, OSError, IndexError):
        return (peer.uid, peer.pid)


def _sender(sock: socket.socket) -> Callable[[pb.McpAnswer], None]:
    """Writes answers without waiting: a gateway that does not read its answers is cut off."""

    def send(answer: pb.McpAnswer) -> None:
        frame = encode(pb.ControlReply(mcp=answer))
        try:
            sent = sock.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            sent = -1
        if sent != len(frame):
            _cut(sock)

    return send


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):  # it is gone already
        sock.shutdown(socket.SHUT_RDWR)
