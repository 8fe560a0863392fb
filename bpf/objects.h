/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which object is this? The daemon opens what it means (O_PATH) and writes an id into the storage of that inode; the seal
 * reads the id from the inode that the kernel itself resolved. (Device and inode number would not do: two subvolumes of
 * btrfs share them, and overlayfs shows others than it has.)
 */
#ifndef SEAL_OBJECTS_H
#define SEAL_OBJECTS_H

#define DEPTH_MOST 96 /* directories above an object; what lies deeper counts as protected */

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct seal_object);
} objects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct seal_label_key);
	__type(value, __u32);
} labels SEC(".maps");

static __always_inline __u64 id_of(struct inode *inode)
{
	struct seal_object *object = bpf_inode_storage_get(&objects, inode, NULL, 0);

	return object ? object->id : 0;
}

static __always_inline bool is_object(struct inode *inode, __u64 id)
{
	return id && id_of(inode) == id;
}

/* Remembers that this sandbox was granted to write an object: it may hand the open file on within itself. */
static __always_inline void note_writer(struct mark *mark, struct inode *inode, bool made)
{
	struct seal_object *object = bpf_inode_storage_get(&objects, inode, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!object)
		return;
	object->writer = mark->sandbox;
	if (made)
		object->maker = mark->sandbox;
}

/* Whether the object, or a directory above it on its filesystem, is labelled for this sandbox. */
static __noinline bool is_protected(struct mark *mark, struct dentry *dentry)
{
	struct seal_label_key key = { .sandbox = mark->sandbox };
	struct dentry *here = dentry;
	int i;

	for (i = 0; i < DEPTH_MOST; i++) {
		struct seal_object *object = bpf_inode_storage_get(&objects, here->d_inode, NULL, 0);
		struct dentry *above;

		if (object && object->labelled) {
			key.object = object->id;
			if (bpf_map_lookup_elem(&labels, &key))
				return true;
		}
		above = here->d_parent;
		if (above == here)
			return false;
		here = above;
	}
	return true;
}

#endif
