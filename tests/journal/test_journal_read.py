"""Reading: from a number, the last ones, one sandbox's, and as they come."""

from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.journal.journal import Journal
from governed_mcpd.journal.read import Tail, UnreadableLine, entries, follow, last_entries
from tests.journal.samples import SMALL, note, segment_paths

SANDBOXES = ("s-1", "s-10", "s-2", "s-1.1")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 records in many segments; number n+2 belongs to SANDBOXES[n % 4]."""
    path = tmp_path_factory.mktemp("journal")
    journal = Journal(str(path), settings=SMALL)
    for number in range(40):
        journal.append({"kind": "sandbox.end", "sandbox": SANDBOXES[number % 4], "reason": str(number)})
    journal.close()
    assert len(segment_paths(path)) > 5
    return path


@settings(max_examples=60)
@given(first=st.integers(0, 50), count=st.integers(0, 50), sandbox=st.sampled_from(["", *SANDBOXES, "s-3"]))
def test_slices(state: Path, first: int, count: int, sandbox: str) -> None:
    everything = list(entries(str(state)))
    assert [entry.seq for entry in everything] == list(range(1, 42))
    wanted = [entry for entry in everything if not sandbox or belongs(entry.record, sandbox)]
    assert list(entries(str(state), first=first, sandbox=sandbox)) == [one for one in wanted if one.seq >= first]
    assert last_entries(str(state), count, sandbox=sandbox) == (wanted[-count:] if count else [])


def belongs(record: dict[str, object], sandbox: str) -> bool:
    owner = str(record.get("sandbox", ""))
    return owner == sandbox or owner.startswith(sandbox + ".")


def test_the_line_is_what_is_in_the_file(state: Path) -> None:
    lines = b"".join(path.read_bytes() for path in segment_paths(state)).splitlines()
    assert [entry.line for entry in entries(str(state))] == lines
    assert [entry.hash.encode() for entry in entries(str(state))] == [line[:64] for line in lines]


def test_following_a_writer_over_rotations(tmp_path: Path) -> None:
    stop = Event()
    seen: list[int] = []

    def read() -> None:
        for entry in follow(str(tmp_path), stop.is_set, first=3, interval=0.002):
            seen.append(entry.seq)
            if entry.seq == 120:
                stop.set()

    thread = Thread(target=read)
    thread.start()
    journal = Journal(str(tmp_path), settings=SMALL)
    while journal.length < 120:
        journal.append(note("x" * (journal.length % 300)))
    thread.join(10)
    stop.set()
    journal.close()
    assert seen == list(range(3, 121))


def test_a_line_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.append(note("whole"))
    journal.close()
    segment = segment_paths(tmp_path)[0]
    whole = segment.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole)):
        segment.write_bytes(whole[:end])
        tail = Tail(str(tmp_path))
        assert [entry.seq for entry in tail.poll()] == [1]
        assert tail.poll() == []
        assert [entry.seq for entry in last_entries(str(tmp_path), 5)] == [1]
        segment.write_bytes(whole)
        assert [entry.seq for entry in tail.poll()] == [2]
        assert tail.poll() == []


def test_poll_in_small_portions(state: Path) -> None:
    tail = Tail(str(state))
    found: list[int] = []
    while portion := tail.poll(3):
        assert len(portion) <= 3
        found += [entry.seq for entry in portion]
    assert found == list(range(1, 42))


def test_nothing_there(tmp_path: Path) -> None:
    assert list(entries(str(tmp_path))) == []
    assert last_entries(str(tmp_path), 3) == []
    tail = Tail(str(tmp_path), first=2)
    assert tail.poll() == []
    journal = Journal(str(tmp_path))
    assert tail.poll() == []
    journal.append(note())
    assert [entry.seq for entry in tail.poll()] == [2]
    journal.close()


@pytest.mark.parametrize("line", [b"nonsense", b"0" * 64 + b" nonsense", b"0" * 64 + b" {}", b"x" * (2 << 20)])
def test_a_line_of_something_else(tmp_path: Path, line: bytes) -> None:
    Journal(str(tmp_path)).close()
    with segment_paths(tmp_path)[0].open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(UnreadableLine):
        list(entries(str(tmp_path)))
