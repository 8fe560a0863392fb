/* Calls that reach the machine or the user's other processes without a path. Where the real thing would harm the machine
 * that tests run on, arguments are such that the kernel says EINVAL or the like after it has checked permission: what
 * is refused before that says EPERM, or ENOSYS. */
#include "attack.h"
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <termios.h>

/* The kernel got as far as looking at what was asked. */
static long reached(long result)
{
	return result == -EINVAL || result == -EFAULT || result == -ENOENT || result == -ENOEXEC || result == -EBADF ||
			       result == -ENOTBLK || result == -ENODEV
		       ? 0 : result;
}

static long bpf_(char **a)
{
	union bpf_attr attr;
	(void)a;
	memset(&attr, 0, sizeof attr);
	attr.map_type = BPF_MAP_TYPE_ARRAY;
	attr.key_size = attr.value_size = 4;
	attr.max_entries = 1;
	return CALL3(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
}
static long perf(char **a)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .exclude_kernel = 1, .exclude_hv = 1 };
	(void)a;
	return reached(CALL5(SYS_perf_event_open, &attr, 0, -1, -1, 0));
}
static long uffd(char **a) { (void)a; return CALL1(SYS_userfaultfd, UFFD_USER_MODE_ONLY); }
static long add_key(char **a) { (void)a; return CALL5(SYS_add_key, "user", "governed-attack", "x", 1, -2 /* process keyring */); }
static long keyctl(char **a) { (void)a; return CALL3(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -2, 1); }
static long request_key(char **a) { (void)a; long r = CALL4(SYS_request_key, "user", "governed-none", NULL, 0); return r == -126 /* ENOKEY */ ? 0 : r; }
static long shm(char **a)
{
	(void)a;
	long id = CALL3(SYS_shmget, IPC_PRIVATE, 4096, 0600);
	if (id >= 0)
		CALL3(SYS_shmctl, id, IPC_RMID, NULL);
	return id;
}
static long sem(char **a)
{
	(void)a;
	long id = CALL3(SYS_semget, IPC_PRIVATE, 1, 0600);
	if (id >= 0)
		CALL3(SYS_semctl, id, 0, IPC_RMID);
	return id;
}
static long msg(char **a)
{
	(void)a;
	long id = CALL2(SYS_msgget, IPC_PRIVATE, 0600);
	if (id >= 0)
		CALL3(SYS_msgctl, id, IPC_RMID, NULL);
	return id;
}
static long mq(char **a)
{
	char name[64];
	(void)a;
	snprintf(name, sizeof name, "governed-attack-%d", getpid());
	long queue = CALL4(SYS_mq_open, name, O_CREAT | O_RDWR, 0600, NULL);
	if (queue >= 0)
		CALL1(SYS_mq_unlink, name);
	return queue;
}
static long persona(char **a) { (void)a; return CALL1(SYS_personality, READ_IMPLIES_EXEC); }
static long persona_query(char **a) { (void)a; return CALL1(SYS_personality, 0xffffffff); }
static long reboot_(char **a) { (void)a; return reached(CALL4(SYS_reboot, 0, 0, 0, NULL)); }
static long kexec(char **a) { (void)a; return reached(CALL4(SYS_kexec_load, 0, 1000, NULL, 0)); }
static long kexec_file(char **a) { (void)a; return reached(CALL5(SYS_kexec_file_load, -1, -1, 0, NULL, 0)); }
static long swapon_(char **a) { (void)a; return reached(CALL2(SYS_swapon, "/nonexistent", 0)); }
static long swapoff_(char **a) { (void)a; return reached(CALL1(SYS_swapoff, "/nonexistent")); }
static long clock_(char **a) { struct timeval t = { 0, -1 }; (void)a; return reached(CALL2(SYS_settimeofday, &t, NULL)); }
static long clock_set(char **a) { struct timespec t = { 0, -1 }; (void)a; return reached(CALL2(SYS_clock_settime, 0, &t)); }
static long adjust(char **a) { struct timex t = { .modes = 0 }; (void)a; return CALL1(SYS_adjtimex, &t); }
static long module(char **a) { (void)a; return reached(CALL3(SYS_init_module, NULL, 0, NULL)); }
static long module_file(char **a) { (void)a; return reached(CALL3(SYS_finit_module, -1, "", 0)); }
static long unmodule(char **a) { (void)a; return reached(CALL2(SYS_delete_module, "governed_none", O_NONBLOCK)); }
static long acct_(char **a) { (void)a; return reached(CALL1(SYS_acct, "/nonexistent")); }
static long hostname(char **a) { (void)a; return reached(CALL2(SYS_sethostname, NULL, 5)); }
static long ports(char **a) { (void)a; return CALL1(SYS_iopl, 0); }
static long log_(char **a) { (void)a; return CALL3(SYS_syslog, 10 /* size of the buffer */, NULL, 0); }
static long quota(char **a) { (void)a; return reached(CALL4(SYS_quotactl, 0x80000100, "/nonexistent", 0, NULL)); }
static long fanotify(char **a) { (void)a; return CALL2(SYS_fanotify_init, 0x200 /* FAN_REPORT_FID */, O_RDONLY); }
static long unknown(char **a) { (void)a; long r = CALL1(600, 0); return r; }
static long negative(char **a) { (void)a; return CALL1(-1, 0); }
static long dumps(char **a)
{
	(void)a;
	unsigned long limits[2] = { 1 << 20, 1 << 20 };
	return CALL4(SYS_prlimit64, 0, 4 /* RLIMIT_CORE */, limits, NULL);
}
static long prctl_mm(char **a) { (void)a; int n; return reached(CALL5(SYS_prctl, 35 /* PR_SET_MM */, 15 /* the size of its structure */, &n, 0, 0)); }
static long ptracer(char **a) { (void)a; return reached(CALL5(SYS_prctl, 0x59616d61, -1, 0, 0, 0)); }
static long dispatch(char **a) { (void)a; return CALL5(SYS_prctl, 59, 0, 0, 0, 0); }
static long own_name(char **a) { (void)a; return CALL5(SYS_prctl, 15, "attack", 0, 0, 0); }

/* ---- terminals; descriptor 0 is one */

static long sti(char **a) { return CALL3(SYS_ioctl, 0, TIOCSTI, a[0]); }
static long sti_dirty(char **a) { return CALL3(SYS_ioctl, 0, 0xffffffff00000000ull | TIOCSTI, a[0]); }
static long linux_(char **a) { char code = 2; (void)a; long r = CALL3(SYS_ioctl, 0, TIOCLINUX, &code); return r == -ENOTTY ? 0 : r; }
static long discipline(char **a) { int n = 0; (void)a; return CALL3(SYS_ioctl, 0, TIOCSETD, &n); }
static long async(char **a) { (void)a; return CALL3(SYS_fcntl, 0, F_SETFL, O_ASYNC); }
static long async_ioctl(char **a) { int on = 1; (void)a; return CALL3(SYS_ioctl, 0, FIOASYNC, &on); }
static long size(char **a) { unsigned short w[4]; (void)a; return CALL3(SYS_ioctl, 0, TIOCGWINSZ, w); }
static long tty_read(char **a) { return CALL3(SYS_open, a[0], O_RDONLY | O_NOCTTY | O_NONBLOCK, 0); }
static long tty_write(char **a)
{
	long t = CALL3(SYS_open, a[0], O_WRONLY | O_NOCTTY | O_NONBLOCK, 0);
	return t < 0 ? t : CALL3(SYS_write, t, "attack\n", 7);
}
static long own_pty(char **a)
{
	int unlock = 0, number;
	char path[64], got[16] = "";
	(void)a;
	long master = CALL3(SYS_open, "/dev/ptmx", O_RDWR | O_NOCTTY, 0);
	if (master < 0)
		return master;
	need("TIOCSPTLCK", CALL3(SYS_ioctl, master, TIOCSPTLCK, &unlock));
	need("TIOCGPTN", CALL3(SYS_ioctl, master, TIOCGPTN, &number));
	snprintf(path, sizeof path, "/dev/pts/%d", number);
	long slave = CALL3(SYS_open, path, O_RDWR | O_NOCTTY, 0);
	if (slave < 0)
		return slave;
	need("write", CALL3(SYS_write, slave, "x\n", 2));
	need("read", CALL3(SYS_read, master, got, sizeof got));
	return got[0] == 'x' ? 0 : -EIO;
}

static const struct attack attacks[] = {
	{ "bpf", bpf_ }, { "perf", perf }, { "userfaultfd", uffd }, { "add-key", add_key }, { "keyctl", keyctl },
	{ "request-key", request_key }, { "shm", shm }, { "sem", sem }, { "msg", msg }, { "mq", mq }, { "personality", persona },
	{ "personality-query", persona_query }, { "reboot", reboot_ }, { "kexec", kexec }, { "kexec-file", kexec_file },
	{ "swapon", swapon_ }, { "swapoff", swapoff_ }, { "clock", clock_ }, { "clock-set", clock_set }, { "adjust", adjust },
	{ "module", module }, { "module-file", module_file }, { "unmodule", unmodule }, { "acct", acct_ },
	{ "hostname", hostname }, { "ports", ports }, { "log", log_ }, { "quota", quota }, { "fanotify", fanotify },
	{ "unknown", unknown }, { "negative", negative }, { "dumps", dumps }, { "prctl-mm", prctl_mm }, { "ptracer", ptracer },
	{ "dispatch", dispatch }, { "own-name", own_name }, { "sti", sti }, { "sti-dirty", sti_dirty }, { "linux", linux_ },
	{ "discipline", discipline }, { "size", size }, { "async", async }, { "async-ioctl", async_ioctl }, { "tty-read", tty_read }, { "tty-write", tty_write },
	{ "own-pty", own_pty },
	{ NULL, NULL },
};

int main(int argc, char **argv) { (void)argc; return attack_main(attacks, argv); }
