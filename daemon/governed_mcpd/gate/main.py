"""`governed-gate`: decides actions for the daemon, over gRPC on a unix socket, without privileges."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from governed_mcpd import __version__, config, imports, place

if TYPE_CHECKING:
    from governed_mcpd.gate.active import Room
    from governed_mcpd.gate.remote.balancer import Balancer
    from governed_mcpd.gate.remote.serve import RemoteServer
    from governed_mcpd.gate.service import GateServer

_LOG = logging.getLogger("governed-gate")
_DRAIN_SECONDS = 5.0
_REMOTE_DRAIN_SECONDS = 2.0  # always all of it: balancers watch its health until it is gone
_CONNECT_SECONDS = 2.0
_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after SIGTERM or SIGINT, 1 when the gate cannot serve, 2 for wrong options or configuration."""
    options = _parser().parse_args(arguments)
    try:
        settings = config.load(options.config, {key: getattr(options, key) for key in _KEYS})
    except config.ConfigError as error:
        return _fail(str(error), _USAGE)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    os.umask(0o077)
    try:
        if os.geteuid() == 0 and not options.allow_root:
            # Nothing of policy, patterns, schemas or models is read as root.
            place.prepare_as_root("gate", settings.runtime_dir, settings.gate_user)
            place.drop_to(settings.gate_user)
        elif options.gate_user is not None and os.geteuid() != place.ids_of(options.gate_user)[0]:
            return _fail(
                f"--user {options.gate_user}: only root can become another user; this is {place.who()}", _USAGE
            )
        path, lock = place.claim_socket("gate", settings.runtime_dir)
    except place.PlaceError as error:
        return _fail(str(error), 1)
    try:
        return _serve(settings, path)
    finally:
        os.close(lock)


_KEYS = ("runtime_dir", "policy_dir", "gate_user", "log_level", "gate_remotes", "gate_listen", "gate_tls_dir")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="governed-gate",
        description="Decides actions for governed-mcpd. Stays in the foreground; SIGTERM ends it in order.",
    )
    parser.add_argument("--runtime-dir", metavar="D", help="where gate.sock lies (default /run/governed-mcpd)")
    parser.add_argument("--policy-dir", metavar="P", help="policy documents that are active from the start")
    parser.add_argument("--config", metavar="FILE", help=f"configuration (default {config.DEFAULT_FILE})")
    parser.add_argument("--user", dest="gate_user", metavar="NAME", help="when started by root: the user to become")
    parser.add_argument(
        "--gate-remotes", metavar="HOST:PORT,…", help="leave layers 4 and 5 to these gates, and balance over them"
    )
    parser.add_argument("--gate-listen", metavar="HOST:PORT", help="be a remote gate for balancers besides")
    parser.add_argument("--gate-tls-dir", metavar="D", help="own.pem, own.key and ca.pem (governedctl gate certs)")
    parser.add_argument("--allow-root", action="store_true", help="stay root (for containers that have no other user)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _serve(settings: config.Config, path: str) -> int:
    # After the change of user: these read patterns and the model, and start gRPC's threads.
    with imports.for_good():
        from governed_mcpd.gate.active import Room  # noqa: PLC0415 - see above
        from governed_mcpd.gate.layers.rate import Buckets  # noqa: PLC0415 - see above
        from governed_mcpd.gate.probe import embedded, selftest  # noqa: PLC0415 - see above
        from governed_mcpd.gate.probe.logits import ProbeError  # noqa: PLC0415 - see above
        from governed_mcpd.gate.remote import AuthorityError  # noqa: PLC0415 - see above
        from governed_mcpd.gate.service import GateServer  # noqa: PLC0415 - see above

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        probe = embedded.load()
        bias = selftest.prove(probe)
    except ProbeError as error:
        return _fail(f"the model of layer 5 is not usable: {error}", 1)
    own = (settings.runtime_dir, settings.state_dir, settings.policy_dir)
    try:
        room = Room(probe, bias, Buckets(), own, balancer=_balancer(settings))
        remote = _remote_server(Room(probe, bias, Buckets()), settings)
    except (AuthorityError, OSError) as error:
        return _fail(str(error), 1)
    server = GateServer(room)
    _activate_directory(server, settings.policy_dir)
    try:
        # The daemon is root and needs no permission bits; nobody but this user gets any.
        os.umask(0o177)
        server.listen(path)
    except OSError as error:
        return _fail(str(error), 1)
    _LOG.info("serving as %s on %s, model %s", place.who(), path, probe.model)
    place.notify("READY=1")
    while not stop.wait(1.0):
        pass  # a signal that comes just before a wait begins would be seen only when it ends: so it ends
    place.notify("STOPPING=1")
    if remote is not None:
        remote.drain(_REMOTE_DRAIN_SECONDS)
    server.drain(_DRAIN_SECONDS)
    _LOG.info("ended")
    if remote is not None:
        # A thread of grpc_health may wait for ever for a balancer that left in between; nothing of ours is open.
        logging.shutdown()
        os._exit(0)
    return 0


def _balancer(settings: config.Config) -> "Balancer | None":
    """The remote gates that decide layers 4 and 5, if the configuration names any. Raises AuthorityError."""
    if not settings.gate_remotes:
        return None
    # Not used here, and yet now: at the first policy set an upgrade may have put another package's files there.
    import governed_mcpd.gate.remote.layers  # noqa: F401, PLC0415 - see the line above, and _serve
    from governed_mcpd.gate.remote.balancer import Balancer  # noqa: PLC0415 - as in _serve

    balancer = Balancer(settings.gate_remotes.split(","), settings.gate_tls_dir)
    if not balancer.wait_until_ready(_CONNECT_SECONDS):
        for seen in balancer.seen():
            _LOG.warning("remote gate %s cannot be asked yet: %s", seen.address, seen.reason)
    return balancer


def _remote_server(room: "Room", settings: config.Config) -> "RemoteServer | None":
    """What answers balancers, if the configuration says so. Raises AuthorityError, OSError."""
    if not settings.gate_listen:
        return None
    from governed_mcpd.gate.remote.serve import RemoteServer  # noqa: PLC0415 - as in _serve

    server = RemoteServer(room, settings.gate_tls_dir)
    server.listen(settings.gate_listen)
    _LOG.info("serving balancers on %s", settings.gate_listen)
    return server


def _activate_directory(server: "GateServer", policy_dir: str) -> None:
    from governed_mcpd.gate.active import ActivationError  # noqa: PLC0415 - as in _serve
    from governed_mcpd.policy.load import PolicyError, read_files  # noqa: PLC0415 - as in _serve

    try:
        server.service.activate(read_files(policy_dir))
    except (PolicyError, ActivationError) as error:
        # The daemon will send its own set; until then every Decide says why there is no answer.
        _LOG.error("policies in %s are not active:\n%s", policy_dir, error)
        server.service.not_serving(f"policies in {policy_dir}: {error}"[:2000])


def _fail(message: str, status: int) -> int:
    print(f"governed-gate: error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
