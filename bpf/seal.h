/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the seal and the daemon tell each other. daemon/governed_mcpd/grant/layout.py has the same in Python, and a test
 * compares every offset with the BTF of the object that was built.
 */
#ifndef SEAL_H
#define SEAL_H

/* Goes up with every change of what stands below: a daemon does not take up pins of another layout. */
#define SEAL_LAYOUT 1

#define SEAL_NAME_BYTES 256
#define SEAL_ID_BYTES 64
#define SEAL_PROGRAMS 4
#define SEAL_ADDRESS_BYTES 112
#define SEAL_PATH_BYTES 1024

/* Long texts (argv and environment of an exec, the target of a symlink) lie in chunks of whole pieces. */
#define SEAL_PIECE_BYTES 512
#define SEAL_PIECES 7
#define SEAL_CHUNK_BYTES (SEAL_PIECE_BYTES * SEAL_PIECES)
#define SEAL_TEXT_MOST (256 * 1024)

/* The operations of nouns/operation.py, in its order. */
enum seal_operation {
	SEAL_NONE,
	SEAL_FILE_READ,
	SEAL_FILE_WRITE,
	SEAL_FILE_CREATE,
	SEAL_FILE_TRUNCATE,
	SEAL_FILE_UNLINK,
	SEAL_FILE_RMDIR,
	SEAL_FILE_RENAME,
	SEAL_FILE_LINK,
	SEAL_FILE_SYMLINK,
	SEAL_FILE_MKDIR,
	SEAL_FILE_MKNOD,
	SEAL_FILE_CHMOD,
	SEAL_FILE_CHOWN,
	SEAL_FILE_XATTR,
	SEAL_FILE_TIMES,
	SEAL_FILE_IOCTL,
	SEAL_NET_CONNECT,
	SEAL_NET_BIND,
	SEAL_NET_LISTEN,
	SEAL_NET_SEND,
	SEAL_PROCESS_EXEC,
	SEAL_PROCESS_SIGNAL,
	/* What no operation fits; these are named by their hook. */
	SEAL_RECEIVE = 64,
	SEAL_CHROOT,
	SEAL_MOUNT,
	SEAL_NAMESPACE,
	SEAL_BPF,
	SEAL_PERF,
	SEAL_PTRACE,
	SEAL_MODULE,
	SEAL_SYSLOG,
	SEAL_URING,
	SEAL_QUOTA,
	SEAL_CLOCK,
	SEAL_SIGIO,
	SEAL_STEER,
};

/* A file object, and the directory entry where the operation is one on the entry. An id of 0 is no object at all. */
struct seal_target {
	__u64 object;
	__u64 parent;
	__u8 name[SEAL_NAME_BYTES]; /* zero-padded */
};

/* Where a socket leads. IPv4 addresses are mapped into IPv6, so that one host has one form. */
struct seal_address {
	__u32 family; /* AF_INET6 for both, AF_UNIX, AF_UNSPEC */
	__u32 protocol; /* IPPROTO_TCP, IPPROTO_UDP; 0 for unix */
	__u32 port; /* in the host's order */
	__u32 bytes_used; /* 16, or the length of an abstract name; 0 for a unix socket that is a file */
	__u8 bytes[SEAL_ADDRESS_BYTES];
};

/* One thread may have one effect, once. Keyed by the thread's id in the initial pid namespace. */
struct seal_grant {
	__u64 sandbox;
	__u64 expires; /* CLOCK_MONOTONIC, nanoseconds */
	__u32 operation;
	__u32 stage; /* how far the effect has come; written by the seal */
	struct seal_target targets[2];
	__u64 programs[SEAL_PROGRAMS];
	__u32 program_count;
	__u32 argc;
	__u32 envc;
	__u32 text_bytes;
	__s32 process;
	__u32 unused;
	struct seal_address address;
};

struct seal_text_key {
	__u32 thread;
	__u32 chunk;
};

struct seal_text {
	__u8 bytes[SEAL_CHUNK_BYTES]; /* zero-padded */
};

/* What a file object (inode) carries. */
struct seal_object {
	__u64 id; /* given by the daemon; 0: none yet */
	__u64 writer; /* the sandbox that was last granted to write it */
	__u64 maker; /* the sandbox that made it, 0: it was there before, or was made outside */
	__u32 labelled; /* some sandbox may not open it: ask the labels */
	__u32 unused;
};

struct seal_label_key {
	__u64 sandbox;
	__u64 object;
};

#define SEAL_SANDBOX_READS 1 /* every opening for reading needs a grant, once the first program runs */

struct seal_sandbox {
	__u8 id[SEAL_ID_BYTES]; /* zero-padded */
	__u32 flags;
	__u32 terminal; /* device number of the terminal that the adopted process had, as in seal_event.device */
	__u64 window; /* events of one sandbox per second: see events.h */
	__u64 count;
	__u64 dropped;
};

enum seal_request_kind {
	SEAL_REQUEST_NONE,
	SEAL_REQUEST_CLAIM, /* the caller is the daemon from now on */
	SEAL_REQUEST_ADOPT, /* the process that is signalled gets the mark */
};

/* Written by the daemon before it sends signal 0: the program that sees the signal carries it out. */
struct seal_request {
	__u32 kind;
	__s32 by; /* process id of the one who asks */
	__s32 process; /* process id of the one who is signalled */
	__s32 result; /* 1: done; a negative errno */
	__u64 sandbox;
	__u32 flags;
	__u32 unused;
};

/* The daemon that keeps this seal. */
struct seal_keeper {
	__u64 task; /* address of its thread group leader; 0: none */
	__s32 process;
	__u32 layout;
};

enum seal_own_kind {
	SEAL_OWN_MAP = 1,
	SEAL_OWN_PROGRAM,
	SEAL_OWN_LINK,
};

struct seal_own_key {
	__u32 kind;
	__u32 id;
};

enum seal_event_kind {
	SEAL_EVENT_NOTHING,
	SEAL_EVENT_PATH,
	SEAL_EVENT_ADDRESS,
	SEAL_EVENT_PROCESS,
};

enum seal_reason {
	SEAL_NO_GRANT, /* there is no grant for this effect */
	SEAL_OTHER_OBJECT, /* there is one for this operation, and it names another object */
	SEAL_EXPIRED,
	SEAL_NEVER, /* no grant could allow it */
	SEAL_OTHER_TEXT, /* argv, environment or the text of a symlink are not those that were granted */
};

struct seal_event {
	__u64 sandbox;
	__u64 dropped;
	__u32 thread;
	__u32 operation;
	__u32 kind;
	__u32 reason;
	__u32 device; /* of the filesystem that the path lies on: major << 20 | minor */
	__s32 process;
	__u32 path_bytes; /* names from the object upwards, each with its NUL, up to the root of the filesystem */
	__u32 cut; /* there were more names */
	struct seal_address address;
	__u8 path[SEAL_PATH_BYTES + SEAL_NAME_BYTES];
};

#endif
