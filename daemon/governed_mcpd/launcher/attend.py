"""The launcher's parent: what terminal and shell see instead of the command.

It stays in the command's process group, so the terminal's signals reach the command by themselves. What is sent to the
launcher alone is passed on; it stops when the command stops, and ends as the command ends. It reaps orphans (it is a
subreaper) but does not wait for them: when it exits, the daemon ends what is left in the sandbox.
"""

import os
import resource
import select
import signal
import time

from governed_mcpd.kernel import signalfd
from governed_mcpd.launcher import protocol
from governed_mcpd.launcher.notices import PREFIX, Printer, say

# The command's own, when a process sent them to the launcher; SIGCONT is passed on whoever sent it.
_FORWARDED = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGWINCH,
        signal.SIGTSTP,
        *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
    }
)
_BLOCKED = _FORWARDED | {signal.SIGCHLD, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU}
_LAST_WORDS_SECONDS = 0.2


def block_signals() -> set[int]:
    """Blocks what `attend` takes from a descriptor instead; returns the mask that the command gets back."""
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)}


class Attendant:
    """Watches one child until it has ended."""

    def __init__(self, child: int, control: protocol.Stream, report: int, printer: Printer) -> None:
        self._child = child
        self._control = control
        self._report = report
        self._printer = printer
        self._signals = signalfd.open_signalfd(_BLOCKED)
        self._poll = select.poll()
        for descriptor in (self._signals, control.descriptor, report):
            self._poll.register(descriptor, select.POLLIN)
        self._connected = True
        self._heard_end = False
        self._status: int | None = None
        self.reported = b""

    def attend(self) -> int:
        """Waits for the child; its wait status. What it reported before its exec is in `reported`."""
        self._reap()  # it may have ended before its SIGCHLD could be seen
        while self._status is None:
            self._once(None)
        while piece := os.read(self._report, 65536):
            self.reported += piece
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while self._connected and not self._heard_end and (left := deadline - time.monotonic()) > 0:
            self._once(left)
        self._printer.flush()
        return self._status

    def _once(self, seconds: float | None) -> None:
        for descriptor, _ in self._poll.poll(None if seconds is None else seconds * 1000):
            if descriptor == self._signals:
                for number, code, sender in signalfd.pending(self._signals):
                    self._signal(number, code, sender)
            elif descriptor == self._report:
                piece = os.read(self._report, 65536)
                self.reported += piece
                if not piece:
                    self._poll.unregister(self._report)
            else:
                self._hear()

    def _signal(self, number: int, code: int, sender: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGCONT or (number in _FORWARDED and code in signalfd.SENT and sender != self._child):
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self._status is None:  # until it is reaped the pid is the child's
            os.kill(self._child, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid != self._child:
                continue
            if os.WIFSTOPPED(status):
                stop_like(os.WSTOPSIG(status), self._child)
            else:
                self._status = status

    def _hear(self) -> None:
        try:
            alive = self._control.fill()
        except OSError:
            alive = False
        try:
            while (body := self._control.buffered()) is not None:
                notice = protocol.notice(body)
                if notice is not None and notice.kind == protocol.ENDED:
                    self._heard_end = True
                elif notice is not None:
                    self._printer.notice(notice)
        except protocol.ProtocolError as error:
            say(f"{PREFIX}: {error}")
            alive = False
        if not alive:
            self._connected = False
            self._poll.unregister(self._control.descriptor)
            if self._status is None and not self._heard_end:
                say(f"{PREFIX}: the daemon closed the connection: side effects wait for the next one, or fail")


def stop_like(number: int, child: int) -> None:
    """Stops this process by the signal that stopped the command, so that the shell says the same of its job."""
    if number == signal.SIGSTOP:
        _stop_self(number, child)
        return
    before = signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    _stop_self(number, child)
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    signal.signal(number, before)


def _stop_self(number: int, child: int) -> None:
    """Returns when this process was continued; at once when its process group is orphaned: such a one does not stop.

    A shell may continue the job before this comes to stop: then it would stop for good, and the job with it.
    """
    try:
        with open(f"/proc/{child}/stat", "rb") as file:
            if file.read().rpartition(b")")[2].split()[0] not in (b"T", b"t"):
                return
    except OSError:
        return  # it has ended
    os.kill(os.getpid(), number)


def exit_like(status: int) -> int:
    """The exit code of a wait status; when a signal ended the command, that signal ends this process, too."""
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number
