"""Sockets, received descriptors, signals, and the guards: what a sealed process reaches beyond files."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import seal_acts as acts
from bounds import HANG
from seal_scene import Scene, loaded, scene, start

from governed_mcpd.grant import pins
from governed_mcpd.grant.lsm import LsmSeal
from governed_mcpd.grant.seal import GrantFailed, SealFailed, Target
from governed_mcpd.kernel import bpf
from governed_mcpd.nouns.operation import Operation

MACHINE = {"python": "checkout", "seconds": 900}
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
INET, INET6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX


def refusals(found: Scene) -> list[tuple[str, str]]:
    return [(event.operation, event.object) for event in found.events()]


@contextmanager
def listening(family: int, kind: int, address: object) -> Iterator[socket.socket]:
    """A socket outside the sandbox."""
    with socket.socket(family, kind) as made:
        made.bind(address)
        if kind == TCP:
            made.listen(16)
        yield made


@pytest.fixture
def here(tmp_path: Path) -> Path:
    os.chmod(tmp_path, 0o755)
    return tmp_path


@pytest.mark.parametrize(("family", "host"), [(INET, "127.0.0.1"), (INET6, "::1"), (INET6, "::ffff:127.0.0.1")])
@pytest.mark.parametrize("kind", [TCP, UDP])
def test_connect(family: int, host: str, kind: int) -> None:
    shown = "127.0.0.1" if "127" in host else "[::1]"
    word = "tcp" if kind == TCP else "udp"
    with listening(family, kind, (host, 0)) as one, listening(family, kind, (host, 0)) as other, scene(loaded()) as box:
        port, neighbour = one.getsockname()[1], other.getsockname()[1]
        box.grant(Operation.NET_CONNECT, f"{word}:{shown}:{port}")
        assert box.tries(acts.connect, family, kind, (host, neighbour)) == errno.EPERM
        assert refusals(box) == [("net.connect", f"{word}:{shown}:{neighbour}")]
        assert box.tries(acts.connect, family, kind, (host, port)) == 0
        assert box.tries(acts.connect, family, kind, (host, port)) == errno.EPERM


def test_tcp_is_not_udp() -> None:
    with scene(loaded()) as box:
        box.grant(Operation.NET_CONNECT, "udp:127.0.0.1:9")
        assert box.tries(acts.connect, INET, TCP, ("127.0.0.1", 9)) == errno.EPERM
        assert box.tries(acts.connect, INET, UDP, ("127.0.0.1", 9)) == 0


def test_send_to_an_address() -> None:
    with listening(INET, UDP, ("127.0.0.1", 0)) as one, listening(INET, UDP, ("127.0.0.1", 0)) as other:
        with scene(loaded()) as box:
            to, neighbour = one.getsockname(), other.getsockname()
            box.grant(Operation.NET_SEND, f"udp:127.0.0.1:{to[1]}")
            assert box.tries(acts.send, INET, neighbour) == errno.EPERM
            assert refusals(box) == [("net.send", f"udp:127.0.0.1:{neighbour[1]}")]
            assert box.tries(acts.send, INET, to) == 0
        one.settimeout(20)
        assert one.recv(10) == b"hello"


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_a_grant_is_not_for_sockets_from_outside(kind: int) -> None:
    """Its packets meet the programs and firewalls of another cgroup: names asked through it are led nowhere."""
    word = "tcp" if kind == TCP else "udp"
    with (
        listening(INET, kind, ("127.0.0.1", 0)) as server,
        socket.socket(INET, kind) as outside,
        scene(loaded()) as box,
    ):
        to = server.getsockname()
        shown = f"{word}:127.0.0.1:{to[1]}"
        box.grant(Operation.NET_CONNECT, shown)
        assert box.tries(acts.connect_through, outside.fileno(), to) == errno.EPERM
        assert refusals(box) == [("net.connect", "")]
        assert box.tries(acts.connect, INET, kind, to) == 0
        if kind == UDP:
            box.events()
            box.grant(Operation.NET_SEND, shown)
            assert box.tries(acts.send_through, outside.fileno(), to) == errno.EPERM
            assert refusals(box) == [("net.send", "")]
            assert box.tries(acts.send, INET, to) == 0


def test_bind_and_listen() -> None:
    with scene(loaded()) as box:
        box.grant(Operation.NET_BIND, "tcp:127.0.0.1:7011")
        assert box.tries(acts.bind, INET, TCP, ("127.0.0.1", 7012)) == errno.EPERM
        assert box.tries(acts.bind, INET, TCP, ("0.0.0.0", 7011)) == errno.EPERM
        assert box.tries(acts.bind_and_keep, INET, TCP, ("127.0.0.1", 7011)) == 0
        box.events()
        box.grant(Operation.NET_LISTEN, "tcp:127.0.0.1:7012")
        assert box.tries(acts.listen) == errno.EPERM
        assert refusals(box) == [("net.listen", "tcp:127.0.0.1:7011")]
        box.grant(Operation.NET_LISTEN, "tcp:127.0.0.1:7011")
        assert box.tries(acts.listen) == 0


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_unix_sockets_that_are_files(kind: int, here: Path) -> None:
    one, other = str(here / "one"), str(here / "other")
    with listening(UNIX, kind, one), listening(UNIX, kind, other), scene(loaded()) as box:
        box.grant(Operation.NET_CONNECT, f"unix:{one}", box.thing(one))
        assert box.tries(acts.connect, UNIX, kind, other) == errno.EPERM
        assert refusals(box) == [("net.connect", other)]
        assert box.tries(acts.connect, UNIX, kind, one) == 0
        box.grant(Operation.NET_BIND, f"unix:{one}2", box.entry(one + "2", there=False))
        assert box.tries(acts.bind, UNIX, kind, one + "3") == errno.EPERM
        assert refusals(box)[-1] == ("net.bind", one + "3")
        assert box.tries(acts.bind_and_keep, UNIX, kind, one + "2") == 0
        if kind == TCP:
            box.grant(Operation.NET_LISTEN, f"unix:{one}2", box.thing(one + "2"))
            assert box.tries(acts.listen) == 0


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_abstract_unix_sockets(kind: int) -> None:
    with listening(UNIX, kind, "\0seal-one"), listening(UNIX, kind, "\0seal-one\0"), scene(loaded()) as box:
        box.grant(Operation.NET_CONNECT, "unix:@seal-one")
        assert box.tries(acts.connect, UNIX, kind, "\0seal-one\0") == errno.EPERM
        assert refusals(box) == [("net.connect", "unix:@seal-one\0")]
        assert box.tries(acts.connect, UNIX, kind, "\0seal-one") == 0
        box.grant(Operation.NET_BIND, "unix:@seal-two")
        assert box.tries(acts.bind, UNIX, kind, "\0seal-twO") == errno.EPERM
        assert box.tries(acts.bind, UNIX, kind, "\0seal-two") == 0


def test_send_to_a_unix_socket(here: Path) -> None:
    one, other = str(here / "one"), str(here / "other")
    with listening(UNIX, UDP, one), listening(UNIX, UDP, other), scene(loaded()) as box:
        box.grant(Operation.NET_SEND, f"unix:{one}", box.thing(one))
        assert box.tries(acts.send, UNIX, other) == errno.EPERM
        assert box.tries(acts.send, UNIX, one) == 0


def test_what_stays_inside_needs_no_grant() -> None:
    with scene(loaded()) as box:
        assert box.tries(acts.pair) == 0
        assert box.tries(acts.kill_own_child) == 0
        assert box.tries(acts.bind, UNIX, TCP, "") == 0  # the kernel chooses a name
        assert box.events() == []


# ---- descriptors that arrive


def test_descriptors_from_outside(here: Path) -> None:
    path, secret = here / "file", here / "secret"
    path.write_text("x")
    secret.write_text("x")
    cases = [
        (lambda: os.open(path, os.O_RDONLY), 1),
        (lambda: os.open(path, os.O_WRONLY), 0),
        (lambda: os.open(secret, os.O_RDONLY), 0),
        (lambda: os.open(path, os.O_PATH), 1),
        (lambda: os.open("/dev/null", os.O_RDWR), 1),
        (lambda: os.open("/dev/ptmx", os.O_RDWR), 1),
        (lambda: os.memfd_create("x"), 1),
        (lambda: os.pipe()[1], 1),
        (lambda: socket.socket(INET, TCP).detach(), 0),
        (lambda: os.eventfd(0), 1),
        (lambda: os.dup(loaded().events()), 0),
        (lambda: os.open("/dev/vda", os.O_RDONLY), 0),
    ]
    with scene(loaded()) as box:
        box.seal.protect(box.sandbox, [box.hold(str(secret))])
        for index, (opened, expected) in enumerate(cases):
            descriptor = opened()
            socket.send_fds(box.actor.inside, [b"x"], [descriptor])
            os.close(descriptor)
            number, count = box.actor.tries(acts.receive)
            events = [event.operation for event in box.events()]
            assert (number, count) == (0, expected), index
            assert events == ([] if expected else ["receive"]), index


def test_own_descriptors_may_be_passed_on(here: Path) -> None:
    path = str(here / "file")
    Path(path).write_text("x")
    with scene(loaded()) as box:
        box.grant(Operation.FILE_WRITE, path, box.thing(path))
        assert box.actor.tries(acts.pass_on, path, os.O_RDWR) == (0, 1)
        assert box.actor.tries(acts.pass_on, path, os.O_RDONLY) == (0, 1)
        assert box.actor.tries(acts.pass_socket_on) == (0, 1)


# ---- processes


def test_signals_to_outside() -> None:
    with (
        subprocess.Popen(["sleep", "300"]) as one,
        subprocess.Popen(["sleep", "300"]) as other,
        scene(loaded()) as box,
    ):
        box.grant(Operation.PROCESS_SIGNAL, f"process:{one.pid}")
        assert box.tries(acts.kill, other.pid) == errno.EPERM
        assert refusals(box) == [("process.signal", f"process:{other.pid}")]
        assert box.tries(acts.kill, os.getpid(), signal.SIGKILL) == errno.EPERM
        assert box.tries(acts.kill, one.pid, signal.SIGTERM) == 0
        assert one.wait(HANG) == -signal.SIGTERM
        other.kill()
        with pytest.raises(GrantFailed):
            box.grant(Operation.PROCESS_SIGNAL, "process:-1")


def test_events_are_limited_and_counted() -> None:
    with scene(loaded()) as box:
        assert box.tries(acts.kill_often, os.getpid(), 3000) == 0
        told = box.events()
        time.sleep(1.1)
        assert box.tries(acts.kill, os.getpid()) == errno.EPERM
        told += box.events()
        assert len(told) < 1500
        assert sum(event.dropped for event in told) + len(told) == 3001


def test_what_was_not_told_is_counted_when_the_sandbox_is_released() -> None:
    with scene(loaded()) as box:
        assert box.tries(acts.kill_often, os.getpid(), 3000) == 0
        told = box.events()
        loaded().release(box.sandbox)
        told += box.events()
        assert sum(event.dropped for event in told) + len(told) == 3000


def test_events_are_counted_once_also_by_two_processors() -> None:
    with scene(loaded()) as box:
        number, refused = box.actor.tries(acts.kill_from_two_processes, os.getpid(), 6.0)
        assert number == 0
        told = box.events()
        time.sleep(1.1)
        assert box.tries(acts.kill, os.getpid()) == errno.EPERM
        told += box.events()
        assert len(told) < 64 * 8
        assert sum(event.dropped for event in told) + len(told) == refused + 1


def test_what_is_never_allowed(here: Path) -> None:
    with scene(loaded()) as box:
        for act, arguments, operation in (
            (acts.mount, (str(here),), "mount"),
            (acts.bpf, (), "bpf"),
            (acts.perf, (), "perf"),
            (acts.trace, (os.getpid(),), "ptrace"),
            (acts.syslog, (), "syslog"),
            (os.chroot, (str(here),), "chroot"),
            (acts.umount, ("/run",), "mount"),
        ):
            assert box.tries(act, *arguments) == errno.EPERM, operation
            assert operation in [event.operation for event in box.events()], operation


def test_terminals_that_are_not_its_own() -> None:
    master, slave = os.openpty()
    name = os.ttyname(slave)
    try:
        with scene(loaded()) as box:
            assert box.tries(acts.read, name) == errno.EPERM
            assert refusals(box) == [("file.read", name)]
            assert box.tries(acts.write, name) == errno.EPERM
            assert box.tries(acts.read, "/dev/tty0") == errno.EPERM
            assert box.tries(acts.open_pair) == 0
            box.grant(Operation.FILE_WRITE, name, box.thing(name))
            assert box.tries(acts.write, name) == 0
    finally:
        os.close(master)
        os.close(slave)


# ---- the daemon and its seal

_OTHER = """
import os, sys
from governed_mcpd.kernel import bpf, bpf_load
from governed_mcpd.grant import pins
from governed_mcpd.grant.lsm import LsmSeal
from governed_mcpd.grant.seal import SealFailed
refused = 0
for kind, name in (("maps", "grants"), ("maps", "marked"), ("programs", "file_open")):
    try:
        bpf.pinned(f"{pins.PINS}/{kind}/{name}")
    except PermissionError:
        refused += 1
for command, attr in ((14, MAP), (13, PROGRAM), (30, LINK)):
    try:
        bpf._bpf(command, attr.to_bytes(4, "little") + bytes(28), 32)
    except PermissionError:
        refused += 1
try:
    LsmSeal()
except SealFailed as failure:
    refused += "another governed-mcpd" in str(failure)
try:
    open(f"/proc/{DAEMON}/mem", "rb").read(1)
except PermissionError:
    refused += 1
print(refused)
"""


def test_nobody_else_gets_at_the_seal_or_the_daemon() -> None:
    seal = loaded()
    ids = {"MAP": 0, "PROGRAM": 0, "LINK": 0, "DAEMON": os.getpid()}
    for name, place in (("MAP", "maps/grants"), ("PROGRAM", "programs/file_open"), ("LINK", "links/file_open")):
        descriptor = bpf.pinned(f"{seal.pins}/{place}")
        ids[name] = bpf.info(descriptor).id
        os.close(descriptor)
    program = "".join(f"{name} = {number}\n" for name, number in ids.items()) + _OTHER
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG, check=False)
    assert said.stdout.strip() == "8", said.stderr
    # Maps of others are nobody's concern.
    said = subprocess.run(["bpftool", "map", "list"], capture_output=True, text=True, timeout=HANG, check=False)
    assert said.returncode in (0, 255)


def test_starting_twice_is_starting_once() -> None:
    seal = loaded()
    before = set(os.listdir(f"{seal.pins}/links"))
    with scene(seal) as box:
        hand = os.fork()
        if hand == 0:
            # A child is not the daemon: it cannot take the seal while we live.
            try:
                LsmSeal()
            except SealFailed:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(hand, 0)[1]) == 7
        again = LsmSeal()
        assert again.taken_up
        assert box.sandbox in again.sandboxes()
        assert again.tasks() == 1
        assert box.tries(acts.create, "/root/seal-new") == errno.EPERM
        assert [event.operation for event in box.events()] == ["file.create"]
        with pytest.raises(SealFailed, match="still running"):
            pins.unload()
        again.close()
    assert set(os.listdir(f"{seal.pins}/links")) == before


def test_a_process_with_two_threads_or_two_marks_is_not_adopted() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"]
    ) as two:
        time.sleep(3)
        pidfd = os.pidfd_open(two.pid)
        with pytest.raises(SealFailed, match="more than one thread"):
            loaded().adopt("two", two.pid, pidfd)
        loaded().release("two")
        os.close(pidfd)
        two.kill()
    with scene(loaded()) as box, pytest.raises(SealFailed):
        loaded().adopt("other", box.actor.pid, box.actor.pidfd)
    loaded().release("other")


def test_marks_go_with_their_tasks() -> None:
    with scene(loaded()) as box:
        for _ in range(50):
            assert box.tries(acts.kill_own_child) == 0
        assert start(box, "/bin/true", ["true"], {}) == 0
    until = time.monotonic() + HANG
    while loaded().tasks() and time.monotonic() < until:
        time.sleep(0.1)
    assert loaded().tasks() == 0


def test_a_target_that_cannot_have_an_id_is_no_grant(here: Path) -> None:
    with scene(loaded()) as box:
        closed = os.open("/", os.O_PATH)
        os.close(closed)
        with pytest.raises(GrantFailed):
            box.grant(Operation.FILE_WRITE, "/x", Target(closed))
