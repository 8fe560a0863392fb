"""One held call while it is decided."""

from dataclasses import dataclass

from governed_mcpd.kernel.notify import Held
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.verdict import Decision, Verdict
from governed_mcpd.pause.observation import Effects
from governed_mcpd.subjects.inflight import Tie
from governed_mcpd.subjects.sandbox import Acting, Sandbox
from governed_mcpd.supervisor.digests import States


@dataclass(slots=True)
class Pause:
    """A held call with its effects, until every one of them is decided. `started` and `asked` are perf_counter_ns.

    `effects` are those of `seen`, spoken of by name where one is known; `seen` owns what was kept for the seal.
    """

    sandbox: Sandbox
    acting: Acting
    held: Held
    seen: Effects
    effects: tuple[SideEffect, ...]
    verdicts: list[Verdict | None]
    started: int
    policy_version: str
    asked: int = 0
    gate_us: int = 0
    approved_by: str = ""
    ties: tuple[Tie | None, ...] = ()  # of the effects, to the tool calls in flight
    before: States | None = None  # of the files that it changes, when it is durable
    over: bool = False

    @property
    def refusal(self) -> Verdict | None:
        """The first verdict that is not an approval."""
        return next((v for v in self.verdicts if v is not None and v.decision is not Decision.ALLOW), None)

    @property
    def decided(self) -> bool:
        """Whether the call can be answered: one refusal is enough, approvals have to be complete."""
        return None not in self.verdicts or self.refusal is not None
