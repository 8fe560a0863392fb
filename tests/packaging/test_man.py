"""The manual pages: they are whole, they render, and they know every command and option."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from governed_mcpd.ctl.app import app

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
PAGES = sorted((PACKAGING / "man").glob("*.in"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages as the package has them."""
    made = {}
    for page in PAGES:
        done = subprocess.run(
            [sys.executable, PACKAGING / "make-man", page], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        made[page.stem] = tmp_path_factory.mktemp("man") / page.stem
        made[page.stem].write_text(done.stdout)
    return made


def test_each_program_has_one(pages: dict[str, Path]) -> None:
    assert sorted(pages) == ["governed-gate.8", "governed-mcpd.8", "governed-resolver.8", "governedctl.1"]


@pytest.mark.parametrize("name", [page.stem for page in PAGES])
def test_man_renders_it_without_warnings(pages: dict[str, Path], name: str) -> None:
    done = subprocess.run(
        ["man", "--warnings", "--local-file", pages[name]],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "100", "PAGER": "cat"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "EXIT STATUS" in done.stdout


@pytest.mark.parametrize("name", [page.stem for page in PAGES])
def test_nothing_is_left_to_fill_in(pages: dict[str, Path], name: str) -> None:
    assert "@" not in pages[name].read_text()


def test_it_knows_every_command_with_its_options(pages: dict[str, Path]) -> None:
    text = pages["governedctl.1"].read_text().replace("\\-", "-")
    commands = []
    tree = typer.main.get_command(app())
    assert isinstance(tree, typer.core.TyperGroup)
    for name, command in tree.commands.items():
        inner = getattr(command, "commands", None)
        commands += [(f"{name} {below}", one) for below, one in inner.items()] if inner else [(name, command)]
    assert len(commands) > 10
    for name, command in commands:
        if name == "run":
            continue
        section = text.partition(f'.SS "{name}')[2].partition("\n.S")[0]
        assert section, f"{name} is missing"
        for one in command.params:
            if one.param_type_name == "option" and one.opts[0] not in ("--help", "--json"):
                assert f"\\fB{one.opts[0]}\\fR" in section, f"{name} {one.opts[0]}"


@pytest.mark.parametrize("program", ["governed-mcpd", "governed-gate", "governed-resolver"])
def test_it_knows_every_option_of_the_services(pages: dict[str, Path], program: str) -> None:
    said = subprocess.run(
        [Path(sys.executable).parent / program, "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    options = {word.strip("[],") for word in said.split() if word.strip("[],").startswith("--")}
    text = pages[f"{program}.8"].read_text().replace("\\-", "-")
    assert len(options) > 4
    assert {option for option in options if f"\\fB{option}\\fR" not in text} == set()
