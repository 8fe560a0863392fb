/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * May this thread have this effect? The daemon writes one grant per thread, at each call that it lets go; it overwrites
 * what was there. Only the thread itself uses its grant up, so nothing here has to be atomic.
 *
 * Names are compared whole: whoever chooses names can find two with the same hash.
 */
#ifndef SEAL_GRANTS_H
#define SEAL_GRANTS_H

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct seal_grant);
} grants SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct seal_text_key);
	__type(value, struct seal_text);
} texts SEC(".maps");

/* The grant of the current thread if it is for this operation, at its beginning; NULL, and mark->reason says why not. */
static __always_inline struct seal_grant *grant_for(struct mark *mark, __u32 operation)
{
	__u32 thread = bpf_get_current_task_btf()->pid;
	struct seal_grant *grant = bpf_map_lookup_elem(&grants, &thread);

	mark->reason = SEAL_NO_GRANT;
	if (!grant || grant->sandbox != mark->sandbox || grant->operation != operation)
		return NULL;
	if (grant->expires < bpf_ktime_get_ns()) {
		mark->reason = SEAL_EXPIRED;
		return NULL;
	}
	/* It is for this operation: if it is not used, that is because of the object. */
	mark->reason = SEAL_OTHER_OBJECT;
	return grant;
}

/* Written in place, since taking the entry out of the map can fail. */
static __always_inline void use_up(struct seal_grant *grant)
{
	grant->operation = SEAL_NONE;
}

static __always_inline bool same_words(const __u64 *one, const __u64 *other, int words)
{
	__u64 different = 0;

#pragma unroll
	for (int i = 0; i < words; i++)
		different |= one[i] ^ other[i];
	return !different;
}

/* Whether the entry `dentry` of directory `dir` is the one that was meant. */
static __noinline bool is_entry(struct mark *mark, struct seal_target *target, struct inode *dir, struct dentry *dentry)
{
	__u32 length = dentry->d_name.len;

	if (!is_object(dir, target->parent) || length >= SEAL_NAME_BYTES)
		return false;
#pragma unroll
	for (int i = 0; i < SEAL_NAME_BYTES / 8; i++)
		mark->name[i] = 0;
	if (bpf_probe_read_kernel_str(mark->name, SEAL_NAME_BYTES, dentry->d_name.name) != length + 1)
		return false;
	return same_words(mark->name, (__u64 *)target->name, SEAL_NAME_BYTES / 8);
}

/* Whether what stands at an entry is what the daemon saw there: that object, or nothing. */
static __always_inline bool stands(struct seal_target *target, struct dentry *dentry)
{
	struct inode *inode = dentry->d_inode;

	return target->object ? is_object(inode, target->object) : !inode;
}

/* ---- long texts */

struct text_walk {
	struct mark *mark;
	__u64 address;
	__u32 thread;
	__u32 bytes;
	__u32 same;
	__u32 user; /* the address is the current process's own */
};

static __always_inline long compare_piece(__u32 index, struct text_walk *walk, bool user)
{
	struct seal_text_key key = { .thread = walk->thread, .chunk = index / SEAL_PIECES };
	struct mark *mark = walk->mark;
	__u64 at = (__u64)index * SEAL_PIECE_BYTES;
	__u64 piece = index % SEAL_PIECES;
	struct seal_text *text;
	__u64 length;
	long failed;

	if (at >= walk->bytes)
		return 1;
	walk->same = 0;
	text = bpf_map_lookup_elem(&texts, &key);
	asm volatile("%0 &= 7" : "+r"(piece)); /* the verifier knows no remainder, and forgets bounds */
	if (!text || piece >= SEAL_PIECES)
		return 1;
	length = walk->bytes - at;
	if (length > SEAL_PIECE_BYTES)
		length = SEAL_PIECE_BYTES;
#pragma unroll
	for (int i = 0; i < SEAL_PIECE_BYTES / 8; i++)
		mark->piece[i] = 0;
	asm volatile("%0 &= 1023" : "+r"(length));
	if (length > SEAL_PIECE_BYTES)
		return 1;
	if (user)
		failed = bpf_copy_from_user(mark->piece, length, (void *)(walk->address + at));
	else
		failed = bpf_probe_read_kernel(mark->piece, length, (void *)(walk->address + at));
	if (failed || !same_words(mark->piece, (__u64 *)&text->bytes[piece * SEAL_PIECE_BYTES], SEAL_PIECE_BYTES / 8))
		return 1;
	walk->same = 1;
	return 0;
}

static long compare_piece_of_user(__u32 index, struct text_walk *walk)
{
	return compare_piece(index, walk, true);
}

static long compare_piece_of_kernel(__u32 index, struct text_walk *walk)
{
	return compare_piece(index, walk, false);
}

#define PIECES_OF(bytes) (((bytes) + SEAL_PIECE_BYTES - 1) / SEAL_PIECE_BYTES)

#endif
