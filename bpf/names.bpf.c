/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Names: where does this sandboxed process's DNS go?
 *
 * Attached to the cgroup of each sandbox. Whatever a process of it connects or sends to port 53, of any address, arrives at
 * governed-resolver, at the port that is opened for the process's Subject; without such a port it gets EPERM. The process
 * sees the address that it asked: libc drops answers from any other. Ports of other Subjects cannot be reached from inside, or
 * one could ask in another's name.
 *
 * The kernel runs these after its LSM hooks (net/socket.c: security_socket_connect, then the protocol's pre_connect), on
 * its own copy of the address: a grant of the seal is for the address that was asked, and a thread that changes its memory
 * meanwhile changes nothing here.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define DNS 53
#define LOOPBACK 0x7f000001
#define DEEPEST 16 /* cgroups beneath each other; a Subject deeper than that has no port, and gets EPERM */
#define AF_INET6 10

enum { REFUSE = 0, GO_ON = 1 };

/* The port of each Subject, by the id of its cgroup. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u32);
} subjects SEC(".maps");

/* All of these ports. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64);
} ports SEC(".maps");

/* What a socket asked last, as IPv6 has it, and where that was led. */
struct question {
	__be32 address[4];
	__be32 port;
	__u32 led_to;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct question);
} questions SEC(".maps");

/* Sockets that were made under these programs: which of them run is up to the socket's own cgroup, so that one that came
 * from outside is not led anywhere. The daemon looks here. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} sockets SEC(".maps");

/* The port of the innermost Subject that the current task stands in; 0: none. */
static __always_inline __u32 port_of_current(void)
{
	__u32 *port;
	__u64 cgroup;

#pragma unroll
	for (int level = DEEPEST; level > 0; level--) {
		cgroup = bpf_get_current_ancestor_cgroup_id(level);
		if (!cgroup)
			continue;
		port = bpf_map_lookup_elem(&subjects, &cgroup);
		if (port)
			return *port;
	}
	return 0;
}

static __always_inline int is_mapped(struct bpf_sock_addr *to)
{
	return to->user_ip6[0] == 0 && to->user_ip6[1] == 0 && to->user_ip6[2] == bpf_htonl(0xffff);
}

/* A port that stands for another Subject. Its own may be reached: a send over a connected IPv6 socket to an IPv4 address
 * comes here with the address that it was led to (net/ipv6/udp.c, udpv6_sendmsg). */
static __always_inline int is_of_another(struct bpf_sock_addr *to)
{
	__u32 port = bpf_ntohs(to->user_port);

	return bpf_map_lookup_elem(&ports, &port) && port != port_of_current();
}

/* Where a socket is led that asks `port_of_current`; what it asked is kept. 0: nowhere. */
static __always_inline __u32 lead(struct bpf_sock_addr *to, __be32 a, __be32 b, __be32 c, __be32 d)
{
	__u32 port = port_of_current();
	struct question *asked;

	if (!port || !to->sk)
		return 0;
	asked = bpf_sk_storage_get(&questions, to->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!asked)
		return 0;
	asked->address[0] = a;
	asked->address[1] = b;
	asked->address[2] = c;
	asked->address[3] = d;
	asked->port = to->user_port;
	asked->led_to = port;
	return port;
}

static __always_inline int to_ipv4(struct bpf_sock_addr *to)
{
	__u32 address = bpf_ntohl(to->user_ip4), port;

	if (bpf_ntohs(to->user_port) == DNS) {
		port = lead(to, 0, 0, bpf_htonl(0xffff), to->user_ip4);
		if (!port)
			return REFUSE;
		to->user_ip4 = bpf_htonl(LOOPBACK);
		to->user_port = bpf_htons(port);
		return GO_ON;
	}
	/* 0.0.0.0 leads to this machine as well. */
	return (address >> 24 == 127 || address == 0) && is_of_another(to) ? REFUSE : GO_ON;
}

static __always_inline int to_ipv6(struct bpf_sock_addr *to)
{
	__u32 port;

	if (bpf_ntohs(to->user_port) == DNS) {
		port = lead(to, to->user_ip6[0], to->user_ip6[1], to->user_ip6[2], to->user_ip6[3]);
		if (!port)
			return REFUSE;
		if (is_mapped(to)) {
			to->user_ip6[3] = bpf_htonl(LOOPBACK);
		} else {
			to->user_ip6[0] = to->user_ip6[1] = to->user_ip6[2] = 0;
			to->user_ip6[3] = bpf_htonl(1);
		}
		to->user_port = bpf_htons(port);
		return GO_ON;
	}
	if (!is_of_another(to))
		return GO_ON;
	if (is_mapped(to))
		return bpf_ntohl(to->user_ip6[3]) >> 24 == 127 || to->user_ip6[3] == 0 ? REFUSE : GO_ON;
	if (to->user_ip6[0] || to->user_ip6[1] || to->user_ip6[2])
		return GO_ON;
	return to->user_ip6[3] == 0 || to->user_ip6[3] == bpf_htonl(1) ? REFUSE : GO_ON;
}

/* What the socket asked, if this is an answer from where it was led. */
static __always_inline struct question *asked_by(struct bpf_sock_addr *from)
{
	struct question *asked;

	if (!from->sk)
		return NULL;
	asked = bpf_sk_storage_get(&questions, from->sk, NULL, 0);
	return asked && bpf_ntohs(from->user_port) == asked->led_to ? asked : NULL;
}

static __always_inline int from_ipv4(struct bpf_sock_addr *from)
{
	struct question *asked = asked_by(from);

	if (asked && from->user_ip4 == bpf_htonl(LOOPBACK)) {
		from->user_ip4 = asked->address[3];
		from->user_port = asked->port;
	}
	return GO_ON;
}

static __always_inline int from_ipv6(struct bpf_sock_addr *from)
{
	struct question *asked = asked_by(from);

	if (!asked)
		return GO_ON;
	if (is_mapped(from) ? from->user_ip6[3] != bpf_htonl(LOOPBACK) :
			      (from->user_ip6[0] || from->user_ip6[1] || from->user_ip6[2] ||
			       from->user_ip6[3] != bpf_htonl(1)))
		return GO_ON;
	from->user_ip6[0] = asked->address[0];
	from->user_ip6[1] = asked->address[1];
	from->user_ip6[2] = asked->address[2];
	from->user_ip6[3] = asked->address[3];
	from->user_port = asked->port;
	return GO_ON;
}

SEC("cgroup/sock_create")
int sock_create(struct bpf_sock *sock)
{
	return bpf_sk_storage_get(&sockets, sock, NULL, BPF_SK_STORAGE_GET_F_CREATE) ? GO_ON : REFUSE;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *to)
{
	return to_ipv4(to);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *to)
{
	return to_ipv6(to);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *to)
{
	return to_ipv4(to);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *to)
{
	return to_ipv6(to);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *from)
{
	return from_ipv4(from);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *from)
{
	return from_ipv6(from);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *of)
{
	return from_ipv4(of);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *of)
{
	return from_ipv6(of);
}

char LICENSE[] SEC("license") = "GPL";
