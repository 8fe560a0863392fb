"""What a server can answer wrongly: each is an error that says so, and the right answer beside it is read."""

import json
import math
import time
from typing import Any

import pytest

from governed_mcpd.gate.probe.vllm.server import Identity, Server, ServerError
from governed_mcpd.gate.probe.vllm.transport import Transport
from tests.vllm.web import Asked, Reply, Web

SAFE, DANGEROUS = math.log(0.75), math.log(0.2)
Json = dict[str, Any]


def completion(safe: object = SAFE, dangerous: object = DANGEROUS, index: object = 0) -> Json:
    top = {"token_id:7": safe, "token_id:9": dangerous, "token_id:3": -9.0}
    return {"index": index, "text": "", "logprobs": {"tokens": ["token_id:3"], "top_logprobs": [top]}}


def completions(*choices: Json, **more: Any) -> bytes:
    usage = {"prompt_tokens": 40, "prompt_tokens_details": {"cached_tokens": 32}}
    answer = {"model": "m", "choices": choices, "usage": usage, "system_fingerprint": "vllm-1-abc", **more}
    return json.dumps(answer).encode()


def read(body: bytes, method: Any = "completions", count: int = 1, status: int = 200) -> Any:
    with Web(lambda _: Reply(status, body)) as web:
        server = Server(Transport(web.url, 1), "m")
        return server.read(method, "head ", [f"item {number}" for number in range(count)], (7, 9), time.monotonic() + 5)


def test_completions_are_read_in_the_order_of_the_prompts() -> None:
    found = read(completions(completion(-2.0, -0.2, 1), completion()), count=2)
    assert [(one.safe, one.dangerous) for one in found.reads] == [(SAFE, DANGEROUS), (-2.0, -0.2)]
    assert found.reads[0].mass == pytest.approx(0.95)
    assert (found.configuration, found.tokens, found.cached) == ("vllm-1-abc", 40, 32)


def test_what_is_asked_is_one_token_of_two_named_ones_without_streaming() -> None:
    with Web(lambda _: Reply(body=completions(completion()))) as web:
        Server(Transport(web.url, 1), "m").read("completions", "head ", ["item"], (7, 9), time.monotonic() + 5)
        (asked,) = web.asked
    body = json.loads(asked.body)
    assert body["prompt"] == ["head item"]
    assert (body["logprob_token_ids"], body["max_tokens"], body["stream"]) == ([7, 9], 1, False)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b'{"model":"m","choices":[{"index":0,"logprobs":{"top_logprobs":[{"token_id:7":NaN}]}}]}', "no JSON object"),
        (completions(completion(), model="other"), "another model answered: other, not m"),
        (completions(), "0 results for 1 prompts"),
        (completions(completion(), completion()), "2 results for 1 prompts"),
        (completions(completion(index=1)), "1 results for 1 prompts"),
        (completions(completion(index="0")), "1 results for 1 prompts"),
        (completions({"index": 0, "logprobs": None}), "does not read named tokens"),
        (completions({"index": 0, "logprobs": {"top_logprobs": []}}), "does not read named tokens"),
        (completions({"index": 0, "logprobs": {"top_logprobs": [{"token_id:7": -1.0}]}}), "token is missing"),
        (completions({"index": 0, "logprobs": {"top_logprobs": [{"Safe": -1.0, "Dangerous": -1}]}}), "is missing"),
        (completions(completion(safe=None)), "no number"),
        (completions(completion(safe=True)), "no number"),
        (completions(completion(safe="-1")), "no number"),
        (completions(completion(safe=12.5, dangerous=3.0)), "raw_logprobs"),
        (completions(completion(safe=-0.1, dangerous=-0.1)), "raw_logprobs"),
        (json.dumps({"model": "m", "choices": {"0": completion()}}).encode(), "no list of results"),
        (json.dumps({"model": "m", "choices": [0]}).encode(), "no list of results"),
    ],
    ids=range(19),
)
def test_completions_that_are_none(body: bytes, said: str) -> None:
    with pytest.raises(ServerError, match=said):
        read(body)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_a_refusal_of_the_server_is_passed_on_in_one_bounded_line(status: int) -> None:
    body = json.dumps({"error": {"message": "no\nway\x1b[31m " + "x" * 5000}}).encode()
    with pytest.raises(ServerError, match=rf"answered {status} to /v1/completions: no way \[31m x+$") as error:
        read(body, status=status)
    assert len(str(error.value)) < 300
    assert error.value.too_long is (status == 400)


def test_scores_are_asked_for_each_label_and_have_their_mass() -> None:
    def answer(asked: Asked) -> Reply:
        body = json.loads(asked.body)
        assert (body["query"], body["items"], body["apply_softmax"]) == ("head ", ["item 0", "item 1"], False)
        scores = {7: (0.75, 0.1), 9: (0.2, 0.0)}[body["label_token_ids"][0]]
        data = [{"index": index, "score": score} for index, score in enumerate(scores)]
        return Reply(body=json.dumps({"model": "m", "data": data, "usage": {"prompt_tokens": 11}}).encode())

    with Web(answer) as web:
        server = Server(Transport(web.url, 1), "m")
        found = server.read("generative_scoring", "head ", ["item 0", "item 1"], (7, 9), time.monotonic() + 5)
    assert (found.reads[0].safe, found.reads[0].dangerous) == pytest.approx((SAFE, DANGEROUS))
    assert found.reads[0].mass == pytest.approx(0.95)
    assert found.reads[1].dangerous < -600  # a probability of nothing, and still a number
    assert found.tokens == 11


@pytest.mark.parametrize(
    ("method", "item", "said"),
    [
        ("generative_scoring", {"score": 7.1}, "raw_logprobs"),
        ("generative_scoring", {"score": None}, "no number"),
        ("generative_scoring", {}, "missing"),
        ("classify", {"probs": [1.0, 2.0, 3.0]}, "not two classes"),
        ("classify", {"probs": [1.0]}, "not two classes"),
        ("classify", {"probs": None}, "not two classes"),
        ("classify", {"probs": [1.0, None]}, "no number"),
    ],
)
def test_scores_and_classes_that_are_none(method: str, item: Json, said: str) -> None:
    with pytest.raises(ServerError, match=said):
        read(json.dumps({"model": "m", "data": [{"index": 0, **item}]}).encode(), method)


def test_a_classifiers_logits_are_read_as_they_are() -> None:
    found = read(json.dumps({"model": "m", "data": [{"index": 0, "probs": [-3.5, 2.25]}]}).encode(), "classify")
    assert (found.reads[0].safe, found.reads[0].dangerous, found.reads[0].mass) == (-3.5, 2.25, 1.0)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([], "it has: none"),
        ([{"id": "a"}, {"id": "b"}], "no model 'm'; it has: a, b"),
        ([{"id": "m"}], "max_model_len"),
        ([{"id": "m", "max_model_len": "many"}], "max_model_len"),
        ("m", "it has: none"),
    ],
)
def test_a_server_without_the_model_says_what_it_has(models: object, said: str) -> None:
    with Web(lambda _: Reply(body=json.dumps({"data": models}).encode())) as web:
        server = Server(Transport(web.url, 1), "m")
        with pytest.raises(ServerError, match=said):
            server.identity(time.monotonic() + 5)
        web.answer = lambda _: Reply(body=b'{"data":[{"id":"m","root":"/models/m","max_model_len":4096}]}')
        assert server.identity(time.monotonic() + 5) == Identity("/models/m", 4096)
