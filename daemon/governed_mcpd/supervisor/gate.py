"""The daemon's side of Gate.Decide: gRPC over a unix socket. No answer, a late one or a wrong one is a refusal."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import governed_mcpd.nouns.transport  # noqa: F401 - before grpc, which reads it when it is imported

# isort: split
import grpc

from governed.v1 import gate_pb2, gate_pb2_grpc
from governed.v1 import nouns_pb2 as pb
from governed_mcpd.nouns import wire
from governed_mcpd.nouns.action import Action
from governed_mcpd.nouns.verdict import Verdict, deny
from governed_mcpd.supervisor.streams import NoStream, Question, StreamFailed, Streams

log = logging.getLogger(__name__)
GATE = "gate"
MAX_MESSAGE = 4 * 1024 * 1024
CONNECT_MS = 5000
DESCRIBE_SECONDS = 2.0
ACTIVATE_SECONDS = 30.0
MOST_AGAIN = 3
Answer = Callable[[Verdict], None]
Post = Callable[[Callable[[], None]], None]

_RULES = {
    grpc.StatusCode.UNAVAILABLE: "gate-unavailable",
    grpc.StatusCode.CANCELLED: "gate-unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "gate-timeout",
    grpc.StatusCode.FAILED_PRECONDITION: "gate-wrong-policy",
    grpc.StatusCode.INVALID_ARGUMENT: "gate-malformed-action",
}


class NoVerdict(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """What the gate says on a stream instead of a verdict, as if a call of its own had failed with it."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self._code = _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return str(self)


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


class GateRefused(Exception):
    """The gate does not take a policy set, or does not answer. `code` is stable, the text is the gate's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class GateState:
    """What the gate says of itself; `serving` is False when it does not answer."""

    serving: bool
    reason: str
    policy_version: str = ""
    backend: str = ""
    model: str = ""
    remotes: tuple[gate_pb2.RemoteGate, ...] = ()


@dataclass(slots=True)
class _Asked:
    """One question until it has its answer. `again`: how often it may be asked once more."""

    action: Action
    answer: Answer
    files: pb.PolicySet
    seconds: float
    deadline: float  # monotonic
    again: int = MOST_AGAIN

    def request(self) -> gate_pb2.DecideRequest:
        return gate_pb2.DecideRequest(action=wire.action_to_pb(self.action), policy_version=self.files.version)


class Gate:
    """One channel to the local gate. `post` hands a call to the leader."""

    def __init__(self, socket_path: str, post: Post) -> None:
        self._post = post
        self._channel = grpc.insecure_channel(
            f"unix:{socket_path}",
            options=[
                # A gate that was restarted is used within a second, not after grpc's two minutes.
                ("grpc.initial_reconnect_backoff_ms", 50),
                # How long connecting may take: until the gate has greeted, which takes a while on a busy machine.
                ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._stub = gate_pb2_grpc.GateStub(self._channel)
        self._streams = Streams(self._stub)
        self._lock = threading.Lock()
        self._files: pb.PolicySet = pb.PolicySet()
        self.seconds = 30.0
        self._closed = False
        # Questions for which no stream is free: opening one, or starting a call, takes longer than all that the leader
        # does for a pause, so a thread of its own does that.
        self._more: queue.SimpleQueue[tuple[_Asked, Question | None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._ask_more, name="gate", daemon=True).start()

    def use(self, files: dict[str, bytes], version: str, seconds: float) -> None:
        """The policy set that every verdict has to be made under, and how long a verdict may take."""
        with self._lock:
            self._files = _policy_set(files, version)
            self.seconds = seconds

    def decide(self, action: Action, answer: Answer) -> None:
        """Asks; `answer` is called once, on the leader. Every failure is a refusal. Any thread may ask; it does not
        wait."""
        with self._lock:
            asked = _Asked(action, answer, self._files, self.seconds, time.monotonic() + self.seconds)
        question = Question(asked.deadline, asked.request, partial(self._answered, asked), partial(self._failed, asked))
        if not self._streams.ask(question):
            self._later(asked, question)

    def explain(self, action: pb.Action) -> pb.Verdict:
        """What the gate would decide, with every layer; GateRefused."""
        request = gate_pb2.DecideRequest(action=action, explain=True)
        try:
            verdict: pb.Verdict = self._stub.Decide(request, timeout=self.seconds)
        except grpc.RpcError as error:
            raise _refused(error) from None
        return verdict

    def activate(self, files: dict[str, bytes], version: str) -> None:
        """Makes the gate use a policy set; GateRefused with the gate's own words when it does not."""
        try:
            state = self._stub.Activate(_policy_set(files, version), timeout=ACTIVATE_SECONDS)
        except grpc.RpcError as error:
            raise _refused(error) from None
        if state.policy_version != version:
            raise GateRefused("gate-wrong-policy", f"the gate activated {state.policy_version}, not {version}")

    def describe(self) -> GateState:
        """Asks the gate how it is."""
        try:
            state = self._stub.Describe(gate_pb2.DescribeRequest(), timeout=DESCRIBE_SECONDS)
        except grpc.RpcError as error:
            return GateState(False, _refused(error).args[0])
        return GateState(
            state.serving, state.reason, state.policy_version, state.backend, state.model, tuple(state.remotes)
        )

    def close(self) -> None:
        """Whoever waits for an answer gets a refusal. Nobody asks any more."""
        with self._lock:
            self._closed = True
            self._more.put(None)
        self._streams.close()
        self._channel.close()

    # ---- one question

    def _answered(self, asked: _Asked, answer: gate_pb2.DecideAnswer) -> None:
        """On a stream."""
        if answer.WhichOneof("answer") == "none":
            self._no_verdict(asked, NoVerdict(answer.none.code, answer.none.message))
        elif time.monotonic() > asked.deadline:  # before it was noticed that there was none
            self._tell(asked, _late(asked.seconds, asked.files.version))
        else:
            self._tell(asked, _checked(answer.verdict, asked.files.version))

    def _failed(self, asked: _Asked, failure: Exception) -> None:
        """On a stream; or it could not be asked at all."""
        version = asked.files.version
        if isinstance(failure, NoStream):
            self._later(asked, None)
        elif isinstance(failure, StreamFailed):
            self._tell(asked, _no_stream_answer(failure, asked.seconds, version))
        else:  # a defect of ours, or a channel that was closed: still an answer, and a refusal
            log.error("the gate could not be asked about %s", asked.action.id, exc_info=failure)
            self._tell(asked, deny(GATE, "gate-failed", f"the gate could not be asked: {failure}", version))

    def _no_verdict(self, asked: _Asked, error: grpc.RpcError) -> None:
        """A gate that was started again has its directory's policies, perhaps not those that were applied since: it is
        given them, and asked once more. Whether it took them: its answer tells. While policy changes, another question
        may have given it others meanwhile."""
        if not asked.again or _code(error) is not grpc.StatusCode.FAILED_PRECONDITION:
            self._tell(asked, _no_answer(error, asked.seconds, asked.files.version))
            return
        asked.again -= 1
        log.info("the gate has other policies than the daemon: giving it %s", asked.files.version[:12])
        try:
            future = self._stub.Activate.future(asked.files, timeout=ACTIVATE_SECONDS)
        except Exception as failure:
            self._failed(asked, failure)
            return
        future.add_done_callback(lambda _: self._later(asked, None))

    def _call(self, asked: _Asked) -> None:
        """Asks with a call of its own, in what is left of the time."""
        future = self._stub.Decide.future(asked.request(), timeout=max(asked.deadline - time.monotonic(), 0.0))

        def done(call: grpc.Future) -> None:
            error = call.exception()
            if error is None:
                self._tell(asked, _checked(call.result(), asked.files.version))
            else:
                self._no_verdict(asked, error)

        future.add_done_callback(done)

    def _later(self, asked: _Asked, question: Question | None) -> None:
        """On a stream, where there is a question to put there and one can be had; otherwise as a call of its own."""
        with self._lock:
            if not self._closed:
                self._more.put((asked, question))
                return
        self._tell(asked, deny(GATE, "gate-unavailable", "the daemon ends", asked.files.version))

    def _ask_more(self) -> None:
        while (more := self._more.get()) is not None:
            asked, question = more
            try:
                if question is None or not self._streams.open(question):
                    self._call(asked)
            except Exception as failure:
                self._failed(asked, failure)

    def _tell(self, asked: _Asked, verdict: Verdict) -> None:
        try:
            self._post(partial(asked.answer, verdict))
        except (
            Exception
        ):  # there is no leader any more: whoever waits is answered with its end, or never, and not let go
            log.exception("the verdict on %s could not be handed over", asked.action.id)


def _checked(message: pb.Verdict, version: str) -> Verdict:
    try:
        verdict = wire.verdict_from_pb(message)
    except Exception as error:  # whatever is wrong with an answer, it is none
        return deny(GATE, "gate-wrong-answer", f"the gate's answer cannot be used: {error}", version)
    if verdict.policy_version != version:
        return deny(GATE, "gate-wrong-policy", f"the verdict is of policy {verdict.policy_version[:12]}", version)
    return verdict


def _late(seconds: float, version: str) -> Verdict:
    return deny(GATE, "gate-timeout", f"no verdict within {seconds:g} s", version)


def _no_answer(error: Exception, seconds: float, version: str) -> Verdict:
    code = _code(error)
    rule = _RULES.get(code, "gate-failed") if code is not None else "gate-failed"
    return _late(seconds, version) if rule == "gate-timeout" else deny(GATE, rule, _details(error), version)


def _no_stream_answer(failure: StreamFailed, seconds: float, version: str) -> Verdict:
    if failure.late:
        return _late(seconds, version)
    if failure.wrong:
        return deny(GATE, "gate-wrong-answer", "the gate answered another question", version)
    if failure.error is None:
        return deny(GATE, "gate-unavailable", "the gate ended before it had answered", version)
    return _no_answer(failure.error, seconds, version)


def _refused(error: grpc.RpcError) -> GateRefused:
    code = _code(error)
    return GateRefused(_RULES.get(code, "gate-failed") if code is not None else "gate-failed", _details(error))


def _code(error: Exception) -> "grpc.StatusCode | None":
    code: grpc.StatusCode | None = error.code() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else None
    return code


def _details(error: Exception) -> str:
    text = error.details() if isinstance(error, grpc.RpcError) and hasattr(error, "details") else str(error)
    return (text or type(error).__name__)[:4096]


def _policy_set(files: dict[str, bytes], version: str) -> pb.PolicySet:
    return pb.PolicySet(
        files=[pb.PolicySet.File(name=name, content=content) for name, content in sorted(files.items())],
        version=version,
    )
