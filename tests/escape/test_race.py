"""What stays open without a seal, and what does not: a thread that rewrites its arguments between the daemon's look and
the kernel's. The tests say how it is: they do not need the switch to succeed, they bound what it can reach."""

import re
from pathlib import Path

from tests.escape.arena import Arena

ATTEMPTS = 4000


def _race(arena: Arena, user: int, what: str, good: Path, bad: Path) -> tuple[int, int, int]:
    program = str(arena.bin / "race")
    done = arena.instance.run(
        program, what, str(good), str(bad), str(ATTEMPTS), user=user, profile="escape", quiet=True, timeout=300
    )
    found = re.search(r"good (\d+) bad (\d+) refused (\d+)", done.stdout)
    assert found is not None, done
    print(what, found[0])
    return int(found[1]), int(found[2]), int(found[3])


def _seals(arena: Arena, *paths: Path) -> set[str]:
    return {record["seal"] for path in paths for record in arena.records(path) if record["kind"] == "effect"}


def test_a_switched_open_stays_in_the_envelope(arena: Arena, user: int) -> None:
    """Landlock checks the object that the kernel resolves itself: a file outside is never opened, however the two
    threads meet; and each record says that no seal was there."""
    good, bad = arena.own(user), arena.outside(user)
    opened, switched, _ = _race(arena, user, "open", good, bad)
    assert opened > 0, "the allowed neighbour has to be reached"
    assert switched == 0
    assert bad.read_text() == "untouched\n"
    assert _seals(arena, good, bad) == {"none"}


def test_a_switched_open_can_reach_what_is_protected_inside(arena: Arena, user: int) -> None:
    """Within the Envelope, what is protected by its name only can be reached by a switch that comes in time. README and
    pause table say so; with a seal this has to be EPERM. Whether it succeeds is chance; the record says `seal: none`.
    """
    good, bad = arena.own(user), arena.protected(user)
    opened, switched, refused = _race(arena, user, "open", good, bad)
    assert opened + switched + refused > 0
    assert switched in (0, 1)  # it stops at the first
    assert _seals(arena, good, bad) == {"none"}
    assert all(record["decision"] == "deny" for record in arena.records(bad) if record["kind"] == "effect")


def test_a_switched_chmod(arena: Arena, user: int) -> None:
    """Landlock knows no metadata, so without a seal nothing but the kernel's own permissions bounds this one. The text
    of a file outside is safe from it; its mode is not. The record says `seal: none`."""
    good, bad = arena.own(user), arena.outside(user)
    opened, switched, refused = _race(arena, user, "chmod", good, bad)
    assert opened + switched + refused > 0
    assert bad.read_text() == "untouched\n"
    assert _seals(arena, good, bad) == {"none"}
