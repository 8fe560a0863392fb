"""Python programs: threads, processes, sockets, ctypes, databases, environments."""

import base64
import hashlib
import io
import zipfile

from tests.programs.stage import Stage

CTYPES = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def show(what, answer):
    print(what, answer if answer >= 0 else errno.errorcode[ctypes.get_errno()])
show("open", min(libc.open(b"file", os.O_CREAT | os.O_RDWR, 0o600), 0))
show("creat", min(libc.creat(b"other", 0o600), 0))
show("rename", libc.rename(b"other", b"third"))
show("syscall mkdir", libc.syscall(83, b"dir", 0o755))
show("again", libc.syscall(83, b"dir", 0o755))
show("missing", libc.unlink(b"missing"))
show("truncate", libc.truncate(b"file", ctypes.c_long(100)))
show("xattr", min(libc.setxattr(b"file", b"user.name", b"value", 5, 0), 0))
show("utimensat", libc.utimensat(-100, b"file", None, 0))
show("bad address", libc.open(ctypes.c_void_p(8), os.O_WRONLY))
show("bad descriptor", libc.fchmod(99, 0o600))
buffer = ctypes.create_string_buffer(4096)
page = ctypes.CDLL(None).mmap
page.restype = ctypes.c_void_p
page.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
two = page(None, 8192, 3, 0x22, -1, 0)
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.munmap(two + 4096, 4096)
ctypes.memmove(two + 4096 - 6, b"ended\\0", 6)
show("a name at the end of memory", min(libc.open(ctypes.c_void_p(two + 4090), os.O_CREAT | os.O_WRONLY, 0o600), 0))
ctypes.memmove(two + 4096 - 5, b"ended", 5)
show("a name past the end of memory", libc.open(ctypes.c_void_p(two + 4091), os.O_WRONLY))
for length in (254, 255, 256, 4095, 4096):
    show(f"{length} bytes", libc.open(b"x" * length, os.O_CREAT | os.O_WRONLY, 0o600) > 0 or -1)
print(sorted(os.listdir())[:4], os.stat("file").st_size)
"""

CONCURRENT = """
import concurrent.futures, multiprocessing, os, queue, subprocess, sys, threading
def write(n):
    for i in range(10):
        with open(f"file.{n}", "a") as f: f.write(f"{i}\\n")
    os.rename(f"file.{n}", f"done.{n}")
    return n
def in_process(n):
    return n, subprocess.run(["sh", "-c", f"echo {n}; exit {n}"], capture_output=True).returncode
if __name__ == "__main__":
    threads = [threading.Thread(target=write, args=(n,)) for n in range(16)]
    [t.start() for t in threads]; [t.join() for t in threads]
    print(len(os.listdir()))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        run = lambda n: subprocess.run([sys.executable, "-c", f"print({n})"], capture_output=True).stdout
        print(list(pool.map(run, range(8))))
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(3) as pool:
            print(method, sorted(pool.map(in_process, range(6))))
    with multiprocessing.Manager() as manager:
        shared = manager.dict()
        p = multiprocessing.Process(target=shared.update, args=({"a": 1},)); p.start(); p.join()
        print(dict(shared), p.exitcode)
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=100); block.buf[0] = 7
    other = shared_memory.SharedMemory(block.name); print(other.buf[0]); other.close(); block.close(); block.unlink()
    lock, value = multiprocessing.Lock(), multiprocessing.Value("i", 0)
    def add():
        for _ in range(100):
            with lock: value.value += 1
    ps = [multiprocessing.Process(target=add) for _ in range(3)]; [p.start() for p in ps]; [p.join() for p in ps]
    print(value.value)
    p = subprocess.Popen(["sleep", "100"]); p.terminate(); print(p.wait())
    p = subprocess.Popen(["cat"], stdin=-1, stdout=-1, start_new_session=True)
    print(p.communicate(b"x" * 300000)[0] == b"x" * 300000)
    sys.exit(4)
"""

ASYNCIO = """
import asyncio, os, signal, socket, tempfile
async def main():
    a, b = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=a)
    other_reader, other = await asyncio.open_connection(sock=b)
    writer.write(b"over a socketpair\\n"); await writer.drain()
    print(await other_reader.readline())
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    print(await process.communicate(b"to a child"))
    one = await asyncio.create_subprocess_shell("echo $((6*7)); exit 6", stdout=-1)
    print((await one.communicate())[0], one.returncode)
    print(await asyncio.to_thread(open("made", "w").write, "by a thread"))
    loop = asyncio.get_running_loop(); got = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, got.set); os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(got.wait(), 10); print("signal")
    with tempfile.NamedTemporaryFile() as f, tempfile.TemporaryDirectory() as d, tempfile.TemporaryFile() as g:
        f.write(b"x"); g.write(b"y"); open(os.path.join(d, "z"), "w").close(); print(os.listdir(d))
asyncio.run(main())
"""

SQLITE = """
import sqlite3
for mode in ("DELETE", "WAL", "TRUNCATE"):
    db = sqlite3.connect("data.db")
    print(db.execute(f"PRAGMA journal_mode={mode}").fetchone())
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b TEXT)")
        db.executemany("INSERT INTO t (b) VALUES (?)", [(str(i),) for i in range(500)])
    try:
        with db:
            db.execute("DELETE FROM t"); raise RuntimeError("rolled back")
    except RuntimeError as error:
        print(error)
    other = sqlite3.connect("data.db"); print(other.execute("SELECT count(*), max(a) FROM t").fetchone()); other.close()
    db.execute("VACUUM"); db.close()
"""


def test_ctypes(either: Stage) -> None:
    done = either.same("python3", "program.py", files={"program.py": CTYPES})
    assert "syscall mkdir 0\nagain EEXIST\nmissing ENOENT\n" in done.stdout
    assert "bad address EFAULT\nbad descriptor EBADF\na name at the end of memory 0\n" in done.stdout
    assert "a name past the end of memory EFAULT\n" in done.stdout
    assert "255 bytes True\n256 bytes ENAMETOOLONG\n4095 bytes ENAMETOOLONG\n4096 bytes ENAMETOOLONG\n" in done.stdout


def test_threads_and_processes(either: Stage) -> None:
    done = either.same("python3", "program.py", files={"program.py": CONCURRENT}, changing="pyc$")
    assert done.returncode == 4, done
    assert "spawn [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]\n" in done.stdout
    assert done.stdout.endswith("{'a': 1} 0\n7\n300\n-15\nTrue\n")


def test_asyncio(stage: Stage) -> None:
    done = stage.same("python3", "-X", "dev", "program.py", files={"program.py": ASYNCIO})
    assert done.returncode == 0, done
    assert "signal\n['z']\n" in done.stdout


def test_a_database(either: Stage) -> None:
    done = either.same("python3", "program.py", files={"program.py": SQLITE}, changing="data.db")
    assert "('wal',)\nrolled back\n(1000, 1000)\n" in done.stdout


def test_the_sqlite_shell(stage: Stage) -> None:
    script = """CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'one'), (2, 'two');
PRAGMA journal_mode=WAL; BEGIN; UPDATE t SET b = upper(b); COMMIT;
.mode csv
.output out.csv
SELECT * FROM t;
.output stdout
.import --csv --skip 0 out.csv u
SELECT count(*) FROM u; SELECT * FROM missing;
"""
    done = stage.same("sqlite3", "data.db", stdin=script, changing=r"data\.db")
    assert "wal" in done.stdout
    assert "no such table" in done.stderr


def wheel() -> bytes:
    """A pure wheel, `greeting` 1.0, with a console script."""
    files = {
        "greeting/__init__.py": "def main():\n    print('hello from a wheel')\n    return 8\n",
        "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        "greeting-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "greeting-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(text)}\n"
    files["greeting-1.0.dist-info/RECORD"] = record + "greeting-1.0.dist-info/RECORD,,\n"
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return raw.getvalue()


def test_pip_installs_a_wheel_into_an_environment(stage: Stage) -> None:
    """The environment is made inside as well."""
    script = """set -e
python3 -m venv env
env/bin/pip install --disable-pip-version-check --no-index --no-cache-dir ./greeting-1.0-py3-none-any.whl
env/bin/pip list --disable-pip-version-check --format freeze | grep greeting
env/bin/greet
"""
    done = stage.same("sh", "-c", script, files={"greeting-1.0-py3-none-any.whl": wheel()}, changing=r"\.pyc$")
    assert done.returncode == 8, done
    assert "Successfully installed greeting-1.0\ngreeting @" in done.stdout or "greeting==1.0" in done.stdout
    assert done.stdout.endswith("hello from a wheel\n")
