"""What the kernel has to offer, found by doing it: each probe runs in a child process of its own, which ends with it.

A version number or a configuration file says what should work; a filter that was loaded, a call that was held and let
go, an open that Landlock refused, say what does.
"""

import contextlib
import ctypes
import errno
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from governed_mcpd.kernel import calls, cgroup
from governed_mcpd.kernel.notify import Listener

SECONDS = 10.0
# linux/seccomp.h
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE_RECV = 1 << 5
# linux/landlock.h
_CREATE_RULESET_VERSION = 1
_ACCESS_FS_READ_FILE = 1 << 2
# linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class ProbeFailed(Exception):
    """What was tried did not work. The text says how."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether something works; None: it cannot be told from here. `detail` says what was seen."""

    works: bool | None
    detail: str


def in_child(probe: Callable[[], str], seconds: float = SECONDS) -> Outcome:
    """Runs the probe in a child and takes what it returns, or why it failed; neither the child nor what it started
    outlives `seconds`: a process that was left would keep the caller's output open."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(read)
        _report(probe, write)
    with contextlib.suppress(OSError):  # it has ended already
        os.setpgid(child, child)  # whoever comes first
    os.close(write)
    try:
        answer = _read_all(read, time.monotonic() + seconds)
    finally:
        os.close(read)
        os.killpg(child, signal.SIGKILL)  # unreaped, so the number is still the child's; it has ended unless it hangs
        os.waitpid(child, 0)
    if answer is None:
        return Outcome(False, f"the attempt hung, and was ended after {seconds:g} s")
    if not answer:
        return Outcome(False, "the process that tried it was killed")
    return Outcome(answer[:1] == b"+", answer[1:].decode("utf-8", "replace"))


def user_notification() -> str:
    """A filter holds execve(2); the call is refused once, and let through once."""
    listener = _hold("execve", 0)
    refused = _exec_true()
    listener.refuse(_receive(listener), errno.EPERM)
    if _status(refused) != errno.EPERM:
        raise ProbeFailed("a held call was answered with EPERM, and the program did not see that")
    allowed = _exec_true()
    listener.proceed(_receive(listener))
    if _status(allowed) != 0:
        raise ProbeFailed("a held call was let through, and did not run")
    return "a held call was refused, and one let through"


def wait_killable() -> str:
    """With the flag, a signal does not interrupt a call that was received; and programs survive (some 6.12 do not)."""
    listener = _hold("execve", _WAIT_KILLABLE_RECV)
    for _ in range(16):
        # Caught before the exec, ignored after it: it interrupts a call that can be interrupted, and kills nobody.
        program = _exec_true(catching=signal.SIGWINCH)
        held = _receive(listener)
        os.kill(program, signal.SIGWINCH)
        if not listener.waits(held):
            raise ProbeFailed("a signal interrupted a call that had been received")
        listener.proceed(held)
        if _status(program) != 0:
            raise ProbeFailed("a program was killed by this kernel's implementation")
    return "16 programs were held and signalled, and ran"


def landlock() -> str:
    """A ruleset that allows nothing to be read is taken on, and a file can no longer be opened."""
    version = _call("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    attributes = struct.pack("Q", _ACCESS_FS_READ_FILE)
    ruleset = _call("landlock_create_ruleset", attributes, len(attributes), 0)
    os.close(os.open("/etc/passwd", os.O_RDONLY))
    _no_new_privs()
    _call("landlock_restrict_self", ruleset, 0)
    try:
        os.close(os.open("/etc/passwd", os.O_RDONLY))
    except PermissionError:
        return f"ABI {version}"
    raise ProbeFailed("a file could be opened that the ruleset does not allow")


def cgroup_v2() -> str:
    """The hierarchy is found wherever it is mounted, and has cgroup.kill (Linux 5.14)."""
    try:
        found = cgroup.find()
    except cgroup.NoCgroup as error:
        raise ProbeFailed(str(error)) from None
    own = cgroup.Cgroup(found, found.own)
    if os.geteuid() == 0:
        made = own.child(f"governed-doctor-{os.getpid()}")
        try:
            made.create()
            if not os.path.exists(os.path.join(made.directory, "cgroup.kill")):
                raise ProbeFailed(f"{made.directory} has no cgroup.kill")
        except cgroup.NoCgroup as error:
            raise ProbeFailed(str(error)) from None
        finally:
            made.end()
        return f"{found.mount}: a cgroup was made and removed"
    for directory in (own.directory, *(child.directory for child in own.children())):
        if os.path.exists(os.path.join(directory, "cgroup.kill")):
            return found.mount
    # The root cgroup has no cgroup.kill, and an ordinary user can make no other to look.
    return f"{found.mount}; whether cgroup.kill is there only root can find out"


def pidfd_getfd() -> str:
    """A descriptor is taken from another process, as the daemon takes the listener."""
    read, write = os.pipe()
    ready_read, ready_write = os.pipe()
    other = os.fork()
    if other == 0:
        os.close(write)
        os.write(ready_write, b".")
        signal.pause()
    try:
        os.close(read)
        os.read(ready_read, 1)
        pidfd = os.pidfd_open(other)
        taken = calls.pidfd_getfd(pidfd, read)
        os.write(write, b"x")
        if os.read(taken, 1) != b"x":
            raise ProbeFailed("the descriptor that was taken is another one")
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    return "a descriptor was taken from another process"


def openat2() -> str:
    """A path is opened, and one that goes through a magic link is refused when that is asked for."""
    root = os.open("/", os.O_PATH)
    os.close(calls.openat2(root, b"proc/self/stat", os.O_RDONLY, calls.RESOLVE_BENEATH))
    try:
        os.close(calls.openat2(root, b"proc/self/exe", os.O_RDONLY, calls.RESOLVE_NO_MAGICLINKS))
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "works, and refuses magic links when asked"
        raise
    raise ProbeFailed("a magic link was followed although that was forbidden")


def _report(probe: Callable[[], str], write: int) -> None:
    """In the child: runs the probe, writes its outcome, and ends without running anything of the parent's."""
    try:
        try:
            answer = "+" + probe()
        except OSError as error:
            answer = f"-{error.strerror or error}"
        except Exception as error:
            answer = f"-{error}"
        os.write(write, answer.encode()[:2048])
    finally:
        os._exit(0)


def _read_all(descriptor: int, deadline: float) -> bytes | None:
    """All that is written there; None when it does not end before the deadline."""
    parts: list[bytes] = []
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while poll.poll(max(0, int((deadline - time.monotonic()) * 1000))):
        part = os.read(descriptor, 4096)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


def _hold(name: str, flags: int) -> Listener:
    """Loads a filter into this process that holds one system call, and lets the rest pass."""
    import pyseccomp  # noqa: PLC0415 - only this needs libseccomp

    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    rules.add_rule(pyseccomp.NOTIFY, name)
    with open(os.memfd_create("filter"), "r+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        program = file.read()
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: unsigned short len; struct sock_filter *filter (8 bytes per instruction)
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _no_new_privs()
    return Listener(_call("seccomp", _SET_MODE_FILTER, _NEW_LISTENER | flags, fprog))


def _call(name: str, *arguments: int | bytes | None) -> int:
    """A system call by name; OSError."""
    import pyseccomp  # noqa: PLC0415 - it knows the numbers of this architecture

    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    if number < 0:
        raise ProbeFailed(f"libseccomp does not know {name}: a newer one is needed (2.5.4 is known to work)")
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def _no_new_privs() -> None:
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")


def _exec_true(catching: signal.Signals | None = None) -> int:
    """A child that becomes true(1), or exits with the errno that kept it from that."""
    child = os.fork()
    if child != 0:
        return child
    if catching is not None:
        signal.signal(catching, lambda *_: None)
    try:
        os.execv("/bin/true", ["true"])  # noqa: S606 - exec is what is tried
    except OSError as error:
        os._exit(error.errno or 255)
    finally:
        os._exit(255)


def _receive(listener: Listener) -> int:
    """The id of the next held call; ProbeFailed when none comes."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while poll.poll(int(SECONDS * 500)):
        held = listener.receive()
        if held is not None:
            return held.id
    raise ProbeFailed("a call that the filter names was not held")


def _status(child: int) -> int:
    """The exit status of a child; ProbeFailed when it does not end."""
    pidfd = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(int(SECONDS * 500)):
            os.kill(child, signal.SIGKILL)
            raise ProbeFailed("a program that was answered did not go on")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(pidfd)
