/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What was refused, told to the daemon.
 *
 * Each sandbox may cause so many events per second; what is beyond is counted, and the next event says how many there
 * were: a loop over kill(-1) must not fill the journal. Two CPUs may race for the window: a few events more or less.
 */
#ifndef SEAL_EVENTS_H
#define SEAL_EVENTS_H

#define EVENTS_PER_SECOND 64
#define EVENT_NAMES 40 /* directories that an event names; deeper paths are cut at their beginning */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} events SEC(".maps");

static __always_inline bool within_rate(struct seal_sandbox *sandbox)
{
	__u64 second = bpf_ktime_get_ns() / 1000000000ULL;

	if (sandbox->window != second) {
		sandbox->window = second;
		sandbox->count = 0;
	}
	return __sync_fetch_and_add(&sandbox->count, 1) < EVENTS_PER_SECOND;
}

static __always_inline struct seal_event *begin_event(struct mark *mark, __u32 operation, __u32 reason)
{
	__u64 number = mark->sandbox;
	struct seal_sandbox *sandbox = bpf_map_lookup_elem(&sandboxes, &number);
	struct seal_event *event;

	if (!sandbox)
		return NULL;
	event = within_rate(sandbox) ? bpf_ringbuf_reserve(&events, sizeof(*event), 0) : NULL;
	if (!event) {
		__sync_fetch_and_add(&sandbox->dropped, 1);
		return NULL;
	}
	event->sandbox = number;
	event->dropped = __sync_lock_test_and_set(&sandbox->dropped, 0); /* taken by one CPU: never counted twice */
	event->thread = bpf_get_current_task_btf()->pid;
	event->operation = operation;
	event->kind = SEAL_EVENT_NOTHING;
	event->reason = reason;
	event->device = 0;
	event->process = 0;
	event->path_bytes = 0;
	event->cut = 0;
	return event;
}

/* Refuses something that has no object. */
static __noinline int refuse(struct mark *mark, __u32 operation, __u32 reason)
{
	struct seal_event *event = begin_event(mark, operation, reason);

	if (event)
		bpf_ringbuf_submit(event, 0);
	return -EPERM;
}

/* Refuses something about a file. */
static __noinline int refuse_path(struct mark *mark, __u32 operation, __u32 reason, struct dentry *dentry)
{
	struct seal_event *event = begin_event(mark, operation, reason);
	struct dentry *here = dentry;
	__u32 used = 0;
	int i;

	if (!event)
		return -EPERM;
	event->kind = SEAL_EVENT_PATH;
	event->cut = 1;
	event->device = here->d_sb->s_dev;
	for (i = 0; i < EVENT_NAMES; i++) {
		struct dentry *above = here->d_parent;
		long got;

		if (above == here) {
			event->cut = 0;
			break;
		}
		if (used >= SEAL_PATH_BYTES)
			break;
		got = bpf_probe_read_kernel_str(&event->path[used & (SEAL_PATH_BYTES - 1)], SEAL_NAME_BYTES,
						here->d_name.name);
		if (got <= 0 || got > SEAL_NAME_BYTES)
			break;
		used += got;
		here = above;
	}
	event->path_bytes = used;
	bpf_ringbuf_submit(event, 0);
	return -EPERM;
}

/* Refuses something about an address. */
static __noinline int refuse_address(struct mark *mark, __u32 operation, __u32 reason, struct seal_address *address)
{
	struct seal_event *event = begin_event(mark, operation, reason);

	if (!event)
		return -EPERM;
	event->kind = SEAL_EVENT_ADDRESS;
	event->address = *address;
	bpf_ringbuf_submit(event, 0);
	return -EPERM;
}

/* Refuses something about a process. */
static __noinline int refuse_process(struct mark *mark, __u32 operation, __u32 reason, struct task_struct *task)
{
	struct seal_event *event = begin_event(mark, operation, reason);

	if (!event)
		return -EPERM;
	event->kind = SEAL_EVENT_PROCESS;
	event->process = task->tgid;
	bpf_ringbuf_submit(event, 0);
	return -EPERM;
}

#endif
