"""The held calls and who reads each: one table, by name, so that every architecture follows."""

import os
from collections.abc import Callable, Mapping

from governed_mcpd.kernel import procfs
from governed_mcpd.kernel.calls import MemoryReader
from governed_mcpd.kernel.notify import Held
from governed_mcpd.pause import files, network, processes
from governed_mcpd.pause.call import Call, Inside
from governed_mcpd.pause.handles import Handles
from governed_mcpd.pause.memory import Memory
from governed_mcpd.pause.observation import (
    CannotRead,
    Effects,
    Harmless,
    Impossible,
    Observation,
    Unreadable,
    WouldFail,
)
from governed_mcpd.pause.resolve import Place, Resolver

Reader = Callable[[Call], Observation]

READERS: Mapping[str, Reader] = {
    "open": files.open_, "creat": files.creat, "openat": files.openat, "openat2": files.openat2,
    "truncate": files.truncate,
    "unlink": files.unlink, "unlinkat": files.unlinkat, "rmdir": files.rmdir,
    "rename": files.rename, "renameat": files.renameat, "renameat2": files.renameat2,
    "link": files.link, "linkat": files.linkat, "symlink": files.symlink, "symlinkat": files.symlinkat,
    "mkdir": files.mkdir, "mkdirat": files.mkdirat, "mknod": files.mknod, "mknodat": files.mknodat,
    "chmod": files.chmod, "fchmod": files.fchmod, "fchmodat": files.fchmodat,
    "chown": files.chown, "lchown": files.lchown, "fchown": files.fchown, "fchownat": files.fchownat,
    "setxattr": files.setxattr, "lsetxattr": files.lsetxattr, "fsetxattr": files.fsetxattr,
    "removexattr": files.setxattr, "lremovexattr": files.lsetxattr, "fremovexattr": files.fsetxattr,
    "utime": files.utime, "utimes": files.utime, "futimesat": files.futimesat, "utimensat": files.utimensat,
    "ioctl": files.ioctl,
    "connect": network.connect, "bind": network.bind, "listen": network.listen,
    "sendto": network.sendto, "sendmsg": network.sendmsg, "sendmmsg": network.sendmmsg,
    "execve": processes.execve, "execveat": processes.execveat,
    "kill": processes.kill, "tkill": processes.tkill, "tgkill": processes.tgkill,
    "rt_sigqueueinfo": processes.rt_sigqueueinfo, "rt_tgsigqueueinfo": processes.rt_tgsigqueueinfo,
    "pidfd_send_signal": processes.pidfd_send_signal,
    "sched_setaffinity": processes.steer, "sched_setattr": processes.steer, "sched_setparam": processes.steer,
    "sched_setscheduler": processes.steer, "prlimit64": processes.steer,
    "setpriority": processes.setpriority, "ioprio_set": processes.ioprio_set,
}  # fmt: skip


class Observer:
    """Looks at held calls from one thread of the daemon; its resolver and memory reader belong to that thread."""

    def __init__(self, names: Mapping[int, str], *, sealed: bool = False) -> None:
        """`names`: the held system calls of this architecture by number. `sealed`: observations keep what they
        found, as descriptors."""
        self._readers = {number: (name, READERS.get(name)) for number, name in names.items()}
        self._memory = MemoryReader()
        self._resolver = Resolver()
        self._sealed = sealed

    def stand_at(self, place: Place) -> bool:
        """Has the thread's root and groups be those of the place, for looks by others (subjects/covered.c)."""
        return self._resolver.stand_at(place)

    def observe(self, held: Held, place: Place, inside: Inside) -> Observation:
        """What the call would do. Never raises for anything that a thread can bring about."""
        name, reader = self._readers.get(held.number, (str(held.number), None))
        if reader is None:
            return Unreadable("unknown-call", f"system call {name} is held, and nobody reads it")
        call = Call(held, place, Memory(self._memory, held.tid), self._resolver, inside, self._sealed)
        if not self._sealed:
            return _looked(name, reader, call)
        handles = self._resolver.handles = Handles()
        try:
            observation = _looked(name, reader, call)
        except BaseException:
            handles.close()
            raise
        finally:
            self._resolver.handles = None
        return _with(observation, handles)


def _with(observation: Observation, handles: Handles) -> Observation:
    """The observation as the owner of the descriptors, if it has use for them."""
    effects = observation.unjudged if isinstance(observation, Harmless) else observation
    if isinstance(effects, Effects):
        effects.handles = handles
    else:
        handles.close()
    return observation


def _looked(name: str, reader: Reader, call: Call) -> Observation:
    try:
        return reader(call)
    except WouldFail as failure:
        return Impossible(failure.errno)
    except CannotRead as failure:
        return Unreadable(failure.rule, f"{name}: {failure.reason}")
    except procfs.Gone:
        return Unreadable("thread-gone", f"{name}: the thread is gone")
    except OSError as error:
        return Unreadable("call-unreadable", f"{name}: {os.strerror(error.errno or 5)} while it was looked at")
