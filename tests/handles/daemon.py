"""An instance whose daemon tells each call of its seal."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.instance import CHECKOUT, Instance

Told = dict[str, Any]


class TellingInstance(Instance):
    """As `Instance`; `told()` are the calls so far."""

    def start_daemon(self) -> None:
        arguments = ["--runtime-dir", self.runtime_dir, "--state-dir", self.state_dir, "--policy-dir", self.policy_dir]
        program = [sys.executable, str(Path(__file__).with_name("telling_seal.py")), str(self.base / "told")]
        with open(self.base / "governed-mcpd.log", "ab") as log:
            self.daemon = subprocess.Popen(
                [*program, *map(str, arguments), "--seal", self.seal],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(0, {"PYTHONPATH": str(CHECKOUT)}),
                cwd="/",
                start_new_session=True,
            )
        self._started.append(self.daemon)
        self.wait_for_gate()

    def told(self, call: str = "", operation: str = "") -> list[Told]:
        """The calls of the seal, of one kind, and for one operation."""
        lines = (self.base / "told").read_text(errors="surrogateescape").splitlines()
        calls: list[Told] = [json.loads(line) for line in lines]
        return [
            one
            for one in calls
            if (not call or one["call"] == call) and (not operation or one.get("operation") == operation)
        ]
