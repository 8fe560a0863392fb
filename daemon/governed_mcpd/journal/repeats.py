"""Repeated identical refusals become one counted record."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time_ns
from typing import Final

from governed_mcpd.journal.errors import JournalFailed

# What a counted record says about its effects besides the count; the rest is in record first_seq.
_KEPT: Final = ("operation", "object", "layer", "rule", "seal")
_RETRY_SECONDS: Final = 0.5
Append = Callable[[Mapping[str, object]], int]


@dataclass(slots=True)
class _Run:
    """Refusals of one key in one window."""

    sandbox: str
    first_seq: int
    ends: float
    kept: dict[str, object]
    count: int = 0
    since_us: int = 0
    until_us: int = 0


class Repeats:
    """Counts refusals that are the same as one recorded up to `window` seconds before.

    The first of a key is recorded at once. Further ones are counted, and recorded as one `effect.repeated` when the
    window ends, when `most` have come together (so that a killed daemon loses fewer than that), when the sandbox
    ends, and at stop. The number of refusals is always the number of first records plus the sum of `count`.

    `append` may raise JournalFailed: then nothing is forgotten, the counts stay for the next attempt. `refused` (for a
    first record), `end` and `stop` pass it on; `tick` does not. Not thread-safe: the decision thread owns it. `keys`
    bounds the memory: past it the oldest window ends early.
    """

    def __init__(
        self,
        append: Append,
        *,
        window: float = 5.0,
        most: int = 1000,
        keys: int = 4096,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._append = append
        self._window = window
        self._most = most
        self._keys = keys
        self._clock = clock
        self._retry = 0.0
        # In the order of their ends: all windows are equally long.
        self._runs: dict[tuple[str, Hashable], _Run] = {}

    def refused(self, sandbox: str, key: Hashable, record: Callable[[], Mapping[str, object]]) -> tuple[int, bool]:
        """Records or counts one refusal: (sequence number of the first of its kind, whether that was this one).

        `key` is equal for refusals that are the same to a reader. `record` is called only when one has to be written.
        """
        now = self._clock()
        run = self._runs.get((sandbox, key))
        if run is not None and now >= run.ends:
            self._end(sandbox, key, run)
            run = None
        if run is not None:
            run.until_us = time_ns() // 1000
            if not run.count:
                run.since_us = run.until_us
            run.count += 1
            if run.count >= self._most:
                # When it fails: this refusal is counted, and the next attempt writes the greater count.
                with suppress(JournalFailed):
                    self._flush(run)
            return run.first_seq, False
        while len(self._runs) >= self._keys:
            (oldest, oldest_key), oldest_run = next(iter(self._runs.items()))
            self._end(oldest, oldest_key, oldest_run)
        first = record()
        seq = self._append(first)
        kept = {name: first[name] for name in _KEPT if name in first}
        self._runs[sandbox, key] = _Run(sandbox, seq, now + self._window, kept)
        return seq, True

    def due(self) -> float | None:
        """Seconds until `tick` has something to do; None: nothing waits."""
        run = next(iter(self._runs.values()), None)
        return None if run is None else max(0.0, max(run.ends, self._retry) - self._clock())

    def tick(self) -> None:
        """Writes the counts of windows that are over; tries again later when the journal has failed."""
        now = self._clock()
        while self._runs and now >= self._retry:
            (sandbox, key), run = next(iter(self._runs.items()))
            if now < run.ends:
                return
            try:
                self._end(sandbox, key, run)
            except JournalFailed:
                self._retry = now + _RETRY_SECONDS

    def end(self, sandbox: str) -> None:
        """Writes the counts of one sandbox, which is about to end (before its sandbox.end record)."""
        for (owner, key), run in list(self._runs.items()):
            if owner == sandbox:
                self._end(owner, key, run)

    def stop(self) -> None:
        """Writes every count (before the daemon.stop record)."""
        for (sandbox, key), run in list(self._runs.items()):
            self._end(sandbox, key, run)

    def _end(self, sandbox: str, key: Hashable, run: _Run) -> None:
        self._flush(run)
        del self._runs[sandbox, key]

    def _flush(self, run: _Run) -> None:
        if not run.count:
            return
        self._append(
            {
                "kind": "effect.repeated",
                "sandbox": run.sandbox,
                "first_seq": run.first_seq,
                "count": run.count,
                "since_us": run.since_us,
                "until_us": run.until_us,
                **run.kept,
            }
        )
        run.count = 0
