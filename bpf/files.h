/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Files: opening, names, attributes.
 *
 * The path_* hooks are asked once per system call, with the entry that the kernel found, and not for what overlayfs does
 * underneath. file_open is asked for those inner openings too, see opens_for_kernel().
 */
#ifndef SEAL_FILES_H
#define SEAL_FILES_H

#define STAGE_CREATED 1 /* path_mknod has passed: the opening of the new file follows */
#define STAGE_OPENED 2 /* opened with O_TRUNC: on 6.1 path_truncate follows */

/* The system call that the current thread is in. It cannot be changed from outside while it runs (ptrace is refused). */
static __always_inline long system_call(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	void *registers = (void *)bpf_task_pt_regs(task);
	long number = -1;

	if (bpf_core_field_exists(((struct pt_regs___x86 *)0)->orig_ax)) {
		unsigned long found = 0;

		BPF_CORE_READ_INTO(&found, (struct pt_regs___x86 *)registers, orig_ax);
		number = found == 77 ? 1 : found == 16 ? 2 : 0;
	} else if (bpf_core_field_exists(((struct pt_regs___arm64 *)0)->syscallno)) {
		int found = 0;

		BPF_CORE_READ_INTO(&found, (struct pt_regs___arm64 *)registers, syscallno);
		number = found == 46 ? 1 : found == 29 ? 2 : 0;
	}
	return number;
}
#define IN_FTRUNCATE 1
#define IN_IOCTL 2

static __always_inline bool with_borrowed_credentials(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->cred != task->real_cred;
}

/*
 * Openings that no program asked for: overlayfs opens the file underneath (not accounted for, or, while it copies one
 * up, with the credentials of who mounted it). Only the kernel can do either. Core dumps borrow credentials as well, and
 * are refused.
 */
static __always_inline bool opens_for_kernel(struct file *file)
{
	if (file->f_mode & FMODE_NOACCOUNT)
		return true;
	return with_borrowed_credentials() && !(bpf_get_current_task_btf()->flags & PF_DUMPCORE);
}

/* Major numbers of terminals: Documentation/admin-guide/devices.txt */
static __always_inline bool is_terminal(__u32 major)
{
	return major == 4 || major == 5 || (major >= 136 && major <= 143) || major == 188 || major == 166 ||
	       major == 204 || major == 229;
}

/* Whether a terminal belongs to the current task: /dev/tty and /dev/ptmx, the controlling one, the one that the sandbox
 * began with; or it is opened through its other side, which only whoever holds that can do (TIOCGPTPEER). */
static __noinline bool is_own_terminal(struct mark *mark, __u32 device)
{
	__u32 major = device >> 20, minor = device & 0xfffff;
	__u64 number = mark->sandbox;
	struct seal_sandbox *sandbox;

	if (major == 5 && (minor == 0 || minor == 2))
		return true;
	if (device == terminal_of(bpf_get_current_task_btf()))
		return true;
	sandbox = bpf_map_lookup_elem(&sandboxes, &number);
	if (sandbox && sandbox->terminal && sandbox->terminal == device)
		return true;
	return major >= 136 && major <= 143 && system_call() == IN_IOCTL;
}

/* /dev/null, zero, full, random, urandom: what is written there changes nothing. */
static __always_inline bool is_harmless_device(__u32 device)
{
	__u32 minor = device & 0xfffff;

	return device >> 20 == 1 && (minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9);
}

/* Disks (block devices), memory, kernel messages, what is typed: these show what is protected elsewhere. */
static __always_inline bool is_telling_device(__u32 kind, __u32 device)
{
	return kind == S_IFBLK || (kind == S_IFCHR && (device >> 20 == 1 || device >> 20 == 13));
}

/* Pipes and memfds, opened again through /proc: no name leads to them. (devtmpfs looks like a memfd but for its names.) */
static __always_inline bool is_nameless(struct dentry *dentry, struct inode *inode)
{
	struct super_block *sb = inode->i_sb;

	if (sb->s_magic == PIPEFS_MAGIC)
		return true;
	return sb->s_magic == TMPFS_MAGIC && sb->s_flags & SB_KERNMOUNT && (inode->i_mode & S_IFMT) == S_IFREG &&
	       dentry->d_parent == dentry;
}

static __always_inline struct seal_grant *grant_on(struct mark *mark, __u32 operation, struct inode *inode)
{
	struct seal_grant *grant = grant_for(mark, operation);

	if (!grant || grant->stage || !is_object(inode, grant->targets[0].object))
		return NULL;
	return grant;
}

/* Something about one object that is there already. */
static __noinline int on_object(struct mark *mark, __u32 operation, struct dentry *dentry)
{
	struct seal_grant *grant = grant_on(mark, operation, dentry->d_inode);

	if (!grant)
		return refuse_path(mark, operation, mark->reason, dentry);
	use_up(grant);
	return 0;
}

/* A program, or what its PT_INTERP names, in a place that is protected: only as one of the programs of a granted exec. */
static __noinline int open_to_run(struct mark *mark, struct dentry *dentry)
{
	struct seal_grant *grant = grant_for(mark, SEAL_PROCESS_EXEC);

	if (grant)
		for (int i = 0; i < SEAL_PROGRAMS; i++)
			if (i < grant->program_count && is_object(dentry->d_inode, grant->programs[i]))
				return 0;
	return refuse_path(mark, SEAL_PROCESS_EXEC, mark->reason, dentry);
}

static __always_inline bool reads_pause(struct mark *mark)
{
	__u64 number = mark->sandbox;
	struct seal_sandbox *sandbox = bpf_map_lookup_elem(&sandboxes, &number);

	return !sandbox || (sandbox->flags & SEAL_SANDBOX_READS && mark->flags & MARK_RUNS);
}

static __noinline int open_created(struct mark *mark, struct dentry *dentry)
{
	struct seal_grant *grant = grant_for(mark, SEAL_FILE_CREATE);

	if (!grant || grant->stage != STAGE_CREATED)
		return refuse_path(mark, SEAL_FILE_CREATE, mark->reason, dentry);
	use_up(grant);
	note_writer(mark, dentry->d_inode, true);
	return 0;
}

/*
 * Two processes of a sandbox may create the same file at once: both were granted to, and for the second one it is there.
 * It may have what the first one made, at the place that it was granted; nothing else that got there meanwhile.
 */
static __noinline bool was_just_made(struct mark *mark, struct dentry *dentry, unsigned int flags)
{
	struct seal_object *object = bpf_inode_storage_get(&objects, dentry->d_inode, NULL, 0);
	__u32 reason = mark->reason;
	struct seal_grant *grant = grant_for(mark, SEAL_FILE_CREATE);

	mark->reason = reason;
	if (!grant || grant->stage || !object || object->maker != mark->sandbox ||
	    !is_entry(mark, &grant->targets[0], dentry->d_parent->d_inode, dentry))
		return false;
	if (flags & O_TRUNC)
		grant->stage = STAGE_OPENED;
	else
		use_up(grant);
	return true;
}

static __noinline int open_to_write(struct mark *mark, struct dentry *dentry, unsigned int flags)
{
	struct inode *inode = dentry->d_inode;
	struct seal_grant *grant = grant_on(mark, SEAL_FILE_WRITE, inode);

	if (!grant)
		return was_just_made(mark, dentry, flags) ? 0 : refuse_path(mark, SEAL_FILE_WRITE, mark->reason, dentry);
	note_writer(mark, inode, false);
	if (flags & O_TRUNC)
		grant->stage = STAGE_OPENED;
	else
		use_up(grant);
	return 0;
}

SEC("lsm/file_open")
int BPF_PROG(file_open, struct file *file, int ret)
{
	SEALED(ret);
	struct dentry *dentry = file->f_path.dentry;
	struct inode *inode = file->f_inode;
	unsigned int flags = file->f_flags, mode = file->f_mode;
	__u32 kind = inode->i_mode & S_IFMT, device = inode->i_rdev;
	bool writes = mode & FMODE_WRITE || flags & O_TRUNC;

	if (opens_for_kernel(file))
		return 0;
	if (flags & O_TMPFILE_BIT)
		return refuse_path(mark, SEAL_FILE_CREATE, SEAL_NEVER, dentry);
	if (mode & FMODE_CREATED)
		return open_created(mark, dentry);
	if (kind == S_IFCHR && is_harmless_device(device))
		return 0;
	if (flags & FMODE_EXEC)
		return is_protected(mark, dentry) ? open_to_run(mark, dentry) : 0;
	if (kind == S_IFCHR && is_terminal(device >> 20)) {
		if (is_own_terminal(mark, device))
			return 0;
	} else if (is_nameless(dentry, inode)) {
		return 0;
	} else if (!writes && !is_telling_device(kind, device) && !reads_pause(mark) && !is_protected(mark, dentry)) {
		return 0;
	}
	return writes ? open_to_write(mark, dentry, flags) : on_object(mark, SEAL_FILE_READ, dentry);
}

/* ---- names */

static __noinline int on_new_entry(struct mark *mark, __u32 operation, struct inode *dir, struct dentry *dentry)
{
	struct seal_grant *grant = grant_for(mark, operation);

	if (!grant || grant->stage || !is_entry(mark, &grant->targets[0], dir, dentry))
		return refuse_path(mark, operation, mark->reason, dentry);
	use_up(grant);
	return 0;
}

static __noinline int on_old_entry(struct mark *mark, __u32 operation, struct inode *dir, struct dentry *dentry)
{
	struct seal_grant *grant = grant_for(mark, operation);

	if (!grant || !is_entry(mark, &grant->targets[0], dir, dentry) || !stands(&grant->targets[0], dentry))
		return refuse_path(mark, operation, mark->reason, dentry);
	use_up(grant);
	return 0;
}

static __noinline int create(struct mark *mark, struct inode *dir, struct dentry *dentry)
{
	struct seal_grant *grant = grant_for(mark, SEAL_FILE_CREATE);

	/* open(2) may come here more than once before it succeeds. The opening of what it made uses the grant up. */
	if (!grant || grant->stage == STAGE_OPENED || !is_entry(mark, &grant->targets[0], dir, dentry))
		return refuse_path(mark, SEAL_FILE_CREATE, mark->reason, dentry);
	grant->stage = STAGE_CREATED;
	return 0;
}

/* open(O_CREAT), mknod(2) and bind(2) of a unix socket come here. */
SEC("lsm/path_mknod")
int BPF_PROG(path_mknod, const struct path *dir, struct dentry *dentry, unsigned short mode, unsigned int dev, int ret)
{
	SEALED(ret);
	struct inode *parent = dir->dentry->d_inode;

	if ((mode & S_IFMT) == S_IFSOCK && grant_for(mark, SEAL_NET_BIND))
		return on_new_entry(mark, SEAL_NET_BIND, parent, dentry);
	if (grant_for(mark, SEAL_FILE_MKNOD))
		return on_new_entry(mark, SEAL_FILE_MKNOD, parent, dentry);
	if ((mode & S_IFMT) == S_IFSOCK)
		return refuse_path(mark, SEAL_NET_BIND, SEAL_NO_GRANT, dentry);
	if (mode & S_IFMT && (mode & S_IFMT) != S_IFREG)
		return refuse_path(mark, SEAL_FILE_MKNOD, SEAL_NO_GRANT, dentry);
	return create(mark, parent, dentry);
}

SEC("lsm/path_mkdir")
int BPF_PROG(path_mkdir, const struct path *dir, struct dentry *dentry, unsigned short mode, int ret)
{
	SEALED(ret);
	return on_new_entry(mark, SEAL_FILE_MKDIR, dir->dentry->d_inode, dentry);
}

SEC("lsm/path_unlink")
int BPF_PROG(path_unlink, const struct path *dir, struct dentry *dentry, int ret)
{
	SEALED(ret);
	return on_old_entry(mark, SEAL_FILE_UNLINK, dir->dentry->d_inode, dentry);
}

SEC("lsm/path_rmdir")
int BPF_PROG(path_rmdir, const struct path *dir, struct dentry *dentry, int ret)
{
	SEALED(ret);
	return on_old_entry(mark, SEAL_FILE_RMDIR, dir->dentry->d_inode, dentry);
}

SEC("lsm/path_symlink")
int BPF_PROG(path_symlink, const struct path *dir, struct dentry *dentry, const char *old_name, int ret)
{
	SEALED(ret);
	struct seal_grant *grant = grant_for(mark, SEAL_FILE_SYMLINK);
	struct text_walk walk = { .mark = mark, .address = (__u64)old_name };

	if (!grant || !is_entry(mark, &grant->targets[0], dir->dentry->d_inode, dentry))
		return refuse_path(mark, SEAL_FILE_SYMLINK, mark->reason, dentry);
	walk.thread = bpf_get_current_task_btf()->pid;
	walk.bytes = grant->text_bytes; /* with the NUL at its end */
	if (walk.bytes)
		bpf_loop(PIECES_OF(4096), compare_piece_of_kernel, &walk, 0);
	if (!walk.same)
		return refuse_path(mark, SEAL_FILE_SYMLINK, SEAL_OTHER_TEXT, dentry);
	use_up(grant);
	return 0;
}

SEC("lsm/path_link")
int BPF_PROG(path_link, struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry, int ret)
{
	SEALED(ret);
	struct seal_grant *grant = grant_for(mark, SEAL_FILE_LINK);

	if (!grant || !is_object(old_dentry->d_inode, grant->targets[0].object) ||
	    !is_entry(mark, &grant->targets[1], new_dir->dentry->d_inode, new_dentry))
		return refuse_path(mark, SEAL_FILE_LINK, mark->reason, old_dentry);
	use_up(grant);
	return 0;
}

SEC("lsm/path_rename")
int BPF_PROG(path_rename, const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir,
	     struct dentry *new_dentry, unsigned int flags, int ret)
{
	SEALED(ret);
	struct seal_grant *grant = grant_for(mark, SEAL_FILE_RENAME);

	if (!grant || !is_entry(mark, &grant->targets[0], old_dir->dentry->d_inode, old_dentry) ||
	    !stands(&grant->targets[0], old_dentry))
		return refuse_path(mark, SEAL_FILE_RENAME, mark->reason, old_dentry);
	if (!is_entry(mark, &grant->targets[1], new_dir->dentry->d_inode, new_dentry) ||
	    !stands(&grant->targets[1], new_dentry))
		return refuse_path(mark, SEAL_FILE_RENAME, mark->reason, new_dentry);
	use_up(grant);
	return 0;
}

/* ---- what is in a file, and what is said about it */

/* truncate(2); before Linux 6.2 also ftruncate(2), whose descriptor was granted when it was opened for writing, and the
 * second half of open(O_TRUNC). Later kernels have file_truncate for these two, and nothing to ask there. */
SEC("lsm/path_truncate")
int BPF_PROG(path_truncate, const struct path *path, int ret)
{
	SEALED(ret);
	struct dentry *dentry = path->dentry;
	struct seal_grant *grant;

	if (system_call() == IN_FTRUNCATE)
		return 0;
	grant = grant_for(mark, SEAL_FILE_WRITE);
	if (grant && grant->stage == STAGE_OPENED && is_object(dentry->d_inode, grant->targets[0].object)) {
		use_up(grant);
		return 0;
	}
	grant = grant_for(mark, SEAL_FILE_CREATE);
	if (grant && grant->stage == STAGE_OPENED &&
	    is_entry(mark, &grant->targets[0], dentry->d_parent->d_inode, dentry)) {
		use_up(grant);
		return 0;
	}
	return on_object(mark, SEAL_FILE_TRUNCATE, dentry);
}

SEC("lsm/path_chmod")
int BPF_PROG(path_chmod, const struct path *path, unsigned short mode, int ret)
{
	SEALED(ret);
	return on_object(mark, SEAL_FILE_CHMOD, path->dentry);
}

SEC("lsm/path_chown")
int BPF_PROG(path_chown, const struct path *path, unsigned long long uid, unsigned long long gid, int ret)
{
	SEALED(ret);
	return on_object(mark, SEAL_FILE_CHOWN, path->dentry);
}

SEC("lsm/path_chroot")
int BPF_PROG(path_chroot, const struct path *path, int ret)
{
	SEALED(ret);
	return refuse_path(mark, SEAL_CHROOT, SEAL_NEVER, path->dentry);
}

/* overlayfs sets attributes of the file underneath with the credentials of who mounted it; the one above was asked. */
static __noinline int set_attribute(struct mark *mark, struct dentry *dentry, const char *name)
{
	struct seal_grant *grant;

	if (with_borrowed_credentials())
		return 0;
	grant = grant_on(mark, SEAL_FILE_XATTR, dentry->d_inode);
	if (!grant)
		return refuse_path(mark, SEAL_FILE_XATTR, mark->reason, dentry);
#pragma unroll
	for (int i = 0; i < SEAL_NAME_BYTES / 8; i++)
		mark->name[i] = 0;
	if (bpf_probe_read_kernel_str(mark->name, SEAL_NAME_BYTES, name) <= 0 ||
	    !same_words(mark->name, (__u64 *)grant->targets[0].name, SEAL_NAME_BYTES / 8))
		return refuse_path(mark, SEAL_FILE_XATTR, SEAL_OTHER_OBJECT, dentry);
	use_up(grant);
	return 0;
}

/* The first argument has changed its type (Linux commit 39f60c1ccee7 ("fs: port xattr to mnt_idmap", in v6.3)). */
SEC("lsm/inode_setxattr")
int BPF_PROG(inode_setxattr, void *mount, struct dentry *dentry, const char *name, const void *value,
	     unsigned long size, int flags, int ret)
{
	SEALED(ret);
	return set_attribute(mark, dentry, name);
}

SEC("lsm/inode_removexattr")
int BPF_PROG(inode_removexattr, void *mount, struct dentry *dentry, const char *name, int ret)
{
	SEALED(ret);
	return set_attribute(mark, dentry, name);
}

/* From Linux 6.2 on setting and removing POSIX ACLs has hooks of its own (commit 72b3897e7819). */
SEC("lsm/inode_set_acl")
int BPF_PROG(inode_set_acl, void *mount, struct dentry *dentry, const char *name, struct posix_acl *acl, int ret)
{
	SEALED(ret);
	return set_attribute(mark, dentry, name);
}

SEC("lsm/inode_remove_acl")
int BPF_PROG(inode_remove_acl, void *mount, struct dentry *dentry, const char *name, int ret)
{
	SEALED(ret);
	return set_attribute(mark, dentry, name);
}

/* utimensat(2) and its kin. Changes of mode, owner and size come here too, and were asked about in the path_* hooks. */
static __always_inline int set_times(struct mark *mark, struct dentry *dentry, struct iattr *attributes)
{
	unsigned int what = attributes->ia_valid;

	if (!(what & (ATTR_ATIME | ATTR_MTIME)) || what & ATTR_SIZE || with_borrowed_credentials())
		return 0;
	return on_object(mark, SEAL_FILE_TIMES, dentry);
}

/* Its arguments differ between kernels (Linux commit c1632a0f1120 and after): the loader takes the one that fits. */
SEC("lsm/inode_setattr")
int BPF_PROG(times_of_dentry, struct dentry *dentry, struct iattr *attributes, int ret)
{
	SEALED(ret);
	return set_times(mark, dentry, attributes);
}

SEC("lsm/inode_setattr")
int BPF_PROG(times_with_idmap, void *idmap, struct dentry *dentry, struct iattr *attributes, int ret)
{
	SEALED(ret);
	return set_times(mark, dentry, attributes);
}

/* Requests that change an inode through any descriptor, by type and number as in sandbox/table/requests.py. */
static __always_inline bool changes_inode(unsigned int request)
{
	__u32 both = request & 0xffff, type = request >> 8 & 0xff;

	switch (both) {
	case 0x6601: case 0x6603: case 0x660b: case 0x6614: case 0x6615: case 0x6616: case 0x661a: case 0x661b:
	case 0x6686: case 0x6687: /* flags, version, extents, encryption policy, verity: these read */
	case 0x581f: /* FS_IOC_FSGETXATTR */
	case 0x9409: case 0x940d: /* FICLONE and FICLONERANGE write through a descriptor that is open for writing */
		return false;
	case 0x7602: case 0x7211: case 0x6f04:
		return true;
	}
	return type == 0x66 || type == 0x58 || type == 0x94 || type == 0xf5 || type == 0xbc || type == 0x97 ||
	       type == 0xcf;
}

SEC("lsm/file_ioctl")
int BPF_PROG(file_ioctl, struct file *file, unsigned int cmd, unsigned long arg, int ret)
{
	SEALED(ret);
	if (!changes_inode(cmd))
		return 0;
	return on_object(mark, SEAL_FILE_IOCTL, file->f_path.dentry);
}

#endif
