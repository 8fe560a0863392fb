"""Scripts: which interpreter the kernel starts for a `#!` line, and with which arguments (fs/binfmt_script.c).

Step by step as the kernel does it: the seal compares the new program's arguments byte by byte.
"""

from typing import NamedTuple

HEAD = 256  # linux/binfmts.h BINPRM_BUF_SIZE
MOST_LEVELS = 5  # fs/exec.c exec_binprm: deeper is ELOOP
_SPACES = b" \t"
_ENDS = b" \t\0"


class Interpreter(NamedTuple):
    """What a `#!` line names: a path, as it is written there, and at most one argument."""

    path: bytes
    argument: bytes | None


def interpreter(head: bytes) -> Interpreter | None:
    """What the first line says; None for what is not a script, also where the line is one that the kernel does not take
    (it answers ENOEXEC then). `head` are the file's first HEAD bytes."""
    buffer = head[:HEAD].ljust(HEAD, b"\0")
    if not buffer.startswith(b"#!"):
        return None
    end = buffer.find(b"\n")
    if end < 0:
        # No newline: only whole where something ends the path within the buffer.
        end = HEAD - 1
        begin = _skip(buffer, 2, end)
        if begin is None or _end_of_word(buffer, begin, end) is None:
            return None
    while buffer[end - 1] in _SPACES:
        end -= 1
    name = _skip(buffer, 2, end)
    if name is None or name == end:
        return None
    separator = _end_of_word(buffer, name, end)
    argument = _skip(buffer, separator, end) if separator is not None and buffer[separator] != 0 else None
    if argument is None or separator is None:
        return Interpreter(_string(buffer, name, end), None)
    return Interpreter(_string(buffer, name, separator), _string(buffer, argument, end))


def rebuilt(script: bytes, found: Interpreter, argv: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The arguments of the interpreter: its path, its argument, the script, and what the script was given."""
    argument = () if found.argument is None else (found.argument,)
    return (found.path, *argument, script, *argv[1:])


def _skip(buffer: bytes, first: int, last: int) -> int | None:
    """next_non_spacetab: where the first character that is neither stands, `last` included."""
    return next((at for at in range(first, last + 1) if buffer[at] not in _SPACES), None)


def _end_of_word(buffer: bytes, first: int, last: int) -> int | None:
    """next_terminator: where the first space, tab or NUL stands, `last` included."""
    return next((at for at in range(first, last + 1) if buffer[at] in _ENDS), None)


def _string(buffer: bytes, first: int, end: int) -> bytes:
    return buffer[first:end].partition(b"\0")[0]
