"""Programs, processes, threads, signals, identity."""

import errno

from governed_mcpd.sandbox.table.row import (
    EXACT,
    HELD,
    Carrier,
    Condition,
    Disposition,
    Row,
    Test,
    holds,
    passes,
    refuses,
)

# linux/sched.h. CLONE_NEWTIME (0x80) lies where clone(2) keeps the exit signal: only unshare takes it.
CLONE_NEWTIME = 0x80
NAMESPACES = (
    (0x0002_0000, "CLONE_NEWNS"),
    (0x0200_0000, "CLONE_NEWCGROUP"),
    (0x0400_0000, "CLONE_NEWUTS"),
    (0x0800_0000, "CLONE_NEWIPC"),
    (0x1000_0000, "CLONE_NEWUSER"),
    (0x2000_0000, "CLONE_NEWPID"),
    (0x4000_0000, "CLONE_NEWNET"),
)
CLONE_FILES, CLONE_THREAD = 0x400, 0x1_0000
# linux/seccomp.h
SECCOMP_FILTER_FLAG_NEW_LISTENER = 0x8
PERSONALITY_QUERY = 0xFFFF_FFFF

_FILTER = frozenset({Carrier.FILTER})

SIGNALS = {
    "kill": 0,
    "tkill": 0,
    "tgkill": 0,
    "rt_sigqueueinfo": 0,
    "rt_tgsigqueueinfo": 0,
    "pidfd_send_signal": 0,
}
"""Calls that send a signal → the argument that names the process (for pidfd_send_signal a descriptor)."""

BURDENS = {
    "sched_setaffinity": 0,
    "sched_setattr": 0,
    "sched_setparam": 0,
    "sched_setscheduler": 0,
    "setpriority": 1,
    "ioprio_set": 1,
    "prlimit64": 0,
}
"""Calls that change how another process runs → the argument that names it. With 0 they mean the caller, and pass."""

ONE_PROCESS = {"setpriority": 0, "ioprio_set": 1}
"""Of these, the ones whose first argument says who is meant → PRIO_PROCESS, IOPRIO_WHO_PROCESS."""


_OWN_TABLE = "a thread with descriptors of its own: the supervisor looks numbers up in those of the process"


def _without_namespaces(name: str, *, also: tuple[tuple[int, str], ...] = (), own_table: Test) -> Row:
    refused = tuple(
        Condition(
            Disposition.REFUSE, (Test(0, bit, bit),), f"{word}: a namespace changes what paths, ids and addresses mean"
        )
        for bit, word in (*NAMESPACES, *also)
    )
    refused += (Condition(Disposition.REFUSE, (own_table,), _OWN_TABLE),)
    reason = "new processes and threads inherit filter, Envelope and cgroup; namespaces are refused"
    return Row(name, Disposition.PASS, _FILTER, reason, conditions=refused)


def _burden(name: str, argument: int) -> Row:
    # Where a register says whether a process, a group or a user is meant, 0 is the caller's group, or its whole user.
    one = (Test(0, EXACT, ONE_PROCESS[name]),) if name in ONE_PROCESS else ()
    own = Condition(Disposition.PASS, (*one, Test(argument, EXACT, 0)), "the caller itself")
    conditions: tuple[Condition, ...] = (own,)
    if name == "prlimit64":
        conditions += (Condition(Disposition.PASS, (Test(2, EXACT, 0),), "only reads"),)
    reason = (
        "of another process: RLIMIT_CPU kills it, SCHED_IDLE or an affinity starves it (the daemon, too, for root); "
        "inside the sandbox it may"
    )
    return Row(name, Disposition.HOLD, HELD, reason, conditions=conditions)


def _pages(name: str) -> Row:
    own = Condition(Disposition.PASS, (Test(0, EXACT, 0),), "the caller's own pages")
    return Row(name, Disposition.REFUSE, _FILTER, "pages of another process", conditions=(own,))


_PERSONALITY = Row(
    "personality",
    Disposition.REFUSE,
    _FILTER,
    "changes how system calls and addresses behave",
    conditions=(
        Condition(Disposition.PASS, (Test(0, 0xFFFF_FFFF, 0),), "PER_LINUX is what is set already"),
        Condition(Disposition.PASS, (Test(0, 0xFFFF_FFFF, PERSONALITY_QUERY),), "only reads"),
    ),
)
_SECCOMP = Row(
    "seccomp",
    Disposition.PASS,
    _FILTER,
    "a further filter only narrows",
    conditions=(
        Condition(
            Disposition.REFUSE,
            (Test(1, SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_NEW_LISTENER),),
            "SECCOMP_FILTER_FLAG_NEW_LISTENER: once the daemon died the kernel would allow a second listener, and the "
            "sandbox would answer itself",
        ),
    ),
)

PROCESSES: tuple[Row, ...] = (
    *holds("starts a program", "execve"),
    *holds("starts a program, also one that has no name (memfd)", "execveat"),
    _without_namespaces("clone", own_table=Test(0, CLONE_THREAD | CLONE_FILES, CLONE_THREAD)),
    _without_namespaces(
        "unshare", also=((CLONE_NEWTIME, "CLONE_NEWTIME"),), own_table=Test(0, CLONE_FILES, CLONE_FILES)
    ),
    *refuses("its flags lie in memory; libc falls back to clone", "clone3", errno=errno.ENOSYS),
    *passes("a new process inherits filter, Envelope and cgroup", "fork", "vfork"),
    *holds("signals to outside are refused, inside they are allowed; signal 0 tells who exists", *SIGNALS),
    *(_burden(name, argument) for name, argument in BURDENS.items()),
    _pages("move_pages"),
    _pages("migrate_pages"),
    _PERSONALITY,
    _SECCOMP,
    *passes("a further ruleset only narrows", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    *passes(
        "changes the identity within what no_new_privs and the bounding set leave; the supervisor looks at each call",
        "setuid",
        "setgid",
        "setreuid",
        "setregid",
        "setresuid",
        "setresgid",
        "setfsuid",
        "setfsgid",
        "setgroups",
        "capset",
    ),
    *passes(
        "who and where the process is",
        "getpid",
        "gettid",
        "getppid",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "getresuid",
        "getresgid",
        "getgroups",
        "getpgid",
        "getpgrp",
        "getsid",
        "capget",
        "uname",
        "sysinfo",
        "getcpu",
        "times",
        "getrusage",
    ),
    *passes("job control, within the session", "setpgid", "setsid"),
    *passes("ends or waits for own children", "exit", "exit_group", "wait4", "waitid"),
    *passes(
        "signals that arrive in the process itself",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "rt_sigpending",
        "rt_sigtimedwait",
        "rt_sigsuspend",
        "sigaltstack",
        "signalfd",
        "signalfd4",
        "pause",
        "restart_syscall",
    ),
    *passes("a reference to a process; what acts through it is held or refused", "pidfd_open"),
    *passes("limits of the process itself", "getrlimit", "setrlimit"),
    *passes(
        "reads how a process is scheduled",
        "sched_getaffinity",
        "sched_getattr",
        "sched_getparam",
        "sched_getscheduler",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_rr_get_interval",
        "getpriority",
        "ioprio_get",
    ),
    *passes(
        "threads and locks of the process itself",
        "futex",
        "futex_waitv",
        "set_robust_list",
        "set_tid_address",
        "sched_yield",
        "membarrier",
        "rseq",
        "arch_prctl",
    ),
    *refuses("reads, changes or steers another process", "ptrace", "process_vm_readv", "process_vm_writev"),
    *refuses("takes a descriptor out of another process", "pidfd_getfd"),
    *refuses("acts on the memory of another process", "process_madvise", "process_mrelease"),
    *refuses("tells about the inside of other processes", "kcmp", "get_robust_list"),
)
