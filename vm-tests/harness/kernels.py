"""Debian's kernels, unpacked from their packages and never installed on the host."""

import gzip
import lzma
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.tools import CACHE, HERE, Trouble, command, digest, ext4, made_once

# The metapackages of Debian 12 that name the newest kernel of each line, and its headers. The cloud flavour has ext4
# and BTF built in, the LSMs of the generic one, btrfs and overlayfs as modules, and boots faster.
METAPACKAGES = {
    "6.1": ("linux-image-cloud-amd64", "linux-headers-cloud-amd64"),
    "6.12": ("linux-image-6.12-cloud-amd64", "linux-headers-6.12-cloud-amd64"),
}

# What it takes to reach the root disk and the ports; the rest is loaded by udev from the kernel's own disk.
EARLY_MODULES = ("virtio_pci", "virtio_blk", "virtio_console")


@dataclass(frozen=True)
class Kernel:
    """A kernel that is ready to boot: its release, image, initramfs, and a disk with modules and headers."""

    line: str
    release: str
    vmlinuz: Path
    initramfs: Path
    modules: Path


def depends_on(package: str, pattern: str) -> list[str]:
    """The packages that `package` depends on whose names match. Trouble if the package lists know none."""
    shown = command(["apt-cache", "depends", package], f"looking for {package}")
    names = [line.split()[1] for line in shown.splitlines() if line.strip().startswith("Depends:")]
    found = [name for name in names if re.fullmatch(pattern, name)]
    if not found:
        raise Trouble(
            f"apt knows no package that {package} depends on; run apt-get update on a Debian 12 with bookworm-security"
        )
    return found


def packages_of(line: str) -> list[str]:
    """The exact packages of a kernel line: the image, and the headers that BCC needs."""
    image, headers = METAPACKAGES[line]
    newest = depends_on(image, r"linux-image-\d.*")
    for header in depends_on(headers, r"linux-headers-\d.*"):
        newest += [header, *depends_on(header, r"linux-(headers|kbuild)-\d.*")]
    return newest


def fetch(packages: list[str], into: Path, options: Sequence[str] = ()) -> list[Path]:
    """Downloads packages with apt, which checks their signatures; `options` are further words for it."""
    into.mkdir(parents=True, exist_ok=True)
    command(
        ["apt-get", *options, "download", "-q", *packages],
        "downloading Debian packages (is a mirror reachable?)",
        cwd=into,
    )
    return sorted(into.glob("*.deb"))


def needed(modules_dep: str, wanted: tuple[str, ...]) -> list[str]:
    """The paths of the wanted modules and of those they depend on (modules.dep(5)), in the order in which they load.

    One that is not listed is built in.
    """
    dependencies = dict(line.split(":", 1) for line in modules_dep.splitlines())
    names = {Path(path).name.split(".ko")[0]: path for path in dependencies}
    found: list[str] = []
    for name in wanted:
        if name in names:
            found += [*reversed(dependencies[names[name]].split()), names[name]]
    return list(dict.fromkeys(found))


def initramfs(modules: Path, release: str, busybox: Path, work: Path, to: Path) -> None:
    """A small initramfs: busybox, the early modules in the order in which they load, and guest/init."""
    for directory in ("bin", "modules", "dev", "proc", "sys", "root"):
        (work / directory).mkdir(parents=True)
    shutil.copy2(busybox, work / "bin" / "busybox")
    shutil.copy2(HERE / "guest" / "init", work / "init")
    for number, path in enumerate(needed((modules / "modules.dep").read_text(), EARLY_MODULES)):
        data = (modules / path).read_bytes()
        plain = lzma.decompress(data) if path.endswith(".xz") else data
        (work / "modules" / f"{number:02}-{Path(path).name.split('.ko')[0]}.ko").write_bytes(plain)
    if not (modules / "kernel").is_dir():
        raise Trouble(f"the package of kernel {release} has no modules")
    archive = work.with_suffix(".cpio")
    command(["sh", "-c", f"cd '{work}' && find . | cpio --quiet -o -H newc > '{archive}'"], "packing the initramfs")
    to.write_bytes(gzip.compress(archive.read_bytes(), 6))
    archive.unlink()


def kernel(line: str) -> Kernel:
    """The newest Debian kernel of a line, from the cache or made now."""
    if line not in METAPACKAGES:
        raise Trouble(f"there is no kernel {line!r} here: it is one of {', '.join(METAPACKAGES)}")
    where = place(line)
    if not where.is_dir():
        # Only now is a mirror needed: what is in the cache is taken as long as the host's lists name the same packages.
        command(["apt-get", "update", "-q"], "reading Debian's package lists (is a mirror reachable?)")
        where = place(line)
    with made_once(where) as unfinished:
        if unfinished is not None:
            packages = packages_of(line)
            print(f"kernel {line}: fetching {packages[0]} and its headers", flush=True)
            make(unfinished, packages)
    release = (where / "release").read_text()
    return Kernel(line, release, where / "vmlinuz", where / "initramfs", where / "modules.ext4")


def place(line: str) -> Path:
    """Where the newest kernel of a line is kept that the host's package lists know of."""
    try:
        packages = packages_of(line)
    except Trouble:  # no lists yet
        packages = []
    return CACHE / f"kernel-{line}-{digest(*packages, HERE / 'guest' / 'init', Path(__file__))}"


def make(into: Path, packages: list[str]) -> None:
    """Downloads and unpacks a kernel, its headers and busybox, and makes what a boot needs of them."""
    unpacked = into / "unpacked"
    for package in fetch([*packages, "busybox-static"], into / "packages"):
        command(["dpkg-deb", "-x", package, unpacked], f"unpacking {package.name}")
    (image,) = (unpacked / "boot").glob("vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    modules = unpacked / "lib" / "modules" / release
    command(["depmod", "-b", unpacked, release], "listing the kernel's modules")
    initramfs(modules, release, unpacked / "bin" / "busybox", into / "initramfs.d", into / "initramfs")
    shutil.move(image, into / "vmlinuz")
    # The disk is /usr/lib/modules; what lies elsewhere in the header packages is bound from there (guest/init).
    disk = unpacked / "lib" / "modules"
    shutil.move(unpacked / "usr" / "src", disk / "src")
    shutil.move(next((unpacked / "usr" / "lib").glob("linux-kbuild-*")), disk / "kbuild")
    ext4(into / "modules.ext4", disk, 700, "making the kernel's disk")
    (into / "release").write_text(release)
    shutil.rmtree(unpacked)
    shutil.rmtree(into / "packages")
    shutil.rmtree(into / "initramfs.d")
