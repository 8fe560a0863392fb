"""Object patterns: what they match, what they refuse, and that `within` never says yes wrongly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.nouns.pattern import Pattern, PatternError, PatternKind, split_endpoint

MATCHES = {
    "/a/file": (["/a/file"], ["/a/file/", "/a/file2", "/a", "/a/./file", "a/file"]),
    "/a/**": (["/a", "/a/b", "/a/b/c"], ["/ab", "/", "/A/b", "a/b"]),
    "/**": (["/", "/a", "/a/b"], ["", "a", "tcp:1.2.3.4:5"]),
    "tcp:10.0.0.1:80": (["tcp:10.0.0.1:80"], ["udp:10.0.0.1:80", "tcp:10.0.0.1:8", "tcp:10.0.0.1:*"]),
    "tcp:*:443": (["tcp:1.2.3.4:443", "tcp:[::1]:443", "tcp:host:443"], ["tcp:1.2.3.4:4430", "udp:1.2.3.4:443"]),
    "udp:10.0.0.0/8:*": (["udp:10.255.0.1:53"], ["udp:11.0.0.1:53", "udp:host:53", "udp:[::1]:53", "tcp:10.0.0.1:1"]),
    "tcp:[fe80::/10]:22": (["tcp:[fe80::1]:22"], ["tcp:[::1]:22", "tcp:10.0.0.1:22"]),
    "unix:/run/x.sock": (["unix:/run/x.sock"], ["/run/x.sock", "unix:/run/x.sock2", "unix:@/run/x.sock"]),
    "unix:@name": (["unix:@name"], ["unix:@name\0", "unix:/name"]),
}  # fmt: skip


@pytest.mark.parametrize("text", MATCHES)
def test_what_a_pattern_matches(text: str) -> None:
    pattern = Pattern.parse(text)
    yes, no = MATCHES[text]
    assert [name for name in yes if not pattern.matches(name)] == []
    assert [name for name in no if pattern.matches(name)] == []
    assert str(pattern) == text


WRONG = {
    "": "expected /an/absolute/path", "relative": "expected /an/absolute/path", "a/**": "absolute", "unix:": "expected",
    "/a/*/b": "wildcard", "/a*": "wildcard", "/a/?": "wildcard", "/*/**": "wildcard", "/a//b": "canonical",
    "/a/../b": "canonical", "/a/.": "canonical", "/a/..": "canonical", "tcp:host": "HOST:PORT", "tcp::80": "HOST:PORT",
    "tcp:host:": "HOST:PORT", "tcp:host:65536": "port", "tcp:host:x": "port", "tcp:host:²": "port",
    "tcp:10.0.0.0/33:1": "10.0.0.0/33", "tcp:10.0.0.1/8:1": "host bits", "tcp:a.*.example:80": "whole host",
    "name:*.*.example": "whole host", "name:": "whole host", "name:API.example": "lower case",
    "name:a.example.": "lower case",
    "tcp:API.example:80": "lower case",
    "unix:/run/*": "socket", "unix:/run/**": "absolute path",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_represented_is_refused(text: str) -> None:
    with pytest.raises(PatternError, match=WRONG[text]):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("kind", "text"), [(PatternKind.EXACT, ""), (PatternKind.UNDER, "relative"), (PatternKind.ENDPOINT, "tcp:x")]
)
def test_also_when_it_is_made_without_parsing(kind: PatternKind, text: str) -> None:
    with pytest.raises(PatternError):
        Pattern(kind, text)


def test_endpoints_are_taken_apart() -> None:
    assert split_endpoint("tcp:[::1]:80") == ("tcp", "::1", "80")
    assert split_endpoint("udp:host:*") == ("udp", "host", "*")
    for name in ("/a", "unix:/a", "tcp:80", "sctp:host:1", "", "tcp:", "process:5"):
        assert split_endpoint(name) is None


part = st.sampled_from(["a", "b", "ab", "a b", "\udcff", ".."])
paths = st.lists(part, max_size=4).map(lambda parts: "/" + "/".join(parts))
HOSTS = ("*", "a.example", "b.a.example", "*.example", "*.a.example", "*.b.a.example", "example", "b-a.example")
hosts = st.sampled_from(
    [*HOSTS, "10.0.0.1", "10.0.0.2", "11.0.0.1", "[::1]", "[fe80::1]", "host", "*", "10.0.0.0/8", "10.0.0.0/31", "::/0"]
)
ports = st.sampled_from(["1", "01", "443", "*"])
endpoints = st.builds("{}:{}:{}".format, st.sampled_from(["tcp", "udp"]), hosts, ports)
patterns = st.one_of(
    st.builds(Pattern, st.just(PatternKind.EXACT), st.one_of(paths, endpoints, st.just("unix:/a"))),
    st.builds(Pattern, st.just(PatternKind.UNDER), st.one_of(paths, paths.map("{}/".format))),
    st.builds(Pattern, st.just(PatternKind.ENDPOINT), endpoints),
    st.builds(Pattern, st.just(PatternKind.NAME), st.sampled_from(HOSTS).map("name:{}".format)),
)
NAMES = [
    *("/", "/a", "/a/", "/a/b", "/a/ab", "/ab", "/b/a", "/a b", "/a/\udcff/b", "/a/../b", "", "a", "unix:/a"),
    *(f"{form.format(host)}" for form in ("name:{}", "tcp:{}:443") for host in (*HOSTS, "c.b.a.example", "x.example")),
    *(f"{protocol}:{host}:{port}" for protocol in ("tcp", "udp") for port in ("1", "01", "443", "*")
      for host in ("10.0.0.1", "10.0.0.2", "11.0.0.1", "[::1]", "::1", "[fe80::1]", "host", "*", "10.0.0.0/8")),
]  # fmt: skip


@given(patterns, patterns)
@settings(max_examples=3000, deadline=None)
def test_what_is_within_matches_nothing_else(inner: Pattern, outer: Pattern) -> None:
    if inner.within(outer):
        assert [name for name in NAMES if inner.matches(name) and not outer.matches(name)] == []


@given(patterns, paths, part)
@settings(deadline=None)
def test_within_says_yes_where_it_has_to(pattern: Pattern, path: str, name: str) -> None:
    assert pattern.within(pattern)
    beneath = f"{path.rstrip('/')}/{name}"
    whole, inner = Pattern(PatternKind.UNDER, path), Pattern(PatternKind.UNDER, beneath)
    assert inner.within(whole)
    assert Pattern(PatternKind.EXACT, beneath).within(whole)
    assert not whole.within(Pattern(PatternKind.EXACT, path))
    assert whole.within(Pattern.parse("/**"))


@given(st.text(max_size=40))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        pattern = Pattern.parse(text)
    except PatternError:
        return
    assert Pattern.parse(str(pattern)) == pattern
