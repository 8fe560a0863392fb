"""The units and their like say what systemd understands; who reads them finds a reason where something is not used."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from governed_mcpd.policy.load import parse

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
SYSTEMD = PACKAGING / "systemd"
VLLM = PACKAGING / "vllm"
UNITS = sorted([*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.slice"), *VLLM.glob("*.service")])
# Of `systemd-analyze security`, as in vm-tests/package.py, where it is asked of the running units.
EXPOSURE = {
    "governed-mcpd.service": 4.2,
    "governed-gate.service": 1.5,
    "governed-orphans.service": 1.5,
    "governed-resolver.service": 1.5,
    "governed-vllm.service": 1.5,
}


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with what the units name."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    own = [f"usr/bin/governed-{program}" for program in ("mcpd", "gate", "resolver")]
    for program in (*own, "opt/vllm/bin/python", "bin/rm", "bin/systemctl"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS:
        (units / unit.name).write_text(unit.read_text())
    return tmp_path


def test_there_are_four_services_and_a_slice() -> None:
    services = [f"governed-{name}.service" for name in ("gate", "mcpd", "orphans", "resolver")]
    assert [unit.name for unit in UNITS] == [*services, "governed.slice", "governed-vllm.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_the_unit(unit: Path, root: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", f"--root={root}", unit.name)
    # With --root, the units that every machine has (sysinit.target …) are not found: those lines are not about ours.
    about = [line for line in done.stderr.splitlines() if unit.name in line and "not found" not in line]
    assert about == []


def test_what_runs_after_the_daemon_imports_what_it_needs_and_no_more() -> None:
    """Half a minute of the stop's sixty seconds would go into the daemon's modules on an emulated machine."""
    command = re.search(
        r"^ExecStopPost=/usr/bin/governed-mcpd (.*)$", (SYSTEMD / "governed-mcpd.service").read_text(), re.M
    )
    assert command is not None
    code = (
        "import sys\n"
        "from governed_mcpd.service.main import main\n"
        "status = main()\n"
        "heavy = {'grpc', 'pydantic', 'yaml', 'cryptography', 'governed_mcpd.service.daemon'}\n"
        "print(status, 'jeepney' in sys.modules, *(heavy & sys.modules.keys()))\n"
    )
    done = run(sys.executable, "-c", code, *command[1].split())
    assert done.stdout.split() == ["0", "True"], done.stderr


def test_a_mistake_in_a_unit_is_found(root: Path) -> None:
    path = root / "usr/lib/systemd/system/governed-mcpd.service"
    path.write_text(path.read_text().replace("[Service]", "[Service]\nProtectSytem=strict"))
    done = run("systemd-analyze", "verify", "--man=no", f"--root={root}", path.name)
    assert "ProtectSytem" in done.stderr


@pytest.mark.parametrize(("unit", "bound"), EXPOSURE.items())
def test_exposure_stays_within_its_bound(unit: str, bound: float) -> None:
    (path,) = (path for path in UNITS if path.name == unit)
    done = run("systemd-analyze", "security", "--offline=yes", "--no-pager", path)
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


def test_only_the_gate_reaches_the_model_servers_socket(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for users in (SYSTEMD / "sysusers.conf", VLLM / "sysusers.conf"):
        assert run("systemd-sysusers", f"--root={tmp_path}", users).returncode == 0
    done = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", VLLM / "tmpfiles.conf")
    assert done.returncode == 0, done.stderr
    passwd, group = ((tmp_path / "etc" / name).read_text().splitlines() for name in ("passwd", "group"))
    uid = next(int(line.split(":")[2]) for line in passwd if line.startswith("governed-vllm:"))
    gid = next(int(line.split(":")[2]) for line in group if line.startswith("governed-gate:"))
    place = (tmp_path / "run/governed-vllm").stat()
    assert (place.st_uid, place.st_gid, place.st_mode & 0o7777) == (uid, gid, 0o2710)
    document = yaml.safe_load((VLLM / "gate.yaml").read_text())["vllm"]
    settings = yaml.safe_load((VLLM / "vllm.yaml").read_text())
    assert document["url"] == f"unix:{settings['uds']}"
    assert settings["uds"] in (VLLM / "governed-vllm.service").read_text()
    assert [document["model"]] == settings["served-model-name"]


def test_the_example_of_a_gate_document_is_one() -> None:
    rest = """\
kind: Profile
name: default
envelope: {read: [/usr]}
---
kind: Agent
name: default
tier: Classic
profiles: [default]
"""
    found = parse({"gate.yaml": (VLLM / "gate.yaml").read_bytes(), "rest.yaml": rest.encode()}).gate
    assert (found.backend, found.class_thresholds["net"].ask) == ("vllm", 600)
