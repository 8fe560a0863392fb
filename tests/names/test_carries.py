"""Layer 4 on names: what carries data out, and ordinary names beside it."""

import base64

import pytest

from governed_mcpd.gate.layers.prefilter import PrefilterLayer
from governed_mcpd.gate.reading import Reading
from governed_mcpd.gate.text import lookups
from governed_mcpd.gate.text.words import words
from governed_mcpd.nouns.action import Action, Context, SideEffect, Untrusted
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.subject import Subject, Tier

ORDINARY = words("""
api.github.com pypi.org files.pythonhosted.org registry.npmjs.org raw.githubusercontent.com
objects.githubusercontent.com s3.eu-central-1.amazonaws.com ec2-203-0-113-25.compute-1.amazonaws.com
d111111abcdef8.cloudfront.net deb.debian.org e1234.dscb.akamaiedge.net a1b2c3d4e5.execute-api.us-east-1.amazonaws.com
login.microsoftonline.com _sip._tcp.example.com www.bundesgesundheitsministerium.de myaccount.blob.core.windows.net
cdn-lfs-us-1.hf.co proxy.golang.org crates.io db01.eu.internal.example.com 1.2.0.192.in-addr.arpa xn--bcher-kva.example
localhost mirror.leaseweb.net ghcr.io
""")
SECRET = "correct horse battery staple"
HEX = "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3"


def check(name: str, read: str = "", task: str = "", **details: str) -> tuple[str, str]:
    untrusted = (Untrusted("files read_file", read),) if read else ()
    context = Context(task, ("/work",), "/home/ana", "/scratch", untrusted=untrusted)
    subject = Subject("default", Tier.CLASSIC, "s", 1000, "default")
    effect = SideEffect(Operation.NET_RESOLVE, f"name:{name}", details=details)
    found = PrefilterLayer().check(Reading(Action("1", subject, effect, context)))
    return found.result, found.rule


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_pass(name: str) -> None:
    assert check(name, beneath="3") == ("pass", "")


@pytest.mark.parametrize(
    ("name", "result", "rule"),
    [
        (f"{HEX}.evil.example", "deny", "name-carries-data"),
        (f"{HEX[:20]}.{HEX[20:]}.x.evil.example", "deny", "name-carries-data"),
        ("x7f3qk9z2m4c8v1bn5.evil.example", "ask", "name-unusual"),
        ("3b1f9d2ac04e7786.evil.example", "ask", "name-unusual"),
        ("thisisaverylongpassphrasethatleaks.evil.example", "ask", "name-unusual"),
        ("ghp_abcdefghijklmnopqrstuvwxyz.evil.example", "deny", "name-holds-secret"),
        ("akiaiosfodnn7example.evil.example", "deny", "name-holds-secret"),
        (b"password=hunter2".hex() + ".evil.example", "deny", "name-holds-secret"),
        (b"My diary".hex() + ".evil.example", "ask", "name-encodes-text"),
    ],
)
def test_what_carries_data(name: str, result: str, rule: str) -> None:
    assert check(name, beneath="1") == (result, rule)


@pytest.mark.parametrize("encode", [bytes.hex, lambda data: base64.b32encode(data).decode().lower().rstrip("=")])
def test_what_was_read_is_found_in_the_name(encode: object) -> None:
    """Over several labels, too; and a name that says something else is only asked about."""
    text = encode(SECRET.encode())  # type: ignore[operator]
    name = ".".join(text[at : at + 20] for at in range(0, len(text), 20)) + ".evil.example"
    assert check(name, read=f"notes: {SECRET} (of ana)") == ("deny", "name-carries-content")
    assert check(name, read="notes: nothing of it")[1] != "name-carries-content"


def test_a_name_from_what_was_read() -> None:
    """Layer 4 knows where values come from: here as for any other destination."""
    read = "Results are at collector.example.net today."
    assert check("collector.example.net", read=read, task="Sum up the page")[0] == "ask"
    assert check("collector.example.net", read=read, task="Fetch collector.example.net") == ("pass", "")


@pytest.mark.parametrize(
    ("count", "expected"), [("23", ("pass", "")), ("24", ("ask", "many-names")), ("240", ("deny", "names-without-end"))]
)
def test_many_names_of_one_domain(count: str, expected: tuple[str, str]) -> None:
    """Each of them carries little; together they are a file."""
    assert check("ab12.evil.example", beneath=count) == expected


def test_what_the_task_speaks_of() -> None:
    assert lookups.spoken_of("docs.python.org", "Read https://docs.python.org/3/ and sum it up")
    assert lookups.spoken_of("www.python.org", "Read python.org")
    assert not lookups.spoken_of("python.org.evil.example", "Read python.org")
    assert not lookups.spoken_of("evil.org", "Read python.org")
    assert not lookups.spoken_of("python.org", "")
