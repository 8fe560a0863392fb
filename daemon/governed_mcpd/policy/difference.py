"""What changes between two policy sets, and which of it allows more. One sentence for each, for the person who applies.

Whatever is not understood to be narrower counts as wider: a sentence too many costs a look, one too few a surprise.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from governed_mcpd.nouns.pattern import Pattern
from governed_mcpd.nouns.subject import Tier
from governed_mcpd.policy.documents import (
    Agent,
    Constitution,
    Document,
    Gate,
    LeaseCeiling,
    OperationPattern,
    OperationRule,
    Profile,
    Rate,
    Thresholds,
    Tool,
    ToolEntry,
)
from governed_mcpd.policy.load import PolicySet
from governed_mcpd.policy.problem import printable, shown

_TIERS = {
    "Classic": Tier.CLASSIC,
    "AiEnhanced": Tier.AI_ENHANCED,
    "AiNative": Tier.AI_NATIVE,
    "System": Tier.SYSTEM,
}
_UNLIMITED = Rate(per_second=1_000_000, burst=1_000_000)


def widens(old: PolicySet, new: PolicySet) -> list[str]:
    """What the new set allows and the old one did not, or might. Empty: nothing becomes more permissive."""
    found: list[str] = []
    for name, profile in new.profiles.items():
        found += [f"Profile {name}: {said}" for said in _profile(old.profiles.get(name), profile)]
    for name, agent in new.agents.items():
        found += [f"Agent {name}: {said}" for said in _agent(old.agents.get(name), agent)]
    for name, tool in new.tools.items():
        found += [f"Tool {name}: {said}" for said in _tool(old.tools.get(name), tool)]
    found += [f"Tool {name} is removed: its pins, rates and tiers go with it" for name in _gone(old.tools, new.tools)]
    found += _constitutions(old.constitutions, new.constitutions)
    found += [f"Gate: {said}" for said in _gate(old.gate, new.gate)]
    return found


def changes(old: PolicySet, new: PolicySet) -> list[str]:
    """Everything that differs, wider or narrower."""
    found: list[str] = []
    for kind, before, after in (
        ("Profile", old.profiles, new.profiles),
        ("Agent", old.agents, new.agents),
        ("Tool", old.tools, new.tools),
        ("Constitution", old.constitutions, new.constitutions),
    ):
        found += _documents(kind, before, after)
    return found + _fields("Gate", old.gate.model_dump(mode="json"), new.gate.model_dump(mode="json"))


def _documents(kind: str, before: Mapping[str, Document], after: Mapping[str, Document]) -> list[str]:
    found = [f"{kind} {name} is removed" for name in _gone(before, after)]
    for name in sorted(after):
        if name not in before:
            found.append(f"{kind} {name} is new")
            continue
        dumped = (before[name].model_dump(mode="json"), after[name].model_dump(mode="json"))
        found += _fields(f"{kind} {name}", *dumped)
    return found


def _fields(where: str, before: Any, after: Any) -> list[str]:
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        found: list[str] = []
        for key in sorted(before.keys() | after.keys()):
            found += _fields(
                f"{where}: {key}" if ":" not in where else f"{where}.{key}", before.get(key), after.get(key)
            )
        return found
    if isinstance(before, list) and isinstance(after, list):
        added = [_brief(item) for item in after if item not in before]
        removed = [_brief(item) for item in before if item not in after]
        parts = [f"adds {', '.join(added)}"] * bool(added) + [f"removes {', '.join(removed)}"] * bool(removed)
        return [f"{where} {' and '.join(parts) or 'is in another order'}"]
    if isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        return [f"{where}: the text changes"]
    return [f"{where} goes from {_brief(before)} to {_brief(after)}"]


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return printable("{" + ", ".join(f"{key}: {_brief(item)}" for key, item in value.items()) + "}")
    if isinstance(value, list):
        return printable("[" + ", ".join(map(_brief, value)) + "]")
    return printable(value) if isinstance(value, str) else shown(value)


def _gone(before: Iterable[str], after: Iterable[str]) -> list[str]:
    return sorted(set(before) - set(after))


def _profile(old: Profile | None, new: Profile) -> list[str]:
    if old is None:
        return ["is new: sandboxes can run under it"]
    found: list[str] = []
    if old.reads == "pause" and new.reads == "envelope":
        found.append("reads no longer pause (reads: pause → envelope)")
    for access in ("read", "write", "execute"):
        before = _reachable(old, access)
        added = [path for path in getattr(new.envelope, access) if not _beneath_any(path, before)]
        found += [f"the envelope adds {access} {path}" for path in added]
    kept = new.protected
    found += [f"{path} is no longer protected" for path in old.protected if not _beneath_any(path, kept)]
    found += [
        f"{_operations(item)} on {item.on} runs free" for item in new.free if not _covered(item, old.free, _same_uses)
    ]
    for item in new.ceiling:
        if not _covered(item, old.ceiling, _within_uses):
            found.append(f"leases may cover {_operations(item)} on {item.on}, {item.uses} uses in {item.seconds} s")
    gone = [operation.value for operation in old.durable if operation not in new.durable]
    found += [f"records of {operation} are no longer on disk before it happens" for operation in gone]
    found += _more("limits", old.limits, new.limits)
    found += [f"the variable {name} is kept" for name in new.environment.keep if name not in old.environment.keep]
    dropped = [name for name in old.environment.drop if name not in new.environment.drop]
    return found + [f"the variable {name} is no longer dropped" for name in dropped]


def _reachable(profile: Profile, access: str) -> list[str]:
    """What the profile grants of one access: write and execute imply read."""
    envelope = profile.envelope
    if access == "read":
        return [*envelope.read, *envelope.write, *envelope.execute]
    return list(getattr(envelope, access))


def _beneath_any(path: str, directories: Iterable[str]) -> bool:
    return any(path == directory or path.startswith(directory.rstrip("/") + "/") for directory in directories)


def _covered(item: OperationPattern, before: Iterable[OperationPattern], enough: Callable[[Any, Any], bool]) -> bool:
    """Whether each operation of `item` was covered by an earlier entry with as much room."""
    entries = list(before)
    return all(
        any(operation in entry.operations and _within(item.on, entry.on) and enough(item, entry) for entry in entries)
        for operation in item.operations
    )


def _same_uses(_new: object, _old: object) -> bool:
    return True


def _within_uses(new: LeaseCeiling, old: LeaseCeiling) -> bool:
    return new.uses <= old.uses and new.seconds <= old.seconds


def _within(inner: str, outer: str) -> bool:
    if inner == outer:
        return True
    parts = [_split(text) for text in (inner, outer)]
    return parts[0][0] == parts[1][0] and Pattern.parse(parts[0][1]).within(Pattern.parse(parts[1][1]))


def _split(text: str) -> tuple[str, str]:
    """`${cwd}/src/**` → (`${cwd}`, `/src/**`): patterns are compared beneath the same variable only."""
    if text.startswith("${"):
        variable, _, rest = text.partition("}")
        return variable, rest or "/"
    return "", text


def _operations(item: OperationPattern) -> str:
    return ", ".join(operation.value for operation in item.operations)


def _more(what: str, old: BaseModel, new: BaseModel) -> list[str]:
    return [
        f"{what}.{name} goes up from {getattr(old, name)} to {getattr(new, name)}"
        for name in type(new).model_fields
        if getattr(new, name) > getattr(old, name)
    ]


def _agent(old: Agent | None, new: Agent) -> list[str]:
    if old is None:
        return [f"is new, with tier {new.tier}"]
    found: list[str] = []
    if _TIERS[new.tier] > _TIERS[old.tier]:
        found.append(f"its tier goes up from {old.tier} to {new.tier}")
    if old.users and not new.users:
        found.append("anyone in group governed may run it, no longer only those named")
    elif old.users:
        found += [f"{user} may run it" for user in new.users if user not in old.users]
    found += [f"it may run under profile {name}" for name in new.profiles if name not in old.profiles]
    if new.profiles[0] != old.profiles[0] and new.profiles[0] in old.profiles:
        found.append(f"its default profile goes from {old.profiles[0]} to {new.profiles[0]}")
    return found


def _tool(old: Tool | None, new: Tool) -> list[str]:
    if old is None:
        return ["is new: its contracts give leases to its calls"] if any(e.contract for e in new.tools.values()) else []
    found = [f"{name} is no longer declared: its pin, rate and tier go with it" for name in _gone(old.tools, new.tools)]
    if old.outside == "deny" and new.outside != "deny":
        found.append("effects outside every contract are no longer denied (outside: deny → decide)")
    for field, order in (("instructions", ("withhold", "mark", "pass")), ("secrets", ("redact", "pass"))):
        before, after = getattr(old.results, field), getattr(new.results, field)
        if order.index(after) > order.index(before):
            found.append(f"results.{field} goes from {before} to {after}")
    for name, entry in new.tools.items():
        found += [f"{name}: {said}" for said in _entry(old.tools.get(name), entry)]
    return found


def _entry(old: ToolEntry | None, new: ToolEntry) -> list[str]:
    if old is None:
        return ["is new"]
    found = _tier_and_rate(old, new)
    added = [effect for effect in new.contract if effect not in old.contract]
    for effect in added:
        where = effect.on or effect.argument or "anything"
        operations = ", ".join(operation.value for operation in effect.operations)
        found.append(f"its contract adds {operations} on {where}{' and beneath' if effect.under else ''}")
    if old.pin is not None and new.pin != old.pin:
        found.append("its pin is removed" if new.pin is None else "its pin changes: another description is trusted")
    if old.input_schema is not None and new.input_schema != old.input_schema:
        found.append("its input schema changes" if new.input_schema is not None else "its input schema is removed")
    return found


def _tier_and_rate(old: ToolEntry | OperationRule, new: ToolEntry | OperationRule) -> list[str]:
    found: list[str] = []
    if _TIERS[new.tier] < _TIERS[old.tier]:
        found.append(f"the least tier goes down from {old.tier} to {new.tier}")
    before, after = old.rate or _UNLIMITED, new.rate or _UNLIMITED
    if after.per_second > before.per_second or after.burst > before.burst:
        limit = f"{after.per_second:g}/s, burst {after.burst}" if new.rate else "no limit"
        found.append(f"its rate goes up to {limit}")
    return found


def _constitutions(old: Mapping[str, Constitution], new: Mapping[str, Constitution]) -> list[str]:
    """Which of two Cedar texts allows more is not worked out: every change may."""
    found = [f"Constitution {name} is removed" for name in _gone(old, new)]
    for name, document in new.items():
        if name not in old:
            found.append(f"Constitution {name} is new: its permits allow what nothing forbids")
        elif old[name].cedar != document.cedar:
            found.append(f"Constitution {name} changes: read the new text")
    return found


def _thresholds(where: str, old: Thresholds, new: Thresholds) -> list[str]:
    pairs = (("ask", old.ask, new.ask), ("deny", old.deny, new.deny))
    return [
        f"{where}the threshold {name} goes up from {before} to {after}"
        for name, before, after in pairs
        if after > before
    ]


def _gate(old: Gate, new: Gate) -> list[str]:
    found: list[str] = []
    if new.mode == "shadow" and old.mode != "shadow":
        found.append("mode shadow: nothing is refused any more, refusals are only recorded")
    if new.uncertain == "flag" and old.uncertain == "ask":
        found.append("what the model is uncertain about is allowed and flagged, no longer asked")
    if new.backend != old.backend:
        found.append(f"another backend judges: {old.backend} → {new.backend}")
    elif new.vllm != old.vllm:
        found.append("another server or model judges, or it is asked otherwise: read the new vllm")
    found += _thresholds("", old.thresholds, new.thresholds)
    for name in sorted(old.class_thresholds.keys() | new.class_thresholds.keys()):
        before, after = (gate.class_thresholds.get(name, gate.thresholds) for gate in (old, new))
        found += _thresholds(f"{name}: ", before, after)
    if new.alpha_thousandths != old.alpha_thousandths:
        found.append(f"alpha goes from {old.alpha_thousandths} to {new.alpha_thousandths}: every score shifts")
    for operation in sorted(old.operations.keys() | new.operations.keys()):
        none = OperationRule()
        rules = (old.operations.get(operation, none), new.operations.get(operation, none))
        found += [f"{operation.value}: {said}" for said in _tier_and_rate(*rules)]
    return found + [
        f"{name} goes up from {getattr(old, name)} to {getattr(new, name)}"
        for name in ("gate_seconds", "person_seconds")
        if getattr(new, name) > getattr(old, name)
    ]
