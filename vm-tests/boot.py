"""The machine is what the other tests take for granted."""

import os
import subprocess
from pathlib import Path

import pytest

MACHINE = {
    "parameters": "vm.word=heard",
    "processors": 1,
    "disks": {"spare": 64},
    # The package's whole life, and all that is done with it between.
    "then": ["package", "trace", "product_systemd", "work", "killed", "service", "removed"],
}


def test_kernel_is_the_one_that_was_asked_for():
    asked = Path(os.environ["CHECKOUT"], ".vm-run", "kernel").read_text()
    assert os.uname().release == asked
    assert Path("/usr/lib/modules", asked, "kernel").is_dir()


def test_bpf_is_among_the_active_security_modules():
    assert "bpf" in Path("/sys/kernel/security/lsm").read_text().split(",")


def test_kernel_describes_its_types():
    assert Path("/sys/kernel/btf/vmlinux").read_bytes()[:2] == b"\x9f\xeb"


def test_control_groups_are_unified():
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    assert [kind for _, where, kind, *_ in mounts if where == "/sys/fs/cgroup"] == ["cgroup2"]


def test_systemd_is_the_first_process_and_nothing_failed():
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    shown = subprocess.run(
        ["systemctl", "--failed", "--plain", "--no-legend"], capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout == ""


def test_tests_run_as_root_on_the_processors_that_were_asked_for():
    assert os.getuid() == 0
    assert os.sysconf("SC_NPROCESSORS_ONLN") == int(os.environ["VM_PROCESSORS"])


def test_words_reach_the_kernel_command_line():
    assert "vm.word=heard" in Path("/proc/cmdline").read_text().split()


def test_spare_disk_takes_a_file_system(tmp_path):
    device = "/dev/disk/by-id/virtio-spare"
    size = int(Path("/sys/class/block", Path(device).resolve().name, "size").read_text()) * 512
    assert size == 64 << 20
    subprocess.run(["mkfs.ext4", "-q", "-F", device], timeout=120, check=True)
    subprocess.run(["mount", "-t", "ext4", device, tmp_path], timeout=60, check=True)
    try:
        (tmp_path / "file").write_text("kept")
        assert (tmp_path / "file").read_text() == "kept"
    finally:
        subprocess.run(["umount", tmp_path], timeout=60, check=True)


def test_checkout_cannot_be_changed():
    with pytest.raises(OSError, match="Read-only file system"):
        Path(os.environ["CHECKOUT"], "new").touch()


def test_something_is_left_for_the_next_boot():
    Path("/var/tmp/kept").write_text(Path("/proc/sys/kernel/random/boot_id").read_text())


@pytest.mark.after_reboot
def test_the_disk_is_the_same_after_a_reboot():
    assert Path("/var/tmp/kept").read_text() != Path("/proc/sys/kernel/random/boot_id").read_text()
