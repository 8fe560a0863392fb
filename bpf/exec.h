/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Starting programs. bprm_check_security is asked for the program and then for each interpreter (#!, binfmt_misc), and can
 * refuse. argv and environment can be read when they lie in the new process: then it is too late to refuse, and what is
 * not as it was granted is killed before its first instruction.
 *
 * ELF's own interpreter (ld.so) is part of the program: the kernel asks nobody about it, but for file_open.
 */
#ifndef SEAL_EXEC_H
#define SEAL_EXEC_H

SEC("lsm/bprm_check_security")
int BPF_PROG(bprm_check_security, struct linux_binprm *bprm, int ret)
{
	SEALED(ret);
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *file = bprm->file;
	struct inode *inode = file->f_inode;
	struct seal_grant *grant = grant_for(mark, SEAL_PROCESS_EXEC);
	bool first = bprm->interp == bprm->filename;
	__u32 stage;

	if (!grant)
		return refuse_path(mark, SEAL_PROCESS_EXEC, mark->reason, file->f_path.dentry);
	stage = grant->stage;
	if (first != (stage == 0) || stage >= grant->program_count || stage >= SEAL_PROGRAMS)
		return refuse_path(mark, SEAL_PROCESS_EXEC, SEAL_OTHER_OBJECT, file->f_path.dentry);
	if (!is_object(inode, grant->programs[stage]))
		return refuse_path(mark, SEAL_PROCESS_EXEC, SEAL_OTHER_OBJECT, file->f_path.dentry);
	grant->stage = stage + 1;
	mark->exec_thread = task->pid;
	mark->exec_serial = task->self_exec_id;
	mark->flags |= MARK_EXECS;
	return 0;
}

static __always_inline bool runs_as_granted(struct mark *mark, struct linux_binprm *bprm)
{
	__u32 thread = mark->exec_thread;
	struct seal_grant *grant = bpf_map_lookup_elem(&grants, &thread);
	struct text_walk walk = { .mark = mark, .thread = thread, .user = 1 };

	if (!(mark->flags & MARK_EXECS) || !grant || grant->operation != SEAL_PROCESS_EXEC)
		return false;
	if (grant->sandbox != mark->sandbox || grant->stage != grant->program_count)
		return false;
	if (grant->argc != bprm->argc || grant->envc != bprm->envc)
		return false;
	walk.address = bprm->p; /* mm->arg_start is not set yet */
	walk.bytes = grant->text_bytes;
	use_up(grant);
	if (!walk.bytes || walk.bytes > SEAL_TEXT_MOST)
		return false;
	bpf_loop(PIECES_OF(SEAL_TEXT_MOST), compare_piece_of_user, &walk, 0);
	return walk.same;
}

SEC("lsm.s/bprm_committed_creds")
int BPF_PROG(bprm_committed_creds, struct linux_binprm *bprm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 sandbox = sandbox_of(task);
	struct mark *mark;

	if (!sandbox)
		return 0;
	mark = bpf_task_storage_get(&marks, task, NULL, 0);
	if (mark && mark->sandbox == sandbox && !(mark->flags & MARK_DOOMED)) {
		if (runs_as_granted(mark, bprm)) {
			mark->flags = (mark->flags | MARK_RUNS) & ~MARK_EXECS;
			return 0;
		}
		mark->flags |= MARK_DOOMED;
		refuse_path(mark, SEAL_PROCESS_EXEC, SEAL_OTHER_TEXT, bprm->file->f_path.dentry);
	}
	bpf_send_signal(SIGKILL);
	return 0;
}

#endif
