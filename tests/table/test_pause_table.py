"""The table covers what the kernel headers list, and says why."""

import re
import subprocess
import sys
from pathlib import Path

import pyseccomp
import pytest

from governed_mcpd.sandbox.table import (
    ABSENT,
    BURDENS,
    DEFAULT_ON_PURPOSE,
    SIGNALS,
    Carrier,
    Disposition,
    Row,
    held_names,
    pause_table,
)
from governed_mcpd.sandbox.table.document import document

CHECKOUT = Path(__file__).resolve().parents[2]
ARCHITECTURES = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}


def header_calls() -> dict[str, int]:
    headers = sorted(Path("/usr/include").glob("**/asm/unistd_64.h"))
    assert headers, "linux-libc-dev (with gcc) provides asm/unistd_64.h"
    return {
        name: int(number)
        for name, number in re.findall(r"^#define __NR_(\w+) (\d+)$", headers[0].read_text(), re.MULTILINE)
    }


def test_every_call_of_the_headers_has_a_row_or_falls_to_the_default_on_purpose() -> None:
    calls = header_calls()
    assert len(calls) > 350
    table = pause_table(reads_pause=False)
    assert calls.keys() - table.keys() - DEFAULT_ON_PURPOSE.keys() == set()


def test_every_row_is_a_call_of_the_headers_with_libseccomps_number() -> None:
    calls = header_calls()
    for name in pause_table(reads_pause=False):
        assert pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name) == calls[name]


def test_no_name_is_in_the_table_and_in_the_default() -> None:
    assert pause_table(reads_pause=False).keys() & DEFAULT_ON_PURPOSE.keys() == set()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_absent_are_exactly_the_rows_that_the_architecture_has_no_call_for(architecture: str) -> None:
    table = pause_table(reads_pause=False)
    numbers = {name: pyseccomp.resolve_syscall(ARCHITECTURES[architecture], name) for name in table}
    assert {name for name, number in numbers.items() if number < 0} == ABSENT[architecture]
    assert -1 not in numbers.values(), "libseccomp does not know the name at all"


def test_every_row_and_condition_has_a_reason_and_a_carrier() -> None:
    for row in pause_table(reads_pause=True).values():
        assert row.reason
        assert row.carriers
        assert all(condition.reason and condition.tests for condition in row.conditions)


def dispositions(row: Row) -> set[Disposition]:
    return {row.disposition, *(condition.disposition for condition in row.conditions)}


def test_what_is_held_is_carried_by_held_and_what_is_refused_by_the_filter() -> None:
    for row in pause_table(reads_pause=False).values():
        if Disposition.HOLD in dispositions(row):
            assert Carrier.HELD in row.carriers, row.name
        if dispositions(row) == {Disposition.REFUSE}:
            assert row.carriers == {Carrier.FILTER}, row.name


HELD = frozenset(
    """
open openat openat2 creat truncate unlink unlinkat rmdir rename renameat renameat2 link linkat symlink symlinkat mkdir
mkdirat mknod mknodat chmod fchmod fchmodat chown lchown fchown fchownat setxattr lsetxattr fsetxattr removexattr
lremovexattr fremovexattr utime utimes futimesat utimensat ioctl connect bind listen sendto sendmsg sendmmsg execve
execveat kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal setpriority ioprio_set prlimit64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler
""".split()  # noqa: SIM905 - a list of words reads better
)


def test_held_names_are_these_and_no_others() -> None:
    assert held_names() == HELD
    assert set(SIGNALS) | set(BURDENS) <= held_names()


def test_calls_that_peers_broke_programs_by_trapping_pass() -> None:
    table = pause_table(reads_pause=True)
    for name in ("close", "fork", "vfork", "read", "write", "futex", "epoll_wait", "mmap", "exit_group"):
        assert dispositions(table[name]) == {Disposition.PASS}


def test_reads_pause_changes_open_and_openat_only() -> None:
    ordinary, pausing = pause_table(reads_pause=False), pause_table(reads_pause=True)
    assert {name for name in ordinary if ordinary[name] != pausing[name]} == {"open", "openat"}


def test_the_document_is_current() -> None:
    assert (CHECKOUT / "docs" / "pause-table.md").read_text() == document(), (
        "run: .venv/bin/python -m governed_mcpd.sandbox.table --write"
    )


def test_the_document_is_printed_by_the_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "governed_mcpd.sandbox.table"], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == document()
