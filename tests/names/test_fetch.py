"""mcp-server-fetch, unmodified, behind the gateway: a call's contract speaks of the name in its URL."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession

from governed_mcpd.policy.text import read
from tests.gateway import sdk
from tests.names.upstream import Upstream, serving
from tests.support.instance import PROGRAMS, SHIPPED_POLICIES, Instance
from tests.support.users import USER

SERVER = "mcp-server-fetch"
# The ceiling names 127.0.0.1 itself: a lease on a name would not cover an address of this machine otherwise.
PROFILE = """kind: Profile
name: fetching
description: what mcp-server-fetch needs
envelope: {read: [/], write: ["${cwd}", "${scratch}", /dev/null], execute: [/]}
free:
  - {operations: [process.exec], on: /**}
  - {operations: [file.write, file.create, file.mkdir], on: "${cwd}/**"}
ceiling:
  - {operations: [net.resolve], on: 'name:*', uses: 100, seconds: 300}
  - {operations: [net.connect], on: 'tcp:*.example.org:*', uses: 100, seconds: 300}
"""
NAMING = PROFILE.replace("name: fetching", "name: naming") + (
    "  - {operations: [net.connect], on: 'tcp:127.0.0.1:*', uses: 100, seconds: 300}\n"
)
PERMITS = """kind: Constitution
name: permits
cedar: |
  @id("all")
  @reason("for what is learned, not for what is refused")
  permit (principal, action, resource);
"""
AGENT = "kind: Agent\nname: default\ntier: Classic\nprofiles: [naming, fetching]\n"


class Site(BaseHTTPRequestHandler):
    """A page, a robots.txt that allows it, and a page that leads to another name."""

    def do_GET(self) -> None:
        here = f":{self.server.server_port}"  # type: ignore[attr-defined]
        self.server.hosts.append(self.headers["Host"].removesuffix(here))  # type: ignore[attr-defined]
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", f"http://other.example.org{here}/page")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = b"User-agent: *\nAllow: /\n" if self.path == "/robots.txt" else b"what the page says"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[ThreadingHTTPServer]:
    """On 127.0.0.1."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.hosts = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def addresses() -> Iterator[Upstream]:
    with serving({"site.example.org": ["A 127.0.0.1"], "other.example.org": ["A 127.0.0.1"]}) as found:
        yield found


@pytest.fixture(scope="module")
def fetching(addresses: Upstream) -> Iterator[Instance]:
    """A person is asked for a second only: nobody is there."""
    gate = (Path(__file__).resolve().parents[2] / "policies" / "gate.yaml").read_text()
    policies = {
        "fetching.yaml": PROFILE,
        "naming.yaml": NAMING,
        "agent-default.yaml": AGENT,
        "gate.yaml": gate.replace("person_seconds: 600", "person_seconds: 1"),
    }
    with Instance(policies=policies, upstreams=addresses.configured) as instance:
        yield instance


def fetch(instance: Instance, url: str, profile: str) -> Any:
    async def call(client: ClientSession) -> Any:
        await client.list_tools()
        return await client.call_tool("fetch", {"url": url})

    work = instance.work / f"{profile}-{len(os.listdir(instance.work))}"
    work.mkdir()
    os.chown(work, USER, USER)
    options = ("--profile", profile, "--task", f"Read {url}")
    gateway = instance.command(
        "mcp", "--quiet", *options, "--server", SERVER, "--", PROGRAMS / SERVER, "--allow-private-ips"
    )
    return sdk.before(instance, gateway, work, call)


def effects(instance: Instance, text: str) -> list[dict[str, Any]]:
    return [r for r in instance.journal() if r["kind"] == "effect" and text in str(r["object"])]


def test_the_contract_covers_the_name_and_where_it_leads(fetching: Instance, site: ThreadingHTTPServer) -> None:
    done = fetch(fetching, f"http://site.example.org:{site.server_port}/page", "naming")
    assert not done.is_error, (done, fetching.journal()[-8:])
    assert "what the page says" in done.content[0].text
    call = next(r for r in fetching.journal() if r["kind"] == "call")
    for name in ("name:site.example.org", f"tcp:site.example.org:{site.server_port}"):
        found = effects(fetching, name)
        assert found, name
        assert {(r["decision"], r["layer"], r["call"]) for r in found} == {("allow", "contract", call["call"])}


def test_a_second_host_is_outside(fetching: Instance, site: ThreadingHTTPServer, addresses: Upstream) -> None:
    site.hosts.clear()  # type: ignore[attr-defined]
    done = fetch(fetching, f"http://site.example.org:{site.server_port}/away", "naming")
    assert done.is_error, done
    found = effects(fetching, "name:other.example.org")
    assert {(r["decision"], r["outside_contract"], r["layer"]) for r in found} == {("deny", True, "person")}
    assert "other.example.org" not in addresses.names()
    assert set(site.hosts) == {"site.example.org"}  # type: ignore[attr-defined]


def test_a_name_that_leads_to_this_machine_is_no_way_there(fetching: Instance, site: ThreadingHTTPServer) -> None:
    """The call entails the name; but whoever answers for it chooses the address."""
    done = fetch(fetching, f"http://site.example.org:{site.server_port}/rebound", "fetching")
    assert done.is_error, done
    sandbox = fetching.journal()[-1]["sandbox"]
    found = [r for r in effects(fetching, "tcp:site.example.org") if r["sandbox"] == sandbox]
    assert [(r["decision"], r["rule"], r["details"]["address"]) for r in found][:1] == [
        ("deny", "no-private-network", "127.0.0.1")
    ], found
    assert "call" in found[0]  # it is the call's all the same


def test_its_document_is_learned_from_where_its_urls_led(addresses: Upstream, site: ThreadingHTTPServer) -> None:
    """Without a document, in shadow mode; without a constitution, which has nobody sent to this machine itself."""
    gate = (SHIPPED_POLICIES / "gate.yaml").read_text().replace("mode: enforce", "mode: shadow")
    policies = {
        "fetching.yaml": PROFILE, "naming.yaml": NAMING, "agent-default.yaml": AGENT, "gate.yaml": gate,
        "tool-mcp-server-fetch.yaml": None, "constitution.yaml": PERMITS,
    }  # fmt: skip
    with Instance(policies=policies, upstreams=addresses.configured) as instance:
        for name in ("site", "other"):
            done = fetch(instance, f"http://{name}.example.org:{site.server_port}/page", "naming")
            assert "what the page says" in done.content[0].text, done
        learned = instance.ctl("tools", "learn", SERVER, user=USER)
        assert learned.returncode == 0, learned.stderr
        (found,) = read("learned.yaml", learned.stdout.encode())
        (shipped,) = read("shipped.yaml", (SHIPPED_POLICIES / "tool-mcp-server-fetch.yaml").read_bytes())
        assert "contract" in found.value["tools"]["fetch"], learned.stdout
        (entry,) = found.value["tools"]["fetch"]["contract"]
        (meant,) = shipped.value["tools"]["fetch"]["contract"]
        assert {**entry, "operations": set(entry["operations"])} == {**meant, "operations": set(meant["operations"])}
