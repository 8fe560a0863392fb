"""The programs that lead DNS, on this kernel; vm-tests/names.py runs the same on Debian's."""

import os
from pathlib import Path

from governed_mcpd.kernel.cgroup import Cgroup, find
from governed_mcpd.names import redirect
from tests.names import leading


def test_what_the_programs_promise() -> None:
    leading.check()


def test_without_the_programs_nothing_is_led_and_the_reason_is_said(tmp_path: Path) -> None:
    missing = redirect.load(tmp_path / "missing.o")
    assert "make build" in missing.reason
    (tmp_path / "broken.o").write_bytes(b"\x7fELF" + bytes(100))
    assert "does not take the programs" in redirect.load(tmp_path / "broken.o").reason
    assert not missing.leads(0)


def test_that_they_attach_is_found_by_doing_it() -> None:
    hierarchy = find()
    nowhere = Cgroup(hierarchy, f"/governed-not-there-{os.getpid()}/x")
    nowhere.directory = "/proc/self/nothing"
    found = redirect.tried(redirect.load(), lambda name: nowhere)
    assert "cannot be attached" in found.reason
    own = Cgroup(hierarchy, hierarchy.own)
    assert redirect.tried(redirect.load(), own.child).reason == ""
    assert [child.name for child in own.children() if child.name.startswith("governed-names-")] == []
