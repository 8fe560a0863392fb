"""The server's process: started under the launcher, as `governedctl run` does it, with pipes as stdin and stdout.

A process of the gateway becomes the launcher. It says which sandbox the daemon planned, and goes on when the gateway
has opened its session for it: the daemon knows the gateway before the server's first side effect.
"""

import os
import signal
import time
from dataclasses import dataclass

import prctl

from governed_mcpd.launcher.main import run_command
from governed_mcpd.launcher.options import EXIT_FAILED

GRACE_SECONDS = 2.0  # for the server to end when its stdin closes, and again after SIGTERM
_POLL_SECONDS = 0.02
_MOST = 256


class NotStarted(Exception):
    """The launcher ended before there was a sandbox; it has said why on stderr. `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the server was not started (exit code {code})")
        self.code = code


@dataclass(slots=True)
class Server:
    """`stdin` and `stdout` are this side's ends of the pipes; `go` lets the launcher go on."""

    pid: int
    sandbox: str
    stdin: int
    stdout: int
    go: int
    status: int | None = None

    def start(self) -> None:
        """The session is open: the sandbox may begin."""
        os.write(self.go, b"+")
        os.close(self.go)

    def ended(self) -> bool:
        """Whether its launcher has ended; takes its exit code."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def stop(self) -> int:
        """Ends it as MCP has it: stdin closes, then SIGTERM, then SIGKILL. Its exit code."""
        os.close(self.stdin)
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None and not self.ended():
                os.kill(self.pid, number)
            deadline = time.monotonic() + GRACE_SECONDS
            while not self.ended() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        os.close(self.stdout)
        return os.waitstatus_to_exitcode(self.status) if self.status is not None else -int(signal.SIGKILL)


def start(arguments: list[str]) -> Server:
    """Forks the launcher with the arguments of `governedctl run`. Before anything heavy is imported: this process is
    copied. NotStarted."""
    parent = os.getpid()
    stdin, to_server = os.pipe()
    from_server, stdout = os.pipe()
    said, say = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        prctl.set_pdeathsig(signal.SIGKILL)  # the gateway's end is the server's
        if os.getppid() != parent:
            os._exit(EXIT_FAILED)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        for descriptor in (stdin, stdout, to_server, from_server, said, go):
            os.close(descriptor)

        def planned(sandbox: str) -> None:
            os.write(say, sandbox.encode())
            os.close(say)
            if os.read(wait, 1) != b"+":
                os._exit(EXIT_FAILED)
            os.close(wait)

        os._exit(run_command(arguments, planned))
    for descriptor in (stdin, stdout, say, wait):
        os.close(descriptor)
    sandbox = os.read(said, _MOST).decode()
    os.close(said)
    if not sandbox:
        _, status = os.waitpid(pid, 0)
        raise NotStarted(os.waitstatus_to_exitcode(status))
    return Server(pid, sandbox, to_server, from_server, go)
