"""What has to outlive the daemon so that the next one can take running sandboxes over, in systemd's descriptor store:
the listener, the command's pidfd, a description of the sandbox, and the ids of received, unanswered notifications and
of tool calls in flight.

The last are needed because the kernel hands each notification out once: a call that the dead daemon had received would
wait for ever, as long as somebody holds the listener (FACTS: seen). Its id is enough to refuse it.
"""

import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from governed_mcpd.kernel.cgroup import Cgroup
from governed_mcpd.kernel.notify import Listener
from governed_mcpd.nouns.subject import Subject, Tier
from governed_mcpd.policy.load import PolicySet
from governed_mcpd.subjects import manager, rules
from governed_mcpd.subjects.inflight import InFlight
from governed_mcpd.subjects.sandbox import Acting, Sandbox
from governed_mcpd.subjects.underway import SIZE, Underway

PARTS = ("listener", "command", "state", "unanswered")
PROTECTED = "protected"
FORMAT = 3
SLOTS = 8192
_ID = struct.Struct("Q")
_CALLS_AT = SLOTS * _ID.size  # in the same file, after the notifications


class NotTakenOver(Exception):
    """What was kept of a sandbox cannot be used: it is ended. The text says why."""


class Unanswered:
    """Ids of received, unanswered notifications, in memory that outlives the daemon: set at receipt, wiped at reply."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, SLOTS * _ID.size)
        self._free = list(range(SLOTS - 2, -1, -1))
        self._slots: dict[int, int] = {}
        self.single = memoryview(self._memory)[-_ID.size :]  # the last slot: of whoever has one call at a time

    @classmethod
    def make(cls) -> "Unanswered":
        descriptor = os.memfd_create("governed-unanswered", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _CALLS_AT + SIZE)
        return cls(descriptor)

    def received(self, notification: int) -> bool:
        if not self._free:
            return False
        slot = self._free.pop()
        self._slots[notification] = slot
        _ID.pack_into(self._memory, slot * _ID.size, notification)
        return True

    def answered(self, notification: int) -> None:
        slot = self._slots.pop(notification, None)
        if slot is not None:
            _ID.pack_into(self._memory, slot * _ID.size, 0)
            self._free.append(slot)

    def left(self) -> Iterator[int]:
        """What an earlier daemon received and did not answer."""
        for (notification,) in _ID.iter_unpack(self._memory[:]):
            if notification:
                yield notification

    def wipe(self) -> None:
        self._memory[:] = bytes(len(self._memory))


@dataclass(frozen=True, slots=True)
class Kept:
    """The four descriptors of one sandbox, and what was labelled as protected from it."""

    listener: int
    command: int
    state: int
    unanswered: int
    protected: list[int] = field(default_factory=list)  # taken from here by whoever holds them from now on

    def close(self) -> None:
        """Nobody goes on with it."""
        for descriptor in (self.listener, self.command, self.state, self.unanswered, *self.protected):
            os.close(descriptor)


def keep(sandbox: Sandbox) -> None:
    """Gives a sandbox that begins to the service manager, if there is one."""
    if not manager.keeps_descriptors():
        return
    assert sandbox.listener is not None
    sandbox.listener.unanswered = Unanswered.make()
    sandbox.underway = Underway(sandbox.listener.unanswered.descriptor, _CALLS_AT)
    sandbox.main.inflight.server.underway = sandbox.underway  # its gateway comes before it begins
    state = os.memfd_create("governed-sandbox", os.MFD_CLOEXEC)
    sandbox.state_descriptor = state
    describe(sandbox)
    parts = (sandbox.listener.descriptor, sandbox.pidfd, state, sandbox.listener.unanswered.descriptor)
    for part, descriptor in zip(PARTS, parts, strict=True):
        manager.keep(_name(sandbox.id, part), descriptor)


def keep_protected(identity: str, descriptor: int) -> None:
    """Has the service manager hold what is labelled as protected from a sandbox: also while no daemon runs, the kernel
    must not forget an inode that has a label."""
    if manager.keeps_descriptors():
        manager.keep(_name(identity, PROTECTED), descriptor)


def describe(sandbox: Sandbox) -> None:
    """Writes what the next daemon has to know; again whenever a child Subject or a gateway comes or goes."""
    if sandbox.state_descriptor < 0:
        return
    subjects = (sandbox.main, *sandbox.children.values())
    text = json.dumps(
        {
            "format": FORMAT,
            "id": sandbox.id,
            "uid": sandbox.uid,
            "gid": sandbox.gid,
            "scratch": sandbox.scratch,
            "sealed": sandbox.sealed,
            "main": _acting(sandbox.main, subjects),
            "children": [_acting(child, subjects) for child in sandbox.children.values()],
        }
    ).encode("ascii")
    os.pwrite(sandbox.state_descriptor, text, 0)
    os.ftruncate(sandbox.state_descriptor, len(text))


def forget(identity: str) -> None:
    """Has the service manager let go of a sandbox that has ended."""
    if manager.keeps_descriptors():
        for part in (*PARTS, PROTECTED):
            manager.drop(_name(identity, part))


def left() -> dict[str, Kept]:
    """The sandboxes that an earlier daemon kept, by id; those that are not whole are closed and forgotten."""
    found: dict[str, dict[str, int]] = {}
    protected: dict[str, list[int]] = {}
    for name, descriptor in manager.kept():
        prefix, _, rest = name.partition("-")
        identity, _, part = rest.rpartition("-")
        if prefix == "sandbox" and identity and part == PROTECTED:
            protected.setdefault(identity, []).append(descriptor)
        elif prefix == "sandbox" and identity and part in PARTS and part not in found.get(identity, {}):
            found.setdefault(identity, {})[part] = descriptor
        else:
            os.close(descriptor)
    whole: dict[str, Kept] = {}
    for identity in {*found, *protected}:
        parts, held = found.get(identity, {}), protected.get(identity, [])
        if parts.keys() == set(PARTS):
            whole[identity] = Kept(**parts, protected=held)
        else:
            for descriptor in (*parts.values(), *held):
                os.close(descriptor)
            forget(identity)
    return whole


def rebuild(identity: str, kept: Kept, policies: PolicySet, cgroup: Callable[[str], Cgroup]) -> Sandbox:
    """The sandbox as it was, under today's policies; what the dead daemon had not answered is refused. NotTakenOver."""
    try:
        state: dict[str, Any] = json.loads(os.pread(kept.state, os.fstat(kept.state).st_size, 0))
        if state["format"] != FORMAT or state["id"] != identity:
            raise NotTakenOver("it was kept by a daemon of another version")
        main = _rebuilt(state["main"], (), policies, cgroup)
        sandbox = Sandbox(identity, state["uid"], state["gid"], main, state["scratch"], lambda _: None, "")
        sandbox.sealed = bool(state["sealed"])
        for child in state["children"]:
            acting = _rebuilt(child, main.rules, policies, cgroup)
            sandbox.children[acting.subject.sandbox] = acting
        _govern(sandbox, (state["main"], *state["children"]))
    except (KeyError, TypeError, ValueError) as error:
        raise NotTakenOver(f"its description cannot be read: {error!r}") from error
    sandbox.pidfd, sandbox.state_descriptor = kept.command, kept.state
    sandbox.listener = Listener(kept.listener)
    unanswered = Unanswered(kept.unanswered)
    sandbox.underway = Underway(kept.unanswered, _CALLS_AT)
    sandbox.left_underway = tuple(sandbox.underway.left())
    sandbox.underway.wipe()
    for notification in unanswered.left():
        sandbox.listener.refuse(notification, 1)
    unanswered.wipe()
    sandbox.listener.unanswered = unanswered
    return sandbox


def _name(identity: str, part: str) -> str:
    return f"sandbox-{identity}-{part}"


def _govern(sandbox: Sandbox, kept: Sequence[dict[str, Any]]) -> None:
    """A server that had a gateway is a governed one for good, whether the gateway is there or not: what it does is of
    no call, and policy says what happens to that. Its first answer is behind it, as far as anybody knows."""
    subjects = {acting.subject.sandbox: acting for acting in (sandbox.main, *sandbox.children.values())}
    for described in kept:
        acting, owner = subjects[described["sandbox"]], described["governed_as"]
        if owner == acting.subject.sandbox:
            acting.inflight.server.governed = acting.inflight.server.ready = True
        elif owner:
            acting.inflight = InFlight(subjects[owner].inflight.server)


def _acting(acting: Acting, subjects: Sequence[Acting]) -> dict[str, object]:
    subject, server = acting.subject, acting.inflight.server
    # Whose server it is: its own, or that of the Subject above which asked for it.
    owner = next((other.subject.sandbox for other in subjects if other.inflight.server is server), "")
    return {
        "agent": subject.agent,
        "tier": int(subject.tier),
        "sandbox": subject.sandbox,
        "uid": subject.uid,
        "server": subject.server,
        "governed_as": owner if server.governed else "",
        "parent": subject.parent,
        "task": acting.task,
        "launcher": acting.launcher,
        "argv": [os.fsdecode(word) for word in acting.argv],
        "pid": acting.pid,
        "cgroup": acting.cgroup.path,
        "rules": [[own.profile, *own.places.as_tuple(), own.terminal, own.reads_pause] for own in acting.rules],
    }


def _rebuilt(
    kept: dict[str, Any], above: tuple[rules.Rules, ...], policies: PolicySet, cgroup: Callable[[str], Cgroup]
) -> Acting:
    chain = []
    for profile, cwd, home, scratch, terminal, reads_pause in kept["rules"]:
        if profile not in policies.profiles:
            raise NotTakenOver(f"its profile {profile!r} is not in the active policies any more")
        made = rules.make(policies.profiles[profile], rules.Places(cwd, home, scratch), terminal)
        chain.append(made if made.reads_pause == reads_pause else rules.paused(made))
    if len(chain) <= len(above):
        raise NotTakenOver("a child Subject has fewer rules than its parent")
    subject = Subject(
        agent=kept["agent"],
        tier=Tier(kept["tier"]),
        sandbox=kept["sandbox"],
        uid=kept["uid"],
        profile=chain[-1].profile,
        server=kept["server"],
        parent=kept["parent"],
    )
    argv = tuple(os.fsencode(word) for word in kept["argv"])
    acting = Acting(subject, tuple(chain), kept["task"], cgroup(kept["cgroup"]), argv, kept["launcher"])
    acting.pid = kept["pid"]
    return acting
