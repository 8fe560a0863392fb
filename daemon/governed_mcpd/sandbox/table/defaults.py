"""Calls that no row names, on purpose: the filter's default answers them with ENOSYS, as a kernel without them would."""

DEFAULT_ON_PURPOSE: dict[str, str] = {
    **dict.fromkeys(
        ("_sysctl", "afs_syscall", "create_module", "epoll_ctl_old", "epoll_wait_old", "get_kernel_syms", "get_thread_area",
         "getpmsg", "lookup_dcookie", "nfsservctl", "putpmsg", "query_module", "security", "set_thread_area", "tuxcall",
         "uselib", "vserver"),
        "the kernel itself answers ENOSYS on this architecture, or would if it were built today",
    ),
    **dict.fromkeys(("sysfs", "ustat"), "obsolete; statfs and /proc/filesystems tell the same"),
    "fchmodat2": "libseccomp 2.5.4 cannot name it; libc falls back to fchmodat, which is held",
    **dict.fromkeys(
        ("setxattrat", "getxattrat", "listxattrat", "removexattrat", "file_getattr", "file_setattr"),
        "libseccomp 2.5.4 cannot name it; programs fall back to calls that are held",
    ),
    **dict.fromkeys(
        ("open_tree_attr", "statmount", "listmount", "listns", "lsm_get_self_attr", "lsm_set_self_attr",
         "lsm_list_modules"),
        "mounts and security modules: not for a sandbox",
    ),
    **dict.fromkeys(
        ("cachestat", "futex_requeue", "futex_wait", "futex_wake", "map_shadow_stack", "mseal", "rseq_slice_yield",
         "uprobe", "uretprobe"),
        "libseccomp 2.5.4 cannot name it; programs do without",
    ),
}  # fmt: skip
"""Name → why. A call that is in neither this nor the table falls to the default just the same; a test then asks for a reason."""

ABSENT: dict[str, frozenset[str]] = {
    "x86_64": frozenset(),
    "aarch64": frozenset(
        {
            "access", "alarm", "arch_prctl", "chmod", "chown", "creat", "dup2", "epoll_create", "epoll_wait", "eventfd",
            "fork", "futimesat", "getdents", "getpgrp", "inotify_init", "ioperm", "iopl", "lchown", "link", "lstat",
            "mkdir", "mknod", "modify_ldt", "open", "pause", "pipe", "poll", "readlink", "rename", "rmdir", "select",
            "signalfd", "stat", "symlink", "time", "unlink", "utime", "utimes", "vfork",
        }
    ),
}  # fmt: skip
"""Rows that an architecture has no call for (old calls that newer ones replace). Any other name that libseccomp does not
resolve is an error: a row that is silently left out would be a hole."""
