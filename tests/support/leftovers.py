"""Finds and ends what a test instance left behind: by a mark in the environment that its processes inherit."""

import contextlib
import os
import signal
import subprocess
import time

from governed_mcpd.kernel import cgroup

MARK = "GOVERNED_TEST_INSTANCE"


def marked(value: str) -> list[int]:
    """Processes that carry the mark with this value (not this one), by pid."""
    wanted = f"{MARK}={value}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(name))
    return found


def end_marked(value: str, seconds: float = 5.0) -> list[int]:
    """Kills the processes that carry the mark; returns their pids. Raises when some cannot be ended."""
    ended: list[int] = []
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in marked(value) if not _is_zombie(pid)]:
        if time.monotonic() > deadline:
            raise AssertionError(f"these processes of the instance do not end: {alive}")
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended += [pid for pid in alive if pid not in ended]
        time.sleep(0.02)
    return ended


def unmount_below(directory: str) -> None:
    """Detaches the mounts (scratch directories) below `directory`, the deepest first."""
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = line.split(" ")[4]
            if point.startswith(directory + "/"):
                points.append(point)
    for point in sorted(points, key=len, reverse=True):
        subprocess.run(["umount", "-l", point], check=True)


def remove_cgroups(directory: str) -> None:
    """Ends and removes the cgroups that a daemon with its runtime directory below `directory` left behind."""
    hierarchy = cgroup.find()
    name = "".join(c if c.isalnum() else "-" for c in directory.strip("/"))
    for child in cgroup.Cgroup(hierarchy, hierarchy.own).children():
        if child.path.rpartition("/")[2].startswith(f"governed-{name}-") and not child.end():
            raise AssertionError(f"the cgroup {child.directory} cannot be removed")


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
