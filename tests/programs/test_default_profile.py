"""Ordinary work under the shipped policies: the gate decides, nobody is asked, and all is as outside."""

from collections.abc import Iterator

import pytest

from tests.programs.sources import PROJECT
from tests.programs.stage import Stage
from tests.programs.test_git import SETTINGS
from tests.programs.test_python import ASYNCIO, CTYPES, SQLITE
from tests.programs.test_shell import PIPES
from tests.support.instance import SHIPPED_POLICIES, Instance
from tests.support.users import USER

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
