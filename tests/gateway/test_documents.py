"""Tool documents that ship, each with its real, unmodified server behind the gateway: what a call does is covered by
its contract, what it does besides is flagged or refused. (git, filesystem, fetch, everything: test_servers.)"""

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession

from tests.gateway import sdk
from tests.gateway.test_servers import plain
from tests.support.instance import CHECKOUT, PROGRAMS, SHIPPED_POLICIES, Instance
from tests.support.ports import free_port
from tests.support.users import USER

Record = dict[str, Any]
SQLITE = CHECKOUT / ".build" / "servers" / "bin" / "mcp-server-sqlite"
POSTGRES = Path("/usr/lib/postgresql")
CHROMIUM = Path("/usr/bin/chromium")
TASK = ("--task", "Try every tool of these servers")


def shipped(name: str) -> str:
    return (SHIPPED_POLICIES / name).read_text()


PORT, OTHER_PORT = free_port(), free_port()
# A profile for a database server: what its contract says gets a lease only where the profile's ceiling has it.
DATABASE = shipped("profile-demo.yaml").replace("name: demo", "name: database").replace(
    "ceiling:\n", f"ceiling:\n  - {{operations: [net.connect], on: 'tcp:127.0.0.1:{PORT}', uses: 100, seconds: 300}}\n"
)  # fmt: skip


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    agent = shipped("agent-default.yaml").replace("[default, strict, demo]", "[default, strict, demo, database]")
    policies: dict[str, str | None] = {
        # execute_sql needs a higher tier than the default agent has, as the shell does.
        "agent-default.yaml": agent.replace("tier: Classic", "tier: AiEnhanced"),
        "profile-database.yaml": DATABASE,
        "tool-dbhub.yaml": shipped("tool-dbhub.yaml").replace("tcp:127.0.0.1:5432", f"tcp:127.0.0.1:{PORT}"),
    }
    assert "database" in agent
    with Instance(policies=policies) as made:
        yield made


@pytest.fixture
def place(instance: Instance, request: pytest.FixtureRequest) -> Path:
    """A directory of the user's for one test."""
    made = instance.work / request.node.name
    made.mkdir()
    os.chown(made, USER, USER)
    return made


def called(
    instance: Instance,
    server: str,
    command: list[object],
    place: Path,
    *calls: tuple[str, Record],
    profile: str = "demo",
) -> tuple[list[str], list[Any]]:
    """The tools that a client gets, and the results of these calls."""

    async def act(client: ClientSession) -> Any:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        return tools, [plain(await client.call_tool(name, arguments)) for name, arguments in calls]

    words = instance.command(
        "mcp", "--quiet", "--profile", profile, "--server", server, *TASK, "--", *map(str, command)
    )
    found: tuple[list[str], list[Any]] = sdk.before(instance, list(words), place, act)
    return found


def changes(instance: Instance, server: str) -> list[Record]:
    """What the server's process did besides reading, as the journal has it; what is free to every sandbox apart."""
    return [
        found
        for found in instance.journal()
        if found["kind"] == "effect"
        and found.get("subject", {}).get("server") == server
        and found["operation"] != "file.read"
        and (found.get("call") or "calls" in found)
    ]


def text(result: Any) -> str:
    return str(result["content"][0]["text"])


def test_sqlite(instance: Instance, place: Path) -> None:
    tools, results = called(
        instance, "mcp-server-sqlite", [SQLITE], place,
        ("create_table", {"query": "CREATE TABLE notes (line TEXT)"}),
        ("write_query", {"query": "INSERT INTO notes VALUES ('ten')"}),
        ("read_query", {"query": "SELECT line FROM notes"}),
        ("list_tables", {}),
        ("describe_table", {"table_name": "notes"}),
    )  # fmt: skip
    assert set(tools) == {
        "read_query",
        "write_query",
        "create_table",
        "list_tables",
        "describe_table",
        "append_insight",
    }
    assert not [result for result in results if result["isError"]], results
    assert "ten" in text(results[2])
    of_calls = [found for found in changes(instance, "mcp-server-sqlite") if found.get("call")]
    names = {found["object"].replace(str(place), "") for found in of_calls}
    assert names == {"/sqlite_mcp_server.db", "/sqlite_mcp_server.db-journal"}
    assert {found["layer"] for found in of_calls} == {"contract"}
    create = ("create_table", {"query": "CREATE TABLE notes (line TEXT)"})
    called(instance, "mcp-server-sqlite", [SQLITE, "--db-path", "other.db"], place, create)
    others = [
        found
        for found in changes(instance, "mcp-server-sqlite")
        if found["object"] == f"{place}/other.db" and found["calls"]
    ]
    assert others
    assert all(found["outside_contract"] for found in others)


def test_time(instance: Instance, place: Path) -> None:
    tools, results = called(
        instance, "mcp-server-time", [PROGRAMS / "mcp-server-time"], place,
        ("get_current_time", {"timezone": "Europe/Berlin"}),
        ("convert_time", {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
        ("get_current_time", {"timezone": "../../../../etc/shadow"}),
    )  # fmt: skip
    assert tools == ["get_current_time", "convert_time"]
    assert [result["isError"] for result in results] == [False, False, True]
    assert [found for found in changes(instance, "mcp-server-time") if found["calls"]] == [], "it changes nothing"


def test_memory(instance: Instance, place: Path) -> None:
    command: list[object] = ["/usr/bin/env", f"MEMORY_FILE_PATH={place}/memory.jsonl", sdk.npm("mcp-server-memory")]
    one = {"name": "the meeting", "entityType": "event", "observations": ["at ten"]}
    _, results = called(
        instance, "server-memory", command, place, ("create_entities", {"entities": [one]}), ("read_graph", {})
    )
    assert "the meeting" in text(results[1])
    mine = [found for found in changes(instance, "server-memory") if found.get("call")]
    assert {found["operation"] for found in mine} == {"file.create", "file.rename"}
    assert all(found["object"].startswith(f"{place}/memory.jsonl") for found in mine), "beside it, and over it"
    elsewhere = place / "elsewhere.jsonl"
    command[1] = f"MEMORY_FILE_PATH={elsewhere}"
    called(instance, "server-memory", command, place, ("create_entities", {"entities": [one]}))
    flagged = [found for found in changes(instance, "server-memory") if found["object"].startswith(str(elsewhere))]
    assert flagged
    assert all(found["outside_contract"] and len(found["calls"]) == 1 for found in flagged)


@pytest.fixture(scope="module")
def database(instance: Instance) -> Iterator[int]:
    """A PostgreSQL of its own, on a port of this machine."""
    programs = sorted(POSTGRES.glob("*/bin/initdb"))
    assert programs, "make .build/npm installs PostgreSQL from Debian, for these tests"
    home = instance.work / "postgres"
    home.mkdir()
    owner = pwd.getpwnam("postgres")  # it does not run as a user without an entry
    os.chown(home, owner.pw_uid, owner.pw_gid)
    whose = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    make = [str(programs[-1]), "-D", str(home / "data"), "-A", "trust", "-U", "tester", "--no-sync"]
    made = subprocess.run(make, cwd=home, capture_output=True, text=True, check=False, **whose)  # type: ignore[call-overload]
    assert made.returncode == 0, made.stderr
    options = ["-D", home / "data", "-p", PORT, "-k", home, "-c", "listen_addresses=127.0.0.1", "-F"]
    with open(instance.base / "postgres.log", "wb") as log:
        program = [str(programs[-1].with_name("postgres")), *map(str, options)]
        server = subprocess.Popen(program, stdout=log, stderr=log, cwd=home, start_new_session=True, **whose)  # type: ignore[call-overload]
    ready = [str(programs[-1].with_name("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(PORT)]
    instance.wait_until(lambda: True if subprocess.run(ready, check=False).returncode == 0 else None, "PostgreSQL", 30)
    yield PORT
    server.send_signal(signal.SIGINT)  # fast shutdown: postgres(1)
    server.wait(20)


def test_postgresql(instance: Instance, place: Path, database: int) -> None:
    def dbhub(port: int) -> list[object]:
        (place / "dbhub.toml").write_text(
            f"[[sources]]\nid = 'own'\ndsn = 'postgres://tester@127.0.0.1:{port}/postgres?sslmode=disable'\n"
            "lazy = true\n"
        )
        return [sdk.npm("dbhub"), "--transport", "stdio", "--config", place / "dbhub.toml"]

    sql = "CREATE TABLE notes (line text); INSERT INTO notes VALUES ('ten'); SELECT line FROM notes"
    tools, results = called(
        instance, "dbhub", dbhub(database), place,
        ("execute_sql", {"sql": sql}),
        ("search_objects", {"object_type": "table", "pattern": "%", "detail_level": "names", "limit": 10}),
        profile="database",
    )  # fmt: skip
    assert tools == ["execute_sql", "search_objects"]
    assert not [result for result in results if result["isError"]], results
    assert "ten" in text(results[0])
    connects = [found for found in changes(instance, "dbhub") if found["operation"] == "net.connect"]
    assert {found["object"] for found in connects} == {f"tcp:127.0.0.1:{database}"}
    assert {found["layer"] for found in connects} == {"contract"}
    assert all(found["call"] for found in connects)
    _, (refused,) = called(
        instance, "dbhub", dbhub(OTHER_PORT), place, ("execute_sql", {"sql": "SELECT 1"}), profile="database"
    )
    assert refused["isError"] is True
    (other,) = {
        (found["object"], found["decision"], found["outside_contract"], len(found["calls"]))
        for found in changes(instance, "dbhub")
        if found["object"] == f"tcp:127.0.0.1:{OTHER_PORT}"
    }
    assert other == (f"tcp:127.0.0.1:{OTHER_PORT}", "deny", True, 1)


def test_a_browser(instance: Instance, place: Path) -> None:
    """Debian's chromium, without its own sandbox: namespaces are not to be had in this one."""
    assert CHROMIUM.exists(), "make .build/npm installs chromium from Debian, for these tests"
    browser = ["--headless", "--no-sandbox", "--isolated", "--executable-path", CHROMIUM]
    command: list[object] = ["/usr/bin/env", f"XDG_CACHE_HOME={place}/.cache", sdk.npm("playwright-mcp"), *browser]
    tools, results = called(
        instance, "playwright", command, place,
        ("browser_snapshot", {}),
        ("browser_take_screenshot", {"type": "png", "filename": "page.png", "scale": "css"}),
        ("browser_close", {}),
    )  # fmt: skip
    assert "browser_navigate" in tools
    assert "browser_run_code_unsafe" not in tools, "it needs a higher tier"
    assert not [result for result in results if result["isError"]], results
    found = changes(instance, "playwright")
    pictures = [effect for effect in found if effect["object"].endswith("page.png")]
    assert pictures, [effect["object"] for effect in found if effect.get("call")]
    assert {effect["layer"] for effect in pictures} == {"contract"}
    # The browser itself is of no contract: each program that it starts is decided and flagged, its settings refused.
    started = [effect for effect in found if effect["operation"] == "process.exec" and "chromium" in effect["object"]]
    assert started
    assert all(effect["outside_contract"] and effect["calls"] for effect in started)
    settings = [effect for effect in found if effect["object"].endswith("/.config") and effect["decision"] == "deny"]
    assert settings
    assert settings[0]["rule"] == "envelope"
