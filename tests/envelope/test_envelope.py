"""The Envelope on real files, as an ordinary user and as root."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from governed_mcpd.kernel import landlock
from governed_mcpd.sandbox import envelope
from tests.support.users import ROOT, USER

PROBE = Path(__file__).with_name("probe.py")
PYTHON = ["/usr", "/lib", "/lib64", "/etc", str(Path(sys.prefix).parent), sys.prefix]


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories that everyone may use: only Landlock is in the way."""
    base = tmp_path_factory.mktemp("envelope")
    for parent in (base, *base.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    for name in ("readable", "writable", "runnable", "outside"):
        (base / name).mkdir()
        (base / name / "file").write_text("content")
        (base / name / "file").chmod(0o666)
        shutil.copy("/bin/true", base / name / "true")
        (base / name).chmod(0o777)
    return base


def tries(uid: int, place: Path, *attempts: tuple[str, str], **lists: list[str]) -> Any:
    asked = {
        "uid": uid,
        "read": [str(place / "readable"), *lists.get("read", [])],
        "write": [str(place / "writable"), *lists.get("write", [])],
        "execute": [str(place / "runnable"), "/usr", "/lib", "/lib64", *lists.get("execute", [])],
        "attempts": [(action, what.replace("@", str(place))) for action, what in attempts],
    }
    done = subprocess.run(
        [sys.executable, PROBE], input=json.dumps(asked), capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


both = pytest.mark.parametrize("uid", [USER, ROOT])


@both
def test_reading(place: Path, uid: int) -> None:
    inside = [("read", f"@/{name}/file") for name in ("readable", "writable", "runnable")]
    inside += [("list", f"@/{name}") for name in ("readable", "writable", "runnable")]
    assert tries(uid, place, *inside) == ["OK"] * 6
    assert tries(uid, place, ("read", "@/outside/file"), ("list", "@/outside"), ("list", "@")) == ["EACCES"] * 3
    assert tries(uid, place, ("stat", "@/outside/file")) == ["OK"], "metadata is not covered: the table says so"


@both
def test_writing(place: Path, uid: int) -> None:
    calls = ("write", "file"), ("create", "new"), ("mkdir", "directory"), ("unlink", "new")
    for name in ("readable", "runnable", "outside"):
        refused = tries(uid, place, *[(action, f"@/{name}/{what}") for action, what in calls])
        assert refused[:3] == ["EACCES"] * 3
        assert refused[3] in ("EACCES", "ENOENT")
    assert tries(uid, place, *[(action, f"@/writable/{what}") for action, what in calls]) == ["OK"] * 4
    assert (place / "outside" / "file").read_text() == "content"


@both
def test_executing(place: Path, uid: int) -> None:
    calls = [("execute", f"@/{name}/true") for name in ("runnable", "readable", "writable", "outside")]
    assert tries(uid, place, *calls) == ["OK", "EACCES", "EACCES", "EACCES"]


@both
def test_truncating_follows_writing_where_the_kernel_knows_it(place: Path, uid: int) -> None:
    outside = "EACCES" if landlock.abi() >= 3 else "OK"
    assert tries(uid, place, ("truncate", "@/writable/file"), ("truncate", "@/outside/file")) == ["OK", outside]


@both
def test_moving_and_linking_between_directories(place: Path, uid: int) -> None:
    (place / "writable" / "sub").mkdir()
    (place / "writable" / "sub").chmod(0o777)
    os.chown(place / "writable" / "file", uid, uid)
    assert tries(
        uid,
        place,
        ("rename", "@/writable/file|@/writable/sub/file"),
        ("link", "@/writable/sub/file|@/writable/again"),
        ("rename", "@/writable/again|@/outside/again"),
        ("link", "@/outside/file|@/writable/stolen"),
    )[:2] == ["OK", "OK"]
    assert not (place / "outside" / "again").exists()
    assert not (place / "writable" / "stolen").exists()


def test_root_makes_no_devices(place: Path) -> None:
    assert tries(ROOT, place, ("device", "@/writable/null")) == ["EACCES"]


@both
def test_a_file_as_a_path(place: Path, uid: int) -> None:
    single = str(place / "outside" / "file")
    assert tries(uid, place, ("read", single), ("write", single), read=[single]) == ["OK", "EACCES"]
    assert tries(uid, place, ("read", single), ("write", single), write=[single]) == ["OK", "OK"]
    assert tries(uid, place, ("read", "@/outside/true"), ("create", "@/outside/new"), write=[single]) == ["EACCES"] * 2


@both
def test_paths_that_are_missing_or_became_symlinks_are_left_out(place: Path, uid: int) -> None:
    (place / "link").symlink_to(place / "outside")
    gone = [str(place / "no-such"), str(place / "link"), str(place / "link" / "file")]
    assert tries(uid, place, ("read", "@/outside/file"), ("read", "@/readable/file"), read=gone, write=gone) == [
        "EACCES",
        "OK",
    ]


def test_a_path_that_is_not_canonical_fails(place: Path) -> None:
    for wrong in (f"{place}/readable/../outside", "relative", f"{place}/./readable"):
        assert "failed" in tries(USER, place, ("read", "@/outside/file"), read=[wrong])


def test_names_that_are_not_utf8(place: Path) -> None:
    odd = place / os.fsdecode(b"caf\xe9\n")
    odd.mkdir()
    (odd / "file").write_text("x")
    assert tries(USER, place, ("read", str(odd / "file")), read=[str(odd)]) == ["OK"]
    assert tries(USER, place, ("read", str(odd / "file"))) == ["EACCES"]


def test_signals_to_outside_are_refused_where_the_kernel_can(place: Path) -> None:
    expected = "EPERM" if landlock.abi() >= 6 else "OK"
    assert tries(ROOT, place, ("signal", str(os.getpid()))) == [expected]


def test_handled_rights_grow_with_the_version() -> None:
    assert landlock.handled(1) == 0x1FFF
    assert landlock.handled(2) == 0x3FFF
    assert landlock.handled(4) == 0x7FFF
    assert landlock.handled(5) == landlock.handled(99) == 0xFFFF
    assert (landlock.scopes(5), landlock.scopes(6)) == (0, landlock.SCOPE_SIGNAL)


def test_no_landlock_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # A kernel without Landlock cannot be had here: what its version call would say is put in its place.
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    with pytest.raises(envelope.SandboxError, match="lsm=landlock"):
        envelope.take_on([], [], [])
