"""Fixtures that every test package may use."""

from collections.abc import Iterator

import pytest

from tests.support.instance import Instance


@pytest.fixture(scope="module")
def daemon() -> Iterator[Instance]:
    """A gate and a daemon with the shipped policies, for the tests of one module.

    For other policies, or to kill the daemon in peace: `with Instance(policies={…}) as instance`.
    """
    with Instance() as instance:
        yield instance
