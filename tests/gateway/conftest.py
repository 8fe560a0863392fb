"""A daemon whose policies know the servers of these tests."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway import rude
from tests.gateway.raw import Raw
from tests.support.instance import Instance
from tests.support.users import USER

HERE = Path(__file__).parent
PYTHON = "/usr/bin/python3"
FILES = """
kind: Tool
name: {name}
outside: {outside}
results: {{instructions: {instructions}, secrets: {secrets}}}
tools:
  read_file:
    contract: [{{operations: [file.read], argument: $.path}}]
  write_file:
    contract: [{{operations: [file.create, file.write, file.truncate], argument: $.path}}]
  send_mail: {{}}
"""
ECHO = "kind: Tool\nname: echo\ntools:\n  echo: {}\n"


def files_document(name: str, outside: str = "decide", instructions: str = "mark", secrets: str = "pass") -> str:
    """The Tool document of a server that offers what liar.py offers."""
    return FILES.format(name=name, outside=outside, instructions=instructions, secrets=secrets)


MODES = (
    *("honest", "early", "between", "socket", "other-file", "shell", "child", "schema", "changes", "poison", "hidden"),
    *("sampling", "unasked", "injects", "secret", "slow", "nested", "stays", "dies"),
)
CONFORMANT = (
    *("simple_text", "image_content", "audio_content", "embedded_resource", "multiple_content_types"),
    *("tool_with_logging", "tool_with_progress", "error_handling", "sampling", "elicitation"),
)
POLICIES: dict[str, str | None] = {
    **{f"tool-{mode}.yaml": files_document(mode) for mode in MODES},
    **{f"tool-strict-{mode}.yaml": files_document(f"strict-{mode}", outside="deny") for mode in MODES},
    "tool-withheld.yaml": files_document("withheld", instructions="withhold", secrets="redact"),
    **{
        f"tool-schema-{mode}.yaml": f"kind: Tool\nname: schema-{mode}\ntools:\n  echo: {{}}\n  plain: {{}}\n"
        for mode in ("http", "file", "pattern", "automaton", "large", "deep", "twice", "number", "surrogate")
    },
    "tool-conformant.yaml": "kind: Tool\nname: conformant\ntools:\n"
    + "".join(f"  test_{tool}: {{}}\n" for tool in CONFORMANT),
    **{
        f"tool-{name}.yaml": f"kind: Tool\nname: {name}\nresults: {{instructions: withhold, secrets: redact}}\ntools:\n"
        + "".join(f"  {tool}: {{}}\n" for tool in rude.TOOLS)
        for name in ("rude", "rude-breaks")
    },
    "tool-echo.yaml": ECHO,
    "tool-modern.yaml": ECHO.replace("echo: {}", "repeat: {}").replace("name: echo", "name: modern"),
}


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """A gate and a daemon, and the test servers where the ordinary user can run them."""
    with Instance(policies=POLICIES) as made:
        for name in ("liar.py", "echo.py", "modern.py", "schemas.py", "conformant.py", "rude.py"):
            shutil.copy(HERE / name, made.base / name)
            (made.base / name).chmod(0o644)
        yield made


@pytest.fixture
def work(instance: Instance, request: pytest.FixtureRequest) -> Path:
    """A directory of its own for one test, the user's."""
    name = "".join(char if char.isalnum() else "-" for char in request.node.name)[:60]
    directory = instance.work / name
    directory.mkdir()
    os.chown(directory, USER, USER)
    return directory


def program(instance: Instance, name: str, *words: str) -> list[str]:
    """The command of a test server. It lies outside what the sandbox may read but for its own file: see `liar`."""
    return [PYTHON, str(instance.base / name), *words]


Started = Callable[..., Raw]


@pytest.fixture
def gateway(instance: Instance, work: Path) -> Iterator[Started]:
    """Starts `governedctl mcp --server NAME … -- COMMAND`, as a client would; ended with the test."""
    started: list[Raw] = []

    def start(server: str, *command: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Raw:
        words = instance.command("mcp", "--quiet", "--profile", "demo", "--server", server, *options, "--", *command)
        started.append(Raw(instance, words, work, env))
        return started[-1]

    yield start
    for raw in started:
        raw.end()


@pytest.fixture
def direct(instance: Instance, work: Path) -> Iterator[Started]:
    """Starts a server without the gateway: what it does then is what the gateway is there for."""
    started: list[Raw] = []

    def start(*command: str) -> Raw:
        started.append(Raw(instance, command, work))
        return started[-1]

    yield start
    for raw in started:
        raw.end()
