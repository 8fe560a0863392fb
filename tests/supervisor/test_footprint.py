"""What a Subject has made and removed: what only the daemon has seen from the beginning."""

import pytest

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.subjects.footprint import Footprint


def effect(operation: str, name: str, second: str = "", **details: str) -> SideEffect:
    return SideEffect(Operation(operation), name, second, details=details)


def removals(footprint: Footprint, name: str) -> str | None:
    described = footprint.describe(effect("file.unlink", name), lambda pid: False)
    return described.details.get("removals")


def test_removing_what_it_made_counts_for_nothing() -> None:
    footprint = Footprint()
    footprint.note(effect("file.create", "/w/lock"))
    for number in range(200):
        footprint.note(effect("file.write", f"/w/{number}"))
    assert removals(footprint, "/w/lock") == "0"
    footprint.note(effect("file.unlink", "/w/lock"))
    assert removals(footprint, "/w/other") == "0"


def test_removing_what_it_did_not_make_is_counted() -> None:
    footprint = Footprint()
    for number in range(5):
        assert removals(footprint, f"/w/{number}") == str(number)
        footprint.note(effect("file.unlink", f"/w/{number}"))
    footprint.note(effect("file.rmdir", "/w/d"))
    assert removals(footprint, "/w/x") == "6"
    footprint.note(effect("file.create", "/w/mine"))
    assert removals(footprint, "/w/mine") == "0"


def test_what_it_made_keeps_that_under_another_name() -> None:
    footprint = Footprint()
    footprint.note(effect("file.unlink", "/w/first"))
    footprint.note(effect("file.create", "/w/a.lock"))
    footprint.note(effect("file.rename", "/w/a.lock", "/w/a"))
    footprint.note(effect("file.link", "/w/theirs", "/w/linked"))
    assert removals(footprint, "/w/a") == "0"
    assert removals(footprint, "/w/linked") == "0"
    assert removals(footprint, "/w/theirs") == "1"
    footprint.note(effect("file.create", "/w/b.lock"))
    footprint.note(effect("file.rename", "/w/b.lock", "/w/b", replaces="yes"))
    assert removals(footprint, "/w/b") == "1"  # what it replaced was somebody's


def test_what_lies_in_a_directory_that_it_made() -> None:
    footprint = Footprint()
    footprint.note(effect("file.mkdir", "/w/repository"))
    described = footprint.describe(effect("file.create", "/w/repository/config"), lambda pid: False)
    assert described.details["parent"] == "made"
    assert "parent" not in footprint.describe(effect("file.create", "/w/x"), lambda pid: False).details


SITE = "/w/env/lib/python3.11/site-packages"


def environment(footprint: Footprint, *, without: str = "") -> str | None:
    """Makes what `python3 -m venv` makes but for one part, and asks about a file that Python runs at each start."""
    for operation, name in (
        ("file.mkdir", "/w/env"),
        ("file.mkdir", "/w/env/lib"),
        ("file.mkdir", "/w/env/lib/python3.11"),
        ("file.mkdir", SITE),
        ("file.create", "/w/env/pyvenv.cfg"),
    ):
        if name != without:
            footprint.note(effect(operation, name))
    described = footprint.describe(effect("file.create", f"{SITE}/distutils-precedence.pth"), lambda pid: False)
    return described.details.get("environment")


def test_a_virtual_environment_that_it_made() -> None:
    footprint = Footprint()
    assert environment(footprint) == "made"
    moved = footprint.describe(effect("file.rename", "/w/x", f"{SITE}/x.pth"), lambda pid: False)
    assert moved.details["environment"] == "made"
    for name in ("/w/x.pth", f"{SITE}/deeper/x.pth", f"{SITE}/x.py", "/w/env/x.pth"):
        assert "environment" not in footprint.describe(effect("file.create", name), lambda pid: False).details


@pytest.mark.parametrize("without", ["/w/env", "/w/env/pyvenv.cfg", SITE])
def test_a_virtual_environment_of_somebody_else(without: str) -> None:
    """Somebody's is there, and a sandbox adds to it; or puts a new directory where it was."""
    assert environment(Footprint(), without=without) is None


def test_a_virtual_environment_that_came_to_stand_there() -> None:
    footprint = Footprint()
    environment(footprint)
    footprint.note(effect("file.rename", "/w/env", "/w/aside"))
    footprint.note(effect("file.rename", "/w/somebodys", "/w/env"))
    described = footprint.describe(effect("file.create", f"{SITE}/x.pth"), lambda pid: False)
    assert "environment" not in described.details
