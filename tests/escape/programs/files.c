/* Ways to reach a file. Every attack's first argument is the path; "changing" means that the file differs afterwards. */
#include "attack.h"
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

static long append(long descriptor)
{
	if (descriptor < 0)
		return descriptor;
	return CALL3(SYS_write, descriptor, "attack\n", 7) == 7 ? 0 : -EIO;
}

static long write_(char **a) { return append(CALL3(SYS_open, a[0], O_WRONLY | O_APPEND, 0)); }
static long create(char **a) { return append(CALL4(SYS_openat, AT_FDCWD, a[0], O_WRONLY | O_CREAT | O_APPEND, 0644)); }
static long creat_(char **a) { return CALL2(SYS_creat, a[0], 0644); }

static long read_(char **a)
{
	char byte;
	long descriptor = CALL3(SYS_open, a[0], O_RDONLY, 0);
	return descriptor < 0 ? descriptor : CALL3(SYS_read, descriptor, &byte, 1);
}

static long openat2_(char **a)
{
	struct open_how how = { .flags = O_WRONLY | O_APPEND };
	return append(CALL4(SYS_openat2, AT_FDCWD, a[0], &how, sizeof how));
}

/* Registers with rubbish above the 32 bits that the kernel looks at. */
static long dirty_registers(char **a)
{
	return append(CALL3(SYS_openat, 0xdeadbeef00000000ull | (uint32_t)AT_FDCWD, a[0],
			    0xbadc0de700000000ull | O_WRONLY | O_APPEND));
}

/* int 0x80: the table of 32-bit numbers. Its pointers are 32 bits wide. */
static long i386(char **a)
{
	char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		setup_failed("mmap", -errno);
	strncpy(low, a[0], 4095);
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(5L), "b"(low), "c"((long)(O_WRONLY | O_APPEND)), "d"(0L)
			 : "memory", "r8", "r9", "r10", "r11");
	return append((int)result);
}

static long x32(char **a) { return append(CALL3(0x40000000 | SYS_open, a[0], O_WRONLY | O_APPEND, 0)); }

static long by_handle(char **a)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + 128];
	} u = { .handle.handle_bytes = 128 };
	int mount;
	need("name_to_handle_at", CALL5(SYS_name_to_handle_at, AT_FDCWD, a[0], &u, &mount, 0));
	char above[4096];
	snprintf(above, sizeof above, "%s", a[0]);
	*strrchr(above, '/') = 0;
	long on = need("open the mount", CALL3(SYS_open, above, O_RDONLY | O_DIRECTORY, 0));
	return append(CALL3(SYS_open_by_handle_at, on, &u, O_WRONLY | O_APPEND));
}

/* ---- io_uring: requests in shared memory, which no filter sees */

struct ring {
	int descriptor;
	struct io_uring_params p;
	char *sq;
	struct io_uring_sqe *sqes;
};

static long ring_open(struct ring *ring)
{
	memset(ring, 0, sizeof *ring);
	ring->descriptor = CALL2(SYS_io_uring_setup, 4, &ring->p);
	if (ring->descriptor < 0)
		return ring->descriptor;
	if (!(ring->p.features & IORING_FEAT_SINGLE_MMAP))
		setup_failed("io_uring", -ENOSYS);
	size_t sq = ring->p.sq_off.array + ring->p.sq_entries * 4;
	size_t cq = ring->p.cq_off.cqes + ring->p.cq_entries * sizeof(struct io_uring_cqe);
	ring->sq = mmap(NULL, sq > cq ? sq : cq, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->descriptor,
			IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, ring->p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, ring->descriptor, IORING_OFF_SQES);
	return ring->sq == MAP_FAILED || (void *)ring->sqes == MAP_FAILED ? -ENOMEM : 0;
}

static long ring_do(struct ring *ring, struct io_uring_sqe sqe)
{
	volatile uint32_t *tail = (uint32_t *)(ring->sq + ring->p.sq_off.tail);
	uint32_t mask = *(uint32_t *)(ring->sq + ring->p.sq_off.ring_mask);
	uint32_t *array = (uint32_t *)(ring->sq + ring->p.sq_off.array);
	ring->sqes[*tail & mask] = sqe;
	array[*tail & mask] = *tail & mask;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	long entered = CALL6(SYS_io_uring_enter, ring->descriptor, 1, 1, IORING_ENTER_GETEVENTS, 0, 0);
	if (entered < 0)
		return entered;
	uint32_t *head = (uint32_t *)(ring->sq + ring->p.cq_off.head);
	uint32_t cq_mask = *(uint32_t *)(ring->sq + ring->p.cq_off.ring_mask);
	struct io_uring_cqe *cqe = (struct io_uring_cqe *)(ring->sq + ring->p.cq_off.cqes) + (*head & cq_mask);
	long result = cqe->res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return result;
}

static long uring_open(char **a)
{
	struct ring ring;
	long made = ring_open(&ring);
	if (made < 0)
		return made;
	return append(ring_do(&ring, (struct io_uring_sqe){ .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD,
							     .addr = (uintptr_t)a[0], .open_flags = O_WRONLY | O_APPEND }));
}

static long uring_unlink(char **a)
{
	struct ring ring;
	long made = ring_open(&ring);
	if (made < 0)
		return made;
	return ring_do(&ring, (struct io_uring_sqe){ .opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .addr = (uintptr_t)a[0] });
}

static long uring_connect(char **a)
{
	struct ring ring;
	long made = ring_open(&ring);
	if (made < 0)
		return made;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	strncpy(to.sun_path, a[0], sizeof to.sun_path - 1);
	long sock = need("socket", CALL3(SYS_socket, AF_UNIX, SOCK_STREAM, 0));
	return ring_do(&ring, (struct io_uring_sqe){ .opcode = IORING_OP_CONNECT, .fd = sock, .addr = (uintptr_t)&to,
						      .off = sizeof to });
}

/* ---- changes through a descriptor that is open for reading only */

static long readable(char **a) { return need("open for reading", CALL3(SYS_open, a[0], O_RDONLY, 0)); }

static long ro_setflags(char **a)
{
	int flags = 0;
	long descriptor = readable(a);
	need("FS_IOC_GETFLAGS", CALL3(SYS_ioctl, descriptor, FS_IOC_GETFLAGS, &flags));
	flags ^= FS_NODUMP_FL;
	return CALL3(SYS_ioctl, descriptor, FS_IOC_SETFLAGS, &flags);
}

/* The kernel looks at 32 bits of the request. */
static long ro_setflags_dirty(char **a)
{
	int flags = 0;
	long descriptor = readable(a);
	need("FS_IOC_GETFLAGS", CALL3(SYS_ioctl, descriptor, FS_IOC_GETFLAGS, &flags));
	flags ^= FS_NODUMP_FL;
	return CALL3(SYS_ioctl, descriptor, 0xfeed00000000ull | FS_IOC_SETFLAGS, &flags);
}

static const struct timespec times_[2] = { { 86400, 0 }, { 86400, 0 } };

static long ro_futimens(char **a) { return CALL4(SYS_utimensat, readable(a), NULL, times_, 0); }
static long ro_fchmod(char **a) { return CALL2(SYS_fchmod, readable(a), 0751); }
static long ro_fchown(char **a) { return CALL3(SYS_fchown, readable(a), -1, getgid()); }
static long ro_fsetxattr(char **a) { return CALL5(SYS_fsetxattr, readable(a), "user.attack", "1", 1, 0); }
static long ro_ftruncate(char **a) { return CALL2(SYS_ftruncate, readable(a), 0); }
static long ro_fallocate(char **a) { return CALL4(SYS_fallocate, readable(a), 0, 0, 4096); }
static long ro_trunc(char **a) { return CALL3(SYS_open, a[0], O_RDONLY | O_TRUNC, 0); }

static long ro_mmap(char **a)
{
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, readable(a), 0);
	if (p == MAP_FAILED)
		return -errno;
	p[0] = 'X';
	return 0;
}

/* ---- by name */

static long truncate_(char **a) { return CALL2(SYS_truncate, a[0], 0); }
static long chmod_(char **a) { return CALL2(SYS_chmod, a[0], 0751); }
static long fchmodat2(char **a) { return CALL4(452, AT_FDCWD, a[0], 0751, 0); }
static long chown_(char **a) { return CALL3(SYS_chown, a[0], -1, getgid()); }
static long utimens(char **a) { return CALL4(SYS_utimensat, AT_FDCWD, a[0], times_, 0); }
static long lutimens(char **a) { return CALL4(SYS_utimensat, AT_FDCWD, a[0], times_, AT_SYMLINK_NOFOLLOW); }
static long futimesat_(char **a) { return CALL3(SYS_futimesat, AT_FDCWD, a[0], NULL); }
static long utime_(char **a) { return CALL2(SYS_utime, a[0], NULL); }
static long setxattr_(char **a) { return CALL5(SYS_setxattr, a[0], "user.attack", "1", 1, 0); }
static long unlink_(char **a) { return CALL1(SYS_unlink, a[0]); }
static long rmdir_(char **a) { return CALL1(SYS_rmdir, a[0]); }
static long mkdir_(char **a) { return CALL2(SYS_mkdir, a[0], 0755); }
static long rename_(char **a) { return CALL2(SYS_rename, a[0], a[1]); }
static long exchange(char **a) { return CALL5(SYS_renameat2, AT_FDCWD, a[0], AT_FDCWD, a[1], 2); }
static long link_(char **a) { return CALL2(SYS_link, a[0], a[1]); }
static long symlink_(char **a) { return CALL2(SYS_symlink, a[0], a[1]); }
static long fifo(char **a) { return CALL3(SYS_mknod, a[0], S_IFIFO | 0644, 0); }
static long device(char **a) { return CALL3(SYS_mknod, a[0], S_IFBLK | 0644, 0x800); }
static long chardev(char **a) { return CALL4(SYS_mknodat, AT_FDCWD, a[0], S_IFCHR | 0644, 0x101); }

/* ---- through descriptors that name and do not open */

static long named(char **a) { return need("open O_PATH", CALL3(SYS_open, a[0], O_PATH, 0)); }

static long reopen(char **a)
{
	char path[64];
	long descriptor = named(a);
	if (strncmp(a[1], "700:", 4) == 0) { /* a number that is not the supervisor's by chance */
		need("dup2", CALL2(SYS_dup2, descriptor, 700));
		snprintf(path, sizeof path, "%s", a[1] + 4);
	} else {
		snprintf(path, sizeof path, a[1], (int)descriptor);
	}
	return append(CALL3(SYS_open, path, O_WRONLY | O_APPEND, 0));
}

static long path_times(char **a) { return CALL4(SYS_utimensat, named(a), "", times_, AT_EMPTY_PATH); }
static long path_chown(char **a) { return CALL5(SYS_fchownat, named(a), "", -1, getgid(), AT_EMPTY_PATH); }

static long path_link(char **a)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", (int)named(a));
	return CALL5(SYS_linkat, AT_FDCWD, path, AT_FDCWD, a[1], AT_SYMLINK_FOLLOW);
}

static long path_link_empty(char **a) { return CALL5(SYS_linkat, named(a), "", AT_FDCWD, a[1], AT_EMPTY_PATH); }

static long beneath(char **a)
{
	long directory = need("open O_PATH", CALL3(SYS_open, a[0], O_PATH | O_DIRECTORY, 0));
	return append(CALL3(SYS_openat, directory, a[1], O_WRONLY | O_APPEND));
}

static long chdir_write(char **a)
{
	need("chdir", CALL1(SYS_chdir, a[0]));
	return append(CALL3(SYS_open, a[1], O_WRONLY | O_APPEND, 0));
}

/* A thread with a working directory of its own; the process's is harmless. */
static char **thread_arguments;
static void *in_thread(void *unused)
{
	(void)unused;
	need("unshare CLONE_FS", CALL1(SYS_unshare, 0x200));
	need("chdir", CALL1(SYS_chdir, thread_arguments[0]));
	return (void *)append(CALL3(SYS_open, thread_arguments[1], O_WRONLY | O_APPEND, 0));
}

static long thread_cwd(char **a)
{
	pthread_t thread;
	void *result;
	thread_arguments = a;
	pthread_create(&thread, NULL, in_thread, NULL);
	pthread_join(thread, &result);
	return (long)result;
}

/* A file without a name, which gets one afterwards. */
static long tmpfile_(char **a)
{
	char path[64];
	long descriptor = CALL3(SYS_open, a[0], O_TMPFILE | O_RDWR, 0644);
	if (descriptor < 0)
		return descriptor;
	snprintf(path, sizeof path, "/proc/self/fd/%ld", descriptor);
	return CALL5(SYS_linkat, AT_FDCWD, path, AT_FDCWD, a[1], AT_SYMLINK_FOLLOW);
}

/* A name that looks as if its file were gone. The file is the first argument; it lives. */
static long mknod_reg(char **a) { return CALL3(SYS_mknod, a[0], S_IFREG | 0644, 0); }

/* ---- arguments that cannot be read, or only in parts */

static long null_path(char **a) { (void)a; return CALL3(SYS_open, NULL, O_WRONLY, 0); }
static long high_path(char **a) { (void)a; return CALL3(SYS_open, 0xffff800000000000ull, O_WRONLY, 0); }
static long unmapped_path(char **a)
{
	(void)a;
	char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(p, 4096);
	return CALL3(SYS_open, p, O_WRONLY, 0);
}
static long unterminated_path(char **a)
{
	(void)a;
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(p, 'a', 4096);
	munmap(p + 4096, 4096);
	return CALL3(SYS_open, p + 4000, O_WRONLY | O_CREAT, 0644);
}
static long long_path(char **a)
{
	(void)a;
	static char path[5000];
	memset(path, '/', 4999);
	return CALL3(SYS_open, path, O_WRONLY | O_CREAT, 0644);
}
static long crossing_path(char **a)
{
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = p + 4096 - strlen(a[0]) / 2;
	strcpy(at, a[0]);
	return append(CALL3(SYS_open, at, O_WRONLY | O_APPEND, 0));
}

static const struct attack attacks[] = {
	{ "write", write_ }, { "create", create }, { "creat", creat_ }, { "read", read_ }, { "openat2", openat2_ },
	{ "dirty-registers", dirty_registers }, { "i386", i386 }, { "x32", x32 }, { "by-handle", by_handle },
	{ "uring-open", uring_open }, { "uring-unlink", uring_unlink }, { "uring-connect", uring_connect },
	{ "ro-setflags", ro_setflags }, { "ro-setflags-dirty", ro_setflags_dirty }, { "ro-futimens", ro_futimens },
	{ "ro-fchmod", ro_fchmod }, { "ro-fchown", ro_fchown }, { "ro-fsetxattr", ro_fsetxattr },
	{ "ro-ftruncate", ro_ftruncate }, { "ro-fallocate", ro_fallocate }, { "ro-trunc", ro_trunc }, { "ro-mmap", ro_mmap },
	{ "truncate", truncate_ }, { "chmod", chmod_ }, { "fchmodat2", fchmodat2 }, { "chown", chown_ },
	{ "utimens", utimens }, { "lutimens", lutimens }, { "futimesat", futimesat_ }, { "utime", utime_ },
	{ "setxattr", setxattr_ }, { "unlink", unlink_ }, { "rmdir", rmdir_ }, { "mkdir", mkdir_ }, { "rename", rename_ },
	{ "exchange", exchange }, { "link", link_ }, { "symlink", symlink_ }, { "fifo", fifo }, { "device", device },
	{ "chardev", chardev }, { "reopen", reopen }, { "path-times", path_times }, { "path-chown", path_chown },
	{ "path-link", path_link }, { "path-link-empty", path_link_empty }, { "beneath", beneath },
	{ "chdir-write", chdir_write }, { "thread-cwd", thread_cwd }, { "tmpfile", tmpfile_ }, { "mknod-reg", mknod_reg },
	{ "null-path", null_path }, { "high-path", high_path }, { "unmapped-path", unmapped_path },
	{ "unterminated-path", unterminated_path }, { "long-path", long_path }, { "crossing-path", crossing_path },
	{ NULL, NULL },
};

int main(int argc, char **argv) { (void)argc; return attack_main(attacks, argv); }
