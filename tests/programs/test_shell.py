"""Shells, pipelines, and the small programs that scripts are made of."""

import shutil

import pytest

from tests.programs.stage import Stage

PIPES = """
set -u
printf 'b\\na\\nc\\na\\n' > in.txt
sort in.txt | uniq -c | sed 's/^ *//' | tee counted.txt | wc -l
cat < in.txt | while read line; do echo "<$line>"; done | tr a-z A-Z >> upper.txt
cat upper.txt
( cd / && ls -d usr ) && { echo grouped; } 2>&1
x=$(echo one; echo two >&2) ; echo "x=$x"
cat <<HERE | head -n 1
from a here document
second
HERE
yes | head -n 3
false | true; echo "status $?"
ls nonexistent; echo "ls $?"
sh -c 'exit 9'; echo "nine $?"
sh -c 'kill -TERM $$'; echo "signal $?"
exit 7
"""

# `wait -f`: without it a shell that manages jobs is content with a job that has stopped (147), if it looks just then.
JOBS = """
set -m
sleep 0.2 & first=$!
( exit 3 ) & second=$!
wait $second; echo "second $?"
wait $first; echo "first $?"
sleep 100 & kill -TERM %1; wait $!; echo "killed $?"
trap 'echo trapped' USR1
kill -USR1 $$
sleep 100 & victim=$!
kill -STOP $victim; kill -CONT $victim; kill -KILL $victim; wait -f $victim 2>/dev/null; echo "then $?"
for i in 1 2 3 4 5 6 7 8; do ( echo $i > out.$i ) & done; wait
cat out.* | paste -sd,
( trap 'exit 4' TERM; sleep 100 & touch trapping; wait ) & group=$!
until [ -e trapping ]; do sleep 0.02; done; kill -TERM -- -$group; wait $group; echo "group $?"
"""

FILES = """
set -e
umask 027
mkdir -p d/e/f && touch d/e/f/g d/h && chmod 640 d/h && chmod u+s d/h
ln -s ../h d/e/link && ln d/h d/hard && ln -s nowhere d/dangling
cp -a d copy && cp -r d/e other && mv other moved && install -m 711 d/h installed
mv moved/f/g 'a name with spaces' && mv -f 'a name with spaces' "$(printf 'new\\nline')"
find . -print0 | sort -z | xargs -0 stat -c '%A %n'
find copy -type f -print0 | xargs -0 -n1 basename | sort
find . -name g -delete
rmdir copy/e/f && rm -rf d
truncate -s 1000000 big && dd if=/dev/zero of=big bs=1000 count=3 conv=notrunc status=none && wc -c big
printf 'x%.0s' $(seq 5000) > many && split -b 1000 many part. && cat part.* | cmp - many && rm part.*
sed -i s/xx/y/g many && head -c 10 many && echo
touch -d '2001-02-03 04:05:06 UTC' installed && date -u -r installed
gzip -n many && zcat many.gz | wc -c
t=$(mktemp) && echo temporary > "$t" && cat "$t" && rm "$t"
t=$(mktemp -d) && cp installed "$t/" && rm -r "$t"
awk 'BEGIN { while (("echo from awk" | getline l) > 0) print l; print "to file" > "awked" }' && cat awked
mkfifo pipe && (echo through the fifo > pipe &) && cat pipe
diff big many.gz > /dev/null || echo differ $?
"""


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_pipelines(either: Stage, shell: str) -> None:
    done = either.same(shell, "script.sh", files={"script.sh": PIPES})
    assert done.returncode == 7
    assert "4" not in done.stderr
    assert "status 0\nls 2\nnine 9\nsignal 143\n" in done.stdout


def test_job_control(stage: Stage) -> None:
    done = stage.same("bash", "script.sh", files={"script.sh": JOBS})
    assert "second 3\nfirst 0\nkilled 143\ntrapped\nthen 137\n1,2,3,4,5,6,7,8\ngroup 4\n" in done.stdout


def test_small_programs(either: Stage) -> None:
    done = either.same("bash", "script.sh", files={"script.sh": FILES})
    assert done.returncode == 0, done
    assert done.stdout.endswith("differ 1\n")


def test_scripts_run_by_their_first_line(stage: Stage) -> None:
    files = {"say": '#!/bin/sh\necho "$0 $*"\n', "env": "#!/usr/bin/env -S python3 -u\nimport sys; print(sys.argv)\n"}
    assert stage.same("sh", "-c", "./say a 'b c'; ./env d", files=files).stdout == "./say a b c\n['./env', 'd']\n"


def test_what_cannot_run_fails_as_outside(stage: Stage) -> None:
    files = {"text": "echo no\n", "empty": "", "wrong": "#!/nonexistent/interpreter\n", "elf": b"\x7fELF garbage"}
    for command in ("./text", "./empty", "./wrong", "./elf", "./missing", ".", "missing-everywhere"):
        stage.same("sh", "-c", f"{command}; echo $?", files=files)


def test_tar_keeps_everything(either: Stage) -> None:
    script = """set -e
mkdir -p a/b && echo 1 > a/b/c && ln -s c a/b/link && ln a/b/c a/hard && chmod 600 a/b/c && mkfifo a/fifo
tar --sort=name --mtime=@0 --owner=0 --group=0 -cf a.tar a && sha256sum a.tar
mkdir out && tar -xpf a.tar -C out --no-same-owner && find out | sort && stat -c '%A %h %n' out/a/b/c out/a/fifo
tar -czf - a | tar -tzf -
"""
    either.same("sh", "-c", script)


PRESENT = {
    "perl": [
        "perl",
        "-e",
        'open F, ">f" or die; print F "x"; close F; print `cat f`; rename "f","g"; unlink "g" or die',
    ],
    "rsync": ["sh", "-c", "mkdir -p a/b && echo 1 > a/b/c && rsync -a --delete a/ z/ && rsync -ai a/ z/ && ls -R z"],
    "awk": [
        "awk",
        'BEGIN { print "hello" > "f"; close("f"); while (getline l < "f") print l; system("echo $PPID | wc -w") }',
    ],
}


@pytest.mark.parametrize("program", [name for name in PRESENT if shutil.which(name)])
def test_others_that_are_installed(stage: Stage, program: str) -> None:
    assert stage.same(*PRESENT[program]).returncode == 0


def test_big_data_through_pipes(stage: Stage) -> None:
    text = "0123456789abcde\n" * 700_000  # 11 MB
    done = stage.same("sh", "-c", "cat | tee copy | cat", stdin=text)
    assert done.stdout == text
    done = stage.same("sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x | cat >&2; echo done")
    assert (len(done.stderr), done.stdout) == (20_000_000, "done\n")


def test_a_reader_that_leaves_early(stage: Stage) -> None:
    done = stage.same("bash", "-c", "set -o pipefail; yes | head -n 1; echo $?")
    assert done.stdout == "y\n141\n"
