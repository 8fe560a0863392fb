"""What the daemon says to systemd: sd_notify(3), sd_watchdog_enabled(3). Without systemd nothing is said."""

import os

from systemd import daemon as systemd

WITHOUT_WATCHDOG = 3600.0


def ready(status: str) -> None:
    systemd.notify(f"READY=1\nSTATUS={status}")


def stopping() -> None:
    systemd.notify("STOPPING=1")


def alive() -> None:
    systemd.notify("WATCHDOG=1")


def watchdog_seconds() -> float:
    """How often `alive` has to be called: half of what systemd was told."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdigit() else WITHOUT_WATCHDOG
