"""When `governedctl trace` ends."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from governed_mcpd.ctl.trace import _until


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What it does with signals ends with the test."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_by_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    over = _until(str(tmp_path), 0)
    assert not over()
    os.kill(os.getpid(), number)
    assert over()


def test_by_time(tmp_path: Path) -> None:
    over, never = _until(str(tmp_path), 0.05), _until(str(tmp_path), 0)
    time.sleep(0.1)
    assert over()
    assert not never()


def test_with_the_sandbox(tmp_path: Path) -> None:
    over = _until(str(tmp_path), 0)
    assert not over()
    tmp_path.rmdir()
    assert over()
