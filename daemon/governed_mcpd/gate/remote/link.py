"""One remote gate: its channel with mutual TLS, whether it can be asked, and what came of asking it."""

import json
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import grpc

from governed.v1 import gate_pb2, gate_pb2_grpc
from governed.v1 import nouns_pb2 as pb
from governed_mcpd.gate import bounds
from governed_mcpd.gate.remote import SERVICE, AuthorityError
from governed_mcpd.gate.remote.authority import CA, CERTIFICATE, KEY, check

_LOG = logging.getLogger(__name__)
_LONGEST_REASON = 300
_DRAIN_SECONDS = 300.0
_STUCK_SECONDS = 10.0
_PATIENCE_MS = 2000  # for connecting, and for the answer to a ping
# Where a name has several addresses, gRPC takes them in turn; a gate that says by grpc.health.v1 that it does not serve
# counts as not connected (gRFC A17).
_BALANCING = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": SERVICE}})
_OPTIONS = (
    ("grpc.service_config", _BALANCING),
    # A gate that hangs keeps its connection: only pings tell (gRFC A8).
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", _PATIENCE_MS),
    ("grpc.http2.ping_timeout_ms", _PATIENCE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", _PATIENCE_MS),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", bounds.MAX_MESSAGE),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # who is asked next is the balancer's to say
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a balancer saw of a remote gate."""

    address: str
    state: str
    reason: str
    model: str
    answered: int
    failed: int


class Link:
    """The channel to the gate at `address`. The certificates in `tls_dir` are taken anew when their files change."""

    def __init__(self, address: str, tls_dir: Path) -> None:
        self.address = address
        self._tls = tls_dir
        self._lock = threading.Lock()
        self._files: tuple[int, ...] = ()
        self._ready = False
        self._reason = ""
        self._model = ""
        self._answered = self._failed = 0
        self._since = 0.0  # when it connected or ceased to be connected
        self._connect()

    @property
    def ready(self) -> bool:
        """Connected, and the gate's health service says that it serves."""
        return self._ready

    def ask(self, request: gate_pb2.DecideRequest, seconds: float) -> "grpc.Future":
        """Starts a Decide."""
        return self._stub.Decide.future(request, timeout=seconds)

    def activate(self, files: pb.PolicySet, seconds: float) -> None:
        """Gives the gate a policy set. Raises grpc.RpcError."""
        self._model = self._stub.Activate(files, timeout=seconds).model

    def answered(self, model: str) -> None:
        """Counts an answer."""
        with self._lock:
            self._answered += 1
            self._model, self._reason = model or self._model, ""

    def failed(self, reason: str) -> None:
        """Counts a failure, and keeps why."""
        with self._lock:
            self._failed += 1
            self._reason = reason[:_LONGEST_REASON]

    def ask_how(self, seconds: float) -> "grpc.Future | None":
        """Asks a gate that is not connected how it is: the failure says why not."""
        return None if self._ready else self._stub.Describe.future(gate_pb2.DescribeRequest(), timeout=seconds)

    def seen(self, asked: "grpc.Future | None") -> Seen:
        """How it stands, with what came of `ask_how`."""
        error = asked.exception() if asked is not None else None
        if error is not None and not self._ready:
            self._reason = why(error)[:_LONGEST_REASON]
        state = "ready" if self._ready else "failing"
        with self._lock:
            return Seen(self.address, state, self._reason, self._model, self._answered, self._failed)

    def renew(self) -> None:
        """A new channel when the certificates were replaced; new ones that cannot work are said once and not used. Also
        when the channel has not connected for long: whether the gate is there is then found out from the beginning."""
        stuck = not self._ready and time.monotonic() - self._since > _STUCK_SECONDS
        if self._stamp() == self._files and not stuck:
            return
        old = self._channel
        try:
            self._connect()
        except AuthorityError as error:
            self._files, self._since = self._stamp(), time.monotonic()
            _LOG.error("the certificates that were read before stay in use for %s: %s", self.address, error)
            return
        if stuck:
            old.close()
            return
        _LOG.info("%s: connecting with new certificates", self.address)
        # What is being asked over the old one gets its answer.
        timer = threading.Timer(_DRAIN_SECONDS, old.close)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        self._channel.close()

    def _connect(self) -> None:
        files = self._stamp()
        authority, own, key = check(self._tls, "balancer")
        credentials = grpc.ssl_channel_credentials(authority, key, own)
        channel = grpc.secure_channel(self.address, credentials, options=_OPTIONS)
        self._files, self._channel, self._ready, self._since = files, channel, False, time.monotonic()
        self._stub = gate_pb2_grpc.GateStub(channel)
        # Also keeps it connecting: a channel that nobody uses would rest.
        channel.subscribe(lambda state: self._is_now(channel, state), try_to_connect=True)

    def _is_now(self, channel: "grpc.Channel", state: "grpc.ChannelConnectivity") -> None:
        if channel is not self._channel:
            return
        ready = state is grpc.ChannelConnectivity.READY
        if ready != self._ready:
            _LOG.info("remote gate %s: %s", self.address, state.name.lower())
            self._since = time.monotonic()
        self._ready = ready
        if ready:
            self._reason = ""

    def _stamp(self) -> tuple[int, ...]:
        return tuple(_changed(self._tls / name) for name in (CA, CERTIFICATE, KEY))


def why(error: Exception) -> str:
    """The reason in an error of gRPC, on one line: for a refused connection it has what TLS said."""
    text = error.details() if isinstance(error, grpc.RpcError) and hasattr(error, "details") else str(error)
    code = error.code().name.lower() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else ""
    return " ".join(f"{code}: {text or type(error).__name__}".split())


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
