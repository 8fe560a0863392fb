"""What happens to a sandbox besides its effects: it begins, its command exits, its budget runs out, policy changes, it
ends. Puts the loop's events, the decider and the recorder together; everything but `end` runs on the leader."""

import logging
import threading
from collections.abc import Callable
from functools import partial

from governed.v1 import control_pb2 as pb
from governed_mcpd.calls.records import end_record
from governed_mcpd.grant.seal import Seal, SealFailed
from governed_mcpd.kernel.notify import Held
from governed_mcpd.names.lookups import Lookups
from governed_mcpd.pause.observation import Observation
from governed_mcpd.policy.load import PolicySet
from governed_mcpd.subjects import renewal
from governed_mcpd.subjects.sandbox import Acting, Sandbox, State
from governed_mcpd.subjects.sandboxes import Sandboxes
from governed_mcpd.supervisor.decide import Decider
from governed_mcpd.supervisor.digests import Unavailable, state_of
from governed_mcpd.supervisor.events import SealEvents
from governed_mcpd.supervisor.lanes import Worker
from governed_mcpd.supervisor.records import Recorder
from governed_mcpd.supervisor.short import ShortWay

log = logging.getLogger(__name__)
TICK_SECONDS = 1.0
END_SECONDS = 15.0


class Life:
    """Its parts know each other, so some are set after it was made."""

    decider: Decider
    recorder: Recorder
    events: SealEvents
    lookups: Lookups
    short: ShortWay
    worker: Worker

    def __init__(self, sandboxes: Sandboxes, seal: Seal) -> None:
        self.sandboxes = sandboxes
        self.seal = seal
        sandboxes.protection.failed = self.unprotected
        self.stays = False  # the daemon goes, its sandboxes do not: whoever lets go of one does not end it
        self._lock = threading.Lock()
        self.exhausted_elsewhere: Callable[[str], None] = lambda _: None  # of a Subject that has no sandbox here

    # ---- what the loop sees

    def observed(self, sandbox: Sandbox, held: Held, observation: Observation, started: int) -> None:
        self.decider.observed(sandbox, held, observation, started)

    def gone(self, sandbox: Sandbox, sequence: int) -> None:
        self.recorder.gone(sandbox.main, sequence, "thread-gone")

    def emptied(self, sandbox: Sandbox) -> None:
        self._say_ended(sandbox)

    def exited(self, sandbox: Sandbox) -> None:
        """The command has exited; its launcher hears of every refusal before this, and closes then."""
        self._say_ended(sandbox)

    def _say_ended(self, sandbox: Sandbox) -> None:
        if sandbox.state in ("running", "frozen"):
            self.events.take()  # what the kernel refused it as well
            sandbox.state = "ending"
            sandbox.notify(pb.Notice(kind=pb.Notice.KIND_ENDED))
            if sandbox.orphan:
                threading.Thread(target=self.end, args=(sandbox, "its command exited"), daemon=True).start()

    # ---- begin and end

    def begin(self, sandbox: Sandbox, policy_version: str) -> None:
        """The first held call may come. JournalFailed: then it does not begin."""
        limit = sandbox.main.rules[0].limits.journal_mib << 20
        self.recorder.started(sandbox.main, self.seal.name, policy_version, limit)
        self.lookups.begin(sandbox, sandbox.main)
        self.short.begin(sandbox)
        self.worker.add(sandbox)

    def resume(self, sandbox: Sandbox) -> None:
        """Goes on with a sandbox of an earlier daemon. Its launcher cannot be told anything any more; when its command
        exits, it ends."""
        limit = sandbox.main.rules[0].limits.journal_mib << 20
        self.recorder.resumed(sandbox.main, self.seal.name, self.decider.policy_version, limit)
        for call, record in sandbox.left_underway:
            acting = sandbox.children.get(call.rpartition("-c")[0], sandbox.main)
            self.recorder.note(end_record(acting.subject, call, record, "gone", pb.McpContent()))
        sandbox.orphan = True
        sandbox.cgroup.freeze(False)  # if it was: its budget is a new one
        self.lookups.attach(sandbox)
        for acting in (sandbox.main, *sandbox.children.values()):
            self.lookups.begin(sandbox, acting)
        self.short.begin(sandbox)
        self.worker.add(sandbox)

    def begin_child(self, sandbox: Sandbox, acting: Acting, policy_version: str) -> None:
        self.recorder.started(acting, self.seal.name, policy_version, None)
        self.lookups.begin(sandbox, acting)

    def end(self, sandbox: Sandbox, reason: str) -> None:
        """Ends it and everything in it, once: who comes second only waits. Not for the leader, nor quick: processes
        have to die."""
        if self.stays and sandbox.state != "planned":
            return
        with self._lock:
            first, sandbox.leaving = not sandbox.leaving, True
        if not first:
            sandbox.gone.wait(END_SECONDS)
            return
        try:
            self._end(sandbox, reason)
        finally:
            self.sandboxes.forget(sandbox)
            sandbox.gone.set()

    def _end(self, sandbox: Sandbox, reason: str) -> None:
        began = sandbox.listener is not None
        try:
            self.worker.ask(lambda: self._leave(sandbox))
        finally:
            # Whatever the loop is at: nothing of it runs on.
            self.sandboxes.discard(sandbox)
        for acting in sandbox.children.values():
            self._ended(acting, "its sandbox ended")
        self.worker.ask(lambda: self.events.forget(sandbox.id))
        if began:
            self._ended(sandbox.main, reason)

    def end_child(self, sandbox: Sandbox, acting: Acting, reason: str) -> None:
        if self.stays:
            return
        self.worker.ask(lambda: self.lookups.end(acting))
        self.sandboxes.discard_child(sandbox, acting)
        self._ended(acting, reason)

    def end_all(self, reason: str) -> None:
        for sandbox in self.sandboxes:
            self.end(sandbox, reason)

    def stay(self) -> int:
        """Has sandboxes go on without a daemon, until the next one takes them over. Returns how many do.

        What waits for an answer gets EINTR: no later daemon could receive that call again, and many programs make it
        again by themselves (signal(7)). Every other call waits in the kernel.
        """
        for sandbox in self.sandboxes:
            if sandbox.listener is None:
                self.end(sandbox, "the daemon was restarted before it began")
        self.stays = True
        running = [sandbox for sandbox in self.sandboxes if sandbox.listener is not None]
        for sandbox in running:
            self.worker.ask(partial(self._let_stay, sandbox))
        return len(running)

    def _let_stay(self, sandbox: Sandbox) -> None:
        self.worker.remove(sandbox)
        self.decider.interrupt(sandbox)

    def _leave(self, sandbox: Sandbox) -> None:
        self.worker.remove(sandbox)
        self.decider.forget(sandbox)
        for acting in (*sandbox.children.values(), sandbox.main):
            self.lookups.end(acting)

    def _ended(self, acting: Acting, reason: str) -> None:
        changed = [(sequence, before, _state_now(path)) for path, (sequence, before) in acting.changed.items()]
        self.worker.ask(lambda: self.recorder.after(acting, changed))
        self.worker.ask(lambda: self.recorder.ended(acting, reason))

    # ---- bounds

    def exhausted(self, identity: str) -> None:
        """Its journal budget is used up: it stands still until somebody thaws or kills it."""
        sandbox = self.sandboxes.get(identity)
        if sandbox is None:
            self.exhausted_elsewhere(identity)
            return
        if sandbox.state != "running":
            return
        sandbox.state = "frozen"
        sandbox.cgroup.freeze(True)
        reason = f"its journal budget of {sandbox.main.rules[0].limits.journal_mib} MiB is used up"
        self.recorder.frozen(sandbox, reason)
        sandbox.notify(pb.Notice(kind=pb.Notice.KIND_FROZEN, reason=reason))
        log.warning("sandbox %s is frozen: %s", identity, reason)

    def thaw(self, sandbox: Sandbox, uid: int, more_bytes: int) -> None:
        """JournalFailed: then it stays frozen."""
        self.recorder.thawed(sandbox, uid, more_bytes)
        sandbox.state = "running"
        sandbox.cgroup.freeze(False)

    def tick(self) -> None:
        """What is due every second."""
        self.recorder.tick()
        self.decider.questions.sweep()
        self.decider.tick()
        self.events.tick()
        self.worker.after(TICK_SECONDS, self.tick)

    # ---- policy

    def use(self, active: PolicySet) -> None:
        """From here on effects are judged by this set."""
        self.decider.policy_version = active.version
        self.decider.questions.person_seconds = float(active.gate.person_seconds)

    def policy_changed(self, new: PolicySet, old: PolicySet, uid: int, widens: list[str]) -> None:
        """Called by whoever applied it; returns when running sandboxes are judged by it, or ended."""
        there = list(self.sandboxes)
        renewed = renewal.renew(there, new)
        self.worker.ask(lambda: self._take_over(new, old, uid, widens, renewed))
        since = renewal.renew((sandbox for sandbox in self.sandboxes if sandbox not in there), new)
        self.worker.ask(lambda: self._renew(since))
        for sandbox in self.sandboxes:
            self._protect_more(sandbox)
        for sandbox in (*renewed.late, *since.late):
            reason = "its rules under the new policy cannot be worked out: a file system does not answer"
            threading.Thread(target=self.end, args=(sandbox, reason), daemon=True).start()

    def _protect_more(self, sandbox: Sandbox) -> None:
        """Labels what the new rules protect besides; a sandbox that this fails for is ended."""
        try:
            self.sandboxes.protection.renew(sandbox)
        except (SealFailed, OSError) as failure:
            self.unprotected(sandbox.id, str(failure))

    def unprotected(self, identity: str, why: str) -> None:
        """It could read what it must not."""
        sandbox = self.sandboxes.get(identity)
        if sandbox is not None:
            reason = f"what is protected from it cannot be: {why}"
            threading.Thread(target=self.end, args=(sandbox, reason), daemon=True).start()

    def _take_over(self, new: PolicySet, old: PolicySet, uid: int, widens: list[str], renewed: renewal.Renewal) -> None:
        self.recorder.policy(new.version, old.version, uid, widens)
        self.use(new)
        self._renew(renewed)

    def _renew(self, renewed: renewal.Renewal) -> None:
        for sandbox in self.sandboxes:
            for acting in (sandbox.main, *sandbox.children.values()):
                acting.ledger.clear()
                acting.rules = renewed.chains.get(acting.subject.sandbox, acting.rules)


def _state_now(path: str) -> State | None:
    try:
        return state_of(path)
    except Unavailable as failure:
        log.warning("no digest after: %s", failure)
        return None
