"""What the daemon hands to its seal: the objects that were looked at, by descriptor, and exact arguments."""

import os
from pathlib import Path
from typing import Any

from tests.handles.daemon import TellingInstance
from tests.support.users import USER

PYTHON = "/usr/bin/python3"

ACTS = """
import os, socket
os.close(os.open("file", os.O_WRONLY))
os.close(os.open("link-to-file", os.O_WRONLY | os.O_TRUNC))
os.close(os.open("made", os.O_WRONLY | os.O_CREAT))
os.truncate("file", 3)
os.unlink("gone")
os.mkdir("directory")
os.rmdir("directory")
os.rename("old", "new")
os.rename("over", "file2")
os.link("file", "second")
os.symlink("the text", "third")
os.mkfifo("fifo")
os.chmod("file", 0o640)
os.chown("file", os.getuid(), -1)
os.setxattr("file", "user.one", b"1")
os.utime("file", (1, 2))
sock = socket.socket(socket.AF_UNIX)
sock.bind("socket")
sock.listen()
socket.socket(socket.AF_UNIX).connect("socket")
removed = os.open("removed", os.O_RDWR | os.O_CREAT)
os.unlink("removed")
os.close(os.open(f"/proc/self/fd/{removed}", os.O_WRONLY))
"""


def test_every_operation_comes_with_its_objects(instance: TellingInstance) -> None:
    inode = {}
    for name in ("file", "file2", "gone", "old", "over"):
        (instance.work / name).write_text(name)
        os.chown(instance.work / name, USER, USER)
        inode[name] = (instance.work / name).stat().st_ino
    os.symlink("file", instance.work / "link-to-file")
    above = [str(instance.work), instance.work.stat().st_ino]

    done = instance.run(PYTHON, "-c", ACTS, profile="free")
    assert (done.returncode, done.stderr) == (0, done.stderr), done.stderr
    grants = [grant for grant in instance.told("grant") if grant["operation"] != "process.exec"]
    assert all(4 < grant["seconds"] <= 5 for grant in grants)

    def there(name: str, number: int | None = None) -> list[Any]:
        return [str(instance.work / name), number or (instance.work / name).stat().st_ino]

    def entry(name: str, standing: list[Any] | None = None) -> dict[str, Any]:
        return {"object": standing, "parent": above, "name": name}

    def alone(name: str) -> dict[str, Any]:
        return {"object": there(name), "parent": None, "name": ""}

    found = [(grant["operation"], grant["targets"]) for grant in grants]
    expected = [
        ("file.write", [alone("file")]),
        ("file.write", [alone("file")]),
        ("file.create", [entry("made")]),
        ("file.truncate", [alone("file")]),
        ("file.unlink", [entry("gone", there("gone", inode["gone"]))]),
        ("file.mkdir", [entry("directory")]),
        ("file.rmdir", None),
        ("file.rename", [entry("old", there("old", inode["old"])), entry("new")]),
        ("file.rename", [entry("over", there("over", inode["over"])), entry("file2", there("file2", inode["file2"]))]),
        ("file.link", [alone("file"), entry("second")]),
        ("file.symlink", [entry("third")]),
        ("file.mknod", [entry("fifo")]),
        ("file.chmod", [alone("file")]),
        ("file.chown", [alone("file")]),
        ("file.xattr", [alone("file")]),
        ("file.times", [alone("file")]),
        ("net.bind", [entry("socket")]),
        ("net.listen", [alone("socket")]),
        ("net.connect", [alone("socket")]),
        ("file.create", [entry("removed")]),
        ("file.unlink", None),
        ("file.write", None),
    ]
    assert [operation for operation, _ in found] == [operation for operation, _ in expected]
    for (operation, targets), (_, wanted) in zip(found, expected, strict=True):
        if wanted is not None:
            assert targets == wanted, operation
    assert found[6][1][0]["parent"] == above
    assert found[6][1][0]["object"][0] == str(instance.work / "directory")
    # What no name leads to is judged by nobody, and the seal is told of it all the same.
    assert found[-1][1][0]["object"][0] == f"{instance.work / 'removed'} (deleted)"


def test_the_mark_comes_before_the_filter_and_labels_before_the_first_grant(instance: TellingInstance) -> None:
    (instance.work / "secrets").mkdir(exist_ok=True)
    assert instance.run("true", profile="free").returncode == 0
    sandbox = instance.told("adopt")[-1]["sandbox"]
    instance.wait_until(
        lambda: next((one for one in instance.told("release") if one["sandbox"] == sandbox), None), "its release"
    )
    calls = [one for one in instance.told() if one["sandbox"] == sandbox]
    kinds = [one["call"] for one in calls]
    assert kinds[0] == "adopt"
    assert calls[0]["filters"] == 0
    assert calls[0]["reads"] is False
    assert kinds[-1] == "release"
    assert kinds.index("grant") > max(number for number, kind in enumerate(kinds) if kind == "protect")
    labelled = [found[0] for one in calls if one["call"] == "protect" for found in one["objects"]]
    assert set(labelled) >= {str(instance.work / "secrets"), str(instance.state_dir)}
    grants = [one for one in calls if one["call"] == "grant"]
    assert [grant["operation"] for grant in grants] == ["process.exec"]
    assert grants[0]["targets"][0]["object"][0].endswith("/true")
    assert grants[0]["argv"] == ["true"]
    assert f"GOVERNED_SANDBOX={sandbox}" in grants[0]["environment"]


def test_paused_reads_are_granted_and_asked_of_the_seal(instance: TellingInstance) -> None:
    (instance.work / "read").write_text("text")
    done = instance.run("cat", "read", profile="paused")
    assert (done.returncode, done.stdout) == (0, "text"), done.stderr
    read = [grant for grant in instance.told("grant", "file.read") if grant["object"] == str(instance.work / "read")]
    assert [grant["targets"][0]["object"][1] for grant in read] == [(instance.work / "read").stat().st_ino]
    assert instance.told("adopt")[-1]["reads"] is True


def test_a_script_comes_with_the_arguments_of_its_interpreter(instance: TellingInstance) -> None:
    shown = "import sys; print(open('/proc/self/cmdline').read().split(chr(0))[:-1])"
    (instance.work / "script").write_text(f"#!/usr/bin/python3  -I \n{shown}\n")
    (instance.work / "outer").write_text("#! script x\n")
    for name in ("script", "outer"):
        (instance.work / name).chmod(0o755)
    for name, programs in (("./script", 2), ("./outer", 3)):
        done = instance.run(name, "one", "", "two words", profile="free")
        assert done.returncode == 0, done.stderr
        grant = instance.told("grant", "process.exec")[-1]
        assert str(grant["argv"]) == done.stdout.strip()
        assert len(grant["targets"]) == programs
        assert grant["targets"][-1]["object"][0].startswith("/usr/bin/python3")
        assert grant["targets"][0]["object"][0] == str(instance.work / Path(name).name)
        record = [record for record in instance.journal(grant["sandbox"]) if record["kind"] == "effect"][-1]
        assert record["details"]["interpreter"].startswith(("/usr/bin/python3", str(instance.work)))


def test_an_interpreter_outside_the_envelope_is_refused(instance: TellingInstance) -> None:
    """`protected` says what may not be run either, also by way of a script."""
    (instance.work / "secrets").mkdir(exist_ok=True)
    program = instance.work / "secrets" / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    (instance.work / "by-way-of").write_text(f"#!{program}\n")
    (instance.work / "by-way-of").chmod(0o755)
    done = instance.run("./by-way-of", profile="free")
    assert done.returncode == 126
    refused = instance.wait_for_record(lambda record: record.get("object", "").endswith("by-way-of"))
    assert (refused["decision"], refused["rule"]) == ("deny", "protected")


def test_what_cannot_be_granted_is_refused(instance: TellingInstance) -> None:
    done = instance.run("sh", "-c", "true > ungrantable; true > grantable", profile="free")
    assert done.returncode == 0
    assert not (instance.work / "ungrantable").exists()
    assert (instance.work / "grantable").exists()
    assert "grant-failed" in done.stderr
    gone = instance.wait_for_record(lambda record: record["kind"] == "effect.gone")
    assert gone["reason"] == "grant-failed"


def test_every_record_says_which_seal_there_was(instance: TellingInstance) -> None:
    kinds = ("effect", "sandbox.start", "daemon.start")
    records = [record for record in instance.journal() if record["kind"] in kinds]
    assert {record["seal"] for record in records} == {"telling"}
