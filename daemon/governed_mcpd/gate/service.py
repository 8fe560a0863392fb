"""Gate.Decide, DecideEach, Activate and Describe over gRPC."""

import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import TYPE_CHECKING, NoReturn

import governed_mcpd.nouns.transport  # noqa: F401 - before grpc, which reads it when it is imported

# isort: split
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from governed.v1 import gate_pb2, gate_pb2_grpc, nouns_pb2
from governed_mcpd.gate import bounds
from governed_mcpd.gate.active import ActivationError, Active, Room, activate
from governed_mcpd.gate.decide import decide
from governed_mcpd.gate.remote import SERVICE
from governed_mcpd.nouns.verdict import deny
from governed_mcpd.nouns.wire import WireError, verdict_to_pb

if TYPE_CHECKING:
    from governed_mcpd.gate.remote.link import Seen

_LOG = logging.getLogger(__name__)
# More than cores: a decision by a model on a server, or by a remote gate, only waits for it, and servers take many at a
# time.
_THREADS = 32
_MOST_STREAMS = 8  # each holds a thread as long as it is open, so it has one besides those that serve single calls
_WAITING = 64  # threads of a balancer: they wait for other machines
# Above the daemon's pending pauses of many sandboxes, and still bounded: the rest is told RESOURCE_EXHAUSTED at once.
_MOST_CALLS = 1024
_MAX_METADATA = 16 * 1024


class _NoVerdict(Exception):
    """A question that cannot be answered with a verdict."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class GateService(gate_pb2_grpc.GateServicer):
    """Holds the active set; a decision uses the one that was active when it began."""

    def __init__(self, room: Room, health_servicer: health.HealthServicer) -> None:
        self._room = room
        self._active: Active | None = None
        self._reason = "no policy set is active yet"
        self._activating = threading.Lock()
        self._streams = Streams()
        self._health = health_servicer
        room.servers.changed = self._set_health
        self._set_health()

    def activate(self, files: Mapping[str, bytes], expected_version: str = "") -> Active:
        """Makes `files` the active set. Raises ActivationError; the old set then stays."""
        with self._activating:
            active = activate(files, self._room)
            if expected_version and active.version != expected_version:
                found = f"version: found {active.version} for these files, expected {expected_version}"
                raise ActivationError(f"{found}; send both from one set")
            self._active = active
            self._set_health()
        _LOG.info("policy set %s is active", active.version)
        return active

    def not_serving(self, reason: str) -> None:
        """Says why no set could be made active at start."""
        self._reason = reason

    # The names of the methods are those of the service.
    def Decide(self, request: gate_pb2.DecideRequest, context: grpc.ServicerContext) -> nouns_pb2.Verdict:  # noqa: N802
        try:
            return self._decide(request)
        except _NoVerdict as none:
            _abort(context, none.code, str(none))

    def DecideEach(  # noqa: N802
        self, request_iterator: Iterator[gate_pb2.DecideRequest], context: grpc.ServicerContext
    ) -> Iterator[gate_pb2.DecideAnswer]:
        if not self._streams.begin(context):
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MOST_STREAMS} streams are open already")
        try:
            for request in request_iterator:
                if not self._streams.deciding(context):
                    return  # the gate ends: who asks gets no answer, which is a refusal
                yield self._answer(request)
                if not self._streams.waits(context):
                    return
        finally:
            self._streams.end(context)

    def _answer(self, request: gate_pb2.DecideRequest) -> gate_pb2.DecideAnswer:
        try:
            return gate_pb2.DecideAnswer(question=request.question, verdict=self._decide(request))
        except _NoVerdict as none:
            number: int = none.code.value[0]
            said = gate_pb2.NoVerdict(code=number, message=str(none)[:4000])
            return gate_pb2.DecideAnswer(question=request.question, none=said)

    def _decide(self, request: gate_pb2.DecideRequest) -> nouns_pb2.Verdict:
        active = self._active
        if active is None:
            raise _NoVerdict(grpc.StatusCode.FAILED_PRECONDITION, f"the gate has no policy set: {self._reason}")
        if request.policy_version and request.policy_version != active.version:
            told = f"the gate's policy set is {active.version}, the daemon's is {request.policy_version}: call Activate"
            raise _NoVerdict(grpc.StatusCode.FAILED_PRECONDITION, told)
        try:
            action = bounds.read_action(request.action)
        except WireError as error:
            raise _NoVerdict(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
        try:
            verdict = decide(action, active.layers, active.version, shadow=active.shadow, explain=request.explain)
            return verdict_to_pb(verdict)
        # The order of the layers is not supposed to raise; if it does, the answer is still a refusal with a reason.
        except Exception as error:
            _LOG.exception("deciding failed")
            return verdict_to_pb(
                deny("gate", "gate-error", f"{type(error).__name__}: {str(error)[:300]}", active.version)
            )

    def end_streams(self) -> None:
        """Ends those that wait for a question; the others end with the answer that they are about to give."""
        self._streams.close()

    def Activate(self, request: nouns_pb2.PolicySet, context: grpc.ServicerContext) -> gate_pb2.GateState:  # noqa: N802
        files = {file.name: file.content for file in request.files}
        if len(files) != len(request.files):
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "files: two have the same name; expected each name once")
        try:
            active = self.activate(files, request.version)
        except ActivationError as error:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Exception as error:
            _LOG.exception("activating failed")
            _abort(context, grpc.StatusCode.INTERNAL, f"activating failed: {type(error).__name__}: {str(error)[:300]}")
        return self._state(active)

    def Describe(self, request: gate_pb2.DescribeRequest, context: grpc.ServicerContext) -> gate_pb2.GateState:  # noqa: N802
        return self._state(self._active)

    def _state(self, active: Active | None) -> gate_pb2.GateState:
        reason = self._trouble(active)
        return gate_pb2.GateState(
            policy_version=active.version if active else "",
            backend=active.backend if active else "",
            model=active.model if active else "",
            serving=not reason,
            reason=reason,
            remotes=[_remote(seen) for seen in self._room.balancer.seen()] if self._room.balancer else [],
        )

    def _trouble(self, active: Active | None) -> str:
        """Why every answer would be a refusal."""
        return self._reason if active is None else active.trouble

    def _set_health(self) -> None:
        serving = not self._trouble(self._active)
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in (SERVICE, ""):
            self._health.set(name, state)


class Streams:
    """The open streams: by context, whether one decides now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decide: dict[grpc.ServicerContext, bool] = {}
        self._closed = False

    def begin(self, context: grpc.ServicerContext) -> bool:
        """False when there are too many."""
        with self._lock:
            if self._closed or len(self._decide) >= _MOST_STREAMS:
                return False
            self._decide[context] = False
            return True

    def deciding(self, context: grpc.ServicerContext) -> bool:
        return self._turn(context, True)

    def waits(self, context: grpc.ServicerContext) -> bool:
        return self._turn(context, False)

    def _turn(self, context: grpc.ServicerContext, decides: bool) -> bool:
        with self._lock:
            self._decide[context] = decides
            return not self._closed

    def end(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._decide.pop(context, None)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle = [context for context, decides in self._decide.items() if not decides]
        for context in idle:
            context.cancel()


def _remote(seen: "Seen") -> gate_pb2.RemoteGate:
    return gate_pb2.RemoteGate(
        address=seen.address,
        state=seen.state,
        reason=seen.reason,
        model=seen.model,
        answered=seen.answered,
        failed=seen.failed,
    )


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    # gRPC carries the message in a header, whose size is bounded.
    context.abort(code, message[:4000])
    raise AssertionError("ServicerContext.abort raises")


class GateServer:
    """The gRPC server with the gate, health and reflection."""

    def __init__(self, room: Room) -> None:
        self.health = health.HealthServicer()
        self.service = GateService(room, self.health)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(
                (_THREADS if room.balancer is None else _WAITING) + _MOST_STREAMS, thread_name_prefix="decide"
            ),
            maximum_concurrent_rpcs=_MOST_CALLS,
            options=(
                ("grpc.max_receive_message_length", bounds.MAX_MESSAGE),
                ("grpc.max_send_message_length", bounds.MAX_MESSAGE),
                ("grpc.max_metadata_size", _MAX_METADATA),
            ),
        )
        gate_pb2_grpc.add_GateServicer_to_server(self.service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def listen(self, path: str) -> None:
        """Binds the unix socket `path` and serves. Raises OSError when it cannot."""
        try:
            bound = self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {path}: {error}") from None
        if bound == 0:
            raise OSError(f"cannot listen on {path}")
        self._server.start()

    def drain(self, seconds: float) -> None:
        """Takes no new calls, and waits for those in progress at most `seconds`."""
        self.health.enter_graceful_shutdown()
        self.service.end_streams()
        self._server.stop(seconds).wait(seconds + 1)
