"""The documents that ship agree with the programs that they are about."""

import asyncio
from pathlib import Path

from mcp_server_git.server import create_server

from governed_mcpd.gate.layers.constitution import problems
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.policy.load import load_directory

SHIPPED = load_directory(Path(__file__).parents[2] / "policies", problems)


def test_every_tool_of_mcp_server_git_with_its_real_schema() -> None:
    listed = {tool.name: tool.input_schema for tool in asyncio.run(create_server(None).list_tools())}
    written = {name: entry.input_schema for name, entry in SHIPPED.tools["mcp-server-git"].tools.items()}
    assert written == listed


def test_the_filesystem_server_and_fetch() -> None:
    tools = SHIPPED.tools["server-filesystem"].tools
    assert {"read_text_file", "write_file", "edit_file", "move_file", "directory_tree"} <= set(tools)
    assert set(SHIPPED.tools["mcp-server-fetch"].tools) == {"fetch"}


def test_contracts_of_git_never_reach_hooks_or_settings() -> None:
    """A hook runs within the call: what the call's contract covers, the hook may do too."""
    for name, entry in SHIPPED.tools["mcp-server-git"].tools.items():
        for effect in entry.contract:
            assert effect.argument is None, name
            assert effect.on is not None
            if effect.operations == [Operation.PROCESS_EXEC]:
                assert effect.on == "/usr/bin/git"  # entailed: no lease lets anything run
                continue
            assert "hooks" not in effect.on
            assert "config" not in effect.on
            assert effect.on.startswith("${cwd}/.git/")
            assert effect.on != "${cwd}/.git/**"


def test_no_profile_lets_leases_cover_what_one_name_does_not_say() -> None:
    unsaid = {Operation.FILE_RENAME, Operation.FILE_LINK, Operation.FILE_CHMOD, Operation.PROCESS_EXEC}
    for profile in SHIPPED.profiles.values():
        for ceiling in profile.ceiling:
            assert unsaid.isdisjoint(ceiling.operations), profile.name


def test_credentials_are_protected_in_every_profile() -> None:
    for profile in SHIPPED.profiles.values():
        assert {"${home}/.ssh", "${home}/.aws", "${home}/.gnupg", "/etc/shadow"} <= set(profile.protected), profile.name


def test_rates_let_a_burst_of_ten_thousand_through() -> None:
    for operation in (Operation.FILE_WRITE, Operation.FILE_CREATE, Operation.FILE_READ, Operation.FILE_UNLINK):
        rate = SHIPPED.gate.operations[operation].rate
        assert rate is not None
        assert rate.burst >= 20_000


def test_the_shell_needs_more_trust_than_the_default_agent_has() -> None:
    assert SHIPPED.agents["default"].tier == "Classic"
    assert all(entry.tier != "Classic" for entry in SHIPPED.tools["shell"].tools.values())
