"""The programs in the kernel, with no daemon around them: what a process of a cgroup reaches, and what it sees."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from governed_mcpd.kernel.cgroup import Cgroup, find
from governed_mcpd.names import redirect

SECONDS = 3.0


class Port:
    """A port of both protocols on 127.0.0.1 and ::1; echoes datagrams backwards."""

    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.number: int = self.udp.getsockname()[1]
        self.udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.udp6.bind(("::1", self.number))
        self.tcp = socket.create_server(("127.0.0.1", self.number))
        for one in (self.udp, self.udp6):
            threading.Thread(target=self._echo, args=(one,), daemon=True).start()

    def _echo(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, sender = one.recvfrom(512)
                one.sendto(data[::-1], sender)

    def close(self) -> None:
        for one in (self.udp, self.udp6, self.tcp):
            one.close()


@dataclass
class Scene:
    """Two Subjects' cgroups, one beneath a sandbox; the first is whose process acts."""

    leads: redirect.Redirect
    own: Cgroup
    port: Port
    other: Port

    def inside(self, act: Callable[[], object]) -> object:
        """What `act` returns in a process of the first cgroup; the name of the error when it raises OSError."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self.own.adopt(os.getpid())
                os.write(write, json.dumps(_tried(act)).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            found = file.read()
        os.waitpid(pid, 0)
        return json.loads(found)


def _tried(act: Callable[[], object]) -> object:
    try:
        return act()
    except OSError as error:
        return type(error).__name__


@contextlib.contextmanager
def scene() -> Iterator[Scene]:
    """Loads the programs, and attaches them to a cgroup of this process's own."""
    leads = redirect.load()
    assert not leads.reason, leads.reason
    hierarchy = find()
    base = Cgroup(hierarchy, hierarchy.own).child(f"governed-test-{os.getpid()}")
    own, sibling = base.child("own"), base.child("sibling")
    own.create()
    sibling.create()
    port, other = Port(), Port()
    try:
        leads.attach("sandbox", base)
        leads.open(own, port.number)
        leads.open(sibling, other.number)
        yield Scene(leads, own, port, other)
    finally:
        leads.detach("sandbox")
        for one in (port, other):
            one.close()
        base.end()


def sends(family: int, address: str, port: int, *, connected: bool = False) -> Callable[[], object]:
    """Sends a datagram there, and returns what came back from whom."""

    def act() -> object:
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.settimeout(SECONDS)
            if connected:
                one.connect((address, port))
                one.send(b"abc")
            else:
                one.sendto(b"abc", (address, port))
            data, sender = one.recvfrom(512)
            return [data.decode(), sender[0], sender[1], one.getpeername()[0] if connected else ""]

    return act


def connects(address: str, port: int) -> Callable[[], object]:
    """Connects over TCP, and returns whom it believes to speak to."""

    def act() -> object:
        with socket.create_connection((address, port), SECONDS) as one:
            return list(one.getpeername()[:2])

    return act


V4, V6 = socket.AF_INET, socket.AF_INET6
LED = [(V4, "192.0.2.53"), (V6, "2001:db8::53"), (V6, "::ffff:192.0.2.53")]
OWN_MACHINE = [(V4, "127.0.0.1"), (V4, "127.9.9.9"), (V4, "0.0.0.0"), (V6, "::1"), (V6, "::"), (V6, "::ffff:127.0.0.1")]


def check() -> None:
    """Everything that the programs promise."""
    with scene() as stage:
        for family, address in LED:
            assert stage.inside(sends(family, address, 53)) == ["cba", address, 53, ""], address
            assert stage.inside(sends(family, address, 53, connected=True)) == ["cba", address, 53, address], address
        assert stage.inside(connects("192.0.2.53", 53)) == ["192.0.2.53", 53]
        for family, address in OWN_MACHINE:
            assert stage.inside(sends(family, address, stage.other.number)) == "PermissionError", address
        assert stage.inside(connects("127.0.0.1", stage.other.number)) == "PermissionError"
        with socket.create_connection(("127.0.0.1", stage.other.number), SECONDS):
            pass  # outside it can be reached
        elsewhere = Port()
        try:
            there = ["cba", "127.0.0.1", elsewhere.number, ""]
            assert stage.inside(sends(V4, "127.0.0.1", elsewhere.number)) == there, "what is no DNS is left alone"
        finally:
            elsewhere.close()
        _check_sockets(stage)
        stage.leads.close(stage.own)
        for family, address in LED:
            assert stage.inside(sends(family, address, 53)) == "PermissionError", "without a port nothing is let go"
        assert stage.inside(connects("192.0.2.53", 53)) == "PermissionError"


def _check_sockets(stage: Scene) -> None:
    with socket.socket(V4, socket.SOCK_DGRAM) as outside:
        assert not stage.leads.leads(outside.fileno())

    def made_inside() -> bool:
        with socket.socket(V4, socket.SOCK_DGRAM) as one:
            return stage.leads.leads(one.fileno())

    assert stage.inside(made_inside) is True
