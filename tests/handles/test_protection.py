"""What is labelled as protected: also what comes later, and what takes another's place."""

import os

from governed_mcpd.kernel import calls
from tests.handles.daemon import TellingInstance
from tests.support.instance import Program


def waiting(instance: TellingInstance) -> tuple[Program, str]:
    """A sandbox that does nothing, and its id."""
    running = instance.spawn("sh", "-c", "echo began; read x", profile="free")
    assert running.stdout is not None
    assert running.stdout.readline() == b"began\n"
    sandbox: str = instance.told("adopt")[-1]["sandbox"]
    return running, sandbox


def labelled(instance: TellingInstance, sandbox: str) -> set[tuple[str, int]]:
    return {
        (name, inode) for one in instance.told("protect") if one["sandbox"] == sandbox for name, inode in one["objects"]
    }


def end(running: Program) -> None:
    assert running.stdin is not None
    running.stdin.close()
    running.wait(20)


def test_what_is_made_or_replaced_later_is_labelled(instance: TellingInstance) -> None:
    token, secrets = instance.work / "token", instance.work / "secrets"
    token.write_text("first")
    if secrets.exists():
        for path in secrets.iterdir():
            path.unlink()
        secrets.rmdir()
    running, sandbox = waiting(instance)
    first = (str(token), token.stat().st_ino)
    assert first in labelled(instance, sandbox)
    assert not any(name == str(secrets) for name, _ in labelled(instance, sandbox))

    secrets.mkdir()
    made = (str(secrets), secrets.stat().st_ino)
    instance.wait_until(lambda: True if made in labelled(instance, sandbox) else None, "a label on what was made")
    (instance.work / "next").write_text("second")
    os.rename(instance.work / "next", token)
    second = (str(token), token.stat().st_ino)
    assert second != first
    instance.wait_until(lambda: True if second in labelled(instance, sandbox) else None, "a label on the replacement")
    end(running)
    instance.wait_until(
        lambda: True if any(one["sandbox"] == sandbox for one in instance.told("release")) else None, "its release"
    )
    count = len(labelled(instance, sandbox))
    (instance.work / "next").write_text("third")
    os.rename(instance.work / "next", token)
    assert len(labelled(instance, sandbox)) == count


def test_what_is_mounted_is_labelled(instance: TellingInstance) -> None:
    """A label does not reach through a mount; also one that comes while the sandbox runs."""
    secrets = instance.work / "secrets"
    for name in ("before", "while"):
        (secrets / name).mkdir(parents=True, exist_ok=True)
    calls.mount_tmpfs(str(secrets / "before"), size=1 << 16, uid=0, gid=0)
    try:
        running, sandbox = waiting(instance)
        assert (str(secrets / "before"), (secrets / "before").stat().st_ino) in labelled(instance, sandbox)
        calls.mount_tmpfs(str(secrets / "while"), size=1 << 16, uid=0, gid=0)
        try:
            root = (str(secrets / "while"), (secrets / "while").stat().st_ino)
            instance.wait_until(lambda: True if root in labelled(instance, sandbox) else None, "a label on the root")
            end(running)
        finally:
            calls.unmount(str(secrets / "while"))
    finally:
        calls.unmount(str(secrets / "before"))


def test_names_beside_what_is_protected_cost_nothing(instance: TellingInstance) -> None:
    running, sandbox = waiting(instance)
    before = labelled(instance, sandbox)
    for number in range(100):
        (instance.work / f"beside-{number}").touch()
    end(running)
    assert labelled(instance, sandbox) == before


def test_with_a_seal_reads_do_not_pause_for_what_is_protected(instance: TellingInstance) -> None:
    """Without one they do: the profile's protected directory lies where the sandbox may write."""
    (instance.work / "plain").write_text("text")
    assert instance.run("cat", "plain", profile="free").stdout == "text"
    assert instance.told("adopt")[-1]["reads"] is False
    sandbox = instance.told("adopt")[-1]["sandbox"]
    assert not [one for one in instance.told("grant", "file.read") if one["sandbox"] == sandbox]


def test_a_policy_that_protects_more_labels_more(instance: TellingInstance) -> None:
    (instance.work / "late").mkdir(exist_ok=True)
    running, sandbox = waiting(instance)
    assert not any(name == str(instance.work / "late") for name, _ in labelled(instance, sandbox))
    path = instance.policy_dir / "profile-free.yaml"
    before = path.read_text()
    path.write_text(before.replace('"${cwd}/token"]', '"${cwd}/token", "${cwd}/late"]'))
    assert instance.ctl("apply", "-f", instance.policy_dir).returncode == 0
    instance.wait_until(
        lambda: True if any(name == str(instance.work / "late") for name, _ in labelled(instance, sandbox)) else None,
        "a label",
    )
    end(running)
    path.write_text(before)
    assert instance.ctl("apply", "-f", instance.policy_dir).returncode == 0
