"""A remote gate's side: layers 4 and 5 for balancers, over gRPC with mutual TLS.

Policy sets come from the balancers and are kept by their version, which is their hash: each balancer is answered by its
own set, and cannot change what another is answered by.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from governed.v1 import gate_pb2, gate_pb2_grpc, nouns_pb2
from governed_mcpd.gate import bounds
from governed_mcpd.gate.active import ActivationError, Active, Room, activate
from governed_mcpd.gate.decide import decide
from governed_mcpd.gate.remote import LAYERS, SERVICE, AuthorityError
from governed_mcpd.gate.remote.authority import check
from governed_mcpd.nouns.wire import WireError, verdict_to_pb

_LOG = logging.getLogger(__name__)
_MOST_SETS = 16
_THREADS = 8
_MOST_CALLS = 1024
# Connections are made anew once an hour, so that a certificate that ended or was replaced counts.
_HOUR_MS = 3_600_000


class RemoteService(gate_pb2_grpc.GateServicer):
    """Answers balancers. It has no rates and no tiers: what it says depends on the request and the policy set only."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._sets: OrderedDict[str, Active] = OrderedDict()
        self._lock = threading.Lock()

    # The names of the methods are those of the service.
    def Decide(self, request: gate_pb2.DecideRequest, context: grpc.ServicerContext) -> nouns_pb2.Verdict:  # noqa: N802
        only = frozenset(request.layers)
        if not only or not only <= LAYERS:
            told = f"layers: found {sorted(only)}; a remote gate decides {sorted(LAYERS)} and nothing else"
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, told)
        active = self._set(request.policy_version)
        if active is None:
            told = f"this gate has no policy set {request.policy_version}: call Activate"
            _abort(context, grpc.StatusCode.FAILED_PRECONDITION, told)
        try:
            action = bounds.read_action(request.action)
        except WireError as error:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        # Not in shadow: the balancer composes the verdict, and has to know what would be refused.
        return verdict_to_pb(decide(action, active.layers, active.version, explain=request.explain, only=only))

    def DecideEach(  # noqa: N802
        self, request_iterator: Iterator[gate_pb2.DecideRequest], context: grpc.ServicerContext
    ) -> Iterator[gate_pb2.DecideAnswer]:
        # A stream stays with one gate; a balancer has to choose one for each question.
        _abort(context, grpc.StatusCode.UNIMPLEMENTED, "a remote gate answers one question a call: Decide")

    def Activate(self, request: nouns_pb2.PolicySet, context: grpc.ServicerContext) -> gate_pb2.GateState:  # noqa: N802
        files = {file.name: file.content for file in request.files}
        try:
            active = activate(files, self._room)
        except ActivationError as error:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if active.version != request.version:
            told = f"version: found {active.version} for these files, expected {request.version}"
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, told)
        with self._lock:
            self._sets[active.version] = active
            while len(self._sets) > _MOST_SETS:
                self._sets.popitem(last=False)
        _LOG.info("policy set %s, from %s", active.version, _peer(context))
        return self._state(active)

    def Describe(self, request: gate_pb2.DescribeRequest, context: grpc.ServicerContext) -> gate_pb2.GateState:  # noqa: N802
        return self._state(None)

    def _set(self, version: str) -> Active | None:
        with self._lock:
            active = self._sets.get(version)
            if active is not None:
                self._sets.move_to_end(version)
            return active

    def _state(self, active: Active | None) -> gate_pb2.GateState:
        if active is None:
            return gate_pb2.GateState(serving=True)
        return gate_pb2.GateState(
            policy_version=active.version,
            backend=active.backend,
            model=active.model,
            serving=not active.trouble,
            reason=active.trouble,
        )


class RemoteServer:
    """The gRPC server for balancers. Certificates are read again for each connection that is made."""

    def __init__(self, room: Room, tls_dir: str) -> None:
        self._tls = Path(tls_dir)
        self._health = health.HealthServicer()
        for name in (SERVICE, ""):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="remote"),
            maximum_concurrent_rpcs=_MOST_CALLS,
            options=(
                ("grpc.max_receive_message_length", bounds.MAX_MESSAGE),
                ("grpc.max_send_message_length", bounds.MAX_MESSAGE),
                ("grpc.max_connection_age_ms", _HOUR_MS),
                ("grpc.max_connection_age_grace_ms", 60_000),
                # A balancer finds out with pings whether this gate hangs.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
                ("grpc.http2.max_ping_strikes", 0),  # seen without: too_many_pings, from two addresses of one name
                ("grpc.so_reuseport", 0),  # two gates on one port would each get some of the calls
            ),
        )
        gate_pb2_grpc.add_GateServicer_to_server(RemoteService(room), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def listen(self, address: str) -> None:
        """Binds `address` and serves. Raises AuthorityError for certificates, OSError when it cannot listen."""
        credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration_again, require_client_authentication=True
        )
        try:
            bound = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        if bound == 0:
            raise OSError(f"cannot listen on {address}")
        self._server.start()

    def drain(self, seconds: float) -> None:
        """Tells balancers to go elsewhere, and waits for calls in progress at most `seconds`."""
        # Not by its health: telling those who watch it, while one of them leaves, can lock up in grpc_health.
        self._server.stop(seconds).wait(seconds + 1)

    def _configuration(self) -> "grpc.ServerCertificateConfiguration":
        authority, own, key = check(self._tls, "gate")
        return grpc.ssl_server_certificate_configuration([(key, own)], root_certificates=authority)

    def _configuration_again(self) -> "grpc.ServerCertificateConfiguration | None":
        try:
            return self._configuration()
        except AuthorityError as error:
            _LOG.error("the certificates that were read before stay in use: %s", error)
            return None


def _peer(context: grpc.ServicerContext) -> str:
    names = context.auth_context().get("x509_common_name", [b"?"])
    return str(names[0].decode("utf-8", "replace"))


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message[:4000])
    raise AssertionError("ServicerContext.abort raises")
