"""The local gate as balancer: which remote gate is asked, which is asked besides, and which answer counts.

Gates are asked in turn. One that has not answered after `HEDGE_SECONDS` is not waited for alone: the next is asked too,
and the first answer counts. That is safe because layers 4 and 5 keep nothing: asking twice spends nothing twice.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from governed.v1 import gate_pb2
from governed.v1 import nouns_pb2 as pb
from governed_mcpd.gate.remote import LAYERS
from governed_mcpd.gate.remote.link import Link, Seen, why
from governed_mcpd.nouns.action import Action
from governed_mcpd.nouns.verdict import Decision, Verdict
from governed_mcpd.nouns.wire import WireError, action_to_pb, verdict_from_pb

_LOG = logging.getLogger(__name__)
HEDGE_SECONDS = 1.0
# For so long a gate that was late or failed is asked last.
_SUSPECT_SECONDS = 10.0
# When no gate is connected, so long is waited for one that may be about to be.
_CONNECT_SECONDS = 2.0
_RENEW_SECONDS = 5.0
_ACTIVATE_SECONDS = 10.0
_DESCRIBE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """A policy set as remote gates get it, and how long a decision under it may take."""

    message: pb.PolicySet
    seconds: float

    @property
    def version(self) -> str:
        return self.message.version


class NoAnswer(RuntimeError):
    """No remote gate had a usable answer. `rule` says of which kind the failure is, the text says it gate by gate."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Balancer:
    """The remote gates at `addresses`."""

    def __init__(self, addresses: Sequence[str], tls_dir: str) -> None:
        """Raises AuthorityError for certificates that cannot work."""
        self._links = [Link(address, Path(tls_dir)) for address in addresses]
        self._turn = itertools.count()
        self._suspects: dict[str, float] = {}
        self._looked = time.monotonic()
        self._lock = threading.Lock()

    def decide(self, action: Action, files: PolicyFiles, *, explain: bool = False) -> Verdict:
        """What a remote gate's layers 4 and 5 say of `action`, under the policy set `files`. Raises NoAnswer."""
        self._renew()
        request = gate_pb2.DecideRequest(
            action=action_to_pb(action), explain=explain, policy_version=files.version, layers=sorted(LAYERS)
        )
        return _Asking(self, request, files).verdict()

    def seen(self) -> list[Seen]:
        """How each remote gate stands."""
        self._renew()
        asked = [link.ask_how(_DESCRIBE_SECONDS) for link in self._links]
        return [link.seen(future) for link, future in zip(self._links, asked, strict=True)]

    def wait_until_ready(self, seconds: float) -> bool:
        """Whether at least one gate can be asked within `seconds`."""
        deadline = time.monotonic() + seconds
        while not any(link.ready for link in self._links):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        for link in self._links:
            link.close()

    def in_order(self) -> list[Link]:
        """All gates: those that can be asked in turn, then those that were late or failed, then those not connected."""
        start = next(self._turn) % len(self._links)
        turned = self._links[start:] + self._links[:start]
        now = time.monotonic()
        return sorted(turned, key=lambda link: (not link.ready, self._suspects.get(link.address, 0.0) > now))

    def suspect(self, link: Link, suspected: bool) -> None:
        """Remembers that a gate was late or failed, or that it answered."""
        if suspected:
            self._suspects[link.address] = time.monotonic() + _SUSPECT_SECONDS
        else:
            self._suspects.pop(link.address, None)

    def _renew(self) -> None:
        with self._lock:
            if time.monotonic() - self._looked < _RENEW_SECONDS:
                return
            self._looked = time.monotonic()
        for link in self._links:
            link.renew()


class _Asking:
    """One question to as many gates as it takes."""

    def __init__(self, balancer: Balancer, request: gate_pb2.DecideRequest, files: PolicyFiles) -> None:
        self._balancer = balancer
        self._request = request
        self._files = files
        # The daemon stops waiting at the same time: its own deadline began a little earlier.
        self._deadline = time.monotonic() + max(files.seconds - 1.0, files.seconds * 0.8)
        self._done: queue.SimpleQueue[tuple[Link, grpc.Future]] = queue.SimpleQueue()
        self._asked: dict[Link, grpc.Future] = {}
        self._updated: set[Link] = set()
        self._failures: dict[str, tuple[str, str]] = {}

    def verdict(self) -> Verdict:
        waiting = self._balancer.in_order()
        connected = any(link.ready for link in waiting)
        if not connected:
            self._deadline = min(self._deadline, time.monotonic() + _CONNECT_SECONDS)
        try:
            while waiting or self._asked:
                # Without a connection there is nothing to spare anybody: all are asked at once.
                while waiting and (not self._asked or not connected):
                    self._ask(waiting.pop(0))
                answer = self._next(HEDGE_SECONDS if waiting else None)
                if isinstance(answer, Verdict):
                    return answer
                if answer and waiting:
                    self._ask(waiting.pop(0))
                if answer is None:
                    if time.monotonic() >= self._deadline:
                        raise self._no_answer()
                    for late in self._asked:
                        self._balancer.suspect(late, True)
                    self._ask(waiting.pop(0))
            raise self._no_answer()
        finally:
            for future in self._asked.values():
                future.cancel()

    def _ask(self, link: Link) -> None:
        future = link.ask(self._request, max(self._deadline - time.monotonic(), 0.001))
        self._asked[link] = future
        future.add_done_callback(lambda done: self._done.put((link, done)))

    def _next(self, patience: float | None) -> "Verdict | str | None":
        """A verdict, the reason of a gate that failed, or None when nobody said anything in time."""
        left = max(self._deadline - time.monotonic(), 0.0)
        try:
            link, future = self._done.get(timeout=left if patience is None else min(patience, left))
        except queue.Empty:
            return None
        self._asked.pop(link, None)
        error = future.exception()
        if error is None:
            return self._checked(link, future.result())
        if _code(error) is grpc.StatusCode.FAILED_PRECONDITION and link not in self._updated:
            return self._bring_up_to_date(link)
        return self._failed(link, _rule(error), why(error))

    def _checked(self, link: Link, message: pb.Verdict) -> Verdict | str:
        try:
            verdict = verdict_from_pb(message)
        except (WireError, ValueError) as error:
            return self._failed(link, "gate-wrong-answer", f"its answer cannot be used: {error}")
        if verdict.policy_version != self._files.version:
            told = f"its verdict is of policy {verdict.policy_version[:12] or 'none'}, not {self._files.version[:12]}"
            return self._failed(link, "gate-wrong-policy", told)
        said = {report.layer: report.result for report in verdict.layers}
        if said.keys() != LAYERS or verdict.decision is not _decided(set(said.values())):
            return self._failed(link, "gate-wrong-answer", f"it reports {said}, and decides {verdict.decision}")
        self._balancer.suspect(link, False)
        link.answered(verdict.model)
        return verdict

    def _bring_up_to_date(self, link: Link) -> str:
        """A gate that was started again has no policy set yet; it gets ours, and is asked again."""
        self._updated.add(link)
        _LOG.info("remote gate %s: giving it policy set %s", link.address, self._files.version[:12])
        left = max(self._deadline - time.monotonic(), 0.001)
        try:
            link.activate(self._files.message, min(left, _ACTIVATE_SECONDS))
        except grpc.RpcError as error:
            return self._failed(link, "gate-wrong-policy", f"it does not take the policy set: {why(error)}")
        self._ask(link)
        return ""

    def _failed(self, link: Link, rule: str, reason: str) -> str:
        self._balancer.suspect(link, True)
        link.failed(reason)
        self._failures[link.address] = (rule, reason)
        return reason

    def _no_answer(self) -> NoAnswer:
        for link in self._asked:
            late = "no answer in time" if link.ready else "not connected"
            self._failed(link, "gate-timeout" if link.ready else "gate-unavailable", late)
        told = "; ".join(f"{address}: {reason}" for address, (_, reason) in self._failures.items())
        rules = {rule for rule, _ in self._failures.values()}
        return NoAnswer(rules.pop() if len(rules) == 1 else "gate-unavailable", f"no remote gate answered: {told}")


def _decided(results: set[str]) -> Decision | None:
    """What layers of these results decide together; None for what cannot be."""
    if "deny" in results:
        return Decision.DENY if results <= {"pass", "ask", "deny", "skipped"} else None
    if not results <= {"pass", "ask"}:
        return None  # nothing is skipped but after a refusal
    return Decision.ASK if "ask" in results else Decision.ALLOW


_RULES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "gate-timeout",
    grpc.StatusCode.FAILED_PRECONDITION: "gate-wrong-policy",
    grpc.StatusCode.INVALID_ARGUMENT: "gate-failed",
}


def _rule(error: Exception) -> str:
    code = _code(error)
    return _RULES.get(code, "gate-unavailable") if code is not None else "gate-failed"


def _code(error: Exception) -> "grpc.StatusCode | None":
    found: grpc.StatusCode | None = (
        error.code() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else None
    )
    return found
