"""governedctl against a real daemon and gate."""

import json
import re
import select
import signal
import subprocess
import time
from typing import Any

import pytest

from tests.support.instance import Done, Instance
from tests.support.users import ADMIN, OTHER, STRANGER, USER

STREAM_SECONDS = 30


def answer(done: Done) -> Any:
    """The one JSON object on stdout of a command that succeeded."""
    assert done.returncode == 0, done
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_status_says_what_is_there(daemon: Instance) -> None:
    found = answer(daemon.ctl("status", "--json"))
    assert (found["gate"], found["journal"]) == ("serving", "ok")
    assert found["seal"] == "none"
    assert len(found["policy_version"]) == 64
    people = daemon.ctl("status").stdout
    assert "none" in people
    assert found["policy_version"] in people


def test_members_may_ask_and_strangers_may_not(daemon: Instance) -> None:
    assert daemon.ctl("status", user=USER).returncode == 0
    assert daemon.ctl("status", user=ADMIN).returncode == 0
    done = daemon.ctl("status", "--json", user=STRANGER)
    assert done.returncode == 4
    assert "governed" in json.loads(done.stderr)["error"]["message"]


@pytest.mark.parametrize(
    "command", [["rollback"], ["approvals", "approve", "x"], ["sandbox", "thaw", "x"], ["apply", "-f", "POLICIES"]]
)
def test_what_only_the_admin_group_may_do(daemon: Instance, command: list[str]) -> None:
    command = [str(daemon.policy_dir) if word == "POLICIES" else word for word in command]
    done = daemon.ctl(*command, "--json", user=USER)
    assert done.returncode == 4, done
    assert json.loads(done.stderr)["error"]["code"] == "forbidden"
    assert daemon.ctl(*command, "--json", user=ADMIN).returncode != 4


def test_sandboxes_are_listed_to_their_owner_and_killed(daemon: Instance) -> None:
    program = daemon.spawn("sleep", "1000")
    (info,) = daemon.wait_until(lambda: daemon.sandboxes() or None, "the sandbox")
    name = info.subject.sandbox
    (seen,) = answer(daemon.ctl("sandbox", "list", "--json", user=USER))["sandboxes"]
    assert seen["argv"] == ["sleep", "1000"]
    assert (seen["subject"]["uid"], seen["subject"]["sandbox"]) == (USER, name)
    assert answer(daemon.ctl("sandbox", "list", "--json", user=OTHER))["sandboxes"] == []
    assert name in daemon.ctl("sandbox", "list").stdout
    assert daemon.ctl("sandbox", "kill", name, user=OTHER).returncode in (1, 4)
    assert program.poll() is None
    assert daemon.ctl("sandbox", "kill", name).returncode == 0
    assert program.wait(10) != 0
    daemon.wait_until(lambda: None if daemon.sandboxes() else True, "the sandbox to be gone")
    assert daemon.ctl("sandbox", "kill", name).returncode == 1


def test_get_shows_what_is_active(daemon: Instance) -> None:
    everything = answer(daemon.ctl("get", "--json"))
    assert everything["version"] == answer(daemon.ctl("status", "--json"))["policy_version"]
    assert {file["name"] for file in everything["files"]} == {path.name for path in daemon.policy_dir.iterdir()}
    one = daemon.ctl("get", "Profile", "default")
    assert one.returncode == 0
    assert "kind: Profile" in one.stdout
    assert daemon.ctl("get", "Profile", "no-such-profile").returncode == 1
    assert "kind: Agent" not in one.stdout
    assert daemon.ctl("get", "Frob").returncode == 2


def test_apply_shows_what_widens_and_rollback_goes_back(daemon: Instance) -> None:
    before = answer(daemon.ctl("status", "--json"))["policy_version"]
    text = "kind: Profile\nname: wide\nenvelope:\n  read: [/usr]\n  write: [/srv]\n"
    (daemon.policy_dir / "wide.yaml").write_text(text)
    try:
        change = answer(daemon.ctl("apply", "-f", daemon.policy_dir, "--json", user=ADMIN))
    finally:
        (daemon.policy_dir / "wide.yaml").unlink()
    assert change["active"] is True
    assert change["previous"] == before
    assert change["version"] != before
    assert any("wide" in line for line in change["changes"] + change["widens"])
    assert answer(daemon.ctl("status", "--json"))["policy_version"] == change["version"]
    done = daemon.ctl("rollback", user=ADMIN)
    assert done.returncode == 0
    assert f"{before} (active)" in done.stdout
    kinds = [record for record in daemon.journal() if record["kind"] == "policy.activate"]
    assert [record["policy_version"] for record in kinds[-2:]] == [change["version"], before]


def test_a_wrong_set_is_not_applied(daemon: Instance) -> None:
    before = answer(daemon.ctl("status", "--json"))["policy_version"]
    (daemon.policy_dir / "wrong.yaml").write_text("kind: Profile\nname: x\nenvelope: {read: [usr]}\n")
    try:
        done = daemon.ctl("apply", "-f", daemon.policy_dir, "--json")
    finally:
        (daemon.policy_dir / "wrong.yaml").unlink()
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["details"][0]["file"] == "wrong.yaml"
    assert answer(daemon.ctl("status", "--json"))["policy_version"] == before


def test_explain_shows_every_layer_and_does_nothing(daemon: Instance) -> None:
    before = len(daemon.journal())
    credential = f"{daemon.home}/.ssh/id_rsa"
    refused = answer(daemon.ctl("explain", "--operation", "file.read", "--object", credential, "--json", user=USER))
    assert refused["decision"] == "deny"
    assert refused["rule"]
    assert refused["layers"]
    assert all(report["result"] in ("pass", "deny", "ask", "skipped") for report in refused["layers"])
    target = f"{daemon.work}/notes.txt"
    allowed = answer(daemon.ctl("explain", "--operation", "file.write", "--object", target, "--json", user=USER))
    assert allowed["decision"] == "allow"
    people = daemon.ctl("explain", "--operation", "file.write", "--object", target, "--exit-code", user=USER)
    assert people.returncode == 0
    assert "allow by" in people.stdout
    assert daemon.ctl("explain", "--operation", "file.read", "--object", credential, "--exit-code").returncode == 1
    assert not [record for record in daemon.journal()[before:] if record["kind"] == "effect"]


def test_explain_takes_an_action_as_json(daemon: Instance) -> None:
    action = {
        "subject": {"agent": "default", "tier": "Classic", "uid": USER, "profile": "default"},
        "effect": {"operation": "file.write", "object": f"{daemon.work}/x"},
        "context": {"directories": [str(daemon.work)], "home": str(daemon.home)},
    }
    verdict = answer(daemon.ctl("explain", "--action", "-", "--json", stdin=json.dumps(action)))
    assert verdict["decision"] == "allow"


def test_the_journal_through_the_daemon(daemon: Instance) -> None:
    assert daemon.run("touch", "seen-in-the-journal").returncode == 0
    target = f"{daemon.work}/seen-in-the-journal"
    record = daemon.wait_for_record(lambda record: record.get("object") == target)
    assert record["decision"] == "allow"
    done = daemon.ctl("journal", "tail", "-n", "500", user=USER)
    assert re.search(rf"allow file\.create {re.escape(target)}|allow file\.write {re.escape(target)}", done.stdout)
    shown = answer(daemon.ctl("journal", "show", str(record["seq"]), "--json"))
    assert {name: shown[name] for name in record} == record
    assert target in daemon.ctl("journal", "show", str(record["seq"])).stdout
    mine = daemon.ctl("journal", "tail", "-n", "500", "--json", user=USER)
    assert target in mine.stdout
    others = daemon.ctl("journal", "tail", "-n", "500", "--json", user=OTHER)
    assert target not in others.stdout
    only = daemon.ctl("journal", "tail", "-n", "500", "--sandbox", record["sandbox"], "--json")
    assert {json.loads(line)["sandbox"] for line in only.stdout.splitlines()} == {record["sandbox"]}
    assert daemon.ctl("journal", "show", "99999999").returncode == 1


def test_following_the_journal(daemon: Instance) -> None:
    program = subprocess.Popen(
        daemon.command("journal", "tail", "-n", "0", "-f", "--json"),
        stdout=subprocess.PIPE,
        env=daemon.environment(0),
    )
    assert program.stdout is not None
    try:
        deadline = time.monotonic() + STREAM_SECONDS
        # It shows what comes after it has connected, and nobody says when that is.
        while not select.select([program.stdout], [], [], 1.0)[0] and time.monotonic() < deadline:
            assert daemon.run("touch", "followed").returncode == 0
            (daemon.work / "followed").unlink()
        seen = [json.loads(program.stdout.readline())]
        while seen[-1].get("object") != f"{daemon.work}/followed" and time.monotonic() < deadline:
            seen.append(json.loads(program.stdout.readline()))
        assert seen[-1]["object"] == f"{daemon.work}/followed"
        sequence = [record["seq"] for record in seen]
        assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 130
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


def test_verify_while_the_daemon_writes(daemon: Instance) -> None:
    found = answer(daemon.ctl("journal", "verify", "--state-dir", daemon.state_dir, "--json"))
    assert found["ok"] is True
    assert found["records"] > 0


def test_doctor_asks_the_daemon(daemon: Instance) -> None:
    report = answer(daemon.ctl("doctor", "--json"))  # exit code 0: without a seal, as this instance was told to run
    features = {feature["feature"]: feature for feature in report["features"]}
    assert report["ok"] is True
    assert (features["bpf-lsm"]["works"], features["bpf-lsm"]["required"]) == (False, False)
    assert features["daemon"]["works"] is True
    assert features["gate"]["works"] is True
    assert features["group"]["works"] is True


def test_a_dead_gate_is_seen_and_a_new_one_used() -> None:
    with Instance() as instance:
        instance.kill_gate()
        instance.wait_until(lambda: True if instance.status().gate != "serving" else None, "the daemon to notice")
        report = json.loads(instance.ctl("doctor", "--json").stdout)
        assert not next(feature for feature in report["features"] if feature["feature"] == "gate")["works"]
        instance.restart_gate()
        instance.kill_daemon()
        assert instance.ctl("status").returncode == 3
        assert instance.ctl("journal", "verify", "--state-dir", instance.state_dir).returncode == 0
        instance.start_daemon()
        assert instance.ctl("status").returncode == 0


ASK_EVERYTHING = """kind: Gate
name: default
thresholds: {ask: 0, deny: 1000}
person_seconds: 60
"""


def test_what_waits_for_a_person_is_listed_approved_and_denied() -> None:
    with Instance(policies={"gate.yaml": ASK_EVERYTHING}) as instance:
        program = instance.spawn("touch", "asked")

        def waiting(operation: str) -> dict[str, Any] | None:
            found = answer(instance.ctl("approvals", "list", "--json", user=ADMIN))["approvals"]
            return next((item for item in found if item["action"]["effect"]["operation"] == operation), None)

        execution = instance.wait_until(lambda: waiting("process.exec"), "the exec to ask")
        assert execution["action"]["subject"]["uid"] == USER
        assert execution["verdict"]["decision"] == "ask"
        people = instance.ctl("approvals", "list", user=ADMIN).stdout
        assert execution["id"] in people
        assert "touch asked" in people
        assert instance.ctl("approvals", "approve", execution["id"], user=USER).returncode == 4
        done = instance.ctl("approvals", "approve", execution["id"], "--note", "it is only touch", user=ADMIN)
        assert done.returncode == 0, done
        creation = instance.wait_until(lambda: waiting("file.create"), "the creation to ask")
        assert answer(instance.ctl("approvals", "deny", creation["id"], "--json", user=ADMIN))
        program.communicate(timeout=20)
        assert program.returncode == 1
        assert not (instance.work / "asked").exists()
        assert instance.ctl("approvals", "approve", creation["id"], user=ADMIN).returncode == 1
        records = {record["approval"]: record for record in instance.journal() if record["kind"] == "approval"}
        assert (records[execution["id"]]["approve"], records[execution["id"]]["by_uid"]) == (True, ADMIN)
        assert records[execution["id"]]["note"] == "it is only touch"
        assert records[creation["id"]]["approve"] is False
