"""The mirror to the systemd journal, against a socket in its place."""

from pathlib import Path

from tests.journal.samples import run_alone

MIRRORED = r"""
import os, socket, subprocess, sys
from governed_mcpd.journal.mirror import JOURNALD_SOCKET, systemd_mirror
from governed_mcpd.journal.checkpoint import parse_checkpoint
from governed_mcpd.journal.journal import Journal
from governed_mcpd.journal.keys import load_public_key
from governed_mcpd.journal.verify import verify
state = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
assert systemd_mirror() is None, "without journald nothing would take the messages"
os.makedirs(os.path.dirname(JOURNALD_SOCKET))
journald = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journald.bind(JOURNALD_SOCKET)
journal = Journal(state, mirror=systemd_mirror())
journal.append({"kind": "daemon.stop"})
journal.close()
lines = b""
for length in (1, 2):
    fields = dict(line.split(b"=", 1) for line in journald.recv(65536).splitlines())
    assert fields[b"GOVERNED_LENGTH"] == b"%d" % length
    assert fields[b"SYSLOG_IDENTIFIER"] == b"governed-mcpd"
    assert len(fields[b"MESSAGE_ID"]) == 32
    line = fields[b"GOVERNED_CHECKPOINT"] + b"\n"
    assert parse_checkpoint(line).signed_by(load_public_key(state + "/journal.pub"))
    lines += line
with open(state + "/from-journald", "wb") as file:
    file.write(lines)
found = verify(state, checkpoint_files=[state + "/from-journald"])
assert found.ok and found.checkpoints == 4, found
"""


def test_checkpoints_reach_journald(tmp_path: Path) -> None:
    run_alone(MIRRORED, str(tmp_path), prefix=("unshare", "-m", "--propagation", "private"))
