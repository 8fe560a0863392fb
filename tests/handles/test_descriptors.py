"""No descriptor of a look outlives its pause by more than the grants that are kept: counted in a real daemon."""

import os
import signal
import time

from tests.handles.conftest import POLICIES
from tests.handles.daemon import TellingInstance
from tests.support.instance import Instance

PYTHON = "/usr/bin/python3"
# Grants that are kept (supervisor/decide GRANTS_HELD), each with three descriptors at most here; and what a daemon
# opens and closes besides.
KEPT = 256 * 3
SLACK = 24

# Each kind so many times: what runs free, what is refused, what would fail, what is asked and given up.
WORK = """
import os, signal, sys, threading
os.makedirs("many", exist_ok=True)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, True)
def tried(act):
    try:
        act()
    except OSError:
        pass
for number in range(int(sys.argv[1])):
    os.close(os.open("many/file", os.O_WRONLY | os.O_CREAT))
    os.rename("many/file", "many/other")
    os.unlink("many/other")
    tried(lambda: os.open("/etc/refused", os.O_WRONLY | os.O_CREAT))
    tried(lambda: os.rename("/etc/hostname", "/etc/refused"))
    tried(lambda: os.open("secrets/refused", os.O_WRONLY | os.O_CREAT))
    tried(lambda: os.unlink("many/missing"))
    tried(lambda: os.mkdir("many"))
    tried(lambda: os.open("ungrantable", os.O_WRONLY | os.O_CREAT))
    removed = os.open("many/removed", os.O_RDWR | os.O_CREAT)
    os.unlink("many/removed")
    os.close(os.open(f"/proc/self/fd/{removed}", os.O_WRONLY))
    os.close(removed)
"""
# Effects that the gate is asked about while it stands still; a signal ends each wait.
WITHDRAWN = """
import os, signal, sys
class Ended(Exception): pass
def end(*_): raise Ended
signal.signal(signal.SIGALRM, end)
for number in range(int(sys.argv[1])):
    signal.setitimer(signal.ITIMER_REAL, 0.004)
    try:
        os.mkdir(f"/tmp/withdrawn-{os.getpid()}-{number}")
    except (OSError, Ended):
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
"""


def descriptors(instance: TellingInstance) -> int:
    assert instance.daemon is not None
    return len(os.listdir(f"/proc/{instance.daemon.pid}/fd"))


def settled(instance: TellingInstance) -> int:
    """The count when no sandbox is left."""
    instance.wait_until(lambda: True if not instance.sandboxes() else None, "sandboxes to end", 20)
    time.sleep(0.2)
    return descriptors(instance)


def test_thousands_of_pauses_leave_nothing_open(instance: TellingInstance) -> None:
    (instance.work / "secrets").mkdir(exist_ok=True)
    before = settled(instance)
    assert instance.run(PYTHON, "-c", WORK, "60", profile="free", quiet=True, timeout=120).returncode == 0
    full = settled(instance)
    assert full <= before + KEPT + SLACK
    for _ in range(2):
        assert instance.run(PYTHON, "-c", WORK, "400", profile="free", quiet=True, timeout=200).returncode == 0
    assert settled(instance) <= full + SLACK
    # What a grant was for is let go of when it holds no longer: nothing stays in use.
    instance.wait_until(lambda: True if descriptors(instance) <= before + SLACK else None, "grants to be over", 20)


def test_what_is_asked_and_withdrawn_leaves_nothing_open(instance: TellingInstance) -> None:
    assert instance.gate is not None
    before = settled(instance)
    os.kill(instance.gate.pid, signal.SIGSTOP)
    try:
        done = instance.run(PYTHON, "-c", WITHDRAWN, "300", profile="wide", quiet=True, timeout=120)
        assert done.returncode == 0, done.stderr
        hangs = instance.spawn(PYTHON, "-c", "import os; os.mkdir('/tmp/never')", profile="wide")
        instance.wait_until(
            lambda: True if any(info.pending for info in instance.sandboxes()) else None, "a call to be held"
        )
        hangs.kill()  # with the launcher its sandbox ends, and what waits with it
        assert settled(instance) <= before + SLACK
    finally:
        os.kill(instance.gate.pid, signal.SIGCONT)
    withdrawn = [record for record in instance.journal() if record.get("rule") in ("withdrawn", "sandbox-ended")]
    assert withdrawn


def test_without_a_seal_nothing_is_kept() -> None:
    with Instance(policies=POLICIES) as plain:
        assert plain.run("true", profile="free").returncode == 0
        assert plain.daemon is not None

        def count() -> int:
            plain.wait_until(lambda: True if not plain.sandboxes() else None, "sandboxes to end", 20)
            time.sleep(0.2)
            return len(os.listdir(f"/proc/{plain.daemon.pid}/fd")) if plain.daemon else 0

        before = count()
        assert plain.run(PYTHON, "-c", WORK, "60", profile="free", quiet=True, timeout=120).returncode == 0
        assert count() <= before + SLACK
