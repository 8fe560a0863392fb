"""Layer 2: the subject's trust tier is at least the one that the tool or operation names."""

from collections.abc import Mapping

from governed_mcpd.gate.layers.finding import PASS, Finding
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.subject import Tier
from governed_mcpd.policy.documents import Agent, Gate, Tool

TIERS = {"Classic": Tier.CLASSIC, "AiEnhanced": Tier.AI_ENHANCED, "AiNative": Tier.AI_NATIVE, "System": Tier.SYSTEM}
_WRITTEN = {tier: name for name, tier in TIERS.items()}


class TierLayer:
    """An agent without a document has no tier, and the tier that a subject claims is at most its document's."""

    name = "tier"

    def __init__(self, agents: Mapping[str, Agent], tools: Mapping[str, Tool], gate: Gate) -> None:
        self._agents = {name: TIERS[agent.tier] for name, agent in agents.items()}
        self._tools = {
            (server, tool): TIERS[entry.tier]
            for server, document in tools.items()
            for tool, entry in document.tools.items()
        }
        self._operations = {operation: TIERS[rule.tier] for operation, rule in gate.operations.items()}

    def check(self, reading: Reading) -> Finding:
        """Layer 2 on one action."""
        subject, what = reading.action.subject, reading.action.what
        granted = self._agents.get(subject.agent)
        if granted is None:
            return Finding("deny", "unknown-agent", f"no Agent document for {subject.agent[:128]!r}")
        if subject.tier > granted:
            claimed, most = _WRITTEN[subject.tier], _WRITTEN[granted]
            return Finding("deny", "tier-claimed", f"the subject claims {claimed}; its Agent document says {most}")
        if isinstance(what, SideEffect):
            needed, label = self._operations.get(what.operation, Tier.CLASSIC), str(what.operation)
        else:
            needed, label = self._tools.get((what.server, what.tool), Tier.SYSTEM), f"{what.server}/{what.tool}"
        if subject.tier >= needed:
            return PASS
        return Finding("deny", "tier", f"{label} needs {_WRITTEN[needed]}; {subject.agent} is {_WRITTEN[subject.tier]}")
