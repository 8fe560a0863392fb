"""The model servers of the gate's policy sets: one probe for each way to ask one, with what it has measured."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from governed_mcpd.policy.documents import VllmServer

if TYPE_CHECKING:
    from governed_mcpd.gate.probe.vllm.backend import VllmProbe
    from governed_mcpd.gate.probe.vllm.measure import Memory


class Servers:
    """Keeps the probe of the active set, and beyond a change of sets what was measured of models."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory: Memory | None = None
        self._probe: VllmProbe | None = None
        self._of: tuple[VllmServer, tuple[str, ...]] | None = None
        self.changed: Callable[[], None] | None = None

    def probe(self, settings: VllmServer, principles: tuple[str, ...]) -> "VllmProbe":
        """The probe for these settings under these sentences of a constitution; one that is new begins to measure."""
        # An HTTP client that only gates with a model server need.
        from governed_mcpd.gate.probe.vllm.backend import VllmProbe  # noqa: PLC0415 - only for a document that names a server
        from governed_mcpd.gate.probe.vllm.measure import Memory  # noqa: PLC0415 - as above

        with self._lock:
            if self._probe is None or self._of != (settings, principles):
                if self._probe is not None:
                    self._probe.close()
                self._memory = self._memory or Memory()
                self._probe = VllmProbe(settings, principles, self._memory, self._tell)
                self._of = (settings, principles)
                self._probe.prepare()
            return self._probe

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed()
