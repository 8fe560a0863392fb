"""Runs the real governedctl, without a daemon."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAM = Path(sys.executable).parent / "governedctl"
Done = subprocess.CompletedProcess[str]


def governedctl(*args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
    """Its output decoded; nothing of the test's environment but PATH."""
    return subprocess.run(
        [PROGRAM, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": "/nonexistent", **(env or {})},
        cwd=cwd,
        timeout=60,
        check=False,
    )
