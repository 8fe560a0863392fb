"""Gate.DecideEach and the daemon's side of it, over the real programs: what goes wrong is a refusal of one question."""

import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest

from governed.v1 import gate_pb2, gate_pb2_grpc, nouns_pb2
from governed_mcpd.nouns.action import Action
from governed_mcpd.nouns.verdict import Decision, Verdict
from governed_mcpd.nouns.wire import action_to_pb
from governed_mcpd.policy.load import version_of
from governed_mcpd.supervisor.gate import Gate
from tests.gate.samples import WORK, effect, files
from tests.gate.server import Served

ASKED = effect("file.write", f"{WORK}/notes.txt")
STREAMS = 8  # gate/service


@pytest.fixture
def gate() -> Iterator[Served]:
    with Served() as served:
        yield served


@pytest.fixture
def daemon(gate: Served) -> Iterator[Gate]:
    """What the daemon asks with."""
    made = Gate(str(gate.socket), lambda call: call())
    made.use(files(), version_of(files()), 5.0)
    yield made
    made.close()


def verdict_on(daemon: Gate, action: Action) -> Verdict:
    found: Future[Verdict] = Future()
    daemon.decide(action, found.set_result)
    return found.result(20)


class Stream:
    """One stream, question by question."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.questions: queue.SimpleQueue[gate_pb2.DecideRequest | None] = queue.SimpleQueue()
        self.answers = gate_pb2_grpc.GateStub(channel).DecideEach(iter(self.questions.get, None))

    def ask(self, request: gate_pb2.DecideRequest | None = None) -> gate_pb2.DecideAnswer:
        self.questions.put(request or gate_pb2.DecideRequest(action=action_to_pb(ASKED)))
        return next(self.answers)


@contextmanager
def streams(gate: Served, count: int) -> Iterator[list[Stream]]:
    with gate.channel() as channel:
        opened = [Stream(channel) for _ in range(count)]
        for stream in opened:
            assert stream.ask().verdict.decision
        yield opened
        for stream in opened:
            stream.questions.put(None)


def seconds(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def test_question_after_question_and_what_is_wrong_with_one(gate: Served) -> None:
    with streams(gate, 1) as (stream,):
        assert stream.ask(gate_pb2.DecideRequest()).none.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        other = gate_pb2.DecideRequest(action=action_to_pb(ASKED), policy_version="f" * 64)
        assert stream.ask(other).none.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert stream.ask().WhichOneof("answer") == "verdict", "the stream goes on"


def test_too_many_streams_take_no_thread_from_single_calls(gate: Served, daemon: Gate) -> None:
    with streams(gate, STREAMS), gate.channel() as channel:
        with pytest.raises(grpc.RpcError) as error:
            Stream(channel).ask()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert gate.decide(ASKED).decision is Decision.ALLOW
        assert verdict_on(daemon, ASKED).decision is Decision.ALLOW, "as a call of its own"
    assert verdict_on(daemon, ASKED).decision is Decision.ALLOW


def test_idle_streams_do_not_hold_up_the_end(gate: Served) -> None:
    with streams(gate, 4):
        assert seconds(gate.stop) < 4


def test_many_threads_ask_at_once(daemon: Gate) -> None:
    other = effect("file.read", "/home/ana/.ssh/id_rsa")
    with ThreadPoolExecutor(16) as pool:
        verdicts: list[Verdict] = list(pool.map(verdict_on, [daemon] * 200, [ASKED, other] * 100))
    assert [verdict.decision for verdict in verdicts] == [Decision.ALLOW, Decision.DENY] * 100


def test_a_gate_that_was_started_again(gate: Served, daemon: Gate) -> None:
    assert verdict_on(daemon, ASKED).decision is Decision.ALLOW
    gate.stop(signal.SIGKILL)
    down = verdict_on(daemon, ASKED)
    assert (down.decision, down.rule) == (Decision.DENY, "gate-unavailable")
    gate.start()
    deadline = time.monotonic() + 10
    while verdict_on(daemon, ASKED).decision is not Decision.ALLOW:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # It was told nothing but this question: what it needs of other policies it asks for, and is given.
    changed = {**files(), "tool-more.yaml": b"{kind: Tool, name: more, tools: {x: {}}}\n"}
    daemon.use(changed, version_of(changed), 5.0)
    assert verdict_on(daemon, ASKED).policy_version == version_of(changed)


def test_a_gate_that_takes_its_time_to_greet(gate: Served) -> None:
    """A daemon that took sandboxes over on a busy machine asks at once what they wait for, as its first question."""
    assert gate.process is not None
    os.kill(gate.process.pid, signal.SIGSTOP)
    new = Gate(str(gate.socket), lambda call: call())
    try:
        new.use(files(), version_of(files()), 10.0)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(verdict_on, new, ASKED)
            with pytest.raises(TimeoutError):  # and no refusal
                asked.result(0.5)
            os.kill(gate.process.pid, signal.SIGCONT)
            assert asked.result().decision is Decision.ALLOW
    finally:
        os.kill(gate.process.pid, signal.SIGCONT)
        new.close()


def test_a_gate_that_does_not_answer(gate: Served, daemon: Gate) -> None:
    assert verdict_on(daemon, ASKED).decision is Decision.ALLOW
    daemon.seconds = 1.0
    assert gate.process is not None
    os.kill(gate.process.pid, signal.SIGSTOP)
    try:
        late: list[Verdict] = []
        assert 0.9 < seconds(lambda: late.append(verdict_on(daemon, ASKED))) < 4
        assert (late[0].decision, late[0].rule) == (Decision.DENY, "gate-timeout")
    finally:
        os.kill(gate.process.pid, signal.SIGCONT)
    # Its late answer is nobody's: the next question gets its own.
    daemon.seconds = 5.0
    other = effect("file.read", "/home/ana/.ssh/id_rsa")
    assert verdict_on(daemon, other).decision is Decision.DENY
    assert verdict_on(daemon, ASKED).decision is Decision.ALLOW


def test_what_cannot_be_said_is_refused_and_nothing_else(daemon: Gate) -> None:
    unsayable = effect("file.write", f"{WORK}/\ud83d")  # a surrogate that stands for no byte
    for _ in range(10):  # more than there are streams
        refused = verdict_on(daemon, unsayable)
        assert (refused.decision, refused.rule) == (Decision.DENY, "gate-failed")
        assert verdict_on(daemon, ASKED).decision is Decision.ALLOW


class Own(gate_pb2_grpc.GateServicer):
    """A gate whose verdict has the question's id as its rule. `twice`: it says so again, when nobody asks or somebody
    asks something else, on its first stream. `pause`: what it waits before it answers."""

    def __init__(self, *, twice: bool = False, pause: float = 0.0) -> None:
        self.streams = 0
        self.single = 0
        self.pause = pause
        self._twice = twice

    # The names of the methods are those of the service.
    def Decide(self, request: gate_pb2.DecideRequest, context: grpc.ServicerContext) -> nouns_pb2.Verdict:  # noqa: N802
        self.single += 1
        return self._verdict(request)

    def DecideEach(  # noqa: N802
        self, request_iterator: Iterator[gate_pb2.DecideRequest], context: grpc.ServicerContext
    ) -> Iterator[gate_pb2.DecideAnswer]:
        self.streams += 1
        twice = self._twice and self.streams == 1
        for request in request_iterator:
            answer = gate_pb2.DecideAnswer(question=request.question, verdict=self._verdict(request))
            time.sleep(self.pause)
            yield answer
            if twice:
                time.sleep(1.0)
                yield answer

    @staticmethod
    def _verdict(request: gate_pb2.DecideRequest) -> nouns_pb2.Verdict:
        said = {"layer": "l", "rule": request.action.id, "policy_version": "v"}
        return nouns_pb2.Verdict(decision=nouns_pb2.DECISION_ALLOW, **said)


class WithoutStreams(Own):
    """One of before there were streams."""

    DecideEach = gate_pb2_grpc.GateServicer.DecideEach


@contextmanager
def asking(own: Own, path: Path) -> Iterator[Gate]:
    server = grpc.server(ThreadPoolExecutor(16))
    gate_pb2_grpc.add_GateServicer_to_server(own, server)
    server.add_insecure_port(f"unix:{path}/gate.sock")
    server.start()
    made = Gate(f"{path}/gate.sock", lambda call: call())
    try:
        made.use({}, "v", 5.0)
        yield made
    finally:
        made.close()
        server.stop(None)


def named(name: object) -> Action:
    return replace(ASKED, id=f"question-{name}")


def test_each_gets_its_own_answer_once(tmp_path: Path) -> None:
    with asking(Own(), tmp_path) as made:
        answers: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()

        def answered(number: int, verdict: Verdict) -> None:
            answers.put((number, verdict.rule))

        for number in range(500):
            made.decide(named(number), partial(answered, number))
        found = sorted(answers.get(timeout=20) for _ in range(500))
        assert found == [(number, f"question-{number}") for number in range(500)]
        with pytest.raises(queue.Empty):
            answers.get(timeout=0.2)


@pytest.mark.parametrize("pause", [0.0, 3.0])
def test_an_answer_that_nobody_asked_for_is_nobodys(tmp_path: Path, pause: float) -> None:
    own = Own(twice=True)
    with asking(own, tmp_path) as made:
        rules = []
        for number in range(5):
            rules.append(verdict_on(made, named(number)).rule)
            time.sleep(pause if number == 0 else 0)
    # Whoever had asked meanwhile is refused: what was meant for it cannot be told any more.
    expected = [f"question-{number}" for number in range(5)]
    assert [rule for rule in rules if rule != "gate-wrong-answer"] == [
        rule for rule, found in zip(expected, rules, strict=True) if found != "gate-wrong-answer"
    ]
    assert rules.count("gate-wrong-answer") == (0 if pause else 1)
    assert own.streams == 2, "the first stream was given up, the second is kept"


def test_an_answer_that_is_late_is_none(tmp_path: Path) -> None:
    """Also one that comes before the stream's watch has looked, which it does each quarter of a second."""
    own = Own()
    with asking(own, tmp_path) as made:
        assert verdict_on(made, named(1)).rule == "question-1"
        made.seconds = 0.6
        own.pause = 0.65
        late = verdict_on(made, named(2))
        assert (late.decision, late.rule, late.reason) == (Decision.DENY, "gate-timeout", "no verdict within 0.6 s")
        own.pause, made.seconds = 0.0, 5.0
        assert verdict_on(made, named(3)).rule == "question-3"


def test_a_gate_without_streams_is_asked_by_calls(tmp_path: Path) -> None:
    own = WithoutStreams()
    with asking(own, tmp_path) as made:
        for number in range(5):
            assert verdict_on(made, named(number)).rule == f"question-{number}"
        assert own.single == 5
        refused = verdict_on(made, replace(named("x"), subject=replace(ASKED.subject, agent="\ud83d")))
        assert (refused.decision, refused.rule) == (Decision.DENY, "gate-failed")


def test_after_the_end_a_question_is_refused(tmp_path: Path) -> None:
    with asking(Own(), tmp_path) as made:
        assert verdict_on(made, named(1)).rule == "question-1"
        made.close()
        assert verdict_on(made, named(2)).rule == "gate-unavailable"


def test_the_end_leaves_no_question_without_an_answer(gate: Served) -> None:
    assert gate.process is not None
    made = Gate(str(gate.socket), lambda call: call())
    made.use(files(), version_of(files()), 20.0)
    assert verdict_on(made, ASKED).decision is Decision.ALLOW
    os.kill(gate.process.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(verdict_on, made, ASKED) for _ in range(12)]  # more than there are streams
            time.sleep(0.5)
            made.close()
            assert {found.result(5).rule for found in asked} == {"gate-unavailable"}
    finally:
        os.kill(gate.process.pid, signal.SIGCONT)
