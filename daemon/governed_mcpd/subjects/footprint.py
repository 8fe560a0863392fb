"""What a Subject has made and removed so far: the constitution asks, and only the daemon has seen it.

A repository or a virtual environment that a sandbox made itself holds nothing to protect; many removals of what it did
not make are a mass delete.
"""

import os
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation

MOST_MADE = 65536
REMOVALS_SECONDS = 60.0
_MAKES = frozenset({Operation.FILE_CREATE, Operation.FILE_MKDIR, Operation.FILE_SYMLINK, Operation.FILE_MKNOD})
_REMOVES = frozenset({Operation.FILE_UNLINK, Operation.FILE_RMDIR})
_CHANGES = _MAKES | _REMOVES | {Operation.FILE_LINK, Operation.FILE_RENAME}
_PROCESS = re.compile(r"/proc/(\d+)(/|\Z)")
# A file that Python runs at each start, and the environment (python3 -m venv) whose Python that is.
_STARTS = re.compile(r"(/.+)/lib/python[0-9.]+/site-packages/[^/]+\.pth")


class Footprint:
    """Grows with approved effects. What lies past its bound is not remembered as made: then more is asked, not less."""

    def __init__(self) -> None:
        self._made: set[str] = set()
        self._removed: deque[float] = deque(maxlen=1024)

    def describe(self, effect: SideEffect, inside: Callable[[int], bool]) -> SideEffect:
        """The effect with what is known of its surroundings: `parent`, `environment`, `removals`, `process`."""
        known: dict[str, str] = {}
        target = effect.second if effect.operation in (Operation.FILE_RENAME, Operation.FILE_LINK) else effect.object
        if target.startswith("/") and os.path.dirname(target) in self._made:
            known["parent"] = "made"
            if self._starts_what_it_made(target):
                known["environment"] = "made"
        if effect.operation in _REMOVES:
            known["removals"] = "0" if effect.object in self._made else str(self._recent())
        process = _PROCESS.match(effect.object)
        if process is not None and inside(int(process[1])):
            known["process"] = "inside"
        return replace(effect, details={**effect.details, **known}) if known else effect

    def note(self, effect: SideEffect) -> None:
        """An approved effect is about to happen."""
        if effect.operation not in _CHANGES:
            return  # most of them
        if effect.operation in _MAKES:
            self._make(effect.object)
        elif effect.operation is Operation.FILE_LINK:
            self._make(effect.second)  # the other name keeps what is in it
        elif effect.operation in _REMOVES:
            if effect.object in self._made:
                self._made.discard(effect.object)
            else:
                self._removed.append(time.monotonic())
        elif effect.operation is Operation.FILE_RENAME:
            # What lies in a directory that was moved is forgotten: nobody followed it there.
            made = effect.object in self._made
            self._made -= {effect.object, effect.second}
            if made and effect.details.get("replaces") != "yes":
                self._make(effect.second)

    def _starts_what_it_made(self, name: str) -> bool:
        """A .pth file in an environment that is all its own: in somebody's it would run at their next start."""
        found = _STARTS.fullmatch(name)
        return found is not None and {found[1], f"{found[1]}/pyvenv.cfg"} <= self._made

    def _make(self, name: str) -> None:
        if len(self._made) < MOST_MADE:
            self._made.add(name)

    def _recent(self) -> int:
        since = time.monotonic() - REMOVALS_SECONDS
        return sum(moment > since for moment in self._removed)
