"""The tool calls in flight of one server's process, and which of its side effects they entail.

A gateway (governedctl mcp) stands in front of the server and tells the daemon which calls it has let through. What the
contract of such a call says gets a lease that ends with the call. Everything else that the process does is decided by
itself, with the calls as context. Belongs to the leader (supervisor/lanes).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from governed_mcpd.nouns.action import SideEffect, ToolCall
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import FILE_CHANGES, NETWORK, Operation
from governed_mcpd.nouns.pattern import Pattern
from governed_mcpd.nouns.verdict import Verdict, allow, deny
from governed_mcpd.subjects.leases import Ledger
from governed_mcpd.subjects.names import by_address, spellings
from governed_mcpd.subjects.rules import Rules
from governed_mcpd.subjects.underway import Underway

CONTRACT = "contract"
OUTSIDE = "outside-contract"
_DENIED_OUTSIDE = FILE_CHANGES | NETWORK | {Operation.NET_RESOLVE, Operation.PROCESS_SIGNAL}


@dataclass(frozen=True, slots=True)
class Entailed:
    """What one entry of a contract means for one call: operations on the objects of a pattern, on names that begin with
    `stem` (a file, and what is written beside it), or the execution of exactly one of these command lines."""

    operations: frozenset[Operation]
    pattern: Pattern | None = None
    stem: str = ""
    words: tuple[tuple[str, ...], ...] = ()

    def covers(self, effect: SideEffect, name: str) -> bool:
        """Whether the effect, as far as it concerns the object `name`, is of this entry."""
        if effect.operation not in self.operations:
            return False
        if self.words:
            return effect.argv in self.words
        if self.pattern is not None and self.pattern.matches(name):
            return True
        return bool(self.stem) and name.startswith(self.stem + ".") and "/" not in name[len(self.stem) :]


@dataclass(frozen=True, slots=True)
class Tie:
    """How one effect stands to the calls in flight: entailed by exactly one of them (`call`), or by none that can be
    told (`outside`); `calls` are the ids of all that were in flight."""

    call: str
    calls: tuple[str, ...]

    @property
    def outside(self) -> bool:
        return not self.call


@dataclass(slots=True)
class Call:
    """One call that was let through."""

    id: str
    call: ToolCall
    entailed: tuple[Entailed, ...]
    record: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    effects: int = 0  # that it entailed

    def entails(self, effect: SideEffect) -> bool:
        """Whether its contract has the effect, with all the objects that this has."""
        second = effect.second if effect.operation is not Operation.FILE_SYMLINK else ""
        names = [effect.object, second] if second else [effect.object]
        if all(any(entry.covers(effect, name) for entry in self.entailed) for name in names):
            return True
        # An argument may have been the address, whatever names lead there.
        return "address" in effect.details and self.entails(replace(by_address(effect), details={}))


@dataclass(slots=True)
class Server:
    """What a gateway has told of the server behind it. `governed`: there is one, so that what no call entails is
    remarkable; `ready`: the server has answered its first request."""

    governed: bool = False
    ready: bool = False
    denies_outside: Callable[[], bool] = bool  # what the policy says now
    calls: dict[str, Call] = field(default_factory=dict)
    underway: Underway | None = None  # the same for the next daemon, where a service manager keeps it


class InFlight:
    """Of one Subject."""

    def __init__(self, server: Server | None = None) -> None:
        self.server = server or Server()
        self._leases = server is None

    def of_child(self) -> "InFlight":
        """Of a child Subject that is asked for. One that a server asks for is still the server: the same calls count
        for it, or it would be a way around them; but not their leases, which were not cut to its profile."""
        return InFlight(self.server) if self.server.governed else InFlight()

    @property
    def calls(self) -> dict[str, Call]:
        return self.server.calls

    def begin(self, call: Call, leases: Iterable[Lease]) -> None:
        """The call is about to be forwarded. `leases` are within the profile's ceiling already."""
        for lease in leases:
            call.ledger.add(lease, f"{call.call.server}/{call.call.tool}")
        self.calls[call.id] = call
        if self.server.underway is not None:
            self.server.underway.begun(call.id, call.record)

    def end(self, identity: str) -> Call | None:
        """The call is over, and every lease of its own; None when it was over already."""
        if self.server.underway is not None:
            self.server.underway.ended(identity)
        return self.calls.pop(identity, None)

    def tie(self, effect: SideEffect) -> Tie | None:
        """Where the effect belongs; None where no gateway stands in front. An effect that the contracts of two calls
        entail at the same time is neither's: it cannot be told which of them it is of."""
        if not self.server.governed:
            return None
        entailing = [call for call in self.calls.values() if call.entails(effect)]
        if len(entailing) == 1:
            entailing[0].effects += 1
            return Tie(entailing[0].id, tuple(self.calls))
        return Tie("", tuple(self.calls))

    def verdict(
        self, effect: SideEffect, tie: Tie | None, policy_version: str, chain: tuple[Rules, ...] = ()
    ) -> Verdict | None:
        """What contracts say about the effect: covered by the lease of its call; denied, where nothing outside them is
        allowed; None: it is decided by itself. `chain`: the rules of the Subject."""
        if tie is None:
            return None
        if not tie.outside:
            call = self.calls.get(tie.call) if self._leases else None
            held = call.ledger.use_any(spellings(effect, chain), policy_version) if call is not None else None
            if held is None:
                return None
            return allow(CONTRACT, held.verdict.rule, f"the contract of call {tie.call}", policy_version)
        if self._denied(effect.operation):
            during = f"the calls in flight ({', '.join(tie.calls)})" if tie.calls else "any call"
            reason = f"no contract of {during} entails this, and policy denies what is outside"
            return deny("daemon", OUTSIDE, reason, policy_version)
        return None

    def _denied(self, operation: Operation) -> bool:
        concerned = operation in _DENIED_OUTSIDE or (self.server.ready and operation is Operation.PROCESS_EXEC)
        return concerned and self.server.denies_outside()

    def context(self) -> tuple[ToolCall, ...]:
        """The calls in flight, for the gate. Without schemas: an effect has none."""
        return tuple(ToolCall(call.call.server, call.call.tool, call.call.arguments) for call in self.calls.values())
