"""Gate.Decide, Activate and Describe over gRPC."""

import logging
import threading
from collections.abc import Mapping
from concurrent import futures
from typing import NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from governed.v1 import gate_pb2, gate_pb2_grpc, nouns_pb2
from governed_mcpd.gate import bounds
from governed_mcpd.gate.active import ActivationError, Active, Room, activate
from governed_mcpd.gate.decide import decide
from governed_mcpd.gate.remote import SERVICE
from governed_mcpd.gate.remote.link import Seen
from governed_mcpd.nouns.verdict import deny
from governed_mcpd.nouns.wire import WireError, verdict_to_pb

_LOG = logging.getLogger(__name__)
BACKEND = "embedded"
_THREADS = 8
_WAITING = 64  # threads of a balancer: they wait for other machines
# Above the daemon's pending pauses of many sandboxes, and still bounded: the rest is told RESOURCE_EXHAUSTED at once.
_MOST_CALLS = 1024
_MAX_METADATA = 16 * 1024


class GateService(gate_pb2_grpc.GateServicer):
    """Holds the active set; a decision uses the one that was active when it began."""

    def __init__(self, room: Room, health_servicer: health.HealthServicer) -> None:
        self._room = room
        self._active: Active | None = None
        self._reason = "no policy set is active yet"
        self._activating = threading.Lock()
        self._health = health_servicer
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
        active = self._active
        if active is None:
            _abort(context, grpc.StatusCode.FAILED_PRECONDITION, f"the gate has no policy set: {self._reason}")
        if request.policy_version and request.policy_version != active.version:
            told = f"the gate's policy set is {active.version}, the daemon's is {request.policy_version}: call Activate"
            _abort(context, grpc.StatusCode.FAILED_PRECONDITION, told)
        try:
            action = bounds.read_action(request.action)
        except WireError as error:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        try:
            verdict = decide(action, active.layers, active.version, shadow=active.shadow, explain=request.explain)
            return verdict_to_pb(verdict)
        # The order of the layers is not supposed to raise; if it does, the answer is still a refusal with a reason.
        except Exception as error:
            _LOG.exception("deciding failed")
            return verdict_to_pb(
                deny("gate", "gate-error", f"{type(error).__name__}: {str(error)[:300]}", active.version)
            )

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
        return gate_pb2.GateState(
            policy_version=active.version if active else "",
            backend=BACKEND if self._room.balancer is None else "remote",
            model=self._room.probe.model if self._room.balancer is None else "",
            serving=active is not None,
            reason="" if active else self._reason,
            remotes=[_remote(seen) for seen in self._room.balancer.seen()] if self._room.balancer else [],
        )

    def _set_health(self) -> None:
        state = health_pb2.HealthCheckResponse.SERVING if self._active else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in (SERVICE, ""):
            self._health.set(name, state)


def _remote(seen: Seen) -> gate_pb2.RemoteGate:
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
            futures.ThreadPoolExecutor(_THREADS if room.balancer is None else _WAITING, thread_name_prefix="decide"),
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
        self._server.stop(seconds).wait(seconds + 1)
