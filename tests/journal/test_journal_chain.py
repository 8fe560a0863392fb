"""Whatever is changed in the files afterwards, verify notices; and it says where."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.journal.canonical import canonical
from governed_mcpd.journal.chain import DOMAIN, GENESIS, link, make_line, split_line
from governed_mcpd.journal.checkpoint import CheckpointError, parse_checkpoint, sign_checkpoint
from governed_mcpd.journal.errors import JournalTampered
from governed_mcpd.journal.journal import Journal
from governed_mcpd.journal.keys import load_or_make_key
from governed_mcpd.journal.verify import verify
from tests.journal.samples import SMALL, files, put_back, segment_paths, write_journal


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of 17 records in several segments."""
    path = tmp_path_factory.mktemp("journal")
    write_journal(path, 16)
    assert len(segment_paths(path)) > 2
    return path


@pytest.fixture
def original(state: Path) -> Iterator[dict[str, bytes]]:
    content = files(state)
    yield content
    put_back(state, content)


def test_a_line_is_what_the_design_says(state: Path) -> None:
    previous = GENESIS
    for path in segment_paths(state):
        for line in path.read_bytes().splitlines(keepends=True):
            written, body = split_line(line)
            previous = blake3(DOMAIN + previous + body).digest()
            assert written.decode() == previous.hex()
            assert canonical(json.loads(body)) == body


def test_an_untouched_journal_verifies(state: Path) -> None:
    found = verify(str(state))
    assert found.ok
    assert found.records == found.proved == 17
    assert found.segments == len(segment_paths(state))
    assert found.checkpoints >= 2
    assert found.head == segment_paths(state)[-1].read_bytes().splitlines()[-1][:64].decode()


def test_every_single_byte_counts(tmp_path: Path) -> None:
    write_journal(tmp_path, 3)
    for path in [*segment_paths(tmp_path), tmp_path / "checkpoints.jsonl"]:
        content = path.read_bytes()
        for offset in range(len(content)):
            changed = bytearray(content)
            changed[offset] ^= 1 << (offset % 8)
            path.write_bytes(changed)
            found = verify(str(tmp_path))
            # The last newline of the checkpoints alone says nothing about a record.
            if path.suffix == ".jsonl" and path.name == "checkpoints.jsonl" and offset == len(content) - 1:
                continue
            assert not found.ok, f"{path.name} offset {offset}"
        path.write_bytes(content)
    assert verify(str(tmp_path)).ok


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_lines_cannot_be_removed_moved_or_added(state: Path, data: st.DataObject) -> None:
    original = files(state)
    paths = segment_paths(state)
    lines = [path.read_bytes().splitlines(keepends=True) for path in paths]
    places = [(segment, line) for segment, group in enumerate(lines) for line in range(len(group))]
    (segment, line), (other, second) = data.draw(st.sampled_from(places)), data.draw(st.sampled_from(places))
    changed = [list(group) for group in lines]
    match data.draw(st.sampled_from(["remove", "swap", "repeat", "forge", "drop segment", "cut", "overwrite"])):
        case "remove":
            del changed[segment][line]
        case "swap":
            changed[segment][line], changed[other][second] = changed[other][second], changed[segment][line]
        case "repeat":
            changed[segment].insert(line, changed[other][second])
        case "forge":
            head = bytes.fromhex(changed[segment][line][:64].decode())
            body = canonical({"kind": "daemon.stop", "seq": 1, "time_us": 1})
            changed[segment].insert(line + 1, make_line(link(head, body), body))
        case "drop segment":
            paths[segment].unlink()
            changed[segment] = []
        case "cut":
            del changed[segment][line:]
            for later in range(segment + 1, len(changed)):
                changed[later] = []
        case "overwrite":
            changed[segment][line] = changed[other][second]
    try:
        for path, group in zip(paths, changed, strict=True):
            if path.exists():
                path.write_bytes(b"".join(group))
        assert verify(str(state)).ok == (changed == lines)
    finally:
        put_back(state, original)


def rebuild(state: Path, change: int, text: str) -> None:
    """Forges record `change`, and every hash after it, as someone with root could."""
    previous = GENESIS
    for path in segment_paths(state):
        out = []
        for line in path.read_bytes().splitlines(keepends=True):
            _, body = split_line(line)
            record = json.loads(body)
            if record["seq"] == change:
                body = canonical({**record, "reason": text})
            previous = link(previous, body)
            out.append(make_line(previous, body))
        path.write_bytes(b"".join(out))


def test_a_chain_that_was_made_anew_contradicts_its_checkpoints(state: Path, original: dict[str, bytes]) -> None:
    rebuild(state, 3, "number 1")
    assert verify(str(state)).ok, "the forger changed nothing yet"
    rebuild(state, 3, "another")
    found = verify(str(state))
    assert found.problem is not None
    assert found.problem.file.endswith("checkpoints.jsonl")
    assert "another hash" in found.problem.what
    with pytest.raises(JournalTampered, match="has not the hash"):
        Journal(str(state), settings=SMALL)


def test_a_checkpoint_proves_a_truncation(state: Path, original: dict[str, bytes]) -> None:
    last = segment_paths(state)[-1]
    lines = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(b"".join(lines[:-1]))
    found = verify(str(state))
    assert found.problem is not None
    assert "proves 17 records, but the journal has 16" in found.problem.what
    with pytest.raises(JournalTampered, match="it was cut"):
        Journal(str(state), settings=SMALL)


def test_checkpoints_from_elsewhere_prove_what_was_removed_here(state: Path, original: dict[str, bytes]) -> None:
    shipped = state / "shipped"
    shipped.write_bytes(original["checkpoints.jsonl"].rstrip(b"\n"))  # as a tool that trims would leave it
    key = state / "shipped.pem"
    key.write_bytes((state / "journal.pub").read_bytes())
    assert verify(str(state), public_key=str(key), checkpoint_files=[str(shipped)]).ok
    (state / "checkpoints.jsonl").write_bytes(b"")
    for path in segment_paths(state)[1:]:
        path.unlink()
    assert verify(str(state)).ok, "nothing here proves it"
    found = verify(str(state), public_key=str(key), checkpoint_files=[str(shipped)])
    assert found.problem is not None
    assert found.problem.file == str(shipped)
    assert not verify(str(state), checkpoint_files=[str(state / "missing")]).ok


def test_another_key_proves_nothing(state: Path, tmp_path: Path, original: dict[str, bytes]) -> None:
    load_or_make_key(str(tmp_path))
    found = verify(str(state), public_key=str(tmp_path / "journal.pub"))
    assert found.problem is not None
    assert "signature" in found.problem.what
    (state / "journal.pub").unlink()
    found = verify(str(state))
    assert found.problem is not None
    assert found.problem.file.endswith("journal.pub")


def test_a_signature_belongs_to_its_fields(tmp_path: Path) -> None:
    key = load_or_make_key(str(tmp_path))
    checkpoint = sign_checkpoint(key, 7, "ab" * 32, 1)
    assert checkpoint.signed_by(key.public_key())
    assert parse_checkpoint(checkpoint.line()) == checkpoint
    fields = json.loads(checkpoint.line())
    for name, value in {"length": 8, "head": "cd" * 32, "time_us": 2, "key": "00" * 32}.items():
        assert not parse_checkpoint(canonical({**fields, name: value}) + b"\n").signed_by(key.public_key())
    signature = bytes([checkpoint.signature[0] ^ 1, *checkpoint.signature[1:]])
    forged = canonical({**fields, "signature": base64.b64encode(signature).decode()}) + b"\n"
    assert not parse_checkpoint(forged).signed_by(key.public_key())


@given(st.binary(max_size=200))
def test_what_is_not_a_checkpoint_is_refused(line: bytes) -> None:
    with pytest.raises(CheckpointError):
        parse_checkpoint(line)
    with pytest.raises(CheckpointError):
        parse_checkpoint(line + b"\n")


def test_no_journal_is_not_a_good_journal(tmp_path: Path) -> None:
    assert not verify(str(tmp_path)).ok
    assert not verify(str(tmp_path / "nowhere")).ok


def test_a_hash_that_fits_does_not_excuse_the_record(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    segment = tmp_path / "journal" / f"{1:020d}.jsonl"
    for body, what in {
        b'{"seq":2}': "seq",
        b'{"seq": 1}': "canonical",
        b'{"seq":1.0}': "canonical",
        b'{"seq":1,"seq":1}': "canonical",
        b"[1]": "object",
        b"nonsense": "canonical",
    }.items():
        segment.write_bytes(make_line(link(GENESIS, body), body))
        found = verify(str(tmp_path))
        assert found.problem is not None, body
        assert what in found.problem.what
        assert (found.problem.file, found.problem.line) == (str(segment), 1)
    segment.write_bytes(make_line(link(GENESIS, b'{"seq":1}'), b'{"seq":1}'))
    assert verify(str(tmp_path)).ok


def test_a_line_without_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    segment = tmp_path / "journal" / f"{1:020d}.jsonl"
    segment.write_bytes(b"x" * (3 << 20) + b"\n")
    found = verify(str(tmp_path))
    assert found.problem is not None
    assert "longer than" in found.problem.what
    segment.write_bytes(b"\0" * (3 << 20))
    found = verify(str(tmp_path))
    assert found.ok
    assert found.torn == 3 << 20
