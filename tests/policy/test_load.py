"""Policy documents: what is read, and how what is wrong is told."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from governed_mcpd.policy.documents import Constitution
from governed_mcpd.policy.load import PolicyError, PolicySet, load_directory, parse, read_files, version_of

SHIPPED = Path(__file__).parents[2] / "policies"
BASE = b"""\
kind: Profile
name: default
envelope:
  read: [/usr, "${cwd}"]
  write:
    - ${cwd}
free:
  - operations: [file.write]
    on: ${scratch}/**
---
kind: Agent
name: default
tier: Classic
profiles: [default]
"""


def with_more(more: str) -> dict[str, bytes]:
    return {"base.yaml": BASE, "more.yaml": more.encode()}


def problems(files: Mapping[str, bytes]) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse(files)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(caught.value.problems)
    assert all(line.isprintable() for line in lines)
    return lines


def test_reads_a_set() -> None:
    found = parse({"base.yaml": BASE})
    assert found.profiles["default"].free[0].on == "${scratch}/**"
    assert found.agents["default"].profiles == ["default"]
    assert found.gate.mode == "enforce"
    assert found.version == version_of({"base.yaml": BASE})


def test_the_version_is_of_names_and_contents() -> None:
    versions = {
        version_of(files)
        for files in ({"a.yaml": b"xy"}, {"a.yaml": b"x", "y.yaml": b""}, {"ax.yaml": b"y"}, {"a.yaml": b"xz"}, {})
    }
    assert len(versions) == 5
    assert version_of({"a.yaml": b"1", "b.yaml": b"2"}) == version_of({"b.yaml": b"2", "a.yaml": b"1"})


def test_what_ships_is_right() -> None:
    found = load_directory(SHIPPED)
    assert set(found.profiles) == {"default", "strict", "demo"}
    python = {"mcp-server-git", "mcp-server-fetch", "mcp-server-sqlite", "mcp-server-time"}
    node = {"server-filesystem", "server-everything", "server-memory", "dbhub", "playwright"}
    assert set(found.tools) == python | node | {"shell"}
    assert found.profiles["demo"].reads == "pause"


def gate_with(server: str, backend: str = "backend: vllm\n") -> str:
    """A Gate document with a model server."""
    return f"kind: Gate\nname: g\n{backend}vllm: {{{server}}}\n"


@pytest.mark.parametrize(
    "url",
    ["unix:/run/governed-vllm/vllm.sock", "http://127.0.0.1:8000", "http://[::1]:8000/", "http://localhost",
     "https://gpu.example:8443", "https://10.0.0.5"],
)  # fmt: skip
def test_a_model_server_may_be_named_so(url: str) -> None:
    found = parse(with_more(gate_with(f"url: '{url}', model: org/model-7b"))).gate.vllm
    assert found is not None
    assert (found.url, found.model, found.method) == (url, "org/model-7b", "auto")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("kind: Gate\nname: g\nname: h\n", "more.yaml:3:1: found the key 'name' again, expected it once (line 2)"),
        ("kind: Gate\nname: &a g\n", "more.yaml:2:7: found the anchor or alias 'a', expected no anchors and aliases"),
        ("kind: *a\n", "more.yaml:1:7: found the anchor or alias 'a'"),
        (
            "kind: !!python/object:os.system x\n",
            "more.yaml:1:7: found the tag 'tag:yaml.org,2002:python/object:os.system'",
        ),
        ("kind: !x Gate\n", "more.yaml:1:7: found the tag '!x', expected no tags"),
        ("- kind: Gate\n", "more.yaml:1:1: found a list of 1, expected a document: a mapping with kind and name"),
        ("just text\n", "more.yaml:1:1: found 'just text', expected a document"),
        ("kind: Gaet\nname: g\n", "more.yaml:1:7: kind: found 'Gaet', expected one of Profile, Tool, Agent"),
        ("name: g\n", "more.yaml:1:1: kind: found nothing, expected one of Profile"),
        ("kind: [Gate]\nname: g\n", "more.yaml:1:7: kind: found a list of 1"),
        ("kind: Gate\n", "more.yaml:1:1: name: found nothing, expected this field; add name: …"),
        (
            "kind: Gate\nname: g\nmdoe: shadow\n",
            "more.yaml:3:1: mdoe: found the unknown field 'mdoe', expected one of name",
        ),
        ("kind: Gate\nname: g\nmdoe: shadow\n", "did you mean mode?"),
        ("kind: Gate\nname: g\nmode: off\n", "more.yaml:3:7: mode: found 'off', expected 'enforce' or 'shadow'"),
        (
            "kind: Gate\nname: g\nthresholds: {ask: 950, deny: 900}\n",
            "more.yaml:3:19: thresholds.ask: found 950, expected at most",
        ),
        (
            "kind: Gate\nname: g\nthresholds: {ask: 1.5, deny: 900}\n",
            "thresholds.ask: found 1.5, expected a whole number",
        ),
        (
            "kind: Gate\nname: g\nthresholds: {ask: true, deny: 900}\n",
            "thresholds.ask: found true, expected a whole number",
        ),
        (
            "kind: Gate\nname: g\ngate_seconds: 0\n",
            "more.yaml:3:15: gate_seconds: found 0, expected greater than or equal to 1",
        ),
        (
            "kind: Gate\nname: g\noperations: {file.wirte: {}}\n",
            "more.yaml:3:14: operations.file.wirte: found 'file.wirte'",
        ),
        ("kind: Gate\nname: G!\n", "more.yaml:2:7: name: found 'G!', expected"),
        (
            "kind: Gate\nname: a\n---\nkind: Gate\nname: b\n",
            "more.yaml:5:7: name: found a second Gate, expected at most one",
        ),
        (
            "kind: Agent\nname: a\ntier: Classic\nprofiles: [default, nope]\n",
            "more.yaml:4:21: profiles.1: found 'nope', expected the name of a Profile (default)",
        ),
        (
            "kind: Agent\nname: default\ntier: Classic\nprofiles: [default]\n",
            "more.yaml:2:7: name: found 'default', expected one Agent of that name (base.yaml:11 has it)",
        ),
        (
            "kind: Profile\nname: p\nenvelope:\n  read:\n    - /usr\n    - usr\n",
            "more.yaml:6:7: envelope.read.1: found 'usr', expected an absolute path",
        ),
        ("kind: Profile\nname: p\nenvelope: {read: [/a/../b]}\n", "has to be canonical"),
        ("kind: Profile\nname: p\nenvelope: {read: [/a/]}\n", "expected no / at the end"),
        ("kind: Profile\nname: p\nenvelope: {read: [/a/**]}\n", "expected a path without /**"),
        ("kind: Profile\nname: p\nenvelope: {read: ['/a/*/b']}\n", "a wildcard stands only at the end"),
        (
            "kind: Profile\nname: p\nenvelope: {read: ['${HOME}/a']}\n",
            "more.yaml:3:19: envelope.read.0: found '${HOME}/a', expected no variables but ${cwd}",
        ),
        ("kind: Profile\nname: p\nenvelope: {read: ['${cwd}${home}']}\n", "only at the beginning"),
        (
            "kind: Gate\nname: g\nclass_thresholds: {net: {ask: 950, deny: 900}}\n",
            "more.yaml:3:31: class_thresholds.net.ask: found 950, expected at most class_thresholds.net.deny (900)",
        ),
        ("kind: Gate\nname: g\nclass_thresholds: {nett: {ask: 1, deny: 2}}\n", "class_thresholds.nett"),
        ("kind: Gate\nname: g\nbackend: vllm\n", "more.yaml:3:10: backend: found vllm without a server, expected the"),
        (gate_with("url: 'unix:/run/s', model: m", ""), "vllm: found a server, with backend embedded"),
        (gate_with("model: m"), "vllm.url: found nothing, expected this field"),
        (gate_with("url: 'unix:/run/s'"), "vllm.model: found nothing"),
        (gate_with("url: 'unix:run/s', model: m"), "vllm.url: found 'unix:run/s', expected unix:/PATH"),
        (gate_with(f"url: 'unix:/{'x' * 107}', model: m"), "at most 107 bytes of path"),
        (gate_with("url: 'http://10.0.0.5:8000', model: m"), "expected https for another machine"),
        (gate_with("url: 'http://127.0.0.1.evil.example', model: m"), "expected https for another machine"),
        (gate_with("url: 'http://127.0.0.1@evil.example', model: m"), "expected unix:/PATH, http://127.0.0.1:PORT"),
        (gate_with("url: 'http://127.0.0.1:8000/v1', model: m"), "expected unix:/PATH, http://127.0.0.1:PORT"),
        (gate_with("url: 'http://127.0.0.1:99999', model: m"), "expected a port from 1 to 65535"),
        (gate_with("url: 'https://a..example', model: m"), "labels have 1 to 63 characters"),
        (gate_with("url: 'https://[1:2:3]', model: m"), "1:2:3"),
        (gate_with("url: 'ftp://127.0.0.1', model: m"), "expected unix:/PATH, http://127.0.0.1:PORT"),
        (
            gate_with("url: 'https://a.example', model: m, deadline_seconds: 30"),
            "found 30, expected less than gate_seco",
        ),
        (gate_with("url: 'https://a.example', model: m, verbalizers: {safe: 'a b', dangerous: c}"), "verbalizers.safe"),
        (gate_with("url: 'https://a.example', model: m, fingerprint: [1, 2]"), "vllm.fingerprint: found a list of 2"),
        ("kind: Profile\nname: p\nenvelope: {read: ['${cwd}x']}\n", "expected an absolute path"),
        ("kind: Profile\nname: p\nenvelope: {read: ['']}\n", "expected an absolute path"),
        (
            "kind: Profile\nname: p\nenvelope: {read: []}\nfree: [{operations: [file.read], on: '${cwd}x'}]\n",
            "expected a / after",
        ),
        (
            "kind: Profile\nname: p\nenvelope: {read: []}\nfree: [{operations: [], on: /x}]\n",
            "free.0.operations: found a list of 0",
        ),
        (
            "kind: Profile\nname: p\nenvelope: {read: []}\n"
            "ceiling: [{operations: [net.connect], on: 'tcp:x', uses: 1, seconds: 1}]\n",
            "ceiling.0.on: found 'tcp:x', expected 'tcp:x': expected tcp:HOST:PORT",
        ),
        ("kind: Tool\nname: t\ntools: {}\n", "more.yaml:3:8: tools: found a mapping, expected"),
        (
            "kind: Tool\nname: t\ntools: {x: {rate: {per_second: 0, burst: 1}}}\n",
            "tools.x.rate.per_second: found 0, expected greater than 0",
        ),
        (
            "kind: Tool\nname: t\ntools: {x: {rate: {per_second: '5', burst: 1}}}\n",
            "tools.x.rate.per_second: found '5', expected a number",
        ),
        ("kind: Tool\nname: t\ntools: {x: {pin: abc}}\n", "tools.x.pin: found 'abc'"),
        ("kind: Constitution\nname: c\ncedar: ''\n", "more.yaml:3:8: cedar: found ''"),
        ("? [a]\n: b\n", "more.yaml:1:3: found a key that is not text"),
        ("a: [1,\nb: }", "expected YAML"),
        ("a: 'x", "expected YAML"),
        ("\tkind: Gate", "expected YAML"),
        ("%YAML 9.9\n---\na", "expected YAML"),
        ("", "more.yaml: found an empty file, expected at least one document"),
        ("# nothing\n---\n", "found an empty file"),
        ("a: " + "[" * 40 + "]" * 40, "levels, expected at most 32"),
        ("[" * 100_000, "levels, expected at most 32"),
        ("--- {}\n" * 300, "expected at most 256 in a file"),
        ("a: \x00", "expected printable text"),
        ("a: \x1b[31m", "expected printable text"),
    ],
)
def test_wrong_documents(more: str, expected: str) -> None:
    lines = problems(with_more(more))
    assert any(expected in line for line in lines), lines


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe\x00k", "more.yaml:1:1: found byte 0xff, expected UTF-8 text"),
        (b"kind: Gate\nname: \xe9\n", "more.yaml:2:7: found byte 0xe9"),
        (b"\x7fELF\x02\x01\x01\x00", "expected"),
        (b"a: " + b"x" * (1 << 20), "found 1048579 bytes, expected at most 1048576"),
    ],
)
def test_binary_and_huge_files(content: bytes, expected: str) -> None:
    lines = problems({"base.yaml": BASE, "more.yaml": content})
    assert any(expected in line for line in lines), lines


def test_many_problems_are_all_told() -> None:
    lines = problems(with_more("kind: Gate\nname: g\nmode: x\nbackend: y\nzz: 1\n"))
    assert len(lines) == 3


def test_missing_defaults() -> None:
    lines = problems({"a.yaml": b"kind: Gate\nname: g\n"})
    assert len(lines) == 2
    assert all("named default" in line for line in lines)
    assert "default" in problems({})[0]


@pytest.mark.parametrize(
    "name", ["a.txt", "../a.yaml", "/etc/a.yaml", ".a.yaml", "a.yaml\n", "a b.yaml", "", "a" * 200 + ".yaml"]
)
def test_file_names_from_a_client(name: str) -> None:
    lines = problems({"base.yaml": BASE, name: b"kind: Gate\nname: g\n"})
    assert "this file name" in lines[0]


def test_plain_words_of_yaml_1_1_stay_text() -> None:
    found = parse(with_more("kind: Gate\nname: no\ndescription: 12:30\n"))
    assert (found.gate.name, found.gate.description) == ("no", "12:30")


def test_cedar_is_checked_by_whoever_can() -> None:
    more = "kind: Constitution\nname: c\ncedar: |\n  permit (principal, action, resource);\n  oops\n"

    def check(document: Constitution) -> list[str]:
        return [f"line 2: {document.cedar.splitlines()[1]} is no policy", "in all: wrong"]

    assert parse(with_more(more)).constitutions["c"].cedar.endswith("oops\n")
    with pytest.raises(PolicyError) as caught:
        parse(with_more(more), check)
    assert str(caught.value.problems[1]).startswith("more.yaml:5:8: cedar: found oops is no policy")
    assert str(caught.value.problems[0]).startswith("more.yaml:3:8: cedar: found in all: wrong")


def test_directories(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_bytes(BASE)
    (tmp_path / "README.md").write_text("not policy")
    (tmp_path / "gate.yml").write_text("kind: Gate\nname: g\n")
    assert set(load_directory(tmp_path).files) == {"base.yaml", "gate.yml"}
    assert load_directory(tmp_path / "base.yaml").version == parse({"base.yaml": BASE}).version


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_bytes(BASE)
    (tmp_path / "link.yaml").symlink_to(tmp_path / "base.yaml")
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "big.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(PolicyError) as caught:
        load_directory(tmp_path)
    assert {problem.file for problem in caught.value.problems} == {
        "link.yaml",
        "fifo.yaml",
        "directory.yaml",
        "big.yaml",
    }
    for name in ("link.yaml", "fifo.yaml", "big.yaml"):
        (tmp_path / name).unlink()
    (tmp_path / "directory.yaml").rmdir()
    assert load_directory(tmp_path).profiles


def test_directories_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="No such file"):
        load_directory(tmp_path / "none")
    with pytest.raises(PolicyError, match="no files"):
        load_directory(tmp_path)


def test_too_many_files(tmp_path: Path) -> None:
    for index in range(300):
        (tmp_path / f"{index}.yaml").write_text("x")
    with pytest.raises(PolicyError, match="found 300 files, expected at most 256"):
        read_files(tmp_path)


def outcome(files: Mapping[str, bytes]) -> PolicySet | None:
    try:
        return parse(files)
    except PolicyError as caught:
        error = caught
    assert error.problems
    assert all(line.isprintable() for line in str(error).split("\n"))
    return None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbfkind: Gate")
@example(b"a: \xed\xa0\x80")
@example(b"a: 99999999999999999999999999")
@example(b"a: 1e999")
@example(b"? ? ? a")
@example(b"\x85\xe2\x80\xa8: x")
def test_bytes_never_crash_it(content: bytes) -> None:
    assert outcome({"base.yaml": BASE, "more.yaml": content}) is None or not content.strip(b"\n #-.%")


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "name",
        "tier",
        "profiles",
        "envelope",
        "tools",
        "cedar",
        "thresholds",
        "operations",
        "limits",
        "free",
        "rate",
        "users",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["Profile", "Tool", "Agent", "Constitution", "Gate", "Other"]),
    st.dictionaries(FIELDS, TREES, max_size=6),
)
def test_trees_never_crash_it(kind: str, fields: dict[str, object]) -> None:
    import yaml

    content = yaml.safe_dump({"kind": kind, **fields}, allow_unicode=True).encode("utf-8", "replace")
    outcome({"base.yaml": BASE, "more.yaml": content})


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(BASE) - 1), st.binary(min_size=0, max_size=3))
def test_damaged_documents_never_crash_it(at: int, piece: bytes) -> None:
    outcome({"base.yaml": BASE[:at] + piece + BASE[at + 1 :]})
