/* A process outside: says its pid, the address of a variable and an open descriptor, then on each line of its input what
 * has happened to it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

static volatile sig_atomic_t signals;
static volatile long variable = 1;

static void arrived(int number) { signals = number; }

int main(int argc, char **argv)
{
	char line[16];
	struct sigaction action = { .sa_handler = arrived, .sa_flags = SA_RESTART };
	if (argc != 2)
		return 2;
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGIO, &action, NULL);
	prctl(PR_SET_PTRACER, -1, 0, 0, 0); /* where Yama is active, anyone of the uid may trace it all the same */
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("%d %lu %d\n", getpid(), (unsigned long)(uintptr_t)&variable, open(argv[1], O_RDONLY));
	while (fgets(line, sizeof line, stdin)) {
		printf("%s%s\n", variable != 1 ? "memory " : "", signals ? "signal" : "");
		variable = 1;
		signals = 0;
	}
	return 0;
}
