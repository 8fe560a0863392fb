/* SPDX-License-Identifier: Apache-2.0 */
/*
 * race MODE GOOD BAD ATTEMPTS: makes one system call again and again, while a second thread switches its argument between
 * GOOD and BAD. A supervisor approves GOOD; the attack has won when BAD happened. What it can see of that itself it prints
 * as "won N worked N" at its end; the rest the supervisor sees.
 *
 * Before it begins it waits to be marked, loads a filter for the call alone, and says the number of the listener.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static union {
	char text[512];
	struct sockaddr_in address;
} good, bad;
static union {
	volatile char text[512];
	volatile unsigned long words[64];
} shared;
static size_t used;
static volatile int over;

static void *flip(void *unused)
{
	unsigned int random = 12345;

	while (!over) {
		/* The ends of both are alike: one store of eight bytes switches from one to the other. */
		memcpy((void *)shared.text, good.text, used);
		random = random * 1103515245 + 12345;
		for (unsigned int wait = random >> 20; wait && !over; wait--)
			__asm__ volatile("");
		memcpy((void *)shared.text, bad.text, used);
		random = random * 1103515245 + 12345;
		for (unsigned int wait = random >> 20; wait && !over; wait--)
			__asm__ volatile("");
	}
	return unused;
}

static int hold(int number)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static int same(int descriptor, const char *path)
{
	struct stat one, other;

	return !fstat(descriptor, &one) && !stat(path, &other) && one.st_ino == other.st_ino && one.st_dev == other.st_dev;
}

/* What an opened descriptor is: 1: the bad file, 0: the good one, -1: it was not opened. */
static int opened(int flags)
{
	int descriptor = syscall(SYS_openat, AT_FDCWD, (char *)shared.text, flags, 0600);
	int result;

	if (descriptor < 0)
		return -1;
	result = same(descriptor, bad.text);
	close(descriptor);
	return result;
}

static int connected(void)
{
	int sock = socket(AF_INET, SOCK_DGRAM, 0), result = -1;
	struct sockaddr_in peer;
	socklen_t length = sizeof(peer);

	if (!connect(sock, (struct sockaddr *)shared.text, sizeof(peer)) &&
	    !getpeername(sock, (struct sockaddr *)&peer, &length))
		result = peer.sin_port == bad.address.sin_port;
	close(sock);
	return result;
}

/* A program that was started says by its exit status what it is: 20: bad, 10: good. */
static int started(const char *program, char *const *argv)
{
	static char *const none[] = { NULL };
	int status = 0;
	pid_t child = vfork();

	if (!child) {
		syscall(SYS_execve, program, argv, none);
		_exit(30);
	}
	waitpid(child, &status, 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status) == 30)
		return -1;
	return WEXITSTATUS(status) == 20;
}

static int attempt(const char *mode, char *program)
{
	char *plain[] = { "program", NULL }, *argued[] = { "program", (char *)shared.text, NULL };

	if (!strcmp(mode, "open"))
		return opened(O_WRONLY);
	if (!strcmp(mode, "read"))
		return opened(O_RDONLY);
	if (!strcmp(mode, "create"))
		return opened(O_WRONLY | O_CREAT | O_EXCL);
	if (!strcmp(mode, "unlink"))
		return syscall(SYS_unlink, (char *)shared.text) ? -1 : 0;
	if (!strcmp(mode, "rename"))
		return syscall(SYS_rename, (char *)shared.text, "moved") ? -1 : 0;
	if (!strcmp(mode, "connect"))
		return connected();
	if (!strcmp(mode, "exec"))
		return started((char *)shared.text, plain);
	return started(program, argued);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *mode;
		int number;
	} calls[] = {
		{ "open", SYS_openat }, { "read", SYS_openat }, { "create", SYS_openat }, { "unlink", SYS_unlink },
		{ "rename", SYS_rename }, { "connect", SYS_connect }, { "exec", SYS_execve }, { "argv", SYS_execve },
	};
	int number = -1, won = 0, worked = 0, failed = 0, attempts;
	pthread_t thread;
	char byte;

	if (argc != 6)
		return 2;
	attempts = atoi(argv[4]);
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		if (!strcmp(calls[i].mode, argv[1]))
			number = calls[i].number;
	if (!strcmp(argv[1], "connect")) {
		good.address.sin_family = bad.address.sin_family = AF_INET;
		good.address.sin_addr.s_addr = bad.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		good.address.sin_port = htons(atoi(argv[2]));
		bad.address.sin_port = htons(atoi(argv[3]));
		used = sizeof(struct sockaddr_in);
	} else {
		strncpy(good.text, argv[2], sizeof(good) - 1);
		strncpy(bad.text, argv[3], sizeof(bad) - 1);
		used = strlen(argv[2]) + 1;
		if (used != strlen(argv[3]) + 1)
			return 2;
	}
	memcpy((void *)shared.text, good.text, used);
	puts("ready"); /* whoever is marked in the middle of an exec is killed: nothing granted that */
	fflush(stdout);
	if (read(0, &byte, 1) != 1)
		return 2;
	printf("%d\n", hold(number));
	fflush(stdout);
	if (read(0, &byte, 1) != 1)
		return 2;
	pthread_create(&thread, NULL, flip, NULL);
	for (int i = 0; i < attempts; i++) {
		int result = attempt(argv[1], argv[5]);

		if (result < 0)
			failed++;
		else if (result)
			won++;
		else
			worked++;
	}
	over = 1;
	pthread_join(thread, NULL);
	printf("%d %d %d\n", won, worked, failed);
	return 0;
}
