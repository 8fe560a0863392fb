/* Raw system calls, as an adversary makes them: no libc wrapper in between.
 *
 * calls            reads lines "number a0 a1 a2 a3 a4 a5" (hex), answers "result errno" to each
 * calls int80      getpid through the 32-bit entry: prints the raw result
 * calls x32        getpid through the x32 entry: prints the raw result
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static long raw(long number, const unsigned long *a)
{
    long result;
    register unsigned long r10 __asm__("r10") = a[3];
    register unsigned long r8 __asm__("r8") = a[4];
    register unsigned long r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

int main(int argc, char **argv)
{
    static const unsigned long none[6];
    char line[512];

    if (argc > 1 && strcmp(argv[1], "int80") == 0) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "r8", "r9", "r10", "r11", "memory");
        printf("%d\n", (int)result);
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "x32") == 0) {
        printf("%ld\n", raw(0x40000000L | 39, none));
        return 0;
    }
    while (fgets(line, sizeof line, stdin)) {
        unsigned long number, a[6] = {0};
        if (sscanf(line, "%lx %lx %lx %lx %lx %lx %lx", &number, a, a + 1, a + 2, a + 3, a + 4, a + 5) < 1)
            return 2;
        pid_t self = getpid();
        long result = raw((long)number, a);
        if (getpid() != self)
            _exit(0); /* a child that the call made */
        printf("%ld %ld\n", result < 0 && result > -4096 ? -1L : result, result < 0 && result > -4096 ? -result : 0L);
        fflush(stdout);
    }
    return 0;
}
