"""What the seal refused: from the kernel to the journal, to the launcher, and into the counts that `status` shows.

Belongs to the leader (supervisor/lanes). An event says that something was tried for which there was no grant: an
argument was switched after it was judged, or the pause table has a hole. A sandbox can cause as many as it likes: each
has a share of records, and what goes beyond is counted.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from governed_mcpd.grant.seal import Seal, SealEvent
from governed_mcpd.journal.errors import JournalFailed
from governed_mcpd.nouns.verdict import deny
from governed_mcpd.subjects.sandbox import Sandbox
from governed_mcpd.supervisor import notices
from governed_mcpd.supervisor.records import Recorder

log = logging.getLogger(__name__)
SEAL = "seal"  # the layer of what the kernel refused
UNGRANTED = "ungranted"
BURST = 100
PER_SECOND = 10.0
_MOST_SHARES = 4096


@dataclass(slots=True)
class _Share:
    """How many records a sandbox may still cause, and the last event that had none."""

    tokens: float = BURST
    at: float = field(default_factory=time.monotonic)
    dropped: int = 0
    last: SealEvent | None = None

    def take(self) -> bool:
        now = time.monotonic()
        self.tokens = min(BURST, self.tokens + (now - self.at) * PER_SECOND)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class SealEvents:
    """`find` knows the sandboxes by id. An event of one that it does not know is recorded as well: somebody bears a
    mark and is supervised by nobody."""

    def __init__(self, seal: Seal, recorder: Recorder, find: Callable[[str], Sandbox | None]) -> None:
        self._seal = seal
        self._recorder = recorder
        self._find = find
        self._shares: dict[str, _Share] = {}
        self._expected: dict[str, list[SealEvent]] = {}
        self.seen = 0
        self.dropped = 0

    def take(self) -> None:
        """Takes what the kernel has to say."""
        for event in self._seal.take_events():
            expected = self._expected.get(event.sandbox)
            if expected is not None:
                expected.append(event)
                continue
            self.seen += 1 + event.dropped
            self.dropped += event.dropped
            self._one(event)

    def expect(self, identity: str) -> None:
        """Keeps the events of a trial (service/trial) apart: nobody has tried anything there."""
        self._expected[identity] = []

    def heard(self, identity: str) -> int:
        """How many events of the trial have come."""
        return len(self._expected[identity])

    def expect_no_more(self, identity: str) -> None:
        """The trial is over."""
        self._expected.pop(identity, None)

    def tick(self) -> None:
        """Records how many were dropped, of sandboxes that nothing came from since."""
        for share in self._shares.values():
            if share.last is not None and share.take():
                last, share.last = share.last, None
                self._record(last, None, share)

    def forget(self, identity: str) -> None:
        """The sandbox has ended: what was dropped is recorded now. Of the kernel as well, which told nobody when the
        sandbox was released that something had been left over."""
        self.take()
        self._close(identity)

    def _close(self, identity: str) -> None:
        share = self._shares.pop(identity, None)
        if share is not None and share.last is not None:
            self._record(share.last, None, share)

    def _one(self, event: SealEvent) -> None:
        sandbox = self._find(event.sandbox)
        if sandbox is not None:
            sandbox.events += 1
        share = self._share(event.sandbox)
        share.dropped += event.dropped
        if not share.take():
            if share.last is not None:
                share.dropped += 1
                self.dropped += 1
            share.last = event
            return
        self._record(event, sandbox, share)

    def _record(self, event: SealEvent, sandbox: Sandbox | None, share: _Share) -> None:
        dropped, share.dropped = share.dropped, 0
        sequence = 0
        try:
            sequence = self._recorder.seal_event(replace(event, dropped=dropped), self._seal.name)
        except JournalFailed:
            self._recorder.unrecorded += 1
        log.warning(
            "sandbox %s, thread %d: the kernel refused %s %r: %s",
            event.sandbox, event.thread, event.operation, event.object, event.reason,
        )  # fmt: skip
        if sandbox is not None:
            verdict = deny(SEAL, UNGRANTED, event.reason, "")
            notices.refused(sandbox, event.operation, event.object, verdict, sequence)

    def _share(self, identity: str) -> _Share:
        share = self._shares.get(identity)
        if share is None:
            if len(self._shares) >= _MOST_SHARES:
                self._close(next(iter(self._shares)))
            share = self._shares[identity] = _Share()
        return share
