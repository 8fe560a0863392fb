"""Ways to look up names, or to get data out through names, past the resolver: each tried from inside a sandbox, beside
the allowed way, which works."""

import socket
import subprocess
import time

import pytest

from tests.names.conftest import POLICIES
from tests.names.upstream import Upstream
from tests.support.instance import Instance
from tests.support.users import RESOLVER, USER, identity

# Asks over a socket that it is given, and says what came back.
ASK = """
import socket, sys, os
def query(name, kind=1, flags=0x0100, extra=b'', count=0):
    labels = b''.join(bytes([len(part)]) + part for part in name.split(b'.')) + b'\\0'
    return (b'\\x12\\x34' + flags.to_bytes(2, 'big') + b'\\0\\1\\0\\0\\0\\0' + count.to_bytes(2, 'big') + labels
            + kind.to_bytes(2, 'big') + b'\\0\\1' + extra)
def ask(wire, to=('192.0.2.53', 53), one=None):
    one = one or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(5)
    try:
        one.sendto(wire, to)
        answer, sender = one.recvfrom(4096)
    except OSError as error:
        return type(error).__name__ + ' ' + str(error.errno)
    return f'rcode {answer[3] & 15} from {sender[0]}:{sender[1]}'
"""


def run(named: Instance, text: str, *words: str, profile: str = "names") -> str:
    done = named.run("python3", "-c", ASK + text, *words, profile=profile, quiet=True)
    assert done.returncode == 0, done
    return done.stdout


def test_a_plain_question(named: Instance) -> None:
    assert run(named, "print(ask(query(b'page.test')))") == "rcode 0 from 192.0.2.53:53\n"


def test_what_else_a_question_could_carry_does_not_leave(named: Instance, upstream: Upstream) -> None:
    """Options, flags and the case of letters reach nobody; a type that no program asks for is refused."""
    del upstream.raw[:]
    option = b"\\0\\0\\x29\\x04\\xd0\\0\\0\\0\\0\\0\\x0a\\xff\\x01\\0\\x06secret"
    text = f"print(ask(query(b'pAgE.TeSt', flags=0x0170, extra=b'{option.decode()}', count=1)))"
    assert run(named, text) == "rcode 0 from 192.0.2.53:53\n"
    assert len(upstream.raw) == 1
    assert b"secret" not in upstream.raw[0]
    assert b"\4page\4test\0" in upstream.raw[0]
    assert upstream.raw[0][2:4] == b"\1\0"
    assert run(named, "print(ask(query(b'page.test', kind=65280)))") == "rcode 5 from 192.0.2.53:53\n"
    assert run(named, "print(ask(query(b'page.test') + b'trailing secret'))") == "rcode 1 from 192.0.2.53:53\n"
    assert run(named, "print(ask(query(b'a\\xffb.page.test')))") == "rcode 5 from 192.0.2.53:53\n"
    assert len(upstream.raw) == 1


@pytest.mark.parametrize("port", [853, 5353, 5355])
def test_other_protocols_for_names(named: Instance, port: int) -> None:
    out = run(named, f"print(ask(query(b'page.test'), ('192.0.2.53', {port})))")
    assert out == "PermissionError 1\n"
    record = next(r for r in named.journal() if r.get("object") == f"udp:192.0.2.53:{port}")
    assert (record["decision"], record["rule"]) == ("deny", "dns-elsewhere")


def test_a_socket_from_outside(named: Instance) -> None:
    """Which programs run is up to the cgroup that a socket was made in: this one is led nowhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
        text = "print(ask(query(b'page.test'), one=socket.socket(fileno=0)), ask(query(b'page.test')))"
        done = subprocess.run(
            named.command("run", "--quiet", "--profile", "names", "--", "python3", "-c", ASK + text),
            stdin=foreign.fileno(),
            capture_output=True,
            text=True,
            env=named.environment(USER),
            cwd=named.work,
            timeout=60,
            check=False,
            **identity(USER),
        )
    assert done.stdout == "PermissionError 1 rcode 0 from 192.0.2.53:53\n", done
    record = next(r for r in named.journal() if "made outside" in r.get("reason", ""))
    assert (record["decision"], record["rule"]) == ("deny", "dns-elsewhere")


def resolver_ports() -> set[int]:
    """The UDP ports of the resolver's user on 127.0.0.1, as /proc/net/udp has them."""
    with open("/proc/net/udp", encoding="ascii") as file:
        rows = [line.split() for line in file][1:]
    return {
        int(row[1].partition(":")[2], 16) for row in rows if row[7] == str(RESOLVER) and row[1].startswith("0100007F:")
    }


def test_one_subject_does_not_ask_in_anothers_name(named: Instance) -> None:
    """The profile lets it send anywhere on 127.0.0.1; the ports of other Subjects are refused by the kernel."""
    before = resolver_ports()
    other = named.spawn("sleep", "30", profile="names")
    named.wait_until(lambda: resolver_ports() - before or None, "the other's port")
    (port,) = resolver_ports() - before
    text = f"print(ask(query(b'page.test'), ('127.0.0.1', {port})), ask(query(b'page.test')))"
    done = run(named, text, profile="sending")
    assert done == "PermissionError 1 rcode 0 from 192.0.2.53:53\n"
    allowed = [r for r in named.journal() if r.get("object") == f"udp:127.0.0.1:{port}"]
    assert [r["decision"] for r in allowed] == ["allow"]  # so that it was the kernel
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        outside.settimeout(5)
        outside.sendto(
            bytes.fromhex("12340100000100000000000004706167650474657374000001") + b"\0\1", ("127.0.0.1", port)
        )
        assert outside.recv(512)[:2] == b"\x12\x34"  # the port does answer
    other.kill()


def test_what_one_sandbox_looked_up_says_nothing_in_another(named: Instance) -> None:
    connect = "import socket\ns = socket.socket()\ntry: s.connect(('127.0.0.1', 9999))\nexcept OSError: pass\n"
    lookup = "import socket; print(socket.gethostbyname('page.test'))\n"
    for text, spoken in ((lookup + connect, "tcp:page.test:9999"), (connect, "tcp:127.0.0.1:9999")):
        done = named.run("python3", "-c", text, profile="names", quiet=True)
        assert done.returncode == 0, done
        last = [r for r in named.journal() if r.get("operation") == "net.connect" and "9999" in r["object"]][-1]
        assert last["object"] == spoken


def test_the_resolvers_own_socket(named: Instance) -> None:
    text = f"""
s = socket.socket(socket.AF_UNIX)
try: s.connect('{named.runtime_dir}/resolver/resolver.sock')
except OSError as error: print(type(error).__name__)
"""
    assert run(named, text) == "PermissionError\n"


def test_a_child_subject_asks_for_itself(named: Instance) -> None:
    """It has a port and a memory of its own, and its own profile."""
    nested = named.command("run", "--quiet", "--profile", "names", "--", "getent", "ahostsv4", "page.test")
    done = named.run(*nested, profile="names", quiet=True)
    assert (done.returncode, "127.0.0.1" in done.stdout) == (0, True), done
    record = [r for r in named.journal() if r.get("object") == "name:page.test"][-1]
    assert record["subject"]["parent"], record


def test_without_a_resolver_dns_is_refused_and_comes_back(upstream: Upstream) -> None:
    with Instance(policies=POLICIES, upstreams=upstream.configured) as instance:
        program = instance.spawn(
            "python3", "-c", ASK + "for _ in sys.stdin: print(ask(query(b'page.test')), flush=True)", profile="names"
        )
        assert program.stdin is not None
        assert program.stdout is not None

        def asked() -> bytes:
            program.stdin.write(b"\n")
            program.stdin.flush()
            return program.stdout.readline()

        assert asked() == b"rcode 0 from 192.0.2.53:53\n"
        instance.kill_resolver()
        instance.wait_until(lambda: instance.status().names_reason or None, "the daemon to notice")
        begun = time.monotonic()
        assert asked() == b"PermissionError 1\n"
        assert time.monotonic() - begun < 2.0
        record = [r for r in instance.journal() if r.get("rule") == "dns-elsewhere"][-1]
        assert "governed-resolver" in record["reason"]
        instance.start_resolver()
        instance.wait_for_names()
        instance.wait_until(lambda: asked() == b"rcode 0 from 192.0.2.53:53\n" or None, "names again")
        program.stdin.close()
        assert program.wait(20) == 0


def test_an_instance_that_never_had_one(upstream: Upstream) -> None:
    with Instance(policies=POLICIES) as instance:
        assert "governed-resolver" in instance.status().names_reason
        assert run(instance, "print(ask(query(b'page.test')))") == "PermissionError 1\n"
        assert "names" in instance.ctl("status").stdout
