"""Which names an address came from: bounded, for one Subject, and spoken of where it is known."""

import ipaddress

import pytest

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.subjects import names
from governed_mcpd.subjects.names import Names, by_address, domain

CONNECT, SEND, BIND = Operation.NET_CONNECT, Operation.NET_SEND, Operation.NET_BIND


def nothing(effect: SideEffect) -> bool:
    return False


def test_an_address_is_spoken_of_by_its_name() -> None:
    memory = Names()
    memory.learn("api.example.org", ["192.0.2.7", "2001:db8::7"], ("edge.example.net",), 60)
    found = memory.named(SideEffect(CONNECT, "tcp:192.0.2.7:443"), nothing)
    assert found.object == "tcp:api.example.org:443"
    assert found.details == {"address": "192.0.2.7", "names": "api.example.org edge.example.net"}
    assert by_address(found).object == "tcp:192.0.2.7:443"
    found = memory.named(SideEffect(SEND, "udp:[2001:db8::7]:443"), nothing)
    assert found.object == "udp:api.example.org:443"
    assert by_address(found).object == "udp:[2001:db8::7]:443"


def test_what_nobody_looked_up_says_so() -> None:
    memory = Names()
    assert memory.named(SideEffect(CONNECT, "tcp:192.0.2.8:443"), nothing).details == {"unresolved": "yes"}
    for other in (SideEffect(BIND, "tcp:192.0.2.8:443"), SideEffect(CONNECT, "unix:/run/x")):
        assert memory.named(other, nothing) is other


def test_of_several_names_the_last_or_the_one_that_is_preferred() -> None:
    memory = Names()
    for name in ("one.example", "two.example", "three.example"):
        memory.learn(name, ["192.0.2.7"], (), 60)
    effect = SideEffect(CONNECT, "tcp:192.0.2.7:443")
    assert memory.named(effect, nothing).object == "tcp:three.example:443"
    assert memory.named(effect, lambda spoken: "two" in spoken.object).object == "tcp:two.example:443"
    assert memory.named(effect, nothing).details["names"] == "three.example two.example one.example"
    memory.learn("one.example", ["192.0.2.7"], (), 60)
    assert memory.named(effect, nothing).object == "tcp:one.example:443"


def test_it_is_bounded() -> None:
    memory = Names()
    first = int(ipaddress.ip_address("10.0.0.0"))
    for number in range(names.MOST_ADDRESSES + 10):
        memory.learn("many.example", [str(ipaddress.ip_address(first + number))], (), 60)
    assert memory.of("10.0.0.0") == []
    assert memory.of(str(ipaddress.ip_address(first + names.MOST_ADDRESSES + 9))) != []
    for number in range(names.MOST_NAMES + 3):
        memory.learn(f"n{number}.example", ["192.0.2.7"], (), 60)
    assert len(memory.of("192.0.2.7")) == names.MOST_NAMES


@pytest.mark.parametrize(("seconds", "kept"), [(0, names.KEEP_SECONDS), (7200, 7200.0), (10**9, names.MOST_SECONDS)])
def test_a_name_lasts_longer_than_its_ttl_and_not_for_ever(
    seconds: int, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(names.time, "monotonic", lambda: now)
    memory = Names()
    memory.learn("a.example", ["192.0.2.7"], (), seconds)
    now = 1000.0 + kept - 1
    assert [name.text for name in memory.of("192.0.2.7")] == ["a.example"]
    now = 1000.0 + kept + 1
    assert memory.of("192.0.2.7") == []


def test_names_of_one_domain_are_counted_however_deep_they_lie() -> None:
    memory = Names()
    for number in range(30):
        count = memory.beneath(f"x{number}.y{number}.evil.example")
    assert count == 30
    assert memory.beneath("x1.y1.evil.example") == 30  # the same again
    assert memory.beneath("www.other.example") == 1
    assert domain("a.b.shop.co.uk") == "shop.co.uk"
    assert domain("example") == "example"
