"""`governedctl trace` sees what a sandbox does, whoever allowed or refused it, and agrees with the journal."""

import json
import os
import signal
import subprocess
from pathlib import Path

import installed
import pytest
from bounds import HANG
from installed import as_user, run, wait_until

# The compiler is slow under emulation: most of a minute for each time that trace starts.
MACHINE = {"product": True, "processors": 1, "seconds": 1500}

USER = "tracee"
HOME = Path("/home", USER)
BCC = Path("/usr/lib/python3/dist-packages/bcc")

# What the sandbox does once trace looks. /etc is not for it to change; nobody listens on the discard port.
WORK = r"""
until [ -e go ]; do sleep 2; done
echo one > made
mv made moved
ln -s moved link
mkdir directory && rmdir directory
rm moved
echo no > /etc/refused
/usr/bin/python3 -I -c 'import socket
s = socket.socket()
try: s.connect(("127.0.0.1", 9))
except OSError: pass
'
/bin/echo "two words" last
"""


@pytest.fixture(scope="module", autouse=True)
def service():
    """The daemon serves, and there is a user who may run sandboxes."""
    installed.start()
    run("useradd", "--create-home", "--groups", "governed", USER)


def ctl(*words, prefix=()):
    """governedctl, as root."""
    return run(*prefix, "governedctl", *words, check=False)


class Sandbox:
    """WORK in a sandbox, which waits for `go`."""

    def __init__(self, name):
        self.place = HOME / name
        self.place.mkdir()
        # In a file: that a command line writes into /etc would be reason enough to refuse the command.
        (self.place / "work.sh").write_text(WORK)
        run("chown", "--recursive", f"{USER}:{USER}", self.place)
        known = set(running())
        words = as_user(USER, ["governedctl", "run", "--", "sh", "work.sh"])
        self.process = subprocess.Popen(
            words, cwd=self.place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_until(lambda: set(running()) - known or self.process.poll() is not None, "the sandbox")
        assert self.process.poll() is None, self.process.stdout.read()
        (self.id,) = set(running()) - known

    def go(self):
        """Lets it work, and waits for its end."""
        (self.place / "go").touch()
        said, _ = self.process.communicate(timeout=HANG)
        return said


@pytest.fixture
def sandbox():
    """Makes sandboxes, and ends those that a failed test leaves waiting: others run in this machine afterwards."""
    made = []

    def make(name):
        made.append(Sandbox(name))
        return made[-1]

    yield make
    for one in made:
        one.process.terminate()
        one.process.wait(HANG)


class Trace:
    """A running `governedctl trace`."""

    def __init__(self, *words):
        self.out, self.err = Path("/var/tmp/trace.out"), Path("/var/tmp/trace.err")
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(["governedctl", "trace", *words], stdout=out, stderr=err)
        wait_until(self.looks, "trace to start")

    def looks(self):
        """Whether it is attached."""
        assert self.process.poll() is None, self.err.read_text()
        return "tracing" in self.err.read_text()

    def lines(self):
        """What it printed, once it has ended."""
        assert self.process.wait(HANG) == 0, self.err.read_text()
        assert "lost" not in self.err.read_text()
        return self.out.read_text().splitlines()


def running():
    """The ids of the sandboxes that there are."""
    return [one["subject"]["sandbox"] for one in installed.sandboxes()]


def absolute(name, place):
    """trace shows relative names as they were given when the process is gone already."""
    return os.path.normpath(place / name)


def test_says_what_is_missing():
    aside = BCC.with_name("bcc.aside")
    BCC.rename(aside)
    try:
        done = ctl("trace", "--cgroup", "/sys/fs/cgroup/system.slice")
        assert done.returncode == 1
        assert f"apt-get install python3-bpfcc linux-headers-{os.uname().release}" in done.stderr
    finally:
        aside.rename(BCC)
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /lib/modules && exec "$@"', "sh")
    done = ctl("trace", "--cgroup", "/sys/fs/cgroup/system.slice", prefix=hidden)
    assert done.returncode == 1
    assert f"apt-get install linux-headers-{os.uname().release}" in done.stderr
    done = ctl("trace", "--cgroup", "/sys/fs/cgroup/system.slice", prefix=as_user(USER, ()))
    assert done.returncode == 1
    assert "sudo" in done.stderr
    done = ctl("trace", "0123456789ab")
    assert done.returncode == 1
    assert "sandbox list" in done.stderr


def test_sees_one_sandbox_and_agrees_with_the_journal(sandbox):
    watched, other = sandbox("watched"), sandbox("other")
    trace = Trace(watched.id, "--json")
    other.go()
    said = watched.go()
    # The sandbox has ended, and so does the trace.
    seen = [json.loads(line) for line in trace.lines()]
    assert {one["sandbox"] for one in seen} <= {watched.id, ""}
    assert not any("/other/" in name for one in seen for name in one["objects"] if isinstance(name, str))

    def find(call, name, **wanted):
        """Activities of that call on that name."""
        full = absolute(name, watched.place)
        return [
            one
            for one in seen
            if one["call"].startswith(call)
            and full in [absolute(each, watched.place) for each in one["objects"]]
            and all(one[key] == value for key, value in wanted.items())
        ]

    assert find("open", "made", error="", began=True), seen
    assert find("rename", "made", error="", began=True)
    assert find("rename", "moved", error="", began=True)
    assert find("symlink", "link", error="", began=True)
    assert find("mkdir", "directory", error="", began=True)
    assert find("rmdir", "directory", error="", began=True)
    assert find("unlink", "moved", error="", began=True)
    # What was refused never began; trace saw it come back.
    assert find("open", "/etc/refused", began=False), said
    assert not find("open", "/etc/refused", began=True)
    assert [one for one in seen if one["call"] == "connect" and "127.0.0.1:9" in one["objects"]]
    echoes = [one for one in seen if one["kind"] == "exec" and one["argv"][:1] == ["/bin/echo"]]
    assert [one["argv"] for one in echoes] == [["/bin/echo", "two words", "last"]]

    # Whatever the daemon says that it allowed, trace has seen, and the other way round for what was changed.
    lines = ctl("journal", "tail", "--json", "-n", "1000", "--sandbox", watched.id).stdout.splitlines()
    records = [record for line in lines if (record := json.loads(line)).get("kind") == "effect"]
    allowed = {(record["operation"], record["object"]) for record in records if record["decision"] == "allow"}
    calls = {"file.unlink": "unlink", "file.rename": "rename", "file.mkdir": "mkdir", "file.rmdir": "rmdir"}
    for operation, call in calls.items():
        of_daemon = {name for what, name in allowed if what == operation}
        of_trace = {
            absolute(one["objects"][0], watched.place)
            for one in seen
            if one["call"].startswith(call) and not one["error"]
        }
        assert of_daemon == of_trace != set(), operation


def test_sees_all_sandboxes_as_text(sandbox):
    first, second = sandbox("first"), sandbox("second")
    trace = Trace("--no-reads")
    first.go()
    second.go()
    wait_until(lambda: trace.out.read_text().count("/bin/echo 'two words' last") == 2, "the last of both to be shown")
    trace.process.send_signal(signal.SIGINT)
    lines = trace.lines()
    assert lines[0].split()[:3] == ["TIME", "SANDBOX", "PID"]
    for one in (first, second):
        own = [line for line in lines if one.id in line]
        assert [line for line in own if "rename" in line and "made" in line], lines
        assert [line for line in own if "/etc/refused (write+create+truncate, refused)" in line]
        assert [line for line in own if "/bin/echo 'two words' last" in line]
    assert not [line for line in lines if line.endswith("(read)")]
