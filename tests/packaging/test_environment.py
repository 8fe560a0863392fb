"""What the package's Python environment is pinned to, its configuration, and its version."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from governed_mcpd import __version__, config

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"


def locked(name: str) -> dict[str, str]:
    """Name → version of a lock file; every entry has exactly one hash."""
    text = "\n".join(line for line in (PACKAGING / name).read_text().splitlines() if not line.startswith("#"))
    entries = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^\S", text, re.MULTILINE)), "an entry without version or hash"
    return {str(canonicalize_name(package)): version for package, version in entries}


def test_the_lock_has_all_that_the_project_needs_and_no_more_than_its_users_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = locked("requirements.lock")
    for text in [*project["dependencies"], *project["optional-dependencies"]["gate"]]:
        wanted = Requirement(text)
        version = pinned.get(str(canonicalize_name(wanted.name)))
        assert version is not None, f"{wanted.name} is not locked: make lock"
        assert wanted.specifier.contains(version), f"{wanted} is locked at {version}: make lock"
    for text in project["optional-dependencies"]["dev"]:
        assert str(canonicalize_name(Requirement(text).name)) not in pinned


def test_what_builds_is_locked_as_well() -> None:
    assert {"pip", "setuptools", "wheel"} <= locked("requirements-build.lock").keys()


def test_the_changelog_is_of_this_version() -> None:
    first = (PACKAGING / "debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"governed-mcpd ({__version__}) ")


def test_the_packaged_configuration_requires_the_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RUNTIME_DIR", "STATE_DIR", "POLICY_DIR", "SEAL", "GATE_USER", "GROUP", "ADMIN_GROUP", "LOG_LEVEL"):
        monkeypatch.delenv(f"GOVERNED_{key}", raising=False)
    made = subprocess.run(
        ["sed", "-f", PACKAGING / "debian/config.sed", PACKAGING / "config.toml"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    path = tmp_path / "config.toml"
    path.write_text(made)
    assert [line for line in made.splitlines() if line and not line.startswith("#")] == [
        'policy_dir = "/usr/share/governed-mcpd/policies"',
        'seal = "required"',
    ]
    read = config.load(str(path))
    assert (read.seal, read.policy_dir) == ("required", "/usr/share/governed-mcpd/policies")
    assert read.runtime_dir == config.Config().runtime_dir
