"""The tiny language model behind a running vLLM, for the evaluation: it takes the path that a real model would take."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from governed_mcpd.gate.evaluate import run
from governed_mcpd.gate.evaluate.run import Prepared
from governed_mcpd.policy.documents import VllmServer
from governed_mcpd.policy.load import PolicySet
from tests.vllm.engine import MODEL, NAME, PYTHON, Vllm


def installed() -> bool:
    """Whether vLLM and the tiny model are there."""
    return PYTHON.exists() and (MODEL / "config.json").exists()


@contextmanager
def prepared(policy: PolicySet) -> Iterator[Prepared]:
    """`policy`, whose fifth layer asks the tiny model; its server runs meanwhile. Raises ProbeError."""
    with Vllm() as server:
        settings = VllmServer(url=server.url, model=NAME)
        gate = policy.gate.model_copy(update={"backend": "vllm", "vllm": settings})
        found = run.prepared(replace(policy, gate=gate))
        yield found
