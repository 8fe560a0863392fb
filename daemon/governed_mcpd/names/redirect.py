"""The cgroup programs (bpf/names.bpf.c) that lead a sandbox's DNS to governed-resolver: loaded once, attached to each
sandbox's cgroup. They need no BPF LSM. Without them DNS of sandboxes is refused, and the reason is kept."""

import errno
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from governed_mcpd.kernel import bpf, bpf_load
from governed_mcpd.kernel.cgroup import Cgroup

OBJECT = Path(__file__).with_name("names.bpf.o")
# linux/bpf.h: enum bpf_attach_type
_KINDS = {
    "sock_create": 2,
    "connect4": 10,
    "connect6": 11,
    "sendmsg4": 14,
    "sendmsg6": 15,
    "recvmsg4": 19,
    "recvmsg6": 20,
    "getpeername4": 29,
    "getpeername6": 30,
}
_CGROUP, _PORT, _DESCRIPTOR = struct.Struct("Q"), struct.Struct("I"), struct.Struct("i")


class Redirect(Protocol):
    """`reason` says why there is none; empty where DNS is led to the resolver."""

    reason: str

    def attach(self, sandbox: str, cgroup: Cgroup) -> None:
        """From here on every socket that is made in the cgroup is led. OSError."""

    def detach(self, sandbox: str) -> None:
        """It has ended."""

    def open(self, cgroup: Cgroup, port: int) -> None:
        """A Subject's DNS goes to this port of the resolver, in place of an earlier one. OSError."""

    def close(self, cgroup: Cgroup) -> None:
        """It goes nowhere any more: EPERM."""

    def leads(self, socket: int) -> bool:
        """Whether what this socket (a descriptor of the daemon's) sends to port 53 is led to the resolver."""


class NoRedirect:
    """The programs are not there. Nothing is led anywhere, so no DNS is let go."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def attach(self, sandbox: str, cgroup: Cgroup) -> None:
        """Nothing to attach."""

    def detach(self, sandbox: str) -> None:
        """Nothing was attached."""

    def open(self, cgroup: Cgroup, port: int) -> None:
        """Nothing asks there."""

    def close(self, cgroup: Cgroup) -> None:
        """Nothing was open."""

    def leads(self, socket: int) -> bool:
        """No."""
        return False


class CgroupRedirect:
    """The programs in the kernel. They go with the daemon: while there is none, every connect and send is refused."""

    reason = ""

    def __init__(self, programs: dict[str, int], maps: dict[str, int]) -> None:
        """Takes over the descriptors."""
        self._programs = programs
        self._subjects = bpf.Map(maps["subjects"])
        self._ports = bpf.Map(maps["ports"])
        self._sockets = bpf.Map(maps["sockets"])
        self._links: dict[str, list[int]] = {}
        self._open: dict[str, tuple[int, int]] = {}  # id of the cgroup and port, by its path
        self._lock = threading.Lock()

    def attach(self, sandbox: str, cgroup: Cgroup) -> None:
        links: list[int] = []
        directory = os.open(cgroup.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, kind in _KINDS.items():
                links.append(bpf.attach_to_cgroup(self._programs[name], directory, kind))
        except OSError:
            _close(links)
            raise
        finally:
            os.close(directory)
        with self._lock:
            self._links[sandbox] = links

    def detach(self, sandbox: str) -> None:
        with self._lock:
            links = self._links.pop(sandbox, [])
        _close(links)

    def open(self, cgroup: Cgroup, port: int) -> None:
        identity = os.stat(cgroup.directory).st_ino  # kernfs: it is the id that the programs see
        with self._lock:
            self._forget(cgroup.path)
            self._open[cgroup.path] = identity, port
            # The port is known as one of the resolver's before anything is led there.
            self._ports.update(_PORT.pack(port), _CGROUP.pack(identity))
            self._subjects.update(_CGROUP.pack(identity), _PORT.pack(port))

    def close(self, cgroup: Cgroup) -> None:
        with self._lock:
            self._forget(cgroup.path)

    def _forget(self, path: str) -> None:
        found = self._open.pop(path, None)
        if found is not None:
            identity, port = found
            self._subjects.delete(_CGROUP.pack(identity))
            self._ports.delete(_PORT.pack(port))

    def leads(self, socket: int) -> bool:
        try:
            return self._sockets.lookup(_DESCRIPTOR.pack(socket)) is not None
        except OSError:
            return False


def load(path: Path = OBJECT) -> Redirect:
    """Loads the programs, and attaches each once to a cgroup of the daemon's own to see that this kernel takes them."""
    try:
        return _loaded(path)
    except bpf_load.LoadFailed as failure:
        return NoRedirect(f"the kernel does not take the programs: {failure}")
    except OSError as error:
        missing = "libbpf1 is not installed" if error.errno is None else error.strerror or str(error)
        return NoRedirect(f"the programs cannot be loaded: {missing}")


def _loaded(path: Path) -> CgroupRedirect:
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, f"{path} is missing: make build makes it")
    with bpf_load.Object(bpf_load.Library(), str(path)) as found:
        found.load()
        programs = {one.name: _kept(one.descriptor) for one in found.programs}
        maps = {name: _kept(descriptor) for name, descriptor in found.maps().items()}
    return CgroupRedirect(programs, maps)


def tried(redirect: Redirect, beneath: Callable[[str], Cgroup]) -> Redirect:
    """The same, if its programs attach to a cgroup that is made for this and removed; NoRedirect otherwise."""
    if redirect.reason:
        return redirect
    cgroup = beneath(f"governed-names-{os.getpid()}")
    try:
        cgroup.create()
        redirect.attach(cgroup.name, cgroup)
    except Exception as error:  # whatever it is: nothing would be led
        return NoRedirect(f"the programs cannot be attached to a cgroup: {error}")
    finally:
        redirect.detach(cgroup.name)
        cgroup.end()
    return redirect


def _kept(descriptor: int) -> int:
    return os.dup(descriptor)


def _close(links: list[int]) -> None:
    for link in links:
        os.close(link)
