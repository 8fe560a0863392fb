"""`governedctl mcp wrap` and `unwrap`: into a client's configuration and out again, exactly."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from governed_mcpd.gateway.options import server_name

# As desktop clients write it: tabs or spaces, other members, odd spacing that a rewrite would lose.
BEFORE = """{
    "theme":"dark",
    "mcpServers": {
        "files": { "command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "/data"],
                   "env": {"TOKEN": "x"} },
        "git": {"command": "mcp-server-git"},
        "far": {"url": "https://mcp.example/mcp"}
    }
}"""


def ctl(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "governed_mcpd.ctl.main", "mcp", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "config.json"
    found.write_text(BEFORE)
    found.chmod(0o640)
    return found


def test_there_and_back(file: Path) -> None:
    done = ctl("wrap", "--profile", "strict", str(file))
    assert done.returncode == 0, done.stderr
    value = json.loads(file.read_text())
    files, git = value["mcpServers"]["files"], value["mcpServers"]["git"]
    assert Path(files["command"]).name == "governedctl"
    assert files["args"] == [
        "mcp", "--profile", "strict", "--", "npx", "-y", "@modelcontextprotocol/server-filesystem", "/data",
    ]  # fmt: skip
    assert files["env"] == {"TOKEN": "x"}
    assert git["args"] == ["mcp", "--profile", "strict", "--", "mcp-server-git"]
    assert value["mcpServers"]["far"] == {"url": "https://mcp.example/mcp"}
    assert value["theme"] == "dark"
    assert file.stat().st_mode & 0o777 == 0o640
    assert "+" in done.stdout
    assert "far: no command" in done.stdout
    assert ctl("wrap", str(file)).stdout.count("wrapped already") == 2
    assert ctl("unwrap", str(file)).returncode == 0
    assert file.read_text() == BEFORE
    assert sorted(path.name for path in file.parent.iterdir()) == ["config.json"]


def test_a_file_that_was_edited_since_keeps_the_edit(file: Path) -> None:
    ctl("wrap", str(file))
    value = json.loads(file.read_text())
    value["theme"] = "light"
    file.write_text(json.dumps(value))
    assert ctl("unwrap", str(file)).returncode == 0
    found = json.loads(file.read_text())
    assert found["theme"] == "light"
    assert found["mcpServers"]["files"]["command"] == "npx"
    assert found["mcpServers"]["git"]["command"] == "mcp-server-git"


def test_a_dry_run_changes_nothing(file: Path) -> None:
    done = ctl("wrap", "--dry-run", str(file))
    assert "governedctl" in done.stdout
    assert file.read_text() == BEFORE
    assert list(file.parent.iterdir()) == [file]


def test_one_server(file: Path) -> None:
    ctl("wrap", "--only", "git", str(file))
    value = json.loads(file.read_text())
    assert value["mcpServers"]["files"]["command"] == "npx"
    assert value["mcpServers"]["git"]["args"][0] == "mcp"
    assert ctl("wrap", "--only", "nobody", str(file)).returncode == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"other": 1}'])
def test_what_is_no_configuration_is_left_alone(file: Path, text: str) -> None:
    file.write_text(text)
    assert ctl("wrap", str(file)).returncode == 2
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("mcp-server-git --repository /r", "mcp-server-git"),
        ("npx -y @modelcontextprotocol/server-filesystem@2026.8.31 /data", "server-filesystem"),
        ("uvx mcp-server-fetch", "mcp-server-fetch"),
        ("uv tool run mcp-server-time", "mcp-server-time"),
        ("/usr/bin/python3.11 -m mcp_server_git", "mcp-server-git"),
        ("node /opt/my-server/dist/index.js", "my-server"),
        ("python server.py", "server"),
    ],
)
def test_the_name_of_a_server(command: str, name: str) -> None:
    assert server_name(command.split()) == name
