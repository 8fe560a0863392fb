"""Finding the program, as a shell does: before the sandbox, so that each place that is looked at is not a held exec."""

import errno
import os
import stat
from typing import NamedTuple

EXIT_CANNOT, EXIT_NOT_FOUND = 126, 127
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"


class CommandError(Exception):
    """The command cannot be started. `code` is what a shell gives: 126, or 127 when it was not found."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Program(NamedTuple):
    """A file to execute, and its arguments."""

    path: bytes
    argv: list[bytes]


def find(argv: list[bytes], path: bytes | None) -> Program:
    """Looks in `path` (the variable's value) unless the name has a slash. CommandError."""
    name = argv[0]
    if b"/" in name:
        return Program(name, argv)  # execve says what is wrong with it
    denied = False
    for directory in (path if path is not None else _DEFAULT_PATH).split(b":"):
        candidate = os.path.join(directory or b".", name)
        try:
            mode = os.stat(candidate).st_mode
        except OSError as error:
            denied = denied or error.errno == errno.EACCES
            continue
        if stat.S_ISREG(mode) and os.access(candidate, os.X_OK):
            return Program(candidate, argv)
        denied = denied or stat.S_ISREG(mode)
    if denied:
        raise CommandError(f"{os.fsdecode(name)}: permission denied", EXIT_CANNOT)
    raise CommandError(f"{os.fsdecode(name)}: command not found", EXIT_NOT_FOUND)


def failure(name: bytes, number: int) -> CommandError:
    """What execve(2) said, as a shell puts it."""
    why = {
        errno.ENOENT: "not found, or its interpreter is",
        errno.EPERM: "the sandbox refused to start it (governedctl journal tail says why)",
        errno.ENOEXEC: "it is neither a program of this machine nor a script that begins with #!",
        errno.EISDIR: "is a directory",
    }.get(number, os.strerror(number))
    return CommandError(f"{os.fsdecode(name)}: {why}", EXIT_NOT_FOUND if number == errno.ENOENT else EXIT_CANNOT)
