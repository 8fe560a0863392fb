"""A profile in one sandbox: variables, symlinks, trees."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern
from governed_mcpd.subjects.rules import Places, Tree, make
from tests.supervisor.acting import profile

parts = st.lists(st.sampled_from(["a", "b", "ab", ".", "\udcff"]), max_size=4).map(tuple)


def name(path: tuple[str, ...]) -> str:
    return "/" + "/".join(path)


@given(st.lists(parts, max_size=4), parts)
def test_a_tree_covers_its_paths_and_what_lies_beneath(trees: list[tuple[str, ...]], path: tuple[str, ...]) -> None:
    tree = Tree(name(each) for each in trees)
    assert tree.covers(name(path)) == any(path[: len(each)] == each for each in trees)
    assert tree.holds(name(path)) == (path in trees)
    assert tree.lies_beneath(name(path)) == any(each[: len(path)] == path and each != path for each in trees)


def test_the_empty_tree_covers_nothing() -> None:
    assert not Tree([]).covers("/")
    assert not Tree([]).covers("")


def test_variables_and_symlinks(tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    places = Places(str(real), str(tmp_path), str(tmp_path / "scratch"))
    rules = make(
        profile(
            envelope={"read": ["${home}/link/sub"], "write": ["${cwd}"], "execute": ["/usr"]},
            protected=["${home}/link/key"],
            free=[
                {"operations": ["file.write"], "on": "${home}/link/**"},
                {"operations": ["file.read"], "on": "${cwd}"},
            ],
        ),
        places,
        "/dev/pts/5",
    )
    assert rules.read.covers(f"{real}/sub/x")
    assert not rules.execute.covers(f"{real}/x")
    for path in (f"{real}/x", f"{tmp_path}/scratch/x", "/dev/pts/5"):
        assert rules.write.covers(path)
        assert rules.read.covers(path)  # write implies read
    assert rules.read.covers("/usr/bin/x")  # and execute does
    assert not rules.write.covers("/usr/bin/x")
    for path in (f"{real}/key", f"{tmp_path}/link/key"):  # as it is now, and as it is written
        assert rules.protected.covers(path)
    assert rules.runs_free(Operation.FILE_WRITE, f"{real}/any")
    assert not rules.runs_free(Operation.FILE_WRITE, f"{tmp_path}/any")
    assert rules.runs_free(Operation.FILE_READ, str(real))
    assert not rules.runs_free(Operation.FILE_READ, f"{real}/any")


def test_the_first_ceiling_that_has_room_cuts() -> None:
    entries = [
        {"operations": ["file.write"], "on": "/work/a/**", "uses": 5, "seconds": 50},
        {"operations": ["file.write", "file.create"], "on": "/work/**", "uses": 2, "seconds": 20},
    ]
    rules = make(profile(ceiling=entries), Places("/work", "/home/u", "/scratch"))

    def cut(pattern: str, *operations: str) -> tuple[int, int, set[str]] | None:
        wanted = frozenset(map(Operation, operations))
        found = rules.cut(Lease(wanted, Pattern.parse(pattern), 10, 100, "v1"))
        return found and (found.uses, found.seconds, {operation.value for operation in found.operations})

    assert cut("/work/a/x", "file.write") == (5, 50, {"file.write"})
    assert cut("/work/b", "file.write", "file.create", "file.unlink") == (2, 20, {"file.write", "file.create"})
    assert cut("/work/b", "file.unlink") is None
    assert cut("/**", "file.write") is None
    assert cut("/etc/x", "file.write") is None
