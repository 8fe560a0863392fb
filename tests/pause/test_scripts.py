"""The arguments of a script's interpreter, as the kernel of this machine makes them."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from governed_mcpd.pause import scripts

# Writes its arguments, each with its length, and nothing else.
SHOWS = """
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
  for (int i = 0; i < argc; i++) { printf("%zu:", strlen(argv[i])); fwrite(argv[i], 1, strlen(argv[i]), stdout); }
  return 0;
}
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="shebang-", dir="/tmp"))
    (path / "shows.c").write_text(SHOWS)
    subprocess.run(["gcc", "-O1", "-o", path / "s", path / "shows.c"], check=True, timeout=60)
    yield path
    shutil.rmtree(path)


def shown(text: bytes) -> tuple[bytes, ...]:
    words = []
    while text:
        length, _, rest = text.partition(b":")
        words.append(rest[: int(length)])
        text = rest[int(length) :]
    return tuple(words)


def by_kernel(script: Path, argv: list[bytes]) -> tuple[bytes, ...] | None:
    """What the interpreter got; None when the kernel does not take the line, or finds no interpreter."""
    try:
        done = subprocess.run(argv, executable=script, capture_output=True, timeout=20, check=True)
    except OSError:
        return None
    return shown(done.stdout)


# %: the interpreter that is there.
PIECES = some.sampled_from(
    [b" ", b"\t", b"\n", b"\0", b"%", b"arg", b"-x", b"  ", b"x" * 100, b"x" * 120, b"\r", b"#!"]
)
LINES = some.lists(PIECES, max_size=8).map(b"".join)
ENDS = some.sampled_from([b"\n", b"", b" \n", b"\t\n", b"\nrest\n", b"\0\n"])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    line=LINES,
    begin=some.sampled_from([b"#!%", b"#! %", b"#!\t %", b"#!", b"#! ", b"#"]),
    end=ENDS,
    argv=some.lists(some.sampled_from([b"", b"one", b"two words"]), min_size=1, max_size=3),
)
def test_arguments_are_what_the_kernel_makes_them(
    place: Path, line: bytes, begin: bytes, end: bytes, argv: list[bytes]
) -> None:
    content = (begin + line + end).replace(b"%", os.fsencode(place / "s"))
    script = place / "script"
    script.unlink(missing_ok=True)
    script.write_bytes(content)
    script.chmod(0o755)
    got = by_kernel(script, argv)
    found = scripts.interpreter(content[: scripts.HEAD])
    if found is None or found.path != os.fsencode(place / "s"):
        assert got is None
    else:
        assert got == scripts.rebuilt(os.fsencode(script), found, tuple(argv))


def test_long_lines(place: Path) -> None:
    """Whether a line is cut, and where, at each length around the end of what the kernel reads."""
    program = os.fsencode(place / "s")
    agreed = 0
    for length in range(scripts.HEAD - len(program) - 10, scripts.HEAD + 4 - len(program)):
        for middle in (b" ", b"\t", b"/" * 3):
            content = b"#!" + program + middle + b"y" * length + b"\n"
            script = place / "long"
            script.unlink(missing_ok=True)
            script.write_bytes(content)
            script.chmod(0o755)
            got = by_kernel(script, [b"a"])
            found = scripts.interpreter(content[: scripts.HEAD])
            if found is not None and found.path == program:
                assert got == scripts.rebuilt(os.fsencode(script), found, (b"a",))
                agreed += 1
            else:
                assert got is None
    assert agreed > 10
