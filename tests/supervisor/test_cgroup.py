"""A cgroup that somebody else removes while it is looked at: as systemd does with an empty scope."""

import contextlib
import os
import threading
import time
from collections.abc import Callable

import pytest

from governed_mcpd.kernel.cgroup import Cgroup, find

SECONDS = 2.0


@pytest.mark.parametrize("look", [Cgroup.populated, Cgroup.processes, Cgroup.kill, Cgroup.end])
def test_one_that_goes_while_it_is_looked_at_is_no_error(look: Callable[[Cgroup], object]) -> None:
    hierarchy = find()
    group = Cgroup(hierarchy, hierarchy.own).child(f"governed-test-goes-{os.getpid()}-{look.__name__}")
    until = time.monotonic() + SECONDS

    def come_and_go() -> None:
        while time.monotonic() < until:
            os.makedirs(group.directory, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # `end` was first
                os.rmdir(group.directory)

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        while time.monotonic() < until:
            look(group)
    finally:
        other.join()
        assert group.end()
