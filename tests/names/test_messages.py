"""What a name server's answer becomes: the chain from the name to its records, and nothing else."""

import dns.flags
import dns.message
import dns.rcode
import pytest

from governed_mcpd.resolver import messages
from governed_mcpd.resolver.messages import Question

HEAD = "id 1\nopcode QUERY\nrcode NOERROR\nflags QR RD RA\n;QUESTION\n"


def found(question: str, answer: str, more: str = "", rcode: str = "NOERROR") -> messages.Found:
    parts = [HEAD.replace("NOERROR", rcode).rstrip(), question, ";ANSWER", answer, more]
    text = "\n".join(filter(None, parts)) + "\n"
    return messages.found(dns.message.from_text(text))


def test_a_chain_of_names() -> None:
    answer = "a.example. 60 IN CNAME B.example.\nb.example. 30 IN CNAME c.example.\nc.example. 90 IN A 192.0.2.7"
    result = found("a.example. IN A", answer)
    assert (result.addresses, result.aliases, result.seconds) == (("192.0.2.7",), ("b.example", "c.example"), 30)
    assert len(result.answer) == 3


def test_records_of_other_names_do_not_come_back() -> None:
    """They would be addresses that nobody asked for, and that the daemon does not know."""
    answer = "a.example. 60 IN A 192.0.2.7\nbank.example. 60 IN A 192.0.2.66"
    result = found("a.example. IN A", answer, ";ADDITIONAL\nother.example. 60 IN A 192.0.2.67")
    assert result.addresses == ("192.0.2.7",)
    query = dns.message.make_query("a.example", "A")
    reply = dns.message.from_wire(messages.reply(query, result, stream=False))
    assert "192.0.2.6" not in reply.to_text()
    assert reply.id == query.id


def test_hints_are_addresses_as_well() -> None:
    answer = "a.example. 60 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.7,192.0.2.8 ipv6hint=2001:db8::7"
    assert found("a.example. IN HTTPS", answer).addresses == ("192.0.2.7", "192.0.2.8", "2001:db8::7")


def test_what_makes_no_sense_is_a_failure() -> None:
    loop = "a.example. 60 IN CNAME b.example.\nb.example. 60 IN CNAME a.example."
    assert found("a.example. IN A", loop).addresses == ()
    many = "\n".join(f"a.example. 60 IN A 192.0.{number // 250}.{number % 250}" for number in range(100))
    assert found("a.example. IN A", many) == messages.FAILED
    long = "\n".join(f"n{number}.example. 60 IN CNAME n{number + 1}.example." for number in range(30))
    assert found("n0.example. IN A", long) == messages.FAILED
    assert found("a.example. IN A", "", rcode="SERVFAIL").code == dns.rcode.SERVFAIL


def test_a_name_that_does_not_exist() -> None:
    soa = ";AUTHORITY\nexample. 300 IN SOA ns.example. who.example. 1 2 3 4 5\nexample. 300 IN NS ns.evil.example."
    result = found("a.example. IN A", "", soa, rcode="NXDOMAIN")
    assert (result.code, len(result.answer), len(result.authority)) == (dns.rcode.NXDOMAIN, 0, 1)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"opcode": 4}, dns.rcode.NOTIMP),
        ({"type": 255}, dns.rcode.REFUSED),
        ({"type": 65280}, dns.rcode.REFUSED),
        ({"class": 3}, dns.rcode.REFUSED),
        ({"questions": 0}, dns.rcode.FORMERR),
        ({"answer": True}, None),
    ],
)
def test_questions_that_are_none(change: dict[str, int], code: dns.rcode.Rcode | None) -> None:
    flags = 0x0100 | change.get("opcode", 0) << 11 | (0x8000 if "answer" in change else 0)
    count = change.get("questions", 1)
    question = b"\1a\7example\0" + change.get("type", 1).to_bytes(2, "big") + change.get("class", 1).to_bytes(2, "big")
    wire = b"\x12\x34" + flags.to_bytes(2, "big") + bytes([0, count]) + bytes(6) + question * count
    _, answer = messages.read(wire)
    if code is None:
        assert answer is None
        return
    assert isinstance(answer, bytes)
    assert answer[:2] == b"\x12\x34"
    assert answer[3] & 15 == code
    _, plain = messages.read(b"\x12\x34\1\0\0\1" + bytes(6) + b"\1A\7exAMple\0\0\1\0\1")
    assert plain == Question("a.example", "A")


@pytest.mark.parametrize("wire", [b"", b"\0" * 11, b"\xff" * 40, b"\x12\x34\x80\0" + bytes(20)])
def test_noise_is_answered_briefly_or_not_at_all(wire: bytes) -> None:
    _, answer = messages.read(wire)
    assert answer is None or (isinstance(answer, bytes) and len(answer) == 12)
