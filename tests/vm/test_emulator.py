"""Which QEMU machines run in: one that makes emulated kernels crash is not taken."""

from pathlib import Path

import pytest
from harness import emulator
from harness.emulator import PATCHES_WHAT_RUNS, PROGRAM, version
from harness.tools import Trouble


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose programs are the host's; nothing is in the cache, and nothing answers where the mirror is."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(emulator, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(emulator, "MIRROR", "http://127.0.0.1:9/debian")
    return programs


def qemu(programs: Path, said: str) -> None:
    (programs / PROGRAM).write_text(f"#!/bin/sh\necho '{said}'\n")
    (programs / PROGRAM).chmod(0o755)


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", False),
        ("QEMU emulator version 8.0.5", False),
        ("QEMU emulator version 8.1.0", True),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)", True),
        ("something else", False),
    ],
)
def test_versions_are_told_apart(host: Path, said: str, good: bool) -> None:
    qemu(host, said)
    assert (version(str(host / PROGRAM)) >= PATCHES_WHAT_RUNS) is good


def test_a_good_one_of_the_hosts_is_taken_and_so_is_any_that_does_not_emulate(host: Path) -> None:
    qemu(host, "QEMU emulator version 9.2.0")
    assert emulator.emulator("tcg") == (PROGRAM,)
    qemu(host, "QEMU emulator version 7.2.22")
    assert emulator.emulator("kvm") == (PROGRAM,)


def test_without_a_good_one_and_without_a_mirror_no_machine_runs(host: Path, tmp_path: Path) -> None:
    qemu(host, "QEMU emulator version 7.2.22")
    with pytest.raises(Trouble, match=r"(?s)package lists of bookworm-backports.*QEMU 8\.1 or newer .* will do"):
        emulator.emulator("tcg")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix not in {".lock", ".unfinished"}]
