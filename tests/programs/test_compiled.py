"""Programs that speak to the kernel without libc or without the loader, and what makes programs."""

import platform
import subprocess
from pathlib import Path

import pytest

from tests.programs.sources import PROJECT, RAW, STATIC
from tests.programs.stage import Stage


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> "Build":
    return Build(tmp_path_factory.mktemp("build"))


class Build:
    """Compiles outside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, source: str, *flags: str) -> bytes:
        (self._directory / "source.c").write_text(source)
        subprocess.run(["gcc", "-o", "program", "source.c", "-w", *flags], cwd=self._directory, check=True)
        return (self._directory / "program").read_bytes()


def test_raw_system_calls(either: Stage, build: Build) -> None:
    assert platform.machine() == "x86_64", "the source has the numbers of x86-64"
    program = build(RAW, "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector")
    done = either.same("./raw", files={"raw": program})
    assert done.returncode == 5
    assert "openat2 short -22\nmkdir 0\nmkdir again -17\nrename 0\nlink 0\n" in done.stdout
    assert "open bad pointer -14\nopen in a file -20\nfrom a raw execve\nchild 0\n" in done.stdout


def test_a_static_binary_with_threads(either: Stage, build: Build) -> None:
    done = either.same("./static", files={"static": build(STATIC, "-static", "-pthread")})
    assert done.returncode == 11
    assert done.stdout.startswith("hello, signal 6, core 0\nstatic\nthread.0\n")


def test_make_with_two_jobs(either: Stage) -> None:
    def unordered(text: str) -> str:
        return "\n".join(sorted(text.splitlines()))

    done = either.same("sh", "-c", "make -j2 && ./program", files=PROJECT, normal=unordered)
    assert done.returncode == 3, done
    assert "10" in done.stdout.splitlines()
    assert "unused" in done.stderr
    done = either.same("sh", "-c", "make -j2 && touch two.c && make -j2 && make clean", files=PROJECT, normal=unordered)
    assert done.returncode == 0
