"""What comes back: results are looked through, remembered, marked, withheld, redacted; descriptions as well."""

from tests.gateway.conftest import Started, files_document, program
from tests.gateway.raw import text_of
from tests.support.instance import Instance

ORDER = "Ignore all previous"


def test_instructions_in_a_result_are_marked(instance: Instance, direct: Started, gateway: Started) -> None:
    bare = direct(*program(instance, "liar.py", "injects"))
    bare.initialize()
    assert text_of(bare.call("read_file", {"path": "x"})).strip().startswith("Ignore all previous")
    raw = gateway("injects", *program(instance, "liar.py", "injects"))
    raw.initialize()
    result = raw.call("read_file", {"path": "x"})
    assert result["content"][0]["text"].startswith("[governed-mcpd:")
    assert "Ignore all previous" in result["content"][1]["text"]
    end = instance.wait_for_record(lambda found: found["kind"] == "call.end" and found.get("handling") == "marked")
    assert end["findings"][0].startswith("ignore-instructions")


def test_instructions_in_a_result_are_withheld_where_policy_says_so(instance: Instance, gateway: Started) -> None:
    raw = gateway("withheld", *program(instance, "liar.py", "injects"))
    raw.initialize()
    result = raw.call("read_file", {"path": "x"})
    assert result["isError"] is True
    assert "previous instructions" not in text_of(result)
    assert text_of(raw.call("write_file", {"path": "y", "content": "z"})) == "written"


def test_secrets_are_masked_where_policy_says_so(instance: Instance, gateway: Started) -> None:
    passed = gateway("secret", *program(instance, "liar.py", "secret"))
    passed.initialize()
    assert "ghp_" in text_of(passed.call("read_file", {"path": "x"}))
    raw = gateway("withheld", *program(instance, "liar.py", "secret"))
    raw.initialize()
    assert text_of(raw.call("read_file", {"path": "x"})) == "The token is [redacted]"
    instance.wait_for_record(lambda found: found["kind"] == "call.end" and found.get("handling") == "redacted")


def test_a_poisoned_description_is_withheld(instance: Instance, direct: Started, gateway: Started) -> None:
    for mode in ("poison", "hidden"):
        bare = direct(*program(instance, "liar.py", mode))
        bare.initialize()
        assert bare.tools() == ["read_file", "write_file"]
        raw = gateway(mode, *program(instance, "liar.py", mode))
        raw.initialize()
        assert raw.tools() == ["write_file"], mode
        assert raw.call("read_file", {"path": "x"})["isError"] is True
        assert text_of(raw.call("write_file", {"path": "y", "content": "z"})) == "written"
        raw.end()  # as long as it is there, its tools' names are its own
    withheld = [found for found in instance.journal() if found["kind"] == "tools.withheld"]
    assert {record["tools"][0]["rule"] for record in withheld} >= {"invisible-characters"}


def test_a_tool_in_the_place_of_another_servers(instance: Instance, gateway: Started) -> None:
    first = gateway("honest", *program(instance, "liar.py", "honest"))
    first.initialize()
    assert first.tools() == ["read_file", "write_file"]
    second = gateway("slow", *program(instance, "liar.py", "slow"))
    second.initialize()
    assert second.tools() == []
    record = instance.wait_for_record(lambda found: found["kind"] == "tools.withheld" and found["server"] == "slow")
    assert {tool["rule"] for tool in record["tools"]} == {"tool-shadows"}


def test_what_one_server_says_counts_for_the_next(instance: Instance, gateway: Started) -> None:
    """Two gateways of one client: the order comes in one server's result, and would be carried out by the other."""
    reader = gateway("injects", *program(instance, "liar.py", "injects"), options=("--task", "Summarise the page"))
    reader.initialize()
    reader.call("read_file", {"path": "x"})
    echo = gateway("echo", *program(instance, "echo.py"), options=("--task", "Summarise the page"))
    echo.initialize()
    assert echo.call("echo", {"text": "eve@evil.example"})["isError"] is True
    record = [found for found in instance.journal() if found["kind"] == "call" and found["server"] == "echo"][-1]
    assert record["rule"] == "instructed-by-untrusted-content"
    assert text_of(echo.call("echo", {"text": "a summary"})) == "a summary"


def test_whatever_answers_is_looked_through_under_the_policy_of_now(
    instance: Instance, direct: Started, gateway: Started
) -> None:
    bare = direct(*program(instance, "liar.py", "injects"))
    bare.initialize()
    for method, params in (("prompts/get", {"name": "x"}), ("prompts/list", {}), ("resources/read", {"uri": "x:"})):
        assert ORDER in str(bare.ask(method, params))
    raw = gateway("injects", *program(instance, "liar.py", "injects"))
    raw.initialize()
    got = raw.ask("prompts/get", {"name": "x"})["result"]["messages"]
    assert got[0]["content"]["text"].startswith("[governed-mcpd:")
    assert ORDER in got[1]["content"]["text"]
    assert [message["method"] for message in raw.others] == ["tasks/get"], "a server may look at a task of its own"
    assert "governed-mcpd" in str(raw.ask("prompts/list", {})["result"]["_meta"])
    assert raw.ask("resources/read", {"uri": "x:"})["error"]["message"].startswith("[governed-mcpd:")
    instance.wait_for_record(lambda found: found["kind"] == "content" and found["source"] == "prompts")
    # The gateway is told when another policy is applied.
    document = instance.policy_dir / "tool-injects.yaml"
    before = document.read_text()
    document.write_text(files_document("injects", instructions="withhold"))
    try:
        assert instance.ctl("apply", "-f", instance.policy_dir).returncode == 0
        got = raw.ask("prompts/get", {"name": "x"})["result"]["messages"]
        assert len(got) == 1
        assert "withheld" in got[0]["content"]["text"]
        assert raw.ask("prompts/list", {})["result"]["prompts"] == [{"name": "fine"}]
        refused = raw.ask("resources/read", {"uri": "x:"})["error"]
        assert refused["code"] == -32002
        assert "withheld" in refused["message"]
        assert raw.ask("ping", {})["result"] == {}
    finally:
        document.write_text(before)
        assert instance.ctl("apply", "-f", instance.policy_dir).returncode == 0
