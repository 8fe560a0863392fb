"""What the sealed process of a test does, one function each; it runs them after a fork, so they import nothing late."""

import array
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import stat
import threading
import time

ATTRIBUTE = "user.seal"
LONG = "x" * 1300 + "/y"

# Set in the process after the fork: pipes, and a socket whose other end is outside.
READY = GO = -1
OUTSIDE = socket.socket()


def write(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, b"after!")
    os.close(descriptor)


def read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def empty(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def empty_reading(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))


def shorten_open(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.ftruncate(descriptor, 2)
    os.close(descriptor)


def create(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(descriptor, b"made")
    os.close(descriptor)


def create_nameless(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TMPFILE, 0o644))


def truncate(path: str) -> None:
    os.truncate(path, 3)


def mkfifo(path: str) -> None:
    os.mkfifo(path)


def symlink(path: str, text: str = LONG) -> None:
    os.symlink(text, path)


def rename(path: str) -> None:
    os.rename(path, path + ".new")


def link(path: str) -> None:
    os.link(path, path + ".new")


def chmod(path: str) -> None:
    os.chmod(path, 0o640)


def fchmod(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o604)
    finally:
        os.close(descriptor)


def chown(path: str) -> None:
    os.chown(path, 1234, 1234)


def times(path: str) -> None:
    os.utime(path, (86400, 86400))


def file_with_attribute(path: str) -> None:
    with open(path, "w") as made:
        made.write("before")
    setxattr(path)


def setxattr(path: str, attribute: str = ATTRIBUTE) -> None:
    os.setxattr(path, attribute, b"value")


def removexattr(path: str) -> None:
    os.removexattr(path, ATTRIBUTE)


def set_flags(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flags = array.array("i", [0])
        fcntl.ioctl(descriptor, 0x80086601, flags)  # FS_IOC_GETFLAGS
        flags[0] |= 0x80  # FS_NOATIME_FL
        fcntl.ioctl(descriptor, 0x40086602, flags)  # FS_IOC_SETFLAGS
    finally:
        os.close(descriptor)


def connect(family: int, kind: int, address: object) -> None:
    with socket.socket(family, kind) as made:
        made.connect(address)


def connect_through(descriptor: int, address: object) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as given:
        given.connect(address)


def send_through(descriptor: int, address: object) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as given:
        given.sendto(b"hello", address)


def bind(family: int, kind: int, address: object) -> None:
    with socket.socket(family, kind) as made:
        made.bind(address)


def send(family: int, address: object) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.sendto(b"hello", address)


_KEPT: list[socket.socket] = []


def bind_and_keep(family: int, kind: int, address: object) -> object:
    made = socket.socket(family, kind)
    made.bind(address)
    _KEPT.append(made)
    return made.getsockname()


def listen() -> None:
    _KEPT[-1].listen(1)


def pair() -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        one.send(b"x")
        other.send(b"y")
        one.close()
        other.close()


def kill(pid: int, number: int = 0) -> None:
    os.kill(pid, number)


def kill_own_child() -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _run(path: str, argv: list[str], environment: dict[str, str]) -> None:
    try:
        os.write(READY, threading.get_native_id().to_bytes(4, "little"))
        os.read(GO, 1)
        os.execve(path, argv, environment)
    except OSError as failure:
        os._exit(failure.errno or 255)


def spawn(path: str, argv: list[str], environment: dict[str, str]) -> int:
    """Starts a program in a child, which says its thread id and waits for its grant; the wait status."""
    child = os.fork()
    if child == 0:
        _run(path, argv, environment)
    return os.waitpid(child, 0)[1]


def spawn_from_thread(path: str, argv: list[str], environment: dict[str, str]) -> int:
    """The same from a second thread of the child."""
    child = os.fork()
    if child == 0:
        threading.Thread(target=_run, args=(path, argv, environment)).start()
        while True:
            signal.pause()
    return os.waitpid(child, 0)[1]


def receive() -> int:
    """Takes what arrives from outside after one byte; how many descriptors came."""
    _, ancillary, _, _ = OUTSIDE.recvmsg(1, socket.CMSG_SPACE(16))
    found = array.array("i")
    for _, _, payload in ancillary:
        found.frombytes(payload[: len(payload) // 4 * 4])
    for descriptor in found:
        os.close(descriptor)
    return len(found)


def pass_on(path: str, flags: int) -> int:
    """Opens a file and hands it to itself over a socket pair; how many descriptors came."""
    opened = os.open(path, flags)
    one, other = socket.socketpair()
    try:
        socket.send_fds(one, [b"x"], [opened])
        _, descriptors, _, _ = socket.recv_fds(other, 1, 1)
        for descriptor in descriptors:
            os.close(descriptor)
        return len(descriptors)
    finally:
        os.close(opened)
        one.close()
        other.close()


def pass_socket_on() -> int:
    """The same with a socket made here."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [made.fileno()])
    _, descriptors, _, _ = socket.recv_fds(other, 1, 1)
    for descriptor in descriptors:
        os.close(descriptor)
    for each in (made, one, other):
        each.close()
    return len(descriptors)


def kill_often(pid: int, times_: int) -> None:
    for _ in range(times_):
        with contextlib.suppress(PermissionError):
            os.kill(pid, 0)


def kill_from_two_processes(pid: int, seconds: float) -> int:
    """As often as two processors can at the same time; how often it was refused."""
    read, write = os.pipe()
    for _ in range(2):
        if os.fork() == 0:
            refused, until = 0, time.monotonic() + seconds
            while time.monotonic() < until:
                try:
                    os.kill(pid, 0)
                except PermissionError:
                    refused += 1
            os.write(write, refused.to_bytes(8, "little"))
            os._exit(0)
    for _ in range(2):
        os.wait()
    return sum(int.from_bytes(os.read(read, 8), "little") for _ in range(2))


def open_pair() -> None:
    for descriptor in os.openpty():
        os.close(descriptor)


_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(number: int) -> None:
    if number < 0:
        raise OSError(ctypes.get_errno(), "refused")


def mount(path: str) -> None:
    _call(_LIBC.mount(b"none", path.encode(), b"tmpfs", 0, None))


def umount(path: str) -> None:
    _call(_LIBC.umount2(path.encode(), 2))


# System call numbers of x86-64, where the virtual machines run.


def bpf() -> None:
    """BPF_MAP_GET_NEXT_ID."""
    _call(_LIBC.syscall(321, 12, ctypes.create_string_buffer(32), 32))


def perf() -> None:
    attributes = ctypes.create_string_buffer(128)
    attributes[0:8] = (1).to_bytes(4, "little") + (128).to_bytes(4, "little")  # PERF_TYPE_SOFTWARE
    _call(_LIBC.syscall(298, attributes, 0, -1, -1, 0))


def trace(pid: int) -> None:
    """PTRACE_SEIZE."""
    _call(_LIBC.ptrace(0x4206, pid, None, None))


def syslog() -> None:
    _call(_LIBC.klogctl(10, None, 0))


def spawn_plain(path: str) -> None:
    """Becomes a program at once: what was asked for when it is refused."""
    os.execve(path, [path], {})
