"""QEMU: the host's, or a newer one of Debian's where the host's makes kernels crash that it emulates."""

import re
import shutil
from pathlib import Path

from harness.image import MIRROR
from harness.kernels import fetch
from harness.tools import CACHE, Trouble, command, digest, made_once

PROGRAM = "qemu-system-x86_64"
# Before this one, what a processor translates while another one patches it keeps its old bytes (QEMU's commit
# deba78709a, "accel/tcg: Always lock pages before translation"). Linux patches itself whenever a static key or a
# trampoline changes, as it does when programs are attached: with two processors of QEMU 7.2 a guest that attached some
# in a loop, while it used sockets, ended within seconds with "Oops: int3" (6.12) or, minutes later, with a soft lockup
# (6.1).
PATCHES_WHAT_RUNS = (8, 1)
SUITE = "bookworm-backports"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# What the program needs beyond Debian 12's own, which are installed: its libraries are the same.
PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")


OTHERWISE = "QEMU {}.{} or newer on this host will do as well".format(*PATCHES_WHAT_RUNS)


def emulator(accelerator: str) -> tuple[str, ...]:
    """The first words of QEMU's command line. Trouble when it has to be fetched and cannot be."""
    if accelerator == "kvm" or version(PROGRAM) >= PATCHES_WHAT_RUNS:
        return (PROGRAM,)
    where = CACHE / f"qemu-{digest(SUITE, *PACKAGES, Path(__file__))}"
    with made_once(where) as unfinished:
        if unfinished is not None:
            print(f"qemu: fetching it from {SUITE}, since this host's makes emulated kernels crash", flush=True)
            make(unfinished)
    share = where / "usr" / "share"
    return (str(where / "usr" / "bin" / PROGRAM), "-L", str(share / "qemu"), "-L", str(share / "seabios"))


def version(program: str) -> tuple[int, int]:
    """Major and minor number of a QEMU; (0, 0) if it does not say them."""
    found = re.search(r"version (\d+)\.(\d+)", command([program, "--version"], "asking QEMU for its version"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def make(into: Path) -> None:
    """Downloads and unpacks it. Lists of its own: the host's sources stay what they are."""
    apt = into / "apt"
    (apt / "lists" / "partial").mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n")
    own = {
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        # What the host prefers is not in these lists.
        "APT::Default-Release": SUITE,
        # Without this a mirror that is not reached is only warned of.
        "APT::Update::Error-Mode": "any",
    }
    options = [word for name, value in own.items() for word in ("-o", f"{name}={value}")]
    try:
        command(["apt-get", *options, "update", "-q"], f"reading the package lists of {SUITE}")
        packages = fetch([f"{name}/{SUITE}" for name in PACKAGES], into / "packages", options)
    except Trouble as trouble:
        raise Trouble(f"{trouble}\n  is {MIRROR} reachable? {OTHERWISE}") from None
    for package in packages:
        command(["dpkg-deb", "-x", package, into], f"unpacking {package.name}")
    found = version(str(into / "usr" / "bin" / PROGRAM))
    if found < PATCHES_WHAT_RUNS:
        raise Trouble("QEMU {}.{} of {} is too old: {}".format(*found, SUITE, OTHERWISE))
    shutil.rmtree(apt)
    shutil.rmtree(into / "packages")
