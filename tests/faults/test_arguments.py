"""Arguments at and past every limit: the errno that the kernel would give, or a refusal with a reason; a whole journal;
and nothing raw on the terminal."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.common import Record, effects, gate, inside, policies, profile, settles, verified
from tests.support.instance import Instance

# Runs the attempts of argv[1] (Python source of a list of (name, function of libc, arguments)) and prints each outcome.
ATTEMPTS = r"""
import ctypes, errno, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
O_NEW = os.O_WRONLY | os.O_CREAT
AT_FDCWD = -100
long = lambda size, component=200: (b"a" * component + b"/") * 40

def call(name, *arguments):
    ctypes.set_errno(0)
    words = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_void_p(a) if a is None or a > 2**31 else a
             for a in arguments]
    number = getattr(libc, name)(*words)
    return "OK" if number >= 0 else errno.errorcode[ctypes.get_errno()]

def unmapped():
    # The last bytes of a page after which nothing is mapped.
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    base = libc.mmap(None, 8192, 3, 0x22, -1, 0)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.munmap(base + 4096, 4096)
    return base

def at_the_edge(text):
    base = unmapped()
    ctypes.memmove(base + 4096 - len(text), text, len(text))
    return base + 4096 - len(text)

def in_child(function):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.dup2(os.open("/dev/null", os.O_RDWR), 1)
        result = function()
        os.write(writer, result.encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    return os.read(reader, 64).decode() or "RAN"

def execve(path, argv, envp):
    array = lambda words: None if words is None else (ctypes.c_char_p * (len(words) + 1))(*words, None)
    def run():
        ctypes.set_errno(0)
        libc.execve(path, array(argv), array(envp))
        return errno.errorcode[ctypes.get_errno()]
    return in_child(run)

outcomes = {name: attempt() for name, attempt in eval(sys.argv[1]).items()}
print(json.dumps(outcomes))
"""

EXEC_BY_GATE = profile("execs").replace("  - {operations: [process.exec], on: /**}\n", "")


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance(policies=policies(execs=EXEC_BY_GATE)) as it:
        yield it


def outcomes(instance: Instance, attempts: str, **options: Any) -> tuple[dict[str, str], str, list[Record]]:
    """What each attempt came to, stderr, and the records of that sandbox."""
    done = instance.run(*inside(ATTEMPTS, attempts), **{"profile": "loose", "timeout": 90, **options})
    assert done.returncode == 0, done
    settles(instance)
    records = instance.journal()
    name = [record["sandbox"] for record in records if record["kind"] == "sandbox.start"][-1]
    ours = "".join(line for line in done.stderr.splitlines(keepends=True) if line.startswith("governed"))
    clean(ours)
    verified(instance)
    return json.loads(done.stdout), ours, [record for record in records if record.get("sandbox") == name]


def clean(text: str) -> None:
    """No control characters but newlines, nothing that is not text."""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text), text[:500]


def test_lengths_and_pointers(instance: Instance) -> None:
    found, _, _ = outcomes(
        instance,
        """{
        "name-255": lambda: call("open", b"n" * 255, O_NEW, 0o600),
        "name-256": lambda: call("open", b"n" * 256, O_NEW, 0o600),
        "path-4095": lambda: call("open", (b"./" * 2048)[:4091] + b"/p95", O_NEW, 0o600),
        "path-4096": lambda: call("open", (b"./" * 2048)[:4092] + b"/p96", O_NEW, 0o600),
        "path-100000": lambda: call("open", b"/" + b"x" * 100_000, O_NEW, 0o600),
        "empty": lambda: call("open", b"", O_NEW, 0o600),
        "null": lambda: call("open", None, O_NEW, 0o600),
        "unmapped": lambda: call("open", unmapped() + 4096, O_NEW, 0o600),
        "kernel-address": lambda: call("open", 0xFFFF_8000_0000_0000, O_NEW, 0o600),
        "at-the-edge": lambda: call("open", at_the_edge(b"edge" + bytes(1)), O_NEW, 0o600),
        "over-the-edge": lambda: call("open", at_the_edge(b"no-end"), O_NEW, 0o600),
        "slash-at-the-end": lambda: call("open", b"directory/", O_NEW, 0o600),
        "empty-unlink": lambda: call("unlink", b""),
        "null-rename": lambda: call("rename", b"x", None),
        "null-connect": lambda: call("connect", libc.socket(1, 1, 0), None, 16),
        "short-connect": lambda: call("connect", libc.socket(1, 1, 0), b"a", 1),
        "unix-too-long": lambda: call("connect", libc.socket(1, 1, 0), bytes([1, 0]) + b"x" * 126, 128),
        "huge-length-connect": lambda: call("connect", libc.socket(1, 1, 0), b"a" * 16, 2**30),
        "many-steps": lambda: call("open", b"d/../" * 300 + b"steps", O_NEW, 0o600),
        }""",
    )
    assert found == {
        "name-255": "OK",
        "name-256": "ENAMETOOLONG",
        "path-4095": "OK",
        "path-4096": "ENAMETOOLONG",
        "path-100000": "ENAMETOOLONG",
        "empty": "ENOENT",
        "null": "EFAULT",
        "unmapped": "EFAULT",
        "kernel-address": "EFAULT",
        "at-the-edge": "OK",
        "over-the-edge": "EFAULT",
        "slash-at-the-end": "EISDIR",
        "empty-unlink": "ENOENT",
        "null-rename": "EFAULT",
        "null-connect": "EFAULT",
        "short-connect": "EINVAL",
        "unix-too-long": "EINVAL",
        "huge-length-connect": "EINVAL",
        "many-steps": "ENOENT",
    }


ODD = {
    "newline": b"new\nline",
    "escape": b"\x1b[2J\x1b]0;owned\x07",
    "carriage-return": b"x\rgoverned: allowed",
    "not-utf8": b"\xff\xfe\x80",
    "half-utf8": b"\xe2\x82",
    "surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "overlong": b"\xc0\xaf",
    "bidi": "\u202etxt.exe".encode(),
    "c1": "\u009b31m".encode(),
    "quotes": b"\"'\\`$(id)",
    "spaces": b" \t ",
    "dashes": b"--help",
    "json": b'{"b64":"eA=="}',
}


def test_odd_names_are_recorded_as_they_are_and_shown_harmlessly(instance: Instance) -> None:
    names = ", ".join(f"{name!r}: lambda: call('open', {value!r}, O_NEW, 0o600)" for name, value in ODD.items())
    refused = ", ".join(
        f"{'no-' + name!r}: lambda: call('open', {b'/etc/' + value!r}, O_NEW, 0o600)" for name, value in ODD.items()
    )
    found, said, records = outcomes(instance, f"{{{names}, {refused}}}")
    assert found == {**dict.fromkeys(ODD, "OK"), **{f"no-{name}": "EPERM" for name in ODD}}
    made = {os.fsencode(record["object"]) for record in effects(records, operation="file.create", decision="allow")}
    assert made == {os.fsencode(instance.work) + b"/" + value for value in ODD.values()}
    denied = {os.fsencode(record["object"]) for record in effects(records, decision="deny")}
    assert denied == {b"/etc/" + value for value in ODD.values()}
    assert said.count("refused file.create") == len(ODD)
    assert len(said.splitlines()) == len(ODD) + 1  # and the line that tells of the seal
    for argv in (["journal", "tail", "-n", "100"], ["sandbox", "list"]):
        done = instance.ctl(*argv)
        assert done.returncode == 0
        clean(done.stdout)


def test_odd_bytes_where_the_gate_takes_text(instance: Instance) -> None:
    """Attribute names, loader variables and directories are text to the gate: what is not is no way around it."""
    found, _, records = outcomes(
        instance,
        """{
        "attribute": lambda: call("setxattr", b"n" * 255, b"user.\\xff\\xfe", b"v", 1, 0),
        "attribute-again": lambda: call("setxattr", b"n" * 255, b"user.\\xff\\xfe", b"v", 1, 0),
        "loader": lambda: execve(b"/bin/true", [b"true"], [b"LD_PRELOAD=/\\xff.so"]),
        "loader-again": lambda: execve(b"/bin/true", [b"true"], [b"LD_PRELOAD=/\\xff.so"]),
        "argv": lambda: execve(b"/bin/true", [b"true", b"\\xff\\x00", b"\\n"], []),
        }""",
        profile="execs",
    )
    assert set(found.values()) <= {"OK", "EPERM", "RAN", "EOPNOTSUPP", "ENOTSUP"}
    assert found["attribute"] == found["attribute-again"]
    assert found["loader"] == found["loader-again"]
    decided = effects(records, operation="process.exec")
    assert len(decided) == 4
    assert not [record for record in decided if record["rule"] == "gate-failed"]
    assert count_of(records, "file.xattr") == 2


def count_of(records: list[Record], operation: str) -> int:
    first = [record for record in effects(records) if record["operation"] == operation]
    more = [r["count"] for r in records if r["kind"] == "effect.repeated" and r.get("operation") == operation]
    return len(first) + sum(more)


def test_a_directory_whose_name_is_no_text(instance: Instance) -> None:
    """Its effects are decided like any others, and the same question twice does not wait for ever."""
    odd = instance.work / os.fsdecode(b"dir \xff\xfe")
    odd.mkdir()
    owner = instance.work.stat()
    os.chown(odd, owner.st_uid, owner.st_gid)
    found, _, records = outcomes(
        instance,
        """{
        "one": lambda: call("open", b"one", O_NEW, 0o600),
        "one-again": lambda: call("open", b"one", O_NEW | os.O_TRUNC, 0o600),
        "mkdir": lambda: call("mkdir", b"d", 0o700),
        }""",
        cwd=odd,
    )
    assert set(found.values()) <= {"OK", "EPERM"}
    assert all(record["rule"] != "gate-failed" for record in effects(records))
    assert effects(records, operation="file.mkdir")


def test_command_lines_at_and_past_the_bound(instance: Instance) -> None:
    found, said, records = outcomes(
        instance,
        """{
        "hundred-kib": lambda: execve(b"/bin/true", [b"true", b"x" * 100_000], []),
        "one-mib": lambda: execve(b"/bin/true", [b"true"] + [b"x" * 100_000] * 11, []),
        "ten-thousand": lambda: execve(b"/bin/true", [b"true"] + [b"x"] * 10_000, []),
        "hundred-thousand": lambda: execve(b"/bin/true", [b"true"] + [b"x"] * 100_000, []),
        "many-variables": lambda: execve(b"/bin/true", [b"true"], [b"A=1"] * 100_000),
        "one-word-too-long": lambda: execve(b"/bin/true", [b"true", b"x" * (1 << 18)], []),
        "null-argv": lambda: execve(b"/bin/true", None, []),
        "null-both": lambda: execve(b"/bin/true", None, None),
        "empty-argv": lambda: execve(b"/bin/true", [], []),
        "empty-word": lambda: execve(b"/bin/true", [b""], []),
        "empty-path": lambda: execve(b"", [b"x"], []),
        "null-path": lambda: execve(None, [b"x"], []),
        "directory": lambda: execve(b"/etc", [b"x"], []),
        "missing": lambda: execve(b"/no/such", [b"x"], []),
        "not-executable": lambda: execve(b"/etc/passwd", [b"x"], []),
        }""",
    )
    assert found == {
        "hundred-kib": "RAN",
        "one-mib": "EPERM",
        "ten-thousand": "RAN",
        "hundred-thousand": "EPERM",
        "many-variables": "EPERM",
        "one-word-too-long": "E2BIG",
        "null-argv": "RAN",
        "null-both": "RAN",
        "empty-argv": "RAN",
        "empty-word": "RAN",
        "empty-path": "ENOENT",
        "null-path": "EFAULT",
        "directory": "EACCES",
        "missing": "ENOENT",
        "not-executable": "EACCES",
    }
    rules = {record["rule"] for record in effects(records, decision="deny")}
    assert rules == {"arguments-too-long", "arguments-too-many"}
    assert "arguments-too-many" in said
    assert max(len(json.dumps(record)) for record in records) < 70_000


def test_odd_bytes_while_a_person_is_asked() -> None:
    """What an administrator sees of it carries nothing raw either."""
    with Instance(policies=policies(gate(ask=0, deny=1000, person_seconds=3))) as instance:
        name = b"\x1b[31m\xff\n\xe2\x80\xae"
        program = instance.spawn("touch", os.fsdecode(name), profile="asked")
        instance.wait_until(lambda: True if instance.status().waiting else None, "the question", 20)
        done = instance.ctl("approvals", "list")
        assert done.returncode == 0
        clean(done.stdout)
        assert instance.ctl("approvals", "list", "--json").returncode == 0
        _, said = program.communicate(timeout=20)
        lines = [line for line in said.decode("utf-8", "surrogateescape").splitlines() if line.startswith("governed")]
        assert any("waiting for a person" in line for line in lines)
        clean("\n".join(lines))
        assert program.returncode == 1
