"""One instance with a resolver, whose upstream is the tests' own."""

from collections.abc import Iterator

import pytest

from tests.names.upstream import Upstream, serving
from tests.programs.profiles import ROOMY
from tests.support.instance import Instance

TABLE = {
    "page.test": ["A 127.0.0.1", "AAAA ::1"],
    "www.alias.test": ["CNAME cdn.alias.test."],
    "cdn.alias.test": ["A 127.0.0.1"],
    "many.test": [f"TXT {'x' * 200}{number:03}" for number in range(20)],
    "public.test": ["A 192.88.0.1"],
    "shared.test": ["A 192.88.0.1"],
    "denied.test": ["A 127.0.0.1"],
    "asked.test": ["A 127.0.0.1"],
    "later.test": ["A 127.0.0.1"],
}

FREE = "free:\n"
NAMES = (
    ROOMY.replace("name: roomy", "name: names")
    .replace("nothing on the network", "some names")
    .replace(
        FREE,
        FREE
        + "  - {operations: [net.resolve], on: 'name:page.test'}\n"
        + "  - {operations: [net.resolve], on: 'name:*.alias.test'}\n"
        + "  - {operations: [net.resolve], on: 'name:many.test'}\n"
        + "  - {operations: [net.resolve], on: 'name:missing.test'}\n"
        + "  - {operations: [net.resolve], on: 'name:public.test'}\n"
        + "  - {operations: [net.resolve], on: 'name:shared.test'}\n"
        + "  - {operations: [net.bind], on: 'udp:0.0.0.0:0'}\n"
        + "  - {operations: [net.connect, net.send], on: 'udp:0.0.0.0:*'}\n"
        + "  - {operations: [net.connect], on: 'tcp:127.0.0.1:*'}\n",
    )
    + "ceiling:\n  - {operations: [net.resolve], on: 'name:*', uses: 10, seconds: 60}\n"
)
SENDING = NAMES.replace("name: names", "name: sending").replace("udp:0.0.0.0:*", "udp:127.0.0.1:*")
AGENT = """kind: Agent
name: default
tier: Classic
profiles: [names, roomy, sending]
"""
POLICIES = {"agent-default.yaml": AGENT, "names.yaml": NAMES, "roomy.yaml": ROOMY, "sending.yaml": SENDING}


@pytest.fixture(scope="package")
def upstream() -> Iterator[Upstream]:
    """The name server that the resolver asks."""
    with serving(TABLE) as found:
        yield found


@pytest.fixture(scope="package")
def named(upstream: Upstream) -> Iterator[Instance]:
    """Gate, daemon and resolver."""
    with Instance(policies=POLICIES, upstreams=upstream.configured) as instance:
        yield instance
