/* SPDX-License-Identifier: Apache-2.0 */
/* Says by its exit status what it is (built with -DSTATUS=…), or which argument it was given. */
#include <string.h>

int main(int argc, char **argv)
{
#ifdef STATUS
	return STATUS;
#else
	return argc == 2 && strstr(argv[1], "good") ? 10 : 20;
#endif
}
