"""Layer 5: P(dangerous) from a probe's two logits, against the thresholds of the Gate document."""

from governed_mcpd.gate.layers.finding import Finding
from governed_mcpd.gate.probe.logits import Calibration, Probe, ProbeError
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import Action, ToolCall
from governed_mcpd.nouns.operation import FILE_CHANGES, NETWORK, Operation
from governed_mcpd.policy.documents import Gate, OperationClass

# An approval within this distance of a threshold holds for one action only.
_CLOSE = 0.2


class ProbeLayer:
    """Deny at the upper threshold, ask (or flag, by policy) at the lower one."""

    name = "probe"

    def __init__(self, probe: Probe, bias: float, gate: Gate) -> None:
        """`bias`: that of `probe`, where its logits do not bring their own."""
        self._probe = probe
        self._bias = bias
        self._alpha = gate.alpha_thousandths / 1000
        self._thresholds = gate.thresholds
        self._class_thresholds = gate.class_thresholds
        self._flags = gate.uncertain == "flag"

    @property
    def probe(self) -> Probe:
        """The backend that this layer asks."""
        return self._probe

    def check(self, reading: Reading) -> Finding:
        """Layer 5 on one action."""
        try:
            logits = self._probe.probe(reading)
            bias = self._bias if logits.bias is None else logits.bias
            dangerous = Calibration(bias, self._alpha).dangerous(logits)
        except ProbeError as error:
            return Finding("deny", "probe-error", str(error), model=self._probe.model)
        model = self._probe.model
        ppm = round(dangerous * 1_000_000)
        because = ", ".join(logits.because[:4]) or "nothing in particular"
        reason = f"P(dangerous) {dangerous:.2f}: {because}"
        thresholds = self._class_thresholds.get(operation_class(reading.action), self._thresholds)
        ask = thresholds.ask / 1000
        if dangerous >= thresholds.deny / 1000:
            return Finding("deny", "probe-deny", reason, ppm, model)
        if dangerous >= ask:
            if self._flags:
                return Finding("pass", "probe-flag", reason, ppm, model, close=True)
            return Finding("ask", "probe-ask", reason, ppm, model)
        return Finding("pass", "", reason, ppm, model, close=logits.partial or dangerous >= ask - _CLOSE)


def operation_class(action: Action) -> OperationClass:
    """Which class of operations, as the Gate document and the constitution name them, an action belongs to."""
    if isinstance(action.what, ToolCall):
        return "tool.call"
    operation = action.what.operation
    if operation in NETWORK:
        return "net"
    if operation in FILE_CHANGES:
        return "file.change"
    return "file.read" if operation is Operation.FILE_READ else "process"
