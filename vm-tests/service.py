"""The installed service: started, given a policy, used; and after a reboot it is there again as it was."""

import json
import shutil
from pathlib import Path

import installed
import pytest
from installed import DAEMON, GATE, HOME, WORK

MACHINE = {"product": True, "processors": 1, "seconds": 1200}
KEPT = Path("/var/tmp/before.json")
EXTRA = """kind: Profile
name: only-here
description: shows that the policy which was applied is the active one
envelope:
  read: ["${cwd}", /usr, /bin, /lib, /lib64, /etc, /proc, /dev]
  write: ["${cwd}", "${scratch}", /dev/null]
  execute: [/usr, /bin, /lib, /lib64]
free:
  - {operations: [file.create, file.write, file.truncate], on: "${cwd}/**"}
  - {operations: [process.exec], on: /usr/**}
"""
AGENT = "kind: Agent\nname: default\ntier: Classic\nprofiles: [only-here, default]\n"


def writes_its_file_and_no_other(name):
    """One sandbox that does what it may, and is refused what it may not."""
    outside = HOME / "untouched"
    outside.write_text("as it was")
    outside.chmod(0o666)  # so that it is not its mode that protects it
    begun = installed.status()["records"]
    done = installed.inside("sh", "-c", f"echo inside > {name}; cat {name}; echo no > {outside}", profile="only-here")
    assert done.stdout == "inside\n", done.stderr
    assert done.returncode != 0
    assert (WORK / name).read_text() == "inside\n"
    assert outside.read_text() == "as it was"
    assert installed.refused(str(outside), begun)


def test_it_is_enabled_and_the_seal_is_loaded():
    installed.start()
    seen = installed.status()
    assert seen["seal"] == "lsm", seen
    for unit in (DAEMON, GATE):
        assert installed.shown(unit, "ActiveState") == "active"
    told = json.loads(installed.run("governedctl", "status", "--json").stdout)
    assert (told["seal"], told["gate"]) == ("lsm", "serving")
    assert [probe for probe in told["probes"] if not probe["works"]] == []
    doctor = json.loads(installed.run("governedctl", "doctor", "--json").stdout)
    found = {feature["feature"]: feature for feature in doctor["features"]}
    for feature in ("bpf-lsm", "seal-refuses", "seal-tells", "seal-grants", "seal-protects"):
        assert (found[feature]["works"], found[feature]["required"]) == (True, True)


def test_a_policy_is_applied():
    before = installed.status()["policy_version"]
    changed = Path("/var/tmp/policies")
    shutil.copytree(installed.POLICIES, changed)
    (changed / "profile-only-here.yaml").write_text(EXTRA)
    (changed / "agent-default.yaml").write_text(AGENT)
    said = json.loads(installed.run("governedctl", "apply", "-f", changed, "--json").stdout)
    assert (said["active"], said["previous"]) == (True, before)
    assert installed.status()["policy_version"] == said["version"] != before


def test_a_sandbox_does_what_it_may():
    writes_its_file_and_no_other("first")


def test_what_is_there_before_the_reboot():
    seen = installed.verified()
    assert seen["ok"]
    assert installed.records(count=1)
    policy = installed.status()["policy_version"]
    KEPT.write_text(json.dumps({"records": seen["records"], "policy": policy, "first": installed.records(count=1)}))


@pytest.mark.after_reboot
def test_enabled_units_come_up_by_themselves():
    installed.wait_until(installed.serving, "gate and daemon to serve")
    assert installed.status()["seal"] == "lsm"


@pytest.mark.after_reboot
def test_the_chain_goes_on_and_the_policy_is_the_applied_one():
    kept = json.loads(KEPT.read_text())
    seen = installed.verified()
    assert seen["ok"]
    assert seen["records"] > kept["records"]
    assert seen["torn"] == 0
    assert installed.records(count=1) == kept["first"]
    assert installed.status()["policy_version"] == kept["policy"]


@pytest.mark.after_reboot
def test_sandboxes_work_after_the_reboot():
    writes_its_file_and_no_other("second")
