"""Where an action's values come from: the task, an instructing sentence of untrusted content, or its plain data."""

import functools
import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import re2

from governed_mcpd.gate.text import intents, unhide
from governed_mcpd.gate.text.decode import DecodeBound
from governed_mcpd.gate.text.intents import Intent
from governed_mcpd.gate.text.sentences import MAX_UNTRUSTED, UntrustedText, instructs, normalise, take_apart
from governed_mcpd.nouns.action import Context

Parts = tuple[tuple[UntrustedText, ...], ...]
MAX_VALUES = 256
_SENTENCES = 16  # that hold one value, looked at for what they speak of
_LONG = 8  # words: a longer value is compared piece by piece
_NAME_READ = 64  # characters at the end of an argument's name: more than any word that says where something goes


class ContextBound(ValueError):
    """More untrusted content than is looked through. Nothing is known about where values come from."""


class Origin(StrEnum):
    """The first of these that holds.

    `SPOKEN`: a sentence that gives no order, but speaks of just such an effect, which the task does not ask for: orders
    can be put as statements, and in languages whose imperatives are not known here. `ELSEWHERE`: the model's own words,
    an earlier result, or nothing to compare.
    """

    TASK = "task"
    INSTRUCTION = "instruction"
    SPOKEN = "spoken"
    DATA = "data"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Value:
    """One value of an action: an argument, or a name inside one. `destination`: it says where something goes."""

    name: str
    text: str
    destination: bool = False
    by_shape: bool = False  # an address, an account or a URL by its own form
    within: str = ""  # the long text that it stands in


@dataclass(frozen=True, slots=True)
class Traced:
    """A value, where it comes from, and whether it is telling: not a word that stands anywhere."""

    value: Value
    origin: Origin
    telling: bool


@dataclass(frozen=True, slots=True)
class Provenance:
    """All values, traced; `delegates`: the task says to do what some content says."""

    values: tuple[Traced, ...]
    delegates: bool
    instructed: bool  # the untrusted content holds an order

    def from_instruction(self) -> list[Traced]:
        """Telling values that stand in orders of untrusted content and in nothing of the user's."""
        return [item for item in self.values if item.origin is Origin.INSTRUCTION and item.telling]

    def from_spoken(self) -> list[Traced]:
        """Telling values that stand only where untrusted content speaks of an effect that the task does not ask for."""
        return [item for item in self.values if item.origin is Origin.SPOKEN and item.telling]

    def destinations_from_nowhere(self) -> list[Traced]:
        """Destinations that stand neither in the task nor in the untrusted content in view."""
        return [
            item
            for item in self.values
            if item.origin is Origin.ELSEWHERE and item.telling and item.value.destination and item.value.by_shape
        ]

    def destinations_from_data(self) -> list[Traced]:
        """Destinations that stand in untrusted data and in nothing of the user's."""
        return [item for item in self.values if item.origin is Origin.DATA and item.telling and item.value.destination]


_DELEGATES = re2.compile(
    r"(?i)\b(follow|do|perform|execute|carry\s+out|complete|implement|handle|act\s+on|finish|address|obey)\b[^.?!]*\b(instructions?|"
    r"what|whatever|actions?|steps?|tasks?|to-?dos?|items?|says?|requests?|guide|directions?|recipe|checklist|asks?)\b"
    r"|\baccording\s+to\b|\bas\s+(described|instructed|requested|stated|specified|written|mentioned|asked|told)\b"
    r"|\bbased\s+on\s+(the|its|their|his|her|my)\s+(instructions?|request|notes?|e-?mail|message|file|document|guide)"
    r"|\bpay\s+(the|my|this)\s+(bill|invoice|rent)|\b(the|this|that|my)\s+(bill|invoice|notice|to-?do)\b[^.?!]*\b(pay|do|adjust)"
    r"|\b(take\s+care\s+of|deal\s+with|sort\s+out|settle|finish|complete)\s+(it|this|that|them|everything)\b"
    r"|\badjust\b[^.?!]*\baccordingly\b|\baccordingly\b"
)
# Names inside a longer text (a command, a body) that can be looked up by themselves. Each alternative has one greedy
# quantifier per class and no nesting.
_NAMES = re.compile(
    r"https?://[^\s\"'<>|;)\]}]+|[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|\b\d{1,3}(?:\.\d{1,3}){3}\b"
    r"|\b(?:[A-Za-z0-9-]+\.)+(?:com|org|net|io|dev|info|biz|xyz|ru|cn|de|uk|fr|onion|app|site|top|me|co|example|test)\b"
    r"|(?<![\w/.~])(?:~(?:/[\w.~-]+)+|(?:/[\w.~-]+){2,})|\b[A-Z]{2}\d{2}[A-Z0-9]{10,30}\b|\b0x[0-9a-fA-F]{8,}\b"
)
_DESTINATION_NAME = re.compile(
    r"(?:^|_|\b)(?:to|cc|bcc|recipients?|receivers?|participants?|attendees?|emails?|e_?mails?|address(?:es)?|to_address|urls?|uri|"
    r"link|endpoint|webhook|host|hostname|server|domain|iban|accounts?|account_number|payee|beneficiary|wallet|phone(?:_number)?|"
    r"users?|user_?names?|user_?email|channels?|path|destination|dest|target|target_path|output|output_path|remote|repo|repository)$"
)
_DESTINATION_SHAPE = re.compile(
    r"https?://\S+|[\w.%+-]+@[\w-]+(?:\.[\w-]+)+|[A-Z]{2}\d{2}[A-Z0-9]{10,30}|0x[0-9a-fA-F]{16,}"
    r"|(?:www\.)[\w.-]+|\+\d[\d -]{7,}|(?!\d{4}-\d\d-\d\d)\d{2,5}[ -]\d[\d -]{4,}"
)
_TELLING = re.compile(r"[\d@/:_.\\-]")


def names_in(text: str) -> list[str]:
    """Addresses, hosts, paths and account numbers inside `text`, each once."""
    return list(dict.fromkeys(match.rstrip(".,:") for match in _NAMES.findall(text)))


def values_of_arguments(arguments: list[tuple[str, str]]) -> list[Value]:
    """The values of a tool call's arguments (name and text of each leaf), and the names inside them."""
    values: list[Value] = []
    for name, text in arguments:
        by_name = _names_destination(name[-_NAME_READ:])
        by_shape = _DESTINATION_SHAPE.fullmatch(text.strip()) is not None
        values.append(Value(name, text, by_name or by_shape, by_shape))
        if len(text) > 8:
            within = text if len(text.split()) > _LONG else ""
            values.extend(Value(name, inner, by_name, within=within) for inner in names_in(text) if inner != text)
    return values


def trace(
    values: list[Value], context: Context, own: tuple[str, ...] = (), intent: Intent = intents.NOTHING
) -> Provenance:
    """Where each of `values` comes from. Raises ContextBound.

    `own` is the user's text besides the task; `intent` is what the action does, as far as its tool's name says.
    """
    if not context.untrusted:
        return Provenance((), False, False)
    if sum(len(item.text) for item in context.untrusted) > MAX_UNTRUSTED:
        raise ContextBound(f"more than {MAX_UNTRUSTED} characters of untrusted content")
    if len(values) > MAX_VALUES and len(set(values)) > MAX_VALUES:
        raise ContextBound(f"more than {MAX_VALUES} values to trace")
    task = " ".join((normalise_task(context.task), *(normalise(text) for text in own)))
    parts = parts_of(context)
    asked = intents.of_text(context.task)
    unasked = intent.effects if asked.known and not asked.effects & intent.effects else frozenset()
    traced = tuple(_trace(value, task, parts, unasked) for value in dict.fromkeys(values))
    instructed = any(part.instructing for item in parts for part in item)
    return Provenance(traced, delegates(context.task), instructed)


def parts_of(context: Context) -> Parts:
    """The untrusted content in view, taken apart: for each item, every way it can be read. Raises ContextBound."""
    try:
        return tuple(tuple(take_apart(text) for text in unhide.readings(item.text)) for item in context.untrusted)
    except DecodeBound as error:
        raise ContextBound(f"untrusted content {error}") from None


@functools.lru_cache(maxsize=64)
def delegates(task: str) -> bool:
    """Whether the task says to do what some content says."""
    return _DELEGATES.search(normalise_task(task)) is not None


@functools.lru_cache(maxsize=64)
def normalise_task(task: str) -> str:
    """The task as it is compared; one task comes with many actions."""
    return normalise(task)


def _trace(value: Value, task: str, parts: Parts, unasked: frozenset[str]) -> Traced:
    text = normalise(value.text).strip("\"'` ")
    if len(text) < 2:
        return Traced(value, Origin.ELSEWHERE, False)
    words = text.split()
    if len(words) > _LONG:
        return Traced(value, _origin_of_pieces(words, task, parts), True)
    telling = len(words) > 1 or (len(text) > 2 and _TELLING.search(text) is not None) or len(text) >= 10
    if _stands_in(text, task):
        return Traced(value, Origin.TASK, telling)
    if value.within and _origin_of_pieces(normalise(value.within).split(), task, parts) is Origin.DATA:
        return Traced(value, Origin.DATA, telling)  # a part of what is quoted: a file that is written back
    origins = {_origin_in(text, item, unasked) for item in parts}
    # What stands in data as well is not an order's alone: a name in a list and in a review that says "visit it". Unless
    # the task asks for no such effect: then the order is all that there is to it.
    order = (Origin.INSTRUCTION, Origin.DATA, Origin.SPOKEN) if unasked else (Origin.DATA, Origin.INSTRUCTION)
    for origin in order:
        if origin in origins:
            return Traced(value, origin, telling)
    return Traced(value, Origin.ELSEWHERE, telling)


def _origin_in(text: str, readings: tuple[UntrustedText, ...], unasked: frozenset[str]) -> Origin:
    """Where `text` stands in one item. A reading in which only orders hold it wins: raw JSON is a single line."""
    found = Origin.ELSEWHERE
    for part in readings:
        in_data = _stands_in(text, part.data)
        if _stands_in(text, part.instructing):
            if not _is_ordered(text, part.instructing):
                found = Origin.DATA  # the value reads as an order, and nothing orders it
            elif unasked or not in_data:
                return Origin.INSTRUCTION
        if in_data:
            spoken = bool(unasked) and _speaks(text, part.data, unasked)
            found = Origin.SPOKEN if spoken else Origin.DATA
        elif _stands_in(text, part.following):
            if unasked & intents.of_text(part.instructing).effects:
                return Origin.INSTRUCTION
            found = Origin.DATA
    return found


def _is_ordered(text: str, instructing: str) -> bool:
    """Whether a sentence orders something about `text`, and is not itself only what the value says.

    `body: Please call me back` in a record is a value that reads as an order. What a colon announced is no order by its
    own words: it was dictated.
    """
    for sentence in islice((line for line in instructing.split("\n") if text in line), _SENTENCES):
        if instructs(sentence.replace(text, " … ")) or not instructs(sentence):
            return True
    return False


def _speaks(text: str, data: str, effects: frozenset[str]) -> bool:
    """Whether a sentence that holds `text` speaks of one of `effects`."""
    sentences = (sentence for sentence in data.split("\n") if text in sentence)
    return any(
        effects & intents.of_text(sentence.replace(text, " ")).named for sentence in islice(sentences, _SENTENCES)
    )


def _stands_in(text: str, whole: str) -> bool:
    """Whether `text` stands in `whole` as a word of its own, not as a part of another."""
    start = whole.find(text)
    while start >= 0:
        end = start + len(text)
        before = whole[start - 1] if start else " "
        after = whole[end] if end < len(whole) else " "
        if not (before.isalnum() and text[0].isalnum()) and not (after.isalnum() and text[-1].isalnum()):
            return True
        start = whole.find(text, start + 1)
    return False


def _origin_of_pieces(words: list[str], task: str, items: Parts) -> Origin:
    """Most of the runs of four words of a long text decide: what was dictated is repeated nearly word by word."""
    runs = [" ".join(words[at : at + 4]) for at in range(0, min(len(words) - 3, 200), 2)]
    parts = [part for item in items for part in item]
    in_task = sum(run in task for run in runs)
    text = " ".join(words)
    orders = [
        "\n".join(
            line for line in (*part.instructing.split("\n"), *part.following.split("\n")) if not _quotes(line, text)
        )
        for part in parts
    ]
    ordered = sum(any(run in order for order in orders) for run in runs)
    quoted = sum(any(run in f"{part.data}\n{part.instructing}\n{part.following}" for part in parts) for run in runs)
    best = max(in_task, ordered, quoted)
    if best * 2 < len(runs):
        return Origin.ELSEWHERE
    if best == in_task:
        return Origin.TASK
    return Origin.INSTRUCTION if ordered * 2 >= len(runs) and ordered * 4 >= best * 3 else Origin.DATA


def _quotes(line: str, text: str) -> bool:
    """Whether a sentence is a part of a long value, or only holds it: what reads as an order is the value itself."""
    core = line.strip("\"'`*#>- .")
    head, _, tail = core.partition(": ")
    if core in text or (tail and tail.strip("\"' ") in text and not instructs(head)):
        return True
    return text in line and not instructs(line.replace(text, " … "))


@functools.lru_cache(maxsize=1024)
def _names_destination(name: str) -> bool:
    """Whether an argument of this name says where something goes; tools have few arguments."""
    return _DESTINATION_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()) is not None
