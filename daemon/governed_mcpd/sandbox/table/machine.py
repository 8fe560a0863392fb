"""Memory, time and events of a process itself; the machine, which no sandbox changes."""

import errno

from governed_mcpd.sandbox.table.row import HELD, Row, passes, refuses

MACHINE: tuple[Row, ...] = (
    *passes(
        "memory of the process itself; a shared writable mapping needs a descriptor opened for writing",
        "mmap", "munmap", "mprotect", "mremap", "brk", "madvise", "mincore", "mlock", "mlock2", "mlockall", "munlock",
        "munlockall", "mbind", "set_mempolicy", "get_mempolicy", "set_mempolicy_home_node", "pkey_alloc", "pkey_free",
        "pkey_mprotect", "remap_file_pages",
        carriers=HELD,
    ),
    *passes("a file without a name; executing it is execveat or execve, and held", "memfd_create", carriers=HELD),
    *passes(
        "time and timers of the process itself; SIGEV_THREAD_ID reaches own threads only",
        "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "alarm", "getitimer",
        "setitimer", "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun", "timer_delete",
        "timerfd_create", "timerfd_settime", "timerfd_gettime",
    ),
    *passes(
        "waits for descriptors that are open already",
        "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
        "epoll_pwait2", "eventfd", "eventfd2",
    ),
    *passes("random bytes", "getrandom"),
    *refuses(
        "opens, writes, connects and sends by requests in shared memory that no filter sees",
        "io_uring_setup", "io_uring_enter", "io_uring_register",
        errno=errno.ENOSYS,
    ),
    *refuses("arguments there could not be read, and so not be judged", "memfd_secret", errno=errno.ENOSYS),
    *refuses("stops the kernel in the middle of reading arguments: makes every race winnable", "userfaultfd"),
    *refuses("programs in the kernel, among them the seal's maps", "bpf"),
    *refuses("observes the kernel and other processes", "perf_event_open", "syslog"),
    *refuses(
        "changes what paths mean",
        "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
        "mount_setattr",
    ),
    *refuses("enters another namespace", "setns"),
    *refuses("loads code into the kernel", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load"),
    *refuses("the whole machine", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "vhangup"),
    *refuses("the machine's name", "sethostname", "setdomainname"),
    *refuses("the machine's clock", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime"),
    *refuses("hardware, past the kernel", "iopl", "ioperm"),
    *refuses("segments of old programs; it has been a way into the kernel", "modify_ldt", errno=errno.ENOSYS),
    *refuses("keys of the user, shared with every process outside", "add_key", "request_key", "keyctl"),
    *refuses(
        "System V objects are named by numbers that everyone of the same uid reaches",
        "shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl",
    ),
    *refuses(
        "POSIX queues lie outside every path rule",
        "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr",
    ),
)  # fmt: skip
