"""The Debian package: installed on a machine that has never seen it, used, and upgraded from itself (removed.py has its
end)."""

import os
import re
from pathlib import Path

from bounds import HANG
from installed import (
    DAEMON,
    DEB,
    GATE,
    HOME,
    PACKAGE,
    USER,
    WORK,
    launch,
    leftovers,
    records,
    run,
    sandboxes,
    serving,
    set_up_policies,
    shown,
    status,
    wait_until,
)

MACHINE = {"processors": 1, "seconds": 1200, "installs": True}

# Of `systemd-analyze security`, where 10 is no protection at all. The daemon has to be root over others' processes.
EXPOSURE = {DAEMON: 4.2, GATE: 1.5}

# Ends at the first tick that is refused. One that is to be tried again (EINTR) is (PEP 475).
TICKS = """
import itertools, time
for number in itertools.count(1):
    open(f"tick-{{number}}", "x").close()
    time.sleep({pause})
"""


def test_installs_and_starts_nothing_by_itself():
    assert leftovers() == [], "the image knows it already"
    run("apt-get", "install", "-y", "-o", "DPkg::Options::=--force-unsafe-io", DEB)
    for unit in (DAEMON, GATE):
        assert run("systemctl", "is-enabled", unit, check=False).stdout.strip() == "disabled"
        assert shown(unit, "ActiveState") == "inactive"
    for program in ("governed-mcpd", "governed-gate", "governedctl"):
        assert run(program, "--version", timeout=HANG).stdout.strip()
    assert run("dpkg", "--verify", PACKAGE).stdout == ""


def test_users_groups_and_directories():
    run("getent", "group", "governed")
    run("getent", "group", "governed-admin")
    assert run("getent", "passwd", "governed-gate").stdout.strip().endswith("/nonexistent:/usr/sbin/nologin")
    expected = {
        "/var/lib/governed-mcpd": "750 root root",
        "/run/governed-mcpd": "755 root root",
        "/run/governed-mcpd/gate": "700 governed-gate governed-gate",
        "/etc/governed-mcpd/config.toml": "644 root root",
    }
    for path, wanted in expected.items():
        assert run("stat", "-c", "%a %U %G", path).stdout.strip() == wanted, path
    listed = run("dpkg-query", "--show", "--showformat=${Conffiles}", PACKAGE).stdout.split()
    assert listed[0::2] == ["/etc/governed-mcpd/config.toml"]
    assert 'seal = "required"' in Path("/etc/governed-mcpd/config.toml").read_text().splitlines()


def test_units_have_no_mistakes_and_give_little_away(record_property):
    run("systemd-analyze", "verify", "--man=no", DAEMON, GATE, "governed.slice")
    for unit, bound in EXPOSURE.items():
        said = run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
        score = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1])
        record_property(f"systemd-analyze security {unit}", f"{score} (bound {bound})")
        assert score <= bound, said


def test_is_enabled_and_serves():
    run("systemctl", "enable", "--now", DAEMON)
    wait_until(serving, "gate and daemon to serve")
    for unit in (DAEMON, GATE):
        assert shown(unit, "ActiveState") == "active"
        assert run("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    assert status()["seal"] == "lsm", status()
    run("governedctl", "doctor", timeout=HANG)


def test_the_units_hold_what_they_promise():
    daemon, gate = shown(DAEMON, "MainPID"), shown(GATE, "MainPID")
    for pid in (daemon, gate):
        fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
    assert int(fields["CapBnd"], 16) == 0
    assert os.readlink(f"/proc/{daemon}/ns/net") != os.readlink("/proc/1/ns/net")
    assert Path(f"/proc/{gate}/status").read_text().count(run("id", "-u", "governed-gate").stdout.strip()) >= 4
    # The daemon's process cannot write where its unit does not let it, root or not.
    done = run("nsenter", "--target", daemon, "--mount", "touch", "/etc/from-the-daemon", check=False)
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_a_user_of_the_group_runs_something():
    run("useradd", "--create-home", "--groups", "governed", USER)
    before = status()["policy_version"]
    set_up_policies()
    assert status()["policy_version"] == before, "what ships is active from the start"
    (HOME / "work.sh").write_text("mkdir work && cd work && echo written > note && cat note; echo no >> ~/.bashrc")
    done = run("governedctl", "run", "--", "sh", "work.sh", user=USER, cwd=HOME, check=False)
    assert done.stdout == "written\n", done.stderr
    assert "no" not in (HOME / ".bashrc").read_text().splitlines()
    assert "file.write" in done.stderr, done.stderr
    assert "note" in run("governedctl", "journal", "tail", "--json", "-n", "200").stdout
    run("governedctl", "journal", "verify")


def test_upgrade_keeps_what_runs():
    # Slowly: each tick has the daemon and the gate work, beside dpkg.
    pause = 1 if os.environ.get("VM_FULL") else 2
    (WORK / "ticks.py").write_text(TICKS.format(pause=pause))
    sandbox = launch("python3", "-I", "ticks.py", output="/var/tmp/ticks")
    try:
        wait_until((WORK / "tick-2").exists, "the sandbox to tick")
        begun = status()["records"]
        (before,) = sandboxes()
        daemon, gate = shown(DAEMON, "MainPID"), shown(GATE, "MainPID")
        config = Path("/etc/governed-mcpd/config.toml")
        config.write_text(config.read_text() + "# of the operator\n")
        run("dpkg", "--force-unsafe-io", "--install", DEB)
        wait_until(serving, "gate and daemon to serve again")
        assert shown(DAEMON, "MainPID") not in (daemon, "0")
        assert shown(GATE, "MainPID") not in (gate, "0")
        assert config.read_text().endswith("# of the operator\n")
        (after,) = sandboxes()
        assert (after["pid"], after["subject"]) == (before["pid"], before["subject"])
        assert sandbox.poll() is None
        made = len(list(WORK.glob("tick-*")))
        wait_until(lambda: len(list(WORK.glob("tick-*"))) > made + 3, "the sandbox to go on ticking")
        # The daemon first: with a gate that has stopped it would refuse what it is asked.
        assert int(shown(DAEMON, "InactiveEnterTimestampMonotonic")) <= int(shown(GATE, "ActiveExitTimestampMonotonic"))
        # What was attempted meanwhile waited for the next daemon; what the last one was about to decide came again.
        denied = [record for record in records(begun) if record.get("decision") == "deny"]
        assert {record["rule"] for record in denied} <= {"daemon-restarted"}
        assert len(denied) <= 1
        run("governedctl", "journal", "verify")
    finally:
        sandbox.terminate()
        sandbox.wait(HANG)
        print(Path("/var/tmp/ticks").read_text()[-2000:])
