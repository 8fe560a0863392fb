"""Loading the seal's programs and keeping them in the kernel by pins, or taking up those that a daemon before left.

Pins outlive the daemon: sandboxed tasks stay sealed while it is dead. They lie as PINS/maps, PINS/programs and
PINS/links; PINS/version is a symlink whose text names layout and object. All is made under another name and renamed
when it is complete, so PINS is complete or it is not there.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from governed_mcpd.grant import layout
from governed_mcpd.grant.seal import SealFailed
from governed_mcpd.kernel import bpf, bpf_load, calls

log = logging.getLogger(__name__)
PINS = "/sys/fs/bpf/governed-mcpd"
OBJECT = Path(__file__).with_name("seal.bpf.o")
BPF_FS_MAGIC = 0xCAFE4A11  # linux/magic.h
_SECONDS_FOR_THE_LAST = 3.0

MAPS = ("marked", "marks", "sandboxes", "request", "keeper", "events", "objects", "labels", "grants", "texts",
        "sockets", "owners", "own")  # fmt: skip

OPTIONAL = {
    "inode_set_acl": "before Linux 6.2 POSIX ACLs are set through inode_setxattr",
    "inode_remove_acl": "before Linux 6.2 POSIX ACLs are removed through inode_removexattr",
    "userns_create": "the filter refuses user namespaces",
    "perf_event_open": "a kernel without performance events; the filter refuses the call",
    "uring_sqpoll": "a kernel without io_uring; the filter refuses the calls",
    "uring_cmd": "a kernel without io_uring; the filter refuses the calls",
    "uring_override_creds": "a kernel without io_uring; the filter refuses the calls",
}
"""Programs whose hook a kernel may lack, and what carries it there. Any other that is missing is fatal."""

BY_PARAMETERS = {"times_of_dentry": 2, "times_with_idmap": 3}
"""Programs for the same hook, of which the one is taken that has the kernel's number of arguments; one has to fit."""

# Since Linux commit 271de525e1d7 ("bpf: Remove prog->active check for bpf_lsm and bpf_iter") a program of this kind is
# not skipped when the task it interrupts is in the middle of it; before, an effect could pass unasked. With that commit
# came this function.
_NOT_SKIPPED = "__bpf_prog_enter_recur"

HOW = {
    errno.EPERM: "loading BPF LSM programs is refused (kernel lockdown; or CAP_BPF, CAP_PERFMON or CAP_SYS_ADMIN is "
    "missing; or the machine's rules forbid it)",
    errno.ENOENT: "the kernel has no BTF, or the object file is missing: reinstall governed-mcpd",
}


def chosen(programs: list[bpf_load.Program], types: bpf_load.KernelTypes) -> list[str]:
    """Leaves out what the running kernel has no hook for; the names of the rest. SealFailed if one has to be there."""
    if types.parameters(_NOT_SKIPPED) is None:
        raise SealFailed("this kernel may skip a BPF LSM program that it interrupted: Linux 6.2, or 6.1 with its fixes")
    names = []
    for program in programs:
        hook = program.section.partition("/")[2]
        found = types.parameters(f"bpf_lsm_{hook}")
        wanted = BY_PARAMETERS.get(program.name)
        if found is None and program.name not in OPTIONAL:
            raise SealFailed(
                f"this kernel has no LSM hook {hook}: Linux 6.1 or newer with CONFIG_BPF_LSM=y, "
                "CONFIG_SECURITY_PATH=y and CONFIG_SECURITY_NETWORK=y is needed"
            )
        if found is None or (wanted is not None and wanted != found):
            program.leave_out()
        else:
            names.append(program.name)
    if not set(names) & set(BY_PARAMETERS):
        raise SealFailed("this kernel's hook inode_setattr has arguments that are not known")
    return names


def version(path: Path) -> str:
    """What the pins of this object are called by. SealFailed when it is not there."""
    try:
        return f"layout-{layout.LAYOUT}-{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError as failure:
        raise SealFailed(f"the seal's object cannot be read: {failure} (make build makes it)") from failure


def library() -> bpf_load.Library:
    """libbpf. SealFailed when it is not installed."""
    try:
        return bpf_load.Library()
    except OSError as failure:
        raise SealFailed(f"libbpf is missing: apt-get install libbpf1 ({failure})") from failure


@contextlib.contextmanager
def opened(path: Path, only: frozenset[str] = frozenset()) -> Iterator[tuple[bpf_load.Object, list[str]]]:
    """The object, and the names of the programs that this kernel can have (of `only` these, if there are any)."""
    loader = library()
    try:
        types = bpf_load.KernelTypes(loader)
        try:
            with bpf_load.Object(loader, str(path)) as found:
                names = chosen(found.programs, types)
                for program in found.programs:
                    if only and program.name not in only:
                        program.leave_out()
                yield found, names
        finally:
            types.close()
    except bpf_load.LoadFailed as failure:
        raise SealFailed(f"{HOW.get(failure.errno, 'the seal cannot be loaded')}: {failure}") from failure


def probe(path: Path = OBJECT) -> str:
    """Why this kernel cannot have a seal; empty when a program of it was attached, and let go again."""
    try:
        with opened(path, frozenset({"syslog"})) as (found, _):
            found.load()
            (program,) = [one for one in found.programs if one.wanted]
            with program.attached():
                pass
    except SealFailed as failure:
        return str(failure)
    except bpf_load.LoadFailed as failure:  # pragma: no cover - attached() is inside opened()
        return str(failure)
    lsm = Path("/sys/kernel/security/lsm")
    active = lsm.read_text().strip() if lsm.exists() else ""
    if active and "bpf" not in active.split(","):
        return f"BPF is not among the active LSMs: boot with lsm={active},bpf"
    return ""


def has_bpf_filesystem(pins: str) -> bool:
    """Whether the pins would lie on a bpf filesystem."""
    try:
        above = os.open(os.path.dirname(pins), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return calls.filesystem_magic(above) & 0xFFFFFFFF == BPF_FS_MAGIC
    finally:
        os.close(above)


def load(path: Path, pins: str) -> dict[str, bpf.Map]:
    """Loads, attaches and pins everything; the maps by name. SealFailed, and nothing stays."""
    new = f"{pins}-new"  # a bpf filesystem takes no name with a dot: kernel/bpf/inode.c bpf_lookup
    shutil.rmtree(new, ignore_errors=True)  # of a daemon that died in the middle: nobody was ever sealed by these
    os.makedirs(new, mode=0o700)
    maps: dict[str, bpf.Map] = {}
    try:
        for directory in ("maps", "programs", "links"):
            os.mkdir(f"{new}/{directory}", 0o700)
        with opened(path) as (found, _):
            found.load()
            for name, descriptor in found.maps().items():
                if name in MAPS:
                    bpf.pin(descriptor, f"{new}/maps/{name}")
                    maps[name] = bpf.Map(os.dup(descriptor))
            for program in found.programs:
                if program.wanted:
                    bpf.pin(program.descriptor, f"{new}/programs/{program.name}")
                    with program.attached() as link:
                        bpf.pin(link, f"{new}/links/{program.name}")
                        _own(maps["own"], layout.OWN_LINK, bpf.info(link).id)
                    _own(maps["own"], layout.OWN_PROGRAM, bpf.info(program.descriptor).id)
        for one in maps.values():
            _own(maps["own"], layout.OWN_MAP, one.id)
        os.symlink(version(path), f"{new}/version")
        os.rename(new, pins)
    except (OSError, SealFailed, KeyError) as failure:
        for one in maps.values():
            one.close()
        shutil.rmtree(new, ignore_errors=True)
        raise (
            failure if isinstance(failure, SealFailed) else SealFailed(f"the seal cannot be pinned: {failure}")
        ) from failure
    return maps


def _own(own: bpf.Map, kind: int, number: int) -> None:
    own.update(bytes(layout.OwnKey(kind, number)), b"\1\0\0\0")


def take_up(path: Path, pins: str) -> dict[str, bpf.Map]:
    """The maps of what is pinned there, after looking that all of it is. SealFailed."""
    complete(path, pins)
    maps: dict[str, bpf.Map] = {}
    try:
        for name in MAPS:
            maps[name] = bpf.Map(_pinned(f"{pins}/maps/{name}"))
    except OSError as failure:
        for one in maps.values():
            one.close()
        raise SealFailed(_why(failure, pins)) from failure
    return maps


def complete(path: Path, pins: str) -> None:
    """Whether what is pinned is what a daemon needs. SealFailed says what is missing."""
    try:
        found = {kind: set(os.listdir(f"{pins}/{kind}")) for kind in ("maps", "programs", "links")}
        text = os.readlink(f"{pins}/version")
    except OSError as failure:
        raise SealFailed(f"{pins} is not a whole seal ({failure}): {_END}") from failure
    if not text.startswith(f"layout-{layout.LAYOUT}-"):
        raise SealFailed(f"{pins} was made by another version of governed-mcpd ({text}): {_END}")
    with opened(path) as (_, names):
        wanted = set(names)
    if text != version(path):
        log.warning("the seal in the kernel is that of an earlier version, and stays until no sandbox runs")
        wanted = found["programs"]
    for kind, needed in (("maps", set(MAPS)), ("programs", wanted), ("links", wanted)):
        if needed - found[kind]:
            missing = ", ".join(sorted(needed - found[kind]))
            raise SealFailed(f"{pins}/{kind} lacks {missing}: the seal has holes; {_END}")


_END = "end every sandbox, then remove that directory and start again (a reboot does both)"


def _pinned(path: str) -> int:
    """A daemon that was just killed keeps its seal until the kernel has put it away: waits for that a moment."""
    until = time.monotonic() + _SECONDS_FOR_THE_LAST
    while True:
        try:
            return bpf.pinned(path)
        except PermissionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _why(failure: OSError, pins: str) -> str:
    if failure.errno == errno.EPERM:
        return f"{pins} cannot be opened: another governed-mcpd keeps the seal of this machine; stop that one first"
    return f"{pins} cannot be taken up ({failure}): {_END}"


def _left(marked: bpf.Map) -> int:
    """How many sandboxed tasks there are; those that were just killed are given a moment."""
    until = time.monotonic() + _SECONDS_FOR_THE_LAST
    while left := sum(1 for _ in marked.all_keys()):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return left


def is_current(path: Path, pins: str) -> bool:
    """Whether what is pinned was made from this object."""
    try:
        return os.readlink(f"{pins}/version") == version(path)
    except OSError:
        return False


def unload(pins: str = PINS) -> None:
    """Takes the seal out of the kernel, when no sandboxed task is left. SealFailed."""
    try:
        if not stat.S_ISDIR(os.lstat(pins).st_mode):
            raise SealFailed(f"{pins} is not a directory")
    except FileNotFoundError:
        return
    except OSError as failure:
        raise SealFailed(f"{pins} cannot be looked at: {failure}") from failure
    try:
        marked = bpf.Map(_pinned(f"{pins}/maps/marked"))
    except FileNotFoundError:
        pass  # no map, no mark
    except OSError as failure:
        raise SealFailed(_why(failure, pins)) from failure
    else:
        left = _left(marked)
        marked.close()
        if left:
            raise SealFailed(f"{left} sandboxed tasks are still running: the seal stays until they have ended")
    shutil.rmtree(pins)
