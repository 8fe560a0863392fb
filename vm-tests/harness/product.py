"""The image with the checkout's Debian package installed in it."""

import shutil
from pathlib import Path

from harness.image import AS_IT_IS, SIZE, Image
from harness.tools import CACHE, CHECKOUT, Trouble, command, digest, ext4, locked, made_once

# What the package is called on the disk of a machine's job.
NAME = "governed-mcpd.deb"


def package() -> bytes:
    """The checkout's package, built when it is not there or older than its sources.

    One run builds at a time: two would build in the same place.
    """
    with locked(CACHE / ".package.lock"):
        command(["make", "--silent", "deb"], "building the Debian package", cwd=CHECKOUT, seconds=1800)
        built = sorted((CHECKOUT / "build").glob("governed-mcpd_*.deb"))
        if len(built) != 1:
            raise Trouble(f"make deb left {len(built)} packages in {CHECKOUT / 'build'}, and not one")
        return built[0].read_bytes()


def product(base: Image, built: bytes) -> Path:
    """A root disk on which dpkg has installed the package."""
    where = CACHE / f"product-{digest(base.disk.parent.name, Path(__file__), built)}"
    with made_once(where) as unfinished:
        if unfinished is not None:
            install(base, built, unfinished)
    return where / "root.ext4"


def install(base: Image, built: bytes, into: Path) -> None:
    """Installs it in a copy of the image's files, as the image's own packages were: nothing starts, since systemd does
    not run there. On an emulated machine this takes two minutes (package.py has it done there)."""
    root = into / "root"
    root.mkdir()
    command(["tar", *AS_IT_IS, "--extract", "--file", base.archive, "--directory", root], "unpacking the image")
    (root / NAME).write_bytes(built)
    # Nothing is flushed for the case that the power fails.
    words: list[str | Path] = ["chroot", root, "dpkg", "--force-unsafe-io", "--install", f"/{NAME}"]
    command(words, "installing the package into the image")
    (root / NAME).unlink()
    ext4(into / "root.ext4", root, SIZE, "making the root disk with the package")
    shutil.rmtree(root)
