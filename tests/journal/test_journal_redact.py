"""What looks like a credential does not reach the journal; what does not is left readable."""

import os
import time

import orjson
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.journal.redact import MASK, MAX_WORDS, redact, render_arguments, render_argv

RANDOM = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY"
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c"
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\nAAAAsecretAAAA\n-----END OPENSSH PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret", "kept"),
    [
        ("Authorization: Bearer abc.def-123", "abc.def-123", "Authorization:"),
        ('{"authorization":"Basic dXNlcjpwYXNz"}', "dXNlcjpwYXNz", "authorization"),
        ("Cookie: sid=1234; theme=dark", "1234", "Cookie:"),
        ("X-Api-Key: k-77", "k-77", "X-Api-Key:"),
        ("bearer tok12345 ", "tok12345", "bearer"),
        ("--password=hunter2 --verbose", "hunter2", "--verbose"),
        ("--password hunter2 --verbose", "hunter2", "--verbose"),
        ("mytool --db-passwd 'two words' now", "two words", "now"),
        ("DB_PASSWORD=hunter2 make", "hunter2", "make"),
        ("GITHUB_TOKEN=x1 PATH=/usr/bin", "x1", "PATH=/usr/bin"),
        ("GH_PAT=x1z", "x1z", "GH_PAT="),
        ("MYSQL_PWD=x1z", "x1z", "MYSQL_PWD="),
        ('{"client_secret": "s3\\"x9z", "id": 5}', "x9z", '"id": 5'),
        ('{"password":"unfinished and', "unfinished", "password"),
        ("secret: 'a b c'", "a b c", "secret"),
        ("https://x.org/a?token=abc&page=2", "abc", "page=2"),
        ("https://x.org/a?sig=abc&page=2", "abc", "page=2"),
        ("https://user:pa@ss@host.org/path", "pa@ss", "@host.org/path"),
        ("https://ghtoken@host.org/", "ghtoken", "host.org"),
        ("postgres://me:hunter2@db/x", "hunter2", "db/x"),
        ("key sk-abcd1234efgh", "sk-abcd1234efgh", "key"),
        ("AKIAIOSFODNN7EXAMPLE here", "AKIAIOSFODNN7EXAMPLE", "here"),
        ("ghp_abcdefghijklmnop1234 x", "ghp_", "x"),
        ("github_pat_11ABCDEFG0abcdefghijk", "11ABCDEFG0", ""),
        ("glpat-abcdefghij0123456789", "abcdefghij", ""),
        ("xoxb-1234-abcd", "1234-abcd", ""),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSM", "eyJzdWIiOiIx", ""),
        ("sk_live_abcdefgh", "sk_live_abcdefgh", ""),
        (f"run {RANDOM} now", "K7MDENG/bPxRfiCYzEXAMPLEKEY"[:7], "run"),
        (f"x {HEX} y", HEX[:12], "y"),
        ("id 0b7c2f6e-51b4-4b7e-9d43-7d0a6c1e22fa", "51b4", "id"),
        ("x k3j9x0q2m5z8w1v4t7r6y0pa y", "k3j9", "y"),
        (f"before {PEM} after", "AAAAsecretAAAA", "before"),
        (f"before {PEM[:60]}", "b3BlbnNzaC1rZXk", "before"),
        ("my password is hunter2 okay", "hunter2", "okay"),
        ("openssl enc -passin pass:hunter2", "hunter2", "openssl"),
        ("PASSWORD=HUNTER2", "HUNTER2", "PASSWORD"),
    ],
)
def test_secrets_are_masked(text: str, secret: str, kept: str) -> None:
    found = redact(text)
    assert secret not in found
    assert MASK in found
    assert kept in found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "git commit -m 'fix the notes'",
        "a lease of git_commit covers it",
        "/usr/lib/python3.11/site-packages/governed_mcpd/journal/canonical.py",
        "/home/user/projects/some-very-long-directory-name/and_another_very_long_name/file.txt",
        "the rate limit of 10 calls per second is used up: the bucket refills in 100 ms",
        "CamelCaseClassNamesAreNotSecretsEvenIfLong",
        "some_very_long_function_name_with_underscores_2",
        "-Wl,--as-needed -O2 -DNDEBUG -Iinclude",
        "author=Jane tokenizer=bpe keyboard=us",
        "https://example.org/path?page=2&sort=up",
        "tcp:192.168.0.1:8080",
        "=" * 60,
        "0123456789",
        "/srv/a/b/c/d/e/f/g/h/i/j/k",
        "report-2024-11-21T01-45-12.txt",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_length_is_bounded() -> None:
    assert redact("word " * 100, 50) == ("word " * 10) + "…(+450)"
    assert len(redact("word " * 100_000)) < 300
    assert redact("x" * 256) == "x" * 256


@settings(max_examples=100)
@given(st.integers(7000, 8400), st.sampled_from(["https://user:HUNTER2@h/", "--password=HUNTER2", "sk-HUNTER2HUNTER2"]))
def test_a_cut_reveals_nothing(length: int, secret: str) -> None:
    """Secrets that lie where the text is cut, after others whose masks brought them near the beginning."""
    filler = "token=" + "y" * (length - 7) + " "
    assert "HUNTER" not in redact(filler + secret + " " + "z" * 5000, 100_000)


WORST = [
    "a" * 100_000,
    "token" * 20_000,
    "eyJ" * 30_000,
    "-" * 100_000,
    "://" * 30_000,
    "--token" + " " * 90_000,
    "-----BEGIN A-----" * 5000,
    'password="' * 10_000,
    'password="' + "\\" * 90_000,
    "authorization:" * 7000,
    " -token" * 10_000,
    "aB3" * 30_000,
    "x@" * 40_000,
    "password is " * 8000,
]


def test_time_is_linear_and_bounded() -> None:
    for text in WORST:
        start = time.perf_counter()
        redact(text)
        render_argv((text, text))
        assert time.perf_counter() - start < 0.5, text[:20]


@given(st.text(st.characters(), max_size=60) | st.binary(max_size=60).map(os.fsdecode))
def test_any_text_is_taken(text: str) -> None:
    assert isinstance(redact(text), str)


@given(st.lists(st.binary(max_size=20).filter(lambda word: b"\0" not in word).map(os.fsdecode), max_size=8))
def test_the_digest_is_of_all_words(argv: list[str]) -> None:
    digest, words = render_argv(argv)
    assert digest == blake3(b"".join(os.fsencode(word) + b"\0" for word in argv)).hexdigest()
    assert len(words) == len(argv)


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["git", "commit", "-m", "fix notes"], ["git", "commit", "-m", "fix notes"]),
        (["tool", "--password", "hunter2", "file"], ["tool", "--password", MASK, "file"]),
        (["tool", "--token=a&b c", "file"], ["tool", f"--token={MASK}", "file"]),
        (["env", "API_KEY=x y", "run"], ["env", f"API_KEY={MASK}", "run"]),
        (["/usr/bin/curl", "-u", "me:pw", "https://x.org"], ["/usr/bin/curl", "-u", MASK, "https://x.org"]),
        (["curl", "-ume:pw", "https://x.org"], ["curl", f"-u{MASK}", "https://x.org"]),
        (["sshpass", "-p", "pw", "ssh", "h"], ["sshpass", "-p", MASK, "ssh", "h"]),
        (["mysql", "-ppw", "db"], ["mysql", f"-p{MASK}", "db"]),
        (["docker", "login", "-p", "pw"], ["docker", "login", "-p", MASK]),
        (["timeout", "5", "redis-cli", "-a", "pw", "ping"], ["timeout", "5", "redis-cli", "-a", MASK, "ping"]),
        (["sh", "-c", "curl -u me:pw https://x.org"], ["sh", "-c", f"curl -u {MASK} https://x.org"]),
        (["mkdir", "-p", "a/b"], ["mkdir", "-p", "a/b"]),
        (["docker", "run", "-p", "80:80", "nginx"], ["docker", "run", "-p", "80:80", "nginx"]),
        ([], []),
    ],
)
def test_argv(argv: list[str], shown: list[str]) -> None:
    assert render_argv(argv)[1] == shown


def test_a_long_argv_is_cut_and_its_digest_is_not() -> None:
    argv = [f"word{number}" for number in range(5000)]
    digest, words = render_argv(argv)
    assert len(words) == MAX_WORDS + 1
    assert words[-1] == f"…(+{5000 - MAX_WORDS} words)"
    assert digest != render_argv([*argv[:-1], "other"])[0]
    assert len(render_argv(["x " * 100_000])[1][0]) < 300


def test_arguments_of_a_tool_call() -> None:
    arguments = orjson.dumps({"path": "/a", "password": {"deep": "hunter2"}, "list": ["sk-abcd1234efgh", 5, None]})
    digest, shown = render_arguments(arguments)
    assert digest == blake3(arguments).hexdigest()
    assert orjson.loads(shown) == {"path": "/a", "password": MASK, "list": [MASK, 5, None]}
    assert "hunter2" not in render_arguments(b'{"password": "hunter2"')[1], "what is not JSON is text"
    assert len(render_arguments(b'"' + b"x " * 100_000 + b'"')[1]) < 2200
    assert render_arguments(b"[" * 200 + b"]" * 200)[1].count("[") == 34
