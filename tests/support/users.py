"""Dedicated users and groups of the tests. They need no entry in /etc/passwd: numbers do.

The range 60578 to 61183 is left free by Debian's policy for local use and by systemd's allocation (systemd.io, Users,
Groups, UIDs and GIDs on systemd Systems).
"""

from typing import TypedDict

ROOT = 0
USER = 60601  # runs sandboxes: in the group of the instance
OTHER = 60602  # another such user
STRANGER = 60603  # in neither group
ADMIN = 60604  # in both groups
GATE = 60605  # governed-gate runs as this
RESOLVER = 60606  # governed-resolver runs as this
GROUP = 60611
ADMIN_GROUP = 60612

_GROUPS = {USER: [GROUP], OTHER: [GROUP], STRANGER: [], ADMIN: [GROUP, ADMIN_GROUP], GATE: []}


class Identity(TypedDict, total=False):
    """The keyword arguments of subprocess.Popen that start a program as a user."""

    user: int
    group: int
    extra_groups: list[int]


def identity(uid: int) -> Identity:
    """How to start a program as one of the users above; nothing changes for root."""
    if uid == ROOT:
        return {}
    return {"user": uid, "group": uid, "extra_groups": _GROUPS[uid]}
