"""What a vLLM server is asked, and how its answers are read. Whatever is not exactly as expected is an error.

Three ways to read the two verdict tokens, each one forward pass without generation:

- completions: `logprob_token_ids` names the tokens; vLLM answers with their log-probabilities.
- generative_scoring: many endings of one beginning; gives the probability of one token, so it is asked twice.
- classify: a pooling server whose model was made a classifier of the two tokens (`classifier_from_token`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from governed_mcpd.gate.probe.logits import ProbeError
from governed_mcpd.gate.probe.vllm.transport import Transport, TransportError

Method = Literal["completions", "generative_scoring", "classify"]
METHODS: tuple[Method, ...] = ("completions", "generative_scoring", "classify")
_ROUNDING = 1e-3
_LEAST_PROBABILITY = 1e-300


class ServerError(ProbeError):
    """A server that does not answer, refuses, or answers something else. `too_long`: it may be the prompt's length."""

    def __init__(self, text: str, *, too_long: bool = False) -> None:
        super().__init__(text)
        self.too_long = too_long


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server says of its model: where it comes from, and how many tokens it reads at most."""

    root: str
    longest: int


@dataclass(frozen=True, slots=True)
class Read:
    """Logits of the two verdicts (their differences count), and the share of probability that they have together."""

    safe: float
    dangerous: float
    mass: float


@dataclass(frozen=True, slots=True)
class Reads:
    """One Read for each prompt. `configuration` names the server's model and settings, where it says so; `cached` how
    many of the prompts' `tokens` came from its cache."""

    reads: tuple[Read, ...]
    configuration: str = ""
    tokens: int = 0
    cached: int | None = None


class Server:
    """One model on one server."""

    def __init__(self, transport: Transport, model: str) -> None:
        self._transport = transport
        self._model = model

    def identity(self, deadline: float) -> Identity:
        """Raises ServerError, also when the server has no model of that name."""
        models = self._answer("GET", "/v1/models", None, deadline).get("data")
        found = [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []
        for model in found:
            if model.get("id") == self._model:
                longest = model.get("max_model_len")
                if not isinstance(longest, int) or longest < 1:
                    raise ServerError("the server does not say max_model_len of its model: is it vLLM?")
                return Identity(_printable(str(model.get("root"))), longest)
        names = ", ".join(_printable(str(model.get("id"))) for model in found[:8]) or "none"
        raise ServerError(f"the server has no model {self._model!r}; it has: {names}")

    def tokens(self, prompt: str, deadline: float) -> list[int]:
        """The tokens of `prompt` as the server sees them, with those that it adds. Raises ServerError."""
        body = {"model": self._model, "prompt": prompt, "add_special_tokens": True}
        found = self._answer("POST", "/tokenize", body, deadline).get("tokens")
        if not isinstance(found, list) or not all(isinstance(token, int) for token in found):
            raise ServerError("the server's answer to /tokenize has no tokens")
        return found

    def read(self, method: Method, head: str, items: Sequence[str], labels: tuple[int, int], deadline: float) -> Reads:
        """The two logits after `head` and each of `items`. Raises ServerError."""
        if method == "completions":
            return self._completions([head + item for item in items], labels, deadline)
        if method == "generative_scoring":
            return self._scores(head, items, labels, deadline)
        return self._classes([head + item for item in items], deadline)

    def _completions(self, prompts: Sequence[str], labels: tuple[int, int], deadline: float) -> Reads:
        body = {
            "model": self._model,
            "prompt": prompts,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 0,
            "logprob_token_ids": labels,
            "return_tokens_as_token_ids": True,
            "stream": False,
        }
        answer = self._asked("/v1/completions", body, deadline)
        reads = []
        for choice in _in_order(answer.get("choices"), len(prompts)):
            logprobs = choice.get("logprobs")
            top = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
            first = top[0] if isinstance(top, list) and top else None
            if not isinstance(first, dict):
                raise ServerError("the answer has no log-probabilities: this server does not read named tokens")
            reads.append(_from_logprobs(*(_number(first.get(f"token_id:{label}")) for label in labels)))
        configuration = answer.get("system_fingerprint")
        return Reads(tuple(reads), _printable(configuration) if isinstance(configuration, str) else "", *_usage(answer))

    def _scores(self, head: str, items: Sequence[str], labels: tuple[int, int], deadline: float) -> Reads:
        # Without softmax the score is the true probability of the first label: so each label is first once. The server
        # cuts a prompt that is too long at its end, without a word: whoever asks compares the number of tokens.
        columns = []
        tokens = 0
        for pair in (labels, labels[::-1]):
            body = {
                "model": self._model,
                "query": head,
                "items": items,
                "label_token_ids": pair,
                "apply_softmax": False,
                "add_special_tokens": True,
            }
            answer = self._asked("/generative_scoring", body, deadline)
            scores = [_number(item.get("score")) for item in _in_order(answer.get("data"), len(items))]
            columns.append([math.log(max(score, _LEAST_PROBABILITY)) for score in scores])
            tokens = _usage(answer)[0]
        return Reads(
            tuple(_from_logprobs(safe, dangerous) for safe, dangerous in zip(*columns, strict=True)), "", tokens
        )

    def _classes(self, prompts: Sequence[str], deadline: float) -> Reads:
        body = {"model": self._model, "input": prompts, "use_activation": False}
        answer = self._asked("/classify", body, deadline)
        reads = []
        for item in _in_order(answer.get("data"), len(prompts)):
            values = item.get("probs")
            if not isinstance(values, list) or len(values) != 2:
                raise ServerError("the classifier has not two classes: expected those of the two verdicts, Safe first")
            # A head of two outputs gives all its mass to them.
            reads.append(Read(_number(values[0]), _number(values[1]), 1.0))
        return Reads(tuple(reads), "", *_usage(answer))

    def _asked(self, path: str, body: dict[str, Any], deadline: float) -> dict[str, Any]:
        answer = self._answer("POST", path, body, deadline)
        if answer.get("model") != self._model:
            raise ServerError(f"another model answered: {_printable(str(answer.get('model')))}, not {self._model}")
        return answer

    def _answer(self, method: str, path: str, body: dict[str, Any] | None, deadline: float) -> dict[str, Any]:
        try:
            found = self._transport.request(method, path, orjson.dumps(body) if body is not None else None, deadline)
        except TransportError as error:
            raise ServerError(f"the model server: {error}") from None
        try:
            answer = orjson.loads(found.body)
        except orjson.JSONDecodeError:
            answer = None
        if found.status != 200:
            said = _complaint(answer)
            raise ServerError(f"the model server answered {found.status} to {path}{said}", too_long=found.status == 400)
        if not isinstance(answer, dict):
            raise ServerError(f"the model server's answer to {path} is no JSON object")
        return answer


def _in_order(items: Any, count: int) -> list[dict[str, Any]]:
    """The parts of an answer, by their index; exactly one for each prompt."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ServerError("the answer has no list of results")
    found = {index: item for item in items if isinstance(index := item.get("index"), int)}
    if len(items) != count or found.keys() != set(range(count)):
        raise ServerError(f"{len(items)} results for {count} prompts")
    return [found[index] for index in range(count)]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ServerError("a verdict's token is missing in the answer, or its value is no number")
    if not math.isfinite(value):
        raise ServerError("the value of a verdict's token is not a finite number")
    return float(value)


def _from_logprobs(safe: float, dangerous: float) -> Read:
    mass = math.exp(min(safe, 1.0)) + math.exp(min(dangerous, 1.0))
    if mass > 1.0 + _ROUNDING:
        raise ServerError(
            "the values are no log-probabilities: start vLLM with --logprobs-mode raw_logprobs (its default)"
        )
    return Read(safe, dangerous, min(mass, 1.0))


def _usage(answer: dict[str, Any]) -> tuple[int, int | None]:
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return 0, None
    tokens, details = usage.get("prompt_tokens"), usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return tokens if isinstance(tokens, int) else 0, cached if isinstance(cached, int) else None


def _complaint(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    return f": {_printable(said)}" if isinstance(said, str) else ""


def _printable(text: str) -> str:
    """Words of the server in a reason that people read: one line, bounded."""
    return "".join(char if char.isprintable() else " " for char in text[:200])
