"""The daemon's side of Gate.Decide: gRPC over a unix socket. No answer, a late one or a wrong one is a refusal."""

import logging
import queue
import threading
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
from governed_mcpd.supervisor.streams import NoStream, StreamFailed, Streams

log = logging.getLogger(__name__)
GATE = "gate"
MAX_MESSAGE = 4 * 1024 * 1024
CONNECT_MS = 5000
DESCRIBE_SECONDS = 2.0
ACTIVATE_SECONDS = 30.0
ASKERS = 2
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
        # Building the message and starting the call takes longer than everything else that the leader does for a pause,
        # so other threads do it. A question on an open stream is half as dear as a call of its own, but takes a thread
        # until it is answered: a few do that, and when all of them wait, one starts calls for the rest.
        self._idle = ASKERS
        self._asked: queue.SimpleQueue[tuple[Action, Answer] | None] = queue.SimpleQueue()
        self._more: queue.SimpleQueue[tuple[Action, Answer] | None] = queue.SimpleQueue()
        for number in range(ASKERS):
            threading.Thread(target=self._ask_one_by_one, name=f"gate-{number}", daemon=True).start()
        threading.Thread(target=self._start_calls, name="gate", daemon=True).start()

    def use(self, files: dict[str, bytes], version: str, seconds: float) -> None:
        """The policy set that every verdict has to be made under, and how long a verdict may take."""
        with self._lock:
            self._files = _policy_set(files, version)
            self.seconds = seconds

    def decide(self, action: Action, answer: Answer) -> None:
        """Asks; `answer` is called once, on the leader."""
        with self._lock:
            at_once = self._idle > 0
            self._idle -= at_once
        (self._asked if at_once else self._more).put((action, answer))

    def verdict_on(self, action: Action) -> Verdict:
        """Asks, and waits for the answer: for a thread that has nothing else to do. Every failure is a refusal."""
        with self._lock:
            files, seconds = self._files, self.seconds
        try:
            request = gate_pb2.DecideRequest(action=wire.action_to_pb(action), policy_version=files.version)
            for again in (True, False):
                try:
                    return _checked(self._ask_now(request, seconds), files.version)
                except grpc.RpcError as error:
                    if not again or _code(error) is not grpc.StatusCode.FAILED_PRECONDITION:
                        return _no_answer(error, seconds, files.version)
                    log.info("the gate has other policies than the daemon: giving it %s", files.version[:12])
                    self._stub.Activate.future(files, timeout=ACTIVATE_SECONDS).exception()
                except StreamFailed as failure:
                    return _no_stream_answer(failure, seconds, files.version)
        except Exception as error:
            log.exception("the gate could not be asked about %s", action.id)
            return deny(GATE, "gate-failed", f"the gate could not be asked: {error}", files.version)
        raise AssertionError("the second answer is returned")

    def _ask_now(self, request: gate_pb2.DecideRequest, seconds: float) -> pb.Verdict:
        """On an open stream, or as a call of its own. RpcError, StreamFailed."""
        try:
            answer = self._streams.ask(request, seconds)
        except NoStream:
            verdict: pb.Verdict = self._stub.Decide(request, timeout=seconds)
            return verdict
        if answer.WhichOneof("answer") != "none":
            return answer.verdict
        raise NoVerdict(answer.none.code, answer.none.message)

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
        for _ in range(ASKERS):
            self._asked.put(None)
        self._more.put(None)
        self._streams.close()
        self._channel.close()

    def _ask_one_by_one(self) -> None:
        while (asked := self._asked.get()) is not None:
            action, answer = asked
            verdict = self.verdict_on(action)
            try:
                self._post(partial(answer, verdict))
            except Exception:
                log.exception("the verdict on %s could not be handed over: its thread waits on", action.id)
            with self._lock:
                self._idle += 1

    def _start_calls(self) -> None:
        while (asked := self._more.get()) is not None:
            action, answer = asked
            try:
                self._ask(wire.action_to_pb(action), answer, again=True)
            except Exception as error:
                # A defect of ours, or a channel that was closed: still an answer, and a refusal.
                log.exception("the gate could not be asked about %s", action.id)
                refusal = deny(GATE, "gate-failed", f"the gate could not be asked: {error}", self._files.version)
                self._post(partial(answer, refusal))

    def _ask(self, message: pb.Action, answer: Answer, *, again: bool) -> None:
        with self._lock:
            files, seconds = self._files, self.seconds
        request = gate_pb2.DecideRequest(action=message, policy_version=files.version)
        future = self._stub.Decide.future(request, timeout=seconds)

        def done(call: grpc.Future) -> None:
            error = call.exception()
            if error is None:
                self._post(lambda: answer(_checked(call.result(), files.version)))
            elif again and _code(error) is grpc.StatusCode.FAILED_PRECONDITION:
                self._bring_up_to_date(files, lambda: self._ask(message, answer, again=False))
            else:
                self._post(lambda: answer(_no_answer(error, seconds, files.version)))

        future.add_done_callback(done)

    def _bring_up_to_date(self, files: pb.PolicySet, then: Callable[[], None]) -> None:
        """A gate that was started again has its directory's policies, perhaps not those that were applied since."""
        log.info("the gate has other policies than the daemon: giving it %s", files.version[:12])
        future = self._stub.Activate.future(files, timeout=ACTIVATE_SECONDS)
        # Whether it worked or not: asking again tells, and a refusal then says why.
        future.add_done_callback(lambda _: then())


def _checked(message: pb.Verdict, version: str) -> Verdict:
    try:
        verdict = wire.verdict_from_pb(message)
    except Exception as error:  # whatever is wrong with an answer, it is none
        return deny(GATE, "gate-wrong-answer", f"the gate's answer cannot be used: {error}", version)
    if verdict.policy_version != version:
        return deny(GATE, "gate-wrong-policy", f"the verdict is of policy {verdict.policy_version[:12]}", version)
    return verdict


def _no_answer(error: Exception, seconds: float, version: str) -> Verdict:
    code = _code(error)
    rule = _RULES.get(code, "gate-failed") if code is not None else "gate-failed"
    reason = f"no verdict within {seconds:.0f} s" if rule == "gate-timeout" else _details(error)
    return deny(GATE, rule, reason, version)


def _no_stream_answer(failure: StreamFailed, seconds: float, version: str) -> Verdict:
    if failure.late:
        return deny(GATE, "gate-timeout", f"no verdict within {seconds:.0f} s", version)
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
