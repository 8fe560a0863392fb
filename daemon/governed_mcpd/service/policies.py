"""The active policy set: where it comes from, how another one takes its place, and how to go back."""

import logging
import threading
from collections.abc import Callable, Mapping

from governed_mcpd.policy import difference
from governed_mcpd.policy.load import PolicySet, load_directory, parse
from governed_mcpd.policy.store import PolicyStore, StoreError
from governed_mcpd.supervisor.gate import Gate, GateRefused

log = logging.getLogger(__name__)


class NothingBefore(Exception):
    """There is no earlier policy set to go back to."""


class Policies:
    """One writer at a time; readers take `active`, which is replaced whole."""

    def __init__(self, state_dir: str, policy_dir: str, gate: Gate) -> None:
        """Takes up what was applied last, or else the policy directory. Raises PolicyError, or the store's error."""
        self._store = PolicyStore(state_dir)
        self._gate = gate
        self._lock = threading.Lock()
        applied = self._store.active()
        self.active: PolicySet = parse(applied) if applied is not None else load_directory(policy_dir)
        self.on_change: Callable[[PolicySet, PolicySet, int, list[str]], None]
        self._tell_gate()

    def apply(self, files: dict[str, bytes], uid: int) -> tuple[PolicySet, PolicySet]:
        """Validates all (the gate the constitution), activates all: (new, old). PolicyError, GateRefused: nothing
        changed."""
        with self._lock:
            return self._replace(parse(files), uid)

    def rollback(self, uid: int) -> tuple[PolicySet, PolicySet]:
        """Goes back to the set before this one; NothingBefore."""
        with self._lock:
            files = self._store.previous()
            if files is None:
                raise NothingBefore("no policy set was applied before this one")
            return self._replace(parse(files), uid)

    def _replace(self, new: PolicySet, uid: int) -> tuple[PolicySet, PolicySet]:
        old, before = self.active, self._store.pointers()
        self._gate.activate(dict(new.files), new.version)
        try:
            if self._store.active_version() is None:
                self._store.activate(old)  # the directory's: rollback goes back to it
            self._store.activate(new)
            self.on_change(new, old, uid, difference.widens(old, new))
        except Exception:
            self._undo(old, before)
            raise
        self.active = new
        self._tell_gate()
        return new, old

    def _undo(self, old: PolicySet, before: Mapping[str, str | None]) -> None:
        """What could not be recorded does not come into force, not even at the next start."""
        try:
            self._store.restore(before)
            self._gate.activate(dict(old.files), old.version)
        except (StoreError, GateRefused) as error:
            log.error("policy %s stays in force, but it could not be put back: %s", old.version[:12], error)

    def _tell_gate(self) -> None:
        self._gate.use(dict(self.active.files), self.active.version, float(self.active.gate.gate_seconds))
