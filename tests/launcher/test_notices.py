"""Lines about refusals: for a person, and harmless to the terminal."""

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governed_mcpd.launcher import notices, protocol
from governed_mcpd.launcher.protocol import Notice


def notice(**fields: object) -> Notice:
    given: dict[str, object] = {
        "kind": protocol.REFUSED,
        "operation": "file.write",
        "object": b"/home/u/.bashrc",
        "layer": "constitution",
        "rule": "no-persistence",
        "reason": "shell profiles run at every login",
        "approval": "",
        "record": 42,
    }
    return Notice(**{**given, **fields})  # type: ignore[arg-type]


def test_a_refusal_names_rule_reason_record_and_how_to_ask() -> None:
    line = notices.line(notice())
    assert line is not None
    assert line.startswith("governed: refused file.write /home/u/.bashrc — constitution/no-persistence: shell profiles")
    assert "governedctl journal show 42" in line


def test_waiting_names_the_approval() -> None:
    line = notices.line(notice(kind=protocol.WAITING, approval="7f3a"))
    assert line is not None
    assert "governedctl approvals approve 7f3a" in line


def test_what_is_outside_the_envelope_cannot_be_approved() -> None:
    line = notices.line(notice(layer="envelope", rule="envelope"))
    assert line is not None
    assert "profile" in line
    assert "approvals" not in line


@pytest.mark.parametrize("kind", [protocol.SUPERVISED, protocol.ENDED, 0, 99])
def test_other_notices_are_not_printed(kind: int) -> None:
    assert notices.line(notice(kind=kind)) is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"/a\x1b]0;title\x07", "/a\\x1b]0;title\\x07"),
        (b"/a\ngoverned: allowed", "/a\\x0agoverned: allowed"),
        (b"/a\r/b", "/a\\x0d/b"),
        (b"/\x9b31m", "/\\x9b31m"),
        ("/\u009b31m".encode(), "/\\x9b31m"),
        ("/a\u202egpj.exe".encode(), "/a\\u202egpj.exe"),
        (b"/\xff\xfe", "/\\xff\\xfe"),
        ("/Größe 名".encode(), "/Größe 名"),
        (b"/a b'c", "/a b'c"),
    ],
)
def test_names_steer_no_terminal(name: bytes, shown: str) -> None:
    line = notices.line(notice(object=name))
    assert line is not None
    assert f"file.write {shown} — " in line


@given(st.binary(max_size=2000), st.text(max_size=500))
def test_any_name_is_one_bounded_printable_line(name: bytes, reason: str) -> None:
    line = notices.line(notice(object=name, reason=reason))
    assert line is not None
    data = line.encode("utf-8", "backslashreplace")
    assert not any(byte < 0x20 or byte == 0x7F for byte in data)
    assert not any(0x80 <= ord(character) < 0xA0 for character in line)
    assert len(data) < 20000


SCRIPT = """
import sys
from governed_mcpd.launcher import notices, protocol
printer = notices.Printer(quiet=sys.argv[1] == "quiet")
for number in range(500):
    printer.notice(protocol.Notice(protocol.REFUSED, "file.write", b"/x", "l", "r", "why", "", number))
printer.flush()
"""


def printed(mode: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True, timeout=20)
    return done.stderr.splitlines()


def test_a_flood_is_cut_and_counted() -> None:
    lines = printed("loud")
    assert 20 <= len(lines) <= 40
    shown = sum("refused" in line for line in lines)
    more = sum(int(line.split()[3]) for line in lines if "more" in line)
    assert shown + more == 500


def test_quiet_says_nothing() -> None:
    assert printed("quiet") == []


def test_after_a_flood_the_next_lines_come_again(capfd: pytest.CaptureFixture[str]) -> None:
    printer = notices.Printer(quiet=False)
    for _ in range(30):
        printer.notice(notice())
    time.sleep(0.5)
    printer.notice(notice(object=b"/later"))
    lines = capfd.readouterr().err.splitlines()
    assert "more" in lines[-2]
    assert "/later" in lines[-1]


def test_a_closed_stderr_does_not_end_the_launcher() -> None:
    code = "from governed_mcpd.launcher.notices import say\nimport os\nos.close(2)\nsay('x')\nos.write(1, b'alive')"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, timeout=20)
    assert done.stdout == b"alive"


def test_a_raw_terminal_gets_carriage_returns() -> None:
    import pty
    import tty

    controller, terminal = pty.openpty()
    try:
        for raw in (False, True):
            if raw:
                tty.setraw(terminal)
            code = "from governed_mcpd.launcher.notices import say\nsay('line')"
            subprocess.run([sys.executable, "-c", code], stderr=terminal, check=True, timeout=20)
            assert os.read(controller, 100) == b"line\r\n"
    finally:
        os.close(controller)
        os.close(terminal)
