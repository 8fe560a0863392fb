"""The units and their like say what systemd understands; who reads them finds a reason where something is not used."""

import re
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
SYSTEMD = PACKAGING / "systemd"
UNITS = sorted([*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.slice")])
# Of `systemd-analyze security`, as in vm-tests/package.py, where it is asked of the running units.
EXPOSURE = {"governed-mcpd.service": 4.2, "governed-gate.service": 1.5, "governed-resolver.service": 1.5}


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with what the units name."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    for program in ("governed-mcpd", "governed-gate", "governed-resolver"):
        (tmp_path / "usr/bin" / program).write_text("#!/bin/sh\n")
        (tmp_path / "usr/bin" / program).chmod(0o755)
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS:
        (units / unit.name).write_text(unit.read_text())
    return tmp_path


def test_there_are_three_services_and_a_slice() -> None:
    services = ["governed-gate.service", "governed-mcpd.service", "governed-resolver.service"]
    assert [unit.name for unit in UNITS] == [*services, "governed.slice"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_the_unit(unit: Path, root: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", f"--root={root}", unit.name)
    # With --root, the units that every machine has (sysinit.target …) are not found: those lines are not about ours.
    about = [line for line in done.stderr.splitlines() if unit.name in line and "not found" not in line]
    assert about == []


def test_a_mistake_in_a_unit_is_found(root: Path) -> None:
    path = root / "usr/lib/systemd/system/governed-mcpd.service"
    path.write_text(path.read_text().replace("[Service]", "[Service]\nProtectSytem=strict"))
    done = run("systemd-analyze", "verify", "--man=no", f"--root={root}", path.name)
    assert "ProtectSytem" in done.stderr


@pytest.mark.parametrize(("unit", "bound"), EXPOSURE.items())
def test_exposure_stays_within_its_bound(unit: str, bound: float) -> None:
    done = run("systemd-analyze", "security", "--offline=yes", "--no-pager", SYSTEMD / unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= bound


def test_sysusers_makes_the_users_that_the_configuration_names(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "sysusers.conf")
    assert done.returncode == 0, done.stderr
    groups = [line.split(":")[0] for line in (tmp_path / "etc/group").read_text().splitlines()]
    assert {"governed", "governed-admin", "governed-gate", "governed-resolver"} <= {*groups}
    users = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    nowhere = ["/nonexistent", "/usr/sbin/nologin"]
    assert {user[0]: user[5:] for user in users} == {"governed-gate": nowhere, "governed-resolver": nowhere}


def test_tmpfiles_makes_the_directories(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert run("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "sysusers.conf").returncode == 0
    done = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", SYSTEMD / "tmpfiles.conf")
    assert done.returncode == 0, done.stderr
    users = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    numbers = {user[0]: int(user[2]) for user in users}
    for program in ("gate", "resolver"):
        own = tmp_path / "run/governed-mcpd" / program
        assert (own.stat().st_uid, own.stat().st_mode & 0o7777) == (numbers[f"governed-{program}"], 0o700)
        link = tmp_path / "run/governed-mcpd" / f"{program}.sock"
        assert link.readlink() == Path(f"{program}/{program}.sock")
    assert (tmp_path / "run/governed-mcpd").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "var/lib/governed-mcpd").stat().st_mode & 0o7777 == 0o750
