"""What waits for a person holds up nobody else, is joined, is bounded, ends, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from governed.v1 import control_pb2 as pb
from governed_mcpd.control.client import ControlError
from tests.faults.common import ASKED, Record, count, effects, gate, inside, policies, settles
from tests.support.instance import Instance, Program
from tests.support.users import ADMIN, OTHER, ROOT, STRANGER, USER

ASK = gate(ask=0, deny=1000)

# Opens the files named in argv[2:] in a thread each; says how each went, and how often another thread could work
# (create files that run free) until the last was answered.
OPENS = """
import errno, json, os, sys, threading
os.makedirs("free", exist_ok=True) if sys.argv[1] == "make" else None
results, others, running = {}, [0], True

def attempt(index, path):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        results[f"{index}:{path}"] = "OK"
    except OSError as error:
        results[f"{index}:{path}"] = errno.errorcode[error.errno]

def other():
    while running:
        os.close(os.open(f"free/other-{os.getpid()}-{others[0] % 100}", os.O_WRONLY | os.O_CREAT, 0o600))
        others[0] += 1

workers = [threading.Thread(target=attempt, args=one) for one in enumerate(sys.argv[2:])]
[worker.start() for worker in workers]
side = threading.Thread(target=other)
side.start()
[worker.join() for worker in workers]
running = False
side.join()
print(json.dumps({"results": results, "others": others[0]}))
"""


@pytest.fixture(scope="module")
def asking() -> Iterator[Instance]:
    with Instance(
        policies=policies(ASK, few=ASKED.replace("name: asked", "name: few") + "limits: {pending: 5}\n")
    ) as it:
        (it.work / "free").mkdir()
        os.chown(it.work / "free", USER, USER)
        yield it


@pytest.fixture(autouse=True)
def nothing_waits(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "asking" in request.fixturenames:
        instance: Instance = request.getfixturevalue("asking")
        settles(instance)
        assert questions(instance) == []
        assert instance.status().pending == 0


def questions(instance: Instance) -> list[dict[str, Any]]:
    with instance.connect() as client:
        request = pb.ControlRequest(approval_list=pb.ApprovalListRequest())
        found = client.ask(request, "approvals").approvals.approvals
    return [
        {
            "id": one.id,
            "object": os.fsdecode(one.action.effect.object),
            "argv": [os.fsdecode(word) for word in one.action.effect.argv],
            "waiting": one.waiting,
            "layer": one.verdict.layer,
            "rule": one.verdict.rule,
            "seconds": (one.deadline_us - one.asked_us) / 1e6,
        }
        for one in found
    ]


def question(instance: Instance, name: str, waiting: int = 1) -> dict[str, Any]:
    """The question about creating `name`, once `waiting` threads wait for its answer."""

    def found() -> dict[str, Any] | None:
        for one in questions(instance):
            if one["object"].endswith(f"/{name}") and one["waiting"] == waiting:
                return one
        return None

    return instance.wait_until(found, f"{waiting} to wait for {name}", 20)


def answer(instance: Instance, verb: str, identity: str, user: int = ROOT) -> int:
    """The exit code of `approvals approve|deny`; root's is asked for without starting the program."""
    if user != ROOT:
        return instance.ctl("approvals", verb, identity, user=user).returncode
    wanted = pb.ApprovalDecideRequest(id=identity, approve=verb == "approve")
    try:
        with instance.connect() as client:
            client.ask(pb.ControlRequest(approval_decide=wanted), "done")
    except ControlError:
        return 1
    return 0


def report(program: Program) -> dict[str, Any]:
    out, err = program.communicate(timeout=30)
    assert program.returncode == 0, err
    return dict(json.loads(out))


def test_others_go_on_meanwhile(asking: Instance) -> None:
    program = asking.spawn(*inside(OPENS, "", "slow"), profile="asked")
    one = question(asking, "slow")
    began = time.monotonic()
    for index in range(3):  # another sandbox, start to end
        assert asking.run("sh", "-c", f": > free/beside-{index}", profile="asked").returncode == 0
    assert time.monotonic() - began < 20
    assert program.poll() is None
    time.sleep(0.5)
    assert answer(asking, "approve", one["id"]) == 0
    told = report(program)
    assert told["results"] == {"0:slow": "OK"}
    assert told["others"] > 100, "the other thread of the same sandbox stood still"


def test_identical_questions_are_joined_and_one_approval_answers_all(asking: Instance) -> None:
    program = asking.spawn(*inside(OPENS, "", *["same"] * 8, "different"), profile="asked")
    one = question(asking, "same", waiting=8)
    other = question(asking, "different")
    assert len(questions(asking)) == 2
    assert asking.status().pending == 9
    assert asking.status().waiting == 2
    assert answer(asking, "approve", one["id"], user=ADMIN) == 0
    assert answer(asking, "deny", other["id"], user=ADMIN) == 0
    told = report(program)["results"]
    assert told == {**{f"{index}:same": "OK" for index in range(8)}, "8:different": "EPERM"}
    name = f"{asking.work}/same"
    created = effects(asking.journal(), object=name, decision="allow")
    assert len(created) == 8
    assert {record["approved_by"] for record in created} == {f"uid {ADMIN}"}
    assert len([record for record in asking.journal() if record.get("approval") == one["id"]]) == 1


def test_two_sandboxes_are_not_answered_by_one_approval(asking: Instance) -> None:
    programs = [asking.spawn(*inside(OPENS, "", "shared"), profile="asked") for _ in range(2)]
    both = asking.wait_until(lambda: found if len(found := questions(asking)) == 2 else None, "both to ask", 20)
    assert answer(asking, "approve", both[0]["id"]) == 0
    time.sleep(0.3)
    assert len(questions(asking)) == 1
    assert answer(asking, "deny", both[1]["id"]) == 0
    results = [report(program)["results"]["0:shared"] for program in programs]
    assert sorted(results) == ["EPERM", "OK"]


def test_the_bound_on_pending_refuses_the_next(asking: Instance) -> None:
    program = asking.spawn(*inside(OPENS, "", *[f"many-{index}" for index in range(8)]), profile="few")
    waiting = asking.wait_until(lambda: found if len(found := questions(asking)) == 5 else None, "five", 20)
    asking.wait_for_record(lambda record: record.get("rule") == "too-many-pending")
    # Another sandbox has a bound of its own.
    beside = asking.spawn(*inside(OPENS, "", "beside"), profile="few")
    assert answer(asking, "approve", question(asking, "beside")["id"]) == 0
    assert report(beside)["results"] == {"0:beside": "OK"}
    for one in waiting:
        assert answer(asking, "approve", one["id"]) == 0
    told = report(program)["results"]
    assert sorted(told.values()) == ["EPERM"] * 3 + ["OK"] * 5
    refused = effects(asking.journal(), rule="too-many-pending")
    assert len(refused) == 3
    assert "5" in refused[0]["reason"]


@pytest.mark.parametrize("user", [USER, OTHER, STRANGER])
def test_only_administrators_answer(asking: Instance, user: int) -> None:
    program = asking.spawn(*inside(OPENS, "", f"by-{user}"), profile="asked")
    one = question(asking, f"by-{user}")
    assert answer(asking, "approve", one["id"], user=user) == 4
    assert answer(asking, "deny", one["id"], user=user) == 4
    assert asking.ctl("approvals", "list", user=user).returncode == 4
    assert program.poll() is None
    assert answer(asking, "approve", "no-such-id", user=ADMIN) == 1
    assert answer(asking, "approve", one["id"], user=ADMIN) == 0
    assert report(program)["results"] == {f"0:by-{user}": "OK"}
    assert answer(asking, "approve", one["id"]) == 1


def test_a_sandbox_cannot_answer_itself(asking: Instance) -> None:
    """Even root's: the control socket is on the never-list, and a peer from inside is told to go."""
    done = asking.run(*asking.command("approvals", "list"), user=0, profile="loose")
    assert done.returncode != 0
    assert "never-own-sockets" in done.stderr


def test_nobody_answers_in_time() -> None:
    with Instance(policies=policies(gate(ask=0, deny=1000, person_seconds=2))) as instance:
        began = time.monotonic()
        program = instance.spawn("touch", "late", profile="asked")
        one = question(instance, "late")
        assert one["seconds"] == 2
        asking = f"asked by {one['layer']}/{one['rule']}"
        _, said = program.communicate(timeout=30)
        assert program.returncode == 1
        assert time.monotonic() - began > 1.5
        assert b"approval-timeout" in said
        (record,) = effects(instance.journal(), object=f"{instance.work}/late")
        assert (record["decision"], record["layer"], record["rule"]) == ("deny", "person", "approval-timeout")
        assert record["reason"] == f"nobody answered within 2 s; {asking}"
        assert asking.encode() in said
        assert questions(instance) == []
        assert answer(instance, "approve", one["id"]) == 1


# A signal with a handler ends the wait: without SA_RESTART with EINTR, with it the call comes again.
INTERRUPTED = """
import ctypes, errno, os, signal, sys, time
restart, name = sys.argv[1] == "restart", sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
count = [0]

def handler(*_):
    count[0] += 1

signal.signal(signal.SIGALRM, handler)
signal.siginterrupt(signal.SIGALRM, not restart)
signal.setitimer(signal.ITIMER_REAL, 0.4, 0.4 if restart else 0)
number = libc.open(name.encode(), os.O_WRONLY | os.O_CREAT, 0o600)
signal.setitimer(signal.ITIMER_REAL, 0)
print("OK" if number >= 0 else errno.errorcode[ctypes.get_errno()], flush=True)
sys.stdin.read()
"""


def line(program: Program) -> bytes:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def test_an_interrupted_call_leaves_nothing_pending(asking: Instance) -> None:
    program = asking.spawn(*inside(INTERRUPTED, "once", "interrupted"), profile="asked")
    assert line(program) == b"EINTR"
    asking.wait_until(lambda: True if not questions(asking) else None, "the question to go", 10)
    assert program.poll() is None
    record = asking.wait_for_record(lambda record: record.get("object") == f"{asking.work}/interrupted")
    assert (record["decision"], record["rule"], record["errno"]) == ("deny", "withdrawn", "EINTR")
    program.communicate(timeout=10)
    assert not (asking.work / "interrupted").exists()


# One thread, many files: a timer ends each wait. Then it waits for a line, and opens one file more.
STORM = """
import ctypes, errno, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
said = []

def attempt(name):
    number = libc.open(name.encode(), os.O_WRONLY | os.O_CREAT, 0o600)
    return "OK" if number >= 0 else errno.errorcode[ctypes.get_errno()]

signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
for index in range(200):
    said.append(attempt(f"storm-{index}"))
signal.setitimer(signal.ITIMER_REAL, 0)
print(" ".join(said), flush=True)
sys.stdin.readline()
print(attempt("after"), flush=True)
"""


def test_interrupting_oneself_asks_no_more_than_waiting(asking: Instance) -> None:
    program = asking.spawn(*inside(STORM), profile="few")
    most = 0

    def over() -> Record | None:
        nonlocal most
        most = max(most, len(questions(asking)))
        found = effects(asking.journal(), rule="too-many-pending")
        return next((record for record in found if "interrupted" in record["reason"]), None)

    record = asking.wait_until(over, "the bound to be reached", 20)
    assert "20 questions" in record["reason"]
    beside = asking.spawn(*inside(OPENS, "", "untouched"), profile="few")
    assert answer(asking, "approve", question(asking, "untouched")["id"]) == 0
    assert report(beside)["results"] == {"0:untouched": "OK"}
    said = line(program).split()
    assert {b"EINTR", b"EPERM"} == set(said)
    assert most <= 21
    asking.wait_until(lambda: True if not questions(asking) else None, "what nobody waits for to go", 20)
    assert program.stdin is not None
    program.stdin.write(b"\n")
    program.stdin.flush()
    assert answer(asking, "approve", question(asking, "after")["id"]) == 0
    assert line(program) == b"OK"
    program.communicate(timeout=10)
    made = subprocess.run([*inside(STORM)], cwd=asking.base, input=b"\n", capture_output=True, timeout=20, check=True)
    assert set(made.stdout.split()) == {b"OK"}, "outside"


def test_a_restarted_call_is_the_same_question(asking: Instance) -> None:
    program = asking.spawn(*inside(INTERRUPTED, "restart", "restarted"), profile="asked")
    one = question(asking, "restarted")
    time.sleep(3)  # some signals and some sweeps later
    assert [other["id"] for other in questions(asking)] == [one["id"]]
    assert asking.status().pending == 1
    assert answer(asking, "approve", one["id"]) == 0
    assert line(program) == b"OK"
    program.communicate(timeout=10)
    records = [record for record in asking.journal() if record.get("object") == f"{asking.work}/restarted"]
    assert [record["decision"] for record in effects(records)] in (["deny", "allow"], ["deny"] * 2 + ["allow"])
    assert count(records, rule="withdrawn") >= 2


def test_a_process_killed_while_it_waits_leaves_nothing_pending(asking: Instance) -> None:
    """The kernel tells the supervisor nothing of it."""
    code = """
import os, signal, sys, time
child = os.fork()
if child == 0:
    os.open("dies", os.O_WRONLY | os.O_CREAT, 0o600)
    os._exit(1)
sys.stdin.readline()
os.kill(child, signal.SIGKILL)
print(os.waitpid(child, 0)[1], flush=True)
sys.stdin.read()
"""
    program = asking.spawn(*inside(code), profile="asked")
    killed(asking, program, "dies")


def test_a_thread_killed_while_it_waits_leaves_nothing_pending(asking: Instance) -> None:
    """execve(2) of another thread ends it."""
    code = """
import os, sys, threading
threading.Thread(target=lambda: os.open("ends", os.O_WRONLY | os.O_CREAT, 0o600), daemon=True).start()
sys.stdin.readline()
os.execv("/bin/sh", ["sh", "-c", "echo 9; cat"])
"""
    program = asking.spawn(*inside(code), profile="asked")
    killed(asking, program, "ends")


def killed(instance: Instance, program: Program, name: str) -> None:
    one = question(instance, name)
    assert program.stdin is not None
    program.stdin.write(b"\n")
    program.stdin.flush()
    assert line(program) == b"9"
    instance.wait_until(lambda: True if not questions(instance) else None, "the question to go", 15)
    assert answer(instance, "approve", one["id"]) == 1
    assert instance.status().pending == 0
    assert program.poll() is None
    record = instance.wait_for_record(lambda record: record.get("object") == f"{instance.work}/{name}")
    assert record["rule"] == "withdrawn"
    program.communicate(timeout=10)


def test_a_sandbox_killed_while_it_waits(asking: Instance) -> None:
    program = asking.spawn(*inside(OPENS, "", *[f"killed-{index}" for index in range(4)]), profile="asked")
    asking.wait_until(lambda: True if len(questions(asking)) == 4 else None, "four", 20)
    (info,) = asking.sandboxes()
    assert info.pending == 4
    assert asking.ctl("sandbox", "kill", info.subject.sandbox, user=ADMIN).returncode == 0
    assert program.wait(10) != 0
    asking.wait_until(lambda: True if not questions(asking) else None, "the questions to go", 10)
    records: list[Record] = [r for r in asking.journal() if "killed-" in str(r.get("object"))]
    assert len(effects(records, decision="deny")) == 4
    assert {record["rule"] for record in effects(records)} <= {"sandbox-ended", "withdrawn"}


def test_a_launcher_killed_while_its_sandbox_waits(asking: Instance) -> None:
    program = asking.spawn(*inside(OPENS, "", "launcherless"), profile="asked")
    question(asking, "launcherless")
    os.kill(program.pid, signal.SIGKILL)
    program.wait(10)
    settles(asking)
    assert questions(asking) == []


def test_long_command_lines_do_not_break_the_list(asking: Instance) -> None:
    """Forty questions with half a megabyte each are more than one message takes: they are listed, shortened."""
    code = """
import os, sys
for index in range(40):
    if os.fork() == 0:
        os.execv("/bin/true", ["true", str(index), *["x" * 100_000] * 5])
sys.stdin.read()
"""
    text = ASKED.replace("  - {operations: [process.exec], on: /**}\n", "").replace("name: asked", "name: execs")
    with Instance(policies=policies(ASK, execs=text)) as instance:
        program = instance.spawn(*inside(code), profile="execs")
        first = instance.wait_until(lambda: questions(instance) or None, "the first exec", 20)[0]
        assert answer(instance, "approve", first["id"]) == 0
        found = instance.wait_until(lambda: some if len(some := questions(instance)) == 40 else None, "forty", 60)
        assert len(json.dumps(found)) < 1_000_000
        assert all("…" in " ".join(one["argv"]) for one in found)
        assert instance.ctl("approvals", "list", user=ADMIN).returncode == 0
        assert instance.ctl("sandbox", "list", user=ADMIN).returncode == 0
        (info,) = instance.sandboxes()
        assert answer(instance, "deny", found[0]["id"]) == 0
        assert instance.ctl("sandbox", "kill", info.subject.sandbox).returncode == 0
        program.communicate(timeout=20)
