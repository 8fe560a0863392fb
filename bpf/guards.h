/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a sandboxed task never may, whatever was granted; and the seal's own maps, programs and links, which only the daemon
 * may get hold of while it lives. (When it is gone, the next one has to: the pins belong to root.)
 */
#ifndef SEAL_GUARDS_H
#define SEAL_GUARDS_H

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct seal_own_key);
	__type(value, __u32);
} own SEC(".maps");

static __always_inline bool is_guarded(__u32 kind, __u32 id)
{
	struct seal_own_key key = { .kind = kind, .id = id };

	return bpf_map_lookup_elem(&own, &key) && is_kept() && !is_keeper();
}

SEC("lsm/bpf")
int BPF_PROG(bpf, int cmd, union bpf_attr *attr, unsigned int size, int ret)
{
	if (!ret && cmd == BPF_LINK_GET_FD_BY_ID && is_guarded(SEAL_OWN_LINK, attr->link_id))
		return -EPERM;
	SEALED(ret);
	return refuse(mark, SEAL_BPF, SEAL_NEVER);
}

SEC("lsm/bpf_map")
int BPF_PROG(bpf_map, struct bpf_map *map, unsigned int mode, int ret)
{
	if (!ret && is_guarded(SEAL_OWN_MAP, map->id))
		return -EPERM;
	SEALED(ret);
	return refuse(mark, SEAL_BPF, SEAL_NEVER);
}

SEC("lsm/bpf_prog")
int BPF_PROG(bpf_prog, struct bpf_prog *prog, int ret)
{
	if (!ret && is_guarded(SEAL_OWN_PROGRAM, prog->aux->id))
		return -EPERM;
	SEALED(ret);
	return refuse(mark, SEAL_BPF, SEAL_NEVER);
}

/* Its arguments differ between kernels; none is read. SEALED takes 0 for what another module said: refused is refused. */
SEC("lsm/perf_event_open")
int BPF_PROG(perf_event_open)
{
	SEALED(0);
	return refuse(mark, SEAL_PERF, SEAL_NEVER);
}

#define NEVER(hook, operation, ...)                                            \
	SEC("lsm/" #hook)                                                      \
	int BPF_PROG(hook, __VA_ARGS__)                                        \
	{                                                                      \
		SEALED(ret);                                                   \
		return refuse(mark, operation, SEAL_NEVER);                    \
	}

NEVER(sb_mount, SEAL_MOUNT, void *name, void *path, void *type, unsigned long flags, void *data, int ret)
NEVER(move_mount, SEAL_MOUNT, void *from, void *to, int ret)
NEVER(sb_umount, SEAL_MOUNT, void *mount, int flags, int ret)
NEVER(sb_remount, SEAL_MOUNT, void *sb, void *options, int ret)
NEVER(sb_pivotroot, SEAL_MOUNT, void *from, void *to, int ret)
NEVER(userns_create, SEAL_NAMESPACE, void *cred, int ret)
NEVER(kernel_load_data, SEAL_MODULE, int id, int contents, int ret)
NEVER(kernel_read_file, SEAL_MODULE, void *file, int id, int contents, int ret)
NEVER(syslog, SEAL_SYSLOG, int type, int ret)
NEVER(quotactl, SEAL_QUOTA, int cmds, int type, int id, void *sb, int ret)
NEVER(quota_on, SEAL_QUOTA, void *dentry, int ret)
NEVER(settime, SEAL_CLOCK, void *time, void *zone, int ret)
NEVER(uring_sqpoll, SEAL_URING, int ret)
NEVER(uring_cmd, SEAL_URING, void *command, int ret)
NEVER(uring_override_creds, SEAL_URING, void *cred, int ret)

/* Asked for by the way, by ordinary calls (an unknown program format, a protocol): told to nobody. */
SEC("lsm/kernel_module_request")
int BPF_PROG(kernel_module_request, char *name, int ret)
{
	SEALED(ret);
	return -EPERM;
}

#endif
