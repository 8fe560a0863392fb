"""The applied sets on disk: whole or not at all, whatever happens in the middle."""

import os
from pathlib import Path

import pytest

from governed_mcpd.policy import store as store_module
from governed_mcpd.policy.load import PolicySet, parse
from governed_mcpd.policy.store import PolicyStore, StoreError

DOCUMENT = """\
kind: Profile
name: default
description: {}
envelope: {{read: [/usr]}}
---
kind: Agent
name: default
tier: Classic
profiles: [default]
"""


def policy(text: str) -> PolicySet:
    return parse({"a.yaml": DOCUMENT.format(text).encode(), "b.yaml": b"kind: Gate\nname: g\n"})


ONE, TWO, THREE = policy("one"), policy("two"), policy("three")


def test_activates_and_goes_back(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    assert store.active() is None
    assert store.previous() is None
    store.activate(ONE)
    assert store.previous() is None
    store.activate(TWO)
    store.activate(TWO)
    again = PolicyStore(tmp_path)
    assert again.active() == TWO.files
    assert again.active_version() == TWO.version
    assert again.previous() == ONE.files
    again.activate(ONE)
    assert (again.active(), again.previous()) == (ONE.files, TWO.files)


def test_nobody_else_reads_it(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "state")
    store.activate(ONE)
    assert (tmp_path / "state" / "policies").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "policies" / ONE.version / "a.yaml").stat().st_mode & 0o077 == 0


class Crash(BaseException):
    """The power goes."""


CALLS = ("rename", "fsync", "write", "open", "mkdir")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("count", range(12))
def test_a_crash_leaves_the_old_set_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    PolicyStore(tmp_path).activate(ONE)
    PolicyStore(tmp_path).activate(TWO)
    left = count
    real = getattr(os, name)

    def failing(*arguments: object, **named: object) -> object:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, name, failing)
        try:
            PolicyStore(tmp_path).activate(THREE)
            crashed = False
        except Crash:
            crashed = True
    after = PolicyStore(tmp_path)
    active = after.active()
    assert active in ((TWO.files, THREE.files) if crashed else (THREE.files,))
    assert after.previous() in (ONE.files, TWO.files)
    assert not [entry for entry in os.listdir(tmp_path / "policies") if entry.startswith(".writing-")]
    after.activate(THREE)
    assert after.active() == THREE.files


@pytest.mark.parametrize("applied", [(), (ONE,), (ONE, TWO)], ids=len)
def test_restores_what_was_active_and_previous(tmp_path: Path, applied: tuple[PolicySet, ...]) -> None:
    """Also that nothing was: then the policy directory counts at the next start, not what failed."""
    store = PolicyStore(tmp_path)
    for policy_set in applied:
        store.activate(policy_set)
    before = store.pointers()
    found = store.active(), store.previous()
    store.activate(THREE)
    assert store.active() == THREE.files
    store.restore(before)
    again = PolicyStore(tmp_path)
    assert (again.active(), again.previous()) == found


@pytest.mark.parametrize("name", ["rename", "fsync", "write"])
def test_a_full_disk_is_told_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    store = PolicyStore(tmp_path)
    store.activate(ONE)

    def full(*_arguments: object, **_named: object) -> object:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, name, full)
        with pytest.raises(StoreError, match="No space left on device"):
            store.activate(TWO)
    assert store.active() == ONE.files
    store.activate(TWO)
    assert store.active() == TWO.files


def damage_content(root: Path) -> None:
    (root / ONE.version / "a.yaml").write_bytes(DOCUMENT.format("forged").encode())


def damage_missing(root: Path) -> None:
    (root / ONE.version / "b.yaml").unlink()


def damage_stray(root: Path) -> None:
    (root / ONE.version / "c.yaml").write_text("kind: Gate\nname: h\n")


def damage_other_stray(root: Path) -> None:
    (root / ONE.version / "note.txt").write_text("x")


def damage_link(root: Path) -> None:
    content = (root / ONE.version / "a.yaml").read_bytes()
    (root / "elsewhere").write_bytes(content)
    (root / ONE.version / "a.yaml").unlink()
    (root / ONE.version / "a.yaml").symlink_to(root / "elsewhere")


def damage_torn(root: Path) -> None:
    os.truncate(root / ONE.version / "a.yaml", 10)


def damage_pointer(root: Path) -> None:
    (root / "active").write_text("../../etc\n")


def damage_dangling(root: Path) -> None:
    (root / "active").write_text("0" * 64 + "\n")


def damage_empty(root: Path) -> None:
    (root / "active").write_text("")


@pytest.mark.parametrize(
    "damage",
    [
        damage_content, damage_missing, damage_stray, damage_other_stray, damage_link, damage_torn, damage_pointer,
        damage_dangling, damage_empty,
    ],
)  # fmt: skip
def test_damage_is_an_error_never_a_policy(tmp_path: Path, damage: object) -> None:
    store = PolicyStore(tmp_path)
    store.activate(ONE)
    assert callable(damage)
    damage(tmp_path / "policies")
    with pytest.raises(StoreError) as caught:
        PolicyStore(tmp_path).active()
    assert "appl" in str(caught.value)


def test_applying_again_repairs(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    store.activate(ONE)
    damage_content(tmp_path / "policies")
    store.activate(ONE)
    assert store.active() == ONE.files


def test_the_oldest_are_removed(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    for index in range(store_module.KEPT + 6):
        store.activate(policy(f"set {index}"))
    kept = [entry for entry in os.listdir(tmp_path / "policies") if len(entry) == 64]
    assert len(kept) == store_module.KEPT + 2
    assert store.active()
    assert store.previous()


def test_a_state_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "policies").write_text("a file")
    with pytest.raises(StoreError, match="check the state directory"):
        PolicyStore(tmp_path)


def test_versions_are_not_paths(tmp_path: Path) -> None:
    for version in ("../x", "", "A" * 64, "0" * 63):
        with pytest.raises(StoreError, match="not a policy version"):
            PolicyStore(tmp_path).files(version)
