"""A gate and a daemon for tests: the real programs, in a directory of their own, beside any other instance.

    with Instance() as instance:
        done = instance.run("touch", "file")              # governedctl run, as the ordinary user
        assert instance.ctl("status").returncode == 0     # governedctl, as root
        records = instance.journal()

Nothing outside the instance's directory is created, and every process that it started ends with it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from governed.v1 import control_pb2 as pb
from governed_mcpd.control.client import ANSWER_SECONDS, ControlClient, DaemonUnreachable, connect
from governed_mcpd.journal.canonical import parse
from governed_mcpd.journal.read import entries
from tests.support.leftovers import MARK, end_marked, remove_cgroups, unmount_below
from tests.support.users import ADMIN_GROUP, GATE, GROUP, OTHER, RESOLVER, ROOT, USER, identity

CHECKOUT = Path(__file__).resolve().parents[2]
SHIPPED_POLICIES = CHECKOUT / "policies"
PROGRAMS = Path(sys.executable).parent
# How many times as long anything may take: vm-tests/guest/runner.py says it for emulated processors.
PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))
START_SECONDS = 60.0
STOP_SECONDS = 20.0 * PATIENCE
Program = subprocess.Popen[bytes]
Done = subprocess.CompletedProcess[str]
Found = TypeVar("Found")


class Instance:
    """One gate, one daemon, their directories, and an ordinary user with a home and a place to work.

    `policies` adds files to the shipped ones, or replaces those of the same name; None as content leaves one out.
    `upstreams`: there is a governed-resolver as well, which asks these name servers (ADDRESS#PORT).
    """

    def __init__(
        self,
        policies: Mapping[str, str | None] | None = None,
        seal: str = "best-effort",
        upstreams: str = "",
        gate_options: Sequence[str] = (),
    ) -> None:
        if os.geteuid() != 0:
            raise AssertionError("these tests start a daemon and change users: run them as root (sudo make test)")
        self.base = Path(tempfile.mkdtemp(prefix="governed-"))  # short: the names of sockets are
        self.base.chmod(0o755)
        self.runtime_dir = self.base / "run"
        self.state_dir = self.base / "state"
        self.policy_dir = self.base / "policies"
        self.config = self.base / "config.toml"
        self.seal = seal
        self.upstreams = upstreams
        self.resolver: Program | None = None
        self.gate_options = gate_options
        self.gate: Program | None = None
        self.daemon: Program | None = None
        self._started: list[Program] = []
        self._homes = {uid: self._directory(f"home-{uid}", uid, 0o700) for uid in (ROOT, USER, OTHER)}
        self.home = self._homes[USER]
        self.work = self._directory("work", USER)
        self.root_work = self._directory("root-work", ROOT)
        self._write_policies(policies or {})
        self.config.write_text(
            f"gate_user = {GATE}\nresolver_user = {RESOLVER}\ngroup = {GROUP}\nadmin_group = {ADMIN_GROUP}\n"
            f'log_level = "debug"\nseal = "{seal}"\nupstreams = "{upstreams}"\n'
        )

    # ---- life

    def __enter__(self) -> "Instance":
        try:
            self.start_gate()
            if self.upstreams:
                self.start_resolver()
            self.start_daemon()
            if self.upstreams:
                self.wait_for_names()
        except BaseException:
            with contextlib.suppress(AssertionError):
                self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start_gate(self) -> None:
        """Starts governed-gate. The daemon reports when it serves: `wait_for_gate`."""
        arguments = ["--runtime-dir", self.runtime_dir, "--policy-dir", self.policy_dir, "--user", GATE]
        self.gate = self._start("governed-gate", [*arguments, *self.gate_options])

    def start_resolver(self) -> None:
        """Starts governed-resolver. The daemon reports when it answers: `wait_for_names`."""
        self.resolver = self._start("governed-resolver", ["--runtime-dir", self.runtime_dir, "--user", RESOLVER])

    def kill_resolver(self) -> None:
        """SIGKILL, without warning."""
        self._kill(self.resolver)
        self.resolver = None

    def wait_for_names(self) -> None:
        """Waits until the daemon says that names are looked up."""
        self.wait_until(lambda: not self.status().names_reason or None, lambda: self.status().names_reason)

    def start_daemon(self) -> None:
        """Starts governed-mcpd and waits until it answers and its gate serves."""
        arguments = ["--runtime-dir", self.runtime_dir, "--state-dir", self.state_dir, "--policy-dir", self.policy_dir]
        self.daemon = self._start("governed-mcpd", [*arguments, "--seal", self.seal])
        self.wait_for_gate()

    def kill_gate(self) -> None:
        """SIGKILL, without warning."""
        self._kill(self.gate)
        self.gate = None

    def kill_daemon(self) -> None:
        """SIGKILL, without warning."""
        self._kill(self.daemon)
        self.daemon = None

    def restart_gate(self) -> None:
        """Ends the gate if it runs, starts one, and waits until the daemon uses it."""
        if self.gate is not None:
            self._end(self.gate, "governed-gate")
        self.start_gate()
        self.wait_for_gate()

    def stop_daemon(self) -> None:
        """An orderly end (SIGTERM)."""
        if self.daemon is not None:
            program, self.daemon = self.daemon, None
            self._end(program, "governed-mcpd")

    def stop(self) -> None:
        """Ends what this instance started and removes its directory; AssertionError when something had died."""
        died = [name for name, program in self._running() if program.poll() is not None]
        logs = self.logs() if died else ""
        try:
            for program in self._started:
                if program not in (self.gate, self.daemon, self.resolver):
                    self._kill(program)
                    for pipe in filter(None, (program.stdin, program.stdout, program.stderr)):
                        with contextlib.suppress(OSError):  # what was not read yet by a program that is gone
                            pipe.close()
            self.stop_daemon()
            if self.resolver is not None:
                program, self.resolver = self.resolver, None
                self._end(program, "governed-resolver")
            if self.gate is not None:
                program, self.gate = self.gate, None
                self._end(program, "governed-gate")
        finally:
            end_marked(str(self.base))
            remove_cgroups(str(self.base))
            unmount_below(str(self.base))
            shutil.rmtree(self.base)
        if died:
            raise AssertionError(f"{' and '.join(died)} died during the test\n{logs}")

    def wait_for_gate(self) -> pb.Status:
        """Waits until the daemon says that its gate serves."""
        last = ["the daemon was not asked"]

        def serving() -> pb.Status | None:
            try:
                status = self.status()
            except DaemonUnreachable as error:
                last[0] = str(error)
                return None
            last[0] = f"gate {status.gate}: {status.gate_reason}"
            return status if status.gate == "serving" else None

        return self.wait_until(serving, lambda: f"the gate to serve ({last[0]})", START_SECONDS)

    def check_alive(self) -> None:
        """AssertionError, with the logs, when gate or daemon ended without being told to."""
        for name, program in self._running():
            if program.poll() is not None:
                raise AssertionError(f"{name} ended with status {program.returncode}\n{self.logs()}")

    # ---- use

    def ctl(
        self,
        *args: str | os.PathLike[str] | bytes,
        user: int = ROOT,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float = 60,
    ) -> Done:
        """`governedctl --runtime-dir … ARGS` as `user`; its output decoded, bytes that are not UTF-8 escaped."""
        self.check_alive()
        return subprocess.run(
            self.command(*args),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=self.environment(user, env),
            cwd=cwd or self.work_of(user),
            timeout=timeout * PATIENCE,
            check=False,
            **identity(user),
        )

    def run(
        self,
        *argv: str | os.PathLike[str] | bytes,
        user: int = USER,
        profile: str | None = None,
        agent: str | None = None,
        task: str | None = None,
        quiet: bool = False,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float = 60,
    ) -> Done:
        """`governedctl run … -- ARGV` as `user` (the ordinary one), in a directory that is theirs."""
        options = self.run_options(profile, agent, task, quiet)
        return self.ctl("run", *options, "--", *argv, user=user, stdin=stdin, env=env, cwd=cwd, timeout=timeout)

    def spawn(
        self,
        *argv: str | os.PathLike[str] | bytes,
        user: int = USER,
        profile: str | None = None,
        agent: str | None = None,
        task: str | None = None,
        quiet: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Program:
        """Like `run`, without waiting: pipes as stdin, stdout and stderr. Ends with the instance at the latest."""
        self.check_alive()
        program = subprocess.Popen(
            self.command("run", *self.run_options(profile, agent, task, quiet), "--", *argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(user, env),
            cwd=cwd or self.work_of(user),
            start_new_session=True,
            **identity(user),
        )
        self._started.append(program)
        return program

    def command(self, *args: str | os.PathLike[str] | bytes) -> list[str | os.PathLike[str] | bytes]:
        """The argument vector of `governedctl` for this instance, for pexpect and the like."""
        return [str(PROGRAMS / "governedctl"), "--runtime-dir", str(self.runtime_dir), *args]

    @staticmethod
    def run_options(profile: str | None, agent: str | None, task: str | None, quiet: bool) -> list[str]:
        """The options of `governedctl run` for these."""
        options = ["--quiet"] if quiet else []
        for name, value in (("--profile", profile), ("--agent", agent), ("--task", task)):
            if value is not None:
                options += [name, value]
        return options

    def environment(self, user: int = USER, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What programs of this instance get: nothing of the surroundings but what is named here."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "HOME": str(self._homes.get(user, "/nonexistent")),
            "GOVERNED_CONFIG": str(self.config),
            MARK: str(self.base),
            **(more or {}),
        }

    def work_of(self, user: int) -> Path:
        """Where commands of `user` run when no directory is given."""
        return {ROOT: self.root_work, USER: self.work}.get(user, Path("/"))

    def as_user(self, user: int, *argv: str | os.PathLike[str], timeout: float = 60) -> Done:
        """Any program as `user`, outside any sandbox."""
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=self.environment(user),
            cwd=self.work_of(user),
            timeout=timeout * PATIENCE,
            check=False,
            **identity(user),
        )

    # ---- see

    def connect(self) -> ControlClient:
        """A connection to the control socket, as root."""
        return connect(str(self.runtime_dir), timeout=ANSWER_SECONDS * PATIENCE)

    def status(self) -> pb.Status:
        """What the daemon says of itself."""
        with self.connect() as client:
            return client.ask(pb.ControlRequest(status=pb.StatusRequest()), "status").status

    def sandboxes(self) -> list[pb.SandboxInfo]:
        """The sandboxes that the daemon knows."""
        with self.connect() as client:
            request = pb.ControlRequest(sandbox_list=pb.SandboxListRequest())
            return list(client.ask(request, "sandboxes").sandboxes.sandboxes)

    def journal(self, sandbox: str = "") -> list[dict[str, Any]]:
        """All records so far (of one sandbox), as the daemon has them; from its files when it does not run.

        Names that are not UTF-8 are in surrogateescape form, as os.fsdecode gives them.
        """
        if self.daemon is None:
            return [entry.record for entry in entries(str(self.state_dir), sandbox=sandbox)]
        records = []
        with self.connect() as client:
            client.tell(pb.ControlRequest(journal_read=pb.JournalReadRequest(sandbox=sandbox)))
            for reply in client.replies("record", timeout=30 * PATIENCE):
                if reply.record.line:
                    records.append(_record(reply.record.line))
                if not reply.record.more:
                    break
        return records

    def wait_for_record(self, matches: Callable[[dict[str, Any]], bool], seconds: float = 10) -> dict[str, Any]:
        """The first record that `matches`, once it is there."""
        return self.wait_until(lambda: next(filter(matches, self.journal()), None), "a record", seconds)

    def wait_until(
        self, found: Callable[[], Found | None], what: str | Callable[[], str], seconds: float = 10
    ) -> Found:
        """What `found` returns once that is not None; AssertionError, with the logs, after `seconds`."""
        deadline = time.monotonic() + seconds * PATIENCE
        while (result := found()) is None:
            self.check_alive()
            if time.monotonic() > deadline:
                awaited = what if isinstance(what, str) else what()
                raise AssertionError(f"waited {seconds * PATIENCE:g} s for {awaited}\n{self.logs()}")
            time.sleep(0.02)
        return result

    def logs(self, lines: int = 60) -> str:
        """The last lines that gate and daemon wrote."""
        parts = []
        for name in ("governed-mcpd", "governed-gate", "governed-resolver"):
            path = self.base / f"{name}.log"
            if path.exists():
                text = path.read_text(errors="backslashreplace").splitlines()[-lines:]
                parts.append(f"---- {path.name}\n" + "\n".join(text))
        return "\n".join(parts)

    # ---- inside

    def _running(self) -> Iterable[tuple[str, Program]]:
        programs = (("governed-gate", self.gate), ("governed-mcpd", self.daemon), ("governed-resolver", self.resolver))
        for name, program in programs:
            if program is not None:
                yield name, program

    def _start(self, name: str, arguments: Sequence[object]) -> Program:
        with open(self.base / f"{name}.log", "ab") as log:
            program = subprocess.Popen(
                [str(PROGRAMS / name), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(ROOT),
                cwd="/",
                start_new_session=True,
            )
        self._started.append(program)
        return program

    def _end(self, program: Program, name: str) -> None:
        if program.poll() is None:
            program.send_signal(signal.SIGTERM)
        try:
            program.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill(program)
            raise AssertionError(f"{name} did not end within {STOP_SECONDS:g} s of SIGTERM\n{self.logs()}") from None

    def _kill(self, program: Program | None) -> None:
        if program is not None:
            program.kill()
            program.wait(STOP_SECONDS)

    def _directory(self, name: str, uid: int, mode: int = 0o755) -> Path:
        path = self.base / name
        path.mkdir()
        os.chown(path, uid, uid)
        path.chmod(mode)
        return path

    def _write_policies(self, more: Mapping[str, str | None]) -> None:
        self.policy_dir.mkdir()
        contents: dict[str, str | None] = {
            path.name: path.read_text() for path in sorted(SHIPPED_POLICIES.glob("*.y*ml"))
        }
        for name, content in {**contents, **more}.items():
            if content is not None:
                (self.policy_dir / name).write_text(content)


def _record(line: bytes) -> dict[str, Any]:
    record = parse(line.rstrip(b"\n").partition(b" ")[2])
    assert isinstance(record, dict), f"a record is a JSON object: {line[:100]!r}"
    return record
