"""The filter in the kernel: what is refused fails with its errno, its neighbour works, what is held is heard of."""

import errno
import os
import signal
import subprocess
from pathlib import Path

import pyseccomp
import pytest

from governed_mcpd.kernel.notify import Held
from governed_mcpd.sandbox.table import Disposition, pause_table
from tests.table.under_filter import Done, run

MINUS_ONE = 0xFFFF_FFFF_FFFF_FFFF
AT_FDCWD = 0xFFFF_FFFF_FFFF_FF9C
HERE = Path(__file__).parent


def nr(name: str) -> int:
    return int(pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calls") / "calls"
    subprocess.run(["gcc", "-O1", "-static", "-o", path, HERE / "calls.c"], check=True, timeout=60)
    return path


def attempts(program: Path, *calls: tuple[int | str, ...], refuse: int = 0) -> tuple[list[tuple[int, int]], Done]:
    """Makes the calls one after the other; each one's (result, errno)."""

    def answer(held: Held) -> int:
        return refuse if held.number != nr("execve") else 0

    lines = []
    for name, *arguments in calls:
        number = nr(name) if isinstance(name, str) else name
        lines.append(" ".join(f"{int(value) & MINUS_ONE:x}" for value in (number, *arguments)))
    done = run([program], stdin="\n".join(lines) + "\n", answer=answer)
    assert done.returncode == 0, done
    pairs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return [(first, second) for first, second in pairs], done


def errnos(program: Path, *calls: tuple[int | str, ...], refuse: int = 0) -> list[str]:
    results, _ = attempts(program, *calls, refuse=refuse)
    return [errno.errorcode.get(number, "OK") for _, number in results]


def test_every_refused_call_fails_with_its_errno_and_is_not_held(program: Path) -> None:
    rows = [
        row for row in pause_table(reads_pause=False).values()
        if row.disposition is Disposition.REFUSE and not row.conditions
    ]  # fmt: skip
    assert len(rows) > 60
    # Registers that none of these calls accepts: one that got through would say EINVAL, EFAULT or EBADF.
    results, done = attempts(program, *[(row.name, *[MINUS_ONE] * 6) for row in rows], ("getpid",))
    for row, (_, number) in zip(rows, results, strict=False):
        assert errno.errorcode[number] == errno.errorcode[row.errno], row.name
    assert results[-1][1] == 0
    assert set(done.held) == {nr("execve")}


def test_calls_that_no_row_names_do_not_exist(program: Path) -> None:
    named = {nr(name) for name in pause_table(reads_pause=False)}
    named |= {335, 336}  # uretprobe, uprobe: see the defaults
    numbers = [number for number in range(600) if number not in named]
    results, _ = attempts(program, *[(number, *[MINUS_ONE] * 6) for number in numbers])
    assert {number for _, number in results} == {errno.ENOSYS}


@pytest.mark.parametrize("entry", ["int80", "x32"])
def test_other_entries_do_not_exist(program: Path, entry: str) -> None:
    assert run([program, entry]).stdout == f"{-errno.ENOSYS}\n"


def test_the_32_bit_entry_works_outside(program: Path) -> None:
    outside = subprocess.run([program, "int80"], capture_output=True, text=True, timeout=10, check=False)
    assert outside.returncode == -signal.SIGSEGV or int(outside.stdout) > 0


def test_sockets(program: Path) -> None:
    cloexec, nonblock = 0o2000000, 0o4000
    allowed = [(1, 1, 0), (1, 2 | cloexec, 0), (2, 1 | nonblock, 6), (2, 2, 17), (10, 1 | cloexec | nonblock, 0)]
    allowed += [(16, 3 | cloexec, 0), (16, 2, 0)]
    refused = [
        (2, 3, 1),
        (2, 2, 1),
        (2, 1, 262),
        (17, 3, 0),
        (16, 3, 9),
        (16, 3, 15),
        (38, 5, 0),
        (40, 1, 0),
        (1, 5, 0),
    ]
    refused += [(31, 3, 1), (2 | 1 << 32, 1, 0), (2, 5, 132)]
    assert errnos(program, *[("socket", *call) for call in allowed]) == ["OK"] * len(allowed)
    assert errnos(program, *[("socket", *call) for call in refused]) == ["EPERM"] * len(refused)


@pytest.mark.parametrize("bit", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_namespaces_are_refused_by_clone_and_unshare(program: Path, bit: int) -> None:
    calls = (("clone", bit | signal.SIGCHLD), ("clone", bit | 1 << 40 | signal.SIGCHLD), ("unshare", bit | 0x400))
    assert errnos(program, *calls) == ["EPERM"] * 3


def test_processes_and_unsharing_within_the_process_work(program: Path) -> None:
    calls = (("clone", int(signal.SIGCHLD)), ("fork",), ("unshare", 0x200), ("unshare", 0x80), ("clone3", 0, 0))
    assert errnos(program, *calls) == ["OK", "OK", "OK", "EPERM", "ENOSYS"]


def test_no_thread_gets_descriptors_of_its_own(program: Path) -> None:
    calls = (
        ("clone", 0x10000),
        ("clone", 0x10900),
        ("unshare", 0x400),
        ("unshare", 0x600),
        ("close_range", 900, 901, 2),
    )
    assert errnos(program, *calls) == ["EPERM", "EPERM", "EPERM", "EPERM", "ENOSYS"]
    assert errnos(program, ("close_range", 900, 901, 0), ("close_range", 900, 901, 4)) == ["OK", "OK"]


TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS, TIOCGWINSZ, FIONREAD = 0x5412, 0x541C, 0x5423, 0x541D, 0x5413, 0x541B


@pytest.mark.parametrize("upper", [0, 1 << 32, 1 << 63, 0xFFFF_FFFF << 32, 0x8000_0000])
def test_terminal_requests_are_refused_whatever_the_upper_half(program: Path, upper: int) -> None:
    requests = (TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS, 0x8901, 0x8902, 0x4B49, 0x5437)
    assert errnos(program, *[("ioctl", 0, request | upper, 0) for request in requests]) == ["EPERM"] * len(requests)


def test_other_ioctls_reach_the_driver(program: Path) -> None:
    # stdin is a pipe: it is no terminal, and it can be asked how much there is to read (into no memory: EFAULT)
    assert errnos(program, ("ioctl", 0, TIOCGWINSZ, 0), ("ioctl", 0, FIONREAD, 0)) == ["ENOTTY", "EFAULT"]
    assert errnos(program, ("ioctl", 0, FIONREAD | 1 << 32, 0)) == ["EFAULT"]


SETFLAGS, SETFLAGS_32, FSSETXATTR, VERITY, SNAP_CREATE, SETVERSION = (
    0x40086602, 0x40046602, 0x401C5820, 0x40806685, 0x50009401, 0x40087602,
)  # fmt: skip
GETFLAGS, FIEMAP, FSGETXATTR, FICLONE = 0x80086601, 0xC020660B, 0x801C581F, 0x40049409


def test_ioctls_that_change_an_inode_are_held(program: Path) -> None:
    requests = (SETFLAGS, SETFLAGS_32, FSSETXATTR, VERITY, SNAP_CREATE, SETVERSION, SETFLAGS | 1 << 32)
    calls = [("ioctl", 0, request, 0) for request in requests]
    results, done = attempts(program, *calls, refuse=errno.EACCES)
    assert [number for _, number in results] == [errno.EACCES] * len(requests)
    assert done.held.count(nr("ioctl")) == len(requests)
    neighbours = [("ioctl", 0, request, 0) for request in (GETFLAGS, FIEMAP, FSGETXATTR, FICLONE)]
    results, done = attempts(program, *neighbours, refuse=errno.EACCES)
    assert errno.EACCES not in [number for _, number in results]
    assert nr("ioctl") not in done.held


def test_fcntl(program: Path) -> None:
    setsig, setown, setown_ex, setlease, notify = 10, 8, 15, 1024, 1026
    refused = (setsig, setown, setown_ex, setlease, notify, 8 | 1 << 32, 9999)
    assert errnos(program, *[("fcntl", 0, command, 0) for command in refused]) == ["EPERM"] * len(refused)
    allowed = (0, 1, 3, 9, 11, 1030, 1032)
    assert errnos(program, *[("fcntl", 0, command, 0) for command in allowed]) == ["OK"] * len(allowed)


def test_prctl(program: Path) -> None:
    set_mm, sched_core, set_ptracer, user_dispatch = 35, 62, 0x59616D61, 59
    refused = (set_mm, sched_core, set_ptracer, user_dispatch, 9999)
    assert errnos(program, *[("prctl", option, 0, 0, 0, 0) for option in refused]) == ["EPERM"] * len(refused)
    assert errnos(program, ("prctl", 3), ("prctl", 39, 0, 0, 0, 0), ("prctl", 36, 1)) == ["OK"] * 3


def test_a_second_listener_is_refused_and_a_further_filter_is_not(program: Path) -> None:
    # 1, 2, 8: strict mode is 0; SECCOMP_SET_MODE_FILTER; SECCOMP_GET_ACTION_AVAIL. No program at address 0: EFAULT.
    assert (
        errnos(program, ("seccomp", 1, 8, 0), ("seccomp", 1, 8 | 16, 0), ("seccomp", 1, 8 | 1 << 32, 0))
        == ["EPERM"] * 3
    )
    assert errnos(program, ("seccomp", 1, 0, 0)) == ["EFAULT"]


def test_personality(program: Path) -> None:
    assert errnos(program, ("personality", 0xFFFF_FFFF), ("personality", 0)) == ["OK", "OK"]
    assert errnos(program, ("personality", 0x40000), ("personality", 8), ("personality", 0xFFFF_FFFE)) == ["EPERM"] * 3


def test_steering_others_is_held_and_oneself_is_not(program: Path) -> None:
    other = 1
    held = [("prlimit64", other, 0, 4096, 0), ("sched_setaffinity", other, 8, 0), ("setpriority", 0, other, 5)]
    held += [
        ("kill", other, 0),
        ("tgkill", other, other, 0),
        ("pidfd_send_signal", 0, 0, 0, 0),
        ("ioprio_set", 1, other, 0),
    ]
    results, done = attempts(program, *held, refuse=errno.EACCES)
    assert {number for _, number in results} == {errno.EACCES}
    assert len(done.held) == len(held) + 1
    free = [("prlimit64", 0, 7, 0, 0), ("setpriority", 0, 0, 5), ("getpriority", 0, 0), ("prlimit64", 0, 7, 0, 4096)]
    results, done = attempts(program, *free, ("move_pages", other, 0, 0, 0, 0, 0), refuse=errno.EACCES)
    assert [number for _, number in results] == [0, 0, 0, errno.EFAULT, errno.EPERM]
    assert set(done.held) == {nr("execve")}


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE, 3, os.O_APPEND | 1])
def test_opening_for_writing_is_held(program: Path, flags: int) -> None:
    results, done = attempts(program, ("openat", AT_FDCWD, 0, flags), ("open", 0, flags), refuse=errno.EACCES)
    assert [number for _, number in results] == [errno.EACCES] * 2
    assert len(done.held) == 3


def test_opening_for_reading_or_as_a_reference_is_not(program: Path) -> None:
    flags = (os.O_RDONLY, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, os.O_PATH, os.O_PATH | os.O_RDWR | os.O_CREAT)
    results, done = attempts(program, *[("openat", AT_FDCWD, 0, flag) for flag in flags], refuse=errno.EACCES)
    assert [number for _, number in results] == [errno.EFAULT] * len(flags)
    assert set(done.held) == {nr("execve")}


def test_sendto_is_held_with_an_address_or_fastopen_only(program: Path) -> None:
    fastopen = 0x20000000
    held = [("sendto", 0, 0, 0, 0, 1, 16), ("sendto", 0, 0, 0, fastopen, 0, 0), ("sendto", 0, 0, 0, 0, 1 << 40, 0)]
    results, _ = attempts(program, *held, ("sendmsg", 0, 0, 0), ("sendmmsg", 0, 0, 0, 0), refuse=errno.EACCES)
    assert {number for _, number in results} == {errno.EACCES}
    assert errnos(program, ("sendto", 0, 0, 0, 0x4000, 0, 0), refuse=errno.EACCES) == ["ENOTSOCK"]


def test_everything_else_that_the_table_holds_reaches_the_listener(program: Path) -> None:
    rows = [
        row for row in pause_table(reads_pause=False).values()
        if row.disposition is Disposition.HOLD and not row.conditions and row.name != "execve"
    ]  # fmt: skip
    results, done = attempts(program, *[(row.name, *[MINUS_ONE] * 6) for row in rows], refuse=errno.EXDEV)
    assert [number for _, number in results] == [errno.EXDEV] * len(rows)
    assert sorted(done.held) == sorted([nr("execve"), *(nr(row.name) for row in rows)])


def test_reads_pause_holds_every_open(program: Path) -> None:
    def refuse_reads(held: Held) -> int:
        return errno.EACCES if held.number == nr("openat") else 0

    line = f"{nr('openat'):x} {AT_FDCWD:x} 0 0\n{nr('openat'):x} {AT_FDCWD:x} 0 {os.O_PATH:x}\n"
    done = run([program], stdin=line, answer=refuse_reads, reads_pause=True)
    assert done.stdout == f"-1 {errno.EACCES}\n-1 {errno.EFAULT}\n"


PROGRAMS = {
    "dash": ["sh", "-c", "seq 200 | sort -n | tail -1; (echo a; echo b) | wc -l; wait"],
    "python threads": [
        "/usr/bin/python3", "-c",
        "import threading, subprocess; t = [threading.Thread(target=print, args=(i,)) for i in range(3)]\n"
        "for x in t: x.start(); x.join()\n"
        "print(subprocess.run(['echo', 'sub'], capture_output=True).stdout)",
    ],
    "python asyncio": ["/usr/bin/python3", "-c", "import asyncio; asyncio.run(asyncio.sleep(0.01)); print('done')"],
    "node workers": [
        "node", "-e",
        "const { Worker } = require('worker_threads');"
        "new Worker('require(\"worker_threads\").parentPort.postMessage(6 * 7)', { eval: true })"
        ".on('message', m => console.log(m))",
    ],
    "git": ["git", "--version"],
    "sqlite": ["sqlite3", ":memory:", "create table t(a); insert into t values (1); select count(*) from t;"],
}  # fmt: skip


@pytest.mark.parametrize("argv", PROGRAMS.values(), ids=PROGRAMS)
def test_ordinary_programs_do_the_same_as_without(argv: list[str]) -> None:
    outside = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)
    inside = run(argv)
    assert (inside.returncode, inside.stdout, inside.stderr) == (outside.returncode, outside.stdout, outside.stderr)
    assert inside.stdout


def test_a_refused_exec_arrives_as_its_errno() -> None:
    calls = 0

    def second_is_refused(held: Held) -> int:
        nonlocal calls
        calls += held.number == nr("execve")
        return errno.EPERM if calls > 1 else 0

    done = run(["/bin/sh", "-c", "/bin/true; echo $?"], answer=second_is_refused)
    assert done.stdout == "126\n"
