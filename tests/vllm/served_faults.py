"""A model server that is slow, wrong, broken, another one, or dead: a deny with the reason, and then again an answer.

Faults of answers come from a small proxy before the real server; the others from ending and starting real servers.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from governed_mcpd.gate.active import Active, Room, activate
from governed_mcpd.gate.decide import decide
from governed_mcpd.gate.layers.rate import Buckets
from governed_mcpd.gate.probe import embedded, selftest
from governed_mcpd.gate.probe.logits import Logits, ProbeError
from governed_mcpd.gate.probe.vllm import backend
from governed_mcpd.gate.probe.vllm.backend import VllmProbe
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.verdict import Decision, Verdict
from tests.gate.samples import POLICY, WORK, effect, files
from tests.vllm.engine import NAME, OTHER, Vllm
from tests.vllm.served_reads import PRINCIPLES, told
from tests.vllm.web import Asked, Proxy, Reply

# What the toy knows to be harmless.
STATUS = selftest.GOOD[2]
SECONDS = 3
Change = Callable[[Asked, Reply], Reply]


class Gate:
    """Layers whose fifth asks the server at `url`."""

    def __init__(self, url: str, **more: object) -> None:
        document = {"url": url, "model": NAME, "deadline_seconds": SECONDS, **more}
        policy = POLICY.replace("kind: Gate\n", f"kind: Gate\nbackend: vllm\nvllm: {json.dumps(document)}\n")
        head = embedded.load()
        self.active: Active = activate(files(policy), Room(head, selftest.prove(head), Buckets()))
        self.probe = self.active.probe
        assert isinstance(self.probe, VllmProbe)

    def decide(self) -> Verdict:
        return decide(STATUS, self.active.layers, self.active.version)

    def refuses(self, said: str) -> None:
        """The verdict is a deny of layer 5 that says `said`, in time."""
        begun = time.monotonic()
        verdict = self.decide()
        assert (verdict.decision, verdict.layer, verdict.rule) == (Decision.DENY, "probe", "probe-error")
        assert said in verdict.reason
        assert verdict.lease is None
        assert time.monotonic() - begun < SECONDS + 1

    def answers(self, seconds: float = 60) -> Verdict:
        """The first verdict that is no error; fails when there is none in `seconds`."""
        deadline = time.monotonic() + seconds
        while (verdict := self.decide()).rule == "probe-error" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert verdict.rule != "probe-error", verdict.reason
        assert verdict.dangerous_ppm is not None
        return verdict


@pytest.fixture(scope="module")
def proxy(vllm: Vllm) -> Iterator[Proxy]:
    with Proxy(vllm.url) as found:
        yield found


@pytest.fixture(scope="module")
def gate(proxy: Proxy) -> Gate:
    found = Gate(proxy.url)
    found.answers()
    return found


def body(change: Callable[[dict[str, Any]], object]) -> Change:
    """Changes the JSON of what the server answers."""

    def changed(_: Asked, reply: Reply) -> Reply:
        answer = json.loads(reply.body)
        change(answer)
        return replace(reply, body=json.dumps(answer).encode())

    return changed


def top(change: Callable[[dict[str, Any]], object]) -> Change:
    """Changes the values of the verdict tokens."""
    return body(lambda answer: change(answer["choices"][0]["logprobs"]["top_logprobs"][0]))


FAULTS: dict[str, tuple[Change, str]] = {
    "slow": (lambda _, reply: replace(reply, wait=30.0), "gave no answer in time"),
    "drips": (lambda _, reply: replace(reply, pause=0.05), "gave no answer in time"),
    "500": (lambda *_: Reply(500, b'{"error":{"message":"engine dead"}}'), "answered 500 to /v1/completions: engine"),
    "503": (lambda *_: Reply(503, b"starting"), "answered 503"),
    "429": (lambda *_: Reply(429, b"{}"), "answered 429"),
    "NaN": (lambda _, reply: replace(reply, body=reply.body.replace(b"-", b"NaN,-")), "no JSON object"),
    "NaN as a text": (top(lambda found: found.update(dict.fromkeys(found, "NaN"))), "is no number"),
    "null": (top(lambda found: found.update(dict.fromkeys(found))), "is no number"),
    "drops the tokens": (top(dict.clear), "a verdict's token is missing"),
    "drops log-probabilities": (body(lambda answer: answer["choices"][0].pop("logprobs")), "does not read named"),
    "no mass": (top(lambda found: found.update(dict.fromkeys(found, -20.0))), "label mass"),
    "raw logits": (top(lambda found: found.update(dict.fromkeys(found, 12.0))), "raw_logprobs"),
    "two answers": (body(lambda answer: answer["choices"].append(answer["choices"][0])), "2 results for 1"),
    "half an answer": (lambda _, reply: replace(reply, cut=200), "broke off"),
    "nothing": (lambda _, reply: replace(reply, cut=0), "broke off"),
    "another name": (body(lambda answer: answer.update(model="other")), "another model answered: other"),
    "gone model": (lambda *_: Reply(404, b'{"error":{"message":"The model does not exist."}}'), "does not exist"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_answer_is_a_deny_and_the_next_right_one_counts(gate: Gate, proxy: Proxy, fault: str) -> None:
    before = gate.answers()
    proxy.change, said = FAULTS[fault]
    try:
        for _ in range(2):
            gate.refuses(said)
    finally:
        proxy.change = lambda _, reply: reply
    after = gate.answers()
    assert abs((after.dangerous_ppm or 0) - (before.dangerous_ppm or 0)) < 1000
    assert after.model == before.model


def test_another_configuration_is_noticed_in_its_first_answer(gate: Gate, proxy: Proxy) -> None:
    gate.answers()
    proxy.change = body(lambda answer: answer.update(system_fingerprint="vllm-0-other"))
    try:
        gate.refuses("another model or configuration answers")
        # It was measured again as it now is: the same weights, so the same bias.
        assert gate.answers().decision is Decision.ALLOW
    finally:
        proxy.change = lambda _, reply: reply
    gate.refuses("another model or configuration answers")
    gate.answers()


def test_another_model_under_the_same_name_is_noticed_and_refused(
    gate: Gate, proxy: Proxy, vllm: Vllm, other: Vllm
) -> None:
    before = gate.answers()
    proxy.target = other.url
    try:
        gate.refuses("another model or configuration answers")
        deadline = time.monotonic() + 60
        while "cannot be used" not in gate.decide().reason and time.monotonic() < deadline:
            time.sleep(0.1)
        # What it says separates nothing, or it does not answer at all: it is not used.
        gate.refuses("cannot be used")
    finally:
        proxy.target = vllm.url
    after = gate.answers()
    assert after.model == before.model


def test_another_model_that_hides_its_configuration_is_noticed_by_its_fingerprint(
    vllm: Vllm, other: Vllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_RECHECK_SECONDS", 0.5)
    with Proxy(vllm.url) as proxy:
        gate = Gate(proxy.url, method="generative_scoring")
        gate.answers()
        time.sleep(0.6)
        gate.answers()
        proxy.target = other.url
        time.sleep(0.6)
        gate.refuses("its fingerprint changed")
        proxy.target = vllm.url
        gate.answers()


def test_a_pinned_fingerprint_keeps_any_other_model_out(vllm: Vllm) -> None:
    found = VllmProbe(told(vllm.url), PRINCIPLES).wait()
    pinned = [round(value * 1000) for value in found.fingerprint]
    assert Gate(vllm.url, fingerprint=pinned).answers().decision is Decision.ALLOW
    Gate(vllm.url, fingerprint=[value + 400 for value in pinned]).refuses("not the model that was calibrated")


@pytest.mark.timeout(900)  # three starts of a server
def test_killed_in_the_middle_of_answers_and_started_again() -> None:
    with Vllm() as server:
        gate = Gate(server.url)
        before = gate.answers()
        assert isinstance(gate.probe, VllmProbe)
        stop = threading.Event()
        seen: list[Logits | str] = []

        def ask() -> None:
            while not stop.is_set():
                try:
                    seen.append(gate.probe.probe(Reading(STATUS)))
                except ProbeError as error:
                    seen.append(str(error))
                    time.sleep(0.05)

        askers = [threading.Thread(target=ask) for _ in range(8)]
        for asker in askers:
            asker.start()
        deadline = time.monotonic() + 60
        while len(seen) < 16 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.process is not None
        # Stopped first: requests are under way, unanswered, when it dies.
        os.killpg(server.process.pid, signal.SIGSTOP)
        time.sleep(0.3)
        server.kill()
        time.sleep(1.0)
        stop.set()
        for asker in askers:
            asker.join(SECONDS + 5)
        reasons = {said for said in seen if isinstance(said, str)}
        assert sum(isinstance(said, Logits) for said in seen) >= 8
        # What broke off on a kept connection was tried again, and met nobody.
        assert reasons
        assert all("broke off" in said or "ended" in said or "cannot reach" in said for said in reasons), reasons
        gate.refuses("cannot reach the model server")
        assert "cannot reach" in gate.probe.trouble
        server.start()
        after = gate.answers()
        # The same bias as before, and known-good and known-bad actions were scored again.
        assert abs((after.dangerous_ppm or 0) - (before.dangerous_ppm or 0)) < 1000
        assert after.model == before.model
        assert gate.probe.trouble == ""
        # Idle while it is exchanged for another: noticed before anything is judged by it.
        server.kill()
        server._model = OTHER
        server.start()
        deadline = time.monotonic() + 60
        while "cannot be used" not in (verdict := gate.decide()).reason and time.monotonic() < deadline:
            assert verdict.rule == "probe-error"
        gate.refuses("cannot be used")


def test_the_rest_of_the_gate_goes_on_while_the_server_is_away(vllm: Vllm) -> None:
    gate = Gate("http://127.0.0.1:1")
    gate.refuses("cannot reach the model server at http://127.0.0.1:1")
    verdict = decide(effect("file.write", f"{WORK}/x"), gate.active.layers, "v", explain=True)
    assert [report.result for report in verdict.layers] == ["pass", "pass", "pass", "pass", "deny", "pass"]
    assert Gate(vllm.url).answers().decision is Decision.ALLOW
