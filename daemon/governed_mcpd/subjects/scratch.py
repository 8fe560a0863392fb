"""A directory of its own for each sandbox: a tmpfs, 0700, where its effects are free."""

import contextlib
import os

from governed_mcpd.kernel import calls


def make(directory: str, size: int, uid: int, gid: int) -> None:
    """Mounts a tmpfs of `size` bytes there. OSError."""
    os.mkdir(directory, 0o700)
    calls.mount_tmpfs(directory, size=size, uid=uid, gid=gid)


def remove(directory: str) -> None:
    """Unmounts and removes it; nothing happens when it is not there."""
    with contextlib.suppress(OSError):
        calls.unmount(directory)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(directory)


def remove_all(parent: str, but: set[str]) -> None:
    """Removes what an earlier daemon left, except for those of the named sandboxes."""
    for name in set(os.listdir(parent)) - but:
        remove(os.path.join(parent, name))
