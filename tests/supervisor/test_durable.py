"""Operations that the profile calls durable: on disk before they happen, with size and digest before and after."""

import os
from collections.abc import Iterator

import pytest
from blake3 import blake3

from tests.support.instance import Instance
from tests.support.users import USER

PROFILE = """
kind: Profile
name: durable
envelope: {read: [/], write: ["${cwd}", /dev/null], execute: [/]}
free:
  - {operations: [process.exec], on: /**}
  - {operations: [file.write, file.create, file.rename, file.unlink], on: "${cwd}/**"}
durable: [file.write, file.create, file.rename, file.unlink]
"""
AGENT = """
kind: Agent
name: default
tier: Classic
profiles: [durable]
"""
SCRIPT = "echo after > old; echo new > made; mv made moved; rm gone; exit 7\n"


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance(policies={"profile-durable.yaml": PROFILE, "agent-default.yaml": AGENT}) as made:
        yield made


def _write(instance: Instance, name: str, text: str) -> None:
    path = instance.work / name
    path.write_text(text)
    os.chown(path, USER, USER)


def _state(text: str) -> dict[str, object]:
    return {"size": len(text), "digest": blake3(text.encode()).hexdigest()}


def test_before_and_after_of_durable_files_are_recorded(instance: Instance) -> None:
    for name, text in (("old", "before\n"), ("gone", "precious\n"), ("script", SCRIPT)):
        _write(instance, name, text)
    done = instance.run("sh", "script")
    assert done.returncode == 7, done.stderr
    assert (instance.work / "old").read_text() == "after\n"
    instance.wait_for_record(lambda record: record["kind"] == "sandbox.end")  # what is after is known then
    records = instance.journal()
    by_object = {(record["operation"], record["object"]): record for record in records if record["kind"] == "effect"}
    work = str(instance.work)
    written = by_object["file.write", f"{work}/old"]
    removed = by_object["file.unlink", f"{work}/gone"]
    assert written["before"] == _state("before\n")
    assert removed["before"] == _state("precious\n")
    assert "before" not in by_object["file.create", f"{work}/made"]
    after = {record["first_seq"]: record for record in records if record["kind"] == "effect.after"}
    assert after[written["seq"]]["before"] == _state("before\n")
    assert after[written["seq"]]["after"] == _state("after\n")
    assert "after" not in after[removed["seq"]]


def test_what_cannot_be_digested_is_refused(instance: Instance) -> None:
    huge = instance.work / "huge"
    with open(huge, "wb") as file:
        file.truncate((256 << 20) + 1)
    os.chown(huge, USER, USER)
    _write(instance, "small", "x")
    _write(instance, "script", "echo y > small; echo y >> huge\n")
    done = instance.run("sh", "script")
    assert done.returncode != 0
    assert (instance.work / "small").read_text() == "y\n"
    assert huge.stat().st_size == (256 << 20) + 1
    refused = instance.wait_for_record(lambda record: record.get("rule") == "digest-unavailable")
    assert refused["object"] == str(huge)
