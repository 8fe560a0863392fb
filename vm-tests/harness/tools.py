"""What the harness needs from the host: programs, the cache directory, files that appear whole or not at all."""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
HERE = CHECKOUT / "vm-tests"
CACHE = CHECKOUT / ".cache" / "vm"

UNFINISHED = ".unfinished"
# Each program that the harness starts, and the Debian package that brings it.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "debootstrap": "debootstrap",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "cpio": "cpio",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "git": "git",
    "setpriv": "util-linux",
}


# Set when the harness ends before its time: no machine goes on, and no program.
STOP = threading.Event()


class Trouble(Exception):
    """The harness cannot go on; the text says what was being done and what to do next."""


def check_host() -> None:
    """Raises Trouble in one line when something that is needed is not there."""
    if os.geteuid() != 0:
        raise Trouble("root is needed to make an image with debootstrap; run: sudo make vm-test")
    os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        raise Trouble(f"programs are missing; run: apt-get install {' '.join(missing)}")


def command(words: Sequence[str | Path], doing: str, cwd: Path | None = None, seconds: float = 900) -> str:
    """Runs a program to its end and returns what it printed. Trouble names `doing` and the last lines when it fails.

    It ends, with all that it started, when the harness does (STOP).
    """
    program = subprocess.Popen(
        [str(word) for word in words],
        cwd=cwd,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        start_new_session=True,
    )
    deadline = time.monotonic() + seconds
    try:
        printed = _to_its_end(program, deadline)
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
    if printed is None:
        what = "was ended with the harness" if STOP.is_set() else f"did not end within {seconds:.0f} s"
        raise Trouble(f"{doing}: {words[0]} {what}")
    if program.returncode != 0:
        tail = "\n  ".join(printed.strip().splitlines()[-8:])
        raise Trouble(f"{doing}: {words[0]} ended with {program.returncode}:\n  {tail}")
    return printed


def _to_its_end(program: "subprocess.Popen[str]", deadline: float) -> str | None:
    """What it printed; None when it has not ended in time, or the harness ends."""
    while True:
        try:
            return program.communicate(timeout=0.5)[0]
        except subprocess.TimeoutExpired:
            if STOP.is_set() or time.monotonic() > deadline:
                return None


def digest(*parts: str | bytes | Path) -> str:
    """Sixteen hex digits over texts and the contents of files: the name under which what was made of them is kept."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Nobody else who asks for the same file is in the body at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def made_once(where: Path) -> Iterator[Path | None]:
    """Gives a directory to fill in, which becomes `where` when the body ends well; None when `where` is already there.

    Two runs at the same time wait for each other, so that both see a whole one.
    """
    with locked(where.parent / f".{where.name}.lock"):
        if where.is_dir():
            yield None
            return
        unfinished = where.with_name(f"{where.name}{UNFINISHED}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        yield unfinished
        unfinished.rename(where)
        for path in where.parent.glob(f"{where.name.rpartition('-')[0]}-*"):
            if path != where and path.suffix != UNFINISHED:  # somebody else may be filling that
                shutil.rmtree(path)


def ext4(image: Path, root: Path, mebibytes: int, doing: str) -> None:
    """A file system of that size, with what is below `root` in it. Sparse: it takes the room of its content."""
    image.unlink(missing_ok=True)
    options = ["-q", "-F", "-t", "ext4", "-m", "0", "-d", str(root)]
    command(["mke2fs", *options, image, f"{mebibytes}M"], doing)


def sparse(path: Path, mebibytes: int) -> Path:
    """An empty file of that size, which takes no room yet."""
    with path.open("wb") as new:
        new.truncate(mebibytes << 20)
    return path
