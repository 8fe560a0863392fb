"""A process of an ordinary user that resolves names: what the kernel itself says they lead to.

Run as a program it reads one request a line (JSON) and answers one line. Paths are hex, since JSON has no bytes.
"""

import ctypes
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tests.support.users import Identity


_held: list[tuple[mmap.mmap, int]] = []  # in the walker itself: what it was told to hold, and where


class Answer(NamedTuple):
    """The canonical name that the kernel gives the object (bytes as os.fsdecode), or the errno."""

    name: str
    errno: int


class Walker:
    """Such a process. `identity`: who it is; `root`: where it is confined (chroot), None for nowhere."""

    def __init__(self, identity: "Identity", cwd: Path, root: Path | None = None) -> None:
        # A descriptor: the directory may lie where the user cannot get.
        here = os.open(cwd, os.O_PATH | os.O_DIRECTORY)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", __file__, str(here), str(root or ""), json.dumps(identity)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[here],
            )
        finally:
            os.close(here)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def __enter__(self) -> "Walker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def ask(self, what: str, path: bytes, *, flags: int = 0, directory: int | None = None) -> Any:
        """`what`: open (O_PATH, closed again), keep (it stays open: its number), make (O_CREAT)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"what": what, "path": path.hex(), "flags": flags, "directory": directory}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def opens(self, path: bytes, *, follow: bool = True, directory: int | None = None) -> Answer:
        """What an O_PATH open of `path` leads to."""
        found = self.ask("open", path, flags=0 if follow else os.O_NOFOLLOW, directory=directory)
        return Answer(os.fsdecode(bytes.fromhex(found["name"])), found["errno"])

    def holds(self, text: bytes, before_end: int) -> int:
        """Puts `text` and a NUL where it begins `before_end` bytes before the end of a page, two pages before what is
        not mapped (what does not fit is cut). Returns its address."""
        address = self.ask("hold", text, flags=before_end)["address"]
        assert isinstance(address, int)
        return address

    def makes(self, path: bytes) -> tuple[Answer, bool]:
        """What open(O_CREAT) opens, and whether it was made; then it is removed again, since it may be anywhere."""
        found = self.ask("make", path)
        answer = Answer(os.fsdecode(bytes.fromhex(found["name"])), found["errno"])
        if found.get("made"):
            os.unlink(answer.name)
        return answer, found.get("made", False)


def main() -> None:
    here, root, identity = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    if root:
        os.chroot(root)
    os.fchdir(here)
    os.close(here)
    os.setgroups(identity.get("extra_groups", []))
    os.setgid(identity.get("group", 0))
    os.setuid(identity.get("user", 0))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _answer(request)
        except OSError as error:
            answer = {"errno": error.errno, "name": ""}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    path = bytes.fromhex(request["path"])
    if request["what"] == "hold":
        return _hold(path, request["flags"])
    if request["what"] == "make":
        return _make(path)
    opened = os.open(path, os.O_PATH | request["flags"], dir_fd=request["directory"])
    if request["what"] == "keep":
        os.set_inheritable(opened, True)
        return {"errno": 0, "name": "", "number": opened}
    try:
        return {"errno": 0, "name": _name(opened).hex(), "inode": os.fstat(opened).st_ino}
    finally:
        os.close(opened)


_PAGE = 4096
_PROT_NONE = 0


def _hold(text: bytes, before_end: int) -> dict[str, Any]:
    if not _held:
        libc = ctypes.CDLL(None, use_errno=True)
        memory = mmap.mmap(-1, 4 * _PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if libc.mprotect(ctypes.c_void_p(address + 3 * _PAGE), _PAGE, _PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        _held.append((memory, address))
    memory, address = _held[0]
    memory[: 3 * _PAGE] = b"x" * (3 * _PAGE)
    offset = _PAGE - before_end
    memory[offset : 3 * _PAGE] = (text + b"\0").ljust(3 * _PAGE, b"x")[: 3 * _PAGE - offset]
    return {"address": address + offset}


def _name(opened: int) -> bytes:
    """The kernel's name for it; none where there is no /proc (in another root)."""
    try:
        return os.readlink(b"/proc/self/fd/%d" % opened)
    except FileNotFoundError:
        return b""


def _make(path: bytes) -> dict[str, Any]:
    made = not os.path.exists(path)
    opened = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        return {"errno": 0, "name": _name(opened).hex(), "made": made}
    finally:
        os.close(opened)


if __name__ == "__main__":
    main()
