"""What the daemon writes is what the seal's programs read: compared with the object that was built."""

import ctypes
import os
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governed_mcpd.grant import layout, pins
from governed_mcpd.grant.layout import Ids
from governed_mcpd.grant.seal import Grant, GrantFailed
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from tests.seal import btf

ROOT = Path(__file__).resolve().parents[2]
TYPES = btf.structures(pins.OBJECT)
DEFINES = dict(re.findall(r"^#define (SEAL_\w+) (.+)$", (ROOT / "bpf/seal.h").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", layout.STRUCTURES)
def test_structure_is_laid_out_as_in_the_object(name: str) -> None:
    ours = layout.STRUCTURES[name]
    theirs = TYPES[name]
    assert ctypes.sizeof(ours) == theirs.size
    assert {field[0]: getattr(ours, field[0]).offset for field in ours._fields_} == theirs.members


def test_every_shared_structure_is_known() -> None:
    shared = set(re.findall(r"^struct (seal_\w+) \{", (ROOT / "bpf/seal.h").read_text(), re.MULTILINE))
    # A text is its bytes alone.
    assert shared - set(layout.STRUCTURES) == {"seal_text"}
    assert TYPES["seal_text"].size == layout.CHUNK_BYTES


def enumerators(name: str) -> dict[str, int]:
    """An enum of bpf/seal.h: the compiler keeps only those that a variable has for its type."""
    body = re.search(rf"^enum {name} \{{(.*?)^\}};", (ROOT / "bpf/seal.h").read_text(), re.MULTILINE | re.DOTALL)
    assert body is not None
    found: dict[str, int] = {}
    following = 0
    for word, value in re.findall(r"^\t(SEAL_\w+)(?: = (\d+))?,", body[1], re.MULTILINE):
        following = int(value) if value else following
        found[word] = following
        following += 1
    return found


def test_operations_have_the_same_numbers() -> None:
    expected = {"SEAL_NONE": 0} | {f"SEAL_{operation.name}": number for operation, number in layout.OPERATIONS.items()}
    hooks = {f"SEAL_{hook.upper()}": layout.FIRST_HOOK + index for index, hook in enumerate(layout.HOOKS)}
    assert enumerators("seal_operation") == expected | hooks
    assert len(enumerators("seal_reason")) == len(layout.REASONS)


def test_numbers_are_the_same() -> None:
    numbers = {
        "SEAL_LAYOUT": layout.LAYOUT, "SEAL_NAME_BYTES": layout.NAME_BYTES, "SEAL_ID_BYTES": layout.ID_BYTES,
        "SEAL_PROGRAMS": layout.PROGRAMS, "SEAL_ADDRESS_BYTES": layout.ADDRESS_BYTES,
        "SEAL_PATH_BYTES": layout.PATH_BYTES,
    }  # fmt: skip
    assert {name: int(DEFINES[name]) for name in numbers} == numbers
    assert int(DEFINES["SEAL_PIECE_BYTES"]) * int(DEFINES["SEAL_PIECES"]) == layout.CHUNK_BYTES
    assert DEFINES["SEAL_TEXT_MOST"] == "(256 * 1024)"
    assert layout.TEXT_MOST == 256 * 1024
    assert int(DEFINES["SEAL_SANDBOX_READS"].split()[0]) == layout.SANDBOX_READS


def test_maps_and_programs_are_those_that_are_pinned() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "bpf").glob("*.h")))
    assert set(re.findall(r"^\} (\w+) SEC\(\"\.maps\"\)", source, re.MULTILINE)) == set(pins.MAPS)
    programs = set(re.findall(r"BPF_PROG\((\w+)", source)) - {"hook"} | set(re.findall(r"^NEVER\((\w+)", source, re.M))
    assert set(pins.OPTIONAL) | set(pins.BY_PARAMETERS) <= programs


# ---- packing

NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: not set(name) & {0, ord("/")})
IDS = st.integers(1, 2**64 - 1)


def grant(operation: Operation, name: str = "/x", **more: object) -> Grant:
    argv = more.pop("argv", ())
    environment = more.pop("environment", ())
    effect = SideEffect(operation, name, **more)  # type: ignore[arg-type]
    return Grant("box", 42, effect, 12.5, (), argv, environment)  # type: ignore[arg-type]


@given(IDS, NAMES, IDS)
def test_an_entry_is_packed_whole(parent: int, name: bytes, sandbox: int) -> None:
    value = layout.pack(grant(Operation.FILE_CREATE), sandbox, [Ids(0, parent, name)])
    assert (value.sandbox, value.targets[0].parent, value.targets[0].object) == (sandbox, parent, 0)
    assert bytes(value.targets[0].name) == name.ljust(256, b"\0")
    assert (value.expires, value.stage) == (12_500_000_000, 0)


@given(NAMES, NAMES)
def test_two_names_are_never_packed_alike(one: bytes, other: bytes) -> None:
    packed = [bytes(layout.pack(grant(Operation.FILE_MKDIR), 1, [Ids(0, 1, name)])) for name in (one, other)]
    assert (packed[0] == packed[1]) == (one == other)


WORDS = st.lists(st.binary(max_size=40).filter(lambda word: 0 not in word), max_size=12).map(tuple)


@given(WORDS, WORDS, WORDS, WORDS)
def test_two_ways_to_start_a_program_are_never_packed_alike(
    argv: tuple[bytes, ...], environment: tuple[bytes, ...], other: tuple[bytes, ...], others: tuple[bytes, ...]
) -> None:
    def packed(words: tuple[bytes, ...], variables: tuple[bytes, ...]) -> tuple[bytes, list[bytes]]:
        given_ = grant(Operation.PROCESS_EXEC, argv=words, environment=variables)
        return bytes(layout.pack(given_, 1, [Ids(7)])), layout.chunks(layout.text(given_))

    assert (packed(argv, environment) == packed(other, others)) == ((argv, environment) == (other, others))


@given(st.ip_addresses(), st.integers(0, 65535), st.sampled_from(["tcp", "udp"]))
def test_an_address_comes_back_in_canonical_form(ip: object, port: int, kind: str) -> None:
    host = f"[{ip}]" if ":" in str(ip) else str(ip)
    shown = layout.shown(layout.address(SideEffect(Operation.NET_CONNECT, f"{kind}:{host}:{port}")))
    mapped = getattr(ip, "ipv4_mapped", None)
    assert shown == f"{kind}:{mapped or host}:{port}"


@given(st.binary(max_size=107))
def test_an_abstract_name_comes_back(name: bytes) -> None:
    effect = SideEffect(Operation.NET_CONNECT, "unix:@" + os.fsdecode(name))
    packed = layout.address(effect)
    assert (packed.family, packed.bytes_used) == (socket.AF_UNIX, len(name) + 1)
    assert layout.shown(packed) == effect.object


@pytest.mark.parametrize(
    ("operation", "name", "targets"),
    [
        (Operation.FILE_WRITE, "/x", []),
        (Operation.FILE_WRITE, "/x", [Ids(0)]),
        (Operation.FILE_WRITE, "/x", [Ids(1), Ids(2)]),
        (Operation.FILE_CREATE, "/x", [Ids(0, 0, b"x")]),
        (Operation.FILE_CREATE, "/x", [Ids(0, 1, b"")]),
        (Operation.FILE_CREATE, "/x", [Ids(0, 1, b"a/b")]),
        (Operation.FILE_CREATE, "/x", [Ids(0, 1, b"x" * 256)]),
        (Operation.FILE_UNLINK, "/x", [Ids(0, 1, b"x")]),
        (Operation.FILE_RENAME, "/x", [Ids(1, 1, b"x")]),
        (Operation.FILE_RENAME, "/x", [Ids(0, 1, b"x"), Ids(0, 1, b"y")]),
        (Operation.FILE_LINK, "/x", [Ids(1), Ids(2)]),
        (Operation.PROCESS_EXEC, "/x", []),
        (Operation.PROCESS_EXEC, "/x", [Ids(1)] * 5),
        (Operation.PROCESS_EXEC, "/x", [Ids(1), Ids(0)]),
        (Operation.NET_CONNECT, "unix:/x", []),
        (Operation.NET_BIND, "unix:/x", [Ids(1)]),
        (Operation.NET_CONNECT, "tcp:1.2.3.4:80", [Ids(1)]),
        (Operation.NET_CONNECT, "tcp:host:80", []),
        (Operation.NET_CONNECT, "tcp:1.2.3.4:65536", []),
        (Operation.NET_CONNECT, "sctp:1.2.3.4:80", []),
        (Operation.NET_CONNECT, "unix:@" + "x" * 112, []),
        (Operation.PROCESS_SIGNAL, "process:-1", []),
        (Operation.PROCESS_SIGNAL, "process:0", []),
        (Operation.PROCESS_SIGNAL, "process:x", []),
    ],
)
def test_what_cannot_be_said_exactly_is_not_granted(operation: Operation, name: str, targets: list[Ids]) -> None:
    with pytest.raises(GrantFailed):
        layout.pack(grant(operation, name), 1, targets)


def test_texts_that_are_too_long_or_have_a_nul_are_not_granted() -> None:
    most = (b"x" * (layout.TEXT_MOST - 1),)
    assert len(layout.text(grant(Operation.PROCESS_EXEC, argv=most))) == layout.TEXT_MOST
    for words in ((b"x" * layout.TEXT_MOST,), (*most, b""), (b"a\0b",)):
        with pytest.raises(GrantFailed):
            layout.text(grant(Operation.PROCESS_EXEC, argv=words))


def test_every_operation_can_be_granted() -> None:
    entry, thing = Ids(2, 3, b"n"), Ids(2)
    targets: dict[Operation, list[Ids]] = {
        Operation.FILE_RENAME: [entry, entry],
        Operation.FILE_LINK: [thing, entry],
        Operation.PROCESS_SIGNAL: [],
    }
    for operation in layout.OPERATIONS:
        name = "process:7" if operation is Operation.PROCESS_SIGNAL else "/x"
        if operation.startswith("net."):
            name, targets[operation] = "tcp:127.0.0.1:1", []
        value = layout.pack(grant(operation, name), 5, targets.get(operation, [entry]))
        assert value.operation == layout.OPERATIONS[operation]
    assert set(Operation) - set(layout.OPERATIONS) == {Operation.NET_RESOLVE}
