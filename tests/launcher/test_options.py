"""The command line of `governedctl run`, and finding the command."""

import os
from pathlib import Path

import pytest

from governed_mcpd.launcher import command, options
from governed_mcpd.launcher.command import CommandError, find


def parse(*arguments: str) -> options.Options:
    return options.parse(["--runtime-dir", "/r", *arguments])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--", "cmd", "-x"), [b"cmd", b"-x"]),
        (("cmd", "-x", "--profile", "p"), [b"cmd", b"-x", b"--profile", b"p"]),
        (("cmd", "--", "-x"), [b"cmd", b"--", b"-x"]),
        (("--", "--", "x"), [b"--", b"x"]),
        (("--quiet", "--", "cmd", ""), [b"cmd", b""]),
        (("--", os.fsdecode(b"\xff\n")), [b"\xff\n"]),
    ],
)
def test_the_command_is_what_follows(arguments: tuple[str, ...], expected: list[bytes]) -> None:
    assert parse(*arguments).command == expected


def test_options() -> None:
    found = parse("--profile", "p", "--agent=a", "--task", "do it", "--server", "git", "--quiet", "--", "x")
    assert (found.profile, found.agent, found.task, found.server, found.quiet) == ("p", "a", "do it", "git", True)
    assert found.runtime_dir == "/r"


@pytest.mark.parametrize(
    "arguments", [(), ("--",), ("--unknown", "--", "x"), ("--profile",), ("--prof", "p", "--", "x")]
)
def test_wrong_usage_is_125(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(*arguments)
    assert end.value.code == 125
    assert "--help" in capsys.readouterr().err


def test_help_is_0_and_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("125", "126", "127", "--profile", "--task", "--quiet"))


def test_where_the_daemon_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOVERNED_CONFIG", raising=False)
    monkeypatch.setenv("GOVERNED_RUNTIME_DIR", "/from/variable")
    assert options.parse(["--", "x"]).runtime_dir == "/from/variable"
    assert options.parse(["--runtime-dir", "sub", "--", "x"]).runtime_dir == os.path.abspath("sub")
    monkeypatch.delenv("GOVERNED_RUNTIME_DIR")
    file = tmp_path / "config.toml"
    file.write_text('runtime_dir = "/from/file"\n')
    assert options.parse(["--config", str(file), "--", "x"]).runtime_dir == "/from/file"
    monkeypatch.setenv("GOVERNED_CONFIG", str(file))
    assert options.parse(["--", "x"]).runtime_dir == "/from/file"
    file.write_text("wrong = 1\n")
    with pytest.raises(options.UsageError, match="wrong"):
        options.parse(["--", "x"])


def test_inside_a_sandbox_it_is_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOVERNED_SANDBOX", raising=False)
    assert not parse("--", "x").nested
    monkeypatch.setenv("GOVERNED_SANDBOX", "abc")
    assert parse("--", "x").nested


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_finding_goes_through_the_path_in_order(tmp_path: Path) -> None:
    path = f"{tmp_path}/none:{tmp_path}/a:{tmp_path}/b".encode()
    (tmp_path / "a" / "tool").mkdir(parents=True)  # a directory of that name is no program
    second = program(tmp_path / "b" / "tool")
    assert find([b"tool", b"-x"], path) == command.Program(os.fsencode(second), [b"tool", b"-x"])


def test_a_name_with_a_slash_is_taken_as_it_is() -> None:
    assert find([b"./x"], b"/bin").path == b"./x"


def test_without_a_path_the_usual_places() -> None:
    assert find([b"true"], None).path.endswith(b"bin/true")


def test_an_empty_entry_is_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert find([b"here"], b":/bin").path == b"./here"


def test_not_found_is_127_and_not_executable_is_126(tmp_path: Path) -> None:
    program(tmp_path / "a" / "data", 0o644)
    with pytest.raises(CommandError) as missing:
        find([b"no-such"], os.fsencode(tmp_path / "a"))
    assert (missing.value.code, "not found" in str(missing.value)) == (127, True)
    with pytest.raises(CommandError) as denied:
        find([b"data"], os.fsencode(tmp_path / "a"))
    assert denied.value.code == 126
    with pytest.raises(CommandError) as empty:
        find([b""], b"/bin")
    assert empty.value.code == 127
