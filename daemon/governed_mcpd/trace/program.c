// SPDX-License-Identifier: Apache-2.0
//
// Which system calls do the tasks of one cgroup begin, and how do they end? Compiled by BCC where it runs.
//
// A call that seccomp refuses, at once or after it was held, is never begun: it comes to its end alone (sys_exit fires for
// it, sys_enter does not). What is begun was let through. Names are read from the caller's memory at both ends, and whoever
// looks compares the two: another thread may have written there in between.
//
// The 32-bit calls of a 64-bit kernel have other numbers; sandboxes cannot make any (the filter refuses that ABI).

#include <uapi/linux/ptrace.h>

#define TEXT 512     // of names, bytes of argument vectors; what is longer is shown as cut off
#define WORDS 6      // arguments of a system call
#define CALLS 1024   // system call numbers

enum phase { BEGUN, ENDED, REPLACED };           // REPLACED: the process runs another program now
enum form { NONE, STRING, ADDRESS, MESSAGE };    // what an argument points to: text, sockaddr, struct msghdr

struct call {
    u8 known;
    u8 form[2];      // of the first and the second object
    u8 at[2];        // which argument it is; the length of an ADDRESS is the one after it
};

struct event {
    u64 time;        // nanoseconds of the monotonic clock
    u64 cgroup;
    s64 result;
    u64 words[WORDS];
    u32 pid;         // the process (tgid), as the initial pid namespace counts
    u32 tid;         // the thread (pid)
    u32 uid;
    u32 call;
    u32 phase;
    s32 sizes[2];    // bytes of each text, without the NUL; negative: not readable (an errno)
    u8 comm[16];
    u8 first[TEXT];
    u8 second[TEXT];
};

BPF_CGROUP_ARRAY(traced, 1);
BPF_ARRAY(calls, struct call, CALLS);
BPF_ARRAY(lost, u64, 1);
BPF_RINGBUF_OUTPUT(events, 1024);    // pages: 4 MiB, about 3500 events

static __always_inline struct event *begin(u32 phase, u32 call)
{
    struct event *event = events.ringbuf_reserve(sizeof(struct event));
    if (!event) {
        lost.increment(0);
        return 0;
    }
    u64 both = bpf_get_current_pid_tgid();
    event->time = bpf_ktime_get_ns();
    event->cgroup = bpf_get_current_cgroup_id();
    event->pid = both >> 32;
    event->tid = both;
    event->uid = bpf_get_current_uid_gid();
    event->call = call;
    event->phase = phase;
    event->result = 0;
    event->sizes[0] = 0;
    event->sizes[1] = 0;
    bpf_get_current_comm(event->comm, sizeof(event->comm));
    return event;
}

static __always_inline s32 read_bytes(u8 *text, u64 from, u64 length)
{
    if (length > 128)    // struct sockaddr_storage has no more
        length = 128;
    s32 failed = bpf_probe_read_user(text, length, (void *)from);
    return failed ? failed : length;
}

static __always_inline s32 read_object(u8 *text, u8 form, u8 at, u64 *words)
{
    // The verifier wants each index within bounds that it can see. That of 6.1 sees a mask, if the compiler leaves it where
    // it is, and no comparison: clang makes that with another register. 6 and 7 are within the event as well.
    u64 index = at & 7, after = (at + 1) & 7;
    asm volatile("" : "+r"(index), "+r"(after));
    u64 word = words[index], next = words[after];
    if (form == STRING) {
        s32 size = bpf_probe_read_user_str(text, TEXT, (void *)word);
        return size > 0 ? size - 1 : size;
    }
    if (form == ADDRESS)
        return word ? read_bytes(text, word, (u32)next) : 0;
    if (form == MESSAGE) {
        struct { u64 name; u32 length; } message = {};    // struct user_msghdr begins so
        s32 failed = bpf_probe_read_user(&message, sizeof(message), (void *)word);
        if (failed)
            return failed;
        return message.name ? read_bytes(text, message.name, message.length) : 0;
    }
    return 0;
}

static __always_inline void read_words(u64 *words, struct pt_regs *from)
{
    struct pt_regs regs = {};
    bpf_probe_read_kernel(&regs, sizeof(regs), from);
#if defined(__x86_64__)
    words[0] = regs.di; words[1] = regs.si; words[2] = regs.dx;
    words[3] = regs.r10; words[4] = regs.r8; words[5] = regs.r9;
#elif defined(__aarch64__)
    words[0] = regs.orig_x0;
    words[1] = regs.regs[1]; words[2] = regs.regs[2]; words[3] = regs.regs[3];
    words[4] = regs.regs[4]; words[5] = regs.regs[5];
#else
#error "governed-mcpd knows the registers of x86_64 and aarch64"
#endif
}

static __always_inline void show(u32 phase, u32 number, struct pt_regs *regs, s64 result)
{
    struct call *call = calls.lookup(&number);
    if (!call || !call->known)
        return;
    struct event *event = begin(phase, number);
    if (!event)
        return;
    event->result = result;
    read_words(event->words, regs);
    event->sizes[0] = read_object(event->first, call->form[0], call->at[0], event->words);
    event->sizes[1] = read_object(event->second, call->form[1], call->at[1], event->words);
    events.ringbuf_submit(event, 0);
}

RAW_TRACEPOINT_PROBE(sys_enter)    // TP_PROTO(struct pt_regs *regs, long id)
{
    if (traced.check_current_task(0) == 1)
        show(BEGUN, ctx->args[1], (struct pt_regs *)ctx->args[0], 0);
    return 0;
}

RAW_TRACEPOINT_PROBE(sys_exit)     // TP_PROTO(struct pt_regs *regs, long ret)
{
    if (traced.check_current_task(0) != 1)
        return 0;
    struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
    u64 number = 0, stack = 0;
#if defined(__x86_64__)
    bpf_probe_read_kernel(&number, sizeof(number), &regs->orig_ax);
    bpf_probe_read_kernel(&stack, sizeof(stack), &regs->sp);
#else
    bpf_probe_read_kernel(&number, sizeof(u32), &regs->syscallno);
    bpf_probe_read_kernel(&stack, sizeof(stack), &regs->sp);
#endif
    s64 result = ctx->args[1];
    if ((number == EXECVE || number == EXECVEAT) && result == 0) {
        // The new program stands before its first instruction, its argument vector on its stack, as the kernel put it there.
        struct event *event = begin(ENDED, number);
        if (!event)
            return 0;
        u64 argument = 0;
        event->words[0] = 0;
        bpf_probe_read_user(&event->words[0], sizeof(u64), (void *)stack);    // argc
        bpf_probe_read_user(&argument, sizeof(argument), (void *)(stack + 8));
        u64 size = TEXT;
        s32 failed = bpf_probe_read_user(event->second, size, (void *)argument);
        if (failed) {
            // The stack may end before that: up to the end of the page, then.
            size = 4096 - (argument & 4095);
            if (size > TEXT)
                size = TEXT;
            failed = bpf_probe_read_user(event->second, size, (void *)argument);
        }
        event->sizes[1] = failed ? failed : size;
        events.ringbuf_submit(event, 0);
        return 0;
    }
    show(ENDED, number, regs, result);
    return 0;
}

TRACEPOINT_PROBE(sched, sched_process_exec)    // the file that the kernel itself opened
{
    if (traced.check_current_task(0) != 1)
        return 0;
    struct event *event = begin(REPLACED, EXECVE);
    if (!event)
        return 0;
    event->words[0] = args->old_pid;    // the thread that called; it has the leader's id now
    s32 size = bpf_probe_read_kernel_str(event->first, TEXT, (void *)args + (args->data_loc_filename & 0xffff));
    event->sizes[0] = size > 0 ? size - 1 : size;
    events.ringbuf_submit(event, 0);
    return 0;
}
