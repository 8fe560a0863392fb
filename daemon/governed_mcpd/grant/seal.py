"""The Seal: what the daemon calls after an approval and before it lets the held call go on.

With it an effect happens only against a Grant for the object that the kernel itself resolved; see docs/seal.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from governed_mcpd.nouns.action import SideEffect


class SealFailed(Exception):
    """What was asked of the seal could not be done: no effect, no sandbox."""


class GrantFailed(SealFailed):
    """The permission could not be written: the effect is refused."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kernel object, by descriptors that the daemon holds while it matters (O_PATH; -1: none).

    `object` is the object itself, -1 when nothing stands there yet. `parent` and `name` are the directory entry, where
    the operation is one on the entry (create, unlink, rename, …).
    """

    object: int = -1
    parent: int = -1
    name: bytes = b""


@dataclass(slots=True)  # not frozen: there is one for every effect, and a frozen one takes twice as long to make
class Grant:
    """The one-shot permission for one thread to have one effect, until `expires` (monotonic seconds).

    `targets`: the file objects in the order of the operation: one; source and destination of rename and link; the
    program and then its interpreters of exec. Operations on addresses have them in `effect.object`.
    `argv` and `environment` are the exact bytes of an exec, as the kernel will put them on the new stack.
    """

    sandbox: str
    thread: int
    effect: SideEffect
    expires: float
    targets: tuple[Target, ...] = ()
    argv: tuple[bytes, ...] = ()
    environment: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class SealEvent:
    """What the kernel refused because no grant matched, or what it tells besides. `dropped` events before this one were
    lost to the rate limit."""

    sandbox: str
    thread: int
    operation: str  # an Operation's value, or the name of the hook where no operation fits
    object: str  # what the kernel itself resolved, as far as it can be said
    reason: str
    dropped: int


class Seal(Protocol):
    """Writes grants for the kernel. `name` goes into every record: `lsm`, or `none`."""

    name: str
    reason: str

    def adopt(self, sandbox: str, pid: int, pidfd: int, *, reads: bool = False) -> None:
        """Marks a process, which has one thread and is about to become a sandbox; its children inherit the mark.

        With `reads`, every open for reading needs a Grant from its first granted exec on. SealFailed.
        """

    def protect(self, sandbox: str, descriptors: Iterable[int]) -> None:
        """Labels objects (O_PATH): this sandbox may open, read or run neither them nor anything beneath them without a
        Grant. SealFailed."""

    def grant(self, grant: Grant) -> None:
        """Makes the effect possible, once. GrantFailed when it cannot be written."""

    def release(self, sandbox: str) -> None:
        """Forgets a sandbox that has ended: nothing of it runs any more."""

    def events(self) -> int:
        """A descriptor that is readable when `take_events` has something; -1: never."""

    def take_events(self) -> list[SealEvent]:
        """What the kernel refused since the last call; never waits."""


class NoSeal:
    """No BPF LSM enforces here: CONTINUE lets the kernel read the arguments again, and a thread that rewrites them in
    time can switch the object, within the Envelope (seccomp_unotify(2), NOTES). It says so in every record."""

    name = "none"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def adopt(self, sandbox: str, pid: int, pidfd: int, *, reads: bool = False) -> None:
        """No mark; the sandbox is its cgroup and its filter."""

    def protect(self, sandbox: str, descriptors: Iterable[int]) -> None:
        """Nothing to label: the Envelope leaves out what is protected."""

    def grant(self, grant: Grant) -> None:
        """Nothing to write; the record of the effect carries `seal: none`."""

    def release(self, sandbox: str) -> None:
        """Nothing was kept."""

    def events(self) -> int:
        """No events."""
        return -1

    def take_events(self) -> list[SealEvent]:
        """No events."""
        return []
