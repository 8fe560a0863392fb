"""C sources of programs that ask the kernel directly."""

RAW = r"""
/* No libc at all: every effect is an instruction. Prints what each call answered. */
static long call(long n, long a, long b, long c, long d) {
    long r;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return r;
}
enum { READ = 0, WRITE, OPEN, CLOSE, FORK = 57, EXECVE = 59, EXIT = 60, WAIT4 = 61, RENAME = 82, MKDIR = 83, RMDIR = 84,
       CREAT = 85, LINK = 86, UNLINK = 87, SYMLINK = 88, CHMOD = 90, OPENAT = 257, OPENAT2 = 437 };
static void say(const char *what, long answer) {
    char line[64];
    int n = 0, digits = 0;
    char number[24];
    unsigned long value = answer < 0 ? -answer : answer;
    while (*what) line[n++] = *what++;
    line[n++] = ' ';
    if (answer < 0) line[n++] = '-';
    do { number[digits++] = '0' + value % 10; value /= 10; } while (value);
    while (digits) line[n++] = number[--digits];
    line[n++] = '\n';
    call(WRITE, 1, (long)line, n, 0);
}
struct how { unsigned long flags, mode, resolve; };
void _start(void) {
    struct how how = { 0101, 0640, 0 };
    static char *argv[] = { "/bin/echo", "from a raw execve", 0 };
    long fd = call(OPEN, (long)"file", 0102, 0600, 0);
    say("open", fd);
    say("write", call(WRITE, fd, (long)"raw\n", 4, 0));
    say("close", call(CLOSE, fd, 0, 0, 0));
    say("creat", call(CREAT, (long)"made", 0644, 0, 0));
    say("openat", call(OPENAT, -100, (long)"at", 0101, 0600));
    say("openat2", call(OPENAT2, -100, (long)"at2", (long)&how, sizeof how));
    say("openat2 short", call(OPENAT2, -100, (long)"no", (long)&how, 8));
    say("mkdir", call(MKDIR, (long)"dir", 0755, 0, 0));
    say("mkdir again", call(MKDIR, (long)"dir", 0755, 0, 0));
    say("rename", call(RENAME, (long)"made", (long)"dir/moved", 0, 0));
    say("link", call(LINK, (long)"file", (long)"dir/hard", 0, 0));
    say("symlink", call(SYMLINK, (long)"dir", (long)"soft", 0, 0));
    say("chmod", call(CHMOD, (long)"file", 0604, 0, 0));
    say("unlink", call(UNLINK, (long)"soft", 0, 0, 0));
    say("unlink missing", call(UNLINK, (long)"soft", 0, 0, 0));
    say("rmdir full", call(RMDIR, (long)"dir", 0, 0, 0));
    say("open bad pointer", call(OPEN, 8, 01, 0, 0));
    say("open in a file", call(OPEN, (long)"file/x", 0101, 0600, 0));
    long child = call(FORK, 0, 0, 0, 0);
    if (child == 0) {
        call(EXECVE, (long)argv[0], (long)argv, 0, 0);
        call(EXIT, 99, 0, 0, 0);
    }
    int status = 0;
    call(WAIT4, child, (long)&status, 0, 0);
    say("child", status);
    call(EXIT, 5, 0, 0, 0);
}
"""

STATIC = r"""
/* A static binary with threads: nothing of the system's libraries, no loader. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *number) {
    char name[32];
    snprintf(name, sizeof name, "thread.%ld", (long)number);
    for (int i = 0; i < 20; i++) {
        FILE *file = fopen(name, "w");
        if (!file || fprintf(file, "%d\n", i) < 0 || fclose(file)) return "failed";
    }
    return 0;
}
int main(int argc, char **argv) {
    pthread_t threads[8];
    for (long i = 0; i < 8; i++) pthread_create(&threads[i], 0, work, (void *)i);
    for (int i = 0; i < 8; i++) {
        void *answer;
        pthread_join(threads[i], &answer);
        if (answer) puts(answer);
    }
    int pair[2];
    char word[6] = "";
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    if (fork() == 0) {
        write(pair[1], "hello", 5);
        abort();
    }
    int status;
    read(pair[0], word, 5);
    wait(&status);
    printf("%s, signal %d, core %d\n", word, WTERMSIG(status), 0);
    FILE *ls = popen("ls", "r");
    char line[100];
    while (fgets(line, sizeof line, ls)) fputs(line, stdout);
    pclose(ls);
    if (mkdir("thread.0", 0700)) perror("mkdir");
    fflush(stdout);
    char *words[] = { "sh", "-c", "exit 11", 0 };
    execvp("sh", words);
    return 1;
}
"""

PROJECT = {
    "Makefile": """CC = gcc
CFLAGS = -O1 -Wall -MMD
OBJECTS = main.o one.o two.o three.o lib/four.o
program: $(OBJECTS)
\t$(CC) -o $@ $^
%.o: %.c
\t$(CC) $(CFLAGS) -c -o $@ $<
one.c: one.in
\tsed 's/@VALUE@/1/' $< > $@.tmp && mv $@.tmp $@
clean:
\trm -f $(OBJECTS) $(OBJECTS:.o=.d) program one.c
-include $(OBJECTS:.o=.d)
.PHONY: clean
""",
    "all.h": "int one(void); int two(void); int three(void); int four(void);\n",
    "main.c": '#include <stdio.h>\n#include "all.h"\n'
    'int main(void) { printf("%d\\n", one() + two() + three() + four()); return 3; }\n',
    "one.in": '#include "all.h"\nint one(void) { return @VALUE@; }\n',
    "two.c": '#include "all.h"\nint two(void) { return 2; }\n',
    "three.c": '#include "all.h"\nint three(void) { int unused; return 3; }\n',
    "lib/four.c": '#include "../all.h"\nint four(void) { return 4; }\n',
}
