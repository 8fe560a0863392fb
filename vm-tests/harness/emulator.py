"""QEMU: the host's, or a newer one of Debian's where the host's makes kernels crash that it emulates."""

import re
import shutil
from pathlib import Path

from harness.image import MIRROR
from harness.kernels import fetch
from harness.tools import CACHE, command, digest, made_once

PROGRAM = "qemu-system-x86_64"
# Before this one, what a processor translates while another one patches it keeps its old bytes (QEMU's commit
# deba78709a, "accel/tcg: Always lock pages before translation"). Linux patches itself whenever a static key or a
# trampoline changes, as it does when programs are attached: with two processors of QEMU 7.2 a guest that attached some
# in a loop, while it used sockets, ended within seconds with "Oops: int3" (6.12) or, minutes later, with a soft lockup
# (6.1).
PATCHES_WHAT_RUNS = (8, 1)
SUITE = "bookworm-backports"
# What the program needs beyond Debian 12's own, which are installed: its libraries are the same.
PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")


def emulator(accelerator: str) -> tuple[str, ...]:
    """The first words of QEMU's command line. Trouble when it has to be fetched and cannot be."""
    if (
        accelerator == "kvm"
        or version(command([PROGRAM, "--version"], "asking QEMU for its version")) >= PATCHES_WHAT_RUNS
    ):
        return (PROGRAM,)
    where = CACHE / f"qemu-{digest(SUITE, *PACKAGES, Path(__file__))}"
    with made_once(where) as unfinished:
        if unfinished is not None:
            print(f"qemu: fetching it from {SUITE}, since this host's makes emulated kernels crash", flush=True)
            make(unfinished)
    share = where / "usr" / "share"
    return (str(where / "usr" / "bin" / PROGRAM), "-L", str(share / "qemu"), "-L", str(share / "seabios"))


def version(printed: str) -> tuple[int, int]:
    """Major and minor number of what `--version` prints; (0, 0) if it has none."""
    found = re.search(r"version (\d+)\.(\d+)", printed)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def make(into: Path) -> None:
    """Downloads and unpacks it. Lists of its own: the host's sources stay what they are."""
    apt = into / "apt"
    (apt / "lists" / "partial").mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb {MIRROR} {SUITE} main\n")
    own = {
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
    }
    options = [word for name, value in own.items() for word in ("-o", f"{name}={value}")]
    command(["apt-get", *options, "update", "-q"], f"reading the package lists of {SUITE} (is a mirror reachable?)")
    for package in fetch([f"{name}/{SUITE}" for name in PACKAGES], into / "packages", options):
        command(["dpkg-deb", "-x", package, into], f"unpacking {package.name}")
    shutil.rmtree(apt)
    shutil.rmtree(into / "packages")
