"""The pause table as a seccomp program. Runs in the daemon: the user's process does without libseccomp."""

import errno
import os

import pyseccomp

from governed_mcpd.sandbox import conditions
from governed_mcpd.sandbox.table import ABSENT, Answer, Disposition, Row, pause_table

# linux/bpf_common.h: the kernel takes no longer program; linux/filter.h: struct sock_filter
MOST_INSTRUCTIONS = 4096
INSTRUCTION_BYTES = 8

_ARCHITECTURES = {pyseccomp.Arch.X86_64: "x86_64", pyseccomp.Arch.AARCH64: "aarch64"}
_UNKNOWN = -1  # libseccomp's __NR_SCMP_ERROR: not a name; more negative: another architecture has it
_BINARY_TREE = 2
_DEFAULT = Answer(Disposition.REFUSE, errno.ENOSYS)


class FilterError(Exception):
    """The filter could not be made. The message says which call, and what to do."""


def compile_filter(reads_pause: bool) -> bytes:
    """An array of struct sock_filter for this machine, to be loaded with seccomp(2)."""
    return compile_for(pyseccomp.system_arch(), reads_pause=reads_pause)


def compile_for(token: int, *, reads_pause: bool) -> bytes:
    """The same for an architecture of libseccomp's (only this machine's can be loaded)."""
    name = _ARCHITECTURES.get(token)
    if name is None:
        raise FilterError(f"architecture {token:#x}: the pause table knows {', '.join(_ARCHITECTURES.values())}")
    numbered = [(number(row.name, token, name), row) for row in pause_table(reads_pause=reads_pause).values()]
    rows = [(call, row) for call, row in numbered if call is not None]
    conditional = conditions.program(token, [(call, row) for call, row in rows if row.conditions])
    program = conditional + _unconditional(token, [(call, row) for call, row in rows if not row.conditions])
    count, rest = divmod(len(program), INSTRUCTION_BYTES)
    if rest or not 0 < count <= MOST_INSTRUCTIONS:
        raise FilterError(
            f"the filter has {len(program)} bytes ({count} instructions): expected 1 to {MOST_INSTRUCTIONS}; "
            "the pause table has too many conditions"
        )
    return program


def _unconditional(token: int, rows: list[tuple[int, Row]]) -> bytes:
    """libseccomp's program for the rows without conditions, the default, and other architectures (x32, too)."""
    filter_ = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    filter_.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(errno.ENOSYS))
    filter_.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    if token != pyseccomp.system_arch():
        filter_.add_arch(token)
        filter_.remove_arch(pyseccomp.system_arch())
    for call, row in rows:
        if row.answer == _DEFAULT:  # libseccomp refuses a rule that says what the default says
            continue
        try:
            filter_.add_rule(conditions.action(row.answer), pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, row.name))
        except OSError as error:
            raise FilterError(f"{row.name} ({call}): libseccomp refuses the rule: {error.strerror}") from error
    with os.fdopen(os.memfd_create("governed-filter", os.MFD_CLOEXEC), "w+b") as file:
        filter_.export_bpf(file)
        file.seek(0)
        return file.read()


def number(name: str, token: int, architecture: str) -> int | None:
    """The number of a call; None where the table says that the architecture has none.

    FilterError when libseccomp does not know the name: a row that it left out in silence would be a hole.
    """
    found = int(pyseccomp.resolve_syscall(token, name))
    if name in ABSENT[architecture]:
        if found >= 0:
            raise FilterError(f"{name}: libseccomp knows it on {architecture}, the table says it is absent there")
        return None
    if found <= _UNKNOWN:
        raise FilterError(
            f"{name}: libseccomp does not resolve it on {architecture}: expected libseccomp 2.5.4 or newer"
        )
    return found
