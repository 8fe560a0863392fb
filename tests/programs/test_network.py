"""Programs on the network: what a profile grants works, its neighbour is refused."""

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.programs.stage import Stage
from tests.support.instance import Instance


class Handler(BaseHTTPRequestHandler):
    """Says what it was asked."""

    def do_GET(self) -> None:
        self._answer(f"you asked for {self.path}\n".encode())

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"]))[::-1])

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """On every address of the loopback network, outside any sandbox."""
    one = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    one.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield one
    one.shutdown()
    one.server_close()


def test_curl_to_an_address_that_is_granted(either: Stage, server: ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    script = (
        f"curl -sS {url}/one {url}/two && curl -sS --data-binary @big {url}/three | wc -c && curl -so out {url}/four"
    )
    done = either.same("sh", "-c", script, files={"big": "x" * 500_000}, profile="loopback")
    assert done.stdout == "you asked for /one\nyou asked for /two\n500000\n"


def test_curl_to_one_that_is_not(roomy: Instance, server: ThreadingHTTPServer) -> None:
    for host, profile in (("127.0.0.2", "loopback"), ("127.0.0.1", "roomy")):
        done = roomy.run("curl", "-sS", "-m", "20", f"http://{host}:{server.server_port}/no", profile=profile)
        assert done.returncode == 7, done
        assert f"governed: refused net.connect tcp:{host}:{server.server_port} — " in done.stderr
    assert server.seen == []  # type: ignore[attr-defined]
    done = roomy.run("curl", "-sS", f"http://127.0.0.1:{server.server_port}/yes", profile="loopback")
    assert (done.returncode, done.stdout) == (0, "you asked for /yes\n")


SERVER_AND_CLIENT = """
import socket, threading, os
tcp = socket.create_server(("127.0.0.1", 0))
def serve(s):
    c, _ = s.accept()
    with c: c.sendall(c.recv(100)[::-1])
t = threading.Thread(target=serve, args=(tcp,)); t.start()
with socket.create_connection(tcp.getsockname(), 10) as c: c.sendall(b"stream"); print(c.recv(100))
t.join()
os.mkdir("sub"); os.chdir("sub")
unix = socket.socket(socket.AF_UNIX); unix.bind("../relative.sock"); unix.listen()
t = threading.Thread(target=serve, args=(unix,)); t.start()
with socket.socket(socket.AF_UNIX) as c: c.connect("../relative.sock"); c.sendall(b"unix"); print(c.recv(100))
t.join()
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.send(b"pair"); print(b.recv(10))
r, w = os.pipe(); socket.send_fds(a, [b"x"], [w])
os.write(socket.recv_fds(b, 1, 1)[1][0], b"passed"); print(os.read(r, 10))
"""


def test_own_listeners(stage: Stage) -> None:
    profile = "loopback"
    text = SERVER_AND_CLIENT
    done = stage.same("python3", "-c", text, profile=profile)
    assert done.stdout == "b'maerts'\nb'xinu'\nb'pair'\nb'passed'\n", done


NODE = """
const { Worker, isMainThread, parentPort } = require('worker_threads')
const { spawnSync, fork, execSync } = require('child_process')
const fs = require('fs')
if (!isMainThread) parentPort.on('message', n => {
  fs.writeFileSync('w' + n, 'x'); parentPort.postMessage(n * n); parentPort.close() })
else if (process.argv[2] === 'child') process.on('message', m => {
  process.send(m.toUpperCase()); process.disconnect() })
else (async () => {
  const answers = await Promise.all([1, 2, 3, 4].map(n => new Promise((yes, no) => {
    const w = new Worker(__filename); w.on('message', yes); w.on('error', no); w.postMessage(n) })))
  console.log(answers.join())
  console.log(spawnSync('sh', ['-c', 'echo spawned; exit 3']).status, execSync('cat', { input: 'in' }).toString())
  console.log(await new Promise(yes => { const c = fork(__filename, ['child'])
    c.on('message', yes); c.send('fork') }))
  await fs.promises.mkdir('a/b', { recursive: true }); await fs.promises.writeFile('a/b/c', 'text')
  await fs.promises.rename('a/b/c', 'a/d'); await fs.promises.copyFile('a/d', 'a/e')
  await fs.promises.chmod('a/e', 0o600)
  console.log((await fs.promises.readdir('a', { recursive: true })).sort().join())
  await fs.promises.rm('a', { recursive: true }); console.log(fs.existsSync('a'))
  try { fs.readFileSync('missing') } catch (e) { console.log(e.code) }
  process.exitCode = 12
})()
"""


@pytest.mark.parametrize("program", [name for name in ("node",) if shutil.which(name)])
def test_node(stage: Stage, program: str) -> None:
    done = stage.same(program, "program.js", files={"program.js": NODE})
    assert (done.returncode, done.stdout) == (12, "1,4,9,16\n3 in\nFORK\nb,d,e\nfalse\nENOENT\n"), done
