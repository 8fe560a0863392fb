"""Ordinary work inside the seal gives what it gives outside: output, status, and every file afterwards."""

import hashlib
import os
import re
import socket
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import installed
import pytest
from bounds import HANG
from installed import HOME, USER, WORK

MACHINE = {"product": True, "processors": 1, "seconds": 1800}

# What the gate thinks of ordinary work is another question (tests/programs): here the profile says yes to all of it,
# and the seal has to let every bit through.
FILES = """file.read, file.write, file.create, file.truncate, file.unlink, file.rmdir, file.rename, file.link,
    file.symlink, file.mkdir, file.mknod, file.chmod, file.chown, file.xattr, file.times, file.ioctl"""
PROFILE = f"""kind: Profile
name: workshop
description: everything in the current directory, any program, one port
envelope:
  read: [/]
  write: ["${{cwd}}", "${{scratch}}", /dev/null, /dev/zero, /dev/tty, /dev/ptmx, /dev/pts, /dev/shm]
  execute: [/]
free:
  - {{operations: [{FILES}], on: "${{cwd}}/**"}}
  - {{operations: [{FILES}], on: "${{scratch}}/**"}}
  - {{operations: [{FILES}], on: /dev/shm/**}}
  - {{operations: [process.exec], on: /**}}
  - {{operations: [net.connect], on: "tcp:127.0.0.1:8080"}}
limits: {{processes: 512}}
"""
AGENT = """kind: Agent
name: default
tier: Classic
profiles: [workshop, default, strict, demo]
"""
OUTSIDE_TMP = HOME / "tmp"


@pytest.fixture(scope="module", autouse=True)
def product():
    """The units run, the seal is there, and the profile is active."""
    installed.start()
    assert installed.status()["seal"] == "lsm", installed.status()
    installed.set_up_policies(profile_workshop=PROFILE, agent_default=AGENT)


def tree(directory):
    """Relative path → kind, mode, owner, content of all that lies there."""
    found = {}
    for path in sorted(directory.rglob("*")):
        seen = path.lstat()
        content = ""
        if stat.S_ISREG(seen.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(seen.st_mode):
            content = str(path.readlink())
        found[str(path.relative_to(directory))] = (oct(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_nlink, content)
    return found


def same(script, files=None, changing=r"\Z.", normal=str):
    """Runs a bash script outside and inside, each in a fresh copy of the same directory, and compares.

    Contents of files whose path matches `changing` may differ. Returns the run inside. No effect may have been refused,
    and the seal has nothing to report.
    """
    runs = []
    before = installed.status()
    for sandboxed in (False, True):
        for directory in (WORK, OUTSIDE_TMP):
            installed.run("rm", "-rf", directory)
            installed.run("mkdir", directory, user=USER)
        for name, content in (files or {}).items():
            path = WORK / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        installed.run("chown", "-R", f"{USER}:{USER}", WORK)
        if sandboxed:
            done = installed.inside("bash", "-c", script, profile="workshop")
        else:
            words = ["env", f"TMPDIR={OUTSIDE_TMP}", "bash", "-c", script]
            done = installed.run(*words, user=USER, cwd=WORK, check=False, timeout=HANG)
        runs.append((done, tree(WORK)))
    (outside, outside_tree), (inside, inside_tree) = runs
    assert normal(inside.stdout) == normal(outside.stdout), inside.stderr
    assert normal(inside.stderr) == normal(outside.stderr)
    assert inside.returncode == outside.returncode
    assert inside_tree.keys() == outside_tree.keys()
    for name, entry in inside_tree.items():
        kept = slice(0, 4) if re.search(changing, name) else slice(None)
        assert entry[kept] == outside_tree[name][kept], name
    new = installed.records(before["records"] + 1)
    assert [record for record in new if record.get("decision") == "allow"], "it was held, and allowed"
    assert [record for record in new if record.get("decision") not in (None, "allow")] == []
    assert installed.status()["seal_events"] == before["seal_events"]
    return inside


def test_bash():
    done = same(
        r"""
        set -u; umask 027
        printf 'b\na\nc\na\n' > in.txt
        sort in.txt | uniq -c | sed 's/^ *//' | tee counted.txt | wc -l
        while read line; do echo "<$line>"; done < in.txt | tr a-z A-Z >> upper.txt
        diff <(sort in.txt) in.txt; cat <<HERE | head -n 1
from a here document
second
HERE
        yes | head -n 2; false | true; echo "status $?"; ls nonexistent; echo "ls $?"
        mkdir -p d/e && touch d/e/f && chmod 640 d/e/f && ln -s e/f d/link && ln d/e/f d/hard && cp -a d copy
        mv d/e moved
        rm -rf d && truncate -s 100000 big && rm big && exec 3> kept && echo kept >&3 && exec 3>&-
        sleep 100 & kill -TERM $!; wait $!; echo "killed $?"
        for i in 1 2 3 4; do ( echo $i > out.$i ) & done; wait; cat out.* | paste -sd,
        trap 'echo trapped' EXIT; exit 7
        """
    )
    assert done.returncode == 7
    assert "trapped" in done.stdout


def test_git():
    done = same(
        """
        set -e
        export GIT_AUTHOR_DATE='2001-02-03 04:05:06 +0000' GIT_COMMITTER_DATE='2001-02-03 04:05:06 +0000'
        export GIT_CONFIG_GLOBAL=$PWD/gitconfig
        git config --global user.name N; git config --global user.email n@example.invalid
        git config --global init.defaultBranch main; git config --global gc.auto 0
        git init -q one && cd one
        for i in $(seq 5); do echo $i > file$i; done
        git add . && git commit -qm first && git mv file1 moved && git commit -qm second && git status --short
        git checkout -q -b side && echo x >> moved && git commit -qam third && git checkout -q main && git merge -q side
        git reset -q --hard HEAD~1 && git log --oneline && git gc --quiet && git fsck
        cd .. && git clone -q one two && cd two && git log --oneline && git pull -q && echo pulled
        """,
        changing=r"(^|/)(index|ORIG_HEAD|.*\.pack|.*\.idx|.*\.rev|logs/.*|packs|commit-graph)$",
    )
    assert done.returncode == 0, done
    assert done.stdout.endswith("pulled\n")


def wheel():
    """A small wheel with a module and a command."""
    info = "parcel-1.0.dist-info"
    content = {
        "parcel.py": "def main():\n    print('unpacked')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nparcel = parcel:main\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*content, f"{info}/RECORD"])
    path = Path("/var/tmp/parcel-1.0-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return path.read_bytes()


def test_python_with_a_virtual_environment_and_a_local_wheel():
    # The environment's own pip is two thousand files more, which take minutes on an emulated machine; tests/programs
    # unpacks it under the shipped policies.
    make, pip = "python3 -m venv --without-pip env", "python3 -m pip --python env/bin/python"
    if os.environ.get("VM_FULL"):
        make, pip = "python3 -m venv env", "env/bin/pip"
    done = same(
        f"""
        set -e
        {make}
        {pip} install --no-index --disable-pip-version-check --no-compile ./parcel-1.0-py3-none-any.whl
        env/bin/parcel && env/bin/python -c 'import parcel; parcel.main()'
        """,
        files={"parcel-1.0-py3-none-any.whl": wheel()},
        changing=r"\.pyc$",
    )
    assert done.returncode == 0, done
    assert done.stdout.endswith("unpacked\nunpacked\n")


MAKEFILE = """OBJECTS = main.o one.o two.o three.o
program: $(OBJECTS)
\t@gcc -o $@ $^
%.o: %.c all.h
\t@gcc -O1 -c -o $@ $<
"""


def test_gcc_and_make():
    parts = {f"{name}.c": f'#include "all.h"\nint {name}(void) {{ return {value}; }}\n' for name, value in NUMBERS}
    main = (
        '#include <stdio.h>\n#include "all.h"\nint main(void) { printf("%d\\n", one() + two() + three()); return 3; }\n'
    )
    header = "int one(void); int two(void); int three(void);\n"
    done = same("make -j4 && ./program", files={"Makefile": MAKEFILE, "all.h": header, "main.c": main, **parts})
    assert (done.returncode, done.stdout) == (3, "6\n")


NUMBERS = [("one", 1), ("two", 2), ("three", 3)]


def test_sqlite():
    done = same(
        """
        sqlite3 data.db 'PRAGMA journal_mode=WAL; CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT);'
        for i in 1 2 3; do sqlite3 data.db "BEGIN; INSERT INTO t (v) VALUES ('value $i'); COMMIT;"; done
        sqlite3 data.db 'UPDATE t SET v = upper(v) WHERE k > 1; VACUUM; SELECT * FROM t; PRAGMA integrity_check;'
        sqlite3 data.db .dump > dump.sql && sqlite3 copy.db < dump.sql && sqlite3 copy.db 'SELECT count(*) FROM t'
        """,
        changing=r"\.db$",
    )
    assert done.stdout.endswith("3|VALUE 3\nok\n3\n")


def test_tar_and_rsync():
    done = same(
        """
        set -e
        mkdir -p source/deep && for i in $(seq 20); do echo "content $i" > source/deep/file$i; done
        chmod 600 source/deep/file1 && ln -s deep/file2 source/soft && ln source/deep/file3 source/hard
        touch -d @86400 source/deep  # rsync compares seconds, and what follows may begin in the same one
        tar -czf all.tar.gz --sort=name --mtime=@0 source && mkdir out && tar -xzpf all.tar.gz -C out && find out | sort
        rsync -aH source/ mirror/ && rm source/deep/file5 && echo more >> source/deep/file6
        rsync -aH --delete --itemize-changes --checksum source/ mirror/ | cut -c 1-2,12- | sort
        diff -r source mirror && echo equal
        """
    )
    assert done.returncode == 0, done
    assert done.stdout.endswith("equal\n")


class Page(BaseHTTPRequestHandler):
    """Answers every request with a text."""

    def do_GET(self):
        """One page, without a date that changes."""
        self.send_response_only(200)
        self.end_headers()
        self.wfile.write(b"a page\n" * 1000)

    def log_message(self, *_):
        """Nothing."""


def test_curl_to_a_granted_address_and_not_to_its_neighbour():
    servers = [ThreadingHTTPServer(("127.0.0.1", port), Page) for port in (8080, 8081)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    done = same("curl --silent --show-error --output page http://127.0.0.1:8080/ && wc -l page")
    assert done.stdout == "1000 page\n"
    begun = installed.status()["records"]
    done = installed.inside("curl", "--silent", "--show-error", "http://127.0.0.1:8081/", profile="workshop")
    assert (done.returncode, done.stdout) == (7, "")
    assert [record for record in installed.refused("127.0.0.1:8081", begun) if record["operation"] == "net.connect"]
    # The neighbour is there: it is the sandbox that does not reach it.
    socket.create_connection(("127.0.0.1", 8081), 10).close()
    for server in servers:
        server.shutdown()
