"""What the gateway adds to a tool call, and to a list of a thousand tools: one client, one server that answers at once.

The client writes a request and waits for the answer, over pipes: directly to the server, and through `governedctl mcp`.
Each call through it is decided by the six layers (with the embedded model), recorded, and its result looked through.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bench.figures import Run, Target, figure
from tests.support.instance import Instance
from tests.support.users import USER, identity

ECHO = Path(__file__).resolve().parents[1] / "gateway" / "echo.py"
PYTHON = "/usr/bin/python3"
TOOLS = 1000
TASK = "Note the meeting"
CALL = {"name": "echo", "arguments": {"text": "Meeting at ten, room four"}}
_NAMES = ("echo", *(f"echo_{number}" for number in range(1, TOOLS)))
_TOOLS = "".join(f"  {name}: {{}}\n" for name in _NAMES)
POLICIES: dict[str, str | None] = {
    "tool-echo.yaml": f"kind: Tool\nname: echo\ntools:\n{_TOOLS}",
    "tool-many.yaml": f"kind: Tool\nname: many\ntools:\n{_TOOLS}",
}


class Client:
    """One server, or the gateway in front of it."""

    def __init__(self, instance: Instance, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=instance.environment(USER),
            cwd=instance.work,
            start_new_session=True,
            **identity(USER),
        )
        information = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "b", "version": "1"}}
        self.ask("initialize", information)

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())["result"]

    def timed(self, method: str, params: dict[str, Any], count: int) -> list[int]:
        """Nanoseconds of each of `count` requests; AssertionError when one is refused."""
        taken = []
        for _ in range(count):
            begun = time.perf_counter_ns()
            result = self.ask(method, params)
            taken.append(time.perf_counter_ns() - begun)
            assert not result.get("isError"), result
        return taken

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


def measure(run: Run, rounds: int, count: int) -> None:
    """Rounds of direct and governed calls in turn; then lists."""
    with Instance(policies=POLICIES) as instance:
        echo = instance.work / "echo.py"
        shutil.copy(ECHO, echo)
        os.chmod(echo, 0o755)
        server = [PYTHON, str(echo)]
        direct, through = Client(instance, server), Client(instance, _gateway(instance, "echo", server))
        for client in (direct, through):
            client.timed("tools/call", CALL, 100)
        alone, governed = [], []
        for _ in range(rounds):
            alone.append(direct.timed("tools/call", CALL, count))
            governed.append(through.timed("tools/call", CALL, count))
        bare, full = figure(alone), figure(governed)
        run.sections["tools/call"] = {"direct": bare, "through the gateway": full}
        run.targets.append(Target("added to a tools/call, p50", round((full.p50 - bare.p50) / 1e3, 3), 1.5, "ms"))
        run.targets.append(Target("added to a tools/call, p99", round((full.p99 - bare.p99) / 1e3, 3), 5.0, "ms"))
        for client in (direct, through):
            client.close()
        _lists(run, instance, [*server, str(TOOLS)])
        run.notes.append(f"gate's own time of a call, p50: {_gate_us(instance)} µs (from the request to the verdict)")


def _lists(run: Run, instance: Instance, server: list[str]) -> None:
    direct = Client(instance, server)
    through = Client(instance, _gateway(instance, "many", server))
    first = through.timed("tools/list", {}, 1)
    assert len(through.ask("tools/list", {})["tools"]) == TOOLS
    bare, full = figure([direct.timed("tools/list", {}, 20)]), figure([through.timed("tools/list", {}, 20)])
    run.sections[f"tools/list of {TOOLS}"] = {
        "direct": bare,
        "through the gateway": full,
        "through the gateway, the first (looked through and pinned)": figure([first]),
    }
    run.targets.append(Target(f"{TOOLS} tools filtered, p50", round((full.p50 - bare.p50) / 1e3, 1), 50, "ms"))
    for client in (direct, through):
        client.close()


def _gateway(instance: Instance, server: str, command: list[str]) -> list[str]:
    words = instance.command("mcp", "--quiet", "--server", server, "--task", TASK, "--", *command)
    return [os.fsdecode(word) for word in words]


def _gate_us(instance: Instance) -> int:
    found = sorted(record["gate_us"] for record in instance.journal() if record["kind"] == "call")
    return int(found[len(found) // 2])
