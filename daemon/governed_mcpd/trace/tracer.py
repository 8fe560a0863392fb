"""Loads program.c with BCC, and hands out what it tells.

BCC is Debian's (python3-bpfcc), not PyPI's package of that name; it compiles on the machine where it runs, against the
headers of the kernel that runs there.
"""

import importlib.resources
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from governed_mcpd.trace.activity import Activity, Event, Pairing
from governed_mcpd.trace.calls import CALLS

BCC_PACKAGE = "/usr/lib/python3/dist-packages/bcc"
_POLL_MILLISECONDS = 200


class CannotTrace(Exception):
    """What is missing here, and how to get it."""


class Tracer:
    """Attached from construction to `close`. CannotTrace."""

    def __init__(self, cgroup: str) -> None:
        if os.geteuid() != 0:
            raise CannotTrace("tracepoints are for root: sudo governedctl trace …")
        module = _bcc()
        _check_kernel()
        self._cgroup = cgroup
        self._names = _numbers()
        self._pairing = Pairing()
        self._found: list[Activity] = []
        self._fault: BaseException | None = None
        # From the monotonic clock of the events to the time of day.
        self._offset = time.time_ns() - time.monotonic_ns()
        self.lost = 0
        self._bpf = _compiled(module, self._names)
        self._fill()

    def _fill(self) -> None:
        table = self._bpf["calls"]
        for number, name in self._names.items():
            call = table.Leaf(known=1)
            for index, (form, at) in enumerate(CALLS[name].objects):
                call.form[index], call.at[index] = form, at
            table[table.Key(number)] = call
        self._bpf["events"].open_ring_buffer(self._take)
        # Last: from here on there are events.
        self._bpf["traced"][0] = self._cgroup

    def activities(self, until: Callable[[], bool]) -> Iterator[Activity]:
        """What happens, as it does, until `until` says so; it is asked a few times in a second."""
        while not until():
            self._bpf.ring_buffer_poll(_POLL_MILLISECONDS)
            if self._fault is not None:
                raise self._fault
            found, self._found = self._found, []
            yield from found
            self.lost = self._bpf["lost"][0].value

    def close(self) -> None:
        """Detaches."""
        self._bpf.cleanup()

    def _take(self, _: object, data: Any, __: object) -> None:
        # An exception would be swallowed between C and Python: it is kept for who polls.
        try:
            event = self._bpf["events"].event(data)
            activity = self._pairing.take(self._read(event))
            if activity is not None:
                self._found.append(activity)
        except Exception as fault:
            self._fault = fault

    def _read(self, event: Any) -> Event:
        first, second = event.sizes
        return Event(
            phase=event.phase,
            call=self._names.get(event.call, "execve"),
            time=event.time + self._offset,
            cgroup=event.cgroup,
            pid=event.pid,
            tid=event.tid,
            uid=event.uid,
            comm=bytes(event.comm).partition(b"\0")[0],
            result=event.result,
            words=tuple(event.words),
            texts=(
                bytes(event.first)[:first] if first >= 0 else None,
                bytes(event.second)[:second] if second >= 0 else None,
            ),
        )


def _bcc() -> Any:
    try:
        import bcc  # noqa: PLC0415 - optional
    except ImportError as error:
        if os.path.isdir(BCC_PACKAGE):
            reason = (
                f"BCC is installed, but this Python ({sys.prefix}, {sys.version.split()[0]}) cannot load it ({error}): "
                f"it needs Python 3.11, and a link to {BCC_PACKAGE} among its packages"
            )
        else:
            reason = f"BCC is missing: apt-get install python3-bpfcc linux-headers-{os.uname().release}"
        raise CannotTrace(reason) from None
    if not hasattr(bcc, "BPF"):
        raise CannotTrace("the installed `bcc` is another package of that name (PyPI's): the real one is python3-bpfcc")
    return bcc


def _check_kernel() -> None:
    release = os.uname().release
    places = (f"/lib/modules/{release}/build", "/sys/kernel/kheaders.tar.xz")
    if not any(map(os.path.exists, places)):
        raise CannotTrace(f"BCC needs the headers of this kernel: apt-get install linux-headers-{release}")
    if not os.path.isdir("/sys/kernel/tracing/events") and not os.path.isdir("/sys/kernel/debug/tracing/events"):
        raise CannotTrace("tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing")


def _numbers() -> dict[int, str]:
    """The calls that this architecture has, by number."""
    import pyseccomp  # noqa: PLC0415 - it runs ldconfig twice, which every other command would pay for

    token = pyseccomp.system_arch()
    numbers = {pyseccomp.resolve_syscall(token, name): name for name in CALLS}
    return {number: name for number, name in numbers.items() if number >= 0}


def _compiled(module: Any, names: dict[int, str]) -> Any:
    numbers = {name: number for number, name in names.items()}
    text = importlib.resources.files(__package__).joinpath("program.c").read_text(encoding="utf-8")
    flags = [f"-DEXECVE={numbers['execve']}", f"-DEXECVEAT={numbers['execveat']}", "-w"]
    with _quiet() as said:
        try:
            return module.BPF(text=text, cflags=flags)
        except Exception as error:
            said.seek(0)
            last = said.read().decode("utf-8", "replace").strip().splitlines()[-3:]
            raise CannotTrace(f"BCC could not load the program: {error}; {' / '.join(last)}") from None


@contextmanager
def _quiet() -> Iterator[Any]:
    """What the compiler writes to stderr goes into the file that this yields."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
