"""What the harness keeps, how it fails, and what a crashed kernel looks like to it."""

import subprocess
import threading
import time
from pathlib import Path

import pytest
from harness.kernels import Kernel, needed
from harness.machine import CRASH, LINES_AFTER, LINES_BEFORE, Machine, crash, end, quickly
from harness.tools import STOP, Trouble, command, digest, made_once, sparse


def test_what_was_made_is_there_whole_and_the_older_one_gone(tmp_path: Path) -> None:
    for name in ("image-old", "kernel-6.12-old", "image-new"):
        with made_once(tmp_path / name) as unfinished:
            assert unfinished is not None
            (unfinished / "file").write_text(name)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"image-new", "kernel-6.12-old"}
    with made_once(tmp_path / "image-new") as again:
        assert again is None
    assert (tmp_path / "image-new" / "file").read_text() == "image-new"


def test_another_line_of_kernels_is_not_an_older_one(tmp_path: Path) -> None:
    for name in ("kernel-6.12-a", "kernel-6.1-b"):
        with made_once(tmp_path / name):
            pass
    assert (tmp_path / "kernel-6.12-a").is_dir()


def test_what_failed_half_way_is_made_anew(tmp_path: Path) -> None:
    def half() -> None:
        with made_once(tmp_path / "image-x") as unfinished:
            assert unfinished is not None
            (unfinished / "half").touch()
            raise Trouble("no mirror")

    with pytest.raises(Trouble):
        half()
    assert not (tmp_path / "image-x").exists()
    with made_once(tmp_path / "image-x") as unfinished:
        assert unfinished is not None
        assert list(unfinished.iterdir()) == []


def test_two_that_want_the_same_wait_for_each_other(tmp_path: Path) -> None:
    made = []

    def make() -> None:
        with made_once(tmp_path / "image-x") as unfinished:
            if unfinished is not None:
                time.sleep(0.2)
                made.append(unfinished)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1


def test_names_of_what_is_kept_depend_on_every_part(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    first = digest("a", "b", tmp_path / "file")
    assert first == digest("a", "b", tmp_path / "file")
    assert first != digest("ab", "", tmp_path / "file")
    (tmp_path / "file").write_text("other")
    assert first != digest("a", "b", tmp_path / "file")


def test_a_command_that_fails_says_what_was_being_done() -> None:
    assert command(["printf", "well"], "printing") == "well"
    with pytest.raises(Trouble, match=r"printing: sh ended with 3:\n  no room"):
        command(["sh", "-c", "echo no room; exit 3"], "printing")
    with pytest.raises(Trouble, match="waiting: sleep did not end within 0 s"):
        command(["sleep", "60"], "waiting", seconds=0.2)


def test_a_command_ends_with_the_harness_and_all_that_it_started_too(tmp_path: Path) -> None:
    told = threading.Timer(1, STOP.set)
    told.start()
    begun = time.monotonic()
    try:
        with pytest.raises(Trouble, match="waiting: sh was ended with the harness"):
            command(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; wait"], "waiting")
    finally:
        told.join()
        STOP.clear()
    assert time.monotonic() - begun < 30
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    deadline = time.monotonic() + 10  # killed it is; it may not have got as far as ending
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it goes on, for a minute"
        time.sleep(0.02)


def test_an_empty_disk_takes_no_room(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "disk", 64)
    assert disk.stat().st_size == 64 << 20
    assert disk.stat().st_blocks == 0


@pytest.mark.parametrize(
    ("line", "crashed"),
    [
        (b"[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs", True),
        (b"[   10.0] Oops: 0002 [#1] PREEMPT SMP", True),
        (b"[   10.0] BUG: kernel NULL pointer dereference, address: 0000000000000008", True),
        (b"[   30.1] watchdog: BUG: soft lockup - CPU#1 stuck for 26s!", False),
        (b"[   30.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks", False),
        (b"systemd[1]: Started a unit whose name has Oopsie in it", False),
    ],
)
def test_a_crash_is_told_from_a_slow_host(line: bytes, crashed: bool) -> None:
    assert bool(CRASH.search(line)) is crashed


def test_what_the_kernel_said_when_it_crashed_is_shown_with_what_stood_around() -> None:
    calm = b"".join(b"[    %d.0] calm\r\n" % second for second in range(500))
    trace = b"".join(b"[  501.%d] trace\r\n" % part for part in range(500))
    shown = crash(calm + b"[  500.0] Oops: 0002 [#1] PREEMPT SMP\r\n" + trace).splitlines()
    assert shown[0] == "[    495.0] calm"
    assert shown[LINES_BEFORE] == "[  500.0] Oops: 0002 [#1] PREEMPT SMP"
    assert shown[LINES_BEFORE + 1 :] == [f"[  501.{part}] trace" for part in range(LINES_AFTER - 1)]
    assert crash(b"Oops: at the very start").strip() == "Oops: at the very start"
    assert crash(calm) == ""


def test_modules_are_loaded_after_those_they_need() -> None:
    listed = "a/virtio_blk.ko: b/virtio_ring.ko b/virtio.ko\nb/virtio_ring.ko: b/virtio.ko\nb/virtio.ko:\n"
    assert needed(listed, ("virtio_ring", "built_in", "virtio_blk")) == [
        "b/virtio.ko",
        "b/virtio_ring.ko",
        "a/virtio_blk.ko",
    ]


def machine(tmp_path: Path, seconds: float) -> Machine:
    """A machine that is not started, with its files."""
    kernel = Kernel("6.1", "6.1.0", tmp_path / "vmlinuz", tmp_path / "initramfs", tmp_path / "modules.ext4")
    for name in ("serial.log", "output", "result"):
        (tmp_path / name).touch()
    return Machine(kernel, tmp_path / "root.ext4", tmp_path, "tcg", ("qemu",), ["a=1"], [], seconds)


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("true", "off"),
        ("exec sleep 60", "timeout"),
        ("echo 'Kernel panic - not syncing: dead' >>serial.log; exec sleep 60", "crashed"),
        ("echo 'Kernel panic - not syncing: dead' >>serial.log", "crashed"),
    ],
)
def test_a_machine_that_does_not_go_off_is_ended(tmp_path: Path, script: str, ended: str) -> None:
    process = subprocess.Popen(["sh", "-c", script], cwd=tmp_path)
    started = time.monotonic()
    assert machine(tmp_path, 3).watch(process, lambda: None) == ended
    assert time.monotonic() - started < 20
    end(process)
    assert process.returncode is not None


@pytest.mark.parametrize(
    ("passed", "computed", "late"),
    [(99, 150, False), (101, 150, True), (101, 90, False), (390, 90, False), (401, 90, True)],
)
def test_a_busy_host_is_not_the_machines_fault(tmp_path: Path, passed: float, computed: float, late: bool) -> None:
    assert machine(tmp_path, 100).late(passed, computed) is late


def test_a_full_run_and_a_machine_that_is_not_emulated_have_the_kernel_as_it_is() -> None:
    assert "norandmaps" in quickly("tcg", full=False)
    assert quickly("tcg", full=True) == quickly("kvm", full=False) == ()


def test_an_interrupted_harness_ends_its_machines(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    STOP.set()
    try:
        assert machine(tmp_path, 30).watch(process, lambda: None) == "interrupted"
    finally:
        STOP.clear()
        end(process)


def test_every_disk_can_be_told_from_the_others(tmp_path: Path) -> None:
    words = machine(tmp_path, 3).arguments()
    serials = [word.rpartition("serial=")[2] for word in words if word.startswith("virtio-blk-pci")]
    assert serials == ["root", "kernel"]
    assert "a=1" in words[words.index("-append") + 1].split()
