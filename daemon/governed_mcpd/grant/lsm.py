"""The Seal that BPF LSM programs enforce: see docs/seal.md."""

import contextlib
import errno
import os
import secrets
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from governed_mcpd.grant import layout, pins
from governed_mcpd.grant.labels import Objects, mounts
from governed_mcpd.grant.seal import Grant, GrantFailed, SealEvent, SealFailed
from governed_mcpd.kernel import bpf

_ZERO = b"\0\0\0\0"
_GRANTS_MOST = 4096  # threads; the map has room for twice as many
_CHUNKS_MOST = 3072
_TRIES = 100  # of a millisecond: adopting waits for the end of an exec


class LsmSeal:
    """Loads the seal, or takes up the pinned one. SealFailed says what to do.

    It belongs to the process that makes it (the guards know it by that), and to one daemon at a time.
    """

    name = "lsm"
    reason = ""

    def __init__(self, object_path: Path | None = None, pins_at: str = pins.PINS) -> None:
        path = object_path or pins.OBJECT
        if not pins.has_bpf_filesystem(pins_at):
            raise SealFailed(f"no bpf filesystem above {pins_at}: mount -t bpf bpf /sys/fs/bpf")
        self.pins = pins_at
        self._lock = threading.Lock()
        self._grants: OrderedDict[int, int] = OrderedDict()  # thread → chunks of its text
        self._chunks = 0
        self._late: list[SealEvent] = []
        self.taken_up = os.path.isdir(pins_at)
        if self.taken_up and not pins.is_current(path, pins_at):
            # An upgrade: the new programs if nobody runs under the old ones; otherwise these stay until then.
            with contextlib.suppress(SealFailed):
                pins.unload(pins_at)
                self.taken_up = False
        self._maps = pins.take_up(path, pins_at) if self.taken_up else pins.load(path, pins_at)
        try:
            self._claim()
            self._objects = Objects(self._maps["objects"], self._maps["labels"])
            self._numbers = {
                self._id_of(key): int.from_bytes(key, "little") for key in self._maps["sandboxes"].all_keys()
            }
            self._ring = bpf.Ring(self._maps["events"])
            self._forget_the_dead()
        except OSError as failure:
            raise SealFailed(f"the seal's maps cannot be used: {failure}") from failure

    def close(self) -> None:
        """Lets go of the maps. Programs and marks stay in the kernel."""
        self._ring.close()
        for one in self._maps.values():
            one.close()

    # ---- the protocol

    def adopt(self, sandbox: str, pid: int, pidfd: int, *, reads: bool = False) -> None:
        """Marks a process, which has one thread and is about to become a sandbox; its children inherit the mark. With
        `reads`, every opening for reading needs a grant from its first program on. SealFailed."""
        number = self._numbers.get(sandbox)
        try:
            if number is None:
                number = secrets.randbits(63) | 1
                described = layout.Sandbox(flags=layout.SANDBOX_READS if reads else 0)
                layout.put(described.id, os.fsencode(sandbox))
                self._maps["sandboxes"].update(_key(number), bytes(described), bpf.NOEXIST)
                self._numbers[sandbox] = number
            self._request(layout.REQUEST_ADOPT, pid, pidfd, number)
        except (OSError, GrantFailed) as failure:
            raise SealFailed(f"sandbox {sandbox}: process {pid} cannot be marked: {failure}") from failure

    def protect(self, sandbox: str, descriptors: Iterable[int]) -> None:
        """Labels objects (O_PATH): this sandbox needs a grant to open them, or what is beneath them, for reading too.

        What is mounted beneath a directory is not beneath it here: that root has to be among them
        (labels.mounted_beneath).
        The caller holds the descriptors: an object that leaves memory loses its label. SealFailed.
        """
        number = self._number(sandbox)
        try:
            for descriptor in descriptors:
                self._objects.protect(number, descriptor)
        except OSError as failure:
            raise SealFailed(f"sandbox {sandbox}: an object cannot be protected: {failure}") from failure

    def grant(self, grant: Grant) -> None:
        """Makes the effect possible, once. GrantFailed when it cannot be written."""
        try:
            number = self._number(grant.sandbox)
        except SealFailed as failure:
            raise GrantFailed(str(failure)) from failure
        value = layout.pack(grant, number, [self._objects.ids(target) for target in grant.targets])
        pieces = layout.chunks(layout.text(grant))
        with self._lock:
            try:
                self._make_room(grant.thread, len(pieces))
                for index, piece in enumerate(pieces):
                    self._maps["texts"].update(bytes(layout.TextKey(grant.thread, index)), piece)
                self._maps["grants"].update(grant.thread.to_bytes(4, "little"), bytes(value))
            except OSError as failure:
                raise GrantFailed(f"the grant cannot be written: {failure}") from failure

    def release(self, sandbox: str) -> None:
        """Forgets a sandbox that has ended: nothing of it runs any more."""
        number = self._numbers.pop(sandbox, None)
        if number is None:
            return
        # What cannot be removed stays in a map, and means nothing: numbers are not used twice.
        with contextlib.suppress(OSError):
            self._objects.forget(number)
        with contextlib.suppress(OSError):
            raw = self._maps["sandboxes"].lookup(_key(number))
            self._maps["sandboxes"].delete(_key(number))
            dropped = layout.Sandbox.from_buffer_copy(raw).dropped if raw is not None else 0
            if dropped:
                # It stands for one of them itself, as every event does.
                self._late.append(SealEvent(sandbox, 0, "", "", "refused, and not told one by one", dropped - 1))

    def events(self) -> int:
        """A descriptor that is readable when `take_events` has something."""
        return self._ring.descriptor

    def take_events(self) -> list[SealEvent]:
        """What the kernel refused since the last call; never waits."""
        late, self._late = self._late, []
        found = [layout.Event.from_buffer_copy(record) for record in self._ring.take()]
        if not found:
            return late
        names = {number: name for name, number in self._numbers.items()}
        where = mounts() if any(event.kind == layout.EVENT_PATH for event in found) else []
        return late + [
            SealEvent(
                names.get(event.sandbox, ""),
                event.thread,
                layout.word(event.operation),
                _object(event, where),
                layout.REASONS[event.reason] if event.reason < len(layout.REASONS) else "refused",
                event.dropped,
            )
            for event in found
        ]

    # ---- what the daemon asks besides

    def sandboxes(self) -> list[str]:
        """The sandboxes that the kernel knows, also those of a daemon before."""
        return list(self._numbers)

    def tasks(self) -> int:
        """How many sandboxed tasks there are."""
        return sum(1 for _ in self._maps["marked"].all_keys())

    # ---- inside

    def _number(self, sandbox: str) -> int:
        number = self._numbers.get(sandbox)
        if number is None:
            raise SealFailed(f"sandbox {sandbox} was never adopted")
        return number

    def _forget_the_dead(self) -> None:
        """A daemon before may have died between the end of a sandbox and its release."""
        marked = self._maps["marked"]
        living = {int.from_bytes(marked.lookup(key) or b"", "little") for key in list(marked.all_keys())}
        for sandbox, number in list(self._numbers.items()):
            if number not in living:
                self.release(sandbox)

    def _id_of(self, key: bytes) -> str:
        raw = self._maps["sandboxes"].lookup(key)
        return "" if raw is None else os.fsdecode(bytes(layout.Sandbox.from_buffer_copy(raw).id).rstrip(b"\0"))

    def _claim(self) -> None:
        """Tells the guards that this process is the daemon."""
        pid = os.getpid()
        try:
            pidfd = os.pidfd_open(pid)
            try:
                self._request(layout.REQUEST_CLAIM, pid, pidfd, 0)
            finally:
                os.close(pidfd)
        except OSError as failure:
            why = "another governed-mcpd keeps it" if failure.errno == errno.EBUSY else str(failure)
            raise SealFailed(f"the seal cannot be claimed: {why}") from failure

    def _request(self, kind: int, pid: int, pidfd: int, sandbox: int) -> None:
        """Writes a request and sends signal 0: the program that sees signals carries it out on who gets it. OSError."""
        asked = layout.Request(kind=kind, by=os.getpid(), process=pid, sandbox=sandbox)
        for _ in range(_TRIES):
            self._maps["request"].update(_ZERO, bytes(asked))
            try:
                signal.pidfd_send_signal(pidfd, 0)
                answer = self._maps["request"].lookup(_ZERO)
            finally:
                self._maps["request"].update(_ZERO, bytes(layout.Request()))
            assert answer is not None  # an array has all its elements
            result = layout.Request.from_buffer_copy(answer).result
            if result == 1:
                return
            if result != -errno.EAGAIN:
                break
            time.sleep(0.001)
        if result == 0:
            raise OSError(
                errno.ESRCH, "the seal's program did not see it: the daemon has to run in the first pid namespace"
            )
        if result == -errno.EBUSY and kind == layout.REQUEST_ADOPT:
            raise OSError(errno.EBUSY, "it has more than one thread")
        raise OSError(-result, os.strerror(-result))

    def _make_room(self, thread: int, chunks: int) -> None:
        """Forgets the oldest grants: their threads are gone, or had theirs long ago."""
        self._chunks += chunks - self._grants.pop(thread, 0)
        self._grants[thread] = chunks
        while len(self._grants) > _GRANTS_MOST or (self._chunks > _CHUNKS_MOST and len(self._grants) > 1):
            oldest, count = self._grants.popitem(last=False)
            self._chunks -= count
            self._maps["grants"].delete(oldest.to_bytes(4, "little"))
            for index in range(count):
                self._maps["texts"].delete(bytes(layout.TextKey(oldest, index)))


def _key(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _object(event: layout.Event, where: list[tuple[str, int, str]]) -> str:
    if event.kind == layout.EVENT_ADDRESS:
        return layout.shown(event.address)
    if event.kind == layout.EVENT_PROCESS:
        return f"process:{event.process}"
    if event.kind != layout.EVENT_PATH:
        return ""
    names = bytes(event.path[: event.path_bytes]).split(b"\0")[:-1]
    inside = os.fsdecode(b"/" + b"/".join(reversed(names)))
    if event.cut:
        return "…" + inside
    # A tree may be mounted at several places: the one that shows most of it, and of these the first, gives the name.
    best: tuple[int, str] | None = None
    for point, device, root in where:
        rest = inside if root == "/" else inside.removeprefix(root) if (inside + "/").startswith(root + "/") else None
        if device == event.device and rest is not None and (best is None or len(root) <= best[0]):
            best = len(root), (point.rstrip("/") + rest).rstrip("/") or "/"
    return best[1] if best else f"device:{event.device >> 20}:{event.device & 0xFFFFF}:{inside}"
