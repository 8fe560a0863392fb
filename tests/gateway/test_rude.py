"""A remote server that keeps to no rule of HTTP: what it says is judged all the same, and its calls end."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2
import pytest

from tests.gateway.rude import LOOKED_THROUGH, ORDER, TOKEN, TOOLS
from tests.gateway.test_asking import ASKED, DATA, waiting
from tests.gateway.test_http import Servers
from tests.support.instance import Instance
from tests.support.ports import free_port

HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


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
    """One that takes what it gets, whatever it is called, goes wherever it is led, and keeps no cookies."""

    def __init__(self, url: str, version: str = "2025-06-18", **headers: str) -> None:
        jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._http = httpx2.Client(follow_redirects=True, timeout=30, headers={**HEADERS, **headers}, cookies=jar)
        self._url = url
        self._next = 0
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        self._http.headers["mcp-session-id"] = self.ask("initialize", params).headers["mcp-session-id"]

    def beside(self) -> "Client":
        """Another program in the same session."""
        other = Client(self._url)
        other._http.headers["mcp-session-id"] = self._http.headers["mcp-session-id"]
        other._next = 1000
        return other

    @property
    def last(self) -> int:
        return self._next

    def ask(self, method: str, params: dict[str, Any]) -> httpx2.Response:
        self._next += 1
        return self.post({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})

    def post(self, message: Any) -> httpx2.Response:
        return self._http.post(self._url, json=message)

    def raw(self, body: bytes, headers: dict[str, str]) -> httpx2.Response:
        return self._http.post(self._url, content=body, headers=headers)

    def tell(self, method: str, params: dict[str, Any]) -> httpx2.Response:
        return self.post({"jsonrpc": "2.0", "method": method, "params": params})

    def call(self, name: str, **arguments: str) -> httpx2.Response:
        return self.ask("tools/call", {"name": name, "arguments": arguments})

    def text(self, name: str, **arguments: str) -> str:
        return str(self.call(name, **arguments).json()["result"]["content"][0]["text"])

    def names(self) -> list[str]:
        return [tool["name"] for tool in self.ask("tools/list", {}).json()["result"]["tools"]]


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
    for name in LOOKED_THROUGH:
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
            assert "governed-mcpd" in found["error"]["message"]
            assert found["id"] == governed.last, f"{name}: the client knows what it answers"
    assert governed.text("fine") == "fine"


def test_a_call_that_gets_no_answer_has_an_end(instance: Instance, servers: Servers) -> None:
    governed = Client(servers.gateway("rude", rude(instance, servers)))
    for name in ("closed", "busy", "html", "elsewhere", "endless", "fine"):
        answer = governed.call(name)
        assert answer.status_code == {"busy": 429, "elsewhere": 502, "endless": 502}.get(name, 200), name
        assert (name == "fine") == ("error" not in answer.text), name
    assert "--upstream" in governed.call("elsewhere").text
    instance.wait_for_record(lambda found: found["kind"] == "call.end" and found.get("outcome") == "result")
    outcomes = ended(instance, "rude")
    assert outcomes["fine"] == "result"
    assert {outcomes[name] for name in ("closed", "busy", "html", "elsewhere", "endless")} == {"error"}


def test_many_calls_that_get_no_answer_take_no_room(instance: Instance, servers: Servers) -> None:
    governed = Client(servers.gateway("rude", rude(instance, servers)))
    for _ in range(260):  # 256 may be in flight
        assert governed.call("busy").status_code == 429
    assert governed.text("fine") == "fine"


def test_a_list_of_which_a_part_is_missing_is_none(instance: Instance, servers: Servers) -> None:
    governed = Client(servers.gateway("rude-breaks", rude(instance, servers, "breaks")))
    refused = governed.call("plain").json()
    assert refused["result"]["isError"] is True, "not known to be offered"
    record = instance.wait_for_record(lambda found: found["kind"] == "call" and found["server"] == "rude-breaks")
    assert record["rule"] == "tool-not-listed"
    assert "tools/list" in record["reason"]
    # Nothing was accepted of the part: what the next list has is all accepted, and nothing of it is new.
    assert governed.text("fine") == "fine"
    assert governed.names() == list(TOOLS[:2])
    assert not [found for found in instance.journal() if found["kind"] == "tools.withheld"]


def test_an_answer_that_bears_anothers_id(instance: Instance, servers: Servers) -> None:
    """Clients take what comes on the response to a call for its answer; judged as a list, it would be none."""
    upstream = rude(instance, servers)
    for url, governed in ((f"http://127.0.0.1:{upstream}/mcp", False), (servers.gateway("rude", upstream), True)):
        client = Client(url)
        other = client.beside()
        assert client.text("fine") == "fine"
        with ThreadPoolExecutor(1) as pool:
            swapped = pool.submit(client.call, "swap")
            while not swapped.done():  # one of these is in flight when the call is with the server
                assert other.names() == list(TOOLS[:2])
            assert (ORDER in swapped.result().text) is not governed
    instance.wait_for_record(lambda found: found["kind"] == "call.refused" and found["rule"] == "not-asked")
    assert ended(instance, "rude")["swap"] == "error"


def test_one_clients_headers_are_not_anothers(instance: Instance, servers: Servers) -> None:
    """A list of which the first page takes a while; meanwhile another client says something."""
    url = servers.gateway("rude", rude(instance, servers, "slow"))
    ana, bob = Client(url, authorization="ana"), Client(url, authorization="bob")
    with ThreadPoolExecutor(1) as pool:
        listed = pool.submit(ana.names)
        time.sleep(0.2)
        assert bob.ask("ping", {}).status_code == 200
        assert listed.result(30) == list(TOOLS[:2])
    assert [ana.text("who"), bob.text("who")] == ["nobody", "nobody"]


def test_what_cannot_be_asked_holds_up_nobody(instance: Instance, servers: Servers) -> None:
    url = servers.gateway("rude", rude(instance, servers))
    odd = Client(url)
    answer = odd.ask("tools/list", {"_meta": {"io.modelcontextprotocol/x": 10**30}})
    assert "error" in answer.json(), "the gateway's own list cannot be written"
    assert odd.names() == list(TOOLS[:2])
    named = httpx2.post(
        url, headers=[*((name, value) for name, value in HEADERS.items()), (b"x-user", "Zoë".encode())],
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fine", "arguments": {}}},
    )  # fmt: skip
    assert named.json()["result"]["content"][0]["text"] == "fine"


def test_a_call_that_is_withdrawn_while_a_person_is_asked(instance: Instance, servers: Servers) -> None:
    governed = Client(servers.gateway("rude", rude(instance, servers)))
    governed.text("repeat", text=DATA)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(governed.call, "repeat", **ASKED)
        waiting(instance)
        assert governed.tell("notifications/cancelled", {"requestId": governed.last}).status_code == 202
        assert asked.result(10).status_code == 202, "its response ends"
    assert governed.text("fine") == "fine"


def test_what_clients_take_no_notice_of_ends_nothing(instance: Instance, servers: Servers) -> None:
    governed = Client(servers.gateway("rude", rude(instance, servers)))
    answer = governed.call("pings")
    (data,) = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert json.loads(data.removeprefix("data: "))["result"]["content"][0]["text"] == "fine"
    assert "now" not in answer.text


def test_who_is_asked_for_a_token_hears_it_and_nobody_else(instance: Instance, servers: Servers) -> None:
    url = servers.gateway("rude", rude(instance, servers, "asks"))
    nobody, ana = Client(url), Client(url, authorization="ana")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(nobody.ask, "tools/list", {})
        time.sleep(0.2)  # its list is looked at, and will be refused
        assert ana.text("fine") == "fine"
        assert asked.result(10).status_code == 401
        assert asked.result().headers["www-authenticate"] == "Bearer"
        assert asked.result().json()["id"] == nobody.last
    assert ana.names() == list(TOOLS[:2])


def test_each_of_a_batch_has_an_answer_whatever_happens(instance: Instance, servers: Servers) -> None:
    governed = Client(servers.gateway("rude", rude(instance, servers)), version="2025-03-26")
    batch = [
        {"jsonrpc": "2.0", "id": f"b{number}", "method": "tools/call", "params": {"name": name, "arguments": {}}}
        for number, name in enumerate(("busy", "unheard-of", "who"))
    ]
    answers = {answer["id"]: answer for answer in governed.post(batch).json()}
    assert sorted(answers) == ["b0", "b1", "b2"]
    assert answers["b1"]["result"]["isError"] is True
    assert "error" in answers["b0"]
    alone = [batch[1], {"jsonrpc": "2.0", "method": "notifications/x"}]
    assert [answer["id"] for answer in governed.post(alone).json()] == ["b1"], "the rest has no answer"
    response = {"jsonrpc": "2.0", "id": 99, "result": {"roots": []}}  # to a request of the server's
    (answer,) = governed.post([response, {"jsonrpc": "2.0", "id": "p", "method": "ping"}]).json()
    assert json.loads(answer["result"]["got"])[0] == response
    assert governed.text("fine") == "fine"


def test_the_server_reads_the_bytes_as_they_were_judged(instance: Instance, servers: Servers) -> None:
    """Some servers decode what they are told to: +AC8- is a slash in UTF-7."""
    upstream = rude(instance, servers)
    kinds = []
    for url in (f"http://127.0.0.1:{upstream}/mcp", servers.gateway("rude", upstream)):
        client = Client(url)
        message = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "kind", "arguments": {}}}
        headers = {**HEADERS, "content-type": "application/json; charset=utf-7"}
        answer = client.raw(json.dumps(message).encode(), headers).json()
        kinds.append(answer["result"]["content"][0]["text"])
    assert kinds == ["application/json; charset=utf-7", "application/json"]
