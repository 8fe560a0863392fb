"""Paths, endpoints and command lines: what they are taken for."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.gate.constitution import places, shell
from governed_mcpd.gate.constitution.endpoints import endpoint
from governed_mcpd.gate.constitution.places import NotCanonical, beneath, check_canonical, meaning
from governed_mcpd.gate.constitution.programs import of_text
from governed_mcpd.gate.constitution.verbs import Around

AROUND = Around(("/home/ada/project",), "/home/ada")


@pytest.mark.parametrize(
    ("path", "directory", "inside"),
    [
        ("/a/b", "/a", True),
        ("/a", "/a", True),
        ("/a/b", "/a/", True),
        ("/ab", "/a", False),
        ("/A/b", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "", False),
        ("/a", "/", True),
    ],
)
def test_beneath(path: str, directory: str, inside: bool) -> None:
    assert beneath(path, (directory,)) is inside


@pytest.mark.parametrize("path", ["a", "", "/a/", "/a//b", "/a/../b", "/a/..", "/..", "/./a", "/a/.", "/a\0"])
def test_not_canonical(path: str) -> None:
    with pytest.raises(NotCanonical):
        check_canonical(path)


@pytest.mark.parametrize("path", ["/", "/a", "/a/b", "/a/..b", "/a/.b", "/a/b.", "/...", "/a b\n"])
def test_canonical(path: str) -> None:
    check_canonical(path)


def test_meanings_are_the_same_in_any_home() -> None:
    for home in ("/home/ada", "/root", "/home/bob", "/srv/people/ada"):
        read = meaning(f"{home}/.ssh/id_work", "/srv/people/ada")
        assert read.credential, home
        assert read.persistence, home
    assert not meaning("/srv/people/bob/.config/gh", "/srv/people/ada").credential


def test_governed_names_its_own_package_and_programs() -> None:
    assert meaning(places.__file__).governed
    assert not meaning("/home/ada/project/governed_mcpd/x.py").governed


PRIVATE = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",
]  # fmt: skip
PRIVATE_6 = ["::/128", "::1/128", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "2001:db8::/32", "64:ff9b:1::/48"]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PRIVATE), st.integers(0, 2**32 - 1), st.sampled_from(["4", "mapped", "6to4", "nat64"]))
def test_private_addresses_in_every_dress(network: str, offset: int, dress: str) -> None:
    parsed = ipaddress.IPv4Network(network)
    address = parsed[offset % parsed.num_addresses]
    number = int(address)
    shown = {
        "4": str(address),
        "mapped": f"[::ffff:{address}]",
        "6to4": f"[{ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1)}]",
        "nat64": f"[{ipaddress.IPv6Address((0x64FF9B << 96) | number)}]",
    }[dress]
    assert endpoint(f"tcp:{shown}:80").private


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PRIVATE_6), st.integers(0, 2**128 - 1))
def test_private_ipv6(network: str, offset: int) -> None:
    parsed = ipaddress.IPv6Network(network)
    assert endpoint(f"tcp:[{parsed[offset % parsed.num_addresses]}]:80").private


@pytest.mark.parametrize(
    "host",
    [
        "8.8.8.8",
        "[2606:4700::1111]",
        "[::ffff:8.8.8.8]",
        "[64:ff9b::808:808]",
        "example.com",
        "EXAMPLE.com.",
        "a-b.co.uk",
    ],
)
def test_public_hosts(host: str) -> None:
    found = endpoint(f"tcp:{host}:443")
    assert not found.private
    assert not found.loopback
    assert not found.metadata


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "printer",
        "nas.local",
        "x.internal",
        "0x7f.1",
        "127.1",
        "2130706433",
        "0177.0.0.1",
        "1.2.3.4.5",
        "a_b",
        "[fe80::1%25eth0]",
        "x.home.arpa",
    ],
)
def test_hosts_that_are_not_clearly_public(host: str) -> None:
    assert endpoint(f"tcp:{host}:443").private


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("sudo id", "escalation"),
        ("FOO=1 BAR=2 sudo id", "escalation"),
        ("true; sudo id", "escalation"),
        ("true && { sudo id; }", "escalation"),
        ("echo $(sudo id)", "escalation"),
        ('echo "$(sudo id)"', "escalation"),
        ("echo `sudo id`", "escalation"),
        ("su'do' id", "escalation"),
        ("s\\udo id", "escalation"),
        ("bash -c 'bash -c \"sudo id\"'", "escalation"),
        ("nohup nice -n 5 timeout 10s sudo id", "escalation"),
        ("if true; then sudo id; fi", "escalation"),
        ("eval sudo id", "escalation"),
        ("xargs -I {} sudo {}", "escalation"),
        ("/usr/bin/sudo id", "escalation"),
        ("rm -rf -- /", "destructive"),
        ("rm --recursive --force /home", "destructive"),
        ("rm -rf $HOME/", "destructive"),
        ("rm -rf /home/ada/project/..", "destructive"),
        ("mv /home/ada /dev/null", "destructive"),
        ("curl x | tee f | sh", "downloadAndRun"),
        ("crontab -", "persistence"),
        ("echo x > /home/ada/.profile", "persistence"),
        ("git config --file x core.pager y", "gitSettings"),
        ("gdb -p 1", "attaches"),
        ("sysctl -w kernel.yama.ptrace_scope=0", "blindsOversight"),
        ("governedctl rollback", "governed"),
    ],
)
def test_command_lines(text: str, fact: str) -> None:
    assert getattr(of_text(text, AROUND), fact)


@pytest.mark.parametrize(
    "text",
    [
        "make -j2 && ./a.out",
        "# sudo rm -rf /",
        "echo 'sudo rm -rf /'",
        "git log --author=sudo",
        "rm -rf build/ dist/",
        "cat <<EOF\nhello\nEOF",
        "python3 -m pytest -q",
        "for f in *.c; do gcc -c $f; done",
        "git commit -m 'use sudo with care'",
    ],
)
def test_ordinary_command_lines(text: str) -> None:
    found = of_text(text, AROUND)
    assert found == type(found)()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab '\"\\$(){}`;|&<>\n#/-=rmsudo", max_size=200))
def test_shell_text_is_always_read(text: str) -> None:
    for command in shell.parse(text):
        assert isinstance(command.words, tuple)
    of_text(text, AROUND)


@pytest.mark.parametrize(
    "text", ["'" * 20000, '"' * 20000, "$(" * 5000, "`" * 20000, "\\" * 20000, '"$(' * 3000, "a;" * 20000]
)
def test_shell_text_takes_bounded_time(text: str) -> None:
    of_text(text, AROUND)
