"""What a Subject has made and removed: what only the daemon has seen from the beginning."""

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
