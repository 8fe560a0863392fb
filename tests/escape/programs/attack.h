/* What the attack programs share: raw system calls, and a table of attacks.
 *
 * PROGRAM ATTACK [ARGUMENT]... prints "worked", or "refused ERRNO"; exit code 0 or 1. What had to be prepared and could
 * not be is "setup WHAT ERRNO" with exit code 2: such a run proves nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

struct attack {
	const char *name;
	long (*run)(char **arguments); /* 0 or more: it worked; -errno: it was refused */
};

/* No wrapper of libc in between: arguments arrive as they are written here. */
static inline long raw(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#define CALL0(n) raw(n, 0, 0, 0, 0, 0, 0)
#define CALL1(n, a) raw(n, (long)(a), 0, 0, 0, 0, 0)
#define CALL2(n, a, b) raw(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define CALL3(n, a, b, c) raw(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CALL4(n, a, b, c, d) raw(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define CALL5(n, a, b, c, d, e) raw(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define CALL6(n, a, b, c, d, e, f) raw(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static inline void setup_failed(const char *what, long result)
{
	printf("setup %s %ld\n", what, -result);
	fflush(stdout);
	_exit(2);
}

/* A preparation that has to succeed. */
static inline long need(const char *what, long result)
{
	if (result < 0)
		setup_failed(what, result);
	return result;
}

static inline int attack_main(const struct attack *attacks, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (; argv[1] && attacks->name; attacks++) {
		if (strcmp(attacks->name, argv[1]) != 0)
			continue;
		long result = attacks->run(argv + 2);
		if (result >= 0) {
			printf("worked\n");
			return 0;
		}
		printf("refused %ld\n", -result);
		return 1;
	}
	printf("setup no-such-attack 0\n");
	return 2;
}
