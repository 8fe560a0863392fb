/* Ways to reach other processes: memory, descriptors, signals, limits, namespaces. */
#include "attack.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static long two = 2;
static long pid_of(char **a) { return atol(a[0]); }

/* ---- memory: PID ADDRESS */

static long vm_write(char **a)
{
	struct iovec from = { &two, sizeof two }, to = { (void *)strtoul(a[1], NULL, 10), sizeof two };
	return CALL6(SYS_process_vm_writev, pid_of(a), &from, 1, &to, 1, 0);
}

static long vm_read(char **a)
{
	long value;
	struct iovec into = { &value, sizeof value }, from = { (void *)strtoul(a[1], NULL, 10), sizeof value };
	return CALL6(SYS_process_vm_readv, pid_of(a), &into, 1, &from, 1, 0);
}

static long trace(char **a)
{
	long attached = CALL4(SYS_ptrace, PTRACE_ATTACH, pid_of(a), 0, 0);
	if (attached < 0)
		return attached;
	waitpid(pid_of(a), NULL, __WALL);
	CALL4(SYS_ptrace, PTRACE_POKEDATA, pid_of(a), strtoul(a[1], NULL, 10), two);
	return CALL4(SYS_ptrace, PTRACE_DETACH, pid_of(a), 0, 0);
}

static long proc_mem(char **a)
{
	char path[64];
	snprintf(path, sizeof path, a[2], pid_of(a), pid_of(a));
	long memory = CALL3(SYS_open, path, O_RDWR, 0);
	if (memory < 0)
		return memory;
	return CALL4(SYS_pwrite64, memory, &two, sizeof two, strtoul(a[1], NULL, 10));
}

static long proc_mem_read(char **a)
{
	char path[64];
	long value;
	snprintf(path, sizeof path, "/proc/%ld/mem", pid_of(a));
	long memory = CALL3(SYS_open, path, O_RDONLY, 0);
	if (memory < 0)
		return memory;
	return CALL4(SYS_pread64, memory, &value, sizeof value, strtoul(a[1], NULL, 10));
}

static long environment(char **a)
{
	char path[64], byte;
	snprintf(path, sizeof path, "/proc/%ld/environ", pid_of(a));
	long file = CALL3(SYS_open, path, O_RDONLY, 0);
	return file < 0 ? file : CALL3(SYS_read, file, &byte, 1);
}

static long vm_advise(char **a)
{
	struct iovec where = { (void *)(strtoul(a[1], NULL, 10) & ~4095ul), 4096 };
	long pidfd = need("pidfd_open", CALL2(SYS_pidfd_open, pid_of(a), 0));
	return CALL5(SYS_process_madvise, pidfd, &where, 1, 20 /* MADV_COLD */, 0);
}

/* ---- descriptors: PID NUMBER */

static long getfd(char **a)
{
	char byte;
	long pidfd = need("pidfd_open", CALL2(SYS_pidfd_open, pid_of(a), 0));
	long stolen = CALL3(SYS_pidfd_getfd, pidfd, atol(a[1]), 0);
	return stolen < 0 ? stolen : CALL4(SYS_pread64, stolen, &byte, 1, 0);
}

static long proc_fd(char **a)
{
	char path[64], byte;
	snprintf(path, sizeof path, "/proc/%ld/fd/%s", pid_of(a), a[1]);
	long stolen = CALL3(SYS_open, path, O_RDONLY, 0);
	return stolen < 0 ? stolen : CALL3(SYS_read, stolen, &byte, 1);
}

static long proc_root(char **a)
{
	char path[4200], byte;
	snprintf(path, sizeof path, "/proc/%ld/root%s", pid_of(a), a[1]);
	long file = CALL3(SYS_open, path, O_RDONLY, 0);
	return file < 0 ? file : CALL3(SYS_read, file, &byte, 1);
}

static long compare(char **a) { return CALL5(SYS_kcmp, getpid(), pid_of(a), 1 /* KCMP_VM */, 0, 0); }

/* ---- signals: PID */

static siginfo_t info(void)
{
	siginfo_t i;
	memset(&i, 0, sizeof i);
	i.si_signo = SIGUSR1;
	i.si_code = SI_QUEUE;
	i.si_pid = getpid();
	i.si_uid = getuid();
	return i;
}

static long kill_(char **a) { return CALL2(SYS_kill, pid_of(a), SIGUSR1); }
static long kill_group(char **a) { return CALL2(SYS_kill, -pid_of(a), SIGUSR1); }
static long tkill_(char **a) { return CALL2(SYS_tkill, pid_of(a), SIGUSR1); }
static long tgkill_(char **a) { return CALL3(SYS_tgkill, pid_of(a), pid_of(a), SIGUSR1); }
static long queue(char **a) { siginfo_t i = info(); return CALL3(SYS_rt_sigqueueinfo, pid_of(a), SIGUSR1, &i); }
static long tgqueue(char **a) { siginfo_t i = info(); return CALL4(SYS_rt_tgsigqueueinfo, pid_of(a), pid_of(a), SIGUSR1, &i); }
static long kill_dirty(char **a) { return CALL2(SYS_kill, 0xabcdef0000000000ull | pid_of(a), SIGUSR1); }

static long pidfd_signal(char **a)
{
	long pidfd = need("pidfd_open", CALL2(SYS_pidfd_open, pid_of(a), 0));
	return CALL4(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 0);
}

static long pidfd_group(char **a)
{
	long pidfd = need("pidfd_open", CALL2(SYS_pidfd_open, pid_of(a), 0));
	return CALL4(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 4 /* PIDFD_SIGNAL_PROCESS_GROUP */);
}

static long own_pidfd_group(char **a)
{
	(void)a;
	pid_t pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		pause();
		_exit(0);
	}
	setpgid(pid, pid);
	long pidfd = need("pidfd_open", CALL2(SYS_pidfd_open, pid, 0));
	long sent = CALL4(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 4);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return sent;
}

static long procfd_signal(char **a) /* a directory of /proc is a pidfd, too */
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%ld", pid_of(a));
	long pidfd = need("open", CALL3(SYS_open, path, O_RDONLY | O_DIRECTORY, 0));
	return CALL4(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 0);
}

static long kill_all(char **a) { (void)a; return CALL2(SYS_kill, -1, 0); } /* asks only: outside it would reach others */
static long kill_own_group(char **a) { (void)a; return CALL2(SYS_kill, 0, 0); }

/* The owner of a descriptor is told of its events by the signal of its choice. */
static long owned(char **a, int command, int how)
{
	int pair[2];
	need("socketpair", CALL4(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, pair));
	struct { int type; int pid; } owner = { 1 /* F_OWNER_PID */, pid_of(a) };
	int pid = pid_of(a);
	long set = how == 0 ? CALL3(SYS_fcntl, pair[0], command, pid)
		 : how == 1 ? CALL3(SYS_fcntl, pair[0], command, &owner)
			    : CALL3(SYS_ioctl, pair[0], command, &pid);
	if (set < 0)
		return set;
	if (how == 0) {
		set = CALL3(SYS_fcntl, pair[0], 10 /* F_SETSIG */, SIGUSR1);
		if (set < 0)
			return set;
	}
	need("O_ASYNC", CALL3(SYS_fcntl, pair[0], F_SETFL, O_ASYNC));
	return CALL3(SYS_write, pair[1], "x", 1);
}
static long setown(char **a) { return owned(a, 8, 0); }
static long setown_dirty(char **a) { return owned(a, 8, 0); }
static long setown_ex(char **a) { return owned(a, 15, 1); }
static long fiosetown(char **a) { return owned(a, 0x8901, 2); }
static long siocspgrp(char **a) { return owned(a, 0x8902, 2); }

static long child_signal(char **a) /* inside: a neighbour that has to work */
{
	(void)a;
	pid_t pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	need("kill", CALL2(SYS_kill, pid, SIGTERM));
	int status;
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM ? 0 : -ECHILD;
}

/* ---- burdens: PID */

static long prlimit_(char **a)
{
	struct rlimit limit = { 1, 1 };
	return CALL4(SYS_prlimit64, pid_of(a), RLIMIT_CPU, &limit, NULL);
}
static long priority(char **a) { return CALL3(SYS_setpriority, PRIO_PROCESS, pid_of(a), 19); }
static long affinity(char **a) { unsigned long one = 1; return CALL3(SYS_sched_setaffinity, pid_of(a), sizeof one, &one); }
static long idle(char **a) { struct sched_param p = { 0 }; return CALL3(SYS_sched_setscheduler, pid_of(a), SCHED_IDLE, &p); }
static long priority_of(char **a) { return CALL3(SYS_setpriority, atol(a[0]), 0, 1); }
static long io_priority_of(char **a) { return CALL3(SYS_ioprio_set, atol(a[0]), 0, 2 << 13 | 5); }
static long own_io_priority(char **a) { (void)a; return CALL3(SYS_ioprio_set, 1, 0, 2 << 13 | 5); }
static long own_priority(char **a) { (void)a; return CALL3(SYS_setpriority, PRIO_PROCESS, 0, 10); }

/* ---- namespaces and roots */

static long unshare_(char **a) { return CALL1(SYS_unshare, strtoul(a[0], NULL, 0)); }
static long clone_(char **a)
{
	long pid = CALL5(SYS_clone, strtoul(a[0], NULL, 0) | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		_exit(0);
	return pid;
}
static long clone3_(char **a)
{
	struct clone_args args = { .flags = strtoul(a[0], NULL, 0), .exit_signal = SIGCHLD };
	long pid = CALL2(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		_exit(0);
	return pid;
}
static long into_cgroup(char **a)
{
	long directory = need("open the cgroup", CALL3(SYS_open, a[0], O_PATH | O_DIRECTORY, 0));
	struct clone_args args = { .flags = 0x200000000ull, .exit_signal = SIGCHLD, .cgroup = directory };
	long pid = CALL2(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		_exit(0);
	return pid;
}
static long enter(char **a)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%ld/ns/%s", pid_of(a), a[1]);
	long file = CALL3(SYS_open, path, O_RDONLY, 0);
	return file < 0 ? file : CALL2(SYS_setns, file, 0);
}
static long enter_pidfd(char **a)
{
	long pidfd = need("pidfd_open", CALL2(SYS_pidfd_open, pid_of(a), 0));
	return CALL2(SYS_setns, pidfd, CLONE_NEWUTS);
}
static long chroot_(char **a) { return CALL1(SYS_chroot, a[0]); }
static long pivot(char **a)
{
	long result = CALL2(SYS_pivot_root, a[0], a[0]);
	return result == -EINVAL || result == -EBUSY ? 0 : result; /* it looked at the mounts: nothing kept it away */
}
static long mount_(char **a) { return CALL5(SYS_mount, "none", a[0], "tmpfs", 0, 0); }
static long bind_mount(char **a) { return CALL5(SYS_mount, a[0], a[1], 0, MS_BIND, 0); }
static long umount_(char **a)
{
	long result = CALL2(SYS_umount2, a[0], 0);
	return result == -EINVAL ? 0 : result;
}
static long fsopen_(char **a) { (void)a; return CALL2(SYS_fsopen, "tmpfs", 0); }
static long open_tree_(char **a) { return CALL3(SYS_open_tree, AT_FDCWD, a[0], 1 /* OPEN_TREE_CLONE */); }
static long fspick_(char **a)
{
	long result = CALL3(SYS_fspick, AT_FDCWD, a[0], 0);
	return result == -EINVAL ? 0 : result;
}
static long move_mount_(char **a)
{
	long result = CALL5(SYS_move_mount, AT_FDCWD, a[0], AT_FDCWD, a[0], 0);
	return result == -EINVAL || result == -ELOOP ? 0 : result; /* no mount is moved into itself */
}
static long mount_setattr_(char **a)
{
	unsigned long attributes[4] = { 0 };
	long result = CALL5(SYS_mount_setattr, AT_FDCWD, a[0], 0, attributes, 32);
	return result == -EINVAL ? 0 : result;
}

/* ---- an own listener, which would answer the process itself */

static long listener(char **a)
{
	struct sock_filter allow[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { 1, allow };
	(void)a;
	need("no_new_privs", CALL5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	return CALL3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}
static long listener_wide(char **a)
{
	struct sock_filter allow[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { 1, allow };
	(void)a;
	need("no_new_privs", CALL5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	return CALL3(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		     SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH, &program);
}
static long narrower(char **a)
{
	struct sock_filter allow[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { 1, allow };
	(void)a;
	need("no_new_privs", CALL5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	return CALL3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
/* Waits until its input ends (the daemon is dead by then), then tries. */
static long listener_later(char **a)
{
	char line[8];
	printf("ready\n");
	while (read(0, line, sizeof line) > 0)
		;
	long made = listener(a);
	if (made >= 0)
		return made;
	long file = CALL3(SYS_open, a[0], O_WRONLY | O_CREAT, 0644);
	printf("later open %ld\n", -file);
	return file >= 0 ? 0 : made;
}

/* ---- programs without a name */

static long copied(const char *path)
{
	static char buffer[1 << 20];
	long memory = need("memfd_create", CALL2(SYS_memfd_create, "true", 0));
	long file = need("open", CALL3(SYS_open, path, O_RDONLY, 0)), got;
	while ((got = CALL3(SYS_read, file, buffer, sizeof buffer)) > 0)
		need("write", CALL3(SYS_write, memory, buffer, got));
	return memory;
}
static char *no_environment[] = { NULL };
/* The program that is run says "worked" itself. */
static long memfd_exec(char **a)
{
	char *argv[] = { "true", "said", NULL };
	long memory = copied(a[0]);
	return CALL5(SYS_execveat, memory, "", argv, no_environment, AT_EMPTY_PATH);
}
static long memfd_fexec(char **a)
{
	char path[64], *argv[] = { "true", "said", NULL };
	snprintf(path, sizeof path, "/proc/self/fd/%ld", copied(a[0]));
	return CALL3(SYS_execve, path, argv, no_environment);
}
static long deleted_exec(char **a)
{
	char path[64], *argv[] = { "true", "said", NULL };
	static char buffer[1 << 20];
	long file = need("create", CALL3(SYS_open, a[1], O_RDWR | O_CREAT, 0755));
	long from = need("open", CALL3(SYS_open, a[0], O_RDONLY, 0)), got;
	while ((got = CALL3(SYS_read, from, buffer, sizeof buffer)) > 0)
		need("write", CALL3(SYS_write, file, buffer, got));
	long program = need("open O_PATH", CALL3(SYS_open, a[1], O_PATH, 0));
	CALL1(SYS_close, file);
	need("unlink", CALL1(SYS_unlink, a[1]));
	snprintf(path, sizeof path, "/proc/self/fd/%ld", program);
	return CALL3(SYS_execve, path, argv, no_environment);
}
static long execveat_(char **a)
{
	char *argv[] = { a[0], "said", NULL };
	long program = need("open O_PATH", CALL3(SYS_open, a[0], O_PATH, 0));
	return CALL5(SYS_execveat, program, "", argv, no_environment, AT_EMPTY_PATH);
}
static long said(char **a) { (void)a; return 0; }

/* argv that lies across the end of a page, and one that goes on into nothing */
static long argv_crossing(char **a)
{
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char **argv = (char **)(p + 4096 - 12);
	memcpy(argv, (char *[]){ a[0], "said", NULL }, 24);
	return CALL3(SYS_execve, a[0], argv, NULL);
}
static long argv_unmapped(char **a)
{
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char **argv = (char **)(p + 4096 - 8);
	munmap(p + 4096, 4096);
	argv[0] = a[0];
	return CALL3(SYS_execve, a[0], argv, NULL);
}

static const struct attack attacks[] = {
	{ "vm-write", vm_write }, { "vm-read", vm_read }, { "trace", trace }, { "proc-mem", proc_mem },
	{ "proc-mem-read", proc_mem_read }, { "environment", environment }, { "vm-advise", vm_advise }, { "getfd", getfd },
	{ "proc-fd", proc_fd }, { "proc-root", proc_root }, { "compare", compare }, { "kill", kill_ },
	{ "kill-group", kill_group }, { "tkill", tkill_ }, { "tgkill", tgkill_ }, { "queue", queue }, { "tgqueue", tgqueue },
	{ "kill-dirty", kill_dirty }, { "pidfd-signal", pidfd_signal }, { "procfd-signal", procfd_signal },
	{ "pidfd-group", pidfd_group }, { "own-pidfd-group", own_pidfd_group },
	{ "kill-all", kill_all }, { "kill-own-group", kill_own_group }, { "setown", setown }, { "setown-dirty", setown_dirty },
	{ "setown-ex", setown_ex }, { "fiosetown", fiosetown }, { "siocspgrp", siocspgrp }, { "child-signal", child_signal },
	{ "prlimit", prlimit_ }, { "priority", priority }, { "affinity", affinity }, { "idle", idle },
	{ "own-priority", own_priority }, { "priority-of", priority_of }, { "io-priority-of", io_priority_of },
	{ "own-io-priority", own_io_priority }, { "unshare", unshare_ }, { "clone", clone_ }, { "clone3", clone3_ },
	{ "into-cgroup", into_cgroup }, { "enter", enter }, { "enter-pidfd", enter_pidfd }, { "chroot", chroot_ },
	{ "pivot", pivot }, { "mount", mount_ }, { "bind-mount", bind_mount }, { "umount", umount_ }, { "fsopen", fsopen_ },
	{ "open-tree", open_tree_ }, { "fspick", fspick_ }, { "move-mount", move_mount_ },
	{ "mount-setattr", mount_setattr_ }, { "listener", listener }, { "listener-wide", listener_wide },
	{ "narrower", narrower }, { "listener-later", listener_later }, { "memfd-exec", memfd_exec },
	{ "memfd-fexec", memfd_fexec }, { "deleted-exec", deleted_exec }, { "execveat", execveat_ }, { "said", said },
	{ "argv-crossing", argv_crossing }, { "argv-unmapped", argv_unmapped },
	{ NULL, NULL },
};

int main(int argc, char **argv) { (void)argc; return attack_main(attacks, argv); }
