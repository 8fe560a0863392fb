"""Layer 4: patterns over every decoded string, and where the action's values come from."""

from governed_mcpd.gate.layers import names
from governed_mcpd.gate.layers.finding import Finding
from governed_mcpd.gate.reading import Reading
from governed_mcpd.gate.text.decode import DecodeBound
from governed_mcpd.gate.text.provenance import ContextBound, Traced


class PrefilterLayer:
    """A deny of a pattern wins over one of provenance, and that over every ask."""

    name = "prefilter"

    def check(self, reading: Reading) -> Finding:
        """Layer 4 on one action."""
        try:
            suspicions = reading.suspicions
            provenance = reading.provenance
        except DecodeBound as error:
            return Finding("deny", "decode-bound", f"a string {error}: it cannot be looked through")
        except ContextBound as error:
            return Finding("deny", "context-bound", f"{error}: where values come from cannot be told")
        name = names.check(reading)
        if name.result == "deny":
            return name
        for suspicion in suspicions:
            if suspicion.effect == "deny":
                return Finding("deny", suspicion.id, f"{suspicion.category}: {suspicion.reason}")
        instructed = provenance.from_instruction()
        if instructed and not provenance.delegates and reading.has_effect:
            reason = f"{_name(instructed)} stands only in an order that untrusted content gives"
            return Finding("deny", "instructed-by-untrusted-content", reason)
        for suspicion in suspicions:
            if suspicion.effect == "ask":
                return Finding("ask", suspicion.id, f"{suspicion.category}: {suspicion.reason}")
        if instructed and not reading.has_effect and not provenance.delegates:
            reason = f"it only reads, but {_name(instructed)} stands only in an order that untrusted content gives"
            return Finding("ask", "reading-instructed-by-untrusted-content", reason)
        if instructed:
            reason = f"the task hands over to content, and {_name(instructed)} stands only in what that content orders"
            return Finding("ask", "instructed-by-delegated-content", reason)
        if not provenance.delegates and (spoken := provenance.from_spoken()):
            reason = f"{_name(spoken)} stands only where untrusted content speaks of what the task does not ask for"
            return Finding("ask", "unasked-effect-from-untrusted-content", reason)
        if reading.has_effect and (planted := provenance.destinations_from_data()):
            reason = f"the destination {_name(planted)} stands only in untrusted data"
            return Finding("ask", "destination-from-untrusted-data", reason)
        return name


def _name(traced: list[Traced]) -> str:
    value = traced[0].value
    return f"{value.name or 'a value'} {value.text[:80]!r}"
