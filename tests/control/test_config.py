"""Configuration: who goes before whom, and errors that say where, what and what instead."""

import dataclasses
import tomllib
from pathlib import Path

import pytest

from governed_mcpd import config
from governed_mcpd.config import Config, ConfigError, gid_of, load, uid_of

SHIPPED = Path(__file__).parents[2] / "packaging" / "config.toml"


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in dataclasses.fields(Config):
        monkeypatch.delenv("GOVERNED_" + field.name.upper(), raising=False)
    monkeypatch.delenv("GOVERNED_CONFIG", raising=False)
    monkeypatch.setattr(config, "DEFAULT_FILE", str(tmp_path / "absent.toml"))


def written(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_defaults_when_nothing_is_said() -> None:
    assert load() == Config()
    assert load(None, {"runtime_dir": None}) == Config()


def test_command_line_before_environment_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, 'runtime_dir = "/file"\nstate_dir = "/file"\npolicy_dir = "/file"\n')
    monkeypatch.setenv("GOVERNED_RUNTIME_DIR", "/environment")
    monkeypatch.setenv("GOVERNED_STATE_DIR", "/environment")
    found = load(path, {"runtime_dir": "/option"})
    assert (found.runtime_dir, found.state_dir, found.policy_dir) == ("/option", "/environment", "/file")


def test_the_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOVERNED_CONFIG", written(tmp_path, 'seal = "best-effort"'))
    assert load().seal == "best-effort"


def test_a_relative_option_is_relative_to_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(None, {"state_dir": "s"}).state_dir == str(tmp_path / "s")


def test_groups_and_users_by_number(tmp_path: Path) -> None:
    found = load(written(tmp_path, 'group = 60001\nadmin_group = "60002"\ngate_user = "nobody"\n'))
    assert (gid_of(found.group), gid_of(found.admin_group), uid_of(found.gate_user)) == (60001, 60002, 65534)
    with pytest.raises(ConfigError, match="groupadd"):
        gid_of("no-such-group-here")
    with pytest.raises(ConfigError, match="useradd"):
        uid_of("no-such-user-here")


def test_the_shipped_example_says_the_defaults(tmp_path: Path) -> None:
    assert load(str(SHIPPED)) == Config()
    lines = SHIPPED.read_text().splitlines()
    uncommented = "\n".join(line.removeprefix("# ") for line in lines if " = " in line)
    assert tomllib.loads(uncommented) == dataclasses.asdict(Config())
    assert load(written(tmp_path, uncommented)) == Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '\n\nruntime_dri = "/x"',
            r"config\.toml:3: runtime_dri: there is no such setting; expected one of runtime_dir",
        ),
        ("[seal]\nx = 1", r"config\.toml:1: seal is .*expected required or best-effort"),
        ('log_level = "info"\nseal = true', r"config\.toml:2: seal is True: expected required or best-effort"),
        ('runtime_dir = "run"', r":1: runtime_dir is 'run': expected an absolute path"),
        (f'runtime_dir = "/{"x" * 100}"', "expected at most 88 bytes"),
        ("state_dir = 3", "expected an absolute path"),
        ("group = 1.5", "expected the name of a group, or its number"),
        ("group = true", "expected the name of a group, or its number"),
        ("group = -1", "expected the name of a group, or its number"),
        ("admin_group = 4294967295", "expected a number up to 4294967294"),
        ('gate_user = ""', "expected the name of a user"),
        ('resolver_user = "a b"', "expected the name of a user"),
        ("upstreams = 53", "expected text, with addresses"),
        ('upstreams = "9.9.9.9 dns.example"', "'dns.example' is not an address"),
        ('upstreams = "9.9.9.9#0"', "'0' is not a port"),
        ('log_level = "loud"', "expected debug or info or warning or error"),
        ("runtime_dir = /x\n", "not TOML: .*line 1"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(written(tmp_path, text))


def test_errors_of_environment_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="cannot read"):
        load(str(tmp_path))
    with pytest.raises(ConfigError, match="--seal is 'never'"):
        load(None, {"seal": "never"})
    with pytest.raises(ConfigError, match="--sael: there is no such setting"):
        load(None, {"sael": "required"})
    monkeypatch.setenv("GOVERNED_SEAL", "maybe")
    with pytest.raises(ConfigError, match="GOVERNED_SEAL is 'maybe'"):
        load()
