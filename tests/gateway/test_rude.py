"""A remote server that keeps to no rule of HTTP: what it says is judged all the same, and its calls end."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.gateway.rude import ORDER, TOKEN, TOOLS
from tests.gateway.test_http import Servers, free_port
from tests.support.instance import Instance

HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
LED = [name for name in TOOLS if name not in ("closed", "endless", "fine")]


@pytest.fixture
def servers(instance: Instance) -> Iterator[Servers]:
    """Ended with the test: two servers that offer the same are in each other's place."""
    found = Servers(instance)
    yield found
    found.end()


def rude(instance: Instance, servers: Servers, *words: str) -> int:
    port = free_port()
    return servers.start(["/usr/bin/python3", instance.base / "rude.py", port, *words], port)


class Client:
    """One that takes what it gets, whatever it is called, and goes wherever it is led."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(follow_redirects=True, timeout=30, headers=HEADERS)
        self._url = url
        self._next = 0
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        self._http.headers["mcp-session-id"] = self.ask("initialize", params).headers["mcp-session-id"]

    def ask(self, method: str, params: dict[str, Any]) -> httpx2.Response:
        self._next += 1
        message = {"jsonrpc": "2.0", "id": self._next, "method": method, "params": params}
        return self._http.post(self._url, json=message)

    def call(self, name: str) -> httpx2.Response:
        return self.ask("tools/call", {"name": name, "arguments": {}})


def ended(instance: Instance, server: str) -> dict[str, str]:
    """How each call ended, by its tool."""
    records = [found for found in instance.journal() if found.get("server") == server]
    calls = {found["call"]: found["tool"] for found in records if found["kind"] == "call"}
    return {
        calls[found["call"]]: found["outcome"]
        for found in instance.journal()
        if found["kind"] == "call.end" and found["call"] in calls
    }


def test_whatever_way_an_answer_comes_it_is_looked_through(instance: Instance, servers: Servers) -> None:
    upstream = rude(instance, servers)
    bare = Client(f"http://127.0.0.1:{upstream}/mcp")
    governed = Client(servers.gateway("rude", upstream))
    for name in LED:
        assert TOKEN in bare.call(name).text, f"{name}: without the gateway"
        answer = governed.call(name)
        assert ORDER not in answer.text, name
        assert TOKEN not in answer.text, name
        assert not answer.history, f"{name}: it was led past the gateway"
        said = answer.text.partition("data: ")[2] if name in ("mark", "pretty", "remark") else answer.text
        (line,) = said.splitlines()[:1]
        found = json.loads(line)
        if name in ("plain", "mark", "pretty", "remark"):
            assert found["result"]["isError"] is True
            assert "withheld" in found["result"]["content"][0]["text"]
        else:
            assert "error" in found
    assert governed.call("fine").json()["result"]["content"][0]["text"] == "fine"


def test_a_call_that_gets_no_answer_has_an_end(instance: Instance, servers: Servers) -> None:
    governed = Client(servers.gateway("rude", rude(instance, servers)))
    for name in ("closed", "busy", "html", "elsewhere", "endless", "fine"):
        answer = governed.call(name)
        assert answer.status_code == {"busy": 429, "elsewhere": 502, "endless": 502}.get(name, 200), name
    assert "--upstream" in governed.call("elsewhere").text
    instance.wait_for_record(lambda found: found["kind"] == "call.end" and found.get("outcome") == "result")
    outcomes = ended(instance, "rude")
    assert outcomes["fine"] == "result"
    assert {outcomes[name] for name in ("closed", "busy", "html", "elsewhere", "endless")} == {"error"}


def test_many_calls_that_get_no_answer_take_no_room(instance: Instance, servers: Servers) -> None:
    governed = Client(servers.gateway("rude", rude(instance, servers)))
    for _ in range(260):  # 256 may be in flight
        assert governed.call("busy").status_code == 429
    assert governed.call("fine").json()["result"]["content"][0]["text"] == "fine"


def test_a_list_of_which_a_part_is_missing_is_none(instance: Instance, servers: Servers) -> None:
    governed = Client(servers.gateway("rude-breaks", rude(instance, servers, "breaks")))
    refused = governed.call("plain").json()
    assert refused["result"]["isError"] is True, "not known to be offered"
    record = instance.wait_for_record(lambda found: found["kind"] == "call" and found["server"] == "rude-breaks")
    assert record["rule"] == "tool-not-listed"
    assert "tools/list" in record["reason"]
    # Nothing was accepted of the part: what the next list has is all accepted, and nothing of it is new.
    assert governed.call("fine").json()["result"]["content"][0]["text"] == "fine"
    listed = governed.ask("tools/list", {}).json()["result"]["tools"]
    assert [tool["name"] for tool in listed] == list(TOOLS[:2])
    assert not [found for found in instance.journal() if found["kind"] == "tools.withheld"]
