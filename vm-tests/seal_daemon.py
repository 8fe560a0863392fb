"""The seal outlives the daemon that loaded it, and the next one takes it up or says what is wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import seal_acts as acts
from bounds import HANG
from seal_scene import Actor

from governed_mcpd.grant import pins
from governed_mcpd.grant.seal import SealFailed

MACHINE = {
    "python": "checkout",
    "seconds": 600,
    # First this one: it begins with a kernel that has no seal. The others take up what they find.
    "then": ["product_seal", "seal_operations", "seal_reach", "names", "seal_races"],
    "full_parameters": "preempt=full",
}
PROGRAM = Path(__file__).parent / "guest" / "seal_daemon_program.py"


class Daemon:
    """A process that keeps the seal."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.found = self._line()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def says(self, *words: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n".join(words) + "\n")
        return self._line()

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(HANG)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    pins.unload()
    assert not os.path.exists(pins.PINS)


def test_a_killed_daemon_leaves_its_seal_and_the_next_takes_it_up(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    there = str(tmp_path / "there")
    Path(there).write_text("x")
    first = Daemon()
    assert first.found == {"taken_up": False, "sandboxes": [], "tasks": 0}
    actor = Actor()
    try:
        assert first.says("adopt", str(actor.pid)) == {"adopted": actor.pid}
        second = Daemon()
        assert "another governed-mcpd" in second.found["failed"]
        first.end()
        # With no daemon nothing new becomes possible, and the pins are nobody's but root's.
        for act, arguments in (
            (acts.write, (there,)),
            (acts.create, (there + "2",)),
            (acts.mount, (str(tmp_path),)),
            (acts.bpf, ()),
            (acts.kill, (os.getpid(),)),
            (acts.connect, (2, 2, ("127.0.0.1", 9))),
            (acts.spawn_plain, ("/bin/true",)),
        ):
            assert actor.tries(act, *arguments)[0] == errno.EPERM, act.__name__
        with pytest.raises(SealFailed, match="still running"):
            pins.unload()
        third = Daemon()
        assert third.found == {"taken_up": True, "sandboxes": ["left-behind"], "tasks": 1}
        assert actor.tries(acts.write, there)[0] == errno.EPERM
        told = third.says("events")["events"]
        assert ["file.write", there, "left-behind"] in told
        third.end()
    finally:
        actor.end()
    fourth = Daemon()
    assert fourth.found == {"taken_up": True, "sandboxes": [], "tasks": 0}
    fourth.end()


def test_an_unfinished_load_is_begun_anew_and_a_seal_with_holes_is_fatal() -> None:
    os.makedirs(f"{pins.PINS}-new/maps", mode=0o700)
    first = Daemon()
    assert first.found["taken_up"] is False
    assert not os.path.exists(f"{pins.PINS}-new")
    first.end()
    # A load takes an emulated machine ten seconds: each hole is filled again.
    for lost in ("links/file_open", "maps/grants", "programs/path_unlink"):
        aside = f"{pins.PINS}/aside"
        os.rename(f"{pins.PINS}/{lost}", aside)
        second = Daemon()
        assert lost.rpartition("/")[2] in second.found["failed"]
        second.end()
        os.rename(aside, f"{pins.PINS}/{lost}")
    whole = Daemon()
    assert whole.found == {"taken_up": True, "sandboxes": [], "tasks": 0}
    whole.end()
    os.unlink(f"{pins.PINS}/version")
    # Nobody is sealed, so the whole is simply made anew.
    other = Daemon()
    assert other.found == {"taken_up": False, "sandboxes": [], "tasks": 0}
    other.end()


def test_a_seal_of_another_build_is_replaced_when_nobody_is_sealed() -> None:
    first = Daemon()
    first.end()
    text = os.readlink(f"{pins.PINS}/version")
    os.unlink(f"{pins.PINS}/version")
    os.symlink(text[:-4] + "0000", f"{pins.PINS}/version")
    second = Daemon()
    assert second.found["taken_up"] is False
    assert os.readlink(f"{pins.PINS}/version") == text
    actor = Actor()
    second.says("adopt", str(actor.pid))
    second.end()
    os.unlink(f"{pins.PINS}/version")
    os.symlink(text[:-4] + "0000", f"{pins.PINS}/version")
    third = Daemon()
    assert third.found == {"taken_up": True, "sandboxes": ["left-behind"], "tasks": 1}
    third.end()
    actor.end()
