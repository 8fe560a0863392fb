"""The opens that a lease covers, which subjects/covered.c serves by itself: recorded, counted and bounded as the others
are, and not served where anything differs."""

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.common import LOOSE, Record, effects, inside, policies, settles, verified, within
from tests.faults.fuse import Silent
from tests.faults.test_journal_pressure import fill, frozen, line, on_a_small_disk
from tests.support.instance import PROGRAMS, Instance, Program
from tests.support.users import USER

# Opens a file for writing over and over: for each line that it reads, as often as that says; prints the errnos, each
# with how often it came.
OPENS = """
import json, os, sys
from collections import Counter
for said in sys.stdin:
    name, times, flags = json.loads(said)
    found = Counter()
    for _ in range(times):
        try:
            os.close(os.open(name, flags))
            found[0] += 1
        except OSError as error:
            found[error.errno] += 1
    print(json.dumps(found), flush=True)
"""
TIMES = {"seq", "time_us", "pause_us"}
SMALL = LOOSE.replace("name: loose", "name: small") + "limits: {journal_mib: 1}\n"
KEEPS_OFF = LOOSE.replace("name: loose", "name: keeps-off").replace("write: ['${cwd}'", "write: ['${cwd}/elsewhere'")


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance(policies=policies(small=SMALL, **{"keeps-off": KEEPS_OFF})) as it:
        yield it


class Opener:
    """A sandbox that opens files when it is told to."""

    def __init__(self, instance: Instance, profile: str = "loose") -> None:
        self.program: Program = instance.spawn(*inside(OPENS), profile=profile, quiet=True)

    def opens(self, path: Path, times: int, flags: int = os.O_WRONLY) -> dict[int, int]:
        """How often each errno came; 0 is success."""
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.write(json.dumps([str(path), times, flags]).encode() + b"\n")
        self.program.stdin.flush()
        return {int(number): count for number, count in json.loads(self.program.stdout.readline()).items()}

    def close(self) -> None:
        self.program.communicate(timeout=20)
        assert self.program.returncode == 0


def own(instance: Instance, name: str) -> Path:
    path = instance.work / name
    path.write_text("as it was")
    os.chown(path, USER, USER)
    return path


def of(instance: Instance, path: Path) -> list[Record]:
    return [record for record in effects(instance.journal()) if record["object"] == str(path)]


def test_each_is_recorded_and_counted(instance: Instance) -> None:
    path, opener = own(instance, "counted"), Opener(instance)
    assert opener.opens(path, 2500) == {0: 2500}  # a lease is good for 1000: three judgements
    (info,) = instance.sandboxes()
    opener.close()
    settles(instance)
    records = of(instance, path)
    assert [record["decision"] for record in records] == ["allow"] * 2500
    assert [record["layer"] == "lease" for record in records].count(False) == 3
    leased = [{name: one for name, one in record.items() if name not in TIMES} for record in records[1:1000]]
    assert all(one == leased[0] for one in leased), "the short way records something else than the long one"
    assert all(one["time_us"] <= two["time_us"] for one, two in pairwise(records))
    assert all(0 < record["pause_us"] < 10_000_000 for record in records)
    assert info.allowed >= 2500
    end = instance.wait_for_record(lambda one: one["kind"] == "sandbox.end" and one["sandbox"] == info.subject.sandbox)
    assert end["allowed"] == info.allowed
    verified(instance)


def test_what_stands_there_is_looked_at_each_time(instance: Instance) -> None:
    """Between two opens that are covered the name comes to mean something else."""
    path, opener = own(instance, "changes"), Opener(instance)
    outside, aside = instance.base / "outside", instance.work / "aside"
    outside.write_text("as it was")
    os.chown(outside, USER, USER)
    assert opener.opens(path, 50) == {0: 50}
    path.rename(aside)
    assert opener.opens(path, 3) == {errno.ENOENT: 3}
    path.symlink_to(outside)
    assert opener.opens(path, 3) == {errno.EPERM: 3}
    assert opener.opens(path, 3, os.O_WRONLY | os.O_NOFOLLOW) == {errno.ELOOP: 3}
    path.unlink()
    path.mkdir()
    assert opener.opens(path, 3) == {errno.EISDIR: 3}
    path.rmdir()
    os.mkfifo(path)
    os.chown(path, USER, USER)
    assert opener.opens(path, 3, os.O_WRONLY | os.O_NONBLOCK) == {errno.ENXIO: 3}  # allowed; nobody reads it
    path.unlink()
    aside.rename(path)
    assert opener.opens(path, 50) == {0: 50}
    assert opener.opens(path, 1, os.O_WRONLY | os.O_CREAT | os.O_EXCL) == {errno.EEXIST: 1}
    assert opener.opens(path, 50, os.O_RDWR | os.O_APPEND) == {0: 50}
    assert {record["details"]["flags"] for record in of(instance, path)[-50:]} == {"read+write+append"}
    opener.close()
    assert outside.read_text() == "as it was"
    verified(instance)


def test_a_policy_that_takes_it_away_counts_at_once(instance: Instance) -> None:
    path, opener = own(instance, "taken-away"), Opener(instance)
    assert opener.opens(path, 50) == {0: 50}
    document = instance.policy_dir / "profile-loose.yaml"
    before = document.read_text()
    document.write_text(before + f"protected: ['{path}']\n")
    try:
        assert instance.ctl("apply", "-f", instance.policy_dir).returncode == 0
        assert opener.opens(path, 5) == {errno.EPERM: 5}
        assert opener.opens(own(instance, "neighbour"), 5) == {0: 5}
    finally:
        document.write_text(before)
        assert instance.ctl("apply", "-f", instance.policy_dir).returncode == 0
    assert opener.opens(path, 5) == {0: 5}
    opener.close()


# From eight threads at once, as often as they can until they are told to stop; then says how often that was.
FLOOD = """
import os, sys, threading
name, most = sys.argv[1], int(sys.argv[2])
told, counts = threading.Event(), []
def opens():
    count = 0
    while count < most and not told.is_set():
        os.close(os.open(name, os.O_WRONLY))
        count += 1
    counts.append(count)
threads = [threading.Thread(target=opens) for _ in range(8)]
[thread.start() for thread in threads]
print("begun", flush=True)
sys.stdin.readline()
told.set()
[thread.join() for thread in threads]
print(sum(counts))
"""


def test_a_flood_holds_up_nobody_and_dies_in_the_middle(instance: Instance) -> None:
    """What is covered never comes back to Python by itself: others have their turn all the same, and each of the opens
    has its record, also of threads that are killed."""
    path, other = own(instance, "flooded"), own(instance, "beside")
    floods = [instance.spawn(*inside(FLOOD, path, 20_000), profile="loose", quiet=True) for _ in range(2)]
    for flood in floods:
        assert line(flood) == b"begun"
    neighbour = Opener(instance)
    assert neighbour.opens(other, 300) == {0: 300}
    assert len(instance.sandboxes()) == 3
    neighbour.close()
    floods[0].kill()
    said, _ = floods[1].communicate(b"stop\n", timeout=60)
    floods[0].communicate(timeout=20)
    assert floods[1].returncode == 0
    settles(instance)
    verified(instance)
    records = of(instance, path)
    assert {record["decision"] for record in records} == {"allow"}
    by_sandbox = Counter(record["sandbox"] for record in records)
    assert len(by_sandbox) == 2
    assert int(said) > 300
    assert int(said) in by_sandbox.values()


# The parent has a lease for a file, and opens it over and over; its child, which has fewer rights, opens it as well.
FAMILY = """
import os, subprocess, sys, threading
name, ctl, child = sys.argv[1:4]
stop = threading.Event()
def opens():
    while not stop.is_set():
        os.close(os.open(name, os.O_WRONLY))
for _ in range(50):
    os.close(os.open(name, os.O_WRONLY))
thread = threading.Thread(target=opens)
thread.start()
code = "import os, sys; [os.close(os.open(sys.argv[1], os.O_WRONLY)) for _ in range(3)]"
done = subprocess.run([ctl, "run", "--quiet", "--profile", child, "--", "/usr/bin/python3", "-ISc", code, name],
                      capture_output=True, text=True)
stop.set()
thread.join()
print(done.returncode, done.stderr.strip().splitlines()[-1:] if done.returncode else "")
"""


def test_a_child_subject_has_no_lease_of_its_parents(instance: Instance) -> None:
    path = own(instance, "family")
    ctl = PROGRAMS / "governedctl"
    for child, worked in (("keeps-off", False), ("loose", True)):
        done = instance.run(*inside(FAMILY, path, ctl, child), profile="loose", quiet=True, timeout=60)
        assert done.returncode == 0, done
        assert done.stdout.startswith("0 " if worked else "1 "), done
        assert worked or "PermissionError" in done.stdout
    children = [record for record in of(instance, path) if "." in record["sandbox"]]
    assert [(record["decision"], record.get("rule")) for record in children[:1]] == [("deny", "envelope")]
    allowed = [record for record in children if record["decision"] == "allow"]
    assert len(allowed) == 3
    assert {record["subject"]["profile"] for record in allowed} == {"loose"}
    assert allowed[0]["layer"] != "lease", "the parent's lease is the parent's"


def test_a_full_disk_covers_nothing() -> None:
    with on_a_small_disk(2048) as instance:
        path, opener = own(instance, "full"), Opener(instance)
        assert opener.opens(path, 200) == {0: 200}
        fill(instance)
        found = opener.opens(path, 200)
        refused = found.pop(errno.EPERM)
        assert refused > 150, found  # what the last page of the journal still held
        (instance.state_dir / "filler").unlink()
        instance.wait_until(lambda: True if instance.status().journal == "ok" else None, "the journal", 20)
        assert opener.opens(path, 200) == {0: 200}
        opener.close()
        settles(instance)
        verified(instance)
        allowed = [record for record in of(instance, path) if record["decision"] == "allow"]
        assert len(allowed) == 400 + found.get(0, 0)


def test_it_is_frozen_at_its_budget_like_any_other(instance: Instance) -> None:
    path = own(instance, "budget")
    opener = Opener(instance, "small")
    assert opener.program.stdin is not None
    opener.program.stdin.write(json.dumps([str(path), 100_000, os.O_WRONLY]).encode() + b"\n")
    opener.program.stdin.flush()
    name = frozen(instance)
    spent = sum(len(json.dumps(one)) for one in instance.journal(name))
    assert 700_000 < spent < 1_500_000
    opener.program.kill()
    opener.program.communicate(timeout=20)
    settles(instance)
    verified(instance)


def test_a_look_that_does_not_come_back_holds_up_nobody_else() -> None:
    """The short way looks by itself, at whatever is opened: also at what lies on a file system that never answers."""
    with Instance(policies=policies()) as instance, Silent(instance.work / "silent", USER):
        path, other = own(instance, "answers"), own(instance, "other")
        opener, neighbour = Opener(instance), Opener(instance)
        assert opener.opens(path, 100) == {0: 100}  # its calls are waited for by themselves now
        assert opener.program.stdin is not None
        opener.program.stdin.write(json.dumps([f"{instance.work}/silent/hangs", 1, os.O_WRONLY]).encode() + b"\n")
        opener.program.stdin.flush()
        assert neighbour.opens(other, 300) == {0: 300}
        assert opener.program.stdout is not None
        assert json.loads(opener.program.stdout.readline()) == {str(errno.EPERM): 1}
        assert instance.wait_for_record(lambda one: one.get("rule") == "look-timeout")
        assert opener.opens(path, 100) == {0: 100}
        neighbour.close()
        opener.program.kill()
        opener.program.communicate(timeout=20)
        within(15, lambda: not instance.sandboxes(), "both to end")
        verified(instance)
