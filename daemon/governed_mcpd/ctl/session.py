"""What every command starts from: the global options, and a connection to the daemon when it needs one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from governed.v1 import control_pb2 as pb
from governed_mcpd import config
from governed_mcpd.control.client import ControlClient, connect

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout: one object, or one per line for streams.")]


@dataclass(frozen=True, slots=True)
class Session:
    """The global options; None where one was not given."""

    runtime_dir: str | None = None
    config_file: str | None = None

    def config(self, **overrides: str | None) -> config.Config:
        """The configuration under these options. Raises ConfigError."""
        return config.load(self.config_file, {"runtime_dir": self.runtime_dir, **overrides})

    @contextmanager
    def connection(self) -> Iterator[ControlClient]:
        """A connection to the daemon. Raises DaemonUnreachable."""
        with connect(self.config().runtime_dir) as client:
            yield client

    def ask(self, request: pb.ControlRequest, want: str) -> pb.ControlReply:
        """One question, one answer of the kind `want`. Raises ControlError."""
        with self.connection() as client:
            return client.ask(request, want)


def session_of(context: typer.Context) -> Session:
    """The session that the global options made."""
    found = context.find_object(Session)
    return found if found is not None else Session()
