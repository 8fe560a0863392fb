"""The gate's layers, called in this process, at 1, 10 and 100 constitution policies; and the journal.

All policies of a set apply to the action that is asked about, which is the dearest case: policies for other operations
are set aside when a set is compiled, and cost a decision nothing. `shipped` is the set that ships.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace

from governed_mcpd.gate.active import Active, Room, activate
from governed_mcpd.gate.decide import decide
from governed_mcpd.gate.layers.constitution import MOST_KNOWN
from governed_mcpd.gate.layers.rate import Buckets
from governed_mcpd.gate.probe import embedded, selftest
from governed_mcpd.gate.reading import Reading
from governed_mcpd.journal.journal import Journal
from governed_mcpd.journal.records import effect_record
from governed_mcpd.nouns.action import Action, Context, SideEffect, ToolCall
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.subject import Subject, Tier
from governed_mcpd.nouns.verdict import allow
from tests.bench.figures import Figure, Run, Target, figure, timed
from tests.support.instance import SHIPPED_POLICIES

SIZES = (1, 10, 100)
BOUND_US = 300.0

_SUBJECT = Subject("default", Tier.AI_ENHANCED, "3f1c9a77d2e0", 1000, "default")
_CONTEXT = Context(
    task="Fix the failing test in the parser and commit it",
    directories=("/home/ana/project",),
    home="/home/ana",
    scratch="/run/governed-mcpd/scratch/3f1c9a77d2e0",
    earlier=tuple(
        SideEffect(Operation.FILE_WRITE, f"/home/ana/project/src/module_{number}.py") for number in range(16)
    ),
)
_EFFECT = SideEffect(
    Operation.FILE_WRITE, "/home/ana/project/src/parser.py", details={"flags": "write+create+truncate"}
)
_CALL = ToolCall(
    "git",
    "git_commit",
    b'{"message":"Fix the parser: a comment at the end of the file is no error","repo_path":"/home/ana/project"}',
)
_VERDICT = allow("lease", "changes", "an earlier verdict still holds", "5e88b6c7c6a656fb" * 4)
_FILE_WRITE, _TOOL_CALL = "side effect (file.write)", "tool call (git_commit)"
# Another file each time, more of them than answers of Cedar are kept; but the same tool.
_FILES = tuple(
    Action("a1", _SUBJECT, replace(_EFFECT, object=f"/home/ana/project/src/parser_{number}.py"), _CONTEXT)
    for number in range(2 * MOST_KNOWN)
)
ACTIONS = {_FILE_WRITE: _FILES, _TOOL_CALL: (Action("a2", _SUBJECT, _CALL, _CONTEXT),)}
Actions = tuple[Action, ...]
_SCOPES = {
    _FILE_WRITE: ('action in Action::"file.change"', 'context.path like "/srv/site-{}/*"'),
    _TOOL_CALL: ('action == Action::"tool.call"', 'context.tool == "tool-{}"'),
}


def measure(run: Run, rounds: int, count: int) -> dict[str, Figure]:
    """All of it; returns, per kind of action, the five layers and an append at 100 policies together."""
    with tempfile.TemporaryDirectory(prefix="governed-bench-") as directory:
        journal = Journal(directory)
        try:
            totals = {}
            for name, actions in ACTIONS.items():
                sets = {plural(size): _active(_policies(name, size)) for size in SIZES}
                sets["shipped policies"] = _active(_shipped())
                _layers(run, name, actions, sets, rounds, count)
                fresh = _active(_policies(name, 100))  # of whom nothing was asked yet
                totals[name] = _five_and_append(run, name, actions, fresh, journal, rounds, count)
            _appends(run, journal, rounds, count)
        finally:
            journal.close()
    worst = max(found.p50 for found in totals.values())
    run.targets.append(Target("five layers and the append at 100 policies, p50", round(worst, 1), BOUND_US, "µs"))
    return totals


class ToolCalls:
    """A tool call through the five layers, and its record into a journal: what stands beside another package's call."""

    def __enter__(self) -> "ToolCalls":
        self._directory = tempfile.TemporaryDirectory(prefix="governed-bench-")
        self._journal = Journal(self._directory.name)
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()
        self._directory.cleanup()

    def timer(self, size: int, count: int) -> Callable[[], list[int]]:
        """Times `count` of them at `size` policies."""
        call = _decided_and_recorded(_active(_policies(_TOOL_CALL, size)), ACTIONS[_TOOL_CALL], self._journal)
        return lambda: timed(call, count)


def five(active: Active, each: Iterator[Action]) -> Callable[[], None]:
    """The five layers that need no model, one after the other, on what is read out of an action once."""
    layers = active.layers

    def check() -> None:
        action = next(each)
        reading = Reading(action)
        for finding in (
            layers.schema.check(reading),
            layers.tier.check(reading),
            layers.rate.check(reading),
            layers.prefilter.check(reading),
            layers.constitution.check(reading),
        ):
            if finding.result != "pass":
                raise RuntimeError(f"what is measured has to pass: {finding}")

    return check


def _layers(run: Run, name: str, actions: Actions, sets: dict[str, Active], rounds: int, count: int) -> None:
    calls: dict[str, Callable[[], object]] = {}
    for label, active in sets.items():
        calls |= _calls(label, active, itertools.cycle(actions), alone=label == next(iter(sets)))
    taken: dict[str, list[list[int]]] = {shown: [] for shown in sorted(calls, key=_place)}
    for _ in range(rounds):
        for shown, call in calls.items():
            taken[shown].append(timed(call, count))
    run.sections[f"layers: {name}"] = {shown: figure(values) for shown, values in taken.items()}


def _calls(label: str, active: Active, each: Iterator[Action], *, alone: bool) -> dict[str, Callable[[], object]]:
    """What depends on the policies; with `alone` also each layer that does not, on a new Reading each time: it pays for
    all that it reads."""
    layers, action = active.layers, next(each)
    calls: dict[str, Callable[[], object]] = {
        f"constitution, {label}": lambda: layers.constitution.check(Reading(next(each))),
        f"all five, {label}": five(active, each),
        f"decide(): all six in order, {label}": lambda: decide(next(each), active.layers, active.version),
    }
    if alone:
        calls |= {
            "schema": lambda: layers.schema.check(Reading(action)),
            "tier": lambda: layers.tier.check(Reading(action)),
            "rate": lambda: layers.rate.check(Reading(action)),
            "prefilter": lambda: layers.prefilter.check(Reading(action)),
            "probe (embedded model)": lambda: layers.probe.check(Reading(action)),
        }
    return calls


def _place(shown: str) -> int:
    order = ("schema", "tier", "rate", "prefilter", "probe", "constitution", "all five", "decide")
    return next(index for index, start in enumerate(order) if shown.startswith(start))


def _record(effect: SideEffect) -> dict[str, object]:
    return effect_record(_SUBJECT, effect, _VERDICT, pause_us=40, seal="none", task_given=True)


def plural(size: int) -> str:
    """How many policies, as a person says it."""
    return "1 policy" if size == 1 else f"{size} policies"


def _five_and_append(
    run: Run, name: str, actions: Actions, active: Active, journal: Journal, rounds: int, count: int
) -> Figure:
    """As for one effect that is decided: the layers, the record made, the record appended."""
    both = _decided_and_recorded(active, actions, journal)
    found = figure([timed(both, count) for _ in range(rounds)])
    run.sections[f"layers: {name}"]["all five and a record appended, 100 policies"] = found
    return found


def _decided_and_recorded(active: Active, actions: Actions, journal: Journal) -> Callable[[], None]:
    check, action = five(active, itertools.cycle(actions)), actions[0]
    effect = action.what if isinstance(action.what, SideEffect) else _EFFECT

    def both() -> None:
        check()
        journal.append(_record(effect))

    return both


def _appends(run: Run, journal: Journal, rounds: int, count: int) -> None:
    record = _record(_EFFECT)

    def durable() -> None:
        journal.wait_durable(journal.append(record), 30)

    run.sections["journal, one thread"] = {
        "record made": figure([timed(lambda: _record(_EFFECT), count) for _ in range(rounds)]),
        "append": figure([timed(lambda: journal.append(record), count) for _ in range(rounds)]),
        "append, on disk": figure([timed(durable, max(count // 10, 50), warm_up=5) for _ in range(rounds)]),
    }


def _active(files: dict[str, bytes]) -> Active:
    model = embedded.load()
    return activate(files, Room(model, selftest.prove(model), Buckets()))


def _shipped() -> dict[str, bytes]:
    """What ships, with rates that a loop without pauses does not exhaust, and an agent that may call the tool."""
    return {path.name: path.read_bytes() for path in sorted(SHIPPED_POLICIES.glob("*.y*ml"))} | {
        "gate.yaml": _GATE.encode(),
        "agent-default.yaml": _AGENT.encode(),
        "tool-mcp-server-git.yaml": _TOOL.encode(),
    }


def _policies(name: str, size: int) -> dict[str, bytes]:
    scope, condition = _SCOPES[name]
    forbid = f'@id("site-{{}}") @reason("not here") forbid (principal, {scope}, resource) when {{{{ {condition} }}}};'
    rules = [forbid.format(number, number) for number in range(size - 1)]
    rules.append('@id("all") @reason("permitted") permit (principal, action, resource);')
    constitution = "kind: Constitution\nname: bench\ncedar: |\n" + "".join(f"  {rule}\n" for rule in rules)
    return _shipped() | {"constitution.yaml": constitution.encode()}


_RATE = "{per_second: 1000000, burst: 1000000}"
_GATE = f"kind: Gate\nname: gate\noperations:\n  file.write: {{rate: {_RATE}}}\n"
_AGENT = "kind: Agent\nname: default\ntier: AiEnhanced\nprofiles: [default, strict, demo]\n"
_TOOL = f"""\
kind: Tool
name: git
tools:
  git_commit:
    rate: {_RATE}
    input_schema:
      type: object
      properties:
        repo_path: {{type: string, maxLength: 4096}}
        message: {{type: string, minLength: 1, maxLength: 65536}}
      required: [repo_path, message]
      additionalProperties: false
"""
