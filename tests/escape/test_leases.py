"""Ways to have a lease, which is for one file, cover another or hide what is done: the short way of a leased effect
(supervisor/decide) asks nothing of what was asked when the lease was given."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.instance import Instance
from tests.support.users import USER

OPENS = 30
# Opens the file over and over, then waits while its name is made to lead elsewhere, and opens it again.
PROGRAM = """
import os, sys
def opens(flags):
    try:
        os.close(os.open(sys.argv[1], flags))
        return 0
    except OSError as error:
        return error.errno
print([opens(os.O_WRONLY) for _ in range(int(sys.argv[2]))], flush=True)
sys.stdin.readline()
print([opens(os.O_WRONLY), opens(os.O_WRONLY | os.O_TRUNC)], flush=True)
sys.stdin.readline()
print([opens(os.O_WRONLY)], flush=True)
"""


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with Instance() as one:
        yield one


def test_what_stands_at_a_leased_name_is_looked_at_each_time(instance: Instance) -> None:
    own, outside = instance.work / "leased", instance.base / "untouched"
    for path in (own, outside):
        path.write_text("as it was")
        os.chown(path, USER, USER)
    program = instance.spawn("/usr/bin/python3", "-IS", "-c", PROGRAM, own, str(OPENS), quiet=True)
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        assert json.loads(program.stdout.readline()) == [0] * OPENS
        assert [record["layer"] for record in of(instance, own)][1:] == ["lease"] * (OPENS - 1)

        own.rename(instance.work / "aside")
        own.symlink_to(outside)
        program.stdin.write(b"\n")
        program.stdin.flush()
        assert json.loads(program.stdout.readline()) == [errno.EPERM, errno.EPERM]
        assert outside.read_text() == "as it was"
        assert {record["rule"] for record in of(instance, outside)} == {"envelope"}

        own.unlink()
        (instance.work / "aside").rename(own)
        program.stdin.write(b"\n")
        program.stdin.flush()
        assert json.loads(program.stdout.readline()) == [0]  # the neighbour: the file that the lease is for
    finally:
        program.kill()
        program.communicate()


def test_a_record_kept_ready_says_how_this_one_was_opened(instance: Instance) -> None:
    own = instance.work / "opened-otherwise"
    own.write_text("as it was")
    os.chown(own, USER, USER)
    flags = [os.O_WRONLY, os.O_WRONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR, os.O_WRONLY]
    text = f"import os, sys\nfor flags in {flags}: os.close(os.open(sys.argv[1], flags))"
    assert instance.run("/usr/bin/python3", "-IS", "-c", text, own).returncode == 0
    told = [record["details"]["flags"] for record in of(instance, own)]
    assert told == ["write", "write", "write+truncate", "read+write", "write"]


def of(instance: Instance, path: Path) -> list[dict[str, Any]]:
    """The records of writes of one file."""
    return [one for one in instance.journal() if one["kind"] == "effect" and one["object"] == str(path)]
