"""What a command finds around it: variables, a scratch directory, descriptors, limits."""

import json
import os
import subprocess
from pathlib import Path

from tests.programs.stage import Stage
from tests.support.instance import Instance
from tests.support.users import USER, identity

SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


def test_variables_that_look_like_credentials_are_dropped_and_named(roomy: Instance) -> None:
    given = {
        "GITHUB_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "k", "DATABASE_URL": "postgres://u:p@h/", "SSH_AUTH_SOCK": "/x",
        "MY_API_KEY": "k", "PGPASSWORD": "p", "HARMLESS": "stays", "EDITOR": "vi", "UNWANTED": "w", "EMPTY": "",
    }  # fmt: skip
    done = roomy.run("python3", "-c", SHOW, env=given, profile="roomy")
    found = json.loads(done.stdout)
    kept = {"HARMLESS", "EDITOR", "UNWANTED", "EMPTY"}
    assert {name: found.get(name) for name in given} == {name: given[name] if name in kept else None for name in given}
    (line,) = [line for line in done.stderr.splitlines() if "not passed on" in line]
    assert [name for name in given if name in line] == [name for name in given if name not in kept]
    assert "postgres" not in line
    assert roomy.run("true", env=given, profile="roomy", quiet=True).stderr == ""


def test_a_profile_keeps_some_and_drops_others(roomy: Instance) -> None:
    given = {"HARMLESS_TOKEN": "stays", "OTHER_TOKEN": "goes", "UNWANTED": "goes", "WANTED": "stays"}
    found = json.loads(roomy.run("python3", "-c", SHOW, env=given, profile="loopback").stdout)
    assert {name for name in given if name in found} == {"HARMLESS_TOKEN", "WANTED"}


def test_values_of_any_bytes_pass(roomy: Instance) -> None:
    value = "".join(map(chr, range(1, 128))).replace("\r", "") + "\udcff\udcfe"
    done = roomy.run("sh", "-c", 'printf %s "$ANY"', env={"ANY": value}, profile="roomy")
    assert done.stdout == value


def test_the_sandbox_is_named_in_the_environment(roomy: Instance) -> None:
    found = json.loads(roomy.run("python3", "-c", SHOW, profile="roomy").stdout)
    started = {record["sandbox"] for record in roomy.journal() if record["kind"] == "sandbox.start"}
    assert found["GOVERNED_SANDBOX"] in started
    assert found["GOVERNED_RUNTIME_DIR"] == str(roomy.runtime_dir)


SCRATCH = """
set -e
cd "$TMPDIR"
test "$(stat -c '%a %u' .)" = "700 $(id -u)"
echo x > file; ln file hard; ln -s file soft; mkdir -p d/e; mv file d/e; chmod 600 d/e/file; rm -r d hard
python3 -c '
import socket, tempfile
tempfile.NamedTemporaryFile().write(b"x")
s = socket.socket(socket.AF_UNIX); s.bind("sock"); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect("sock")'
cp /bin/true program; ./program; sort -S 1k --parallel=1 /etc/services > sorted; pwd
"""


def test_scratch_is_free_and_gone_afterwards(either: Stage) -> None:
    roomy = either.instance
    before = len(roomy.journal())
    done = roomy.run("sh", "-c", SCRATCH, profile="narrow", user=either.user)
    assert done.returncode == 0, done
    scratch = Path(done.stdout.strip())
    # Running what was put there is decided like any other program.
    records = [r for r in roomy.journal()[before:] if str(scratch) in r.get("object", "")]
    records = [record for record in records if record["operation"] != "process.exec"]
    assert len(records) > 10
    assert {(r["decision"], r["layer"], r["rule"]) for r in records} <= {("allow", "daemon", "scratch")}
    assert not scratch.exists()


def test_other_processes_of_the_user_reach_scratch(roomy: Instance, stage: Stage) -> None:
    program = roomy.spawn(
        "sh", "-c", 'echo inside > "$TMPDIR/f"; echo "$TMPDIR"; read answer; cat "$TMPDIR/f"', profile="roomy"
    )
    assert program.stdin is not None
    assert program.stdout is not None
    scratch = program.stdout.readline().decode().strip()
    assert roomy.as_user(USER, "sh", "-c", f"cat {scratch}/f; echo outside > {scratch}/f").stdout == "inside\n"
    out, _ = program.communicate(b"\n", timeout=20)
    assert out == b"outside\n"


def test_scratch_has_a_size(roomy: Instance) -> None:
    script = 'dd if=/dev/zero of="$TMPDIR/big" bs=1M count=300 status=none; echo $?; wc -c < "$TMPDIR/big"'
    done = roomy.run("sh", "-c", script, profile="roomy")
    code, size = done.stdout.split()
    assert (code, int(size) <= 256 << 20) == ("1", True)


def test_only_three_descriptors_are_inherited(roomy: Instance) -> None:
    with open("/etc/hostname", "rb") as file:
        os.set_inheritable(file.fileno(), True)
        done = subprocess.run(
            roomy.command("run", "--quiet", "--profile", "roomy", "--", "sh", "-c", "ls /proc/self/fd | wc -l"),
            capture_output=True, text=True, pass_fds=[file.fileno()], env=roomy.environment(), cwd=roomy.work,
            timeout=60, check=False, **identity(USER),
        )  # fmt: skip
    assert done.stdout == "4\n"  # and the directory that ls reads


def test_the_command_cannot_gain_rights(roomy: Instance, either: Stage) -> None:
    script = "grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd' /proc/self/status"
    done = roomy.run("sh", "-c", script, profile="roomy", user=either.user)
    fields = dict(line.split() for line in done.stdout.splitlines())
    assert (fields["NoNewPrivs:"], fields["Seccomp:"]) == ("1", "2")
    dangerous = 1 << 21 | 1 << 19 | 1 << 12 | 1 << 13 | 1 << 39 | 1 << 27  # SYS_ADMIN SYS_PTRACE NET_* BPF MKNOD
    assert int(fields["CapEff:"], 16) & dangerous == 0
    if either.user == 0:
        assert int(fields["CapBnd:"], 16) & dangerous == 0


def test_stdin_is_the_commands(roomy: Instance) -> None:
    text = "line\n" * 300_000
    assert roomy.run("md5sum", stdin=text, profile="roomy").stdout == roomy.as_user(
        USER, "python3", "-c", "import hashlib; print(hashlib.md5(b'line\\n' * 300000).hexdigest() + '  -')"
    ).stdout  # fmt: skip


def test_output_to_a_file_and_a_closed_pipe(roomy: Instance, stage: Stage) -> None:
    command = roomy.command("run", "--quiet", "--profile", "roomy", "--", "seq", "1000000")
    with open(stage.instance.work / "numbers", "wb") as out:
        subprocess.run(command, stdout=out, env=roomy.environment(), cwd=roomy.work, check=True, **identity(USER))
    assert (stage.instance.work / "numbers").read_text().endswith("999999\n1000000\n")
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=roomy.environment(), cwd=roomy.work, **identity(USER)
    )
    assert program.stdout is not None
    assert program.stdout.readline() == b"1\n"
    program.stdout.close()
    assert program.wait(20) == -13  # SIGPIPE, as outside
