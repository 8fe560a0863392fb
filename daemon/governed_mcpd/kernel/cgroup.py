"""cgroup v2, wherever it is mounted: cgroups(7), Documentation/admin-guide/cgroup-v2.rst."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass


class NoCgroup(Exception):
    """cgroup v2 cannot be used here. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The cgroup v2 mount, and where this process stands in it."""

    mount: str
    own: str


def find() -> Hierarchy:
    """Looks through /proc/self/mountinfo: distributions mount cgroup v2 at different places."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        own = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.split()[0] == "cgroup2":
                root, mount = before.split()[3:5]
                if own is not None and (root == "/" or own.startswith(root)):
                    return Hierarchy(mount, own.removeprefix(root.rstrip("/")) or "/")
    raise NoCgroup("no cgroup v2 mount was found: mount one (mount -t cgroup2 none /sys/fs/cgroup) and start again")


def mounts() -> list[str]:
    """Every place where cgroup v2 is mounted for this process."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        split = [line.partition(" - ") for line in file]
    return [before.split()[4] for before, _, after in split if after.split()[0] == "cgroup2"]


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    """A cgroup that is not there is an answer. systemd removes an empty one by itself: between opening a file of it and
    reading that is ENODEV (fs/kernfs/file.c: kernfs_seq_start)."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


class Cgroup:
    """One directory of the hierarchy."""

    def __init__(self, hierarchy: Hierarchy, path: str) -> None:
        self.path = path
        self.directory = os.path.join(hierarchy.mount, path.lstrip("/"))
        self._hierarchy = hierarchy

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def at(self, path: str) -> "Cgroup":
        """Another cgroup of the same hierarchy."""
        return Cgroup(self._hierarchy, path)

    def child(self, name: str) -> "Cgroup":
        return Cgroup(self._hierarchy, f"{self.path.rstrip('/')}/{name}")

    def create(self) -> None:
        try:
            os.makedirs(self.directory, mode=0o755, exist_ok=True)
        except OSError as error:
            raise NoCgroup(f"cannot make the cgroup {self.directory}: {error.strerror}") from error

    def adopt(self, pid: int) -> None:
        """Moves a process here; its later children are born here."""
        self._write("cgroup.procs", str(pid))

    def holds(self, path: str) -> bool:
        """Whether a cgroup path from /proc/PID/cgroup is this cgroup or beneath it."""
        return path == self.path or path.startswith(self.path + "/")

    def freeze(self, frozen: bool) -> None:
        self._write("cgroup.freeze", "1" if frozen else "0")

    def limit_processes(self, most: int) -> bool:
        """pids.max; False where the pids controller is not available here."""
        try:
            self._write("pids.max", str(most))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EACCES):
                return False
            raise
        return True

    def kill(self) -> None:
        """cgroup.kill (Linux 5.14): SIGKILL for everything in here and beneath, forks included."""
        with _unless_gone():
            self._write("cgroup.kill", "1")

    def populated(self) -> bool:
        with _unless_gone(), open(os.path.join(self.directory, "cgroup.events"), encoding="ascii") as file:
            return "populated 1" in file.read()
        return False

    def processes(self) -> list[int]:
        with _unless_gone(), open(os.path.join(self.directory, "cgroup.procs"), encoding="ascii") as file:
            return [int(line) for line in file]
        return []

    def children(self) -> list["Cgroup"]:
        try:
            names = [entry.name for entry in os.scandir(self.directory) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return [self.child(name) for name in names]

    def end(self, seconds: float = 5.0) -> bool:
        """Kills everything in here and removes the directory. True when nothing is left within `seconds`."""
        deadline = time.monotonic() + seconds
        self.kill()
        while self.populated():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return self._remove(deadline)

    def _remove(self, deadline: float) -> bool:
        for child in self.children():
            child._remove(deadline)
        while True:
            try:
                os.rmdir(self.directory)
            except FileNotFoundError:
                return True
            except OSError as error:
                # A killed task leaves its cgroup a moment after cgroup.events says that nobody is there.
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    return False
                time.sleep(0.002)
            else:
                return True

    def _write(self, name: str, value: str) -> None:
        descriptor = os.open(os.path.join(self.directory, name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
