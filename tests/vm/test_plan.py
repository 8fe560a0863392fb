"""What the harness of the virtual machines reads from test files, without running them."""

from pathlib import Path

import pytest
from harness.plan import Wishes, plans, read
from harness.tools import HERE, Trouble

ORDINARY = """
import pytest
MACHINE = {"parameters": "a=1", "full_parameters": "a=1 preempt=full", "disks": {"one": 64}, "seconds": 60}
def helper(): pass
def test_first(): pass
@pytest.mark.parametrize("x", [1, 2])
def test_second(x): pass
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with two test files and a conftest."""
    (tmp_path / "ordinary.py").write_text(ORDINARY)
    (tmp_path / "plain.py").write_text("def test_only(): pass\n")
    (tmp_path / "conftest.py").write_text("def test_not_a_test(): pass\n")
    return tmp_path


def test_a_file_names_its_machine_and_its_tests(files: Path) -> None:
    wishes, tests = read(files / "ordinary.py")
    assert wishes == Wishes("a=1", "a=1 preempt=full", {"one": 64}, 60)
    assert tests == ("test_first", "test_second")
    assert read(files / "plain.py") == (Wishes(), ("test_only",))


def test_all_files_are_taken_when_none_is_chosen(files: Path) -> None:
    found = plans([], full=False, where=files)
    assert [(plan.title, plan.tests) for plan in found] == [
        ("ordinary.py [a=1]", ("ordinary.py::test_first", "ordinary.py::test_second")),
        ("plain.py", ("plain.py::test_only",)),
    ]


def test_a_full_run_has_one_machine_more_for_other_parameters(files: Path) -> None:
    assert [plan.parameters for plan in plans([], full=True, where=files)] == ["a=1", "a=1 preempt=full", ""]


@pytest.mark.parametrize("word", ["ordinary", "ordinary.py", "vm-tests/ordinary.py"])
def test_a_file_is_chosen_by_any_of_its_names(files: Path, word: str) -> None:
    (plan,) = plans([word], full=False, where=files)
    assert plan.files == ("ordinary.py",)
    assert plan.chosen == ("ordinary.py",)


def test_one_test_is_expected_when_one_is_chosen(files: Path) -> None:
    (plan,) = plans(["ordinary::test_second[1]"], full=False, where=files)
    assert plan.tests == ("ordinary.py::test_second",)
    assert plan.chosen == ("ordinary.py::test_second[1]",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1\n", "has no tests"),
        ("def test_a(): pass\ndef test_a(): pass\n", "same name"),
        ("class TestA:\n  def test_b(self): pass\n", "tests here are functions"),
        ("MACHINE = {'memory': 5}\ndef test_a(): pass\n", "MACHINE is a literal with the keys parameters"),
        ("MACHINE = dict(seconds=5)\ndef test_a(): pass\n", "MACHINE is a literal"),
        ("MACHINE = {'python': '3.14'}\ndef test_a(): pass\n", "debian or checkout"),
    ],
)
def test_a_file_that_could_hide_a_test_is_an_error(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(Trouble, match=complaint):
        read(tmp_path / "wrong.py")


def test_what_is_not_there_cannot_be_chosen(files: Path) -> None:
    with pytest.raises(Trouble, match=r"there is no absent\.py in vm-tests; there are: ordinary, plain"):
        plans(["absent"], full=False, where=files)
    with pytest.raises(Trouble, match="has no test_absent; it has: test_only"):
        plans(["plain::test_absent"], full=False, where=files)


def test_files_share_a_machine_where_both_are_chosen(files: Path) -> None:
    (files / "leads.py").write_text("MACHINE = {'seconds': 5, 'then': ['plain']}\ndef test_a(): pass\n")
    (machine,) = plans(["plain", "leads::test_a"], full=False, where=files)
    assert machine.title == "leads.py, plain.py"
    assert machine.chosen == ("leads.py::test_a", "plain.py")
    assert machine.tests == ("leads.py::test_a", "plain.py::test_only")
    assert machine.wishes.seconds == 5 + Wishes().seconds
    assert [plan.title for plan in plans(["leads"], full=False, where=files)] == ["leads.py"]
    assert [plan.title for plan in plans(["plain"], full=False, where=files)] == ["plain.py"]


@pytest.mark.parametrize(
    ("machine", "complaint"),
    [
        ("{'python': 'checkout', 'then': ['plain']}", "which asks for another one"),
        ("{'then': ['leads']}", "or after itself"),
        ("{'then': ['plain', 'plain']}", "after two files"),
    ],
)
def test_files_that_cannot_share_a_machine_are_an_error(files: Path, machine: str, complaint: str) -> None:
    (files / "leads.py").write_text(f"MACHINE = {machine}\ndef test_a(): pass\n")
    with pytest.raises(Trouble, match=complaint):
        plans([], full=False, where=files)


def test_a_shared_machine_has_as_many_processors_as_any_of_its_files_needs(files: Path) -> None:
    (files / "leads.py").write_text("MACHINE = {'processors': 1, 'then': ['plain']}\ndef test_a(): pass\n")
    (alone,) = plans(["leads"], full=False, where=files)
    (together,) = plans(["leads", "plain"], full=False, where=files)
    assert (alone.wishes.processors, together.wishes.processors) == (1, 2)


def test_a_file_that_installs_the_package_begins_without_it(files: Path) -> None:
    (files / "leads.py").write_text("MACHINE = {'installs': True, 'then': ['uses', 'plain']}\ndef test_a(): pass\n")
    (files / "uses.py").write_text("MACHINE = {'product': True}\ndef test_a(): pass\n")
    (together,) = plans(["leads", "uses", "plain"], full=False, where=files)
    assert not together.wishes.product
    (alone,) = plans(["uses"], full=False, where=files)
    assert alone.wishes.product


def test_a_part_of_a_file_that_installs_the_package_shares_no_machine(files: Path) -> None:
    (files / "leads.py").write_text("MACHINE = {'installs': True, 'then': ['uses']}\ndef test_a(): pass\n")
    (files / "uses.py").write_text("MACHINE = {'product': True}\ndef test_a(): pass\n")
    found = plans(["leads::test_a", "uses"], full=False, where=files)
    assert [(plan.title, plan.wishes.product) for plan in found] == [("leads.py", False), ("uses.py", True)]


def test_a_file_that_installs_the_package_has_no_machine_that_has_it(files: Path) -> None:
    (files / "leads.py").write_text("MACHINE = {'product': True, 'then': ['later']}\ndef test_a(): pass\n")
    (files / "later.py").write_text("MACHINE = {'installs': True}\ndef test_a(): pass\n")
    with pytest.raises(Trouble, match="which asks for another one"):
        plans(["leads", "later"], full=False, where=files)


def test_parameters_of_a_full_run_hold_for_all_files_of_a_machine(files: Path) -> None:
    (files / "leads.py").write_text("MACHINE = {'full_parameters': 'b=2', 'then': ['plain']}\ndef test_a(): pass\n")
    found = plans(["leads", "plain"], full=True, where=files)
    assert [plan.title for plan in found] == ["leads.py, plain.py", "leads.py, plain.py [b=2]"]


def test_a_full_run_has_two_processors_everywhere(files: Path) -> None:
    (files / "plain.py").write_text("MACHINE = {'processors': 1}\ndef test_a(): pass\n")
    for full, processors in ((False, 1), (True, 2)):
        (machine,) = plans(["plain"], full, where=files)
        assert machine.wishes.processors == processors


def test_the_files_of_this_checkout_can_be_read() -> None:
    found = plans([], full=True)
    assert {file for plan in found for file in plan.files} == {path.name for path in HERE.glob("*.py")} - {
        "conftest.py"
    }
