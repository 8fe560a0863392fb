"""The life of sandboxes: planned for a launcher, adopted when its child comes, supervised, ended."""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from governed.v1 import control_pb2 as pb
from governed_mcpd.grant.seal import Seal, SealFailed
from governed_mcpd.kernel import calls, procfs
from governed_mcpd.kernel.borrow import borrowed
from governed_mcpd.kernel.cgroup import NoCgroup
from governed_mcpd.kernel.notify import Listener
from governed_mcpd.pause.resolve import Place
from governed_mcpd.policy.load import PolicySet
from governed_mcpd.subjects import keep, rules, scratch
from governed_mcpd.subjects import plan as plans
from governed_mcpd.subjects.cells import Cells
from governed_mcpd.subjects.envelope import landlock, must_pause_reads
from governed_mcpd.subjects.peers import Peer
from governed_mcpd.subjects.plan import Refused
from governed_mcpd.subjects.protection import Protection
from governed_mcpd.subjects.sandbox import Acting, Sandbox

log = logging.getLogger(__name__)
MAX_SANDBOXES = 1024
MAX_CHILDREN = 64
MAX_SANDBOXES_OF_USER = 512
NOTIFY_LINK = "anon_inode:seccomp notify"  # kernel/seccomp.c init_listener


@dataclass(frozen=True, slots=True)
class Kernel:
    """The filters for this architecture, without and with paused reads, and the flags that they are loaded with."""

    filter: bytes
    filter_reads: bytes
    filter_flags: int


class Sandboxes:
    """All that are there. Called from the threads of control connections; the maps are guarded by one lock."""

    def __init__(
        self,
        cells: Cells,
        runtime_dir: str,
        state_dir: str,
        kernel: Kernel,
        policies: Callable[[], PolicySet],
        seal: Seal,
    ) -> None:
        self.cells = cells
        self._secret = (os.path.realpath(runtime_dir), os.path.realpath(state_dir))
        self._seal = seal
        self._sealed = seal.name != "none"
        # Not the runtime directory: the sandbox's own scratch directory is mounted in it, and there is nothing to read.
        self.protection = Protection(seal, [os.path.realpath(state_dir)])
        self.adopted: Callable[[Sandbox], None] = lambda _: None  # before its command begins; its cgroup is there
        self.released: Callable[[Sandbox], None] = lambda _: None
        self.before_release: Callable[[], None] = lambda: None  # what the seal still has to say of one that has ended
        self._runtime_dir = runtime_dir
        self._scratch = os.path.join(runtime_dir, "scratch")
        self._kernel = kernel
        self._policies = policies
        self._lock = threading.Lock()
        self._all: dict[str, Sandbox] = {}
        self._tokens: dict[str, tuple[Sandbox, Acting]] = {}

    def __iter__(self) -> Iterator[Sandbox]:
        with self._lock:
            return iter(list(self._all.values()))

    def get(self, sandbox_id: str) -> Sandbox | None:
        with self._lock:
            return self._all.get(sandbox_id)

    def clean_up(self) -> int:
        """Ends what an earlier daemon left and nobody took over. Returns how many there were."""
        running = {sandbox.id for sandbox in self}
        left = {identity: cgroup for identity, cgroup in self.cells.there().items() if identity not in running}
        for identity, cgroup in left.items():
            if cgroup.end():
                self._seal.release(identity)
            else:
                # Killed, and waiting in the kernel for a file system that does not answer: they run no further.
                log.error("processes of an earlier daemon are killed but not gone yet: %s", cgroup.directory)
        os.makedirs(self._scratch, mode=0o711, exist_ok=True)
        os.chmod(self._scratch, 0o711)  # noqa: S103 - each sandbox finds its own, nobody lists them
        scratch.remove_all(self._scratch, running)
        return len(left)

    # ---- 1. planned

    def plan(
        self, peer: Peer, message: pb.RunRequest, notify: Callable[[pb.Notice], None]
    ) -> tuple[Sandbox, pb.RunPlan]:
        """What the launcher's child has to do to become a sandbox. Refused."""
        identity = secrets.token_hex(6)
        scratch_directory = os.path.join(self._scratch, identity)
        request = plans.read(self._policies(), peer, message, scratch_directory)
        terminal = _terminal_path(peer.pid)
        own = rules.make(request.profile, request.places, terminal)
        if not self._sealed and must_pause_reads(own, self._secret):
            own = rules.paused(own)
        acting = Acting(
            subject=plans.subject_of(request, identity, peer.uid),
            rules=(own,),
            task=request.task,
            cgroup=self.cells.of(identity),
            argv=request.argv,
            launcher=peer.pid,
        )
        token = secrets.token_hex(16)
        sandbox = Sandbox(identity, peer.uid, peer.gid, acting, scratch_directory, notify, token)
        sandbox.sealed = self._sealed
        with self._lock:
            if len(self._all) >= MAX_SANDBOXES:
                raise Refused("too-many-sandboxes", f"{MAX_SANDBOXES} sandboxes run already: end one of them")
            own_already = sum(other.uid == peer.uid for other in self._all.values())
            if peer.uid != 0 and own_already >= MAX_SANDBOXES_OF_USER:
                reason = f"{MAX_SANDBOXES_OF_USER} sandboxes of uid {peer.uid} run already: end one of them"
                raise Refused("too-many-sandboxes", reason)
            self._all[identity] = sandbox
            self._tokens[token] = (sandbox, acting)
        try:
            sandbox.namespace = scratch.namespace_of(peer.pid)
            size = request.profile.limits.scratch_mib << 20
            scratch.make(scratch_directory, size, peer.uid, peer.gid, sandbox.namespace)
            bounded = self.cells.prepare(identity, own.limits.processes)
        except (OSError, NoCgroup) as error:
            self.discard(sandbox)
            self.forget(sandbox)
            raise Refused("sandbox-not-made", str(error)) from error
        plan = self._told(peer, sandbox.id, token, own, request)
        plan.filter = self._kernel.filter_reads if own.reads_pause else self._kernel.filter
        plan.filter_flags = self._kernel.filter_flags
        if not bounded:
            most = own.limits.processes + _processes_of(peer.uid)
            plan.limits.append(pb.Limit(resource="nproc", soft=most, hard=most))
        return sandbox, plan

    def plan_child(self, peer: Peer, message: pb.RunRequest) -> tuple[Sandbox, Acting, pb.RunPlan]:
        """The same for a launcher inside a sandbox: a child Subject under the same listener. Refused."""
        sandbox = self.of_process(peer.pid)
        if sandbox is None:
            raise Refused("not-sandboxed", "only a process inside a sandbox may ask here for a child Subject")
        above = sandbox.acting(peer.pid)
        if not peer.lives():
            raise Refused("peer-gone", "who connected has ended: its process id may be somebody else's")
        outer = above.rules[-1].places
        request = plans.read(self._policies(), peer, message, sandbox.scratch, outer)
        identity = f"{sandbox.id}.{secrets.token_hex(4)}"
        own = rules.make(request.profile, request.places.within(outer))
        if must_pause_reads(own, self._secret, labelled=sandbox.main.rules[0].protected if self._sealed else None):
            own = rules.paused(own)
        if own.reads_pause and not sandbox.main.rules[0].reads_pause:
            raise Refused(
                "reads-not-paused",
                f"profile {own.profile!r} pauses reads, and this sandbox's filter does not, for good: start the outer "
                "command under a profile with reads: pause, or choose another one here",
            )
        subject = plans.subject_of(request, identity, peer.uid, parent=above.subject.sandbox)
        if subject.tier > above.subject.tier:
            raise Refused(
                "tier-above-parent", f"agent {subject.agent} has a higher tier than its parent: choose another"
            )
        acting = Acting(
            subject=subject,
            rules=(*above.rules, own),
            task=above.task,  # the user's task comes from outside the sandbox only
            cgroup=above.cgroup.child(identity.rpartition(".")[2]),
            argv=request.argv,
            launcher=peer.pid,
            # What was done so far is counted on: asking for a child does not begin a new count of removals.
            footprint=above.footprint,
            earlier=above.earlier,
            inflight=above.inflight.of_child(),
            untrusted=above.untrusted,
        )
        token = secrets.token_hex(16)
        with self._lock:
            if len(sandbox.children) >= MAX_CHILDREN:
                raise Refused("too-many-children", f"a sandbox has at most {MAX_CHILDREN} child Subjects")
            acting.cgroup.create()
            sandbox.children = {**sandbox.children, identity: acting}
            keep.describe(sandbox)
            self._tokens[token] = (sandbox, acting)
        return sandbox, acting, self._told(peer, identity, token, own, request)

    def _told(self, peer: Peer, identity: str, token: str, own: rules.Rules, request: plans.Request) -> pb.RunPlan:
        with borrowed(peer.credentials):  # it is told names: those that it may list itself
            envelope = landlock(own, self._secret, sealed=self._sealed)
        return plans.message_of(identity, token, own, request, envelope, self._runtime_dir)

    # ---- 2. adopted

    def adopt(self, peer: Peer, token: str) -> tuple[Sandbox, Acting]:
        """Takes in the launcher's child, which is who connected: SO_PEERCRED says so, not the message. Refused."""
        with self._lock:
            found = self._tokens.pop(token, None)
        if found is None:
            raise Refused("unknown-token", "no sandbox is planned for this token")
        sandbox, acting = found
        try:
            pidfd = os.pidfd_open(peer.pid)
        except OSError as error:
            raise Refused("child-gone", f"the process {peer.pid} cannot be adopted: {error}") from error
        try:
            status = procfs.status(peer.pid)
            self._check_child(sandbox, acting, peer, status.parent)
            if acting is sandbox.main:
                self.cells.adopt(sandbox.id, peer.pid, acting.rules[0].limits.processes)
                self.adopted(sandbox)
                # From here on, with a seal, nothing changes without a grant; its filter comes next.
                self._seal.adopt(sandbox.id, peer.pid, pidfd, reads=acting.rules[0].reads_pause)
                self._protect(sandbox, peer.pid, [])
            else:
                acting.cgroup.adopt(peer.pid)
            if sandbox.leaving or not peer.lives():
                acting.cgroup.kill()
                raise Refused("sandbox-ended", "the sandbox ended while its command was adopted")
            acting.pid = peer.pid
            if acting is sandbox.main:
                sandbox.pidfd, pidfd = pidfd, -1
                sandbox.terminal = procfs.stat(peer.pid).terminal
                sandbox.state = "adopted"
        except (OSError, procfs.Gone) as error:
            raise Refused("child-gone", f"the process {peer.pid} cannot be adopted: {error}") from error
        except SealFailed as failure:
            raise Refused("not-sealed", str(failure)) from failure
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        return sandbox, acting

    def _check_child(self, sandbox: Sandbox, acting: Acting, peer: Peer, parent: int) -> None:
        """Whether who connected is the child that was planned for. Refused; OSError, Gone when it has ended."""
        if acting is sandbox.main and (peer.uid != sandbox.uid or parent != acting.launcher):
            raise Refused("not-the-child", "only the launcher's own child is adopted")
        if acting is not sandbox.main and self.of_process(peer.pid) is not sandbox:
            raise Refused("not-the-child", "only a process of the same sandbox becomes its child Subject")
        if acting is not sandbox.main and not sandbox.acting(peer.pid).cgroup.holds(acting.cgroup.path):
            # A child Subject's process with a token of its parent's would come out under fewer rules than it had.
            raise Refused("not-the-child", "only a process of the Subject that asked becomes its child Subject")
        if _namespaces(peer.pid) != _namespaces(os.getpid()):
            raise Refused(
                "foreign-namespace", "process ids mean something else there: start it in the daemon's pid namespace"
            )
        # The pidfd was opened by number: what it stands for is who connected only if that one has not ended.
        if not peer.lives():
            raise Refused("peer-gone", "who connected has ended: its process id may be somebody else's")

    def _protect(self, sandbox: Sandbox, pid: int, left: list[int]) -> None:
        """Labels what the sandbox may not read. SealFailed, OSError."""
        if not self._sealed:
            return
        root = _foreign_root(pid)
        try:
            self.protection.begin(sandbox, root, left)
        finally:
            if root is not None:
                os.close(root)

    # ---- 3. supervised

    def supervise(self, sandbox: Sandbox, number: int) -> None:
        """Fetches the listener that the child installed as its descriptor `number`. Refused."""
        pid = sandbox.main.pid
        try:
            status = procfs.status(pid)
            if not status.no_new_privs:
                raise Refused("no-filter", "the child has not set no_new_privs")
            descriptor = calls.pidfd_getfd(sandbox.pidfd, number)
            if os.readlink(f"/proc/self/fd/{descriptor}") != NOTIFY_LINK:
                os.close(descriptor)
                raise Refused("no-listener", f"descriptor {number} of the child is not a seccomp listener")
            if sandbox.leaving:
                os.close(descriptor)
                raise Refused("sandbox-ended", "the sandbox ended before it was supervised")
            sandbox.listener = Listener(descriptor)
            sandbox.root = _foreign_root(pid)
        except (OSError, procfs.Gone) as error:
            raise Refused("child-gone", f"the child cannot be supervised: {error}") from error
        sandbox.place = Place(pid, sandbox.root, status.credentials if status.settled else None)
        sandbox.state = "running"
        keep.keep(sandbox)

    def take_over(self, identity: str, kept: keep.Kept) -> Sandbox:
        """Goes on with a sandbox that an earlier daemon supervised. NotTakenOver."""
        try:
            return self._take_over(identity, kept)
        except keep.NotTakenOver:
            self.protection.end(identity)
            kept.close()
            keep.forget(identity)
            raise

    def _take_over(self, identity: str, kept: keep.Kept) -> Sandbox:
        sandbox = keep.rebuild(identity, kept, self._policies(), self.cells.all.at)
        if sandbox.sealed != self._sealed:
            raise keep.NotTakenOver("it began with another seal than there is now")
        try:
            pid = sandbox.main.pid
            status = procfs.status(pid)
            if not sandbox.holds_process(pid):
                raise keep.NotTakenOver("its command stands in another cgroup")
            sandbox.root = _foreign_root(pid)
            sandbox.namespace = scratch.namespace_of(pid)
            sandbox.terminal = procfs.stat(pid).terminal
            self._protect(sandbox, pid, kept.protected)
        except (OSError, procfs.Gone) as error:
            raise keep.NotTakenOver(f"its command is gone: {error}") from error
        except SealFailed as failure:
            raise keep.NotTakenOver(f"what is protected from it cannot be: {failure}") from failure
        sandbox.place = Place(pid, sandbox.root, status.credentials if status.settled else None)
        sandbox.state = "running"
        for acting in (sandbox.main, *sandbox.children.values()):
            if acting.inflight.server.governed:
                acting.inflight.server.denies_outside = partial(self._denies_outside, acting.subject.server)
        with self._lock:
            self._all[identity] = sandbox
        return sandbox

    def _denies_outside(self, server: str) -> bool:
        document = self._policies().tools.get(server)
        return document is not None and document.outside == "deny"

    # ---- 4. ended

    def discard(self, sandbox: Sandbox) -> bool:
        """Ends every process, removes cgroup and scratch. True when nothing is left. It stays listed until `forget`."""
        with self._lock:
            self._tokens = {token: entry for token, entry in self._tokens.items() if entry[0] is not sandbox}
        sandbox.state = "ended"
        keep.forget(sandbox.id)
        ended = sandbox.cgroup.end()
        self.released(sandbox)
        scratch.remove(sandbox.scratch, sandbox.namespace)
        sandbox.close()
        if ended:
            self.before_release()
            self.protection.end(sandbox.id)
            self._seal.release(sandbox.id)
        else:
            log.error("sandbox %s: processes cannot be ended (%s)", sandbox.id, sandbox.cgroup.directory)
        return ended

    def forget(self, sandbox: Sandbox) -> None:
        """The last thing: it has ended, and the journal says so."""
        with self._lock:
            self._all.pop(sandbox.id, None)

    def discard_child(self, sandbox: Sandbox, acting: Acting) -> None:
        """Ends a child Subject; the sandbox goes on. Its processes are dead before its rules are forgotten."""
        if acting.cgroup.end():
            with self._lock:
                sandbox.children = {name: other for name, other in sandbox.children.items() if other is not acting}
                keep.describe(sandbox)

    def of_process(self, pid: int) -> Sandbox | None:
        """The sandbox that a process stands in."""
        try:
            path = procfs.cgroup(pid)
        except (procfs.Gone, OSError):
            return None
        return next((sandbox for sandbox in self if sandbox.cgroup.holds(path)), None)


def _namespaces(pid: int) -> tuple[str, str]:
    """The pid namespaces of a process and of its future children: pid_namespaces(7)."""
    return os.readlink(f"/proc/{pid}/ns/pid"), os.readlink(f"/proc/{pid}/ns/pid_for_children")


def _terminal_path(pid: int) -> str:
    """The controlling terminal of the launcher, for its envelope; empty when it has none or it is not a pty."""
    try:
        device = procfs.stat(pid).terminal
    except procfs.Gone:
        return ""
    major, minor = procfs.device_numbers(device)
    if 136 <= major <= 143:
        return f"/dev/pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"/dev/tty{minor}" if minor < 64 else f"/dev/ttyS{minor - 64}"
    return ""


def _foreign_root(pid: int) -> int | None:
    """The child's root directory, when it is not the daemon's own (another mount namespace, or a chroot)."""
    root = procfs.open_link(f"{pid}/root")
    same = os.path.samestat(os.fstat(root), os.stat("/")) and os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(
        "/proc/self/ns/mnt"
    )
    if same:
        os.close(root)
        return None
    return root


def _processes_of(uid: int) -> int:
    count = 0
    for pid in procfs.processes():
        try:
            count += os.stat(str(pid), dir_fd=procfs.PROC).st_uid == uid
        except FileNotFoundError:
            continue
    return count
