"""Held calls on processes: execve(2), execveat(2), kill(2) and its kin."""

import errno
import os
import stat as modes

from governed_mcpd.kernel import procfs
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.pause.call import Call, one
from governed_mcpd.pause.files import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from governed_mcpd.pause.object import Object
from governed_mcpd.pause.observation import Effects, Harmless, Observation, Unreadable, WouldFail
from governed_mcpd.pause.resolve import AT_FDCWD

# Variables that change what code a program loads before its own first line: ld.so(8), python(1), node(1), bash(1) …
_LOADING = (b"LD_", b"PYTHON", b"NODE_OPTIONS=", b"PERL5", b"RUBYOPT=", b"RUBYLIB=", b"BASH_ENV=", b"ENV=", b"GIT_")
_LOADING_MOST = 64
# linux/pidfd.h: none, PIDFD_SIGNAL_THREAD, PIDFD_SIGNAL_THREAD_GROUP (Linux 6.9)
PIDFD_SIGNAL_ONE, PIDFD_SIGNAL_PROCESS_GROUP = (0, 1, 2), 4
IOPRIO_WHO_PROCESS = 1  # linux/ioprio.h


def execve(call: Call) -> Observation:
    found = call.resolver.object(call.place, AT_FDCWD, call.path(0))
    return _exec(call, found, call.register(1), call.register(2))


def execveat(call: Call) -> Observation:
    flags, path = call.integer(4), call.path(1)
    if not path and flags & AT_EMPTY_PATH:
        found = call.resolver.descriptor(call.place, call.integer(0))
    else:
        found = call.resolver.object(call.place, call.integer(0), path, follow=not flags & AT_SYMLINK_NOFOLLOW)
    return _exec(call, found, call.register(2), call.register(3))


def _exec(call: Call, found: Object, argv: int, envp: int) -> Observation:
    assert found.status is not None
    if found.unnamed:
        # memfd_create + execveat: code that no file holds cannot be judged by its name.
        return Unreadable("exec-unnamed", "a program without a name is not run", Operation.PROCESS_EXEC, found.name)
    if not modes.S_ISREG(found.status.st_mode) or not found.status.st_mode & 0o111:
        raise WouldFail(errno.EACCES)
    words = tuple(os.fsdecode(word) for word in call.memory.words(argv))
    details: dict[str, str] = {}
    for word in call.memory.words(envp):
        if not word.startswith(_LOADING):
            continue
        name, _, value = word.partition(b"=")
        shown = f"env.{os.fsdecode(name)}"
        if shown in details:
            # getenv(3) takes the first, a shell perhaps the last: which one counts cannot be said.
            reason = f"{os.fsdecode(name)} is given twice"
            return Unreadable("environment-ambiguous", reason, Operation.PROCESS_EXEC, found.name)
        if len(details) == _LOADING_MOST:
            reason = f"more than {_LOADING_MOST} variables that change what is loaded"
            return Unreadable("environment-too-large", reason, Operation.PROCESS_EXEC, found.name)
        details[shown] = os.fsdecode(value)[:1024]
    return Effects((SideEffect(Operation.PROCESS_EXEC, found.name, argv=words, details=details),))


def kill(call: Call) -> Observation:
    pid, signal = call.integer(0), call.integer(1)
    if pid > 0:
        return _signal(call, pid, signal)
    if pid == -1:
        return one(Operation.PROCESS_SIGNAL, "process:-1", signal=str(signal))
    group = procfs.stat(call.held.tid).group if pid == 0 else -pid
    return _signal_group(call, group, signal)


def tkill(call: Call) -> Observation:
    return _signal(call, call.integer(0), call.integer(1))


def tgkill(call: Call) -> Observation:
    # The kernel checks that the thread belongs to the group: sys_tgkill, kernel/signal.c.
    return _signal(call, call.integer(1), call.integer(2))


def rt_sigqueueinfo(call: Call) -> Observation:
    return _signal(call, call.integer(0), call.integer(1))


def rt_tgsigqueueinfo(call: Call) -> Observation:
    return _signal(call, call.integer(1), call.integer(2))


def pidfd_send_signal(call: Call) -> Observation:
    try:
        info = procfs.read(f"{call.held.tid}/fdinfo/{call.integer(0)}")
    except procfs.Gone:
        raise WouldFail(errno.EBADF) from None
    for line in info.splitlines():
        if line.startswith(b"Pid:"):
            pid = int(line[4:])
            if pid <= 0:
                return _gone(pid)
            if call.integer(3) == PIDFD_SIGNAL_PROCESS_GROUP:
                return _signal_group(call, pid, call.integer(1))
            if call.integer(3) not in PIDFD_SIGNAL_ONE:
                raise WouldFail(errno.EINVAL)
            return _signal(call, pid, call.integer(1))
    raise WouldFail(errno.EBADF)


def steer(call: Call) -> Observation:
    """sched_setaffinity(2) and its kin, prlimit(2): how another process runs is judged as a signal to it would be.

    The first register says whose; 0, the caller's own, does not come here.
    """
    return _signal(call, call.integer(0), 0)


def setpriority(call: Call) -> Observation:
    return _steer_some(call, os.PRIO_PROCESS)


def ioprio_set(call: Call) -> Observation:
    return _steer_some(call, IOPRIO_WHO_PROCESS)


def _steer_some(call: Call, one_process: int) -> Observation:
    """(which, who, …): one process, or else a group or all of a user, which reach past the sandbox."""
    if call.integer(0) == one_process:
        return _signal(call, call.integer(1), 0)
    return one(Operation.PROCESS_SIGNAL, "process:-1", signal="0")


def _gone(pid: int) -> Observation:
    if pid == -1:
        raise WouldFail(errno.ESRCH)
    return Unreadable("pidfd-foreign", "a process of another pid namespace", Operation.PROCESS_SIGNAL)


def _signal(call: Call, pid: int, signal: int) -> Observation:
    if pid <= 0:
        raise WouldFail(errno.EINVAL)
    try:
        if call.inside.reaches(call.held.tid, pid):
            return Harmless("a signal inside the sandbox")
    except procfs.Gone:
        raise WouldFail(errno.ESRCH) from None
    return one(Operation.PROCESS_SIGNAL, f"process:{pid}", signal=str(signal))


def _signal_group(call: Call, group: int, signal: int) -> Observation:
    """A process group is inside when all its members are; the first one that is not is the object."""
    members = 0
    launcher = call.inside.launcher_of(call.held.tid)
    for pid in procfs.processes():
        try:
            if procfs.stat(pid).group != group:
                continue
            members += 1
            # The launcher stands in its command's group, as a wrapper does, and ends with it.
            if pid != launcher and not call.inside.reaches(call.held.tid, pid):
                return one(Operation.PROCESS_SIGNAL, f"process:{pid}", signal=str(signal), group=str(group))
        except procfs.Gone:
            continue
    if members == 0:
        raise WouldFail(errno.ESRCH)
    return Harmless("a signal inside the sandbox")
