"""What the kernel lacks for BPF LSM programs, and how it gets it: Documentation/bpf/prog_lsm.rst,
Documentation/admin-guide/LSM/index.rst.

Read from where the kernel says it. Whether the programs do their work is found by having them refuse something.
"""

import gzip
import os

ACTIVE = "/sys/kernel/security/lsm"
BTF = "/sys/kernel/btf/vmlinux"


def missing() -> list[str]:
    """What is known to be missing, each with what to do. Empty: nothing that can be read here."""
    found = []
    if _configured("CONFIG_BPF_LSM") is False:
        found.append("this kernel was built without CONFIG_BPF_LSM: install one that has it (Debian's since 11 have)")
    if not os.path.exists(BTF):
        found.append(f"{BTF} is missing: install a kernel that was built with CONFIG_DEBUG_INFO_BTF (Debian's are)")
    active = active_modules()
    if active is None:
        found.append(
            f"{ACTIVE} cannot be read: mount -t securityfs none /sys/kernel/security (inside a container: the host's)"
        )
    elif "bpf" not in active:
        found.append(
            f"bpf is not among the active security modules ({','.join(active)}): add {command_line(active)} to "
            "GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and reboot"
        )
    return found


def active_modules() -> list[str] | None:
    """The security modules that are active, in order; None when the kernel does not say."""
    try:
        with open(ACTIVE, encoding="ascii") as file:
            return [name for name in file.read().strip().split(",") if name]
    except OSError:
        return None


def command_line(active: list[str]) -> str:
    """The lsm= parameter that has the present modules and bpf. `capability` comes by itself."""
    return "lsm=" + ",".join([*(name for name in active if name not in ("capability", "bpf")), "bpf"])


def _configured(option: str) -> bool | None:
    """Whether the running kernel was built with an option; None when its configuration is not to be had."""
    for path, read in (("/proc/config.gz", gzip.open), (f"/boot/config-{os.uname().release}", open)):
        try:
            with read(path, "rt") as file:
                return f"{option}=y\n" in file.read()
        except OSError:
            continue
    return None
