/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The seal: what may this sandboxed thread do to this object, now?
 *
 * The daemon answers a held system call with "go on", and the kernel then reads the arguments again, which another thread
 * may have changed by then. So these programs ask again where the kernel has resolved them: an effect happens only against
 * a grant that the daemon wrote for this thread, this operation and this very object. Everything else of a sandboxed task
 * gets EPERM and an event. Tasks outside of any sandbox pay one look into a hash.
 *
 * One object for all kernels from 6.1 on. Programs whose hook a kernel lacks are left out by the loader, which asks the
 * kernel's BTF (grant/lsm.py says which may be missing).
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_endian.h>

#include "seal.h"

#include "marks.h"
#include "events.h"
#include "objects.h"
#include "grants.h"
#include "files.h"
#include "network.h"
#include "receive.h"
#include "exec.h"
#include "processes.h"
#include "guards.h"

char LICENSE[] SEC("license") = "GPL";
