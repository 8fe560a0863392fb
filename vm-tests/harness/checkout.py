"""The current checkout as disks, made for each call: what git tracks or could track, what was built, .venv; and a small
one for each machine, with what it is to do."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.machine import Disk, new_directory
from harness.tools import CHECKOUT, command, ext4

# What the build makes and git ignores, but a guest needs.
BUILT = ("daemon/governed", "daemon/governed_mcpd/*/*.bpf.o", "daemon/governed_mcpd/*/*.so")


def files() -> list[Path]:
    """Relative paths: files that git tracks or would not ignore, as they are now, and what was built."""
    # Under sudo the checkout is another user's, which git refuses to read without being told that this is meant.
    git = ["git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT)]
    listed = command([*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], "listing the checkout")
    names = {Path(name) for name in listed.split("\0") if name}
    for pattern in BUILT:
        for found in CHECKOUT.glob(pattern):
            below = found.rglob("*") if found.is_dir() else [found]
            names |= {path.relative_to(CHECKOUT) for path in below if "__pycache__" not in path.parts}
    return sorted(name for name in names if (CHECKOUT / name).is_file() or (CHECKOUT / name).is_symlink())


@dataclass(frozen=True)
class Disks:
    """What all machines of one call see at the checkout's place. `environment` is its .venv, if there is one."""

    checkout: Disk
    environment: Disk | None


@contextmanager
def disks() -> Iterator[Disks]:
    """Makes them, read-only for the machines, as the checkout is now; they go when the body ends."""
    directory = new_directory("checkout")
    try:
        staged = directory / "checkout.d"
        for name in files():
            to = staged / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, to, follow_symlinks=False)
        (staged / ".vm-run").mkdir()  # where the disk of one machine's job is mounted
        environment = None
        if (CHECKOUT / ".venv").is_dir():
            # Compiled here: guests cannot write there, and would compile all of it at each start of a program.
            compiler = [CHECKOUT / ".venv/bin/python", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"]
            command([*map(str, compiler), staged / "daemon"], "compiling the daemon's modules")
            (staged / ".venv").mkdir()
            environment = Disk("venv", directory / "venv.ext4")
            ext4(environment.path, CHECKOUT / ".venv", megabytes(CHECKOUT / ".venv"), "making the environment's disk")
        yield Disks(_disk("checkout", staged), environment)
    finally:
        shutil.rmtree(directory)


def job(directory: Path, content: Mapping[str, str | bytes]) -> Disk:
    """A disk with the files that one machine is told to work from."""
    staged = directory / "job.d"
    staged.mkdir()
    for name, text in content.items():
        (staged / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return _disk("job", staged)


def _disk(serial: str, staged: Path) -> Disk:
    """A disk of a directory, which it takes the place of."""
    made = Disk(serial, staged.with_suffix(".ext4"))
    command(["chmod", "-R", "go+rX", staged], f"opening what is on the disk {serial}")
    ext4(made.path, staged, megabytes(staged), f"making the disk {serial}")
    shutil.rmtree(staged)
    return made


def megabytes(directory: Path) -> int:
    """How large a file system has to be for what is in a directory."""
    size = int(command(["du", "-s", "--block-size=1M", directory], "measuring").split()[0])
    return size + size // 2 + 32
