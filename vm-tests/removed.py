"""The Debian package's end: removed, it leaves what an operator wants to keep; purged, nothing; it installs again."""

from pathlib import Path

import installed
import pytest
from installed import DAEMON, DEB, GATE, PACKAGE, leftovers, run, shown

MACHINE = {"product": True, "processors": 1, "seconds": 600}

PINS = Path("/sys/fs/bpf/governed-mcpd")


def test_there_is_something_to_remove():
    installed.start()
    assert installed.inside("true").returncode == 0
    assert PINS.exists()


@pytest.mark.after_reboot
def test_remove_takes_the_programs_and_the_seal_and_leaves_the_journal():
    installed.wait_until(installed.serving, "gate and daemon to serve")
    daemon = shown(DAEMON, "MainPID")
    assert PINS.exists()
    run("dpkg", "--remove", PACKAGE)
    assert not Path(f"/proc/{daemon}").exists()
    assert not PINS.exists()
    assert not Path("/usr/lib/governed-mcpd").exists()
    assert not Path("/usr/bin/governedctl").exists()
    assert run("systemctl", "is-active", DAEMON, GATE, check=False).stdout.split() == ["inactive", "inactive"]
    assert list(Path("/var/lib/governed-mcpd/journal").glob("*.jsonl"))
    assert Path("/etc/governed-mcpd/config.toml").exists()


@pytest.mark.after_reboot
def test_purge_leaves_nothing():
    run("dpkg", "--purge", PACKAGE)
    assert leftovers() == []
    for database, name in (("passwd", "governed-gate"), ("group", "governed"), ("group", "governed-admin")):
        assert run("getent", database, name, check=False).returncode == 2
    assert run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""


@pytest.mark.after_reboot
def test_it_installs_again():
    run("dpkg", "--force-unsafe-io", "--install", DEB)
    assert run("systemctl", "is-enabled", DAEMON, check=False).stdout.strip() == "disabled"
    for database, name in (("passwd", "governed-gate"), ("group", "governed"), ("group", "governed-admin")):
        run("getent", database, name)
    assert run("stat", "-c", "%a %U", "/run/governed-mcpd/gate").stdout.split() == ["700", "governed-gate"]
    assert run("dpkg", "--verify", PACKAGE).stdout == ""
