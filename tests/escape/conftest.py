"""One arena for all attacks: it takes seconds to start, and they do not disturb each other."""

from collections.abc import Iterator

import pytest

from tests.escape.arena import Arena
from tests.support.users import ROOT, USER


@pytest.fixture(scope="session")
def arena() -> Iterator[Arena]:
    """An instance with the attackers' profile, and their programs."""
    with Arena.open() as opened:
        yield opened


@pytest.fixture(params=[USER, ROOT], ids=["user", "root"])
def user(request: pytest.FixtureRequest) -> int:
    """Who attacks: an ordinary user, and root inside a sandbox."""
    uid: int = request.param
    return uid
