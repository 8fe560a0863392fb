"""What runs outside any sandbox notices nothing of a loaded seal: same output, no events, and about the same time."""

import json
import subprocess
from pathlib import Path

import installed
from bounds import HANG
from installed import DAEMON, WORK

# nokaslr: where processors are emulated, what a hook on a short way costs depends on where the kernel lies in memory,
# by as much as a factor of two; so it lies at the same place in each boot.
MACHINE = {"product": True, "alone": True, "parameters": "nokaslr", "seconds": 1500, "processors": 1}

# What goes through the seal's hooks, of each kind: nanoseconds for one, and how many of a system call that goes through
# none (getppid) take as long. Both are measured in short turns, and the median of each is told: a host that others use
# has slow minutes and fast ones, which change both alike.
COSTS = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e9 + t.tv_nsec; }
static void check(int good, const char *what) { if (!good) { perror(what); exit(1); } }
static void files(void) {
    int fd = open("file", O_RDWR | O_CREAT, 0600);
    check(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0, "create");
    check(rename("file", "other") == 0 && chmod("other", 0640) == 0 && unlink("other") == 0, "rename");
}
static int pair[2];
static void sends(void) {
    char byte = 'x';
    check(send(pair[0], &byte, 1, 0) == 1 && recv(pair[1], &byte, 1, 0) == 1, "send");
}
static void reads(void) { int fd = open("/etc/passwd", O_RDONLY); check(fd >= 0 && close(fd) == 0, "open"); }
static void forks(void) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    check(child > 0 && waitpid(child, 0, 0) == child, "fork");
}
static void execs(void) {
    pid_t child = fork();
    if (child == 0) { execl("/bin/true", "true", (char *)0); _exit(1); }
    int status = 1;
    check(child > 0 && waitpid(child, &status, 0) == child && status == 0, "exec");
}
static void sockets(void) {
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    strcpy(name.sun_path + 1, "costs");
    socklen_t length = sizeof name.sun_family + 6;
    int listening = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    check(bind(listening, (void *)&name, length) == 0 && listen(listening, 1) == 0, "bind");
    check(connect(client, (void *)&name, length) == 0, "connect");
    close(client);
    close(listening);
}
static void plain(void) { getppid(); }
static double timed(void (*one)(void), int times) {
    double start = now();
    for (int i = 0; i < times; i++) one();
    return (now() - start) / times;
}
static int compare(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}
#define TURNS 31
static double median(double *values) { qsort(values, TURNS, sizeof *values, compare); return values[TURNS / 2]; }
int main(void) {
    struct { const char *name; void (*one)(void); int times; } kinds[] = {
        { "files", files, 50 }, { "reads", reads, 500 }, { "forks", forks, 15 }, { "execs", execs, 2 },
        { "sockets", sockets, 100 }, { "sends", sends, 400 },
    };
    check(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0, "socketpair");
    printf("{\"getppid\": [%.0f, 1]", timed(plain, 200000));
    for (int kind = 0; kind < 6; kind++) {
        double taken[TURNS], calls[TURNS];
        for (int turn = 0; turn < TURNS; turn++) {
            double before = timed(plain, 5000);
            taken[turn] = timed(kinds[kind].one, kinds[kind].times);
            calls[turn] = taken[turn] / ((before + timed(plain, 5000)) / 2);
        }
        printf(", \"%s\": [%.0f, %.1f]", kinds[kind].name, median(taken), median(calls));
    }
    printf("}\n");
    return 0;
}
"""
# Much of what the seal has a hook for, as root outside a sandbox: each line has to end well.
HOOKED = r"""
set -e
cd "$1"
mkdir made; echo x >made/file; ln made/file made/hard; ln -s file made/soft; mv made/hard made/moved; mkfifo made/fifo
rm made/moved; mkdir made/less && rmdir made/less
chmod 640 made/file; chown 1:1 made/file; touch -d @86400 made/file; truncate -s 5 made/file
setfattr -n user.a -v b made/file 2>/dev/null || python3 -c 'import os; os.setxattr("made/file", "user.a", b"b")'
python3 -c 'import os; os.removexattr("made/file", "user.a")'
cat made/file >/dev/null; chattr +A made/file; chrt --other 0 ionice -c 3 true
bpftool map create /sys/fs/bpf/own type array key 4 value 4 entries 1 name own
bpftool map dump pinned /sys/fs/bpf/own >/dev/null; rm /sys/fs/bpf/own
mount -t tmpfs none made; echo y >made/inside; umount made
unshare --mount --net --pid --fork --user --map-root-user true
chroot / /bin/true
python3 - <<'END'
import os, signal, socket, subprocess, fcntl, pty
for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, "\0unmarked")):
    with socket.socket(family) as one, socket.socket(family) as other:
        one.bind(address); one.listen(1); other.connect(one.getsockname())
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.bind(("127.0.0.1", 0)); one.sendto(b"x", one.getsockname())
one, other = socket.socketpair()
null = os.open("made/file", os.O_RDWR)
socket.send_fds(one, [b"x"], [null]); socket.recv_fds(other, 1, 1)
child = subprocess.Popen(["sleep", "60"]); os.setpriority(os.PRIO_PROCESS, child.pid, 5)
child.terminate(); child.wait()
read, write = os.pipe(); got = []
signal.signal(signal.SIGIO, lambda *_: got.append(1))
fcntl.fcntl(read, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(read, fcntl.F_SETFL, fcntl.fcntl(read, fcntl.F_GETFL) | os.O_ASYNC)
os.write(write, b"x"); assert got
pty.openpty()
END
strace -f -o /dev/null sh -c 'true; true'
dmesg >/dev/null
echo fine
"""
# Emulated processors make single runs differ by much; this bound is for what would be wrong.
AT_MOST = 2.0
# The measure itself, in nanoseconds: whatever made every system call dearer would be in both.
PLAIN_AT_MOST = 3.0

CONTROL = """Package: parcel
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@example.invalid>
Description: a package with a file, a link and a script
"""
SCRIPT = "#!/bin/sh\nset -e\necho configuring parcel\ntouch /var/lib/parcel && chmod 600 /var/lib/parcel\n"


def costs():
    """What COSTS found: by kind, nanoseconds and system calls."""
    return json.loads(installed.run("/var/tmp/costs", cwd="/var/tmp").stdout)


def package():
    """A package for apt-get."""
    where = Path("/var/tmp/parcel")
    (where / "DEBIAN").mkdir(parents=True)
    (where / "DEBIAN/control").write_text(CONTROL)
    (where / "DEBIAN/postinst").write_text(SCRIPT)
    (where / "DEBIAN/postinst").chmod(0o755)
    (where / "usr/share/parcel").mkdir(parents=True)
    (where / "usr/share/parcel/file").write_text("content\n" * 1000)
    (where / "usr/share/parcel/link").symlink_to("file")
    installed.run("dpkg-deb", "--root-owner-group", "--build", where, "/var/tmp/parcel.deb")


def installs():
    """What apt-get prints when it installs the package and removes it, without how far it is."""
    said = ""
    for words in (["install", "/var/tmp/parcel.deb"], ["purge", "parcel"]):
        done = installed.run("apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", *words)
        said += done.stdout + done.stderr
        assert Path("/usr/share/parcel/file").exists() == (words[0] == "install")
    Path("/var/lib/parcel").unlink()
    return said


def hooked(place):
    """What comes of HOOKED."""
    Path(place).mkdir()
    done = installed.run("bash", "-c", HOOKED, "hooked", place)
    return done.stdout + done.stderr


def loaded():
    """The lines of bpftool's list that are about LSM programs."""
    shown = subprocess.run(["bpftool", "prog", "show"], capture_output=True, text=True, timeout=HANG, check=True).stdout
    return [line for line in shown.splitlines() if " lsm " in line]


def test_nothing_is_noticed(record_property):
    package()
    Path("/var/tmp/costs.c").write_text(COSTS)
    installed.run("gcc", "-O1", "-Wall", "-Werror", "-o", "/var/tmp/costs", "/var/tmp/costs.c")
    installs()  # once for caches and locks
    assert hooked("/var/tmp/before") == "fine\n"
    before = installs(), costs()

    installed.start()
    assert installed.status()["seal"] == "lsm", installed.status()
    sandbox = installed.launch("sh", "-c", "echo > started; sleep 100000")
    try:
        installed.wait_until((WORK / "started").exists, "the sandbox to run")
        events = installed.status()["seal_events"], installed.status()["seal_dropped"]
        assert hooked("/var/tmp/with") == "fine\n"
        with_seal = installs(), costs()
        assert (installed.status()["seal_events"], installed.status()["seal_dropped"]) == events
    finally:
        sandbox.terminate()
        sandbox.wait(HANG)

    installed.run("systemctl", "stop", DAEMON)
    installed.run("governed-mcpd", "--unload-seal")
    # The kernel frees a program when no task can be in it any more (RCU): on an emulated machine seconds after the last
    # link is gone. Before that, nothing is without it.
    installed.wait_until(lambda: not loaded(), "the kernel to free the seal's programs", 60)
    assert not Path("/sys/fs/bpf/governed-mcpd").exists()
    after = costs()
    assert with_seal[0] == before[0]
    for kind, (nanoseconds, calls) in with_seal[1].items():
        (first, without), (last, again) = before[1][kind], after[kind]
        record_property(
            f"{kind}, without, with, without again",
            f"{first:.0f}, {nanoseconds:.0f}, {last:.0f} ns; {without:.0f}, {calls:.0f}, {again:.0f} getppid",
        )
    (plain, _), (first, _), (last, _) = with_seal[1]["getppid"], before[1]["getppid"], after["getppid"]
    assert plain <= PLAIN_AT_MOST * max(first, last), f"getppid: {plain} ns with the seal, {first} and {last} without"
    for kind, (_, calls) in with_seal[1].items():
        without = max(before[1][kind][1], after[kind][1])
        assert calls <= AT_MOST * without, f"{kind}: {calls:.0f} getppid with the seal, {without:.0f} without"
