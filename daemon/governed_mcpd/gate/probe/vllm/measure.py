"""What has to be known of a model before its logits mean anything: measured in place, or the model is not used.

In this order: that the server has the model; that two words are one token each where the verdict stands; how the tokens
are read there; what the model says of actions that say nothing (its bias); and that it tells good from bad.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from governed_mcpd.gate.probe import selftest
from governed_mcpd.gate.probe.logits import LABEL_MASS_FLOOR, Calibration, Logits, ProbeError
from governed_mcpd.gate.probe.vllm.prompt import Template, Words
from governed_mcpd.gate.probe.vllm.server import METHODS, Identity, Method, Read, Reads, Server, ServerError
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import Action
from governed_mcpd.policy.documents import VllmServer

_LOG = logging.getLogger(__name__)
# vLLM's blocks are 16 tokens on a GPU and up to 128 on a CPU; the shared part ends where all of them do.
BLOCK = 128
_FILLER_TRIES = 4
_PAIRS = (("Safe", "Dangerous"), ("No", "Yes"))
_RESERVE = 16
_NULL_ROOM = 2048
# Kernels round differently for other batches, more so in bfloat16; another model differs by more in one of seven.
TOLERANCE = 0.25
Deadline = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the verdict of one pair of words is read: the prompt's frame, its shared part, tokens and room."""

    template: Template
    head: str
    head_tokens: int
    labels: tuple[int, int]
    room: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was measured. `fingerprint`: ℓ(Dangerous) − ℓ(Safe) for the null actions, under a prompt without any
    constitution; `revision` names it. `configuration`: what each answer of its server says of model and settings."""

    identity: Identity
    place: Place
    method: Method
    fingerprint: tuple[float, ...]
    revision: str
    configuration: str
    bias: float
    plain: Place

    @property
    def words(self) -> Words:
        """The verdicts."""
        return self.place.template.words


class Memory:
    """What was measured before: revisions by their fingerprints; biases per model, revision, words and prompt."""

    def __init__(self) -> None:
        self._revisions: list[tuple[tuple[float, ...], str]] = []
        self._biases: dict[tuple[str, str, Words, str], float] = {}

    def revision(self, fingerprint: tuple[float, ...]) -> str:
        """A name for the model with this fingerprint: that of the first measurement which it resembles."""
        for known, name in self._revisions:
            if alike(known, fingerprint):
                return name
        # By way of thousandths, which is how a fingerprint is written down: one that was read has the same name.
        name = "r" + "".join(f"{round(round(value * 1000) / 100) & 0xFF:02x}" for value in fingerprint[:4])
        self._revisions.append((fingerprint, name))
        return name

    def bias(self, key: tuple[str, str, Words, str], measure: Callable[[], float]) -> float:
        """The bias of `key`: measured once."""
        if key not in self._biases:
            self._biases[key] = measure()
        return self._biases[key]


def alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two fingerprints can be of the same model."""
    return len(one) == len(other) and all(abs(a - b) <= TOLERANCE for a, b in zip(one, other, strict=True))


def measure(
    server: Server, settings: VllmServer, principles: tuple[str, ...], memory: Memory, deadline: Deadline
) -> Model:
    """Raises ProbeError with every reason why the model cannot be used."""
    identity = server.identity(deadline())
    reasons: list[str] = []
    for words in _candidates(settings):
        frame = Template(words, principles, settings.before, settings.after)
        try:
            place = _place(server, frame, identity, deadline)
            plain = _place(server, replace(frame, principles=()), identity, deadline)
            return _measured(server, settings, identity, place, plain, memory, deadline)
        except _Unfit as error:
            reasons.append(f"{words.safe!r}/{words.dangerous!r}: {error}")
    raise ProbeError(f"{settings.model} cannot be used: " + "; ".join(dict.fromkeys(reasons)))


class _Unfit(ProbeError):
    """These words do not serve with this model; others may."""


def _candidates(settings: VllmServer) -> Iterator[Words]:
    """With the blank before the word first: that is how models write after a colon."""
    given = settings.verbalizers
    for safe, dangerous in ((given.safe, given.dangerous),) if given else _PAIRS:
        yield Words(f" {safe}", f" {dangerous}")
        yield Words(safe, dangerous)


def _place(server: Server, frame: Template, identity: Identity, deadline: Deadline) -> Place:
    """Where the verdict stands under `frame`. Raises _Unfit when the words are not single tokens there."""
    item = _items(frame, selftest.NULLS[:1])[0]
    prompt = server.tokens(frame.head + item, deadline())
    labels = []
    for word in (frame.words.safe, frame.words.dangerous):
        with_word = server.tokens(frame.head + item + word, deadline())
        if len(with_word) != len(prompt) + 1 or with_word[:-1] != prompt:
            raise _Unfit(f"{word!r} is not one token where the verdict stands")
        labels.append(with_word[-1])
    if labels[0] == labels[1]:
        raise _Unfit("both verdicts are the same token")
    template, head_tokens = _filled(server, frame, deadline)
    whole = server.tokens(template.head + item, deadline())
    if server.tokens(template.head, deadline()) != whole[:head_tokens]:
        raise _Unfit("the shared part of the prompt has other tokens when something follows it")
    tail = len(server.tokens(template.tail, deadline()))
    room = identity.longest - head_tokens - tail - _RESERVE
    if room < _NULL_ROOM // 4:
        raise ProbeError(
            f"the model reads {identity.longest} tokens, and instructions and constitution take {head_tokens} of them: "
            "start vLLM with a larger --max-model-len"
        )
    return Place(template, template.head, head_tokens, (labels[0], labels[1]), room)


def _filled(server: Server, frame: Template, deadline: Deadline) -> tuple[Template, int]:
    """`frame` with filler up to the end of a cache block, as far as this tokenizer lets it come out even."""
    template, count = frame, len(server.tokens(frame.head, deadline()))
    for _ in range(_FILLER_TRIES):
        if count % BLOCK == 0:
            break
        template = replace(template, filler=template.filler + -count % BLOCK)
        count = len(server.tokens(template.head, deadline()))
    return template, count


def _measured(
    server: Server,
    settings: VllmServer,
    identity: Identity,
    place: Place,
    plain: Place,
    memory: Memory,
    deadline: Deadline,
) -> Model:
    method, nulls = _method(server, settings, plain, deadline)
    fingerprint = tuple(read.dangerous - read.safe for read in nulls.reads)
    _check_mass(nulls.reads)
    pinned = settings.fingerprint
    if pinned is not None and not alike([value / 1000 for value in pinned], fingerprint):
        found = ", ".join(f"{value:.2f}" for value in fingerprint)
        raise ProbeError(
            f"the server's {settings.model} is not the model that was calibrated: its fingerprint is {found}; "
            "calibrate again, or start the server with that model"
        )
    revision = memory.revision(tuple(value / 1000 for value in pinned) if pinned is not None else fingerprint)

    def ask(actions: Sequence[Action]) -> Reads:
        return server.read(method, place.head, _items(place.template, actions), place.labels, deadline())

    def measure_bias() -> float:
        reads = ask(selftest.NULLS).reads
        _check_mass(reads)
        return math.fsum(read.dangerous - read.safe for read in reads) / len(reads)

    key = (f"{settings.model} {identity.root}", revision, place.template.words, place.template.version)
    bias = memory.bias(key, measure_bias)
    tested = ask((*selftest.GOOD, *selftest.BAD))
    _check(settings.model, tested.reads, bias)
    _report(settings, place, method, revision, bias, tested)
    return Model(identity, place, method, fingerprint, revision, tested.configuration, bias, plain)


def _method(server: Server, settings: VllmServer, place: Place, deadline: Deadline) -> tuple[Method, Reads]:
    """The first way to read two tokens that this server knows, and what it read for the null actions."""
    methods: Sequence[Method] = METHODS if settings.method == "auto" else (settings.method,)
    reasons = []
    for method in methods:
        try:
            return method, server.read(method, place.head, null_items(place.template), place.labels, deadline())
        except ServerError as error:
            reasons.append(f"{method}: {error}")
    raise ProbeError("the two verdict tokens cannot be read: " + "; ".join(reasons))


def null_items(template: Template) -> list[str]:
    """The endings of the prompts for the actions that say nothing."""
    return _items(template, selftest.NULLS)


def _items(template: Template, actions: Sequence[Action]) -> list[str]:
    return [template.item(Reading(action), _NULL_ROOM)[0] for action in actions]


def _check_mass(reads: Sequence[Read]) -> None:
    least = min(read.mass for read in reads)
    if least < LABEL_MASS_FLOOR:
        raise _Unfit(f"label mass {least:.4f} is under {LABEL_MASS_FLOOR}: the model does not answer the question")


def _check(model: str, reads: Sequence[Read], bias: float) -> None:
    """The self-test on what was read for the known-good and the known-bad actions."""
    _check_mass(reads)
    calibration = Calibration(bias, selftest.ALPHA)
    scores = [calibration.dangerous(Logits(read.safe, read.dangerous, read.mass)) for read in reads]
    good = len(selftest.GOOD)
    try:
        selftest.separate(model, scores[:good], scores[good:])
    except ProbeError as error:
        raise _Unfit(str(error)) from None


def _report(settings: VllmServer, place: Place, method: Method, revision: str, bias: float, tested: Reads) -> None:
    share = "of the prompts' tokens the server does not say how many it had cached"
    if tested.cached is not None:
        share = f"{tested.cached} of {tested.tokens} tokens of the last prompts came from the cache"
    _LOG.info(
        "%s at %s is used: revision %s, %s, verdicts %r and %r, bias %.3f; %d tokens are shared; %s",
        settings.model,
        settings.url,
        revision,
        method,
        place.template.words.safe,
        place.template.words.dangerous,
        bias,
        place.head_tokens,
        share,
    )
