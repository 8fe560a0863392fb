"""What the journal's tests share: a small journal, and programs that run in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

from governed_mcpd.journal.journal import Journal, JournalSettings
from governed_mcpd.journal.layout import list_segments

# Nothing by time: checkpoints come at the end and after every four records, segments hold about five.
SMALL = JournalSettings(segment_bytes=1200, checkpoint_records=4, checkpoint_seconds=3600, sync_seconds=0.01)


def note(text: str = "", **fields: object) -> dict[str, object]:
    """A record that says little."""
    return {"kind": "daemon.stop", "reason": text, **fields}


def write_journal(state: Path, count: int, settings: JournalSettings = SMALL) -> None:
    """Opens the journal, appends `count` records, closes it."""
    journal = Journal(str(state), settings=settings)
    for number in range(count):
        journal.append(note(f"number {number}"))
    journal.close()


def files(state: Path) -> dict[str, bytes]:
    """The content of everything in a state directory but the lock."""
    return {str(path.relative_to(state)): path.read_bytes() for path in state.rglob("*") if _content(path)}


def put_back(state: Path, content: dict[str, bytes]) -> None:
    """Makes the directory's files those of `content` again."""
    for name in files(state).keys() - content.keys():
        (state / name).unlink()
    for name, data in content.items():
        if not (state / name).exists() or (state / name).read_bytes() != data:
            (state / name).write_bytes(data)


def segment_paths(state: Path) -> list[Path]:
    """The segments in order."""
    return [Path(segment.path) for segment in list_segments(str(state))]


def run_alone(program: str, *arguments: str, prefix: tuple[str, ...] = (), timeout: float = 40) -> str:
    """Runs a Python program in a new process; its output. It fails the test when it fails or hangs."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _content(path: Path) -> bool:
    return path.is_file() and path.name != "lock"
