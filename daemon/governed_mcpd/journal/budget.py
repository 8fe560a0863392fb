"""How many bytes of the journal each sandbox may use: flooding refusals must not fill the disk."""


class Budget:
    """Bytes per sandbox. Not thread-safe: the decision thread owns it."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def open(self, sandbox: str, limit: int) -> None:
        """Gives a new sandbox `limit` bytes; ValueError when it has a budget already."""
        if sandbox in self._left:
            raise ValueError(f"sandbox {sandbox} has a journal budget already: use add to raise it")
        self._left[sandbox] = limit

    def spend(self, sandbox: str, size: int) -> bool:
        """Takes `size` bytes; False once past the budget (freeze the sandbox), and for a sandbox without one."""
        left = self._left.get(sandbox)
        if left is None:
            return False
        left -= size
        self._left[sandbox] = left
        return left >= 0

    def left(self, sandbox: str) -> int:
        """Bytes left; negative by what was written past the budget; 0 for a sandbox without one."""
        return self._left.get(sandbox, 0)

    def add(self, sandbox: str, size: int) -> int:
        """Thaws: makes `size` bytes available from now, also when more was overspent. Returns what is left then."""
        if sandbox not in self._left:
            raise ValueError(f"sandbox {sandbox} has no journal budget: it is not running")
        self._left[sandbox] = max(self._left[sandbox], 0) + size
        return self._left[sandbox]

    def end(self, sandbox: str) -> None:
        """Forgets a sandbox."""
        self._left.pop(sandbox, None)
