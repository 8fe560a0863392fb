"""One instance with roomy policies for all programs."""

from collections.abc import Iterator

import pytest

from tests.programs.profiles import POLICIES
from tests.programs.stage import Stage
from tests.support.instance import Instance
from tests.support.users import ROOT, USER


@pytest.fixture(scope="package")
def roomy() -> Iterator[Instance]:
    """A gate and a daemon with the profiles of tests/programs/profiles.py."""
    with Instance(policies=POLICIES) as instance:
        yield instance


@pytest.fixture
def stage(roomy: Instance) -> Stage:
    """Where an ordinary user's programs are compared."""
    return Stage(roomy, USER)


@pytest.fixture(params=[USER, ROOT], ids=["user", "root"])
def either(roomy: Instance, request: pytest.FixtureRequest) -> Stage:
    """The same, and once more as root."""
    return Stage(roomy, request.param)
