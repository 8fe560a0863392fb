"""The current checkout as disks, made for each run: what git tracks or could track, what was built, .venv."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from harness.machine import Disk
from harness.tools import CHECKOUT, command, ext4

# What the build makes and git ignores, but a guest needs.
BUILT = ("daemon/governed", "daemon/governed_mcpd/grant/*.bpf.o", "daemon/governed_mcpd/kernel/*.so", "build/*.deb")


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


def disks(directory: Path, job: Mapping[str, str | bytes]) -> list[Disk]:
    """The checkout with the files of `job` in .vm-run, and its virtual environment if there is one, as two disks."""
    staged = directory / "checkout.d"
    for name in files():
        to = staged / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, to, follow_symlinks=False)
    (staged / ".vm-run").mkdir()
    for title, content in job.items():
        (staged / ".vm-run" / title).write_bytes(content.encode() if isinstance(content, str) else content)
    made = [Disk("checkout", directory / "checkout.ext4")]
    if (CHECKOUT / ".venv").is_dir():
        (staged / ".venv").mkdir()
        made.append(Disk("venv", directory / "venv.ext4"))
        ext4(made[1].path, CHECKOUT / ".venv", megabytes(CHECKOUT / ".venv"), "making the environment's disk")
    command(["chmod", "-R", "go+rX", staged], "opening the checkout's copy")
    ext4(made[0].path, staged, megabytes(staged), "making the checkout's disk")
    shutil.rmtree(staged)
    return made


def megabytes(directory: Path) -> int:
    """How large a file system has to be for what is in a directory."""
    size = int(command(["du", "-s", "--block-size=1M", directory], "measuring").split()[0])
    return size + size // 2 + 32
