/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sockets: connecting, binding, listening, sending to an address.
 *
 * The kernel has copied an address before it asks: what is compared here is what is used. A unix socket that is a file is
 * compared by its inode, in the hook that knows the other side.
 */
#ifndef SEAL_NETWORK_H
#define SEAL_NETWORK_H

struct sockaddr_in_bytes {
	__u16 family;
	__be16 port;
	__u8 address[4];
};

struct sockaddr_in6_bytes {
	__u16 family;
	__be16 port;
	__be32 flow;
	__u8 address[16];
	__u32 scope;
};

/* Which sockets a sandbox made: it may hand these on within itself (files.h, file_receive). Accepted ones inherit it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, __u64);
} sockets SEC(".maps");

static __always_inline __u32 protocol_of(struct sock *sk)
{
	__u16 type = sk->sk_type;

	return type == SOCK_STREAM ? IPPROTO_TCP : type == SOCK_DGRAM ? IPPROTO_UDP : 0xffff;
}

/* IPv4 as IPv6 has it: ::ffff:a.b.c.d */
static __always_inline void put_ipv4(struct seal_address *to, const __u8 *address)
{
	to->bytes[10] = to->bytes[11] = 0xff;
	__builtin_memcpy(&to->bytes[12], address, 4);
}

static __always_inline void clear(struct seal_address *address)
{
	__builtin_memset(address, 0, sizeof(*address));
}

/* An address in the kernel's memory as the seal compares it. False: it cannot be understood. */
static __noinline bool read_address(struct seal_address *to, struct sock *sk, void *from, int length)
{
	__u16 family = 0;

	clear(to);
	if (length < 2 || bpf_probe_read_kernel(&family, sizeof(family), from))
		return false;
	to->family = family;
	if (family == AF_UNSPEC && protocol_of(sk) == IPPROTO_UDP && length >= 8)
		family = AF_INET; /* udp_sendmsg takes it so; for connect see socket_connect */
	if (family == AF_INET && length >= 8) {
		struct sockaddr_in_bytes in;

		if (bpf_probe_read_kernel(&in, sizeof(in), from))
			return false;
		put_ipv4(to, in.address);
		to->port = bpf_ntohs(in.port);
	} else if (family == AF_INET6 && length >= 24) {
		struct sockaddr_in6_bytes in6;

		if (bpf_probe_read_kernel(&in6, 24, from))
			return false;
		__builtin_memcpy(to->bytes, in6.address, 16);
		to->port = bpf_ntohs(in6.port);
	} else if (family == AF_UNIX) {
		__u64 used = length - 2;

		if (used > 108)
			return false;
		asm volatile("%0 &= 127" : "+r"(used));
		if (used > 108)
			return false;
		if (used && bpf_probe_read_kernel(to->bytes, used, from + 2))
			return false;
		to->bytes_used = used;
		return true;
	} else {
		return false;
	}
	to->family = AF_INET6;
	to->protocol = protocol_of(sk);
	to->bytes_used = 16;
	return true;
}

/* A grant is for an address, not for a socket. The cgroup that a socket was made in decides which programs its packets
 * meet: one from outside would take a granted lookup of a name to any server (names.bpf.c leads only a sandbox's own), and
 * past what the machine's firewall says of the sandbox. */
static __always_inline bool made_here(struct mark *mark, struct sock *sk)
{
	__u64 *owner = bpf_sk_storage_get(&sockets, sk, NULL, 0);

	return owner && *owner == mark->sandbox;
}

static __always_inline bool same_address(struct seal_address *one, struct seal_address *other)
{
	return same_words((__u64 *)one, (__u64 *)other, sizeof(*one) / 8);
}

static __noinline int to_address(struct mark *mark, __u32 operation, struct seal_address *address)
{
	struct seal_grant *grant = grant_for(mark, operation);

	if (!grant || !same_address(&grant->address, address))
		return refuse_address(mark, operation, mark->reason, address);
	use_up(grant);
	return 0;
}

/* The file of a bound unix socket, NULL for an abstract or unnamed one. */
static __always_inline struct dentry *file_of_unix(struct unix_sock *other)
{
	return other->path.dentry;
}

/* The abstract name of a unix socket. */
static __always_inline void read_unix_name(struct seal_address *to, struct unix_sock *other)
{
	struct unix_address *name = other->addr;
	__u64 used;

	clear(to);
	to->family = AF_UNIX;
	if (!name)
		return;
	used = name->len - 2;
	asm volatile("%0 &= 127" : "+r"(used));
	if (!used || used > 108)
		return;
	if (bpf_probe_read_kernel(to->bytes, used, (void *)name->name + 2))
		return;
	to->bytes_used = used;
}

/* To a unix socket, whose other side the kernel has found. */
static __noinline int to_unix(struct mark *mark, __u32 operation, struct unix_sock *other)
{
	struct dentry *file = file_of_unix(other);
	struct seal_address name;
	struct seal_grant *grant;

	if (!file) {
		read_unix_name(&name, other);
		return to_address(mark, operation, &name);
	}
	grant = grant_for(mark, operation);
	if (!grant || !is_object(file->d_inode, grant->targets[0].object))
		return refuse_path(mark, operation, mark->reason, file);
	use_up(grant);
	return 0;
}

SEC("lsm/socket_post_create")
int BPF_PROG(socket_post_create, struct socket *sock, int family, int type, int protocol, int kern, int ret)
{
	SEALED(ret);
	struct sock *sk = sock->sk;
	__u64 *owner;

	if (kern || !sk)
		return 0;
	owner = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!owner)
		return -EPERM;
	*owner = mark->sandbox;
	return 0;
}

SEC("lsm/socket_connect")
int BPF_PROG(socket_connect, struct socket *sock, struct sockaddr *address, int addrlen, int ret)
{
	SEALED(ret);
	struct sock *sk = sock->sk;
	struct seal_address to;
	__u16 family = 0, own;

	if (!sk)
		return -EPERM;
	own = sk->__sk_common.skc_family;
	if (addrlen >= 2)
		bpf_probe_read_kernel(&family, sizeof(family), address);
	if (own == AF_NETLINK)
		return 0; /* route netlink: the filter lets no other be made */
	if (own == AF_UNIX && family == AF_UNIX)
		return 0; /* unix_stream_connect or unix_may_send */
	if (!made_here(mark, sk))
		return refuse(mark, SEAL_NET_CONNECT, SEAL_NEVER);
	if (family == AF_UNSPEC) {
		clear(&to);
		return to_address(mark, SEAL_NET_CONNECT, &to);
	}
	if ((own != AF_INET && own != AF_INET6) || !read_address(&to, sk, address, addrlen))
		return refuse(mark, SEAL_NET_CONNECT, SEAL_NEVER);
	return to_address(mark, SEAL_NET_CONNECT, &to);
}

SEC("lsm/socket_bind")
int BPF_PROG(socket_bind, struct socket *sock, struct sockaddr *address, int addrlen, int ret)
{
	SEALED(ret);
	struct sock *sk = sock->sk;
	struct seal_address to;
	__u16 own;

	if (!sk)
		return -EPERM;
	own = sk->__sk_common.skc_family;
	if (own == AF_NETLINK)
		return 0;
	if (!read_address(&to, sk, address, addrlen))
		return refuse(mark, SEAL_NET_BIND, SEAL_NEVER);
	if (own == AF_UNIX) {
		if (to.family != AF_UNIX)
			return refuse(mark, SEAL_NET_BIND, SEAL_NEVER);
		if (!to.bytes_used)
			return 0; /* the kernel chooses an unused abstract name */
		if (to.bytes[0])
			return 0; /* a file: path_mknod */
	}
	return to_address(mark, SEAL_NET_BIND, &to);
}

SEC("lsm/socket_listen")
int BPF_PROG(socket_listen, struct socket *sock, int backlog, int ret)
{
	SEALED(ret);
	struct sock *sk = sock->sk;
	struct seal_address at;
	__u16 own;
	__be32 ipv4;

	if (!sk)
		return -EPERM;
	own = sk->__sk_common.skc_family;
	if (own == AF_UNIX) {
		struct unix_sock *bound = bpf_skc_to_unix_sock(sk);

		return bound ? to_unix(mark, SEAL_NET_LISTEN, bound) : -EPERM;
	}
	clear(&at);
	at.family = AF_INET6;
	at.protocol = protocol_of(sk);
	at.bytes_used = 16;
	at.port = sk->__sk_common.skc_num;
	if (own == AF_INET) {
		ipv4 = sk->__sk_common.skc_rcv_saddr;
		put_ipv4(&at, (__u8 *)&ipv4);
	} else if (own == AF_INET6) {
		BPF_CORE_READ_INTO((struct in6_addr *)at.bytes, sk, __sk_common.skc_v6_rcv_saddr);
	} else {
		return refuse(mark, SEAL_NET_LISTEN, SEAL_NEVER);
	}
	return to_address(mark, SEAL_NET_LISTEN, &at);
}

/* send(2) with an address; without one it goes where connect led. Sockets of the kernel's own have no file. */
SEC("lsm/socket_sendmsg")
int BPF_PROG(socket_sendmsg, struct socket *sock, struct msghdr *msg, int size, int ret)
{
	SEALED(ret);
	struct sock *sk = sock->sk;
	struct seal_address to;
	__u16 own;
	__u32 operation = msg->msg_flags & MSG_FASTOPEN ? SEAL_NET_CONNECT : SEAL_NET_SEND;

	if (!msg->msg_name || msg->msg_namelen <= 0 || !sock->file)
		return 0;
	if (!sk)
		return -EPERM;
	own = sk->__sk_common.skc_family;
	if (own == AF_NETLINK)
		return 0;
	if (own == AF_UNIX)
		return 0; /* unix_may_send; a stream takes no address */
	if ((own != AF_INET && own != AF_INET6) || !made_here(mark, sk) ||
	    !read_address(&to, sk, msg->msg_name, msg->msg_namelen))
		return refuse(mark, operation, SEAL_NEVER);
	return to_address(mark, operation, &to);
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(unix_stream_connect, struct sock *sock, struct sock *other, struct sock *newsk, int ret)
{
	SEALED(ret);
	struct unix_sock *found = bpf_skc_to_unix_sock(other);

	return found ? to_unix(mark, SEAL_NET_CONNECT, found) : -EPERM;
}

/* connect(2) of a datagram socket, sending to an address, and each send through a connected one. */
SEC("lsm/unix_may_send")
int BPF_PROG(unix_may_send, struct socket *sock, struct socket *other, int ret)
{
	SEALED(ret);
	struct sock *from = sock->sk, *to = other->sk;
	struct unix_sock *own, *found;

	if (!from || !to)
		return -EPERM;
	own = bpf_skc_to_unix_sock(from);
	found = bpf_skc_to_unix_sock(to);
	if (!own || !found)
		return -EPERM;
	if ((void *)own->peer == (void *)found)
		return 0; /* they are connected: that was granted, or both are of one pair */
	if (grant_for(mark, SEAL_NET_SEND))
		return to_unix(mark, SEAL_NET_SEND, found);
	return to_unix(mark, SEAL_NET_CONNECT, found);
}

#endif
