"""The rules of running sandboxes under a new policy set.

Working them out resolves paths, and a file system may never answer: each sandbox has a thread for it, and a deadline.
"""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, replace

from governed_mcpd.policy.load import PolicySet
from governed_mcpd.subjects import rules
from governed_mcpd.subjects.sandbox import Sandbox

SECONDS = 5.0
Chain = tuple[rules.Rules, ...]


@dataclass(frozen=True, slots=True)
class Renewal:
    """By Subject, the rules that bind it under the new set; and the sandboxes whose paths did not resolve in time."""

    chains: dict[str, Chain]
    late: tuple[Sandbox, ...]


def renew(sandboxes: Iterable[Sandbox], new: PolicySet) -> Renewal:
    """Waits at most SECONDS, for all of them together."""
    under_way = [(sandbox, _begun(sandbox, new)) for sandbox in sandboxes]
    deadline = time.monotonic() + SECONDS
    chains: dict[str, Chain] = {}
    late = []
    for sandbox, future in under_way:
        try:
            chains |= future.result(max(0.0, deadline - time.monotonic()))
        except Late:
            late.append(sandbox)
    return Renewal(chains, tuple(late))


def _begun(sandbox: Sandbox, new: PolicySet) -> "Future[dict[str, Chain]]":
    future: Future[dict[str, Chain]] = Future()

    def run() -> None:
        try:
            actings = (sandbox.main, *sandbox.children.values())
            future.set_result({one.subject.sandbox: tuple(_renewed(own, new) for own in one.rules) for one in actings})
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="renewal", daemon=True).start()
    return future


def _renewed(own: rules.Rules, new: PolicySet) -> rules.Rules:
    """The Envelope was fixed when the sandbox started, the rest follows the new set."""
    profile = new.profiles.get(own.profile)
    if profile is None:
        # The profile was withdrawn: nothing runs free under it any more, and no lease is given.
        return replace(own, free=(), ceiling=())
    renewed = rules.make(profile, own.places)
    return replace(renewed, read=own.read, write=own.write, execute=own.execute, reads_pause=own.reads_pause)
