"""One virtual machine, from its start to its end: QEMU's arguments, the guest's ports, a bound on time."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness.kernels import Kernel
from harness.tools import CACHE, STOP, Trouble, command

# QEMU ends with the thread of the harness that started it, however that ends.
TIED = ("setpriv", "--pdeathsig", "KILL")
BARE = ("-no-user-config", "-nodefaults", "-display", "none", "-machine", "q35")
MEMORY = 2048  # mebibytes

# What udev finds and no test needs: drivers of the board and of the processor's features, whose loading would take
# emulated processors a quarter of a minute, beside the tests.
UNNEEDED = (
    "ahci,kvm_amd,kvm_intel,powernow_k8,aesni_intel,ghash_clmulni_intel,crct10dif_pclmul,crc32_pclmul,sha1_ssse3,"
    "sha256_ssse3,sha512_ssse3,button,evdev,psmouse,serio_raw"
)
# Units that no test needs: a look for old snapshots of file systems, logins, the list of who was logged in.
UNSTARTED = (
    "e2scrub_reap.service", "getty@tty1.service", "serial-getty@ttyS0.service", "systemd-binfmt.service",
    "systemd-logind.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "dev-hugepages.mount",
)  # fmt: skip
QUIET = ("quiet", f"modprobe.blacklist={UNNEEDED}", *(f"systemd.mask={unit}" for unit in UNSTARTED))

# What only costs time where processors are emulated. A program that lies at the same addresses each time is translated
# once: a process that does little starts in a third of the time. Guards against what processors betray by speculating
# cost a quarter of a system call, and guard nothing there. Memory that is cleared whenever it is handed out takes
# starts of programs a fifth. A full run goes without these words, as does what measures time.
EMULATED = ("norandmaps", "mitigations=off", "no5lvl", "init_on_alloc=0")

# On a host that others use a machine may take so many times as long.
MOST_TIMES = 4
MOST_LATER = 5400  # seconds; one that does nothing any more is noticed by this

# Lines of the serial log after which nothing good comes. Stalls and soft lockups are not among them: emulation on a
# busy host makes them.
CRASH = re.compile(
    rb"Kernel panic - not syncing|\bOops\b|BUG: unable to handle|BUG: kernel NULL|general protection fault"
)
LINES_BEFORE, LINES_AFTER = 5, 80


def quickly(accelerator: str, *, full: bool) -> tuple[str, ...]:
    """Words for the kernel's command line that save time where they may."""
    return EMULATED if accelerator == "tcg" and not full else ()


@dataclass(frozen=True)
class Disk:
    """A raw image that the guest finds by its serial number (/dev/disk/by-id/virtio-SERIAL)."""

    serial: str
    path: Path
    read_only: bool = True


@dataclass
class Machine:
    """What to boot, and where its files go. `directory` gets serial.log, output, result, and root.qcow2.

    The root disk is an overlay over `root`: what a test does to the machine no other test sees.
    """

    kernel: Kernel
    root: Path
    directory: Path
    accelerator: str
    # The program, and words that go before all others (emulator.py).
    emulator: tuple[str, ...]
    parameters: list[str]
    disks: list[Disk] = field(default_factory=list)
    seconds: float = 600
    processors: int = 2
    # Processor time that it has had, as far as it was looked at.
    computed: float = 0

    def run(self, on_output: Callable[[bytes], None]) -> str:
        """Boots, passes on what comes out of the output port, and returns how it ended.

        `off`: by itself. `crashed`: the kernel did. `timeout`. `interrupted`: the harness was.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        overlay = self.directory / "root.qcow2"
        command(["qemu-img", "create", "-q", "-f", "qcow2", "-b", self.root, "-F", "raw", overlay], "making an overlay")
        for name in ("serial.log", "output", "result"):
            (self.directory / name).write_bytes(b"")
        said = self.directory / "qemu.log"
        with said.open("wb") as log, (self.directory / "output").open("rb") as output:
            # Its own session: an interrupt at the terminal reaches the harness, which ends the machine in its own way.
            qemu = subprocess.Popen(
                self.arguments(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            try:
                ended = self.watch(qemu, lambda: on_output(output.read()))
            finally:
                end(qemu)
        if qemu.returncode != 0 and ended == "off":
            raise Trouble(f"QEMU ended with {qemu.returncode}: {said.read_text().strip()[-500:]}")
        return ended

    def watch(self, qemu: "subprocess.Popen[bytes]", pass_on: Callable[[], None]) -> str:
        """Waits until the process ends, the time is over, or the kernel crashed; says which, and leaves it as it is."""
        serial = self.directory / "serial.log"
        started = time.monotonic()
        while qemu.poll() is None:
            pass_on()
            if STOP.is_set():
                return "interrupted"
            self.computed = max(self.computed, spent(qemu.pid))
            if self.late(time.monotonic() - started, self.computed):
                return "timeout"
            if CRASH.search(serial.read_bytes()):
                time.sleep(2)  # the trace that follows is what one wants to read
                return "crashed"
            time.sleep(0.1)
        pass_on()
        return "crashed" if CRASH.search(serial.read_bytes()) else "off"

    def late(self, passed: float, computed: float) -> bool:
        """Whether its time is over: on a busy host, when it has had processors for as long as it may take."""
        most = min(self.seconds * MOST_TIMES, self.seconds + MOST_LATER)
        return passed > self.seconds and (computed > self.seconds or passed > most)

    def arguments(self) -> list[str]:
        """QEMU's command line. No network card: tests use the loopback device, and nothing depends on a mirror."""
        # Without erms a page is cleared in words, not in bytes: each is emulated, and it is half of a page fault. Linux
        # 6.1 expects no processor to have fsrm then, and moves memory in a circle.
        model = "host" if self.accelerator == "kvm" else "max,-erms,-fsrm"
        accelerator = "kvm" if self.accelerator == "kvm" else "tcg,thread=multi"
        words = [*TIED, *self.emulator, *BARE, "-accel", accelerator, "-cpu", model]
        words += ["-smp", str(self.processors), "-m", str(MEMORY)]
        words += ["-kernel", str(self.kernel.vmlinuz), "-initrd", str(self.kernel.initramfs)]
        # panic=0: a machine that panics stops there; a reboot is one that was asked for.
        words += ["-append", " ".join(["console=ttyS0", "panic=0", *QUIET, *self.parameters])]
        words += ["-chardev", f"file,id=serial,path={self.directory / 'serial.log'}", "-serial", "chardev:serial"]
        words += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        for port in ("output", "result"):
            words += ["-chardev", f"file,id={port},path={self.directory / port}"]
            words += ["-device", f"virtserialport,chardev={port},name={port}"]
        overlay = Disk("root", self.directory / "root.qcow2", read_only=False)
        for disk in (overlay, Disk("kernel", self.kernel.modules), *self.disks):
            kind = "qcow2" if disk is overlay else "raw"
            options = f"if=none,id={disk.serial},file={disk.path},format={kind},discard=unmap"
            # Nothing of a run outlives it: no flush is waited for.
            options += ",read-only=on" if disk.read_only else ",cache=unsafe"
            words += ["-drive", options, "-device", f"virtio-blk-pci,drive={disk.serial},serial={disk.serial}"]
        return words


def new_directory(name: str) -> Path:
    """Where the files of one run lie until it ends. What a killed harness left a day ago or longer goes."""
    for left in (CACHE / "runs").glob("*"):
        if time.time() - left.stat().st_mtime > 86400:
            shutil.rmtree(left)
    directory = CACHE / "runs" / f"{name}-{time.time_ns()}"
    directory.mkdir(parents=True)
    return directory


def crash(serial: bytes) -> str:
    """What the kernel said when it crashed: the line that says so, a few before it and its trace; "" if it did not."""
    found = CRASH.search(serial)
    if found is None:
        return ""
    line = serial.rfind(b"\n", 0, found.start()) + 1
    said = serial[:line].splitlines()[-LINES_BEFORE:] + serial[line:].splitlines()[:LINES_AFTER]
    return b"\n".join([*said, b""]).decode(errors="replace")


def keep_log(directory: Path) -> Path:
    """Moves the serial log of a failure to where it stays."""
    kept = CACHE / "logs" / f"{directory.name}.log"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(directory / "serial.log", kept)
    return kept


def spent(pid: int) -> float:
    """Seconds of processor time that a process has had (proc_pid_stat(5)); 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end(qemu: "subprocess.Popen[bytes]") -> None:
    """Ends one QEMU that this harness started, by its own process id, and waits for it."""
    if qemu.poll() is None:
        qemu.kill()
    try:
        qemu.wait(20)
    except subprocess.TimeoutExpired as stuck:
        raise Trouble(f"QEMU (process {qemu.pid}) does not end even when killed: is KVM hanging?") from stuck


def accelerator(kernel: Kernel) -> str:
    """`kvm` if a kernel really boots with it within 20 s, else `tcg`: /dev/kvm may be there and hang at the first use.

    The answer is kept until the host's next boot.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    kept = CACHE / f"accelerator-{boot}"
    if kept.exists():
        return kept.read_text()
    found = "tcg"
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        words = ["qemu-system-x86_64", *BARE, "-accel", "kvm", "-cpu", "host", "-smp", "2", "-m", "512"]
        words += ["-serial", "stdio", "-no-reboot"]
        words += ["-kernel", str(kernel.vmlinuz), "-initrd", str(kernel.initramfs)]
        words += ["-append", "console=ttyS0 vm.probe"]
        qemu = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            printed, _ = qemu.communicate(timeout=20)
            if b"init: alive" in printed:
                found = "kvm"
        except subprocess.TimeoutExpired:
            pass
        finally:
            end(qemu)
    print(f"accelerator: {found}", file=sys.stderr, flush=True)
    kept.write_text(found)
    return found
