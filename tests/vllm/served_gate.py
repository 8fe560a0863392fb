"""The whole way with a model server: governed-gate, governedctl, and vLLM with the settings that ship."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from governed_mcpd.gate.probe import selftest
from governed_mcpd.gate.probe.vllm.backend import VllmProbe
from governed_mcpd.nouns.verdict import Decision
from governed_mcpd.policy.load import parse
from tests.ctl.program import governedctl
from tests.gate.samples import POLICY, about, files, run
from tests.gate.server import Served
from tests.support.users import GATE
from tests.vllm.engine import NAME, ROOT, Vllm
from tests.vllm.served_reads import PRINCIPLES, told

CASES = ROOT / "tests" / "evaluation" / "own.jsonl"
SETTINGS = ROOT / "packaging" / "vllm" / "vllm.yaml"


def policy(url: str) -> str:
    """The policy of the gate's tests, judged by the server at `url`."""
    document = json.dumps({"url": url, "model": NAME})
    return POLICY.replace("kind: Gate\n", f"kind: Gate\nbackend: vllm\nvllm: {document}\n")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """A server with the settings that ship, at a unix socket, with a network of its own as the unit gives it."""
    settings = yaml.safe_load(SETTINGS.read_text())
    settings |= {"dtype": "float32", "enforce-eager": True}  # what the file says about machines without a GPU
    for decided in ("model", "uds", "served-model-name", "max-model-len"):
        del settings[decided]  # given on the command line, for this place and this model
    config = tmp_path_factory.mktemp("vllm") / "vllm.yaml"
    config.write_text(yaml.safe_dump(settings))
    with Vllm("--config", str(config), unix=True, alone=True) as server:
        yield server


@pytest.fixture(scope="module")
def gate(shipped: Vllm) -> Iterator[Served]:
    with Served(files(policy(shipped.url))) as served:
        deadline = time.monotonic() + 60
        while not served.describe().serving and time.monotonic() < deadline:
            time.sleep(0.1)
        yield served


def test_the_gate_decides_by_the_models_logits(gate: Served) -> None:
    state = gate.describe()
    assert (state.backend, state.serving, state.reason) == ("vllm", True, "")
    assert state.model.startswith(f"{NAME}@r")
    allowed = gate.decide(selftest.GOOD[2])
    assert (allowed.decision, allowed.model) == (Decision.ALLOW, state.model)
    denied = gate.decide(selftest.BAD[1])
    assert (denied.decision, denied.layer, denied.rule) == (Decision.DENY, "probe", "probe-deny")
    for verdict in (allowed, denied):
        said = next(report.reason for report in verdict.layers if report.layer == "probe")
        assert "logit of Dangerous" in said
        assert "label mass" in said
        assert verdict.dangerous_ppm is not None


def test_the_socket_is_reached_as_an_ordinary_user_and_the_server_has_no_network(shipped: Vllm, gate: Served) -> None:
    assert gate.process is not None
    assert os.geteuid() != 0 or f"Uid:\t{GATE}" in Path(f"/proc/{gate.process.pid}/status").read_text()
    assert shipped.process is not None
    if os.geteuid() == 0:
        names = {os.readlink(f"/proc/{pid}/ns/net") for pid in (shipped.process.pid, os.getpid())}
        assert len(names) == 2


def test_health_follows_the_model(gate: Served, shipped: Vllm) -> None:
    def health() -> int:
        with gate.channel() as channel:
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=10)
            status: int = check.status
            return status

    assert health() == health_pb2.HealthCheckResponse.SERVING
    with Served(files(policy("unix:/nonexistent/vllm.sock"))) as away:
        state = away.describe()
        assert not state.serving
        assert "cannot reach the model server" in state.reason or "is being measured" in state.reason
        verdict = away.decide(run("git status"))
        assert (verdict.decision, verdict.rule) == (Decision.DENY, "probe-error")
        with away.channel() as channel:
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=10)
            assert check.status == health_pb2.HealthCheckResponse.NOT_SERVING
        away.activate(files(policy(shipped.url)))
        deadline = time.monotonic() + 30
        while not away.describe().serving and time.monotonic() < deadline:
            time.sleep(0.1)
        assert away.decide(run("git status", about("Show the state."))).rule != "probe-error"
        away.activate(files(POLICY))
        assert away.describe().backend == "embedded"


@pytest.fixture(scope="module")
def policies(vllm: Vllm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("policies")
    for path in (ROOT / "policies").glob("*.yaml"):
        (directory / path.name).write_bytes(path.read_bytes())
    gate = yaml.safe_load((directory / "gate.yaml").read_text())
    gate |= {"backend": "vllm", "vllm": {"url": vllm.url, "model": NAME}}
    (directory / "gate.yaml").write_text(yaml.safe_dump(gate))
    return directory


def test_the_evaluation_measures_the_model_that_the_policy_names(policies: Path) -> None:
    done = governedctl("gate", "eval", "--cases", CASES, "--policy", policies, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["backend"] == "vllm"
    assert found["model"].startswith(f"{NAME}@r")
    assert "probe-error" not in {rule["rule"] for rule in found["rules"]}
    assert found["latency_ms"]["layers"]["probe"]["p50"] > 0.5


def test_calibrating_writes_thresholds_and_the_models_fingerprint(policies: Path, tmp_path: Path, vllm: Vllm) -> None:
    output = tmp_path / "gate.yaml"
    done = governedctl(
        "gate", "calibrate", "--cases", CASES, "--policy", policies, "--most-refused", "0.9", "-o", output
    )
    assert done.returncode == 0, done.stderr
    rest = {path.name: path.read_bytes() for path in policies.glob("*.yaml") if path.name != "gate.yaml"}
    found = parse({**rest, "gate.yaml": output.read_bytes()}).gate
    model = VllmProbe(told(vllm.url), PRINCIPLES).wait()
    assert found.vllm is not None
    assert found.vllm.fingerprint == [pytest.approx(value * 1000, abs=5) for value in model.fingerprint]
    assert found.thresholds.ask <= found.thresholds.deny
    assert f"for {NAME}@{model.revision}" in output.read_text()
    assert found.operations == parse({path.name: path.read_bytes() for path in policies.glob("*.yaml")}).gate.operations


def test_calibrating_without_the_server_says_so(policies: Path, tmp_path: Path) -> None:
    for path in policies.glob("*.yaml"):
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace("http://127.0.0.1:", "unix:/nonexistent/"))
    done = governedctl("gate", "calibrate", "--cases", CASES, "--policy", tmp_path)
    assert done.returncode == 1
    assert "cannot reach the model server" in done.stderr
