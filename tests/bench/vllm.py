"""make bench-vllm: what layer 5 adds to a bare request to the same vLLM server.

In turn, over one kept connection each: the request alone, its bytes ready beforehand, read as one answer; and all of
layer 5. The model is the tiny one that `make test-vllm` trains, so the server's own time is as short as it gets.
"""

import argparse
import json
import socket
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from governed_mcpd.gate.probe.vllm.backend import VllmProbe
from governed_mcpd.gate.probe.vllm.measure import Model
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import Action
from governed_mcpd.policy.documents import VllmServer
from tests.bench.figures import Run, Target, figure, publish
from tests.gate.samples import about, call
from tests.vllm.engine import NAME, Vllm

PRINCIPLES = ("keys are not read", "a git hook runs on later commands of the user")
MOST_ADDED_MS = 1.0
ACTIONS = tuple(
    call("send_email", json.dumps({"to": f"{number}@x.example"}).encode(), context=about("x")) for number in range(20)
)


def measure(run: Run, rounds: int, count: int) -> None:
    """Both in turn; adds two sections and the target."""
    bare: list[list[int]] = []
    whole: list[list[int]] = []
    with Vllm() as server:
        probe = VllmProbe(VllmServer(url=server.url, model=NAME), PRINCIPLES)
        bodies = [_body(probe.wait(), action) for action in ACTIONS]
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _turns(plain, bodies, probe, len(ACTIONS))  # the first ones
            for _ in range(rounds):
                one, two = _turns(plain, bodies, probe, count)
                bare.append(one)
                whole.append(two)
        probe.close()
    run.sections["one action, one vLLM"] = {"a bare request": figure(bare), "layer 5": figure(whole)}
    added = [statistics.median(two) - statistics.median(one) for one, two in zip(bare, whole, strict=True)]
    run.targets.append(
        Target("added to a bare request, p50", round(statistics.median(added) / 1e6, 3), MOST_ADDED_MS, "ms")
    )
    run.notes.append("added in single rounds: " + ", ".join(f"{one / 1e6:.2f}" for one in added) + " ms")


def _turns(plain: socket.socket, bodies: list[bytes], probe: VllmProbe, count: int) -> tuple[list[int], list[int]]:
    bare: list[int] = []
    whole: list[int] = []
    for number in range(count):
        index = number % len(ACTIONS)
        begun = time.perf_counter_ns()
        _bare_request(plain, bodies[index])
        middle = time.perf_counter_ns()
        probe.probe(Reading(ACTIONS[index]))
        whole.append(time.perf_counter_ns() - middle)
        bare.append(middle - begun)
    return bare, whole


def _body(model: Model, action: Action) -> bytes:
    place = model.place
    return json.dumps(
        {
            "model": NAME,
            "prompt": [place.head + place.template.item(Reading(action), place.room)[0]],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 0,
            "logprob_token_ids": place.labels,
            "return_tokens_as_token_ids": True,
        }
    ).encode()


def _bare_request(plain: socket.socket, body: bytes) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    plain.sendall(head.encode() + b"\r\n\r\n" + body)
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
        answer += plain.recv(65536)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answered {answer[:200]!r}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-vllm", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="where the JSON goes (default: stdout)")
    options = parser.parse_args()
    run = Run()
    measure(run, 5, 100)
    publish(run, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
