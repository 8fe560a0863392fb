/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Descriptors that arrive over a socket (SCM_RIGHTS) or by pidfd_getfd(2). Whoever sends them may stand outside, so only
 * such are taken as the sandbox could have had by itself, or as lead nowhere.
 */
#ifndef SEAL_RECEIVE_H
#define SEAL_RECEIVE_H

#define EIGHT(a, b, c, d, e, f, g, h)                                                              \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |   \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)

/* Files of the kernel that are neither files nor devices are known by the name of their kind, of which eight bytes are
 * enough here: what just waits or counts. */
static __always_inline bool is_waiting(struct dentry *dentry)
{
	__u64 name[2] = {};

	if (bpf_probe_read_kernel_str(name, sizeof(name), dentry->d_name.name) <= 0)
		return false;
	return name[0] == EIGHT('[', 'e', 'v', 'e', 'n', 't', 'f', 'd') ||
	       name[0] == EIGHT('[', 't', 'i', 'm', 'e', 'r', 'f', 'd') ||
	       name[0] == EIGHT('[', 's', 'i', 'g', 'n', 'a', 'l', 'f') ||
	       name[0] == EIGHT('[', 'e', 'v', 'e', 'n', 't', 'p', 'o') ||
	       name[0] == EIGHT('i', 'n', 'o', 't', 'i', 'f', 'y', 0) ||
	       name[0] == EIGHT('[', 'p', 'i', 'd', 'f', 'd', ']', 0);
}

static __always_inline bool is_own_socket(struct mark *mark, struct file *file)
{
	struct socket *sock = bpf_sock_from_file(file);
	struct sock *sk = sock ? sock->sk : NULL;

	return sk && made_here(mark, sk);
}

SEC("lsm/file_receive")
int BPF_PROG(file_receive, struct file *file, int ret)
{
	SEALED(ret);
	struct dentry *dentry = file->f_path.dentry;
	struct inode *inode = file->f_inode;
	__u32 kind = inode->i_mode & S_IFMT, device = inode->i_rdev;
	unsigned long magic = inode->i_sb->s_magic;
	struct seal_object *object;

	if (magic == SOCKFS_MAGIC) {
		if (is_own_socket(mark, file))
			return 0;
	} else if (magic == PID_FS_MAGIC || is_nameless(dentry, inode)) {
		return 0;
	} else if (magic == ANON_INODE_FS_MAGIC) {
		if (is_waiting(dentry))
			return 0;
	} else if (file->f_mode & FMODE_PATH) {
		return 0; /* opening what it refers to is asked about */
	} else if (kind == S_IFCHR) {
		if (is_harmless_device(device) || (is_terminal(device >> 20) && is_own_terminal(mark, device)))
			return 0;
	} else if (kind == S_IFREG || kind == S_IFDIR || kind == S_IFIFO) {
		if (!(file->f_mode & FMODE_WRITE)) {
			if (!is_protected(mark, dentry))
				return 0;
		} else {
			object = bpf_inode_storage_get(&objects, inode, NULL, 0);
			if (object && object->writer == mark->sandbox)
				return 0;
		}
	}
	return refuse_path(mark, SEAL_RECEIVE, SEAL_NEVER, dentry);
}

#endif
