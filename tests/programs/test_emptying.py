"""Many files emptied one by one are asked about as many removals are; a build that writes its own files again is not."""

import os
from collections.abc import Iterator

import pytest

from tests.faults.common import gate
from tests.support.instance import Instance
from tests.support.users import USER


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance(policies={"gate.yaml": gate(person_seconds=1)}) as made:
        for number in range(30):
            path = made.work / f"{number}.txt"
            path.write_text("theirs\n")
            os.chown(path, USER, USER)
        yield made


def test_emptying_many_files_is_asked_about(instance: Instance) -> None:
    done = instance.run("sh", "-c", "for n in $(seq 0 29); do : > $n.txt; done")
    assert done.returncode != 0
    assert "asked by constitution/no-mass-delete" in done.stderr
    emptied = [number for number in range(30) if not (instance.work / f"{number}.txt").stat().st_size]
    assert emptied == list(range(12))


def test_writing_own_files_again_is_not(instance: Instance) -> None:
    build = "for round in 1 2 3; do for n in $(seq 30); do echo $round > out-$n.o; done; done"
    done = instance.run("sh", "-c", f"{build}; for n in $(seq 50); do : > 29.txt; done")
    assert done.returncode == 0, done
    assert (instance.work / "out-30.o").read_text() == "3\n"
