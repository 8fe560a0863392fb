"""Mirrors checkpoints to the systemd journal, so that who ships that off the machine can prove a truncation."""

import base64
import os
from collections.abc import Callable
from typing import Final

from governed_mcpd.journal.checkpoint import Checkpoint

JOURNALD_SOCKET: Final = "/run/systemd/journal/socket"
# Random, and made for this message alone: `journalctl MESSAGE_ID=…` finds every checkpoint.
MESSAGE_ID: Final = "7bb4a49a60ed46dda4cbf398e6ce2d05"
Mirror = Callable[[Checkpoint], None]


def systemd_mirror() -> Mirror | None:
    """What sends checkpoints to the systemd journal; None where none runs.

    Without its socket `journal.send` loses messages and says nothing, so the socket is looked for here.
    """
    if not os.path.exists(JOURNALD_SOCKET):
        return None
    from systemd import journal  # noqa: PLC0415 (a library that only machines with systemd need)

    def send(checkpoint: Checkpoint) -> None:
        journal.send(
            f"checkpoint: {checkpoint.length} records, head {checkpoint.head}",
            MESSAGE_ID=MESSAGE_ID,
            SYSLOG_IDENTIFIER="governed-mcpd",
            **mirror_fields(checkpoint),
        )

    return send


def mirror_fields(checkpoint: Checkpoint) -> dict[str, str]:
    """The journal fields of a checkpoint; GOVERNED_CHECKPOINT is the line that `journal verify --checkpoints` reads."""
    return {
        "GOVERNED_CHECKPOINT": checkpoint.line().decode().rstrip("\n"),
        "GOVERNED_LENGTH": str(checkpoint.length),
        "GOVERNED_HEAD": checkpoint.head,
        "GOVERNED_KEY": checkpoint.key,
        "GOVERNED_SIGNATURE": base64.b64encode(checkpoint.signature).decode("ascii"),
    }
