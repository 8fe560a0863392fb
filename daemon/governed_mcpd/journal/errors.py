"""What can go wrong with a journal: one exception per thing that a caller can do about it."""


class JournalError(Exception):
    """Base of everything this room raises on purpose."""


class JournalFailed(JournalError):
    """The journal cannot be written or synced now: approve nothing, and try again later."""


class JournalTampered(JournalError):
    """What is on disk is not what a writer left there. Nothing was changed; a person has to look.

    `file`, `line` (1 is the first; 0 when it is the file as a whole) and `what` say where and what.
    """

    def __init__(self, file: str, line: int, what: str) -> None:
        where = f"{file}:{line}" if line else file
        super().__init__(
            f"{where}: {what}. The journal was not opened and nothing was changed. Run `governedctl journal verify`, "
            "keep the state directory as evidence, move it away, and start again with an empty one"
        )
        self.file = file
        self.line = line
        self.what = what


class JournalBusy(JournalError):
    """Another process writes this journal."""


class JournalKeyError(JournalError):
    """The signing key is missing, readable by others, or does not fit. The message says what to do."""


class RecordRefused(JournalError, ValueError):
    """This record cannot be written (no known kind, not canonical, too long); the journal itself is fine."""


class ChainBroken(JournalError):
    """A line that does not follow from the one before it. Only inside this room: verify and open translate it."""

    def __init__(self, file: str, line: int, seq: int, what: str) -> None:
        super().__init__(f"{file}:{line}: {what}")
        self.file = file
        self.line = line
        self.seq = seq
        self.what = what
