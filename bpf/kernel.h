/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's types, as far as the seal reads them.
 *
 * Only the fields that are used stand here: the loader looks up where each of them is in the running kernel's own BTF
 * (CO-RE), so neither offsets nor order mean anything, and no header of whoever builds this is needed. A field that the
 * running kernel does not have makes loading fail, unless the code asks first with bpf_core_field_exists().
 */
#ifndef SEAL_KERNEL_H
#define SEAL_KERNEL_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u16 __sum16;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* linux/bpf.h: what the helpers' declarations and the maps need. */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_INODE_STORAGE = 28,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};
#define BPF_ANY 0
#define BPF_F_NO_PREALLOC 1
#define BPF_F_CLONE (1U << 9)
#define BPF_LOCAL_STORAGE_GET_F_CREATE 1
#define BPF_LINK_GET_FD_BY_ID 30
#define BPF_RB_NO_WAKEUP 1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

union bpf_attr {
	__u32 link_id;
};

struct bpf_map {
	__u32 id;
};

struct bpf_prog_aux {
	__u32 id;
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

struct qstr {
	union {
		struct {
			__u32 hash;
			__u32 len;
		};
		__u64 hash_len;
	};
	const unsigned char *name;
};

struct super_block {
	__u32 s_dev;
	unsigned long s_flags;
	unsigned long s_magic;
};

struct inode {
	__u16 i_mode;
	__u32 i_rdev;
	struct super_block *i_sb;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
};

struct vfsmount;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct cred;

struct file {
	unsigned int f_flags;
	unsigned int f_mode;
	struct path f_path;
	struct inode *f_inode;
};

/* Where O_ASYNC keeps whom it signals. Embedded in struct file until Linux commit 1934b212615d ("file: reclaim 24 bytes
 * from f_owner", in v6.12), since then an object of its own that knows its file. */
struct fown_struct {
	int signum;
};

struct fown_struct___own {
	struct file *file;
};

struct file___own {
	struct fown_struct *f_owner;
};

struct file___embedded {
	struct fown_struct f_owner;
};

struct iattr {
	unsigned int ia_valid;
};

struct tty_driver {
	int major;
	int minor_start;
};

struct tty_struct {
	int index;
	struct tty_driver *driver;
};

struct signal_struct {
	int nr_threads;
	struct tty_struct *tty;
};

struct task_struct {
	unsigned int flags;
	unsigned int in_execve : 1;
	int pid;
	int tgid;
	__u64 self_exec_id;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	const struct cred *real_cred;
	const struct cred *cred;
};

/* The number of the system call that a thread is in: asm/ptrace.h of each architecture. */
struct pt_regs___x86 {
	unsigned long orig_ax;
};

struct pt_regs___arm64 {
	int syscallno;
};

struct linux_binprm {
	unsigned long p;
	struct file *file;
	int argc;
	int envc;
	const char *filename;
	const char *interp;
};

struct sockaddr {
	__u16 sa_family;
};

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

struct sock_common {
	__u16 skc_family;
	__u16 skc_num;
	__be32 skc_rcv_saddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_type;
	__u16 sk_protocol;
};

struct socket {
	short type;
	struct file *file;
	struct sock *sk;
};

struct sockaddr_un {
	__u16 sun_family;
	char sun_path[108];
};

struct unix_address {
	int len;
	struct sockaddr_un name[0];
};

struct unix_sock {
	struct sock sk;
	struct unix_address *addr;
	struct path path;
	struct sock *peer;
};

struct msghdr {
	void *msg_name;
	int msg_namelen;
	unsigned int msg_flags;
};

#pragma clang attribute pop

/* Types that stand in the arguments of hooks and are not looked into. */
struct kernel_siginfo;
struct perf_event_attr;
struct user_namespace;
struct mnt_idmap;
struct posix_acl;
struct io_uring_cmd;
struct timespec64;
struct timezone;
/* … and in the declarations of helpers that are not used. */
struct bpf_sock;
struct bpf_timer;

/* asm-generic/errno-base.h, errno.h */
#define EPERM 1
#define ESRCH 3
#define EAGAIN 11
#define EEXIST 17
#define EINVAL 22
#define EBUSY 16

/* asm-generic/fcntl.h, linux/fs.h: the same on x86-64 and aarch64 */
#define O_TRUNC 01000
#define O_TMPFILE_BIT 020000000
#define FMODE_READ 0x1
#define FMODE_WRITE 0x2
#define FMODE_EXEC 0x20
#define FMODE_PATH 0x4000
#define FMODE_CREATED 0x100000
#define FMODE_NOACCOUNT 0x20000000

/* linux/stat.h */
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFLNK 0120000
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define S_IFDIR 0040000
#define S_IFCHR 0020000
#define S_IFIFO 0010000

/* linux/magic.h; pidfs: linux/pidfd.h */
#define TMPFS_MAGIC 0x01021994
#define PIPEFS_MAGIC 0x50495045
#define ANON_INODE_FS_MAGIC 0x09041934
#define SOCKFS_MAGIC 0x534F434B
#define PID_FS_MAGIC 0x50494446
#define SB_KERNMOUNT (1 << 22)

/* linux/sched.h */
#define PF_EXITING 0x4
#define PF_DUMPCORE 0x200

/* linux/socket.h, linux/in.h, linux/net.h */
#define AF_UNSPEC 0
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_NETLINK 16
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define MSG_FASTOPEN 0x20000000

/* linux/ptrace.h */
#define PTRACE_MODE_READ 0x1
#define PTRACE_MODE_ATTACH 0x2
#define PTRACE_MODE_NOAUDIT 0x4

/* linux/fs.h: iattr.ia_valid */
#define ATTR_SIZE (1 << 3)
#define ATTR_ATIME (1 << 4)
#define ATTR_MTIME (1 << 5)

#define SIGKILL 9

#endif
