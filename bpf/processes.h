/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Other processes: signals, tracing, how they are scheduled. Within its sandbox a task may; beyond it needs a grant, or is
 * refused. The daemon itself may be traced by nobody else.
 */
#ifndef SEAL_PROCESSES_H
#define SEAL_PROCESSES_H

/* Files whose owner (F_SETOWN, O_ASYNC) was set by a sandboxed task → the sandbox. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} owners SEC(".maps");

static __noinline int signal(struct mark *mark, struct task_struct *task)
{
	struct seal_grant *grant;

	if (sandbox_of(task) == mark->sandbox)
		return 0;
	grant = grant_for(mark, SEAL_PROCESS_SIGNAL);
	if (!grant || (grant->process != task->tgid && grant->process != task->pid))
		return refuse_process(mark, SEAL_PROCESS_SIGNAL, mark->reason, task);
	use_up(grant);
	return 0;
}

SEC("lsm/task_kill")
int BPF_PROG(task_kill, struct task_struct *task, struct kernel_siginfo *info, int sig, const struct cred *cred, int ret)
{
	carry_out_request(task, sig);
	SEALED(ret);
	return signal(mark, task);
}

/* How another process is scheduled is judged as a signal to it would be. */
SEC("lsm/task_setscheduler")
int BPF_PROG(task_setscheduler, struct task_struct *task, int ret)
{
	SEALED(ret);
	return signal(mark, task);
}

SEC("lsm/task_setnice")
int BPF_PROG(task_setnice, struct task_struct *task, int nice, int ret)
{
	SEALED(ret);
	return signal(mark, task);
}

SEC("lsm/task_setioprio")
int BPF_PROG(task_setioprio, struct task_struct *task, int ioprio, int ret)
{
	SEALED(ret);
	return signal(mark, task);
}

/* fown_struct was a part of struct file, and is an object of its own since Linux 6.12: the key is its address. */
static __always_inline __u64 owner_key(struct file *file)
{
	if (bpf_core_field_exists(((struct fown_struct___own *)0)->file)) {
		__u64 own = 0;

		BPF_CORE_READ_INTO(&own, (struct file___own *)file, f_owner);
		return own;
	}
	return (__u64)file + bpf_core_field_offset(((struct file___embedded *)0)->f_owner);
}

SEC("lsm/file_set_fowner")
int BPF_PROG(file_set_fowner, struct file *file)
{
	__u64 sandbox = sandbox_of(bpf_get_current_task_btf()), key = owner_key(file);

	if (!sandbox) {
		/* Whatever stands there is of another file that lay at this address. */
		if (bpf_map_lookup_elem(&owners, &key))
			bpf_map_delete_elem(&owners, &key);
		return 0;
	}
	/* This hook cannot refuse. */
	if (!key || bpf_map_update_elem(&owners, &key, &sandbox, BPF_ANY))
		bpf_send_signal(SIGKILL);
	return 0;
}

/* A signal because of a file: in whatever context the file became ready, so the current task says nothing. */
SEC("lsm/file_send_sigiotask")
int BPF_PROG(file_send_sigiotask, struct task_struct *task, struct fown_struct *owner, int sig, int ret)
{
	__u64 key = (__u64)owner;
	__u64 *sandbox = bpf_map_lookup_elem(&owners, &key);

	if (ret || !sandbox)
		return ret;
	return sandbox_of(task) == *sandbox ? 0 : -EPERM;
}

static __always_inline bool is_the_daemon(struct task_struct *task)
{
	__u32 zero = 0;
	struct seal_keeper *kept = bpf_map_lookup_elem(&keeper, &zero);

	return kept && kept->task && kept->task == (__u64)task->group_leader && is_kept();
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(ptrace_access_check, struct task_struct *child, unsigned int mode, int ret)
{
	/* /proc/PID/mem, pidfd_getfd(2) and process_vm_readv(2) ask for this as well: who can do them owns the daemon. */
	if (!ret && mode & PTRACE_MODE_ATTACH && !sandbox_of(bpf_get_current_task_btf()) && is_the_daemon(child) &&
	    !is_keeper())
		return -EPERM;
	SEALED(ret);
	if (sandbox_of(child) == mark->sandbox)
		return 0;
	/* ps and its like look at everyone: only what would attach is told. */
	if (mode & PTRACE_MODE_NOAUDIT || !(mode & PTRACE_MODE_ATTACH))
		return -EPERM;
	return refuse_process(mark, SEAL_PTRACE, SEAL_NEVER, child);
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(ptrace_traceme, struct task_struct *parent, int ret)
{
	SEALED(ret);
	if (sandbox_of(parent) == mark->sandbox)
		return 0;
	return refuse_process(mark, SEAL_PTRACE, SEAL_NEVER, parent);
}

#endif
