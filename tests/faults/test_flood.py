"""Ten thousand pauses in bursts over twenty sandboxes: none lost, none answered twice, every one recorded."""

import json
import time

from tests.faults.common import count, effects, inside, policies, settles, verified
from tests.support.instance import Instance

SANDBOXES = 20
THREADS = 8
EACH = 63  # 20 sandboxes × 8 threads × 63 calls are more than ten thousand

# Each thread goes round: a file of its own (the gate, then a lease), the same file again, a file outside the envelope
# that nobody else names, and one that all name (which is counted, not recorded again). Each result is checked here.
STORM = """
import errno, json, os, sys, threading
each, threads = int(sys.argv[1]), int(sys.argv[2])
allowed, refused, wrong = [0] * threads, [0] * threads, []
barrier = threading.Barrier(threads)

def write(path, flags):
    os.close(os.open(path, flags, 0o600))

def denied(me, path):
    try:
        os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        wrong.append(f"{path} could be opened")
    except PermissionError as error:
        refused[me] += 1
        if error.errno != errno.EPERM:
            wrong.append(f"{path}: {error}")

def run(me):
    for index in range(each):
        if index % 16 == 0:
            barrier.wait()
        own = f"storm-{os.getpid()}-{me}-{index - index % 4}"
        try:
            if index % 4 == 0:
                write(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                allowed[me] += 1
            elif index % 4 == 1:
                write(own, os.O_WRONLY | os.O_APPEND)
                allowed[me] += 1
            elif index % 4 == 2:
                denied(me, f"/etc/storm-{os.getpid()}-{me}-{index}")
            else:
                denied(me, "/etc/storm")
        except Exception as error:
            wrong.append(f"{me} {index}: {error!r}")

workers = [threading.Thread(target=run, args=(me,)) for me in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
here = sum(name.startswith(f"storm-{os.getpid()}-") for name in os.listdir("."))
print(json.dumps({"allowed": sum(allowed), "refused": sum(refused), "files": here, "wrong": wrong}))
"""


def test_ten_thousand_pauses_in_twenty_sandboxes() -> None:
    with Instance(policies=policies()) as instance:
        began = time.monotonic()
        programs = [
            instance.spawn(*inside(STORM, EACH, THREADS), profile="loose", quiet=True) for _ in range(SANDBOXES)
        ]
        said = []
        for program in programs:
            out, err = program.communicate(timeout=120)
            assert program.returncode == 0, err
            said.append(json.loads(out))
        took = time.monotonic() - began
        settles(instance)
        records = instance.journal()
        assert [one["wrong"] for one in said] == [[]] * SANDBOXES
        calls = THREADS * EACH
        assert [one["allowed"] + one["refused"] for one in said] == [calls] * SANDBOXES
        assert SANDBOXES * calls > 10_000

        names = [record["sandbox"] for record in records if record["kind"] == "sandbox.start"]
        assert len(set(names)) == SANDBOXES
        told = []
        for name in names:
            mine = [record for record in records if record.get("sandbox") == name]
            # The start of the program is one more. Nothing else that Python does is held under this profile.
            execs = count(mine, operation="process.exec", decision="allow")
            assert execs == 1
            told.append((count(mine, decision="allow") - execs, count(mine, decision="deny")))
            (end,) = [record for record in mine if record["kind"] == "sandbox.end"]
            assert (end["allowed"] - execs, end["refused"]) == told[-1]
        assert sorted(told) == sorted((one["allowed"], one["refused"]) for one in said)
        assert [one["files"] for one in said] == [THREADS * 16] * SANDBOXES

        # Answered twice, or answered when nobody waited any more, would be an effect.gone.
        assert [record for record in records if record["kind"] == "effect.gone"] == []
        assert {record["rule"] for record in effects(records, decision="deny")} == {"envelope"}
        assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
        assert instance.status().pending == 0
        verified(instance)
        assert took < 100, f"{SANDBOXES * calls} pauses took {took:.0f} s"
