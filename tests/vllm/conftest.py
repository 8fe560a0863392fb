"""The servers of the tests that need vLLM: started when the first test asks for one.

Those that only one module needs end with it: an idle vLLM takes a fifth of a processor.
"""

from collections.abc import Iterator

import pytest

from tests.vllm.engine import CLASSIFIER, OTHER, Vllm


@pytest.fixture(scope="session")
def vllm() -> Iterator[Vllm]:
    """The tiny model, to read its tokens."""
    with Vllm() as served:
        yield served


@pytest.fixture(scope="module")
def other() -> Iterator[Vllm]:
    """Another model under the same name: the same network before it learned anything."""
    with Vllm(model=OTHER) as served:
        yield served


@pytest.fixture(scope="module")
def classifier() -> Iterator[Vllm]:
    """The tiny model as a classifier of the two verdict tokens."""
    with Vllm(*CLASSIFIER) as served:
        yield served
