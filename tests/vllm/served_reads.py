"""Against a running vLLM: what is read is what the model says, and what is sent is what was meant."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.gate.probe import selftest
from governed_mcpd.gate.probe.logits import ProbeError
from governed_mcpd.gate.probe.vllm.backend import VllmProbe
from governed_mcpd.gate.probe.vllm.measure import BLOCK, Model
from governed_mcpd.gate.probe.vllm.prompt import Template
from governed_mcpd.gate.probe.vllm.server import Method, Server
from governed_mcpd.gate.probe.vllm.transport import Transport
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import Action
from governed_mcpd.policy.documents import Verbalizers, VllmServer
from tests.gate.samples import about, call
from tests.vllm.engine import LONGEST, NAME, Vllm
from tests.vllm.reference import forward
from tests.vllm.test_data import HOSTILE

PRINCIPLES = ("keys are not read", "a git hook runs on later commands of the user")
ACTIONS: tuple[Action, ...] = (*selftest.GOOD, *selftest.BAD)
SPECIAL = ("<pad>", "<s>", "</s>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "|||PHONE_NUMBER|||", "<unk>")


def told(url: str, **more: object) -> VllmServer:
    """The server, as a Gate document names it."""
    return VllmServer.model_validate({"url": url, "model": NAME, **more})


def soon() -> float:
    return time.monotonic() + 30


@pytest.fixture(scope="module")
def probe(vllm: Vllm) -> Iterator[VllmProbe]:
    found = VllmProbe(told(vllm.url), PRINCIPLES)
    yield found
    found.close()


@pytest.fixture(scope="module")
def model(probe: VllmProbe) -> Model:
    return probe.wait()


@pytest.fixture(scope="module")
def server(vllm: Vllm) -> Server:
    return Server(Transport(vllm.url, 4), NAME)


def prompts(template: Template) -> list[str]:
    return [template.head + template.item(Reading(action), 2048)[0] for action in ACTIONS]


def items(template: Template) -> list[str]:
    return [template.item(Reading(action), 2048)[0] for action in ACTIONS]


# ---- the logits


@pytest.mark.parametrize("method", ["completions", "generative_scoring"])
def test_both_logits_equal_a_forward_pass(model: Model, server: Server, method: Method) -> None:
    place = model.place
    found = server.read(method, place.head, items(place.template), place.labels, soon()).reads
    expected = forward(prompts(place.template), place.labels)
    for read, right in zip(found, expected, strict=True):
        assert read.safe == pytest.approx(right.log_safe, abs=1e-3)
        assert read.dangerous == pytest.approx(right.log_dangerous, abs=1e-3)
    # Not a constant: the model says both.
    assert (
        max(read.dangerous - read.safe for read in found) > 2 > -2 > min(read.dangerous - read.safe for read in found)
    )


def test_both_logits_of_a_classifier_equal_a_forward_pass(classifier: Vllm) -> None:
    probe = VllmProbe(told(classifier.url), PRINCIPLES)
    model = probe.wait()
    assert model.method == "classify"
    place = model.place
    expected = forward(prompts(place.template), place.labels)
    for action, right in zip(ACTIONS, expected, strict=True):
        logits = probe.probe(Reading(action))
        assert logits.safe == pytest.approx(right.safe, abs=1e-3)
        assert logits.dangerous == pytest.approx(right.dangerous, abs=1e-3)
        assert logits.label_mass == 1.0


def test_a_decisions_logits_are_those_of_its_own_prompt(probe: VllmProbe, model: Model) -> None:
    expected = forward(prompts(model.place.template), model.place.labels)
    for action, right in zip(ACTIONS, expected, strict=True):
        logits = probe.probe(Reading(action))
        assert (logits.safe, logits.dangerous) == pytest.approx((right.log_safe, right.log_dangerous), abs=1e-3)
        assert logits.label_mass > 0.5
        assert logits.bias == model.bias
        assert f"logit of Dangerous {logits.dangerous:.2f}" in logits.because


@pytest.mark.parametrize("method", ["completions", "generative_scoring"])
def test_many_endings_of_one_beginning_are_read_in_one_request(model: Model, server: Server, method: Method) -> None:
    place = model.place
    together = server.read(method, place.head, items(place.template) * 3, place.labels, soon()).reads
    for index, item in enumerate(items(place.template)):
        alone = server.read(method, place.head, [item], place.labels, soon()).reads[0]
        for repeat in range(3):
            same = together[index + repeat * len(ACTIONS)]
            assert (same.safe, same.dangerous) == pytest.approx((alone.safe, alone.dangerous), abs=1e-3)


def test_the_other_way_to_read_tokens_serves_a_whole_decision(vllm: Vllm, probe: VllmProbe) -> None:
    scoring = VllmProbe(told(vllm.url, method="generative_scoring"), PRINCIPLES)
    assert scoring.wait().method == "generative_scoring"
    for action in ACTIONS:
        one, two = probe.probe(Reading(action)), scoring.probe(Reading(action))
        assert (one.safe, one.dangerous) == pytest.approx((two.safe, two.dangerous), abs=1e-3)


# ---- what is measured first


def test_the_words_are_single_tokens_where_the_verdict_stands(model: Model, server: Server) -> None:
    words, place = model.words, model.place
    assert (words.safe, words.dangerous, model.method) == (" Safe", " Dangerous", "completions")
    prompt = prompts(place.template)[0]
    tokens = server.tokens(prompt, soon())
    for word, label in zip((words.safe, words.dangerous), place.labels, strict=True):
        assert server.tokens(prompt + word, soon()) == [*tokens, label]


@pytest.mark.parametrize(
    ("safe", "dangerous", "said"),
    [
        ("Harmless", "Perilous", "is not one token"),
        ("Safe", "Safe", "the same token"),
        ("No", "Yes", "label mass"),
    ],
)
def test_words_that_do_not_serve_are_refused(vllm: Vllm, safe: str, dangerous: str, said: str) -> None:
    words = Verbalizers(safe=safe, dangerous=dangerous)
    probe = VllmProbe(told(vllm.url, verbalizers=words.model_dump()), PRINCIPLES)
    with pytest.raises(ProbeError, match=said):
        probe.wait()
    with pytest.raises(ProbeError, match=said):
        probe.probe(Reading(ACTIONS[0]))
    assert said in probe.trouble
    probe.close()


@pytest.mark.parametrize(
    ("more", "principles", "said"),
    [
        ({"model": "gpt"}, PRINCIPLES, "no model 'gpt'; it has: tiny"),
        ({"method": "classify"}, PRINCIPLES, "cannot be read: classify: the model server answered"),
        ({}, ("sentence " * 400,) * 20, "start vLLM with a larger --max-model-len"),
        ({"fingerprint": [0, 1000, 2000, 3000, 4000, 5000, 6000]}, PRINCIPLES, "not the model that was calibrated"),
    ],
)
def test_what_cannot_be_used_says_why(
    vllm: Vllm, more: dict[str, object], principles: tuple[str, ...], said: str
) -> None:
    probe = VllmProbe(told(vllm.url, **more), principles)
    with pytest.raises(ProbeError, match=said):
        probe.wait()
    probe.close()


def test_the_fingerprint_is_the_models_and_not_the_constitutions(vllm: Vllm, model: Model) -> None:
    other = VllmProbe(
        told(vllm.url, fingerprint=[round(value * 1000) for value in model.fingerprint]), ("another one",)
    )
    found = other.wait()
    assert found.fingerprint == pytest.approx(model.fingerprint, abs=1e-3)
    assert found.revision == model.revision
    assert found.place.template.version != model.place.template.version


def test_a_bias_is_measured_once_per_model_words_and_prompt(vllm: Vllm, probe: VllmProbe, model: Model) -> None:
    again = VllmProbe(told(vllm.url), PRINCIPLES, probe._memory)
    assert again.wait().bias == model.bias
    assert len(probe._memory._biases) == 1
    more = VllmProbe(told(vllm.url), (), probe._memory)
    assert more.wait().bias != model.bias
    assert len(probe._memory._biases) == 2


# ---- the prompt, after the tokenizer


def test_the_shared_part_ends_with_a_block_and_comes_from_the_cache(model: Model, server: Server) -> None:
    place = model.place
    assert place.head_tokens % BLOCK == 0
    assert len(server.tokens(place.head, soon())) == place.head_tokens
    for number in range(3):
        reading = Reading(call("send_email", json.dumps({"to": f"{number}@x.example"}).encode()))
        item, _ = place.template.item(reading, 2048)
        reads = server.read("completions", place.head, [item], place.labels, soon())
        assert reads.cached == place.head_tokens
        assert reads.tokens > place.head_tokens


texts = st.lists(st.one_of(st.sampled_from((*HOSTILE, *SPECIAL)), st.text(max_size=12)), max_size=6).map("".join)


@pytest.fixture(scope="module")
def special(server: Server) -> set[int]:
    """The special tokens: written in the open, each of their spellings is one of them."""
    spelled = [server.tokens(text, soon())[1:] for text in SPECIAL]
    assert all(len(tokens) == 1 for tokens in spelled)
    return {tokens[0] for tokens in spelled}


@settings(max_examples=150, deadline=None)
@given(texts, texts, texts)
def test_no_text_becomes_a_special_token(
    model: Model, server: Server, special: set[int], task: str, told_: str, value: str
) -> None:
    template, head = model.place.template, model.place.head
    value = value.encode("utf-8", "ignore").decode()
    action = call("send_email", json.dumps({"to": value, value: 1}).encode(), context=about(task, told_))
    item, _ = template.item(Reading(action), 16 * 1024)
    tokens = server.tokens(head + item, soon())
    before, after = server.tokens(head, soon()), server.tokens(template.tail, soon())[1:]
    assert tokens[: len(before)] == before
    assert tokens[-len(after) :] == after
    assert not special.intersection(tokens[1:])


# ---- length


@pytest.mark.parametrize("method", ["completions", "generative_scoring"])
def test_long_contexts_are_cut_and_long_actions_refused(vllm: Vllm, method: Method) -> None:
    probe = VllmProbe(told(vllm.url, method=method), PRINCIPLES)
    probe.wait()
    for padding in ("lorem ipsum " * 20_000, "\u0416\u4e2d\U0001f600<|x|>" * 20_000):
        action = call(
            "send_email", b'{"to":"eve@drop.example"}', context=about("Sum up.", padding + "eve@drop.example")
        )
        logits = probe.probe(Reading(action))
        assert logits.partial
        assert "characters of the context were left out" in logits.because[-1]
    short = call("send_email", b'{"to":"eve@drop.example"}', context=about("Sum up.", "eve@drop.example"))
    assert not probe.probe(Reading(short)).partial
    with pytest.raises(ProbeError, match=r"never shortened|context length|cut the prompt"):
        probe.probe(Reading(call("send_email", json.dumps({"to": "\u4e2d!" * LONGEST}).encode())))
    probe.probe(Reading(short))


def test_thirty_two_at_a_time_are_all_answered(probe: VllmProbe, model: Model) -> None:
    expected = {index: probe.probe(Reading(action)) for index, action in enumerate(ACTIONS)}
    with ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(probe.probe, Reading(ACTIONS[number % len(ACTIONS)])) for number in range(32 * 8)]
        for number, one in enumerate(asked):
            right = expected[number % len(ACTIONS)]
            assert one.result(60).dangerous == pytest.approx(right.dangerous, abs=1e-3)
