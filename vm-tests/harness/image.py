"""The guest's root: Debian 12 by debootstrap, with the packages of image/packages. Kept by the hash of its recipe."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.tools import CACHE, HERE, command, digest, ext4, made_once

MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
UNIT = HERE / "guest" / "vm-tests.service"
# Owners by number: the host knows other names.
AS_IT_IS = ("--numeric-owner", "--xattrs", "--xattrs-include=*")
SIZE = 6000  # mebibytes; the file is sparse, and the rest is room for what tests write

SOURCES = f"""\
deb {MIRROR} bookworm main
deb {MIRROR} bookworm-updates main
deb {SECURITY} bookworm-security main
"""


def packages() -> list[str]:
    """The names in image/packages."""
    lines = (HERE / "image" / "packages").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@dataclass(frozen=True)
class Image:
    """The root disk, and an archive of what is on it: for disks that have something besides."""

    disk: Path
    archive: Path


def image() -> Image:
    """From the cache or made now (two to four minutes)."""
    recipe = digest(*packages(), UNIT, Path(__file__))
    where = CACHE / f"image-{recipe}"
    with made_once(where) as unfinished:
        if unfinished is not None:
            print("image: making a Debian 12 root with debootstrap (two to four minutes, once)", flush=True)
            make(unfinished)
    return Image(where / "root.ext4", where / "root.tar")


def make(into: Path) -> None:
    """Debootstrap, packages, configuration, and a file system of it all."""
    root = into / "root"
    command(["debootstrap", "--variant=minbase", "bookworm", root, MIRROR], "making the image", seconds=1800)
    (root / "etc/apt/sources.list").write_text(SOURCES)
    # Nothing starts while packages are configured: the host is not the machine they are for.
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    inside: list[str | Path] = ["chroot", root]
    command([*inside, "apt-get", "update", "-q"], "reading the package lists for the image")
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages()]
    command([*inside, *install], "installing packages into the image", seconds=1800)
    listed = command([*inside, "dpkg-query", "-W"], "listing the image's packages")
    (into / "packages").write_text(listed)
    command([*inside, "apt-get", "clean"], "cleaning the image")
    # What the archive has is not looked at by any test, and reading it would take each first apt-get half a minute.
    for left in (root / "var/lib/apt/lists").glob("*_dists_*"):
        left.unlink()
    (root / "usr/sbin/policy-rc.d").unlink()
    configure(root)
    ext4(into / "root.ext4", root, SIZE, "making the root disk")
    command(
        ["tar", *AS_IT_IS, "--create", "--file", into / "root.tar", "--directory", root, "."], "archiving the image"
    )
    shutil.rmtree(root)


def configure(root: Path) -> None:
    """What makes it a test machine: a name, the unit that runs the tests, and nothing that wakes up by itself."""
    (root / "etc/hostname").write_text("governed-test\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost governed-test\n::1 localhost\n")
    (root / "etc/machine-id").write_text("")
    (root / "root").chmod(0o755)  # a checkout below /root is mounted at its own path, and users must reach it
    system = root / "etc/systemd/system"
    shutil.copy2(UNIT, system)
    wants = system / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "vm-tests.service").symlink_to("../vm-tests.service")
    for unit in ("apt-daily", "apt-daily-upgrade", "e2scrub_all", "fstrim", "dpkg-db-backup"):
        (system / f"{unit}.timer").symlink_to("/dev/null")
    (root / "etc/systemd/system.conf.d").mkdir()
    # Emulated processors are slow: a start that takes two minutes is not a failure here.
    (root / "etc/systemd/system.conf.d/slow.conf").write_text(
        "[Manager]\nDefaultTimeoutStartSec=300\nDefaultTimeoutStopSec=120\n"
    )
