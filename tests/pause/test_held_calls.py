"""Every kind of held call, from a real process to the side effect: what it would do, and to what."""

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from governed_mcpd.kernel.notify import Held
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.pause.observation import Effects, Harmless, Impossible, Unreadable
from governed_mcpd.pause.observe import READERS
from governed_mcpd.pause.resolve import Place
from governed_mcpd.sandbox.table import held_names
from tests.pause.held import Session, Watched, watch
from tests.pause.looker import Looker, held_numbers
from tests.support.users import USER


class Guests:
    """Runs acts in a directory with a few things in it."""

    def __init__(self, looker: Looker, ground: Path) -> None:
        self.looker = looker
        self.home = ground / "own"
        for name in ("file", "sub/inner", "old"):
            (self.home / name).parent.mkdir(exist_ok=True)
            (self.home / name).write_text("x")
        (self.home / "empty").mkdir()
        (self.home / "link").symlink_to("file")
        (self.home / "dangling").symlink_to("sub/made")
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)

    def __call__(self, act: str, **more: Any) -> Watched:
        return watch(self.looker, self.home, act, user=USER, **more)

    def one(self, act: str, **more: Any) -> SideEffect:
        """The only effect of an act."""
        found = self(act, **more)
        (observation,) = [o for o in found.observations if not isinstance(o, Harmless)]
        assert isinstance(observation, Effects), (observation, found)
        (effect,) = observation.effects
        return effect


@pytest.fixture
def guests(looker: Looker, ground: Path) -> Guests:
    return Guests(looker, ground)


# act → (operation, object, second object, details that matter); names are relative to the guest's directory
FILES = {
    'call("openat", -100, b"new", os.O_CREAT | os.O_WRONLY, 0o640)': ("file.create", "new", "", {"mode": "0o640"}),
    'call("openat", -100, b"file", 1 | os.O_APPEND, 0)': ("file.write", "file", "", {"flags": "write+append"}),
    'call("openat", -100, b"link", os.O_RDWR, 0)': ("file.write", "file", "", {"flags": "read+write"}),
    'call("openat", -100, b"file", os.O_TRUNC, 0)': ("file.write", "file", "", {"flags": "read+truncate"}),
    'call("openat", -100, b"file", os.O_CREAT | os.O_RDONLY, 0)': ("file.write", "file", "", {}),
    'call("openat", -100, b"file", os.O_RDONLY, 0)': ("file.read", "file", "", {"flags": "read"}),
    'call("openat", -100, b"sub", os.O_RDONLY | os.O_DIRECTORY, 0)': ("file.read", "sub", "", {}),
    'call("openat", -100, b"dangling", os.O_CREAT | os.O_WRONLY, 0o600)': ("file.create", "sub/made", "", {}),
    'call("openat", directory, b"made", os.O_CREAT | os.O_WRONLY, 0o600)': ("file.create", "sub/made", "", {}),
    'call("openat", -100, b"/proc/self/cwd/new", os.O_CREAT | os.O_WRONLY, 0o600)': ("file.create", "new", "", {}),
    'call("openat2", -100, b"file", struct.pack("QQQ", 1, 0, 0), 24)': ("file.write", "file", "", {}),
    'call("openat2", directory, b"../file", struct.pack("QQQ", 1, 0, 4), 24)': ("file.write", "file", "", {}),
    'call("creat", b"file", 0o600)': ("file.write", "file", "", {"flags": "write+create+truncate"}),
    'call("open", b"old", os.O_WRONLY, 0)': ("file.write", "old", "", {}),
    'call("truncate", b"link", 3)': ("file.truncate", "file", "", {"size": "3"}),
    'call("unlink", b"link")': ("file.unlink", "link", "", {}),
    'call("unlinkat", directory, b"inner", 0)': ("file.unlink", "sub/inner", "", {}),
    'call("unlinkat", -100, b"empty", 0x200)': ("file.rmdir", "empty", "", {}),
    'call("rmdir", b"empty/")': ("file.rmdir", "empty", "", {}),
    'call("rename", b"file", b"sub/moved")': ("file.rename", "file", "sub/moved", {}),
    'call("renameat", directory, b"inner", -100, b"file")': ("file.rename", "sub/inner", "file", {"replaces": "yes"}),
    'call("renameat2", -100, b"file", -100, b"old", 2)': ("file.rename", "file", "old", {"flags": "0x2"}),
    'call("rename", b"link", b"link2")': ("file.rename", "link", "link2", {"moves": "symlink"}),
    'call("link", b"file", b"hard")': ("file.link", "file", "hard", {}),
    'call("linkat", -100, b"link", directory, b"hard", 0x400)': ("file.link", "file", "sub/hard", {}),
    'call("linkat", -100, b"link", directory, b"hard", 0)': ("file.link", "link", "sub/hard", {}),
    'call("symlink", b"any text/../at all", b"soft")': ("file.symlink", "soft", "any text/../at all", {}),
    'call("symlinkat", b"x", directory, b"soft")': ("file.symlink", "sub/soft", "x", {}),
    'call("mkdir", b"dir/", 0o700)': ("file.mkdir", "dir", "", {"mode": "0o700"}),
    'call("mkdirat", directory, b"dir", 0o755)': ("file.mkdir", "sub/dir", "", {}),
    'call("mknod", b"fifo", 0o010600, 0)': ("file.mknod", "fifo", "", {"mode": "0o10600"}),
    'call("mknodat", directory, b"plain", 0o100600, 0)': ("file.mknod", "sub/plain", "", {}),
    'call("chmod", b"link", 0o4755)': ("file.chmod", "file", "", {"mode": "0o4755"}),
    'call("fchmod", opened, 0o600)': ("file.chmod", "file", "", {"mode": "0o600"}),
    'call("fchmodat", directory, b"inner", 0o600)': ("file.chmod", "sub/inner", "", {}),
    'call("chown", b"link", -1, os.getgid())': ("file.chown", "file", "", {"owner": f"-1:{USER}"}),
    'call("lchown", b"link", -1, os.getgid())': ("file.chown", "link", "", {}),
    'call("fchown", opened, -1, os.getgid())': ("file.chown", "file", "", {}),
    'call("fchownat", opened, b"", -1, os.getgid(), 0x1000)': ("file.chown", "file", "", {}),
    'call("fchownat", -100, b"link", -1, os.getgid(), 0x100)': ("file.chown", "link", "", {}),
    'call("setxattr", b"link", b"user.x", b"v", 1, 0)': ("file.xattr", "file", "", {"attribute": "user.x"}),
    'call("fsetxattr", opened, b"user.x", b"v", 1, 0)': ("file.xattr", "file", "", {"attribute": "user.x"}),
    'call("lremovexattr", b"link", b"user.x")': ("file.xattr", "link", "", {"attribute": "user.x"}),
    'call("utimensat", -100, b"link", 0, 0)': ("file.times", "file", "", {}),
    'call("utimensat", -100, b"link", 0, 0x100)': ("file.times", "link", "", {}),
    'call("utimensat", opened, 0, 0, 0)': ("file.times", "file", "", {}),
    'call("utimes", b"file", 0)': ("file.times", "file", "", {}),
    'call("utime", b"file", 0)': ("file.times", "file", "", {}),
    'call("futimesat", directory, b"inner", 0)': ("file.times", "sub/inner", "", {}),
    'call("ioctl", opened, 0x40086602, ctypes.create_string_buffer(8))': (
        "file.ioctl", "file", "", {"request": "FS_IOC_SETFLAGS"}),
}  # fmt: skip
PREPARE = 'directory = os.open("sub", os.O_PATH); opened = os.open("file", os.O_RDONLY)'


@pytest.mark.parametrize("act", FILES)
def test_files(guests: Guests, act: str) -> None:
    operation, name, second, details = FILES[act]
    effect = guests.one(act, prepare=PREPARE)
    if operation in ("file.rename", "file.link"):
        second = str(guests.home / second)
    assert (effect.operation, effect.object, effect.second) == (operation, str(guests.home / name), second)
    assert {key: effect.details.get(key) for key in details} == details


# act → what the call was answered with: the kernel would have said the same, and nobody was asked
IMPOSSIBLE = {
    'call("openat", -100, b"missing/x", os.O_CREAT | os.O_WRONLY, 0)': "ENOENT",
    'call("openat", -100, b"file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0)': "EEXIST",
    'call("openat", -100, b"dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0)': "EEXIST",
    'call("openat", -100, b"link", os.O_WRONLY | os.O_NOFOLLOW, 0)': "ELOOP",
    'call("openat", -100, b"sub", os.O_WRONLY, 0)': "EISDIR",
    'call("openat", -100, b"file/x", os.O_WRONLY, 0)': "ENOTDIR",
    'call("openat", -100, 8, os.O_WRONLY, 0)': "EFAULT",
    'call("openat", -100, b"", os.O_WRONLY, 0)': "ENOENT",
    'call("openat", 77, b"x", os.O_WRONLY, 0)': "EBADF",
    'call("openat", -100, b"x" * 4096, os.O_WRONLY, 0)': "ENAMETOOLONG",
    'call("openat2", -100, b"file", struct.pack("QQQ", 1, 0, 0), 23)': "EINVAL",
    'call("openat2", -100, b"file", struct.pack("QQQ", 1 << 40, 0, 0), 24)': "EINVAL",
    'call("openat2", -100, b"file", b"x" * 5000, 5000)': "E2BIG",
    'call("openat2", directory, b"../file", struct.pack("QQQ", 1, 0, 8), 24)': "EXDEV",
    'call("unlink", b"missing")': "ENOENT",
    'call("mkdir", b"sub", 0)': "EEXIST",
    'call("symlink", b"x", b"dangling")': "EEXIST",
    'call("link", b"missing", b"x")': "ENOENT",
    'call("link", b"file", b"old")': "EEXIST",
    'call("rename", b"missing", b"x")': "ENOENT",
    'call("fchmod", 77, 0o600)': "EBADF",
    'call("truncate", b"missing", 0)': "ENOENT",
    'call("execve", b"missing", words(b"x"), words())': "ENOENT",
    'call("execve", b"file", words(b"x"), words())': "EACCES",
    'call("execve", b"sub", words(b"x"), words())': "EACCES",
    'call("kill", 999999999, 0)': "ESRCH",
    'call("tgkill", 1, 0, 0)': "EINVAL",
    'call("connect", 77, struct.pack("=H", 2) + bytes(14), 16)': "EBADF",
    'call("connect", stream, b"xx", 1)': "EINVAL",
    'call("connect", stream, struct.pack("=H", 2) + bytes(2), 4)': "EINVAL",
    'call("connect", 0, struct.pack("=H", 2) + bytes(14), 16)': "ENOTSOCK",
    'call("connect", stream, b"x" * 200, 200)': "EINVAL",
    'call("connect", local, struct.pack("=H", 1) + b"missing\\0", 10)': "ENOENT",
    'call("bind", local, struct.pack("=H", 1) + b"file\\0", 7)': "EADDRINUSE",
    'call("pidfd_send_signal", 0, 0, 0, 0)': "EBADF",
}
SOCKETS = "stream = socket.socket().detach(); local = socket.socket(socket.AF_UNIX).detach()"


@pytest.mark.parametrize("act", IMPOSSIBLE)
def test_what_the_kernel_would_refuse_itself(guests: Guests, act: str) -> None:
    found = guests(act, prepare=f"{PREPARE}; {SOCKETS}")
    (observation,) = found.observations
    assert isinstance(observation, Impossible), found
    assert errno.errorcode[observation.errno] == IMPOSSIBLE[act]
    # And it does say so, when it is left to answer. (The errno of a length that is checked first may differ.)
    assert found.answers == [IMPOSSIBLE[act]] or "EINVAL" in found.answers


UNREADABLE = {
    'call("openat", -100, b".", os.O_TMPFILE | os.O_RDWR, 0o600)': "o-tmpfile",
    'call("openat2", -100, b"file", struct.pack("QQQQ", 1, 0, 0, 1), 32)': "openat2-unknown-field",
    'call("execveat", memory, b"", words(b"x"), words(), 0x1000)': "exec-unnamed",
    'call("linkat", memory, b"", -100, b"hard", 0x1000)': "unnamed-link",
    'call("execve", b"/bin/true", words(*[b"x"] * 17000), words())': "arguments-too-many",
    'call("execve", b"/bin/true", words(b"x" * 100, b"y" * (1 << 20)), words())': "arguments-too-long",
    'call("connect", stream, struct.pack("=H", 40) + bytes(14), 16)': "address-family",
    'call("sendmmsg", stream, ctypes.create_string_buffer(65 * 64), 65, 0)': "too-many-messages",
}


@pytest.mark.parametrize("act", UNREADABLE)
def test_what_cannot_be_judged(guests: Guests, act: str) -> None:
    found = guests(act, prepare=f'{SOCKETS}; memory = os.memfd_create("code")', answer=lambda observation: 1)
    (observation,) = found.observations
    assert isinstance(observation, Unreadable), found
    assert observation.rule == UNREADABLE[act]
    assert found.answers == ["EPERM"]


HARMLESS = {
    'call("fchmod", pipe, 0o600)', 'call("utimensat", memory, 0, 0, 0)', 'call("kill", os.getpid(), 0)',
    'call("kill", 0, 0)', 'call("tgkill", os.getpid(), threading.get_native_id(), 0)',
    'call("tkill", threading.get_native_id(), 0)', 'call("pidfd_send_signal", os.pidfd_open(os.getpid()), 0, 0, 0)',
    'call("sendmsg", pair, msghdr(b""), 0)',
    'call("bind", local, struct.pack("=H", 1), 2)',
}  # fmt: skip


@pytest.mark.parametrize("act", sorted(HARMLESS))
def test_what_has_no_effect_outside(guests: Guests, act: str) -> None:
    prepare = f"""{SOCKETS}; memory = os.memfd_create("data"); pipe = os.pipe()[0]
pair = socket.socketpair()[0].detach(); datagram = socket.socket(type=socket.SOCK_DGRAM).detach()"""
    found = guests(act, prepare=prepare)
    assert all(isinstance(observation, Harmless) for observation in found.observations), found
    assert found.observations


NETWORK = {
    "tcp:127.0.0.1:9": 'call("connect", stream, inet("127.0.0.1", 9), 16)',
    "udp:10.1.2.3:53": 'call("sendto", dgram, b"x", 1, 0, inet("10.1.2.3", 53), 16)',
    "tcp:[::1]:80": 'call("connect", six, inet6("::1", 80), 28)',
    "tcp:10.0.0.1:80": 'call("connect", six, inet6("::ffff:10.0.0.1", 80), 28)',
    "udp:10.9.9.9:7": 'call("sendmsg", dgram, msghdr(inet("10.9.9.9", 7)), 0)',
    "udp:10.8.8.8:7": 'call("sendto", dgram, b"x", 1, 0, bytes(2) + inet("10.8.8.8", 7)[2:], 16)',
    "unix:@abstract\0name": 'call("connect", local, struct.pack("=H", 1) + b"\\0abstract\\0name", 16)',
    "unix:HOME/sock": 'call("bind", local, struct.pack("=H", 1) + b"sub/../sock\\0", 14)',
    "unix:HOME/bound": 'call("connect", local, struct.pack("=H", 1) + b"/proc/self/cwd/soft\\0", 22)',
}
SIX = "six = socket.socket(socket.AF_INET6).detach(); dgram = socket.socket(type=socket.SOCK_DGRAM).detach()"


@pytest.mark.parametrize("name", NETWORK)
def test_addresses(guests: Guests, name: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(guests.home / "bound"))
        (guests.home / "soft").symlink_to("bound")
        effect = guests.one(NETWORK[name], prepare=f"{SOCKETS}; {SIX}", answer=lambda observation: 111)
    assert effect.object == name.replace("HOME", str(guests.home))


def test_dns_says_where_it_goes(guests: Guests) -> None:
    """Only what looks up names is asked about."""
    led = guests.one(NETWORK["udp:10.1.2.3:53"], prepare=f"{SOCKETS}; {SIX}", answer=lambda observation: 111)
    assert led.details == {"dns": "to socket"}
    other = guests.one(NETWORK["udp:10.9.9.9:7"], prepare=f"{SOCKETS}; {SIX}", answer=lambda observation: 111)
    assert other.details == {}


@pytest.mark.parametrize("port", [0, 9, 65535])
def test_libc_asking_for_its_own_address_is_told_that_there_is_no_way(guests: Guests, port: int) -> None:
    found = guests(f'call("connect", dgram, inet("10.1.2.3", {port}), 16)', prepare=f"{SOCKETS}; {SIX}")
    assert found.observations == [Impossible(errno.ENETUNREACH)]


def test_listening_says_where(guests: Guests) -> None:
    act = """
s = socket.socket(); s.bind(("127.0.0.1", 0)); call("listen", s.fileno(), 1); answers.append(s.getsockname()[1])
u = socket.socket(socket.AF_UNIX); u.bind("here"); os.chdir("sub"); call("listen", u.fileno(), 1)
a = socket.socket(socket.AF_UNIX); a.bind("\\0abstract"); call("listen", a.fileno(), 1)
"""
    found = guests(act)
    port = found.answers[1]
    listens = [effect for effect in found.effects if effect[0] == "net.listen"]
    objects = [f"tcp:127.0.0.1:{port}", f"unix:{guests.home}/here", "unix:@abstract"]
    assert [effect[1] for effect in listens] == objects


def test_several_messages_go_to_several_places(guests: Guests) -> None:
    act = """
messages = b"".join(msghdr(inet(host, 7)) + bytes(8) for host in ("10.0.0.1", "10.0.0.2", "10.0.0.1"))
call("sendmmsg", dgram, ctypes.create_string_buffer(messages, 192), 3, 0)
"""
    found = guests(act, prepare=SIX, answer=lambda observation: 1)
    assert [effect[1] for effect in found.effects] == ["udp:10.0.0.1:7", "udp:10.0.0.2:7"]


def test_execve_shows_arguments_and_what_changes_the_loading(guests: Guests) -> None:
    act = 'call("execve", b"/usr/bin/../bin/true", words(b"name", b"\\xff", b""), words(b"LD_PRELOAD=x.so", b"A=b"))'
    effect = guests.one(act, answer=lambda observation: 1)
    assert (effect.operation, effect.object) == ("process.exec", "/usr/bin/true")
    assert effect.argv == ("name", "\udcff", "")
    assert dict(effect.details) == {"env.LD_PRELOAD": "x.so"}
    assert guests.one('call("execve", b"/bin/true", 0, 0)', answer=lambda observation: 1).argv == ()


def test_signals_to_outside_name_the_process(guests: Guests) -> None:
    for act in ('call("kill", OUT, 0)', 'call("tgkill", OUT, OUT, 0)', 'call("kill", -GROUP, 0)'):
        text = act.replace("OUT", str(os.getpid())).replace("GROUP", str(os.getpgrp()))
        effect = guests.one(text, answer=lambda observation: 1)
        assert effect.operation == "process.signal"
        if "GROUP" not in act:
            assert effect.object == f"process:{os.getpid()}"
    assert guests.one('call("kill", -1, 0)', answer=lambda observation: 1).object == "process:-1"


# ---- the memory that arguments lie in


def test_a_name_across_the_end_of_a_page(guests: Guests) -> None:
    for before in (1, 5, 10):
        act = f"""
start = pages(2); name = b"{guests.home}/file\\0"
ctypes.memmove(start + 4096 - {before}, name, len(name)); call("open", start + 4096 - {before}, 1, 0)
"""
        assert guests.one(act).object == str(guests.home / "file")


def test_a_name_at_the_end_of_memory(guests: Guests) -> None:
    ends = 'start = pages(1); ctypes.memmove(start + 4091, b"file\\0", 5); call("open", start + 4091, 1, 0)'
    assert guests.one(ends).object == str(guests.home / "file")
    past = 'start = pages(1); ctypes.memmove(start + 4092, b"file", 4); call("open", start + 4092, 1, 0)'
    found = guests(past)
    assert found.observations == [Impossible(14)]
    assert found.answers == ["EFAULT"]


def test_names_of_4095_and_4096_bytes(guests: Guests) -> None:
    for length, answer in ((4095, None), (4096, "ENAMETOOLONG")):
        slashes = length - len(str(guests.home)) - len("file")
        act = (
            f"name = b'{guests.home}' + b'/' * {slashes} + b'file'; answers.append(len(name)); call('open', name, 1, 0)"
        )
        found = guests(act)
        assert found.answers[0] == length
        if answer is None:
            assert found.effects == [("file.write", str(guests.home / "file"), "")]
        else:
            assert found.answers[1] == answer


def test_pointers_of_argv_across_a_page_and_unmapped(guests: Guests) -> None:
    act = """
start = pages(2)
text = ctypes.create_string_buffer(b"word"); kept.append(text)
at = start + 4096 - 12
ctypes.memmove(at, struct.pack("QQQ", ctypes.addressof(text), ctypes.addressof(text), 0), 24)
call("execve", b"/bin/true", at, 0)
"""
    assert guests.one(act, answer=lambda observation: 1).argv == ("word", "word")
    hole = act.replace("start + 4096 - 12", "start + 8192 - 16").replace("QQQ", "QQ").replace(", 0), 24)", "), 16)")
    assert guests(hole).observations == [Impossible(14)]


def test_a_thread_that_is_gone_meanwhile_is_no_error(looker: Looker) -> None:
    """Whatever is in the registers, looking at a thread that died answers, and raises nothing."""
    for number, name in held_numbers().items():
        for register in (0, 1, 4096, (1 << 64) - 1):
            held = Held(1, 4_194_305, number, (register,) * 6)
            found = looker(lambda held=held: looker.observer.observe(held, Place(held.tid, None, None), Session(1)))
            assert isinstance(found, Unreadable | Impossible | Harmless | Effects), name


def test_somebody_reads_every_held_call() -> None:
    assert held_names() <= READERS.keys()


BURDENS = {
    'call("prlimit64", PID, 0, words(), 0)', 'call("sched_setaffinity", PID, 8, ctypes.create_string_buffer(8))',
    'call("setpriority", 0, PID, 0)', 'call("sched_setscheduler", PID, 0, ctypes.create_string_buffer(8))',
}  # fmt: skip


@pytest.mark.parametrize("act", sorted(BURDENS))
def test_what_burdens_another_process(guests: Guests, act: str) -> None:
    inside = guests(act.replace("PID", "os.getpid()"), answer=lambda observation: 1)
    assert [type(observation) for observation in inside.observations] == [Harmless]
    outside = guests(act.replace("PID", str(os.getpid())), answer=lambda observation: 1)
    assert not any(isinstance(observation, Harmless) for observation in outside.observations)
    assert outside.observations
