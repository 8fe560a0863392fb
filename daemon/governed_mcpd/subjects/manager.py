"""What the daemon and systemd say to each other: sd_notify(3), sd_watchdog_enabled(3), and the file descriptor store
(sd_pid_notify_with_fds(3)). Without systemd nothing is said and nothing is kept."""

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


def keeps_descriptors() -> bool:
    """Whether a service manager is there that keeps descriptors (FileDescriptorStoreMax= is up to the unit)."""
    return "NOTIFY_SOCKET" in os.environ


def keep(name: str, descriptor: int) -> None:
    """Has the service manager hold a duplicate, to be handed to the next daemon under this name."""
    systemd.notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds=[descriptor])


def drop(name: str) -> None:
    """Has it let go of what it holds under this name."""
    systemd.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


def kept() -> list[tuple[str, int]]:
    """What an earlier daemon left: names (a name may stand for several) and descriptors. Only the first call has an
    answer."""
    found = [(name, descriptor) for descriptor, name in systemd.listen_fds_with_names().items()]
    for variable in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    for _, descriptor in found:
        os.set_inheritable(descriptor, False)
    return found
