"""A real governed-gate in a directory of its own, and channels to it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from governed.v1 import gate_pb2, gate_pb2_grpc, nouns_pb2
from governed_mcpd.nouns.action import Action
from governed_mcpd.nouns.verdict import Verdict
from governed_mcpd.nouns.wire import action_to_pb, verdict_from_pb
from tests.gate.samples import files
from tests.support.users import GATE

PROGRAM = str(Path(sys.executable).with_name("governed-gate"))


class Served:
    """One gate; `start` and `stop` may alternate."""

    def __init__(self, policies: dict[str, bytes] | None = None, options: Sequence[str] = ()) -> None:
        self.options = list(options)
        self.base = Path(tempfile.mkdtemp(prefix="gate-"))
        self.base.chmod(0o755)
        self.runtime = self.base / "run"
        self.policies = self.base / "policies"
        self.policies.mkdir(mode=0o755)
        for name, content in (files() if policies is None else policies).items():
            (self.policies / name).write_bytes(content)
        self.log = self.base / "gate.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

    def __enter__(self) -> "Served":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process is not None:
                self.stop()
        finally:
            shutil.rmtree(self.base)

    @property
    def socket(self) -> Path:
        return self.runtime / "gate.sock"

    def arguments(self) -> list[str]:
        place = [PROGRAM, "--runtime-dir", str(self.runtime), "--policy-dir", str(self.policies), *self.options]
        return [*place, "--user", str(GATE)] if os.geteuid() == 0 else place

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.arguments(), stderr=log, stdout=log, env=self.environment)
        with self.channel() as channel:
            deadline = time.monotonic() + 20
            while self.process.poll() is None and time.monotonic() < deadline:
                try:
                    gate_pb2_grpc.GateStub(channel).Describe(gate_pb2.DescribeRequest(), timeout=2, wait_for_ready=True)
                    return
                except grpc.RpcError:
                    continue
        raise AssertionError(f"the gate did not start:\n{self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            return process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the gate did not end:\n{self.log.read_text()}") from None

    def channel(self) -> grpc.Channel:
        options = (
            ("grpc.max_send_message_length", 64 << 20),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.initial_reconnect_backoff_ms", 50),
            # Channels to one address share a connection, and with it its pause before it connects anew.
            ("grpc.use_local_subchannel_pool", 1),
        )
        return grpc.insecure_channel(f"unix:{self.socket}", options=options)

    def decide(self, action: Action, *, explain: bool = False, version: str = "") -> Verdict:
        request = gate_pb2.DecideRequest(action=action_to_pb(action), explain=explain, policy_version=version)
        with self.channel() as channel:
            return verdict_from_pb(gate_pb2_grpc.GateStub(channel).Decide(request, timeout=10))

    def describe(self) -> gate_pb2.GateState:
        with self.channel() as channel:
            return gate_pb2_grpc.GateStub(channel).Describe(gate_pb2.DescribeRequest(), timeout=10)

    def activate(self, policies: dict[str, bytes], version: str = "") -> gate_pb2.GateState:
        sent = [nouns_pb2.PolicySet.File(name=name, content=content) for name, content in policies.items()]
        with self.channel() as channel:
            return gate_pb2_grpc.GateStub(channel).Activate(
                nouns_pb2.PolicySet(files=sent, version=version), timeout=10
            )
