"""Looking at files as somebody else, for one thread and a moment: credentials(7), setfsuid(2).

The daemon is root. What it is asked to look at for somebody it looks at with that one's rights, or else its answers
would tell what stands where they may not search. (For held calls pause/resolve does the same, often.)
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator

from governed_mcpd.kernel import calls
from governed_mcpd.kernel.procfs import Credentials


@contextlib.contextmanager
def borrowed(credentials: Credentials) -> Iterator[None]:
    """The calling thread accesses files with these; its own come back whatever happens. OSError."""
    own = Credentials(os.geteuid(), os.getegid(), tuple(os.getgroups()))
    try:
        _take_groups(credentials)
        calls.set_fs_user(credentials.fsuid)
        yield
    finally:
        calls.set_fs_user(own.fsuid)
        _take_groups(own)


def _take_groups(credentials: Credentials) -> None:
    groups = credentials.groups
    calls.set_fs_groups(credentials.fsgid, (ctypes.c_uint32 * len(groups))(*groups))
