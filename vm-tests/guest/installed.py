"""The installed package as an operator and an ordinary user see it: its units, commands and records."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bounds import HANG

PACKAGE = "governed-mcpd"
DAEMON, GATE = "governed-mcpd.service", "governed-gate.service"
CHECKOUT = os.environ["CHECKOUT"]
DEB = f"{CHECKOUT}/.vm-run/governed-mcpd.deb"
POLICIES = Path("/usr/share/governed-mcpd/policies")
SITE = "/usr/lib/governed-mcpd/lib/python3.11/site-packages"
USER = "agent"
HOME = Path("/home", USER)
WORK = HOME / "work"


def as_user(user, words):
    """The command line that runs `words` as somebody, with their groups and an environment of their own."""
    return list(map(str, ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env", *words)))


def run(*words, user=None, cwd="/", check=True, timeout=HANG, **more):
    """A program to its end, as `user` if one is given."""
    command = as_user(user, words) if user else [str(word) for word in words]
    more = {"stdin": subprocess.DEVNULL} | more if "input" not in more else more
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, cwd=cwd, **more)
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def leftovers():
    """Whatever on the machine has the product's name, besides the checkout and dpkg's own diaries."""
    ours = ("/proc", "/sys/kernel", "/sys/module", CHECKOUT, "/var/log", "/var/lib/dpkg/info", "/var/cache", "/home")
    found = []
    for top in ("/", "/run", "/tmp", "/sys/fs"):
        listed = run("find", top, "-xdev", "-name", "*governed*", check=False).stdout.splitlines()
        found += [path for path in listed if not path.startswith(ours)]
    return found


def start():
    """Enables and starts the units, makes a user who may run sandboxes, and waits until all is serving."""
    run("systemctl", "enable", "--now", DAEMON)
    if run("id", USER, check=False).returncode:
        run("useradd", "--create-home", USER)
    run("usermod", "--append", "--groups", "governed", USER)  # a package that was purged took its group along
    run("mkdir", "--parents", WORK, user=USER)
    wait_until(serving, "gate and daemon to serve")


def ask(answer, **request):
    """One request to the daemon, by the package's own client: on an emulated machine each governedctl takes seconds to
    start, and this is asked again and again. None when there is no daemon to answer."""
    if SITE not in sys.path:
        sys.path.append(SITE)
    from governed.v1 import control_pb2 as pb
    from governed_mcpd.control.client import ControlError, connect

    try:
        with connect("/run/governed-mcpd", timeout=HANG) as client:
            return getattr(client.ask(pb.ControlRequest(**request), answer), answer)
    except ControlError:
        return None


def status():
    """What the daemon says of itself, as `governedctl status --json` prints it; nothing when it cannot be asked."""
    answer = ask("status", status={})
    return plain(answer) if answer is not None else {}


def plain(message):
    """As `governedctl … --json` prints it."""
    from governed_mcpd.ctl.output import plain as as_printed

    return as_printed(message)


def serving():
    """Whether gate and daemon do their work."""
    return status().get("gate") == "serving"


def shown(unit, what):
    """One property of a unit."""
    return run("systemctl", "show", "--value", "--property", what, unit).stdout.strip()


def wait_until(holds, what, seconds=HANG):
    """What `holds()` returns once that is true; AssertionError when it does not become so."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)
    return found


def inside(*argv, profile=None, cwd=WORK, timeout=HANG, check=False, **more):
    """A command in a sandbox, as the user, to its end; without what the launcher says on stderr."""
    options = ["--quiet"] + (["--profile", profile] if profile else [])
    return run("governedctl", "run", *options, "--", *argv, user=USER, cwd=cwd, timeout=timeout, check=check, **more)


def launch(*argv, profile=None, output="/var/tmp/inside"):
    """The same, going on in the background; what it says goes to `output`."""
    words = ["governedctl", "run", *(["--profile", profile] if profile else []), "--", *argv]
    with open(output, "wb") as said:
        return subprocess.Popen(as_user(USER, words), cwd=WORK, stdin=subprocess.DEVNULL, stdout=said, stderr=said)


def sandboxes():
    """The sandboxes that the daemon knows."""
    answer = ask("sandboxes", sandbox_list={})
    assert answer is not None, "the daemon does not answer"
    return plain(answer).get("sandboxes", [])


def records(first=0, count=None):
    """The journal's records from that number on, the newest last; `count` of them at most."""
    status()  # makes the client importable
    from governed.v1 import control_pb2 as pb
    from governed_mcpd.control.client import connect

    found = []
    with connect("/run/governed-mcpd", timeout=HANG) as client:
        client.tell(pb.ControlRequest(journal_read={"first": first}))
        for reply in client.replies("record", timeout=HANG):
            if reply.record.line:
                found.append(json.loads(reply.record.line.partition(b" ")[2]))
            if not reply.record.more or len(found) == count:
                return found
    raise AssertionError("the journal ended in the middle")


def refused(target, first=0):
    """The records from that number on of effects on `target` that were not allowed."""
    return [record for record in records(first) if record.get("decision") == "deny" and target in json.dumps(record)]


def verified():
    """What `journal verify` found; AssertionError when the chain is not whole."""
    return json.loads(run("governedctl", "journal", "verify", "--json").stdout)


def set_up_policies(**extra):
    """Applies the shipped policies with further documents, by file name without ending. ControlError when the daemon
    refuses them. Not by governedctl, which would check them as well: that alone takes an emulated processor ten seconds
    (test_a_policy_is_applied shows that it works)."""
    files = {path.name: path.read_text() for path in POLICIES.glob("*.yaml")}
    files |= {f"{name.replace('_', '-')}.yaml": text for name, text in extra.items()}
    status()  # makes the client importable
    from governed.v1 import control_pb2 as pb
    from governed_mcpd.control.client import connect

    request = pb.ControlRequest()
    for name, text in files.items():
        request.apply.files.add(name=name, content=text.encode())
    with connect("/run/governed-mcpd", timeout=HANG) as client:
        assert client.ask(request, "policy").policy.active
