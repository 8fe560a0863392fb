/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whose task is this? The mark that a sandboxed task carries, and how it is told from all others.
 *
 * A mark is inherited when a task is made (task_alloc) and never taken off. It is kept twice:
 *
 * - `marked`, a hash by the address of the task_struct, is asked first: for a task outside of any sandbox that is all
 *   that happens. Looking into it cannot fail.
 * - `marks`, task storage, holds what the seal knows of the task, and the room it works in. bpf_task_storage_get() gives
 *   NULL now and then for a task that has storage (a per-CPU lock is busy; Linux 6.1 with preempt=full), so NULL means
 *   "unknown", and unknown is refused.
 *
 * Not the cgroup: clone3(CLONE_INTO_CGROUP) leaves one with no hook. No per-CPU room: a program can be preempted.
 */
#ifndef SEAL_MARKS_H
#define SEAL_MARKS_H

#define MARK_RUNS 1 /* the sandbox's first program has started */
#define MARK_DOOMED 2 /* it runs something that was not granted: it is being killed, and nothing is allowed to it */
#define MARK_EXECS 4 /* between bprm_check_security and bprm_committed_creds */

struct mark {
	__u64 sandbox;
	__u32 flags;
	__u32 exec_thread; /* its thread id when the exec began: exec in a thread gives it the leader's */
	__u64 exec_serial; /* task_struct.self_exec_id then */
	__u32 reason; /* why the last question for a grant was answered with no: enum seal_reason */
	__u32 unused;
	__u64 name[SEAL_NAME_BYTES / 8];
	__u64 piece[SEAL_PIECE_BYTES / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u64); /* the sandbox */
} marked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mark);
} marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct seal_sandbox);
} sandboxes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seal_request);
} request SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seal_keeper);
} keeper SEC(".maps");

/* The sandbox of a task, 0 for one outside. */
static __always_inline __u64 sandbox_of(struct task_struct *task)
{
	__u64 address = (__u64)task;
	__u64 *sandbox = bpf_map_lookup_elem(&marked, &address);

	return sandbox ? *sandbox : 0;
}

/* The mark of the current task, which is sandboxed; NULL when it cannot be had, or nothing is allowed to it. */
static __always_inline struct mark *own_mark(__u64 sandbox)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct mark *mark = bpf_task_storage_get(&marks, task, NULL, 0);

	if (!mark || mark->sandbox != sandbox || mark->flags & MARK_DOOMED)
		return NULL;
	/* An exec that no bprm_committed_creds has looked at: what it runs is unknown. */
	if (mark->flags & MARK_EXECS && mark->exec_serial != task->self_exec_id)
		return NULL;
	return mark;
}

/*
 * At the beginning of each hook: passes on what another one refused, lets go whoever is not sandboxed, refuses whoever is
 * and cannot be known. Below it, `mark` is that of the current task.
 */
#define SEALED(ret)                                                            \
	struct mark *mark;                                                     \
	__u64 sandbox_;                                                        \
	if (ret)                                                               \
		return ret;                                                    \
	sandbox_ = sandbox_of(bpf_get_current_task_btf());                     \
	if (!sandbox_)                                                         \
		return 0;                                                      \
	mark = own_mark(sandbox_);                                             \
	if (!mark)                                                             \
		return -EPERM

static __always_inline bool put_mark(struct task_struct *task, __u64 sandbox, __u32 flags)
{
	__u64 address = (__u64)task;
	struct mark *mark = NULL;

	/* Both can fail while another task on this CPU is in the middle of the same: then it is tried again. */
	for (int tries = 0; tries < 8 && !mark; tries++)
		mark = bpf_task_storage_get(&marks, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!mark)
		return false;
	mark->sandbox = sandbox;
	mark->flags = flags;
	for (int tries = 0; tries < 8; tries++)
		if (!bpf_map_update_elem(&marked, &address, &sandbox, BPF_ANY))
			return true;
	return false;
}

static __always_inline void forget_mark(__u64 address)
{
	if (!bpf_map_lookup_elem(&marked, &address))
		return;
	for (int tries = 0; tries < 8; tries++)
		if (!bpf_map_delete_elem(&marked, &address))
			return;
}

SEC("lsm/task_alloc")
int BPF_PROG(task_alloc, struct task_struct *task, unsigned long clone_flags, int ret)
{
	__u64 sandbox = sandbox_of(bpf_get_current_task_btf());

	if (!sandbox) {
		/* Should the address still stand there from a task that is gone, nobody may suffer for it. */
		forget_mark((__u64)task);
		return ret;
	}
	struct mark *mark = own_mark(sandbox);

	if (!mark || !put_mark(task, sandbox, mark->flags & MARK_RUNS))
		return -EAGAIN;
	return ret;
}

SEC("lsm/task_free")
int BPF_PROG(task_free, struct task_struct *task)
{
	__u32 zero = 0;
	struct seal_keeper *kept = bpf_map_lookup_elem(&keeper, &zero);

	forget_mark((__u64)task);
	if (kept && kept->task == (__u64)task)
		kept->task = 0;
	return 0;
}

/* ---- the daemon */

static __always_inline bool is_keeper(void)
{
	__u32 zero = 0;
	struct seal_keeper *kept = bpf_map_lookup_elem(&keeper, &zero);

	return kept && kept->task && kept->task == (__u64)bpf_get_current_task_btf()->group_leader;
}

/* Whether a daemon lives. Its task_struct does as long as its address stands there: task_free takes it away. */
static __always_inline bool is_kept(void)
{
	__u32 zero = 0, flags = 0;
	struct seal_keeper *kept = bpf_map_lookup_elem(&keeper, &zero);

	struct task_struct *task;

	if (!kept || !kept->task)
		return false;
	task = (struct task_struct *)kept->task;
	BPF_CORE_READ_INTO(&flags, task, flags);
	return !(flags & PF_EXITING);
}

static __always_inline __u32 device_number(__u32 major, __u32 minor)
{
	return major << 20 | minor; /* linux/kdev_t.h */
}

/* The controlling terminal of a process as a device number, 0: none. */
static __always_inline __u32 terminal_of(struct task_struct *task)
{
	struct tty_struct *tty = task->signal->tty;

	if (!tty)
		return 0;
	return device_number(tty->driver->major, tty->driver->minor_start + tty->index);
}

static __noinline int adopt(struct task_struct *task, struct seal_request *asked)
{
	struct seal_sandbox *sandbox = bpf_map_lookup_elem(&sandboxes, &asked->sandbox);

	if (!is_keeper() || !sandbox || !asked->sandbox)
		return -EPERM;
	/* A second thread would stay outside. */
	if (task->pid != task->tgid || task->signal->nr_threads != 1)
		return -EBUSY;
	if (sandbox_of(task))
		return -EEXIST;
	/* Its exec was granted by nobody, and would be killed at its end. (The parent goes on before that end.) */
	if (BPF_CORE_READ_BITFIELD_PROBED(task, in_execve))
		return -EAGAIN;
	if (!put_mark(task, asked->sandbox, 0))
		return -EAGAIN;
	sandbox->terminal = terminal_of(task);
	return 1;
}

static __noinline int claim(struct seal_request *asked)
{
	__u32 zero = 0;
	struct task_struct *task = bpf_get_current_task_btf();
	struct seal_keeper *kept = bpf_map_lookup_elem(&keeper, &zero);

	if (!kept || sandbox_of(task))
		return -EPERM;
	if (is_kept() && !is_keeper())
		return -EBUSY;
	kept->task = (__u64)task->group_leader;
	kept->process = task->tgid;
	kept->layout = SEAL_LAYOUT;
	return 1;
}

/* In task_kill: signal 0 of the daemon to the one that is meant carries out what it wrote into `request` before. */
static __always_inline void carry_out_request(struct task_struct *task, int sig)
{
	__u32 zero = 0;
	struct seal_request *asked = bpf_map_lookup_elem(&request, &zero);
	struct task_struct *current_task = bpf_get_current_task_btf();

	if (sig || !asked || asked->kind == SEAL_REQUEST_NONE || asked->result)
		return;
	if (asked->by != current_task->tgid || asked->process != task->tgid)
		return;
	if (asked->kind == SEAL_REQUEST_CLAIM)
		asked->result = claim(asked);
	else if (asked->kind == SEAL_REQUEST_ADOPT)
		asked->result = adopt(task, asked);
}

#endif
