"""A kernel whose lsm= list has no bpf, as Ubuntu starts it: nothing runs unsealed unless that was asked for."""

import json
from pathlib import Path

import installed
from installed import DAEMON, HOME, WORK

# Ubuntu 24.04's CONFIG_LSM.
MACHINE = {
    "product": True,
    "parameters": "lsm=landlock,lockdown,yama,integrity,apparmor",
    "processors": 1,
    "seconds": 900,
}

CONFIG = Path("/etc/governed-mcpd/config.toml")


def line():
    """What has to stand on the kernel's command line, made here from what the kernel says is active."""
    active = Path("/sys/kernel/security/lsm").read_text().split(",")
    assert "bpf" not in active
    assert "landlock" in active
    return "lsm=" + ",".join([name for name in active if name != "capability"] + ["bpf"])


def test_required_does_not_start():
    assert installed.run("systemctl", "enable", "--now", DAEMON, check=False).returncode != 0
    assert installed.shown(DAEMON, "ActiveState") == "failed"
    assert installed.shown(DAEMON, "ExecMainStatus") == "78", "starting again does not mend it"
    assert installed.shown(DAEMON, "NRestarts") == "0"
    said = installed.run("journalctl", "--no-pager", "-u", DAEMON).stdout
    assert "seal: required" in said
    assert line() in said


def test_doctor_says_how_to_mend_it():
    done = installed.run("governedctl", "doctor", "--json", check=False)
    assert done.returncode == 1
    (seal,) = [one for one in json.loads(done.stdout)["features"] if one["feature"] == "bpf-lsm"]
    assert (seal["works"], seal["required"]) == (False, True)
    assert f"add {line()} to GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and reboot" in seal["remedy"]
    shown = installed.run("governedctl", "doctor", check=False)
    assert shown.returncode == 1
    assert line() in shown.stdout.replace("\n", "").replace(" ", ""), shown.stdout


def test_no_sandbox_runs():
    installed.run("useradd", "--create-home", "--groups", "governed", installed.USER)
    installed.run("mkdir", WORK, user=installed.USER)
    done = installed.inside("touch", "made")
    assert done.returncode != 0
    assert not (WORK / "made").exists()


def test_best_effort_runs_and_says_so_everywhere():
    text = CONFIG.read_text()
    assert 'seal = "required"' in text.splitlines()
    CONFIG.write_text(text.replace('seal = "required"', 'seal = "best-effort"'))
    installed.run("systemctl", "reset-failed", DAEMON)
    installed.run("systemctl", "start", DAEMON)
    installed.wait_until(installed.serving, "gate and daemon to serve")
    assert installed.status()["seal"] == "none"
    assert "seal: none" in installed.run("governedctl", "doctor", check=False).stdout
    # In a file: as words of a command line the gate refuses them before anything runs.
    (WORK / "work.sh").write_text("echo x > made; echo no >> ~/.bashrc")
    words = ["governedctl", "run", "--", "sh", "work.sh"]
    done = installed.run(*words, user=installed.USER, cwd=WORK, check=False)
    assert "seal: none" in done.stderr, "the launcher says it"
    assert (WORK / "made").exists(), f"{done.stderr}\n{installed.refused('made')}"
    assert (WORK / "made").read_text() == "x\n"
    assert "no" not in (HOME / ".bashrc").read_text().splitlines()
    effects = [record for record in installed.records() if record["kind"] == "effect"]
    assert {record["seal"] for record in effects} == {"none"}
