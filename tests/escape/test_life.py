"""Outliving the command, the launcher and the daemon; and what the command is given."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.escape.arena import Arena, refused
from tests.support.instance import Program
from tests.support.leftovers import marked
from tests.support.users import ROOT, USER


@pytest.fixture
def mortal() -> Iterator[Arena]:
    """An arena of its own, whose daemon may be killed."""
    with Arena.open() as arena:
        yield arena


def _alive(arena: Arena, word: str) -> list[int]:
    """Processes of this instance with `word` on their command line."""
    found = []
    for pid in marked(str(arena.base)):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in words:
            found.append(pid)
    return found


def _gone(arena: Arena, word: str, seconds: float = 30) -> None:
    arena.instance.wait_until(lambda: True if not _alive(arena, word) else None, f"{word} to end", seconds)


@pytest.mark.parametrize("attack", ["double-fork", "clone-parent", "stopped", "ignores"])
def test_what_is_left_ends_with_the_command(arena: Arena, user: int, attack: str) -> None:
    """Daemons in sessions of their own, children of the launcher, processes that are stopped or ignore every signal:
    with the command's end the sandbox ends. Outside they go on."""
    word = arena.new("linger")
    assert arena.proof(user, "life", attack, word).worked
    time.sleep(0.3)
    left = _alive(arena, word)
    assert left, "outside it outlives its command"
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    _gone(arena, word)
    assert arena.attack(user, "life", attack, word).worked
    _gone(arena, word)
    arena.instance.wait_until(lambda: True if not arena.instance.sandboxes() else None, "the sandbox to end", 30)


def _beats(path: Path, seconds: float = 1) -> bool:
    """Whether the file still grows."""
    before = path.stat().st_size
    time.sleep(seconds)
    return path.stat().st_size > before


def test_loops_that_fork_faster_than_one_kills(arena: Arena, user: int) -> None:
    """Each process lives for two milliseconds and leaves a successor in a session of its own. Outside this goes on
    after the command has ended (here for three seconds, by itself), inside it is over with it."""
    path = arena.work(user) / arena.new("beats")
    assert arena.proof(user, "life", "fork-loop", path, 3, 1).worked
    assert _beats(path, 0.5)
    path = arena.work(user) / arena.new("beats")
    assert arena.attack(user, "life", "fork-loop", path, 120, 4).worked
    arena.instance.wait_until(lambda: True if not arena.instance.sandboxes() else None, "the sandbox to end", 30)
    assert path.stat().st_size > 0
    assert not _beats(path)


def test_killing_a_sandbox_that_forks_in_a_loop(arena: Arena, user: int) -> None:
    """`sandbox kill`, while it runs."""
    path = arena.work(user) / arena.new("beats")
    words = ("fork-loop-stay", path, "120", "4")
    program = arena.instance.spawn(arena.bin / "life", *words, user=user, profile="escape")
    assert program.stdout is not None
    assert program.stdout.readline() == b"worked\n"
    assert _beats(path, 0.2)
    assert arena.instance.ctl("sandbox", "kill", arena.instance.sandboxes()[0].subject.sandbox).returncode == 0
    program.wait(30)
    assert not _beats(path)
    arena.instance.wait_until(lambda: True if not arena.instance.sandboxes() else None, "the sandbox to end", 30)


def test_killing_the_launcher(arena: Arena, user: int) -> None:
    """SIGKILL to the launcher, which cannot tell anybody: the daemon sees its connection end."""
    word = arena.new("linger")
    program = arena.instance.spawn(arena.bin / "life", "double-fork-stay", word, user=user, profile="escape")
    assert program.stdout is not None
    assert program.stdout.readline() == b"worked\n"
    program.kill()
    program.wait(30)
    _gone(arena, word)


def _waiting(arena: Arena, user: int, attack: str, *arguments: object) -> Program:
    """An attack that says `ready`, and goes on when its input ends."""
    words = [str(arena.bin / "processes"), attack, *map(str, arguments)]
    program = arena.instance.spawn(*words, user=user, profile="escape")
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    return program


@pytest.mark.parametrize("uid", [USER, ROOT], ids=["user", "root"])
def test_an_own_listener_after_the_daemon_was_killed(mortal: Arena, uid: int) -> None:
    """The kernel would allow it then: the filter does not. Held effects fail, nothing is written; a new daemon ends
    what is left."""
    target = mortal.work(uid) / "later"
    program = _waiting(mortal, uid, "listener-later", target)
    mortal.instance.kill_daemon()
    assert program.stdin is not None
    program.stdin.close()
    assert program.stdout is not None
    said = program.stdout.read().split()
    assert said == [b"later", b"open", str(errno.ENOSYS).encode(), b"refused", str(errno.EPERM).encode()]
    assert not target.exists()
    word = str(target)
    mortal.instance.start_daemon()
    _gone(mortal, word)
    assert mortal.attack(uid, "files", "create", target).worked


def test_credentials_in_the_environment(arena: Arena, user: int) -> None:
    """Dropped and named; what only looks ordinary stays, and LD_PRELOAD does not reach the launcher's privileges."""
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "s1",
        "GITHUB_TOKEN": "s2",
        "MY_PASSWORD": "s3",
        "SSH_AUTH_SOCK": "/s4",
        "OPENAI_API_KEY": "s5",
        "DATABASE_URL": "s6",
    }
    done = arena.instance.run(
        "/usr/bin/env", user=user, profile="escape", env={**secrets, "EDITOR": "vi", "TOKENIZER": "x"}
    )
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names.isdisjoint(secrets)
    assert {"EDITOR", "TOKENIZER", "PATH"} <= names
    for name in secrets:
        assert name in done.stderr
    for value in secrets.values():
        assert f"={value}\n" not in done.stdout


def test_libraries_that_the_environment_loads(arena: Arena, user: int) -> None:
    """What a sandbox leaves behind in the working directory is loaded by no later launcher."""
    work = arena.work(user)
    planted = work / "sitecustomize.py"
    planted.write_text(f"open({str(work / 'loaded')!r}, 'w')\n")
    for name in ("prctl.py", "usercustomize.py", "governed_mcpd.py"):
        (work / name).write_text(planted.read_text())
    try:
        done = arena.instance.run("/bin/echo", "ran", user=user, profile="escape", cwd=work)
        assert done.stdout == "ran\n"
        assert not (work / "loaded").exists()
    finally:
        for name in ("sitecustomize.py", "prctl.py", "usercustomize.py", "governed_mcpd.py"):
            (work / name).unlink()


def test_descriptors_of_the_surroundings(arena: Arena, user: int) -> None:
    """Everything above standard error is closed before the command starts."""
    path = arena.outside(user)
    command = arena.instance.command("run", "--profile", "escape", "--", "/bin/sh", "-c", "echo attack >&7")
    line = 'exec 7>>"$0"; "$@"'
    done = arena.instance.as_user(user, "/bin/sh", "-c", line, str(path), *map(str, command))
    assert done.returncode != 0
    assert path.read_text() == "untouched\n"
    arena.instance.as_user(user, "/bin/sh", "-c", 'exec 7>>"$0"; echo attack >&7', str(path))
    assert path.read_text() == "untouched\nattack\n"


def test_set_user_id_programs(arena: Arena) -> None:
    """no_new_privs: a program with the bit runs with the caller's uid."""
    program = arena.base / "attack" / "setuid"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    assert arena.instance.as_user(USER, str(program), "-u").stdout == "0\n"
    assert arena.instance.run(program, "-u", user=USER, profile="escape").stdout == f"{USER}\n"


def test_root_inside_has_few_capabilities(arena: Arena) -> None:
    """None that reaches past files and own processes, and none comes back."""
    done = arena.instance.run("/bin/grep", "Cap", "/proc/self/status", user=ROOT, profile="escape")
    masks = {line.split()[0]: int(line.split()[1], 16) for line in done.stdout.splitlines()}
    dangerous = (
        1 << 21 | 1 << 19 | 1 << 12 | 1 << 13 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 24 | 1 << 27 | 1 << 39 | 1 << 8
    )
    for name, mask in masks.items():
        assert mask & dangerous == 0, name
    assert refused(arena.attack(ROOT, "processes", "mount", arena.work(ROOT)), errno.EPERM)
