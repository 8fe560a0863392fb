/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain look of a held call: a path in the thread's memory that leads to something that exists, outside /proc.
 * Python is not needed for it, nor the GIL. Whatever is not plain is found out by pause/resolve, the long way: no error
 * has a meaning here. Included after Python.h, with _GNU_SOURCE, by kernel/held.c and subjects/covered.c.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PAGE 4096UL
#define ADDRESS_MAX (1UL << 57)
#define BEGINNING 256UL /* bytes of a path that are read at first */
#ifndef PROC_SUPER_MAGIC
#define PROC_SUPER_MAGIC 0x9fa0 /* linux/magic.h */
#endif

struct look {
	/* what is asked */
	pid_t tid;
	unsigned long address;
	int directory;
	unsigned int user;
	__u64 flags;
	int proc, descriptors;
	bool keep;
	/* what was found: `length` -1 when there is no path */
	bool plain;
	long length;
	int opened;
	long named;
	struct stat status;
	char path[PATH_MAX], name[PATH_MAX];
};

/* A NUL-terminated path of less than PATH_MAX bytes, each byte of it read once: most are short, so first the beginning,
 * then the rest of its page, then what the next page has of it. */
static bool read_path(struct look *look)
{
	size_t got = 0;
	if (look->address >= ADDRESS_MAX - 2 * PAGE)
		return false;
	for (int part = 0; part < 3 && got < sizeof(look->path); part++) {
		size_t most = PAGE - (look->address + got) % PAGE;
		if (part == 0 && most > BEGINNING)
			most = BEGINNING;
		if (most > sizeof(look->path) - got)
			most = sizeof(look->path) - got;
		struct iovec here = {look->path + got, most};
		struct iovec there = {(void *)(look->address + got), most};
		if (process_vm_readv(look->tid, &here, 1, &there, 1, 0) != (ssize_t)most)
			return false;
		char *end = memchr(look->path + got, 0, most);
		got += most;
		if (end) {
			look->length = end - look->path;
			return true;
		}
	}
	return false;
}

/* Where a relative path begins, which is the thread's own whoever may see it in /proc; -1 where it does not matter, -2
 * when that is not plain. */
static int beginning(const struct look *look)
{
	char link[64];
	if (look->path[0] == '/')
		return -1;
	if (look->directory == AT_FDCWD)
		snprintf(link, sizeof(link), "%d/cwd", look->tid);
	else
		snprintf(link, sizeof(link), "%d/fd/%d", look->tid, look->directory);
	int start = openat(look->proc, link, O_PATH | O_CLOEXEC);
	return start < 0 ? -2 : start;
}

static bool describe(struct look *look)
{
	char number[16];
	struct statfs filesystem;
	snprintf(number, sizeof(number), "%d", look->opened);
	look->named = readlinkat(look->descriptors, number, look->name, sizeof(look->name));
	if (look->named <= 0 || look->named >= (long)sizeof(look->name) || fstat(look->opened, &look->status) != 0)
		return false;
	/* In /proc a name means another thing to the daemon than to the thread. Only devices without a disk behind them
	 * have the major number 0 (kdev_t.h). */
	if (look->named >= 6 && memcmp(look->name, "/proc/", 6) == 0)
		return false;
	if (major(look->status.st_dev) != 0)
		return true;
	return fstatfs(look->opened, &filesystem) == 0 && filesystem.f_type != PROC_SUPER_MAGIC;
}

/* The thread's user is taken on for the walk, with it goes what root may do to files: setfsuid(2), capabilities(7). */
static void look_at(struct look *look)
{
	struct open_how how = {.flags = look->flags | O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
	look->length = look->opened = -1;
	look->plain = false;
	if (!read_path(look) || look->length == 0)
		return;
	int start = beginning(look);
	if (start == -2)
		return;
	if (look->user)
		syscall(SYS_setfsuid, look->user);
	look->opened = (int)syscall(SYS_openat2, start, look->path, &how, sizeof(how));
	if (look->user)
		syscall(SYS_setfsuid, 0);
	if (start >= 0)
		close(start);
	if (look->opened < 0)
		return;
	look->plain = describe(look);
	if (!look->plain || !look->keep) {
		close(look->opened);
		look->opened = -1;
	}
}
