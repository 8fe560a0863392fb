"""Ways out over sockets. Servers of the user wait outside; the arena's profile lets 127.0.0.2 and one abstract name be
reached, nothing else: 127.0.0.3 is a neighbour that only the profile tells apart."""

import array
import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.escape.arena import Arena, refused
from tests.support.users import ROOT

STREAMS = ["tcp", "fastopen", "fastopen-message"]
DATAGRAMS = ["udp", "udp-connect", "udp-sendmsg", "udp-sendmmsg", "udp-unspec"]


class Server:
    """Counts what arrives, on one address, stream or datagram."""

    def __init__(self, family: socket.AddressFamily, kind: socket.SocketKind, address: object) -> None:
        self.socket = socket.socket(family, kind)
        self.socket.bind(address)  # type: ignore[arg-type]
        self._stream = kind == socket.SOCK_STREAM
        if self._stream:
            self.socket.listen()
        self.port = str(self.socket.getsockname()[1]) if family != socket.AF_UNIX else ""

    def arrived(self, seconds: float) -> bool:
        """Whether somebody connected, or a datagram came, within `seconds`."""
        self.socket.settimeout(seconds)
        try:
            if self._stream:
                self.socket.accept()[0].close()
            else:
                self.socket.recv(100)
        except TimeoutError:
            return False
        return True

    def nothing(self) -> bool:
        """Whether nothing has come: what the attacker sent would be here, since it has exited."""
        return not self.arrived(0.1)


@contextmanager
def serving(family: socket.AddressFamily, kind: socket.SocketKind, address: object) -> Iterator[Server]:
    server = Server(family, kind, address)
    if isinstance(address, str) and address.startswith("/"):
        os.chmod(address, 0o777)
    try:
        yield server
    finally:
        server.socket.close()


def test_streams_to_addresses(arena: Arena, user: int) -> None:
    """connect, MSG_FASTOPEN by sendto and sendmsg."""
    with (
        serving(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.3", 0)) as closed,
        serving(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.2", 0)) as free,
    ):
        for attack in STREAMS:
            assert arena.proof(user, "network", attack, "127.0.0.3", closed.port).worked, attack
            assert closed.arrived(10)
            outcome = arena.attack(user, "network", attack, "127.0.0.3", closed.port)
            assert refused(outcome, errno.EPERM), (attack, str(outcome), outcome.stderr)
            assert closed.nothing()
            assert arena.attack(user, "network", attack, "127.0.0.2", free.port).worked, attack
            assert free.arrived(10)
        assert {record["decision"] for record in arena.records(f"tcp:127.0.0.3:{closed.port}")} <= {"deny", "ask"}
        assert arena.records(f"tcp:127.0.0.3:{closed.port}")


def test_datagrams_to_addresses(arena: Arena, user: int) -> None:
    """sendto, sendmsg, sendmmsg, connect and send, and AF_UNSPEC, which udp takes for AF_INET."""
    with (
        serving(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.3", 0)) as closed,
        serving(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.2", 0)) as free,
    ):
        for attack in DATAGRAMS:
            assert arena.proof(user, "network", attack, "127.0.0.3", closed.port).worked, attack
            assert closed.arrived(10)
            while not closed.nothing():
                continue
            outcome = arena.attack(user, "network", attack, "127.0.0.3", closed.port)
            assert refused(outcome, errno.EPERM), (attack, str(outcome))
            assert closed.nothing()
            assert arena.attack(user, "network", attack, "127.0.0.2", free.port).worked, attack
            assert free.arrived(10)


def test_ipv4_in_ipv6(arena: Arena, user: int) -> None:
    """::ffff:127.0.0.3 is 127.0.0.3, and an IPv6 socket takes IPv4 addresses."""
    with (
        serving(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.3", 0)) as closed,
        serving(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.2", 0)) as free,
        serving(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.3", 0)) as datagrams,
    ):
        assert arena.proof(user, "network", "tcp", "::ffff:127.0.0.3", closed.port).worked
        assert closed.arrived(10)
        assert refused(arena.attack(user, "network", "tcp", "::ffff:127.0.0.3", closed.port), errno.EPERM)
        assert closed.nothing()
        assert arena.attack(user, "network", "tcp", "::ffff:127.0.0.2", free.port).worked
        assert arena.proof(user, "network", "udp6-to-4", "127.0.0.3", datagrams.port).worked
        assert datagrams.arrived(10)
        for host in ("127.0.0.3", "::ffff:127.0.0.3"):
            assert refused(arena.attack(user, "network", "udp6-to-4", host, datagrams.port), errno.EPERM)
        assert datagrams.nothing()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1"])
def test_further_names_of_this_machine(arena: Arena, user: int, host: str) -> None:
    """The unspecified address leads to this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with serving(family, socket.SOCK_STREAM, (host, 0)) as server:
        assert arena.proof(user, "network", "tcp", host, server.port).worked
        assert server.arrived(10)
        assert refused(arena.attack(user, "network", "tcp", host, server.port), errno.EPERM)
        assert server.nothing()


def test_dissolving_an_association(arena: Arena, user: int) -> None:
    """connect with AF_UNSPEC leads nowhere; the next connect is judged like the first."""
    with (
        serving(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.3", 0)) as closed,
        serving(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.2", 0)) as free,
    ):
        places = ("127.0.0.2", free.port, "127.0.0.3", closed.port)
        assert arena.proof(user, "network", "unspec-then", *places).worked
        assert closed.arrived(10)
        assert refused(arena.attack(user, "network", "unspec-then", *places), errno.EPERM)
        assert closed.nothing()
        assert arena.attack(user, "network", "unspec").worked


UNIX = ["unix-connect", "unix-short"]
UNIX_DATAGRAMS = ["unix-sendto", "unix-sendmsg", "unix-sendmmsg", "pair-sendto", "raw-pair-sendto"]


def test_unix_sockets(arena: Arena, user: int) -> None:
    """By path, through a symlink, through /proc, by abstract name; streams and datagrams."""
    name = arena.new("s")
    path = f"{arena.base}/{name}"
    link = arena.work(user) / arena.new("link")
    link.symlink_to(path)
    abstract = f"@closed-{arena.base}-{name}"
    free = f"@free-{arena.base}"
    for kind, attacks in ((socket.SOCK_STREAM, UNIX), (socket.SOCK_DGRAM, UNIX_DATAGRAMS)):
        with (
            serving(socket.AF_UNIX, kind, path) as named,
            serving(socket.AF_UNIX, kind, "\0" + abstract[1:]) as unnamed,
            serving(socket.AF_UNIX, kind, "\0" + free[1:]) as allowed,
        ):
            for attack in attacks:
                targets = [(named, path), (named, str(link)), (named, f"/proc/self/root{path}")]
                if attack != "unix-short":
                    targets.append((unnamed, abstract))
                for server, target in targets:
                    if len(target) > 107:
                        continue
                    assert arena.proof(user, "network", attack, target).worked, (attack, target)
                    assert server.arrived(10)
                    while not server.nothing():
                        continue
                    outcome = arena.attack(user, "network", attack, target)
                    assert refused(outcome, errno.EPERM), (attack, target, str(outcome))
                    assert server.nothing()
                assert arena.attack(user, "network", attack, free).worked, attack
                assert allowed.arrived(10)
        os.unlink(path)
    assert {record["decision"] for record in arena.records(f"unix:{path}")} <= {"deny", "ask"}


SOCKETS = {
    "netlink uevent": (16, 3, 15),
    "netlink audit": (16, 3, 9),
    "netlink sock_diag": (16, 3, 4),
    "netlink generic": (16, 3, 16),
    "netlink connector": (16, 2, 11),
    "raw icmp": (2, 3, 1),
    "raw": (2, 3, 255),
    "raw six": (10, 3, 58),
    "ping": (2, 2, 1),
    "packet": (17, 3, 0x0300),
    "packet datagram": (17, 2, 0x0300),
    "vsock": (40, 1, 0),
    "seqpacket": (1, 5, 0),
    "crypto": (38, 5, 0),
    "mptcp": (2, 1, 262),
    "udplite": (2, 2, 136),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_other_kinds_of_sockets(arena: Arena, user: int, name: str) -> None:
    """Those that this kernel gives outside are not given inside."""
    family, kind, protocol = SOCKETS[name]
    outside = arena.proof(user, "network", "socket", family, kind, protocol)
    if not outside.worked:  # not in this kernel, or only for root
        numbers = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EPERM, errno.EACCES, errno.ESOCKTNOSUPPORT)
        assert refused(outside, *numbers), str(outside)
    for flags in (0, 0o2000000, 0o4000):
        assert refused(arena.attack(user, "network", "socket", family, kind | flags, protocol), errno.EPERM)


def test_sockets_that_are_allowed(arena: Arena, user: int) -> None:
    """Route netlink, which libc asks for addresses; unix, IPv4, IPv6; pairs of unix sockets."""
    assert arena.attack(user, "network", "route").worked
    for family in (1, 2, 10):
        for kind in (1, 2):
            assert arena.attack(user, "network", "socket", family, kind, 0).worked
    assert refused(arena.attack(user, "network", "dirty-socket"), errno.EPERM)
    for kind in (1, 2, 5):
        assert arena.attack(user, "network", "pair", 1, kind, 0).worked
    for family in (30, 2, 16, 40):
        assert not arena.attack(user, "network", "pair", family, 1, 0).worked


def test_letting_others_in(arena: Arena, user: int) -> None:
    """bind, listen without bind, and bind with AF_UNSPEC, which IPv4 takes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.3", 0))
        port = probe.getsockname()[1]
    for attack, arguments in (
        ("bind", ("0.0.0.0", port)),
        ("bind", ("::", port)),
        ("bind-unspec", (port,)),
        ("listen", ()),
    ):
        assert arena.proof(user, "network", attack, *arguments).worked, attack
        assert refused(arena.attack(user, "network", attack, *arguments), errno.EPERM), attack
    assert arena.attack(user, "network", "bind", "127.0.0.2", port).worked


def test_taking_the_place_of_a_socket(arena: Arena, user: int) -> None:
    """The daemon's names, and a user's outside the envelope, are bound by no sandbox."""
    runtime = arena.instance.runtime_dir
    for path in (runtime / "control.sock", runtime / "sandbox.sock", runtime / "gate.sock", runtime / "new.sock"):
        for profile in ("escape", "wide"):
            assert refused(arena.attack(user, "network", "unix-bind", path, profile=profile), 1, 13, errno.EADDRINUSE)
    target = arena.base / f"outside-{user}" / "bound"
    arena.outside(user)
    assert refused(arena.attack(user, "network", "unix-bind", target), errno.EPERM)
    assert not target.exists()
    assert arena.proof(user, "network", "unix-bind", target).worked
    assert stat.S_ISSOCK(target.stat().st_mode)
    target.unlink()
    arena.instance.check_alive()
    assert arena.instance.status().gate == "serving"


@pytest.mark.parametrize("attack", ["thread-table", "unshared-table", "close-range-table"])
def test_a_thread_with_its_own_descriptors(arena: Arena, user: int, attack: str) -> None:
    """The number that the supervisor looks up in the process's table means another socket in the thread's: a datagram
    socket (allowed to go there) and a stream socket (not)."""
    with serving(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.3", 0)) as closed:
        assert arena.proof(user, "network", attack, "127.0.0.3", closed.port).worked
        assert closed.arrived(10)
        outcome = arena.attack(user, "network", attack, "127.0.0.3", closed.port)
        assert refused(outcome), (str(outcome), outcome.stderr)
        assert closed.nothing()
        assert arena.records(f"udp:127.0.0.3:{closed.port}") == []
    assert arena.attack(user, "network", "close-range-plain").worked


def _hands_over(server: socket.socket, path: Path) -> None:
    connection, _ = server.accept()
    with connection, open(path, "a") as file:
        connection.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))])


def test_descriptors_in_and_out(arena: Arena, user: int) -> None:
    """SCM_RIGHTS goes where connect was approved for, and nowhere else."""
    name = arena.new("rights")
    closed, free = f"@closed-{arena.base}-{name}", f"@free-{arena.base}"
    given = arena.outside(user)
    for address, allowed in ((closed, False), (free, True)):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("\0" + address[1:])
            server.listen()
            thread = threading.Thread(target=_hands_over, args=(server, given), daemon=True)
            thread.start()
            assert arena.attack(user, "network", "take-in", address).worked is allowed
            if not allowed:
                assert given.read_text() == "untouched\n"
                assert arena.proof(user, "network", "take-in", address).worked
                given.write_text("untouched\n")
            thread.join(10)
            assert not thread.is_alive()
            assert arena.attack(user, "network", "hand-over", address, arena.own(user)).worked is allowed
            assert arena.proof(user, "network", "hand-over", address, arena.own(user)).worked


def test_source_routes(arena: Arena, user: int) -> None:
    """With one, what was approved for its destination goes somewhere else first."""
    assert arena.proof(ROOT, "network", "source-route").worked
    assert refused(arena.attack(user, "network", "source-route"), errno.EPERM)
    assert arena.attack(user, "network", "own-option").worked
