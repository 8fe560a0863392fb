"""Descriptors that outlive a look: what was resolved stays what it is until the kernel has been told of it.

Only with a seal. A name can mean something else a moment later, a descriptor cannot.
"""

import os


class Handles:
    """Descriptors (O_PATH) that are closed together: by whoever refuses, withdraws or grants, whichever comes first.

    What gets lost on the way (a look that came too late, an error nobody foresaw) is closed with the last reference.
    """

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: list[int] = []

    def keep(self, descriptor: int) -> int:
        """Takes over a descriptor; the same number back."""
        self._open.append(descriptor)
        return descriptor

    def close(self) -> None:
        """Closes all of them; again does nothing."""
        while self._open:
            os.close(self._open.pop())

    def __del__(self) -> None:
        self.close()
