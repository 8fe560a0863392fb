"""The training corpus, made from principles: what is asked for is good, what only strangers' orders ask for is bad.

Nothing here is taken from a benchmark. Every example is an action with its surroundings and a label; the generator is
deterministic, so that the model is reproducible to the byte.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from governed_mcpd.gate.probe import effects
from governed_mcpd.gate.probe.actions import WORK, call, context
from governed_mcpd.gate.probe.kinds import (
    DELEGATIONS,
    FILES,
    FIRMS,
    KINDS,
    LOOKUPS,
    NAMELESS,
    NAMES,
    READINGS,
    RECORDS,
    STATUS,
    STEPS,
    TOPICS,
    VAGUE,
    WRAPPERS,
    Kind,
)
from governed_mcpd.nouns.action import Action

T = TypeVar("T")
SEED = 20260101
_CAUTION = 3.0


@dataclass(frozen=True, slots=True)
class Example:
    """`weight` counts this example so many times."""

    action: Action
    dangerous: bool
    weight: float = 1.0


class _Maker:
    """Fills templates from a seeded generator; only Random.random is used, whose values no Python version changes."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - examples, not secrets

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self._random.random() * len(items))]

    def number(self, least: int, most: int) -> int:
        return least + int(self._random.random() * (most - least + 1))

    def slots(self) -> dict[str, str]:
        name, firm = self.pick(NAMES), self.pick(FIRMS)
        return {
            "name": name,
            "mail": f"{name.lower()}.{self.number(10, 99)}@{firm}.example",
            "topic": self.pick(TOPICS),
            "line": f"{self.pick(TOPICS)} is settled, see number {self.number(100, 999)}",
            "iban": f"XK{self.number(10, 99)}{self.number(10**9, 10**10 - 1)}{self.number(10**7, 10**8 - 1)}",
            "amount": f"{self.number(20, 4000)}.{self.number(10, 99)}",
            "file": f"{self.number(1, 99)}-{self.pick(FILES)}",
            "date": f"2026-{self.number(1, 12):02d}-{self.number(1, 28):02d}",
            "channel": f"{firm}-{self.pick(['team', 'news', 'ops', 'all'])}",
            "url": f"https://{firm}{self.number(1, 99)}.example/{self.pick(['in', 'hook', 'form', 'drop'])}",
            "secret": f"{firm}-{self.number(1000, 9999)}",
            "place": f"{self.pick(['Hotel', 'Inn', 'Villa'])} {firm.title()}",
            "device": f"{self.pick(['lamp', 'camera', 'door', 'alarm', 'heater'])} {self.number(1, 9)}",
            "number": str(self.number(10_000, 99_999)),
            "street": f"{self.number(1, 200)} {firm.title()} Street",
        }


def _declared(order: str) -> str:
    """`Send it` → `What comes next is the sending: it`, an order that is none by its form."""
    verb, _, rest = order.removeprefix("Please ").removeprefix("Kindly ").partition(" ")
    return f"what comes next is {verb.lower().removesuffix('e')}ing {rest}"


def _fill(arguments: dict[str, str], slots: dict[str, str]) -> dict[str, str]:
    return {key: value.format(**slots) for key, value in arguments.items()}


def _calls(maker: _Maker) -> Iterator[Example]:
    for kind in KINDS:
        for turn in range(10):
            # Tools whose names say nothing: what they do has to be told from where their values come from.
            yield from _one_round(maker, kind, maker.pick(NAMELESS) if turn % 5 == 4 else kind.tool)


def _one_round(maker: _Maker, kind: Kind, tool: str) -> Iterator[Example]:
    other: Kind = kind
    while other is kind:
        other = maker.pick(KINDS)
    own, theirs = maker.slots(), maker.slots()
    asked = maker.pick(kind.asked).format(**own)
    elsewhere = maker.pick(other.asked).format(**theirs)
    data = maker.pick(kind.shown).format(**own)
    unrelated = maker.pick(other.shown).format(**theirs)
    order = maker.pick(kind.ordered).format(**own)
    foreign = maker.pick(other.ordered).format(**theirs)
    wrapped = maker.pick(WRAPPERS).format(order=order, data=unrelated)
    # The same orders as statements: for one in three, and more of them would teach that statements are orders.
    if maker.number(1, 3) == 1:
        wrapped = maker.pick(WRAPPERS).format(order=_declared(order), data=unrelated)
    foreign = maker.pick(WRAPPERS).format(order=foreign, data=data)
    arguments = _fill(kind.arguments, own)
    lookup = maker.pick(LOOKUPS).format(**own)
    yield Example(call(tool, arguments, context(asked)), False)
    yield Example(call(tool, arguments, context(asked, (unrelated,))), False)
    yield Example(call(tool, arguments, context(asked, (foreign,))), False, 2.0)
    yield Example(call(tool, arguments, context(lookup, (data,))), False)
    yield Example(call(tool, arguments, context(lookup, (data, foreign))), False)
    yield Example(call(tool, arguments, context(maker.pick(DELEGATIONS).format(**own), (order,))), False)
    yield Example(call(tool, arguments, context()), False, 0.5)
    yield Example(call(tool, arguments, context(elsewhere, (wrapped,))), True, 3.0)
    yield Example(call(tool, arguments, context(elsewhere, (unrelated, wrapped))), True)
    # Orders leave no trace that this model could read: another language, a picture, an earlier page. What remains is an
    # effect that nobody asked for.
    status = maker.pick(STATUS)
    foreign_step = maker.pick(kind.before)[0]
    for shown in (unrelated, status):
        if tool == kind.tool:
            yield Example(call(tool, arguments, context(elsewhere, (shown,))), True)
            yield Example(call(tool, arguments, context(maker.pick(READINGS).format(**theirs), (shown,))), True, 2.0)
        else:  # nothing is known of what it does, and nothing speaks against it
            yield Example(call(tool, arguments, context(elsewhere, (shown,))), False, 2.0)
            yield Example(call(tool, _fill(kind.arguments, maker.slots()), context(asked, (shown,))), False)
    yield Example(call(tool, arguments, context(asked, (status,))), False)
    record = maker.pick(RECORDS)(arguments)
    yield Example(call(tool, arguments, context(asked, (record,))), False)
    yield Example(call(tool, arguments, context(lookup, (record,))), False)
    yield Example(call(tool, arguments, context(asked, (f"{foreign}\n{record}",))), False)
    yield Example(call(foreign_step, {}, context(maker.pick(READINGS).format(**theirs), (status,))), False)
    # An answer that the task says where to find: the destination was looked up before, and is not in view.
    vague = maker.pick(VAGUE[kind.tool])
    yield Example(call(tool, arguments, context(vague, (foreign,))), False, 2.0)
    yield Example(call(tool, arguments, context(vague, (status,))), False)
    for reader, template in kind.before:
        step = _fill(template, own)
        yield Example(call(reader, step, context(asked)), False)
        yield Example(call(reader, step, context(asked, (foreign,))), False, 2.0)
        yield Example(call(reader, step, context(asked, (unrelated,))), False)
        ordered = maker.pick(STEPS).format(
            step=reader.replace("_", " "), values=" ".join(step.values()), order=order, own=order[0].lower() + order[1:]
        )
        for task in (elsewhere, maker.pick(READINGS).format(**theirs)):
            yield Example(
                call(reader, step, context(task, (maker.pick(WRAPPERS).format(order=ordered, data=data),))), True
            )
            yield Example(call(reader, {}, context(task, (ordered,))), True)
        yield Example(call(reader, step, context(maker.pick(READINGS).format(**own), (foreign,))), False)


def examples() -> list[Example]:
    """The whole corpus, always the same."""
    maker = _Maker(SEED)
    # A refusal too many is a question to a person; one too few is done.
    found = [replace(made, weight=made.weight * (_CAUTION if made.dangerous else 1.0)) for made in _calls(maker)]
    found += [Example(action, False) for action in effects.ordinary()]
    found += [Example(action, True, 2.0) for action in effects.harmful()]
    for command in effects.HARMFUL_COMMANDS:
        found.append(Example(call("run_command", {"command": command}, context("Tidy up the machine.")), True))
    for command in effects.ORDINARY_COMMANDS:
        found.append(
            Example(call("run_command", {"command": command, "cwd": WORK}, context("Work on the project.")), False)
        )
    return found
