"""Disks that fill up, syncs that fail, writers that are killed. Each in a process of its own, with real failures."""

from pathlib import Path

from tests.journal.samples import run_alone

KILLED = r"""
# A writer is killed at random moments; what it said was appended is there, what it said was durable is durable.
import os, random, signal, struct, sys, time
from governed_mcpd.journal.journal import Journal, JournalSettings
from governed_mcpd.journal.read import entries
from governed_mcpd.journal.verify import verify
state, rounds = sys.argv[1], int(sys.argv[2])
settings = JournalSettings(segment_bytes=20_000, checkpoint_records=20, sync_seconds=0.001)

def write(pipe):
    journal = Journal(state, settings=settings)
    os.write(pipe, struct.pack("=Q", journal.length))
    while True:
        size = random.choice((10, 10, 300, 300, 300, 5000))
        os.write(pipe, struct.pack("=Q", journal.append({"kind": "daemon.stop", "reason": "x" * size})))

length = killed_late = 0
for round in range(rounds):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            write(writer)
        finally:
            os._exit(1)
    os.close(writer)
    acknowledged = b""
    if round % 3:
        acknowledged = os.read(reader, 8)
        killed_late += 1
    end = time.monotonic() + random.uniform(0, 0.01)
    while time.monotonic() < end:
        acknowledged += os.read(reader, 65536)
    os.kill(child, signal.SIGKILL)
    while chunk := os.read(reader, 65536):
        acknowledged += chunk
    _, status = os.waitpid(child, 0)
    os.close(reader)
    assert os.WIFSIGNALED(status), status
    if len(acknowledged) >= 8:
        length = struct.unpack("=Q", acknowledged[len(acknowledged) // 8 * 8 - 8:][:8])[0]
    found = verify(state)
    assert found.ok or not os.path.exists(state + "/journal.pub") or not found.records, found
    assert found.records >= length, (found, length)
    Journal(state, settings=settings).close()
    found = verify(state)
    assert found.ok and not found.torn and found.proved == found.records > length, found
assert [entry.seq for entry in entries(state)] == list(range(1, found.records + 1))
print(found.records, killed_late)
"""


def test_killed_at_random_moments(tmp_path: Path) -> None:
    records, late = map(int, run_alone(KILLED, str(tmp_path / "state"), "30").split())
    assert late == 20
    assert records > 200


LIMITED = r"""
# RLIMIT_FSIZE: a write is cut short in the middle of a line.
import resource, sys, time
from governed_mcpd.journal.errors import JournalFailed, RecordRefused
from governed_mcpd.journal.journal import Journal, JournalSettings
from governed_mcpd.journal.read import entries
from governed_mcpd.journal.verify import verify
state = sys.argv[1]
journal = Journal(state, settings=JournalSettings(retry_seconds=3600))
journal.append({"kind": "daemon.stop"})
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
for _ in range(3):
    try:
        journal.append({"kind": "daemon.stop", "reason": "x" * 2000})
        raise SystemExit("it was written")
    except JournalFailed as error:
        assert "File too large" in str(error), error
assert journal.failure and journal.length == 2
assert verify(state).ok and not verify(state).torn, "the part that was written was removed"
assert not journal.try_recover() or journal.length == 3
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert journal.try_recover() and journal.failure is None
journal.append({"kind": "daemon.stop", "reason": "x" * 2000})
journal.close()
found = verify(state)
assert found.ok, found
recovered = [entry.record for entry in entries(state) if entry.record["kind"] == "journal.recovered"]
assert recovered and recovered[0]["refused"] == 2 and "File too large" in recovered[0]["reason"], recovered
assert [entry.seq for entry in entries(state)] == list(range(1, found.records + 1))
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    run_alone(LIMITED, str(tmp_path))


FULL = r"""
# A small tmpfs in a mount namespace of its own fills up, and is freed again.
import os, subprocess, sys, time
from governed_mcpd.journal.errors import JournalFailed
from governed_mcpd.journal.journal import Journal, JournalSettings
from governed_mcpd.journal.read import entries
from governed_mcpd.journal.verify import verify
where = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", where], check=True)
state = where + "/state"
with open(where + "/ballast", "wb") as file:
    file.write(b"x" * 100_000)
# In the second case rotation is what fails: the first record of a segment finds no room.
settings = JournalSettings(segment_bytes=int(sys.argv[2]), retry_seconds=0.02, sync_seconds=0.01, checkpoint_records=10)
journal = Journal(state, settings=settings)
written = 0
try:
    while True:
        journal.append({"kind": "daemon.stop", "reason": "x" * 700})
        written += 1
except JournalFailed as error:
    assert "No space left" in str(error), error
assert written > 50
told = []
try:
    journal.when_durable(journal.length, told.append)  # what was written before can still become durable
except JournalFailed:
    raise SystemExit("nothing says that it cannot")
for _ in range(20):
    time.sleep(0.01)
    try:
        journal.append({"kind": "daemon.stop", "reason": "x" * 5000})
        raise SystemExit("it was written")
    except JournalFailed:
        pass
assert told == [None], told
assert verify(state).ok, verify(state)
os.unlink(where + "/ballast")
end = time.monotonic() + 10
while journal.failure is not None and time.monotonic() < end:
    time.sleep(0.005)
seq = journal.append({"kind": "daemon.stop", "reason": "room again"})
journal.wait_durable(seq, 10)
journal.close()
found = verify(state)
assert found.ok and not found.torn and found.proved == found.records, found
kinds = [entry.record["kind"] for entry in entries(state)]
assert kinds.count("daemon.stop") == written + 1, "what was refused is not there, what was accepted is"
assert "journal.recovered" in kinds
Journal(state).close()
assert verify(state).ok
"""


def test_a_full_disk(tmp_path: Path) -> None:
    for segment_bytes in ("33554432", "4096"):
        run_alone(FULL, str(tmp_path), segment_bytes, prefix=("unshare", "-m", "--propagation", "private"))


UNSYNCED = r"""
# fdatasync fails with EIO, as a seccomp supervisor in this process answers it, and the pages are lost with it.
import errno, os, sys, time
from threading import Event, Thread
import pyseccomp
from governed_mcpd.journal.errors import JournalFailed
from governed_mcpd.journal.journal import Journal, JournalSettings
from governed_mcpd.journal.read import entries
from governed_mcpd.journal.verify import verify
state = sys.argv[1]
fail, failed = Event(), []

def answer():
    while True:
        call = found.receive_notify()
        if fail.is_set():
            failed.append(call)
            found.respond_notify(pyseccomp.NotificationResponse(id=call.id, val=0, error=-errno.EIO, flags=0))
        else:
            found.respond_notify(pyseccomp.NotificationResponse(id=call.id, val=0, error=0, flags=1))  # 1: CONTINUE

def settle(outcome):
    def callback(error):
        outcome.append(error)
    return callback

def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)

found = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
found.add_rule(pyseccomp.NOTIFY, "fdatasync")
found.load()
Thread(target=answer, daemon=True).start()
journal = Journal(state, settings=JournalSettings(segment_bytes=2000, retry_seconds=0.02, sync_seconds=3600))
journal.wait_durable(journal.append({"kind": "daemon.stop", "reason": "durable"}), 10)
durable = {name: os.stat(f"{state}/journal/{name}").st_size for name in os.listdir(f"{state}/journal")}
fail.set()
outcome = []
for number in range(12):  # over several segments
    seq = journal.append({"kind": "daemon.stop", "reason": f"{number} " + "x" * 400})
journal.when_durable(seq, settle(outcome))
journal.when_durable(3, settle(outcome))
until(lambda: len(outcome) == 2)
assert all(isinstance(error, JournalFailed) and "Input/output error" in str(error) for error in outcome), outcome
assert "Input/output error" in journal.failure
try:
    journal.append({"kind": "daemon.stop"})
    raise SystemExit("it was written")
except JournalFailed:
    pass
late = []
journal.when_durable(seq, settle(late))
until(lambda: late)
assert isinstance(late[0], JournalFailed), "who asks later is told as well"
until(lambda: len(failed) > 3)  # it tries by itself, and fails
assert journal.durable == 2 and journal.length == seq
# The kernel drops what it could not write: the disk has what was durable, and zeros.
for name in os.listdir(f"{state}/journal"):
    path = f"{state}/journal/{name}"
    if name != "lock":
        size = os.stat(path).st_size
        with open(path, "r+b") as file:
            file.seek(durable.get(name, 0))
            file.write(b"\0" * (size - durable.get(name, 0)))
assert not verify(state).ok or verify(state).torn
fail.clear()
until(lambda: journal.failure is None)
last = journal.append({"kind": "daemon.stop", "reason": "after"})
journal.wait_durable(last, 10)
journal.close()
result = verify(state)
assert result.ok and result.proved == last, result
reasons = [entry.record.get("reason", "") for entry in entries(state) if entry.record["kind"] == "daemon.stop"]
assert [reason.split()[0] for reason in reasons] == ["durable", *map(str, range(12)), "after"]

# Still failing at the end: close says so, and nothing waits for ever.
journal = Journal(state + "-2")
fail.set()
journal.append({"kind": "daemon.stop"})
try:
    journal.close()
    raise SystemExit("close promised too much")
except JournalFailed as error:
    assert "may not be on disk" in str(error)
# And a journal whose first sync fails does not open.
try:
    Journal(state + "-3")
    raise SystemExit("it opened")
except JournalFailed:
    pass
fail.clear()
Journal(state + "-3").close()
assert verify(state + "-3").ok
print("done", flush=True)
os._exit(0)
"""


def test_a_sync_that_fails(tmp_path: Path) -> None:
    assert run_alone(UNSYNCED, str(tmp_path / "state")) == "done\n"


BEHIND = r"""
# A disk that never finishes a sync: appends go on up to a bound, then fail; closing is not asked for.
import os, sys, time
from threading import Event, Thread
import pyseccomp
from governed_mcpd.journal.errors import JournalFailed
from governed_mcpd.journal.journal import Journal, JournalSettings
hang, released = Event(), Event()
found = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
found.add_rule(pyseccomp.NOTIFY, "fdatasync")

def answer():
    while True:
        call = found.receive_notify()
        if hang.is_set():
            released.wait()
        found.respond_notify(pyseccomp.NotificationResponse(id=call.id, val=0, error=0, flags=1))

found.load()
Thread(target=answer, daemon=True).start()
journal = Journal(sys.argv[1], settings=JournalSettings(sync_seconds=0.001, behind_bytes=100_000))
hang.set()
slowest, written = 0.0, 0
try:
    while True:
        start = time.perf_counter()
        journal.append({"kind": "daemon.stop", "reason": "x" * 300})
        slowest, written = max(slowest, time.perf_counter() - start), written + 1
        assert written < 10_000
except JournalFailed as error:
    assert "behind" in str(error), error
assert 100 < written < 1000, written
assert slowest < 1, "an append never waits for a sync"
released.set()
end = time.monotonic() + 10
while True:
    try:
        journal.append({"kind": "daemon.stop"})
        break
    except JournalFailed:
        assert time.monotonic() < end
        time.sleep(0.005)
journal.close()
print("done", flush=True)
os._exit(0)
"""


def test_a_sync_that_hangs(tmp_path: Path) -> None:
    assert run_alone(BEHIND, str(tmp_path)) == "done\n"
