"""Talking to the daemon from inside, child Subjects, and launchers that lie."""

import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from governed_mcpd.kernel import cgroup
from governed_mcpd.subjects.peers import peer_of
from tests.escape.arena import PROGRAMS, Arena, refused
from tests.support.instance import CHECKOUT, Done
from tests.support.users import OTHER, ROOT

SUBJECT = PROGRAMS / "subject.py"


def inside(arena: Arena, user: int, *arguments: object, profile: str = "escape", cwd: Path | None = None) -> Done:
    """The lying launcher in a sandbox."""
    words = [sys.executable, str(SUBJECT), str(arena.instance.runtime_dir), *map(str, arguments)]
    environment = {"CHECKOUT": str(CHECKOUT)}
    return arena.instance.run(*words, user=user, profile=profile, env=environment, cwd=cwd, timeout=120)


def outside(arena: Arena, user: int, *arguments: object) -> Done:
    """The lying launcher outside."""
    program = ["/usr/bin/env", f"CHECKOUT={CHECKOUT}", sys.executable, str(SUBJECT)]
    return arena.instance.as_user(user, *program, str(arena.instance.runtime_dir), *map(str, arguments), timeout=120)


@pytest.fixture(autouse=True)
def alive(arena: Arena) -> Iterator[None]:
    """After each of these the daemon serves, and nothing is left of what was tried."""
    yield
    arena.instance.check_alive()
    arena.instance.wait_until(lambda: True if not arena.instance.sandboxes() else None, "the sandboxes to end")


@pytest.mark.parametrize("name", ["control.sock", "gate.sock"])
def test_the_daemons_sockets(arena: Arena, user: int, name: str) -> None:
    """By their path and by every other name that leads there."""
    path = arena.instance.runtime_dir / name
    assert arena.proof(user if name == "control.sock" else ROOT, "network", "unix-connect", path).worked
    link = arena.work(user) / arena.new("link")
    link.symlink_to(path)
    up = arena.work(user) / arena.new("up")
    up.symlink_to(arena.instance.runtime_dir)
    for profile in ("escape", "wide"):
        for alias in (path, link, f"/proc/self/root{path}", up / name, os.path.relpath(path, arena.work(user))):
            outcome = arena.attack(user, "network", "unix-connect", alias, profile=profile)
            # An ordinary user cannot even look into the gate's directory.
            assert refused(outcome, 1, *((13,) if name == "gate.sock" else ())), (profile, alias, str(outcome))
    records = arena.records(f"unix:{path.resolve()}")
    if name == "control.sock" or user == ROOT:
        assert {record["rule"] for record in records} == {"never-own-sockets"}, records


REQUESTS = {"status": 5, "list": 6, "kill": 7, "apply": 8, "get": 9, "approvals": 10, "decide": 11, "journal": 12}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_may_be_asked_from_inside(arena: Arena, user: int, name: str) -> None:
    """On the sandboxes' socket: a child Subject and nothing else, whoever asks. Root outside may."""
    done = inside(arena, user, "request", "sandbox.sock", REQUESTS[name])
    assert "connect: worked" in done.stdout, done
    assert re.search("request: refused .*only ask for a child Subject", done.stdout), done
    assert "connect: refused 1\n" in inside(arena, user, "request", "control.sock", REQUESTS[name]).stdout
    if name in ("status", "list", "get", "approvals"):
        assert "request: accepted" in outside(arena, ROOT, "request", "control.sock", REQUESTS[name]).stdout
    assert "request: refused" in outside(arena, user, "request", "sandbox.sock", REQUESTS[name]).stdout


def _places(arena: Arena, user: int) -> tuple[Path, Path, Path]:
    narrow = arena.work(user) / "narrow"
    narrow.mkdir(exist_ok=True)
    os.chown(narrow, user, user)
    paths = (narrow / arena.new(), arena.own(user), arena.outside(user))
    paths[0].write_text("untouched\n")
    os.chown(paths[0], user, user)
    return paths


def test_a_child_subject_has_no_wider_rules(arena: Arena, user: int) -> None:
    """Narrower than the parent where its profile is, never wider; also for what left its session. (This child takes on
    no Envelope of its own: what is refused, the daemon refuses.)"""
    within, own, beyond = _places(arena, user)
    work, home = arena.work(user), arena.instance.environment(user)["HOME"]
    done = inside(arena, user, "child", "narrow", work, home, within, own, beyond)
    assert "adopt: accepted" in done.stdout, done
    assert done.stdout.count(f"write {within}: worked") == 2, done
    assert done.stdout.count(f"write {own}: refused 1") == 2, done
    assert done.stdout.count(f"write {beyond}: refused") == 2, done
    assert {record["rule"] for record in arena.records(own)} == {"envelope"}
    assert len({record["sandbox"] for record in arena.records(own)}) == 1
    assert "." in arena.records(own)[0]["sandbox"]  # the child Subject's, not its parent's
    done = inside(arena, user, "child", "wide", "/", "/", own, beyond, profile="escape-reads")
    assert done.stdout.count(f"write {own}: worked") == 2, done
    assert done.stdout.count(f"write {beyond}: refused") == 2, done
    assert beyond.read_text() == "untouched\n"


@pytest.mark.parametrize(("cwd", "home"), [("/", "/"), ("{outside}", "{outside}"), ("{work}/..", "/nonexistent")])
def test_a_child_subject_does_not_choose_its_places(arena: Arena, user: int, cwd: str, home: str) -> None:
    """The directory and the home that it names would move `${cwd}` and `${home}`, and tell the gate that ~/.bashrc is
    an ordinary file: home and directory come from outside, as the task does."""
    within, own, beyond = _places(arena, user)
    values = {"work": arena.work(user), "outside": beyond.parent}
    done = inside(arena, user, "child", "narrow", cwd.format(**values), home.format(**values), within, own, beyond)
    assert done.stdout.count(f"write {within}: worked") == 2, done
    assert done.stdout.count(": refused") == 4, done
    starts = [record for record in arena.instance.journal() if record["kind"] == "sandbox.start"]
    assert starts[-1]["cwd"] == str(arena.work(user).resolve())


def test_a_process_does_not_climb_to_another_child_subject(arena: Arena, user: int) -> None:
    """With a token that its parent Subject asked for."""
    _, own, _ = _places(arena, user)
    work, home = arena.work(user), arena.instance.environment(user)["HOME"]
    done = inside(arena, user, "climb", "narrow", "escape", work, home, own)
    assert "adopt narrow: accepted" in done.stdout, done
    assert "adopt wide: refused" in done.stdout, done
    assert done.stdout.count(f"write {own}: refused 1") == 2, done
    assert own.read_text() == "untouched\n"


def test_a_child_subject_ends_with_its_launcher(arena: Arena, user: int) -> None:
    """Whatever left its session and ignores signals, too."""
    own = arena.own(user)
    work, home = arena.work(user), arena.instance.environment(user)["HOME"]
    done = inside(arena, user, "outlive", "escape", work, home, own)
    assert "worked" in done.stdout, done
    assert "afterwards: ended" in done.stdout, done


def test_a_token_is_good_for_one_adoption(arena: Arena, user: int) -> None:
    """And a guessed one for none."""
    work, home = arena.work(user), arena.instance.environment(user)["HOME"]
    done = inside(arena, user, "twice", "escape", work, home)
    assert "first: accepted" in done.stdout, done
    assert "second: refused" in done.stdout, done
    for text in ("", "0" * 32, "x" * 100_000):
        assert "adopt: refused" in inside(arena, user, "token", "sandbox.sock", text).stdout
        assert "adopt: refused" in outside(arena, user, "token", "control.sock", text).stdout


def test_a_child_whose_reads_should_pause(arena: Arena, user: int) -> None:
    """The filter cannot be changed any more: such a child is not made, rather than one whose reads go unseen."""
    work, home = arena.work(user), arena.instance.environment(user)["HOME"]
    # Profile narrow protects nothing where it may write: with such a one the outer command's reads would pause as well.
    refused = inside(arena, user, "child", "escape-reads", work, home, profile="narrow")
    assert "pauses reads" in refused.stdout + refused.stderr
    done = inside(arena, user, "child", "escape-reads", work, home, arena.own(user), profile="escape-reads")
    assert "adopt: accepted" in done.stdout, done


LIES = {
    "sibling": "adopt: refused only the launcher's own child",
    "myself": "adopt: refused only the launcher's own child",
    "file": "listen: refused .*not a seccomp listener",
    "eventfd": "listen: refused .*not a seccomp listener",
    "minus": "listen: refused",
    "huge": "listen: refused",
    "without": "listen: refused .*no_new_privs",
    "garbage": "listen: refused",
    "twice": "again: refused",
    "dies": "done",
}


@pytest.mark.parametrize("lie", LIES)
def test_launchers_that_lie(arena: Arena, user: int, lie: str) -> None:
    """Nothing is supervised that is not the launcher's child with a listener of its own; the plan is forgotten."""
    done = outside(arena, user, "launch", lie, "escape")
    assert re.search(LIES[lie], done.stdout), done


def test_the_plan_of_another_user(arena: Arena) -> None:
    """A stolen token is of no use to another uid, root's own child excepted: it is not the launcher's."""
    instance = arena.instance
    program = instance.spawn("/bin/sleep", "100", profile="escape")
    instance.wait_until(lambda: True if instance.sandboxes() else None, "the sandbox")
    done = outside(arena, OTHER, "request", "control.sock", 6)  # sees nothing of it
    assert "accepted" in done.stdout
    listed = instance.ctl("sandbox", "list", "--json", user=OTHER)
    assert instance.sandboxes()[0].subject.sandbox not in listed.stdout
    program.kill()
    program.wait(30)


def test_a_pid_that_is_free_again(tmp_path: Path) -> None:
    """Who connects and ends leaves its pid to others: a peer that is gone gets nothing. One that lives is itself."""
    hierarchy = cgroup.find()
    nowhere = cgroup.Cgroup(hierarchy, "/governed-nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        receiver, sender = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(tmp_path / "s"))
            socket.send_fds(sender, [b"x"], [connection.fileno()])
            os._exit(0)
        os.waitpid(pid, 0)
        _, kept, _, _ = socket.recv_fds(receiver, 1, 1)
        accepted, _ = server.accept()
        gone = peer_of(accepted, nowhere)
        assert (gone.pid, gone.sandboxed) == (pid, True)
        for descriptor in kept:
            os.close(descriptor)
        with socket.socket(socket.AF_UNIX) as own:
            thread = threading.Thread(target=own.connect, args=(str(tmp_path / "s"),))
            thread.start()
            with server.accept()[0] as other:
                living = peer_of(other, nowhere)
            thread.join()
        assert (living.pid, living.uid, living.sandboxed) == (os.getpid(), 0, False)
        accepted.close()


def test_another_pid_namespace(arena: Arena) -> None:
    """Where process ids mean something else, signals could not be judged: not adopted."""
    program = arena.instance.command("run", "--profile", "escape", "--", "/bin/true")
    done = arena.instance.as_user(ROOT, "/usr/bin/unshare", "--pid", "--fork", *map(str, program))
    assert done.returncode == 125, done
    assert "namespace" in done.stderr
    assert arena.instance.as_user(ROOT, *map(str, program)).returncode == 0
