"""An MCP client that says exactly what it is told, over the stdin and stdout of any program."""

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.instance import Instance
from tests.support.users import USER, identity

Json = dict[str, Any]
SECONDS = 30.0
VERSION = "2025-06-18"


class Raw:
    """One server (or the gateway in front of it), started as the ordinary user in `cwd`."""

    def __init__(
        self, instance: Instance, command: Sequence[object], cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=instance.environment(USER, env),
            cwd=cwd,
            start_new_session=True,
            **identity(USER),
        )
        self._buffer = b""
        self._next = 0
        self.others: list[Any] = []  # what came besides the answer that was waited for

    def __enter__(self) -> "Raw":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> str:
        """Closes stdin, as a client does; what it wrote to stderr."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        if not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        return self.process.stderr.read().decode("utf-8", "replace") if not self.process.stderr.closed else ""

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, message: Any) -> None:
        self.write(json.dumps(message).encode())

    def read(self, seconds: float = SECONDS) -> Any:
        """The next message; None when none comes in time, or the stream has ended."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def ask(self, method: str, params: Json | None = None, seconds: float = SECONDS) -> Json:
        """A request, and its answer; whatever else comes meanwhile is in `others`."""
        identity = self.request(method, params)
        return self.answer(identity, seconds)

    def request(self, method: str, params: Json | None = None) -> int:
        self._next += 1
        self.send(
            {"jsonrpc": "2.0", "id": self._next, "method": method, **({"params": params} if params is not None else {})}
        )
        return self._next

    def answer(self, identity: int, seconds: float = SECONDS) -> Json:
        deadline = time.monotonic() + seconds
        early = next((other for other in self.others if answers(other, identity)), None)
        if early is not None:
            self.others.remove(early)
            return dict(early)
        while (left := deadline - time.monotonic()) > 0:
            message = self.read(left)
            if message is None:
                break
            if answers(message, identity):
                return dict(message)
            self.others.append(message)
        raise AssertionError(f"no answer to {identity}; came: {self.others[-5:]}; ended: {self.process.poll()}")

    def initialize(self, version: str = VERSION) -> Json:
        info = {"name": "raw", "version": "1"}
        answer = self.ask("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": info})
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self.ask("tools/list", {})["result"]["tools"]]

    def call(self, name: str, arguments: Json, **more: Any) -> Json:
        """The result of a tool call."""
        result: Json = self.ask("tools/call", {"name": name, "arguments": arguments, **more})["result"]
        return result


def answers(message: Any, identity: int) -> bool:
    """Whether a message is the answer to a request."""
    return isinstance(message, dict) and message.get("id") == identity and "method" not in message


def text_of(result: Json) -> str:
    """The text of a tool's result."""
    return " ".join(part.get("text", "") for part in result["content"])
