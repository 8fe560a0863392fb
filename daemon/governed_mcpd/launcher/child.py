"""The launcher's child: step by step into the sandbox, then the command.

After the filter is loaded nothing is imported: what happens then is read, write, close, sigaction, and execve.
"""

import errno
import os
import resource
import signal
import socket
from collections.abc import Callable

import prctl

from governed_mcpd.kernel import seccomp
from governed_mcpd.launcher import privileges, protocol
from governed_mcpd.launcher.command import CommandError, Program, failure
from governed_mcpd.launcher.options import EXIT_FAILED
from governed_mcpd.sandbox import envelope

_RESOURCES = {"core": resource.RLIMIT_CORE, "nproc": resource.RLIMIT_NPROC, "nofile": resource.RLIMIT_NOFILE}
_INFINITY = 0xFFFF_FFFF_FFFF_FFFF


class ChildError(Exception):
    """The sandbox could not be made. The message says at which step and why."""


def become(
    plan: protocol.RunPlan,
    program: Program,
    environment: dict[bytes, bytes],
    *,
    socket_path: str,
    parent: int,
    report: int,
    mask: set[int],
) -> None:
    """Does not return: executes the program, or writes "CODE message" to `report` and exits."""
    try:
        connection = _adopted(plan, socket_path, parent)
        _close_all_but(connection.descriptor, report)
        _limit(plan.limits)
        _step("giving up privileges", privileges.drop)
        envelope.take_on(*plan.envelope)
        if plan.filter:
            _listen(connection, plan)
        os.close(connection.descriptor)
        _reset_signals(mask)
        _execute(program, environment)
    except CommandError as error:
        _report(report, error.code, str(error))
    except (ChildError, envelope.SandboxError, protocol.ProtocolError, protocol.DaemonError) as error:
        _report(report, EXIT_FAILED, str(error))
    except Exception as error:
        _report(report, EXIT_FAILED, f"{type(error).__name__}: {error}")
    os._exit(EXIT_FAILED)


def _adopted(plan: protocol.RunPlan, path: str, parent: int) -> protocol.Stream:
    prctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(EXIT_FAILED)
    connection = connect(path)
    connection.send(protocol.adopt_request(plan.token))
    protocol.check_adopted(connection.receive())
    return connection


def connect(path: str) -> protocol.Stream:
    """A connection to one of the daemon's sockets. ChildError."""
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
    except OSError as error:
        raise ChildError(f"cannot reach governed-mcpd at {path}: {_why(error)}") from None
    return protocol.Stream(connection.detach())


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return "it does not run (systemctl start governed-mcpd), or uses another --runtime-dir"
    if error.errno == errno.EACCES:
        return "only members of its group may run sandboxes (usermod -aG governed USER, then log in again)"
    return error.strerror or str(error)


def _close_all_but(*kept: int) -> None:
    """Descriptors above 2 are the surroundings' (and reach past the sandbox); the kept ones close at execve."""
    start = 3
    for descriptor in sorted(kept):
        os.closerange(start, descriptor)
        os.set_inheritable(descriptor, False)
        start = descriptor + 1
    os.closerange(start, 0x7FFF_FFFF)


def _limit(limits: list[protocol.Limit]) -> None:
    for limit in limits:
        which = _RESOURCES.get(limit.resource)
        if which is None:
            raise ChildError(f"the daemon's plan limits {limit.resource!r}: expected one of {', '.join(_RESOURCES)}")
        _, most = resource.getrlimit(which)
        hard = _least(limit.hard, most)
        try:
            resource.setrlimit(which, (_least(limit.soft, hard), hard))
        except (OSError, ValueError) as error:
            raise ChildError(f"the limit {limit.resource} cannot be set to {limit.hard}: {error}") from None


def _least(wanted: int, most: int) -> int:
    """The lower of two limits; an ordinary user cannot raise a hard one."""
    if wanted >= _INFINITY or wanted < 0:
        return most
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most)


def _step(what: str, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        raise ChildError(f"{what} failed: {error.strerror or error}") from error


def _listen(connection: protocol.Stream, plan: protocol.RunPlan) -> None:
    """Loads the filter and tells the daemon the listener's number, which it fetches with pidfd_getfd(2).

    Sending the descriptor itself cannot work: sendmsg is held from here on, and nobody listens yet.
    """
    try:
        listener = seccomp.install_filter(plan.filter, plan.filter_flags)
    except OSError as error:
        raise ChildError(error.strerror or str(error)) from error
    connection.send(protocol.listen_request(listener))
    protocol.check_listening(connection.receive())
    os.close(listener)


def _reset_signals(mask: set[int]) -> None:
    """As the command would find them outside: Python ignores these two at its start, and the parent blocks some."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _execute(program: Program, environment: dict[bytes, bytes]) -> None:
    """The first side effect that is held."""
    try:
        os.execve(program.path, program.argv, environment)  # noqa: S606 - a list, never a shell
    except OSError as error:
        raise failure(program.argv[0], error.errno or errno.EIO) from None
    except ValueError as error:
        raise CommandError(f"{os.fsdecode(program.argv[0])}: {error}", 126) from None


def _report(descriptor: int, code: int, message: str) -> None:
    os.write(descriptor, f"{code} {message}".encode("utf-8", "surrogateescape"))
