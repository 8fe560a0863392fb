"""Layer 5: P(dangerous) from a probe's two logits, against the thresholds of the Gate document."""

from governed_mcpd.gate.layers.finding import Finding
from governed_mcpd.gate.probe.logits import Calibration, Probe, ProbeError
from governed_mcpd.gate.reading import Reading
from governed_mcpd.policy.documents import Gate

# An approval within this distance of a threshold holds for one action only.
_CLOSE = 0.2


class ProbeLayer:
    """Deny at the upper threshold, ask (or flag, by policy) at the lower one."""

    name = "probe"

    def __init__(self, probe: Probe, bias: float, gate: Gate) -> None:
        self._probe = probe
        self._calibration = Calibration(bias, gate.alpha_thousandths / 1000)
        self._ask = gate.thresholds.ask / 1000
        self._deny = gate.thresholds.deny / 1000
        self._flags = gate.uncertain == "flag"

    def check(self, reading: Reading) -> Finding:
        """Layer 5 on one action."""
        model = self._probe.model
        try:
            logits = self._probe.probe(reading)
            dangerous = self._calibration.dangerous(logits)
        except ProbeError as error:
            return Finding("deny", "probe-error", str(error), model=model)
        ppm = round(dangerous * 1_000_000)
        because = ", ".join(logits.because[:3]) or "nothing in particular"
        reason = f"P(dangerous) {dangerous:.2f}: {because}"
        if dangerous >= self._deny:
            return Finding("deny", "probe-deny", reason, ppm, model)
        if dangerous >= self._ask:
            if self._flags:
                return Finding("pass", "probe-flag", reason, ppm, model, close=True)
            return Finding("ask", "probe-ask", reason, ppm, model)
        return Finding("pass", "", reason, ppm, model, close=dangerous >= self._ask - _CLOSE)
