"""What the daemon asks of systemd over D-Bus: a scope for each sandbox, and whether it is restarted or stopped
(org.freedesktop.systemd1(5))."""

import contextlib
import logging
import os
from typing import Any

from jeepney import DBusAddress, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

log = logging.getLogger(__name__)
STOP, RESTART = "stop", "restart"  # job types
SECONDS = 5.0
_BUS, _ROOT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = DBusAddress(_ROOT, _BUS, f"{_BUS}.Manager")
_PROPERTIES = "org.freedesktop.DBus.Properties"
_KILLED_AT_ONCE = 9


class NoUnit(Exception):
    """systemd did not do what it was asked for. The text says what, and why."""


def governs() -> bool:
    """Whether systemd is the init of this machine (sd_booted(3)) and has started this daemon as a unit of its own."""
    return os.path.isdir("/run/systemd/system") and "INVOCATION_ID" in os.environ and "NOTIFY_SOCKET" in os.environ


def start_scope(name: str, slice_name: str, pid: int, most_processes: int) -> None:
    """Has systemd make a scope of one process, which governs itself beneath: StartTransientUnit. NoUnit."""
    properties = [
        ("Description", ("s", "A sandbox of governed-mcpd")),
        ("Slice", ("s", slice_name)),
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("TasksMax", ("t", most_processes)),
        ("KillSignal", ("i", _KILLED_AT_ONCE)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    with _connected() as bus:
        _call(bus, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", (name, "fail", properties, []))


def job() -> str:
    """What systemd is about to do with this daemon's unit: `stop`, `restart`, …; nothing when it does not say, or has
    nothing in mind (somebody has killed the daemon)."""
    try:
        with _connected() as bus:
            unit = _call(bus, _MANAGER, "GetUnitByPID", "u", (os.getpid(),))
            number, path = _property(bus, unit, "Unit", "Job")
            return str(_property(bus, path, "Job", "JobType")) if number else ""
    except NoUnit as failure:
        log.warning("%s", failure)
        return ""


def _property(bus: DBusConnection, path: str, interface: str, name: str) -> Any:
    address = DBusAddress(path, _BUS, _PROPERTIES)
    _, value = _call(bus, address, "Get", "ss", (f"{_BUS}.{interface}", name))
    return value


def _call(bus: DBusConnection, address: DBusAddress, method: str, signature: str, body: tuple[Any, ...]) -> Any:
    try:
        reply = bus.send_and_get_reply(new_method_call(address, method, signature, body), timeout=SECONDS)
    except (OSError, TimeoutError) as error:
        raise NoUnit(f"systemd does not answer to {method}: {error}") from error
    if reply.header.message_type is MessageType.error:
        raise NoUnit(f"systemd refuses {method}: {' '.join(map(str, reply.body)) or 'without a reason'}")
    return reply.body[0] if len(reply.body) == 1 else reply.body


def _connected() -> "contextlib.closing[DBusConnection]":
    try:
        return contextlib.closing(open_dbus_connection("SYSTEM"))
    except (OSError, KeyError, ValueError) as error:
        reason = f"the system bus cannot be reached ({error}): install dbus, and start it (systemctl start dbus)"
        raise NoUnit(reason) from error
