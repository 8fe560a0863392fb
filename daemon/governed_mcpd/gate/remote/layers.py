"""Layers 4 and 5 as the local gate has them when remote gates decide them.

Schema, tier, rate and constitution stay local: they are cheap, they count, and they know this machine. So a remote
gate that lies can leave out a refusal of layers 4 and 5, and nothing else; what a verdict may be used for (the lease)
is made here, and cut by the daemon.
"""

import threading

from governed.v1 import nouns_pb2 as pb
from governed_mcpd.gate.layers.finding import Finding, Result
from governed_mcpd.gate.reading import Reading
from governed_mcpd.gate.remote.balancer import Balancer, NoAnswer, PolicyFiles
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.verdict import Verdict
from governed_mcpd.policy.load import PolicySet


class RemoteLayers:
    """Both layers of one policy set. The first that is asked about an action asks a gate for both."""

    def __init__(self, balancer: Balancer, policy: PolicySet) -> None:
        self._balancer = balancer
        self._files = PolicyFiles(_message(policy), float(policy.gate.gate_seconds))
        self._last = threading.local()
        self.prefilter = _Part(self, "prefilter")
        self.probe = _Part(self, "probe")

    def verdict_on(self, reading: Reading, name: str) -> Verdict:
        """What a remote gate says; the layers of one decision run one after the other on one thread.

        Raises NoAnswer.
        """
        if getattr(self._last, "reading", None) is not reading:
            self._last.verdict = self._balancer.decide(reading.action, self._files)
            self._last.reading = reading
        elif any(report.layer == name and report.result == "skipped" for report in self._last.verdict.layers):
            # Asked past a refusal: an explanation.
            self._last.verdict = self._balancer.decide(reading.action, self._files, explain=True)
        verdict: Verdict = self._last.verdict
        return verdict


class _Part:
    """One of the two layers."""

    def __init__(self, both: RemoteLayers, name: str) -> None:
        self._both = both
        self._name = name

    def check(self, reading: Reading) -> Finding:
        """What a remote gate's layer of this name found."""
        try:
            verdict = self._both.verdict_on(reading, self._name)
        except NoAnswer as error:
            return Finding("deny", error.rule, str(error))
        report = next(report for report in verdict.layers if report.layer == self._name)
        # A gate that proposes no lease says that its approval holds for this one action.
        close = isinstance(reading.action.what, SideEffect) and verdict.lease is None
        probed = self._name == "probe"
        return Finding(
            _RESULTS[report.result],
            report.rule,
            report.reason,
            verdict.dangerous_ppm if probed else None,
            verdict.model if probed else "",
            close=close,
        )


# What is not listed is refused before it comes here (balancer._decided), or skipped in spite of being asked for.
_RESULTS: dict[str, Result] = {"pass": "pass", "ask": "ask", "deny": "deny", "skipped": "deny"}


def _message(policy: PolicySet) -> pb.PolicySet:
    files = [pb.PolicySet.File(name=name, content=content) for name, content in sorted(policy.files.items())]
    return pb.PolicySet(files=files, version=policy.version)
