"""From the two ends of a call to one activity, and from bytes to what a person reads."""

import errno
import os
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from governed_mcpd.sandbox.table import held_names
from governed_mcpd.trace.activity import BEGUN, ENDED, REPLACED, TEXT, Activity, Event, Pairing, address
from governed_mcpd.trace.calls import CALLS, opened_for
from governed_mcpd.trace.place import Names

AT_FDCWD = 2**64 - 100
OPEN = Event(
    phase=BEGUN,
    call="openat",
    time=1,
    cgroup=7,
    pid=10,
    tid=11,
    uid=1000,
    comm=b"sh",
    result=0,
    words=(AT_FDCWD, 0, os.O_WRONLY | os.O_CREAT, 0o644, 0, 0),
    texts=(b"/tmp/a", b""),
)


def one(*events: Event) -> Activity:
    """The activity that the last event completes; the others complete none."""
    pairing = Pairing()
    for event in events[:-1]:
        assert pairing.take(event) is None
    activity = pairing.take(events[-1])
    assert activity is not None
    return activity


def test_a_call_is_shown_when_it_ends() -> None:
    seen = one(OPEN, replace(OPEN, phase=ENDED, result=3, time=2))
    assert (seen.call, seen.kind, seen.result, seen.error, seen.objects) == ("openat", "file", 3, "", (b"/tmp/a",))
    assert (seen.opened_for, seen.began, seen.changed, seen.time) == ("write+create", True, False, 2)


def test_what_never_began_was_refused() -> None:
    seen = one(replace(OPEN, phase=ENDED, result=-errno.EPERM))
    assert (seen.began, seen.error, seen.result, seen.objects) == (False, "EPERM", 0, (b"/tmp/a",))


def test_what_began_and_failed_is_not_shown_as_refused() -> None:
    seen = one(OPEN, replace(OPEN, phase=ENDED, result=-errno.ENOENT))
    assert (seen.began, seen.error) == (True, "ENOENT")


def test_a_name_that_was_written_over_is_marked_and_shown_as_it_began() -> None:
    seen = one(OPEN, replace(OPEN, phase=ENDED, texts=(b"/etc/x", b"")))
    assert (seen.changed, seen.objects) == (True, (b"/tmp/a",))


def test_a_name_that_could_be_read_only_at_the_end_is_not_marked() -> None:
    seen = one(replace(OPEN, texts=(None, b"")), replace(OPEN, phase=ENDED))
    assert (seen.changed, seen.objects) == (False, (b"/tmp/a",))
    seen = one(replace(OPEN, phase=ENDED, texts=(None, b"")))
    assert seen.objects == (b"(not readable)",)


def test_the_ends_of_two_threads_are_not_mixed_up() -> None:
    pairing = Pairing()
    other = replace(OPEN, tid=12, texts=(b"/tmp/b", b""))
    assert pairing.take(OPEN) is None
    assert pairing.take(other) is None
    seen = [pairing.take(replace(event, phase=ENDED)) for event in (other, OPEN)]
    assert [activity and activity.objects for activity in seen] == [(b"/tmp/b",), (b"/tmp/a",)]


def test_a_beginning_whose_end_was_lost_is_not_that_of_another_call() -> None:
    unlink = replace(OPEN, call="unlinkat", phase=ENDED, result=-errno.EPERM)
    assert one(OPEN, unlink).began is False


def test_a_new_program_is_what_the_kernel_opened_and_put_on_the_stack() -> None:
    exec_ = replace(OPEN, call="execve", texts=(b"/tmp/asked", b""), words=(0,) * 6)
    replaced = replace(exec_, phase=REPLACED, tid=10, words=(11, 0, 0, 0, 0, 0), texts=(b"/tmp/opened", b""))
    ended = replace(exec_, phase=ENDED, tid=10, words=(2, 0, 0, 0, 0, 0), texts=(b"", b"opened\0a b\0PATH=/bin\0"))
    pairing = Pairing()
    assert [pairing.take(event) for event in (exec_, replaced)] == [None, None]
    seen = pairing.take(ended)
    assert seen is not None
    assert (seen.objects, seen.argv, seen.began) == ((b"/tmp/opened",), (b"opened", b"a b"), True)
    # The thread that called is gone with its beginning: the next one of that number has its own.
    refused = pairing.take(replace(exec_, phase=ENDED, result=-errno.EPERM))
    assert refused is not None
    assert (refused.began, refused.objects) == (False, (b"/tmp/asked",))


def test_an_argument_vector_that_was_cut_off_says_so() -> None:
    replaced = replace(OPEN, call="execve", phase=REPLACED, texts=(b"/bin/true", b""))
    ended = replace(OPEN, call="execve", phase=ENDED, words=(3, 0, 0, 0, 0, 0), texts=(b"", b"true\0one\0tw"))
    assert one(replaced, ended).argv == (b"true", b"one", "tw…".encode())


def test_a_relative_name_is_shown_where_it_begins(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as sleeper:
        try:
            event = replace(OPEN, pid=sleeper.pid, tid=sleeper.pid, texts=(b"dir/../name", b""), phase=ENDED)
            assert one(replace(event, texts=(b"./name", b""))).objects == (os.fsencode(tmp_path / "name"),)
            # Where dir leads is not known here.
            assert one(event).objects == (os.fsencode(tmp_path) + b"/dir/../name",)
        finally:
            sleeper.kill()
    assert one(event).objects == (b"dir/../name",)


def test_what_was_cut_off_says_so() -> None:
    long = b"/" + b"x" * (TEXT - 2)
    assert one(replace(OPEN, phase=ENDED, texts=(long, b""))).objects == (long + "…".encode(),)


def test_a_send_to_whom_the_socket_is_connected_to_is_not_shown() -> None:
    send = replace(OPEN, call="sendto", phase=ENDED, texts=(b"", b""))
    assert Pairing().take(send) is None
    raw = struct.pack("=H", socket.AF_INET) + (53).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
    assert one(replace(send, texts=(raw, b""))).objects == (b"127.0.0.1:53",)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (struct.pack("=H", socket.AF_INET6) + b"\x01\xbb" + bytes(4) + bytes(15) + b"\x01" + bytes(4), b"[::1]:443"),
        (struct.pack("=H", socket.AF_UNIX) + b"/run/x\0rest", b"unix:/run/x"),
        (struct.pack("=H", socket.AF_UNIX) + b"\0name\0more", b"unix:@name\0more"),
        (struct.pack("=H", socket.AF_UNIX), b"unix:"),
        (struct.pack("=H", socket.AF_NETLINK) + bytes(10), b"family 16"),
        (struct.pack("=H", socket.AF_INET) + b"\0", b"family 2"),
        (b"\1", b"(no address)"),
    ],
)
def test_addresses(raw: bytes, shown: bytes) -> None:
    assert address(raw) == shown


def test_what_an_open_is_for() -> None:
    assert opened_for(os.O_RDONLY | os.O_CLOEXEC) == "read"
    assert opened_for(os.O_RDWR | os.O_TRUNC) == "read+write+truncate"
    assert opened_for(os.O_PATH | os.O_DIRECTORY) == "path"
    assert opened_for(os.O_RDONLY | os.O_TRUNC) == "read+truncate"


def test_every_call_on_files_network_and_programs_that_is_held_is_traced() -> None:
    """What the daemon decides is what the witness has to see; what is left out has its reason here."""
    elsewhere = {
        "ioctl",  # programs make too many, of which few change anything
        "kill", "tkill", "tgkill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo",  # other processes
        "ioprio_set", "prlimit64", "setpriority",
        "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    }  # fmt: skip
    assert held_names() - CALLS.keys() == elsewhere


def test_cgroups_have_their_sandboxes_names(tmp_path: Path) -> None:
    (tmp_path / "governed-00ff.scope" / "child").mkdir(parents=True)
    names = Names(str(tmp_path))
    assert names[(tmp_path / "governed-00ff.scope").stat().st_ino] == "00ff"
    assert names[(tmp_path / "governed-00ff.scope" / "child").stat().st_ino] == "child"
    assert names[1] == ""


def test_what_is_missing_is_said() -> None:
    """Without Debian's BCC (here: with a Python that cannot see it) the message names the packages."""
    program = (
        "import sys; sys.modules['bcc'] = None\n"
        "from governed_mcpd.trace import tracer\n"
        "tracer.BCC_PACKAGE = '/nonexistent'\n"
        "try: tracer.Tracer('/sys/fs/cgroup')\n"
        "except tracer.CannotTrace as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert f"apt-get install python3-bpfcc linux-headers-{os.uname().release}" in done.stdout
