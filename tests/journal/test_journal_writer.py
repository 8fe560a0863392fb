"""Appending: order, threads, durability, rotation, checkpoints, and what is refused."""

import base64
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread, current_thread

import pytest

from governed_mcpd.journal.chain import MAX_RECORD_BYTES
from governed_mcpd.journal.checkpoint import Checkpoint
from governed_mcpd.journal.errors import JournalFailed, RecordRefused
from governed_mcpd.journal.journal import Journal, JournalSettings
from governed_mcpd.journal.read import entries
from governed_mcpd.journal.verify import verify
from tests.journal.samples import SMALL, note, segment_paths


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def test_eight_threads_lose_nothing(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), settings=JournalSettings(segment_bytes=20_000, checkpoint_records=100))
    given: list[tuple[int, str]] = []

    def work(name: str) -> None:
        for number in range(250):
            given.append((journal.append(note(f"{name}-{number}")), f"{name}-{number}"))

    threads = [Thread(target=work, args=(str(index),)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    found = {entry.seq: entry.record.get("reason") for entry in entries(str(tmp_path))}
    assert len(found) == 2001
    assert all(found[seq] == text for seq, text in given)
    result = verify(str(tmp_path))
    assert result.ok
    assert result.segments > 5
    assert result.proved == 2001


def test_a_record_gets_its_number_and_time(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    record = note("as it was")
    before = time.time_ns() // 1000
    seq, size = journal.append_sized(record)
    assert record == note("as it was"), "the caller's mapping is left alone"
    written = segment_paths(tmp_path)[0].read_bytes()  # no sync was needed
    entry = next(iter(entries(str(tmp_path), first=seq)))
    assert (entry.seq, entry.record["seq"], entry.hash) == (2, 2, journal.head)
    assert before <= entry.record["time_us"] <= time.time_ns() // 1000
    assert size == len(written.splitlines(keepends=True)[-1])
    journal.close()


def test_records_that_cannot_be_written_leave_the_journal_as_it_was(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    for record, message in [
        (note(reason=1.5), "record of kind daemon.stop: value.reason is a float"),
        (note(seq=3), "neither seq nor time_us"),
        (note(time_us=3), "neither seq nor time_us"),
        ({"reason": "x"}, "kind None"),
        ({"kind": "unknown"}, "journal/records.py"),
        (note("x" * MAX_RECORD_BYTES), f"at most {MAX_RECORD_BYTES} fit"),
        (note(base64.b64encode(b"x" * MAX_RECORD_BYTES).decode()), "at most"),
    ]:
        with pytest.raises(RecordRefused, match=message):
            journal.append(record)
    assert journal.failure is None
    assert journal.length == 1
    assert journal.append(note("x" * (MAX_RECORD_BYTES - 100))) == 2
    journal.close()
    assert verify(str(tmp_path)).ok


def test_when_durable_calls_from_its_own_thread(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), settings=JournalSettings(sync_seconds=3600))
    done = Event()
    seen: list[tuple[object, int, str]] = []

    def callback(error: JournalFailed | None) -> None:
        seen.append((error, journal.durable, current_thread().name))
        done.set()

    seq = journal.append(note())
    assert journal.durable == 1, "nothing asks for more yet"
    journal.when_durable(seq, callback)
    assert done.wait(10)
    assert seen == [(None, seq, "journal-sync")]
    done.clear()
    journal.when_durable(seq, callback)  # it is durable already
    assert done.wait(10)
    with pytest.raises(ValueError, match="cannot become durable"):
        journal.when_durable(seq + 1, callback)
    journal.close()


def test_a_callback_that_raises_harms_nobody(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))

    def callback(error: JournalFailed | None) -> None:
        raise RuntimeError("a mistake of the caller")

    journal.when_durable(journal.append(note()), callback)
    journal.wait_durable(journal.append(note()), 10)
    assert journal.failure is None
    journal.close()


def test_all_that_wait_are_called_once(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    called: list[int] = []
    for _ in range(300):
        seq = journal.append(note())
        journal.when_durable(seq, lambda error, seq=seq: called.append(seq))  # type: ignore[misc]
    journal.close()
    assert sorted(called) == list(range(2, 302))


def test_syncs_also_what_comes_while_only_a_checkpoint_is_due(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), settings=JournalSettings(sync_seconds=0.05, checkpoint_seconds=3600))
    for _ in range(3):
        journal.append(note())
        wait_until(lambda: journal.durable == journal.length)
        wait_until(lambda: journal._idle)  # its thread waits for the checkpoint now
    journal.close()


def test_syncs_by_itself(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), settings=JournalSettings(sync_seconds=0.05, checkpoint_seconds=0.1))
    for _ in range(3):
        seq = journal.append(note())
        wait_until(lambda seq=seq: journal.durable == seq)  # type: ignore[misc]
        wait_until(lambda seq=seq: verify(str(tmp_path)).proved == seq)  # type: ignore[misc]
    journal.close()


def test_much_is_synced_early(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), settings=JournalSettings(sync_seconds=3600, sync_bytes=10_000))
    for _ in range(100):
        journal.append(note("x" * 200))
    wait_until(lambda: journal.durable > 50)
    journal.close()


def test_checkpoints_every_so_many_records_and_at_the_end(tmp_path: Path) -> None:
    mirrored: list[Checkpoint] = []
    journal = Journal(str(tmp_path), settings=SMALL, mirror=mirrored.append)
    for _ in range(5):
        for _ in range(4):
            seq = journal.append(note())
        journal.wait_durable(seq, 10)
    last = journal.append(note())
    journal.close()
    lengths = [checkpoint.length for checkpoint in mirrored]
    assert lengths == sorted(set(lengths))
    assert lengths[0] == 1
    assert lengths[-1] == last == 22
    assert len(lengths) >= 5
    assert (tmp_path / "checkpoints.jsonl").read_bytes() == b"".join(checkpoint.line() for checkpoint in mirrored)


def test_a_mirror_that_fails_is_not_the_journal_failing(tmp_path: Path) -> None:
    def mirror(checkpoint: Checkpoint) -> None:
        raise OSError("no journald")

    journal = Journal(str(tmp_path), settings=SMALL, mirror=mirror)
    journal.append(note())
    journal.close()
    assert verify(str(tmp_path)).proved == 2


def test_after_close(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.close()
    journal.close()
    with pytest.raises(JournalFailed, match="closed"):
        journal.append(note())
    with pytest.raises(JournalFailed, match="closed"):
        journal.when_durable(1, lambda error: None)
