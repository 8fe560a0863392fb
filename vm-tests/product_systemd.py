"""Sandboxes under systemd: scopes of their own, which a restart of the daemon leaves alone and a stop ends."""

import json
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import installed
import pytest
from bounds import HANG
from installed import DAEMON, GATE, as_user, run, serving, wait_until

MACHINE = {"product": True, "processors": 1, "seconds": 900}

SLICE = Path("/sys/fs/cgroup/governed.slice")
USER = "ana"
AGENT = "{kind: Agent, name: default, tier: Classic, profiles: [worker]}\n"
PROFILE = """
kind: Profile
name: worker
envelope: {read: [/], write: ["${cwd}", /dev/null, /dev/tty, /srv/asked], execute: [/]}
free:
  - {operations: [process.exec], on: /**}
  - {operations: [file.write, file.create, file.unlink, file.mkdir], on: "${cwd}/**"}
"""
# Says each thing that it has done, one at a time: at each line of its input it creates the file that the line names.
WORK = """
import os, sys
print("began", flush=True)
for line in sys.stdin:
    try:
        os.close(os.open(line.strip(), os.O_WRONLY | os.O_CREAT, 0o644))
        print("made", flush=True)
    except OSError as error:
        print("refused", error.errno, flush=True)
sys.exit(7)
"""


def log():
    """The daemon's last lines."""
    return run("journalctl", "--no-pager", "-n", "40", "-u", DAEMON, check=False).stdout


def sandboxes():
    """Those that the daemon knows, by id."""
    return {one["subject"]["sandbox"]: one for one in installed.sandboxes()}


def scopes():
    """The cgroups of sandboxes."""
    return sorted(path.name for path in SLICE.glob("governed-*.scope"))


def state_of(thread):
    """The letter that proc_pid_stat(5) has for what a thread does."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


def main_pid():
    return int(installed.shown(DAEMON, "MainPID"))


@pytest.fixture(scope="module", autouse=True)
def service():
    """Gate and daemon run; an ordinary user may run sandboxes under a profile that lets work in ${cwd} run free."""
    run("useradd", "--create-home", "--groups", "governed", USER)
    run("systemctl", "enable", "--now", GATE, DAEMON, timeout=HANG)
    wait_until(serving, "the gate")
    installed.set_up_policies(agent_default=AGENT, profile_worker=PROFILE)
    Path("/srv/asked").mkdir()
    os.chown("/srv/asked", *ids())
    yield
    print(log())


def ids():
    found = pwd.getpwnam(USER)
    return found.pw_uid, found.pw_gid


@pytest.fixture
def work(request):
    """A directory of the user's."""
    path = Path(f"/home/{USER}/{request.node.name}")
    path.mkdir()
    os.chown(path, *ids())
    return path


class Running:
    """A sandbox that does one thing at each word."""

    def __init__(self, work):
        before = set(sandboxes())
        self.process = subprocess.Popen(
            as_user(USER, ["governedctl", "run", "--", "/usr/bin/python3", "-c", WORK]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, cwd=work,
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line == "began\n", (line, self.process.stderr.read())
        (self.id,) = set(sandboxes()) - before

    def tell(self, name):
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()

    def answer(self):
        return self.process.stdout.readline().strip()

    def does(self, name):
        self.tell(name)
        return self.answer()

    def ends(self):
        self.process.stdin.close()
        return self.process.wait(HANG)


def test_a_sandbox_is_a_scope_of_its_own(work):
    running = Running(work)
    assert running.does("one") == "made"
    pid = sandboxes()[running.id]["pid"]
    assert Path(f"/proc/{pid}/cgroup").read_text() == f"0::/governed.slice/governed-{running.id}.scope\n"
    assert (SLICE / f"governed-{running.id}.scope" / "pids.max").read_text().strip().isdigit()
    assert Path(f"/proc/{main_pid()}/cgroup").read_text() == f"0::/system.slice/{DAEMON}\n"
    assert running.ends() == 7
    wait_until(lambda: not scopes(), "the scope to be gone")


def test_scratch_is_there_for_the_sandbox_and_gone_after_it(work):
    program = "stat -f -c %T $TMPDIR; echo text > $TMPDIR/file; cat $TMPDIR/file; echo $TMPDIR"
    done = run("governedctl", "run", "--", "/bin/sh", "-c", program, user=USER, cwd=work)
    kind, text, directory = done.stdout.split()
    assert (kind, text) == ("tmpfs", "text")
    wait_until(lambda: not Path(directory).exists(), "the scratch directory to be gone")
    assert "governed-scratch" not in Path("/proc/self/mounts").read_text()


def test_scratch_also_in_a_mount_namespace_of_the_launchers(work):
    """As under a unit with PrivateTmp=, or a container's runtime on the host."""
    inner = "governedctl run -- /bin/sh -c 'echo text > $TMPDIR/file; cat $TMPDIR/file'"
    done = run("unshare", "--mount", "--propagation", "private", *as_user(USER, ["/bin/sh", "-c", inner]), cwd=work)
    assert done.stdout == "text\n", done.stderr
    wait_until(lambda: not list(Path("/run/governed-mcpd/scratch").iterdir()), "the scratch directory to be gone")


def test_a_restart_leaves_sandboxes_alone(work):
    running = Running(work)
    assert running.does("before") == "made"
    pid, inside = main_pid(), sandboxes()[running.id]["pid"]
    run("systemctl", "restart", DAEMON, timeout=HANG)
    assert main_pid() != pid
    assert Path(f"/proc/{inside}").exists()
    assert list(sandboxes()) == [running.id]
    assert running.does("after") == "made"
    assert running.does("/etc/outside").startswith("refused")
    assert (work / "after").exists()
    assert running.ends() == 7
    wait_until(lambda: not sandboxes(), "the sandbox to end")
    records = run("governedctl", "journal", "tail", "--sandbox", running.id, "--json").stdout.splitlines()
    kinds = [json.loads(line)["kind"] for line in records]
    assert kinds.count("sandbox.resumed") == 1
    assert kinds[-1] == "sandbox.end"
    assert run("governedctl", "journal", "verify").returncode == 0


def test_what_is_held_while_no_daemon_runs_waits_for_the_next_one(work):
    running = Running(work)
    assert running.does("before") == "made"
    inside, daemon = Path("/proc", str(sandboxes()[running.id]["pid"])), Path("/proc", str(main_pid()))
    os.kill(main_pid(), signal.SIGSTOP)
    # It takes nothing any more when all its threads stand: what one of them had received would be refused.
    wait_until(lambda: {state_of(thread) for thread in (daemon / "task").iterdir()} == {"T"}, "the daemon to stand")
    running.tell("during")
    wait_until(lambda: "seccomp" in (inside / "wchan").read_text(), "the call to be held")
    os.kill(main_pid(), signal.SIGKILL)
    assert running.answer() == "made", log()
    wait_until(serving, "the daemon to be back")
    assert running.does("after") == "made"
    assert running.ends() == 7


def test_what_a_daemon_had_received_and_not_answered_is_answered(work):
    """Asked of a gate that stands still: after a restart it may be tried again, after kill -9 it is refused."""
    for end, answers in (
        (lambda: run("systemctl", "restart", DAEMON, timeout=HANG), ("made", "refused")),
        (lambda: os.kill(main_pid(), signal.SIGKILL), ("refused 1",)),
    ):
        running = Running(work)
        gate = int(installed.shown(GATE, "MainPID"))
        os.kill(gate, signal.SIGSTOP)
        try:
            running.tell("/srv/asked/file")
            wait_until(lambda: any(one["pending"] for one in sandboxes().values()), "the call to be held")
            end()
        finally:
            os.kill(gate, signal.SIGCONT)
        assert running.answer().startswith(answers)
        wait_until(serving, "the daemon to be back")
        assert running.does("after") == "made"
        assert running.ends() == 7


def test_a_stop_ends_sandboxes(work):
    running = Running(work)
    inside = sandboxes()[running.id]["pid"]
    run("systemctl", "stop", DAEMON, timeout=HANG)
    assert running.process.wait(HANG) != 7
    assert not Path(f"/proc/{inside}").exists()
    assert scopes() == []
    assert not list(Path("/run/governed-mcpd/scratch").iterdir())
    run("systemctl", "start", DAEMON, timeout=HANG)
    wait_until(serving, "the daemon to be back")
    assert sandboxes() == {}
    assert run("governedctl", "journal", "verify").returncode == 0


def test_a_stop_that_kills_the_daemon_ends_sandboxes(work):
    running = Running(work)
    inside = sandboxes()[running.id]["pid"]
    # Killed by the stop itself. One that is frozen or stopped before is continued by systemd (unit_stop thaws), and may
    # end its sandboxes itself.
    dropin = Path(f"/run/systemd/system/{DAEMON}.d")
    dropin.mkdir(parents=True)
    try:
        (dropin / "killed.conf").write_text("[Service]\nKillSignal=SIGKILL\n")
        run("systemctl", "daemon-reload", timeout=HANG)
        run("systemctl", "stop", DAEMON, timeout=HANG)
        assert installed.shown(DAEMON, "ExecMainStatus") == str(int(signal.SIGKILL))
    finally:
        shutil.rmtree(dropin)
        run("systemctl", "daemon-reload", timeout=HANG)
    wait_until(lambda: not Path(f"/proc/{inside}").exists(), "the sandbox to be ended")
    assert running.process.wait(HANG) != 7
    run("systemctl", "reset-failed", DAEMON, check=False)
    run("systemctl", "start", DAEMON, timeout=HANG)
    wait_until(serving, "the daemon to be back")


def test_a_daemon_that_fails_for_good_leaves_no_sandbox(work):
    """Nobody takes them over any more: systemd has let go of their listeners."""
    running = Running(work)
    inside = sandboxes()[running.id]["pid"]
    config = Path("/etc/governed-mcpd/config.toml")
    good = config.read_text()
    config.write_text(f"{good}\nnonsense = 1\n")
    try:
        os.kill(main_pid(), signal.SIGKILL)
        wait_until(lambda: installed.shown(DAEMON, "ActiveState") == "failed", "the unit to fail")
        wait_until(lambda: not Path(f"/proc/{inside}").exists(), "the sandbox to be ended")
        assert running.process.wait(HANG) != 7
        wait_until(lambda: scopes() == [], "its scope to be gone")
    finally:
        config.write_text(good)
    run("systemctl", "start", DAEMON, timeout=HANG)
    wait_until(serving, "the daemon to be back")
    assert sandboxes() == {}
    assert not list(Path("/run/governed-mcpd/scratch").iterdir())
    new = Running(work)
    assert new.does("after") == "made"
    assert new.ends() == 7
