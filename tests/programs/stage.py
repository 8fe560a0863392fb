"""A program outside and inside, each in a fresh copy of the same directory at the same path."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.instance import Done, Instance
from tests.support.users import identity

SECONDS = 60
Files = Mapping[str, str | bytes]


class Entry(NamedTuple):
    """What a file of the tree is: everything of it that a program decides."""

    kind: int
    mode: int
    owner: tuple[int, int]
    content: str


class Stage:
    """Compares runs of one user."""

    def __init__(self, instance: Instance, user: int) -> None:
        self.instance = instance
        self.user = user
        self.directory = instance.work_of(user) / "stage"
        self.outside_tmp = instance.work_of(user) / "tmp"

    def same(
        self,
        *argv: str,
        files: Files | None = None,
        stdin: str | None = None,
        profile: str = "roomy",
        normal: Callable[[str], str] = str,
        changing: str = r"\Z.",
    ) -> Done:
        """Runs it outside, then inside, and asserts that output, exit code and what lies there afterwards are the same.

        `normal` is applied to both outputs; contents of files whose names match `changing` may differ. Returns the run
        inside, for asserting that it did what it should.
        """
        outside, tree_outside = self._outside(argv, files or {}, stdin)
        inside, tree_inside = self._inside(argv, files or {}, stdin, profile)
        for stream in ("stdout", "stderr"):
            assert normal(getattr(inside, stream)) == normal(getattr(outside, stream)), (inside, outside)
        assert inside.returncode == outside.returncode, (inside, outside)
        assert _unlike(tree_outside, tree_inside, changing) == {}
        return inside

    def fresh(self, files: Files) -> None:
        """Empties the directory and puts the files there; what begins with #! is executable, and binaries are."""
        for directory in (self.directory, self.outside_tmp):
            if directory.exists():
                shutil.rmtree(directory)
            directory.mkdir()
            os.chown(directory, self.user, self.user)
        for name, content in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = content if isinstance(content, bytes) else content.encode()
            path.write_bytes(raw)
            path.chmod(0o755 if raw.startswith((b"#!", b"\x7fELF")) else 0o644)
        for path in self.directory.rglob("*"):
            os.chown(path, self.user, self.user)

    def _outside(self, argv: tuple[str, ...], files: Files, stdin: str | None) -> tuple[Done, dict[str, Entry]]:
        self.fresh(files)
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=self.instance.environment(self.user, {"TMPDIR": str(self.outside_tmp)}),
            cwd=self.directory,
            timeout=SECONDS,
            check=False,
            **identity(self.user),
        )
        return done, tree(self.directory)

    def _inside(
        self, argv: tuple[str, ...], files: Files, stdin: str | None, profile: str
    ) -> tuple[Done, dict[str, Entry]]:
        self.fresh(files)
        done = self.instance.run(
            *argv, user=self.user, profile=profile, quiet=True, stdin=stdin, cwd=self.directory, timeout=SECONDS
        )
        return done, tree(self.directory)


def tree(directory: Path) -> dict[str, Entry]:
    """Everything beneath `directory`, by relative name."""
    found = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
        found[str(path.relative_to(directory))] = Entry(kind, mode, (status.st_uid, status.st_gid), content)
    return found


def _unlike(one: dict[str, Entry], other: dict[str, Entry], changing: str) -> dict[str, tuple[object, object]]:
    return {
        name: (one.get(name), other.get(name))
        for name in one.keys() | other.keys()
        if _comparable(name, one.get(name), changing) != _comparable(name, other.get(name), changing)
    }


def _comparable(name: str, entry: Entry | None, changing: str) -> Entry | None:
    return entry._replace(content="") if entry is not None and re.search(changing, name) else entry
