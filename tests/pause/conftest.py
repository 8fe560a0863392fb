"""Fixtures of the pause room's tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pause.looker import Looker
from tests.support.users import USER


@pytest.fixture(scope="session")
def looker() -> Iterator[Looker]:
    """One thread that looks, for all tests."""
    one = Looker()
    yield one
    one.close()


@pytest.fixture
def ground() -> Iterator[Path]:
    """A directory that every user can reach (pytest's own cannot be), with `own` in it, which belongs to USER."""
    path = Path(tempfile.mkdtemp(prefix="governed-ground-")).resolve()
    path.chmod(0o755)
    own = path / "own"
    own.mkdir()
    own_to(own, USER)
    yield path
    shutil.rmtree(path)


def own_to(path: Path, user: int) -> None:
    """Gives `path` (not what a symlink leads to) to a user."""
    os.chown(path, user, user, follow_symlinks=False)
