"""What the seal refuses reaches the journal, the launcher and the counts."""

from tests.handles.daemon import TellingInstance
from tests.handles.telling_seal import STRANGER


def test_an_event_is_recorded_told_and_counted(instance: TellingInstance) -> None:
    before = instance.status()
    done = instance.run("sh", "-c", "true > tells", profile="free")
    assert done.returncode == 0
    record = instance.wait_for_record(lambda one: one["kind"] == "seal.event" and one["object"] == "/switched")
    assert (record["operation"], record["reason"], record["dropped"]) == ("file.write", "no grant", 3)
    assert record["seal"] == "telling"
    assert record["thread"] > 1
    assert "governed: refused file.write /switched — seal/ungranted: no grant" in done.stderr
    assert f"governedctl journal show {record['seq']}" in done.stderr
    instance.wait_for_record(lambda one: one["kind"] == "sandbox.end" and one["sandbox"] == record["sandbox"])
    kinds = [one["kind"] for one in instance.journal(record["sandbox"])]
    assert kinds.index("seal.event") < kinds.index("sandbox.end")
    after = instance.status()
    assert (after.seal_events - before.seal_events, after.seal_dropped - before.seal_dropped) == (5, 3)
    shown = instance.ctl("status").stdout
    assert f"{after.seal_events} effects refused by the kernel" in shown


def test_what_was_dropped_before_the_same_event_is_counted_as_well(instance: TellingInstance) -> None:
    """Each of these says that three others were dropped, and the second is the same again."""
    done = instance.run("sh", "-c", "true > tells; true > tells", profile="free")
    assert done.returncode == 0
    sandbox = instance.told("adopt")[-1]["sandbox"]
    instance.wait_for_record(lambda one: one["kind"] == "sandbox.end" and one["sandbox"] == sandbox)
    records = [one for one in instance.journal(sandbox) if one["kind"] == "seal.event"]
    assert [one["dropped"] for one in records] == [3, 3]


def test_what_is_left_over_at_the_end_is_counted_as_well(instance: TellingInstance) -> None:
    done = instance.run("sh", "-c", "true > drops", profile="free")
    assert done.returncode == 0
    sandbox = instance.told("adopt")[-1]["sandbox"]
    instance.wait_for_record(lambda one: one["kind"] == "sandbox.end" and one["sandbox"] == sandbox)
    records = instance.journal(sandbox)
    assert [one["dropped"] for one in records if one["kind"] == "seal.event"] == [7]
    kinds = [one["kind"] for one in records]
    assert kinds.index("seal.event") < kinds.index("sandbox.end")


def test_a_mark_that_nobody_supervises_is_recorded(instance: TellingInstance) -> None:
    instance.run("sh", "-c", "true > tells", profile="free")
    record = instance.wait_for_record(lambda one: one["kind"] == "seal.event" and one["sandbox"] == STRANGER)
    assert record["object"] == "/elsewhere"


def test_a_flood_of_events_is_a_bounded_number_of_records(instance: TellingInstance) -> None:
    """One sandbox causes a thousand different ones; none is lost in the count."""
    before = instance.status()
    done = instance.run("sh", "-c", "true > floods; sleep 1.2", profile="free", timeout=60)
    assert done.returncode == 0
    sandbox = instance.told("adopt")[-1]["sandbox"]
    instance.wait_for_record(lambda one: one["kind"] == "sandbox.end" and one["sandbox"] == sandbox)
    records = [one for one in instance.journal(sandbox) if one["kind"] == "seal.event"]
    assert 100 <= len(records) <= 120
    assert sum(1 + one.get("dropped", 0) for one in records) == 1000
    after = instance.status()
    assert after.seal_events - before.seal_events == 1000
    # The neighbour has a share of its own.
    instance.run("sh", "-c", "true > tells", profile="free")
    other = instance.told("adopt")[-1]["sandbox"]
    instance.wait_for_record(lambda one: one["kind"] == "seal.event" and one["sandbox"] == other)
