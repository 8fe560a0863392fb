"""`journal` on files, without a daemon: verify, tail, show."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from governed_mcpd.journal.journal import Journal
from tests.ctl.program import PROGRAM, governedctl
from tests.support.users import STRANGER, identity


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a journal of ten effects."""
    directory = tmp_path / "state"
    journal = Journal(str(directory))
    for number in range(10):
        sandbox = "s1" if number % 2 else "s2"
        record = {"kind": "effect", "sandbox": sandbox, "operation": "file.write", "object": f"/tmp/file-{number}"}
        journal.append({**record, "decision": "allow", "layer": "daemon", "rule": "free", "pause_us": 7})
    journal.close()
    return directory


def segment(state: Path) -> Path:
    (path,) = (state / "journal").glob("*.jsonl")
    return path


def test_verify_says_what_is_proved(state: Path) -> None:
    done = governedctl("journal", "verify", "--state-dir", state)
    assert done.returncode == 0, done.stderr
    assert "nothing is wrong" in done.stdout
    found = json.loads(governedctl("journal", "verify", "--state-dir", state, "--json").stdout)
    lines = segment(state).read_bytes().splitlines()
    assert (found["ok"], found["problem"], found["records"]) == (True, None, len(lines))
    assert found["head"] == lines[-1][:64].decode()
    assert found["checkpoints"] >= 1
    assert found["proved"] == len(lines)


def test_verify_names_file_and_line_of_a_changed_record(state: Path) -> None:
    path = segment(state)
    path.write_bytes(path.read_bytes().replace(b"/tmp/file-3", b"/tmp/file-X"))
    line = 1 + next(n for n, text in enumerate(path.read_bytes().splitlines()) if b"file-X" in text)
    done = governedctl("journal", "verify", "--state-dir", state)
    assert done.returncode == 1
    assert f"WRONG: {path}:{line}: " in done.stdout
    done = governedctl("journal", "verify", "--state-dir", state, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["ok"], found["problem"]["file"], found["problem"]["line"]) == (False, str(path), line)


def test_verify_sees_that_the_end_was_cut(state: Path) -> None:
    path = segment(state)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    done = governedctl("journal", "verify", "--state-dir", state)
    assert done.returncode == 1
    assert "it was cut" in done.stdout


def test_verify_takes_the_state_directory_from_the_configuration(state: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'state_dir = "{state}"')
    assert governedctl("--config", tmp_path / "c.toml", "journal", "verify").returncode == 0
    assert governedctl("journal", "verify", env={"GOVERNED_STATE_DIR": str(state)}).returncode == 0


def test_no_journal_there(tmp_path: Path) -> None:
    done = governedctl("journal", "verify", "--state-dir", tmp_path / "none")
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert governedctl("journal", "verify", "--state-dir", tmp_path).returncode == 1


def test_who_may_not_read_it_is_told_so(state: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "journal", "verify", "--state-dir", state],
        capture_output=True,
        text=True,
        env={"PATH": os.defpath},
        cwd="/",
        timeout=60,
        check=False,
        **identity(STRANGER),
    )
    assert done.returncode == 4, done
    assert "only root can read" in done.stderr


def test_tail_and_show_read_the_files(state: Path) -> None:
    done = governedctl("journal", "tail", "--state-dir", state, "-n", "2", "--sandbox", "s1")
    assert done.returncode == 0, done.stderr
    assert [line.split()[5] for line in done.stdout.splitlines()] == ["/tmp/file-7", "/tmp/file-9"]
    records = [
        json.loads(line)
        for line in governedctl("journal", "tail", "--state-dir", state, "-n", "99", "--json").stdout.splitlines()
    ]
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    wanted = next(record for record in records if record.get("object") == "/tmp/file-4")
    shown = governedctl("journal", "show", str(wanted["seq"]), "--state-dir", state, "--json")
    assert json.loads(shown.stdout) == wanted
    people = governedctl("journal", "show", str(wanted["seq"]), "--state-dir", state).stdout
    assert "/tmp/file-4" in people
    assert wanted["hash"] in people
    assert governedctl("journal", "show", "999", "--state-dir", state).returncode == 1


def test_following_shows_records_as_they_come(state: Path) -> None:
    command = [PROGRAM, "journal", "tail", "--state-dir", state, "-n", "1", "-f", "--json"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert program.stdout is not None
    try:
        last = json.loads(program.stdout.readline())
        journal = Journal(str(state))
        journal.append({"kind": "daemon.stop", "reason": "test"})
        journal.close()
        begun = time.monotonic()
        following = [json.loads(program.stdout.readline()) for _ in range(2)]
        assert time.monotonic() - begun < 10
        assert [record["kind"] for record in following] == ["journal.open", "daemon.stop"]
        assert following[0]["seq"] == last["seq"] + 1
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
