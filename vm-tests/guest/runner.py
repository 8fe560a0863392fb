#!/usr/bin/python3
"""What vm-tests.service runs, as root: the tests of one file, a reboot if some want one, the rest, and off."""

import json
import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
STATE = Path("/var/lib/vm-tests")


def port(name):
    """A virtio port by its name: udev's links may come later than this."""
    for entry in Path("/sys/class/virtio-ports").iterdir():
        if (entry / "name").read_text().strip() == name:
            return os.open(f"/dev/{entry.name}", os.O_WRONLY)
    raise SystemExit(f"there is no port {name}")


def main():
    """One boot: phase 0, or the phase after a reboot."""
    STATE.mkdir(exist_ok=True)
    phase = 1 if (STATE / "rebooting").exists() else 0
    job = json.loads((CHECKOUT / ".vm-run" / "job.json").read_text())
    output, result = port("output"), port("result")
    if "command" in job:
        finish(result, run(job["command"], CHECKOUT, output))
        return
    python = CHECKOUT / ".venv/bin/python" if job["python"] == "checkout" else "/usr/bin/python3"
    here = CHECKOUT / "vm-tests"
    # What tests/ has for its own tests, machines' tests of the checkout may use too.
    modules = [here / "guest"] + ([CHECKOUT] if job["python"] == "checkout" else [])
    words = [
        python,
        "-m",
        "pytest",
        "-c",
        here / "guest/pytest.ini",
        "--rootdir",
        here,
        "-p",
        "report",
        "-p",
        "pytest_timeout",
    ]
    words += (STATE / "reboot-wanted").read_text().splitlines() if phase else job["tests"]
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Only what is named above: the plugins of .venv would take half a minute to import here.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": ":".join(map(str, modules)),
        "TEST_PATIENCE": "10",
        "VM_RESULT": str(result),
        "VM_PHASE": str(phase),
        "VM_FULL": "1" if job["full"] else "",
        "VM_PROCESSORS": str(job["processors"]),
        "CHECKOUT": str(CHECKOUT),
    }
    status = run(list(map(str, words)), here, output, env=environment, pass_fds=[result])
    # After tests that failed as well: what the reboot shows is another question.
    if phase == 0 and status in {0, 1} and (STATE / "reboot-wanted").exists():
        say(result, event="status", status=status)
        (STATE / "rebooting").touch()
        subprocess.run(["systemctl", "reboot"], check=True)
    else:
        finish(result, status)


def run(words, where, output, **more):
    """Runs a program to its end, which the harness bounds in time for the whole machine, and returns its status."""
    return subprocess.run(
        words, cwd=where, check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **more
    ).returncode


def finish(result, status):
    """Says how it ended, leaves what the services said in the serial log if it ended badly, and goes off."""
    say(result, event="status", status=status)
    if status:
        with open("/dev/ttyS0", "wb") as serial:
            run(["journalctl", "-b", "--no-pager", "-o", "short-monotonic", "-n", "1000"], STATE, serial)
    say(result, event="done")
    subprocess.run(["systemctl", "poweroff"], check=True)


def say(result, **event):
    """One event for harness/results.py."""
    os.write(result, (json.dumps(event) + "\n").encode())


sys.exit(main())
