"""Real programs look up names: what is allowed is found, what is refused is refused at once, and all of it is
recorded."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.names.upstream import Upstream
from tests.support.instance import Done, Instance

REFUSED = "metadata.google.internal"  # by the constitution, whoever asks
SECONDS = 4.0  # glibc tries a server that does not answer for five

GETADDRINFO = r"""
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
  struct addrinfo *found, hints = {.ai_socktype = SOCK_STREAM};
  char text[64];
  int error = getaddrinfo(argv[1], "80", &hints, &found);
  if (error) { printf("%s\n", gai_strerror(error)); return 3; }
  for (; found; found = found->ai_next) {
    void *address = found->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr
                                                : (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr;
    puts(inet_ntop(found->ai_family, address, text, sizeof text));
  }
  return 0;
}
"""
NODE = """
const dns = require('dns')
dns.lookup(process.argv[1], { all: true }, (error, found) => {
  console.log(error ? error.code : found.map(one => one.address).join())
  dns.resolve4(process.argv[1], (error, found) => console.log(error ? error.code : found.join()))
})
"""
PYTHON = """
import socket, sys
try: print(sorted({one[4][0] for one in socket.getaddrinfo(sys.argv[1], 80)}))
except OSError as error: print(error)
"""


@pytest.fixture(scope="module", params=["glibc", "musl"])
def resolving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, named: Instance) -> str:
    """A program that calls getaddrinfo(3) of one libc; the second is linked statically, and knows no nsswitch."""
    directory = tmp_path_factory.mktemp("resolving")
    (directory / "program.c").write_text(GETADDRINFO)
    compiler = ["gcc"] if request.param == "glibc" else ["musl-gcc", "-static"]
    program = named.work / f"resolving-{request.param}"
    subprocess.run([*compiler, "-o", str(program), str(directory / "program.c")], check=True)
    program.chmod(0o755)
    return str(program)


def quick(named: Instance, *argv: str, seconds: float = SECONDS) -> Done:
    """Runs it in a sandbox, and asserts that it had not to wait until it gave up."""
    begun = time.monotonic()
    done = named.run(*argv, profile="names")
    assert time.monotonic() - begun < seconds, done
    return done


def test_getaddrinfo(named: Instance, resolving: str) -> None:
    done = quick(named, resolving, "page.test")
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["127.0.0.1", "::1"]), done
    done = quick(named, resolving, "missing.test")
    assert done.returncode == 3, done
    # musl takes REFUSED for no answer (src/network/res_msend.c), and gives up after five seconds.
    done = quick(named, resolving, REFUSED, seconds=8.0 if "musl" in resolving else SECONDS)
    assert done.returncode == 3, done
    assert f"governed: refused net.resolve name:{REFUSED} — constitution/no-metadata-names" in done.stderr


def test_dig_over_both_protocols(named: Instance, upstream: Upstream) -> None:
    for protocol in ("+notcp", "+tcp"):
        done = quick(named, "dig", protocol, "+time=3", "@192.0.2.53", "page.test", "AAAA")
        assert "status: NOERROR" in done.stdout, done
        assert "page.test.\t\t60\tIN\tAAAA\t::1" in done.stdout
        assert "SERVER: 192.0.2.53#53" in done.stdout  # what it asked, as it sees it
        done = quick(named, "dig", protocol, "+time=3", "@192.0.2.53", REFUSED)
        assert "status: REFUSED" in done.stdout, done
        assert "EDE: 15 (Blocked): (governed-mcpd)" in done.stdout
    done = quick(named, "dig", "+time=3", "@2001:db8::53", "www.alias.test")
    assert "www.alias.test.\t\t60\tIN\tCNAME\tcdn.alias.test." in done.stdout, done
    assert "cdn.alias.test.\t\t60\tIN\tA\t127.0.0.1" in done.stdout
    assert REFUSED not in upstream.names()


def test_an_answer_that_fits_no_datagram(named: Instance) -> None:
    """It says so, and the program comes again over TCP, which is led to the same place."""
    done = quick(named, "dig", "+time=3", "+bufsize=1232", "@192.0.2.53", "many.test", "TXT")
    assert "retrying in TCP mode" in done.stdout, done
    assert done.stdout.count("\tTXT\t") == 20


def test_busybox(named: Instance) -> None:
    done = quick(named, "busybox", "nslookup", "page.test", "192.0.2.53")
    assert "Address: 127.0.0.1" in done.stdout.replace("Address 1:", "Address:"), done
    done = quick(named, "busybox", "nslookup", REFUSED, "192.0.2.53")
    assert done.returncode != 0, done


@pytest.mark.parametrize("node", [name for name in ("node",) if shutil.which(name)])
def test_node(named: Instance, node: str) -> None:
    done = quick(named, node, "-e", NODE, "page.test")
    first, second = done.stdout.split()
    assert (set(first.split(",")), second) == ({"127.0.0.1", "::1"}, "127.0.0.1"), done
    done = quick(named, node, "-e", NODE, REFUSED)
    assert done.stdout.split()[1] == "EREFUSED", done


def test_python(named: Instance) -> None:
    assert quick(named, "python3", "-c", PYTHON, "www.alias.test").stdout == "['127.0.0.1']\n"


class Page(BaseHTTPRequestHandler):
    """Says which host it was asked as."""

    def do_GET(self) -> None:
        body = f"hello from {self.headers['Host']}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[int]:
    """The port of a web server on 127.0.0.1."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_curl_connects_by_name_and_the_record_says_so(named: Instance, page: int) -> None:
    done = quick(named, "curl", "-4", "-sS", f"http://page.test:{page}/")
    assert (done.returncode, done.stdout) == (0, f"hello from page.test:{page}\n"), done
    records = [r for r in named.journal() if r.get("object") == f"tcp:page.test:{page}"]
    assert [(r["operation"], r["decision"], r["details"]["address"]) for r in records] == [
        ("net.connect", "allow", "127.0.0.1")
    ]
    shown = named.ctl("journal", "show", str(records[0]["seq"])).stdout
    assert "127.0.0.1" in shown
    tail = named.ctl("journal", "tail", "-n", "400").stdout
    assert f"net.connect tcp:page.test:{page} (127.0.0.1)" in tail
    done = quick(named, "curl", "-sS", "http://" + REFUSED)
    assert done.returncode == 6, done  # CURLE_COULDNT_RESOLVE_HOST


def test_an_address_that_nobody_looked_up(named: Instance, page: int) -> None:
    done = quick(named, "curl", "-sS", f"http://127.0.0.1:{page}/")
    assert done.returncode == 0, done
    record = next(r for r in named.journal() if r.get("object") == f"tcp:127.0.0.1:{page}")
    assert record["details"] == {"unresolved": "yes"}


def test_each_lookup_has_a_record_and_its_answer(named: Instance) -> None:
    done = named.run("getent", "ahostsv4", "www.alias.test", profile="names")
    assert done.returncode == 0, done
    sandbox = named.journal()[-1]["sandbox"]
    records = named.journal(sandbox)
    lookup = next(r for r in records if r.get("object") == "name:www.alias.test")
    answer = next(r for r in records if r["kind"] == "name.answer")
    assert (lookup["operation"], lookup["decision"], lookup["rule"]) == ("net.resolve", "allow", "free")
    assert answer["first_seq"] == lookup["seq"]
    assert (answer["addresses"], answer["aliases"]) == (["127.0.0.1"], ["cdn.alias.test"])
    assert named.ctl("journal", "verify", "--state-dir", str(named.state_dir)).returncode == 0


def test_a_person_is_asked_and_the_program_waits(named: Instance, upstream: Upstream) -> None:
    program = named.spawn("getent", "ahostsv4", "asked.test", profile="names")

    def waiting() -> str | None:
        lines = named.ctl("approvals", "list").stdout.splitlines()
        return next((line.split()[0] for line in lines if "name:asked.test" in line), None)

    approval = named.wait_until(waiting, "the question")
    assert "asked.test" not in upstream.names()
    assert named.ctl("approvals", "approve", approval).returncode == 0
    out, _ = program.communicate(timeout=20)
    assert b"127.0.0.1" in out
    record = next(r for r in named.journal() if r.get("object") == "name:asked.test" and r["kind"] == "effect")
    assert (record["layer"], record["decision"], record["approved_by"]) == ("person", "allow", "uid 0")


def test_an_approval_is_there_for_the_next_attempt(named: Instance, upstream: Upstream) -> None:
    """A program gives up before a person has answered; nobody is asked again when it comes again."""
    twice = "timeout 1 getent ahostsv4 later.test; read _; exec getent ahostsv4 later.test"
    program = named.spawn("sh", "-c", twice, profile="names")

    def find() -> str | None:
        return next((a for a in named.ctl("approvals", "list").stdout.splitlines() if "later.test" in a), None)

    found = named.wait_until(find, "the question")
    time.sleep(1.5)  # the first attempt is over
    assert named.ctl("approvals", "approve", found.split()[0]).returncode == 0
    out, _ = program.communicate(b"\n", timeout=20)
    assert b"127.0.0.1" in out
    records = [r for r in named.journal() if r.get("object") == "name:later.test" and r["kind"] == "effect"]
    assert {(r["layer"], r["decision"], r["approved_by"]) for r in records} == {("person", "allow", "uid 0")}
    assert len(records) >= 2


def test_a_person_says_no(named: Instance, upstream: Upstream) -> None:
    program = named.spawn("getent", "ahostsv4", "denied.test", profile="names")
    found = named.wait_until(
        lambda: next((a for a in named.ctl("approvals", "list").stdout.splitlines() if "denied.test" in a), None),
        "the question",
    )
    begun = time.monotonic()
    assert named.ctl("approvals", "deny", found.split()[0]).returncode == 0
    assert program.wait(20) == 2
    assert time.monotonic() - begun < SECONDS
    assert "denied.test" not in upstream.names()


def test_a_name_of_the_task_needs_nobody(named: Instance, upstream: Upstream) -> None:
    named.run("getent", "ahostsv4", "docs.spoken.test", profile="roomy", task="Read docs.spoken.test and sum it up")
    record = next(r for r in named.journal() if r.get("object") == "name:docs.spoken.test")
    assert (record["decision"], record["layer"]) == ("allow", "constitution"), record
    assert "docs.spoken.test" in upstream.names()


def test_what_is_written_where_the_programs_are() -> None:
    """Their names come from Debian, as the Makefile has them."""
    makefile = Path(__file__).resolve().parents[2] / "Makefile"
    assert {"bind9-dnsutils", "busybox-static", "musl-tools"} <= set(makefile.read_text().split())
