"""What the child gives up: capabilities, and gaining any by execve. prctl(2), capabilities(7)."""

import prctl

from governed_mcpd.kernel.capabilities import drop_from_bounding_set

# linux/capability.h. Root in a sandbox stays root towards files and its own processes: these stay in its bounding set,
# all others are dropped: CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_MKNOD, CAP_SETFCAP, …
KEPT = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "NET_BIND_SERVICE",
)
_LAST = "/proc/sys/kernel/cap_last_cap"


def drop() -> None:
    """Cuts bounding and inheritable (so also the ambient) set down, then sets no_new_privs. OSError.

    Dropping from the bounding set needs CAP_SETPCAP: an ordinary user gets EPERM, and gains nothing by execve anyway.
    """
    if prctl.cap_effective.setpcap:
        kept = {getattr(prctl, f"CAP_{name}") for name in KEPT}
        with open(_LAST, encoding="ascii") as file:
            last = int(file.read())
        for capability in range(last + 1):
            if capability not in kept:
                drop_from_bounding_set(capability)
    prctl.cap_inheritable.limit()
    prctl.set_no_new_privs(1)
