/* Processes that want to outlive their command. The word is on their command line, so that they can be found. */
#include "attack.h"
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

static void close_all(void)
{
	long null = CALL3(SYS_open, "/dev/null", O_RDWR, 0);
	for (int i = 0; i < 3; i++)
		CALL2(SYS_dup2, null, i);
}

static void linger(void)
{
	for (int number = 1; number < 65; number++)
		signal(number, SIG_IGN);
	for (;;)
		sleep(1);
}

static long double_fork(char **a)
{
	(void)a;
	if (fork() == 0) {
		close_all();
		setsid();
		if (fork() == 0) {
			setsid();
			linger();
		}
		_exit(0);
	}
	wait(NULL);
	return 0;
}

/* Each forks its successor and ends: whoever kills what is in a list comes too late. Each leaves a byte in the file; it
 * ends by itself after some seconds, since outside nobody else ends it. */
static void fork_loop(long heartbeat, long seconds)
{
	time_t end = time(NULL) + seconds;
	signal(SIGCHLD, SIG_IGN);
	while (time(NULL) < end) {
		pid_t pid = fork();
		if (pid > 0)
			_exit(0);
		setsid();
		if (write(heartbeat, ".", 1) != 1)
			_exit(1);
		usleep(2000);
	}
	_exit(0);
}

/* FILE SECONDS LOOPS */
static long forks(char **a)
{
	long heartbeat = need("create", CALL3(SYS_open, a[0], O_WRONLY | O_CREAT | O_APPEND, 0644));
	for (int i = atoi(a[2]); i > 0; i--)
		if (fork() == 0) {
			close_all();
			fork_loop(heartbeat, atol(a[1]));
		}
	usleep(20000);
	return 0;
}

static long clone_parent(char **a) /* a sibling: a child of the launcher itself */
{
	(void)a;
	long pid = CALL5(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) {
		close_all();
		setsid();
		linger();
	}
	return pid;
}

static long stopped(char **a)
{
	(void)a;
	pid_t pid = fork();
	if (pid == 0) {
		close_all();
		setsid();
		raise(SIGSTOP);
		linger();
	}
	usleep(50000);
	return 0;
}

static long ignores(char **a)
{
	(void)a;
	if (fork() == 0) {
		close_all();
		linger();
	}
	usleep(20000);
	return 0;
}

static void stay(void)
{
	printf("worked\n");
	for (;;)
		sleep(1);
}
static long forks_stay(char **a) { forks(a); stay(); return 0; }
static long double_fork_stay(char **a) { double_fork(a); stay(); return 0; }

static const struct attack attacks[] = {
	{ "double-fork", double_fork }, { "fork-loop", forks }, { "clone-parent", clone_parent }, { "stopped", stopped },
	{ "ignores", ignores }, { "fork-loop-stay", forks_stay }, { "double-fork-stay", double_fork_stay },
	{ NULL, NULL },
};

int main(int argc, char **argv) { (void)argc; return attack_main(attacks, argv); }
