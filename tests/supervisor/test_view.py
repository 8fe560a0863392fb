"""What of the journal one peer sees: an administrator all, anyone else their own sandboxes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from governed_mcpd.journal.canonical import parse
from governed_mcpd.journal.journal import Journal
from governed_mcpd.service.view import View

ANN, BOB = 1001, 1002


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(str(tmp_path / "state"))
    yield one
    one.close()


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def start(journal: Journal, sandbox: str, uid: int) -> None:
    journal.append({"kind": "sandbox.start", "sandbox": sandbox, "subject": {"uid": uid, "sandbox": sandbox}})


def effects(journal: Journal, sandbox: str, *names: str) -> None:
    for name in names:
        journal.append({"kind": "effect", "sandbox": sandbox, "object": name})


def write(journal: Journal) -> None:
    journal.append({"kind": "daemon.start"})
    start(journal, "a", ANN)
    effects(journal, "a", "a1")
    start(journal, "b", BOB)
    effects(journal, "b", "b1")
    effects(journal, "a", "a2")
    start(journal, "a.child", ANN)
    effects(journal, "a.child", "c1")
    # Somebody else's sandbox cannot be claimed by a record that is not its start.
    journal.append({"kind": "approval", "sandbox": "b", "subject": {"uid": ANN}})
    journal.append({"kind": "effect", "sandbox": ["a"], "object": "odd"})
    journal.append({"kind": "policy.activate", "by_uid": 0})


def seen(lines: Iterator[bytes]) -> list[str]:
    records = [parse(line.partition(b" ")[2]) for line in lines]
    return [str(record.get("object", record["kind"])) for record in records if isinstance(record, dict)]


OWN = ["sandbox.start", "a1", "a2", "sandbox.start", "c1"]


def test_anyone_sees_their_own(journal: Journal, state: str) -> None:
    write(journal)
    assert seen(View(state, "", ANN).since(1)) == OWN
    assert seen(View(state, "", BOB).since(1)) == ["sandbox.start", "b1", "approval"]
    assert seen(View(state, "", 1003).since(1)) == []


def test_an_administrator_sees_all(journal: Journal, state: str) -> None:
    write(journal)
    found = seen(View(state, "", None).since(1))
    assert {"a1", "b1", "c1", "daemon.start", "policy.activate"} <= set(found)
    assert len(found) >= 11


def test_one_sandbox_only(journal: Journal, state: str) -> None:
    write(journal)
    assert seen(View(state, "b", None).since(1)) == ["sandbox.start", "b1", "approval"]
    assert seen(View(state, "b", ANN).since(1)) == []
    assert "a1" in seen(View(state, "a", ANN).since(1))


def test_from_a_record_on_and_the_last_ones(journal: Journal, state: str) -> None:
    write(journal)
    everything = list(View(state, "", None).since(1))
    first = next(index for index, line in enumerate(everything, 1) if b'"a2"' in line)
    assert seen(View(state, "", ANN).since(first)) == OWN[2:]  # whose it is was said before that
    assert seen(View(state, "", ANN).last(2)) == OWN[-2:]
    assert seen(View(state, "", None).last(2)) == seen(iter(everything[-2:]))
    assert seen(View(state, "", ANN).last(1_000_000)) == OWN


@pytest.mark.parametrize("uid", [ANN, None])
def test_news(journal: Journal, state: str, uid: int | None) -> None:
    write(journal)
    view = View(state, "", uid)
    list(view.last(1))
    assert seen(view.news()) == []
    effects(journal, "a", "a3")
    effects(journal, "b", "b2")
    start(journal, "a-new", ANN)
    effects(journal, "a-new", "n1")
    expected = ["a3", "sandbox.start", "n1"] if uid == ANN else ["a3", "b2", "sandbox.start", "n1"]
    assert seen(view.news()) == expected
    assert seen(view.news()) == []
