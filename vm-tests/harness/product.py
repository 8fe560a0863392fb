"""The image with the checkout's Debian package installed in it: a layer over the root disk, made in a machine."""

import json
import shutil
from pathlib import Path

from harness import checkout
from harness.checkout import Disks
from harness.image import image
from harness.kernels import Kernel
from harness.machine import Machine, accelerator, keep_log, new_directory, quickly
from harness.results import Results
from harness.tools import CACHE, CHECKOUT, Trouble, command, digest, locked, made_once

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


def product(booted: Kernel, shared: Disks, built: bytes) -> Path:
    """A root disk on which apt-get has installed the package."""
    base = image()
    where = CACHE / f"product-{digest(base.parent.name, built)}"
    with made_once(where) as unfinished:
        if unfinished is not None:
            print("installing the package (once for each that is built)", flush=True)
            install(booted, shared, base, built, unfinished)
    return where / "root.qcow2"


def install(booted: Kernel, shared: Disks, base: Path, built: bytes, into: Path) -> None:
    """Boots the image, lets apt-get install the package, and keeps the disk."""
    directory = new_directory(f"{booted.line}-install")
    # Nothing is flushed for the case that the power fails: the disk is this machine's.
    words = [
        "apt-get",
        "install",
        "-y",
        "-o",
        "DPkg::Options::=--force-unsafe-io",
        f"{CHECKOUT}/.vm-run/{NAME}",
    ]
    try:
        job = checkout.job(directory, {"job.json": json.dumps({"prepare": words}), NAME: built})
        disks = [shared.checkout, job]
        emulated = accelerator(booted)
        parameters = [f"vm.checkout={CHECKOUT}", *quickly(emulated, full=False)]
        machine = Machine(booted, base, directory, emulated, parameters, disks, seconds=900, processors=1)
        ended = machine.run(lambda _: None)
        results = Results.read(directory)
        if ended != "off" or not results.done or any(results.statuses):
            printed = (directory / "output").read_text(errors="replace").strip()[-4000:]
            raise Trouble(
                f"the package could not be installed ({ended}):\n{printed}\nserial log: {keep_log(directory)}"
            )
        shutil.move(directory / "root.qcow2", into / "root.qcow2")
    finally:
        shutil.rmtree(directory)
