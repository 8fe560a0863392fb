"""What a sandbox may not read although it lies where it may write: labels on inodes, which the seal refuses.

Landlock can keep away what stands in a directory that is only read. Where the sandbox may write, only the seal can. An
inode has the label, not a name: so a file that a program outside replaces, a directory that it makes later, and what it
mounts there, get one as soon as they are there. In between, for about a millisecond, what came new could be read.
"""

import logging
import os
import select
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from governed_mcpd.grant import labels
from governed_mcpd.grant.seal import Seal, SealFailed
from governed_mcpd.kernel import calls, inotify
from governed_mcpd.subjects import keep
from governed_mcpd.subjects.rules import Rules, Tree
from governed_mcpd.subjects.sandbox import Sandbox

log = logging.getLogger(__name__)
END_SECONDS = 1.0
_PATH = os.O_PATH | os.O_CLOEXEC


@dataclass(slots=True)
class Guard:
    """What is labelled for one sandbox. `held` are descriptors on it by (device, inode): the kernel forgets a label
    together with an inode that nobody holds."""

    sandbox: str
    root: int  # where its names begin
    paths: tuple[str, ...]
    held: dict[tuple[int, int], int] = field(default_factory=dict)
    watches: set[tuple[int, bytes]] = field(default_factory=set)  # names that matter, and the watch that they are under
    mounted: frozenset[str] = frozenset()  # mount points beneath the paths: a label does not reach through a mount
    lock: threading.Lock = field(default_factory=threading.Lock)
    due: bool = False  # a thread is about to look again
    over: bool = False

    def close(self) -> None:
        """Lets go of everything; again does nothing."""
        if self.root >= 0:
            os.close(self.root)
            self.root = -1
        while self.held:
            os.close(self.held.popitem()[1])


class Protection:
    """The guards of all sandboxes, and who watches the directories that their paths lie in."""

    def __init__(self, seal: Seal, secret: Iterable[str]) -> None:
        """`secret` are the daemon's own directories. `failed`, once somebody has set it, is told which sandbox can read
        what it must not, and why."""
        self._seal = seal
        self._secret = tuple(secret)
        self._guards: dict[str, Guard] = {}
        self.failed: Callable[[str, str], None] = lambda sandbox, why: None
        self._lock = threading.Lock()
        self._watches: inotify.Watches | None = None
        self._adding = 0  # threads that are adding watches: they may get the number of one that is there already
        self._unused: set[int] = set()

    def begin(self, sandbox: Sandbox, root: int | None, left: list[int]) -> None:
        """Labels everything; before the sandbox runs. `root` is its root directory (None: the daemon's own), `left` are
        descriptors that an earlier daemon held, which are taken from there. SealFailed, OSError."""
        begin = os.open("/", _PATH) if root is None else os.dup(root)
        guard = Guard(sandbox.id, begin, self._paths(sandbox.main.rules))
        with self._lock:
            if self._watches is None:
                self._watches = inotify.Watches()
                threading.Thread(target=self._watch, args=(self._watches,), name="protection", daemon=True).start()
            self._guards[sandbox.id] = guard
        with guard.lock:
            while left:
                self._take(guard, left.pop())
        self._look(guard)

    def renew(self, sandbox: Sandbox) -> None:
        """Labels what new rules protect besides. What they protect no longer keeps its label while the sandbox lives.
        SealFailed."""
        guard = self._guards.get(sandbox.id)
        if guard is None:
            return
        guard.paths = tuple(dict.fromkeys((*guard.paths, *self._paths(sandbox.main.rules))))
        self._look(guard)

    def end(self, identity: str) -> None:
        """Nothing of the sandbox runs any more."""
        with self._lock:
            guard = self._guards.pop(identity, None)
            if guard is None:
                return
            guard.over = True
            self._unused |= {watch for watch, _ in guard.watches}
            self._remove_unused()
        # Somebody may look for it, and wait for a file system: then it is theirs to close.
        if guard.lock.acquire(timeout=END_SECONDS):
            try:
                guard.close()
            finally:
                guard.lock.release()

    def _paths(self, chain: Iterable[Rules]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._secret, *(path for rules in chain for path in rules.protected.paths))))

    def _look(self, guard: Guard) -> None:
        """Labels what stands at the guard's paths now, and watches where it could come to stand."""
        with guard.lock:
            guard.due = False
            try:
                if not guard.over:
                    self._label(guard)
            finally:
                if guard.over:
                    guard.close()

    def _label(self, guard: Guard) -> None:
        for key in [key for key, opened in guard.held.items() if os.fstat(opened).st_nlink == 0]:
            os.close(guard.held.pop(key))
        self._watch_above(guard)
        guard.mounted = _mounted_beneath(guard.paths)
        for path in (*guard.paths, *guard.mounted):
            try:
                opened = _open(guard.root, path)
            except OSError:
                continue  # nothing stands there that could be read
            if guard.over:
                os.close(opened)
                return
            self._take(guard, opened)

    def _take(self, guard: Guard, opened: int) -> None:
        """Labels an object, unless it is labelled, and holds it."""
        status = os.fstat(opened)
        key = (status.st_dev, status.st_ino)
        if key in guard.held:
            os.close(opened)
            return
        try:
            self._seal.protect(guard.sandbox, [opened])
        except SealFailed:
            os.close(opened)
            raise
        guard.held[key] = opened
        keep.keep_protected(guard.sandbox, opened)

    def _watch_above(self, guard: Guard) -> None:
        """Watches every directory above, for the names that lead to what is protected: one of them may be replaced, or
        come to be only now."""
        names: dict[str, set[bytes]] = {}
        for path in guard.paths:
            above, name = os.path.split(path)
            while name:
                names.setdefault(above, set()).add(os.fsencode(name))
                above, name = os.path.split(above)
        found: set[tuple[int, bytes]] = set()
        with self._lock:
            self._adding += 1
        try:
            for directory, expected in names.items():
                watch = self._watched(guard, directory)
                if watch is not None:
                    found |= {(watch, name) for name in expected}
        finally:
            with self._lock:
                self._adding -= 1
                self._unused |= {watch for watch, _ in guard.watches - found}
                guard.watches = found
                self._remove_unused()

    def _watched(self, guard: Guard, directory: str) -> int | None:
        """The number of the watch on a directory; None where there is none, which will come to be in another one."""
        assert self._watches is not None
        try:
            opened = _open(guard.root, directory)
        except OSError:
            return None
        try:
            return self._watches.add(opened)
        except NotADirectoryError:
            return None
        except OSError as error:
            # The labels on what is there hold; what comes later would have none.
            reason = f"{directory} cannot be watched for what is protected in it: {error.strerror}"
            raise SealFailed(reason) from error
        finally:
            os.close(opened)

    def _remove_unused(self) -> None:
        """Under the lock. While somebody adds watches nobody can tell which ones they will get."""
        if self._adding or self._watches is None:
            return
        used = {watch for guard in self._guards.values() for watch, _ in guard.watches}
        for watch in self._unused - used:
            self._watches.remove(watch)
        self._unused.clear()

    # ---- what comes later

    def _watch(self, watches: inotify.Watches) -> None:
        poll = select.poll()
        poll.register(watches, select.POLLIN)
        mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        poll.register(mounts, select.POLLPRI)  # proc(5): a change of what is mounted
        while True:
            remounted = any(descriptor == mounts for descriptor, _ in poll.poll())
            came = watches.take()
            with self._lock:
                guards = [
                    guard
                    for guard in self._guards.values()
                    if came is None
                    or guard.watches & came
                    or (remounted and not _mounted_beneath(guard.paths) <= guard.mounted)
                ]
            for guard in guards:
                if not guard.due:
                    guard.due = True
                    # A thread of its own: a file system may never answer, and the others do not wait for that.
                    threading.Thread(target=self._look_again, args=(guard,), name="protection", daemon=True).start()

    def _look_again(self, guard: Guard) -> None:
        try:
            self._look(guard)
        except (SealFailed, OSError) as failure:
            log.error("sandbox %s: what is protected from it may be readable: %s", guard.sandbox, failure)
            self.failed(guard.sandbox, str(failure))


def _mounted_beneath(paths: tuple[str, ...]) -> frozenset[str]:
    protected = Tree(paths)
    return frozenset(point for point, _, _ in labels.mounts() if protected.covers(point))


def _open(root: int, path: str) -> int:
    return calls.openat2(root, os.fsencode(path), _PATH, calls.RESOLVE_IN_ROOT | calls.RESOLVE_NO_MAGICLINKS)
