"""Held calls on processes: execve(2), execveat(2), kill(2) and its kin."""

import errno
import os
import stat as modes

from governed_mcpd.kernel import procfs
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.pause import scripts
from governed_mcpd.pause.call import Call, one, targets
from governed_mcpd.pause.files import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from governed_mcpd.pause.object import Object
from governed_mcpd.pause.observation import CannotRead, Effects, Harmless, Observation, Unreadable, WouldFail
from governed_mcpd.pause.resolve import AT_FDCWD

# Variables that change what code a program loads before its own first line: ld.so(8), python(1), node(1), bash(1) …
_LOADING = (b"LD_", b"PYTHON", b"NODE_OPTIONS=", b"PERL5", b"RUBYOPT=", b"RUBYLIB=", b"BASH_ENV=", b"ENV=", b"GIT_")
_LOADING_MOST = 64
# linux/pidfd.h: none, PIDFD_SIGNAL_THREAD, PIDFD_SIGNAL_THREAD_GROUP (Linux 6.9)
PIDFD_SIGNAL_ONE, PIDFD_SIGNAL_PROCESS_GROUP = (0, 1, 2), 4
IOPRIO_WHO_PROCESS = 1  # linux/ioprio.h


def execve(call: Call) -> Observation:
    path = call.path(0)
    found = call.resolver.object(call.place, AT_FDCWD, path)
    return _exec(call, found, path, call.register(1), call.register(2))


def execveat(call: Call) -> Observation:
    flags, path = call.integer(4), call.path(1)
    if not path and flags & AT_EMPTY_PATH:
        found = call.resolver.descriptor(call.place, call.integer(0))
    else:
        found = call.resolver.object(call.place, call.integer(0), path, follow=not flags & AT_SYMLINK_NOFOLLOW)
    return _exec(call, found, _shown_to_script(call.integer(0), path), call.register(2), call.register(3))


def _shown_to_script(directory: int, path: bytes) -> bytes:
    """What the kernel tells an interpreter that its script is called: fs/exec.c alloc_bprm."""
    if directory == AT_FDCWD or path.startswith(b"/"):
        return path
    return b"/dev/fd/%d/%s" % (directory, path) if path else b"/dev/fd/%d" % directory


def _exec(call: Call, found: Object, name: bytes, argv: int, envp: int) -> Observation:
    """`name`: of the program, as the thread gave it."""
    assert found.status is not None
    if found.unnamed:
        # memfd_create + execveat: code that no file holds cannot be judged by its name.
        return Unreadable("exec-unnamed", "a program without a name is not run", Operation.PROCESS_EXEC, found.name)
    _check_program(found)
    arguments = tuple(call.memory.words(argv))
    environment = tuple(call.memory.words(envp))
    details: dict[str, str] = {}
    for word in environment:
        if not word.startswith(_LOADING):
            continue
        variable, _, value = word.partition(b"=")
        shown = f"env.{os.fsdecode(variable)}"
        if shown in details:
            # getenv(3) takes the first, a shell perhaps the last: which one counts cannot be said.
            reason = f"{os.fsdecode(variable)} is given twice"
            return Unreadable("environment-ambiguous", reason, Operation.PROCESS_EXEC, found.name)
        if len(details) == _LOADING_MOST:
            reason = f"more than {_LOADING_MOST} variables that change what is loaded"
            return Unreadable("environment-too-large", reason, Operation.PROCESS_EXEC, found.name)
        details[shown] = os.fsdecode(value)[:1024]
    words = tuple(os.fsdecode(word) for word in arguments)
    if not call.sealed:
        return Effects((SideEffect(Operation.PROCESS_EXEC, found.name, argv=words, details=details),))
    # argc is never 0: Linux commit dcd46d897adb ("exec: Force single empty string when argv is empty") (in v5.18)
    programs, arguments = _interpreted(call, found, name, arguments or (b"",))
    for level, interpreter in enumerate(programs[1:]):
        details["interpreter" + (f".{level}" if level else "")] = interpreter.name
    effect = SideEffect(Operation.PROCESS_EXEC, found.name, argv=words, details=details)
    return Effects((effect,), targets(*programs), arguments, environment)


def _interpreted(
    call: Call, program: Object, name: bytes, argv: tuple[bytes, ...]
) -> tuple[list[Object], tuple[bytes, ...]]:
    """The program, the interpreters of a script in the order in which the kernel comes to them, and the arguments that
    the last one gets."""
    programs = [program]
    while (line := scripts.interpreter(_head(call, programs[-1]))) is not None:
        if len(programs) > scripts.MOST_LEVELS:
            raise WouldFail(errno.ELOOP)
        found = call.resolver.object(call.place, AT_FDCWD, line.path)
        if found.unnamed:
            raise CannotRead("exec-unnamed", "an interpreter without a name is not run")
        _check_program(found)
        argv = scripts.rebuilt(name, line, argv)
        name = line.path
        programs.append(found)
    return programs, argv


def _head(call: Call, program: Object) -> bytes:
    try:
        return call.resolver.head(program, scripts.HEAD)
    except OSError as error:
        reason = f"the first line of {program.name} cannot be read: {error.strerror}"
        raise CannotRead("program-unreadable", reason) from error


def _check_program(found: Object) -> None:
    assert found.status is not None
    if not modes.S_ISREG(found.status.st_mode) or not found.status.st_mode & 0o111:
        raise WouldFail(errno.EACCES)


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
