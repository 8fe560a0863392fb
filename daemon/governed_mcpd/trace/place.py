"""Which cgroup a sandbox is, found by its name in the file system: nobody is asked."""

import os
import re

from governed_mcpd.kernel.cgroup import NoCgroup, find

SLICE = "governed.slice"
_DEEPEST = 16


class NoSuchSandbox(Exception):
    """There is no cgroup of that name. The text says what to do."""


def of_sandbox(identity: str) -> str:
    """The directory of a sandbox's cgroup: a scope in governed.slice, or its id beneath the daemon's own cgroup.

    A child Subject (`ID.CHILD`) has its own beneath its sandbox's. NoSuchSandbox.
    """
    sandbox, _, child = identity.partition(".")
    if re.fullmatch("[0-9a-f]+", sandbox):
        for directory, names, _ in os.walk(_mount()):
            if directory.count("/") > _DEEPEST:
                names.clear()
            for name in {f"governed-{sandbox}.scope", sandbox} & {*names}:
                found = os.path.join(directory, name, child).rstrip("/")
                if os.path.isdir(found):
                    return found
    raise NoSuchSandbox(f"there is no sandbox {identity!r}: governedctl sandbox list")


def of_all() -> str:
    """The directory of the slice that all sandboxes are in. NoSuchSandbox where systemd does not keep them."""
    found = os.path.join(_mount(), SLICE)
    if os.path.isdir(found):
        return found
    raise NoSuchSandbox(
        f"there is no {SLICE}: nothing ran in a sandbox since the machine started, or the daemon is no service of "
        "systemd's; name a sandbox (governedctl sandbox list), or a cgroup (--cgroup DIRECTORY)"
    )


def _mount() -> str:
    try:
        return find().mount
    except NoCgroup as error:
        raise NoSuchSandbox(str(error)) from None


class Names:
    """From the number that the kernel gives a cgroup (the inode of its directory) to its name beneath `top`."""

    def __init__(self, top: str) -> None:
        self._top = top
        self._known: dict[int, str] = {}

    def __getitem__(self, number: int) -> str:
        """The sandbox's id where the cgroup is a sandbox's; empty when it is gone already."""
        if number not in self._known:
            self._look()
        return self._known.setdefault(number, "")

    def _look(self) -> None:
        for directory, _, _ in os.walk(self._top):
            try:
                number = os.stat(directory).st_ino
            except FileNotFoundError:
                continue
            scope = re.fullmatch(r"governed-([0-9a-f]+)\.scope", os.path.basename(directory))
            self._known.setdefault(number, scope[1] if scope else os.path.basename(directory))
