"""Fixtures that every test package may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import governed_mcpd.nouns.transport  # noqa: F401 - before grpc: see there what it does to children
from tests.support.instance import Instance

HERE = Path(__file__).parent
# What counts processor time, loads the daemon as far as it goes, or waits for a shell's jobs or for less than a busy
# machine may take: it runs when nothing else does.
ALONE = (
    "faults/test_covered.py",
    "faults/test_flood.py",
    "gate/test_many_gates.py",
    "gateway/test_restart.py",
    "launcher/test_terminal.py",
    "names/test_ways_around.py",
    "supervisor/test_keep.py",
    "vllm/test_transport.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is to run alone (`make unit` runs the rest two at a time)."""
    for place in ALONE:
        assert (HERE / place).exists(), f"{place} is not there: tests/conftest.py names it in ALONE"
    for item in items:
        if any(item.path.is_relative_to(HERE / place) for place in ALONE):
            item.add_marker("alone")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Instance]:
    """A gate and a daemon with the shipped policies, for the tests of one module.

    For other policies, or to kill the daemon in peace: `with Instance(policies={…}) as instance`.
    """
    with Instance() as instance:
        yield instance
