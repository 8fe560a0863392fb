"""Ordinary work under the shipped policies: the gate decides, nobody is asked, and all is as outside."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs.sources import PROJECT
from tests.programs.stage import Stage
from tests.programs.test_git import SETTINGS
from tests.programs.test_python import ASYNCIO, CTYPES, SQLITE, wheel
from tests.programs.test_shell import PIPES
from tests.support.instance import SHIPPED_POLICIES, Instance
from tests.support.users import USER, identity

GIT = (
    SETTINGS
    + """set -e
git init -q one && cd one
for i in $(seq 20); do echo $i > file$i; done
git add . && git commit -qm first && git mv file1 moved && git commit -qm second && git status --short
git checkout -q -b side && echo x >> moved && git commit -qam third && git checkout -q main && git merge -q side
git tag v1 && git tag -d v1 && git reset -q --hard HEAD~1 && git log --oneline && git gc --quiet && git fsck
cd .. && git clone -q one two && cd two && git log --oneline && git gc --quiet && git pull -q && echo pulled
"""
)


@pytest.fixture(scope="module")
def shipped() -> Iterator[Stage]:
    """The shipped policies, but a question is answered with no after a few seconds: then the outputs differ."""
    gate = (SHIPPED_POLICIES / "gate.yaml").read_text()
    assert "person_seconds: 600" in gate
    with Instance(policies={"gate.yaml": gate.replace("person_seconds: 600", "person_seconds: 3")}) as instance:
        yield Stage(instance, USER)


@pytest.fixture
def at_home(shipped: Stage) -> Iterator[Stage]:
    """The same, in a directory where users keep their work: below /tmp the gate takes every name for harmless."""
    with tempfile.TemporaryDirectory(prefix="governed-", dir="/home") as above:
        os.chmod(above, 0o755)
        stage = Stage(shipped.instance, shipped.user)
        stage.directory = Path(above) / "stage"
        yield stage


def asked(stage: Stage) -> list[object]:
    """What a person would have been asked."""
    return [record for record in stage.instance.journal() if record.get("layer") == "person"]


def test_shell_pipelines(shipped: Stage) -> None:
    shipped.same("sh", "script.sh", files={"script.sh": PIPES}, profile="default")
    assert asked(shipped) == []


def test_a_compile(shipped: Stage) -> None:
    done = shipped.same("sh", "-c", "make && ./program && make clean", files=PROJECT, profile="default")
    assert done.returncode == 3
    assert asked(shipped) == []


@pytest.mark.parametrize("program", [CTYPES, ASYNCIO, SQLITE], ids=["ctypes", "asyncio", "sqlite"])
def test_python(shipped: Stage, program: str) -> None:
    shipped.same("python3", "program.py", files={"program.py": program}, profile="default", changing=r"\.db$")
    assert asked(shipped) == []


def test_git(shipped: Stage) -> None:
    changing = r"(^|/)(index|ORIG_HEAD|.*\.pack|.*\.idx|.*\.rev|logs/.*|packs|commit-graph)$"
    done = shipped.same("bash", "-c", GIT, profile="default", changing=changing)
    assert done.returncode == 0, done
    assert done.stdout.endswith("pulled\n")
    assert asked(shipped) == []


ENVIRONMENT = """set -e
/usr/bin/python3 -m venv env
env/bin/pip install --disable-pip-version-check --no-index --no-cache-dir --no-compile ./greeting-1.0-py3-none-any.whl
env/bin/greet
"""


def test_a_virtual_environment_with_its_start(at_home: Stage) -> None:
    """ensurepip unpacks a .pth file: Python runs it at each start, so it may lie in a new environment only."""
    files = {"greeting-1.0-py3-none-any.whl": wheel()}
    done = at_home.same("bash", "-c", ENVIRONMENT, files=files, profile="default", changing=r"\.pyc$")
    assert done.stdout.endswith("hello from a wheel\n"), done
    assert asked(at_home) == []
    assert list(at_home.directory.glob("env/lib/python3*/site-packages/*.pth")), "the environment has such a file"


def test_no_start_of_somebody_elses_environment(at_home: Stage) -> None:
    """The user made this one, and runs its Python outside any sandbox. There the same lines work."""
    site = "theirs/lib/python3.11/site-packages"
    plant = ["sh", "-c", f"echo 'x = 1' > {site}/zz.py; echo 'import os' > {site}/zz.pth; ls {site}"]
    at_home.fresh({"theirs/pyvenv.cfg": "home = /usr/bin\n", f"{site}/a.py": ""})
    inside = at_home.instance.run(*plant, user=at_home.user, profile="default", quiet=True, cwd=at_home.directory)
    assert inside.stdout.split() == ["a.py", "zz.py"], inside
    outside = subprocess.run(
        plant, cwd=at_home.directory, capture_output=True, text=True, timeout=30, check=True, **identity(at_home.user)
    )
    assert outside.stdout.split() == ["a.py", "zz.pth", "zz.py"]
