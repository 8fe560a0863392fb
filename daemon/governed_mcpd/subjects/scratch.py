"""A directory of its own for each sandbox: a tmpfs, 0700, where its effects are free.

It is mounted where the sandbox sees it: in the launcher's mount namespace. Under systemd the daemon has another one, of
its own; what it mounted there nobody else would see.
"""

import contextlib
import os
import threading
from collections.abc import Callable

from governed_mcpd.kernel import calls

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def namespace_of(pid: int) -> int | None:
    """The mount namespace of a process, as a descriptor; None when it is the daemon's own. OSError."""
    if os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
        return None
    return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def make(directory: str, size: int, uid: int, gid: int, namespace: int | None = None) -> None:
    """Mounts a tmpfs of `size` bytes there, as `namespace` sees it. OSError."""
    os.mkdir(directory, 0o700)
    if namespace is None:
        calls.mount_tmpfs(directory, size=size, uid=uid, gid=gid)
        return
    made = os.stat(directory)

    def mount() -> None:
        # The namespace may be one that its user has arranged: the directory has to be the one that was made.
        found = _open(directory)
        try:
            if not os.path.samestat(made, os.fstat(found)):
                raise OSError(2, f"{directory} is not the daemon's own there: the mount namespace hides it")
            os.fchdir(found)
            calls.mount_tmpfs(".", size=size, uid=uid, gid=gid)
        finally:
            os.close(found)

    _within(namespace, mount)


def remove(directory: str, namespace: int | None = None) -> None:
    """Unmounts and removes it; nothing happens when it is not there."""

    def unmount() -> None:
        above = _open(os.path.dirname(directory))
        try:
            os.fchdir(above)
            calls.unmount(os.path.basename(directory))
        finally:
            os.close(above)

    if namespace is not None:
        with contextlib.suppress(OSError):
            _within(namespace, unmount)
    with contextlib.suppress(OSError):
        calls.unmount(directory)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(directory)


def remove_all(parent: str, but: set[str]) -> None:
    """Removes what an earlier daemon left, except for those of the named sandboxes."""
    names = set(os.listdir(parent)) - but
    if not names:
        return
    try:
        first = namespace_of(1)  # under systemd most were mounted there
    except PermissionError:
        first = None  # in a container of some kind, whose init may be hidden: it has one namespace
    try:
        for name in names:
            remove(os.path.join(parent, name), first)
    finally:
        if first is not None:
            os.close(first)


def _open(directory: str) -> int:
    root = os.open("/", _DIRECTORY)
    try:
        return calls.openat2(root, os.fsencode(directory), _DIRECTORY, calls.RESOLVE_NO_SYMLINKS)
    finally:
        os.close(root)


def _within(namespace: int, act: Callable[[], None]) -> None:
    """Runs `act` in a thread that stands in another mount namespace, and ends there. OSError."""
    failed: list[OSError] = []

    def run() -> None:
        try:
            calls.unshare_filesystem()
            calls.enter_mount_namespace(namespace)
            act()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="scratch", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
