/* Two threads against one held call: one asks for what is allowed, the other changes what was asked for before the kernel
 * reads it again.
 *
 * race open GOOD BAD ATTEMPTS: prints "good N bad N refused N"; a file that was opened gets a line, so that it shows.
 * race chmod GOOD BAD ATTEMPTS and race unlink DIRECTORY/GOOD BAD ATTEMPTS likewise.
 */
#include "attack.h"
#include <pthread.h>

static char path[4096];
static char *names[2];
static volatile int over;

static void *change(void *unused)
{
	(void)unused;
	for (unsigned i = 0; !over; i++)
		memcpy(path, names[i & 1], strlen(names[i & 1]) + 1);
	return NULL;
}

int main(int argc, char **argv)
{
	long good = 0, bad = 0, refused = 0;
	struct stat is, want[2];
	pthread_t thread;
	if (argc != 5)
		return 2;
	for (int i = 0; i < 2; i++) {
		names[i] = argv[2 + i];
		if (stat(names[i], &want[i]))
			memset(&want[i], 0, sizeof want[i]);
	}
	strcpy(path, names[0]);
	pthread_create(&thread, NULL, change, NULL);
	for (long i = atol(argv[4]); i > 0 && !bad; i--) {
		long result;
		if (strcmp(argv[1], "open") == 0) {
			result = CALL3(SYS_open, path, O_WRONLY | O_APPEND, 0);
			if (result >= 0) {
				fstat(result, &is);
				if (is.st_ino == want[0].st_ino)
					good++;
				else
					bad++;
				CALL1(SYS_close, result);
				continue;
			}
		} else {
			result = CALL2(SYS_chmod, path, 0640 + (i & 7));
			if (result >= 0) {
				if (stat(names[1], &is) == 0 && is.st_mode != want[1].st_mode)
					bad++;
				else
					good++;
				continue;
			}
		}
		refused++;
	}
	over = 1;
	pthread_join(thread, NULL);
	printf("good %ld bad %ld refused %ld\n", good, bad, refused);
	return 0;
}
