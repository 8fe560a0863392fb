"""A program under the real filter, with a supervisor of the test's own that answers the real listener."""

import os
import select
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import prctl

from governed_mcpd.kernel import calls, seccomp
from governed_mcpd.kernel.notify import Held, Listener
from governed_mcpd.sandbox.filter import compile_filter

Answer = Callable[[Held], int]
"""An errno; 0 lets the call run."""


def allow(held: Held) -> int:
    return 0


@dataclass
class Done:
    """How it ended, and which calls (by number) were held."""

    returncode: int
    stdout: str
    stderr: str
    held: list[int] = field(default_factory=list)


def run(
    argv: Iterable[str | Path],
    *,
    answer: Answer = allow,
    reads_pause: bool = False,
    stdin: str = "",
    timeout: float = 20,
) -> Done:
    """Runs a program under the filter, in its own process group, and kills it after `timeout` seconds."""
    program = compile_filter(reads_pause)
    number_out, number_in = os.pipe()
    ready_out, ready_in = os.pipe()

    def enter() -> None:
        prctl.set_no_new_privs(1)
        listener = seccomp.install_filter(program, seccomp.FLAG_WAIT_KILLABLE_RECV)
        os.write(number_in, f"{os.getpid()} {listener}".encode())
        os.read(ready_out, 1)
        os.close(listener)

    held: list[int] = []
    supervisor = threading.Thread(target=_supervise, args=(number_out, ready_in, answer, held), daemon=True)
    supervisor.start()
    try:
        with subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=enter,  # noqa: PLW1509 - nothing in it takes a lock that another thread holds
            start_new_session=True,
        ) as child:
            try:
                out, err = child.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                raise
    finally:
        os.close(number_in)
        supervisor.join(10)
        for descriptor in (number_out, ready_out, ready_in):
            os.close(descriptor)
    assert not supervisor.is_alive(), "the listener was not closed: a process of the test is left"
    return Done(child.returncode, out, err, held)


def _supervise(number_out: int, ready_in: int, answer: Answer, held: list[int]) -> None:
    said = os.read(number_out, 32)
    if not said:
        return
    pid, number = map(int, said.split())
    pidfd = os.pidfd_open(pid)
    listener = Listener(calls.pidfd_getfd(pidfd, number))
    os.close(pidfd)
    os.write(ready_in, b".")
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        ((_, events),) = poll.poll()
        if events & select.POLLIN:
            call = listener.receive()
            if call is None:
                continue
            held.append(call.number)
            error = answer(call)
            if error:
                listener.refuse(call.id, error)
            else:
                listener.proceed(call.id)
        elif events & select.POLLHUP:  # no process is left under the filter
            os.close(listener.descriptor)
            return
