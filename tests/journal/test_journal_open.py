"""Opening: what a crash left is repaired and recorded, what nobody could have left by accident is refused."""

import os
import stat
from pathlib import Path

import pytest
from blake3 import blake3

from governed_mcpd.journal.errors import JournalBusy, JournalKeyError, JournalTampered
from governed_mcpd.journal.journal import Journal
from governed_mcpd.journal.read import entries, last_entries
from governed_mcpd.journal.verify import verify
from tests.journal.samples import SMALL, files, note, put_back, run_alone, segment_paths, write_journal


def reopen(state: Path) -> list[dict[str, object]]:
    """Opens and closes; the records that opening wrote."""
    before = len(list(entries(str(state))))
    Journal(str(state), settings=SMALL).close()
    return [entry.record for entry in entries(str(state), first=before + 1)]


def test_the_chain_goes_on(tmp_path: Path) -> None:
    for _ in range(5):
        write_journal(tmp_path, 7)
    found = verify(str(tmp_path))
    assert found.ok
    assert found.records == 40
    assert [entry.seq for entry in entries(str(tmp_path))] == list(range(1, 41))
    assert found.segments > 3


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_journal(tmp_path / "new", 20)
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    }
    assert modes.pop("new") == 0o750
    assert modes.pop("journal") == 0o750
    assert modes.pop("journal.key") == 0o600
    assert modes.pop("journal.pub") == 0o644
    assert modes.pop("lock") == 0o600
    assert set(modes.values()) == {0o640}


def test_a_torn_last_line_at_every_offset(tmp_path: Path) -> None:
    """Records after the last checkpoint, the last of them cut short anywhere: nothing else is lost."""
    journal = Journal(str(tmp_path))
    journal.wait_durable(journal.append(note("kept")))
    content = files(tmp_path)  # the checkpoint that opening signed covers record 1 only
    segment = segment_paths(tmp_path)[0]
    journal.append(note("torn: é " + "x" * 40))
    whole = segment.read_bytes()
    journal.close()
    kept = content[str(segment.relative_to(tmp_path))]
    for end in range(len(kept), len(whole) + 1):
        put_back(tmp_path, content)
        segment.write_bytes(whole[:end])
        assert verify(str(tmp_path)).ok, "a torn line is no problem"
        added = reopen(tmp_path)
        if end in (len(kept), len(whole)):
            assert [record["kind"] for record in added] == ["journal.open"]
            continue
        torn = whole[len(kept) : end]
        assert [record["kind"] for record in added] == ["journal.truncated", "journal.open"]
        assert added[0]["bytes"] == len(torn)
        assert added[0]["digest"] == blake3(torn).hexdigest()
        assert added[0]["file"] == segment.name
        found = verify(str(tmp_path))
        assert found.ok, found.problem
        assert (found.records, found.torn) == (4, 0)


def test_torn_bytes_longer_than_the_record_of_them(tmp_path: Path) -> None:
    write_journal(tmp_path, 2)
    with segment_paths(tmp_path)[-1].open("ab") as file:
        file.write(b"\0" * 100_000)
    assert [record["kind"] for record in reopen(tmp_path)] == ["journal.truncated", "journal.open"]
    assert verify(str(tmp_path)).ok


def test_killed_between_the_record_and_the_cut(tmp_path: Path) -> None:
    """The record of the truncation stands, the rest of the torn bytes does too: the next opening goes on from there."""
    write_journal(tmp_path, 2)
    segment = segment_paths(tmp_path)[-1]
    size = segment.stat().st_size
    with segment.open("ab") as file:
        file.write(b"t" * 5000)
    reopen(tmp_path)
    line = segment.read_bytes()[size:].splitlines(keepends=True)[0]
    with segment.open("r+b") as file:
        file.truncate(size + len(line))
        file.seek(0, os.SEEK_END)
        file.write(b"t" * (5000 - len(line)))
    (tmp_path / "checkpoints.jsonl").write_bytes(b"")  # that life signed no checkpoint
    added = reopen(tmp_path)
    assert [(record["kind"], record.get("bytes")) for record in added] == [
        ("journal.truncated", 5000 - len(line)),
        ("journal.open", None),
    ]
    assert verify(str(tmp_path)).ok


def test_a_torn_checkpoint(tmp_path: Path) -> None:
    write_journal(tmp_path, 2)
    path = tmp_path / "checkpoints.jsonl"
    with path.open("ab") as file:
        file.write(b'{"head":"00')
    assert verify(str(tmp_path)).ok
    added = reopen(tmp_path)
    assert [record["kind"] for record in added] == ["journal.truncated", "journal.open"]
    assert (added[0]["file"], added[0]["bytes"]) == ("checkpoints.jsonl", 11)
    assert path.read_bytes().count(b"\n") == len(path.read_bytes().splitlines())
    assert verify(str(tmp_path)).ok


def test_an_empty_new_segment(tmp_path: Path) -> None:
    """Killed after rotation made the file and before its first record."""
    write_journal(tmp_path, 2)
    length = verify(str(tmp_path)).records
    (tmp_path / "journal" / f"{length + 1:020d}.jsonl").write_bytes(b"")
    assert [record["kind"] for record in reopen(tmp_path)] == ["journal.open"]
    assert verify(str(tmp_path)).ok


def test_tampering_is_named_and_left_alone(tmp_path: Path) -> None:
    write_journal(tmp_path, 14)
    content = files(tmp_path)
    last = segment_paths(tmp_path)[-1]
    before, _, rest = last.read_bytes().partition(b"\n")
    last.write_bytes(before.replace(b'"kind"', b'"kine"') + b"\n" + rest)
    changed = files(tmp_path)
    with pytest.raises(JournalTampered, match=r"governedctl journal verify.*start again") as caught:
        Journal(str(tmp_path), settings=SMALL)
    assert (caught.value.file, caught.value.line) == (str(last), 1)
    assert files(tmp_path) == changed
    put_back(tmp_path, content)
    assert reopen(tmp_path)


@pytest.mark.parametrize("index", [0, 1, -1])
def test_a_missing_segment(tmp_path: Path, index: int) -> None:
    write_journal(tmp_path, 20)
    # Without checkpoints, so that the segments themselves have to show it; the last can only be proved by a checkpoint.
    if index != -1:
        (tmp_path / "checkpoints.jsonl").write_bytes(b"")
    segment_paths(tmp_path)[index].unlink()
    with pytest.raises(JournalTampered):
        Journal(str(tmp_path), settings=SMALL)
    assert not verify(str(tmp_path)).ok


def test_all_segments_missing(tmp_path: Path) -> None:
    write_journal(tmp_path, 3)
    for path in segment_paths(tmp_path):
        path.unlink()
    with pytest.raises(JournalTampered, match="no records, but a checkpoint proves 4"):
        Journal(str(tmp_path), settings=SMALL)


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b"x" * 10_000 + b"\n"])
def test_a_false_checkpoint(tmp_path: Path, line: bytes) -> None:
    write_journal(tmp_path, 3)
    with (tmp_path / "checkpoints.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(JournalTampered, match=r"checkpoints\.jsonl"):
        Journal(str(tmp_path), settings=SMALL)
    assert not verify(str(tmp_path)).ok


def test_one_writer(tmp_path: Path) -> None:
    program = "import sys; from governed_mcpd.journal.journal import Journal; Journal(sys.argv[1]).close()"
    with_holder = f"{program.replace('.close()', '')}"
    journal = Journal(str(tmp_path))
    with pytest.raises(JournalBusy, match=f"process {os.getpid()} writes"):
        Journal(str(tmp_path))
    with pytest.raises(AssertionError, match="JournalBusy"):
        run_alone(with_holder, str(tmp_path))
    assert journal.append(note("still works")) == 2
    journal.close()
    run_alone(program, str(tmp_path))
    assert verify(str(tmp_path)).ok


def test_the_key(tmp_path: Path) -> None:
    write_journal(tmp_path, 1)
    key, public = tmp_path / "journal.key", tmp_path / "journal.pub"
    good, good_public = key.read_bytes(), public.read_bytes()

    key.chmod(0o640)
    with pytest.raises(JournalKeyError, match=r"0640.*expected mode 0600"):
        Journal(str(tmp_path))
    key.chmod(0o600)
    key.write_bytes(b"nonsense")
    with pytest.raises(JournalKeyError, match="Restore it"):
        Journal(str(tmp_path))
    key.unlink()
    with pytest.raises(JournalKeyError, match="is missing, but there is a journal"):
        Journal(str(tmp_path))
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalKeyError, match="regular file"):
        Journal(str(tmp_path))
    key.unlink()

    write_journal(tmp_path / "other", 1)
    key.write_bytes((tmp_path / "other" / "journal.key").read_bytes())
    key.chmod(0o600)
    with pytest.raises(JournalKeyError, match="one of them was replaced"):
        Journal(str(tmp_path))
    public.write_bytes((tmp_path / "other" / "journal.pub").read_bytes())
    with pytest.raises(JournalTampered, match="signature"):
        Journal(str(tmp_path))

    key.write_bytes(good)
    public.unlink()
    assert reopen(tmp_path)
    assert public.read_bytes() == good_public


def test_opening_names_format_key_and_boot(tmp_path: Path) -> None:
    write_journal(tmp_path, 0)
    record = last_entries(str(tmp_path), 1)[0].record
    assert record["kind"] == "journal.open"
    assert record["format"] == 1
    assert len(record["key"]) == 64
    assert record["boot"].count("-") == 4
