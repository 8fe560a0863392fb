"""Layer 4 on a name that is looked up: whether it carries something out."""

from governed_mcpd.gate.layers.finding import PASS, Finding
from governed_mcpd.gate.reading import Reading
from governed_mcpd.gate.text import lookups
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import NAME


def check(reading: Reading) -> Finding:
    """Passes what is no lookup."""
    what = reading.action.what
    if not isinstance(what, SideEffect) or what.operation is not Operation.NET_RESOLVE:
        return PASS
    name = what.object.removeprefix(NAME)
    return _evidence(name, what.details.get("beneath", ""), reading) or PASS


def _evidence(name: str, beneath: str, reading: Reading) -> Finding | None:
    if lookups.holds_secret(name):
        return Finding("deny", "name-holds-secret", "a key, token or password stands in the name")
    encoded = list(lookups.decoded(name))
    seen = [item.text for item in reading.action.context.untrusted]
    for text in encoded:
        if any(text in content for content in seen):
            return Finding("deny", "name-carries-content", "what the agent has read stands in the name, encoded")
    bits = lookups.carries(name)
    if bits >= lookups.TOO_MUCH:
        return Finding(
            "deny", "name-carries-data", f"its labels could carry {bits} bits that nobody chooses for a name"
        )
    count = int(beneath) if beneath.isascii() and beneath.isdigit() and len(beneath) < 10 else 0
    if count >= lookups.TOO_MANY:
        return Finding("deny", "names-without-end", f"{count} names of one domain were asked for in ten minutes")
    if encoded:
        return Finding("ask", "name-encodes-text", "a label of the name is an encoding of text")
    if bits >= lookups.UNUSUAL:
        return Finding("ask", "name-unusual", f"its labels could carry {bits} bits that nobody chooses for a name")
    if count >= lookups.MANY:
        return Finding("ask", "many-names", f"{count} names of one domain were asked for in ten minutes")
    return None
