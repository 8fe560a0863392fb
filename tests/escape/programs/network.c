/* Ways out over sockets. Addresses come as arguments: HOST PORT, or a path (an abstract name begins with @). */
#include "attack.h"
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>

static struct sockaddr_storage address;

static socklen_t named(const char *name)
{
	struct sockaddr_un *to = (struct sockaddr_un *)&address;
	size_t length = strlen(name);
	memset(&address, 0, sizeof address);
	to->sun_family = AF_UNIX;
	memcpy(to->sun_path, name, length);
	if (name[0] == '@') {
		to->sun_path[0] = 0;
		return sizeof(sa_family_t) + length;
	}
	return sizeof *to;
}

static socklen_t ip(const char *host, const char *port)
{
	struct sockaddr_in *four = (struct sockaddr_in *)&address;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address;
	memset(&address, 0, sizeof address);
	if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(atoi(port));
		return sizeof *six;
	}
	four->sin_family = AF_INET;
	four->sin_port = htons(atoi(port));
	inet_pton(AF_INET, host, &four->sin_addr);
	return sizeof *four;
}

static long sock(int family, int type) { return need("socket", CALL3(SYS_socket, family, type, 0)); }

static long unix_connect(char **a) { socklen_t n = named(a[0]); return CALL3(SYS_connect, sock(AF_UNIX, SOCK_STREAM), &address, n); }
static long unix_short(char **a) /* a length that ends where the name ends */
{
	named(a[0]);
	return CALL3(SYS_connect, sock(AF_UNIX, SOCK_STREAM), &address, sizeof(sa_family_t) + strlen(a[0]));
}
static long unix_sendto(char **a) { socklen_t n = named(a[0]); return CALL6(SYS_sendto, sock(AF_UNIX, SOCK_DGRAM), "x", 1, 0, &address, n); }

static long message(long descriptor, socklen_t length, int flags)
{
	struct iovec data = { "x", 1 };
	struct msghdr header = { .msg_name = &address, .msg_namelen = length, .msg_iov = &data, .msg_iovlen = 1 };
	return CALL3(SYS_sendmsg, descriptor, &header, flags);
}
static long messages(long descriptor, socklen_t length)
{
	struct iovec data = { "x", 1 };
	struct mmsghdr header[2];
	memset(header, 0, sizeof header);
	for (int i = 0; i < 2; i++)
		header[i].msg_hdr = (struct msghdr){ .msg_name = &address, .msg_namelen = length, .msg_iov = &data, .msg_iovlen = 1 };
	return CALL4(SYS_sendmmsg, descriptor, header, 2, 0);
}
static long unix_sendmsg(char **a) { socklen_t n = named(a[0]); return message(sock(AF_UNIX, SOCK_DGRAM), n, 0); }
static long unix_sendmmsg(char **a) { socklen_t n = named(a[0]); return messages(sock(AF_UNIX, SOCK_DGRAM), n); }
static long pair_sendto(char **a) /* one end of a pair, sent to somebody else */
{
	int pair[2];
	socklen_t n = named(a[0]);
	need("socketpair", CALL4(SYS_socketpair, AF_UNIX, SOCK_DGRAM, 0, pair));
	return CALL6(SYS_sendto, pair[0], "x", 1, 0, &address, n);
}
static long raw_pair_sendto(char **a) /* unix sockets of type raw are datagram sockets */
{
	int pair[2];
	socklen_t n = named(a[0]);
	long made = CALL4(SYS_socketpair, AF_UNIX, SOCK_RAW, 0, pair);
	return made < 0 ? made : CALL6(SYS_sendto, pair[0], "x", 1, 0, &address, n);
}
static long unix_bind(char **a) { socklen_t n = named(a[0]); return CALL3(SYS_bind, sock(AF_UNIX, SOCK_STREAM), &address, n); }

static long tcp(char **a) { socklen_t n = ip(a[0], a[1]); return CALL3(SYS_connect, sock(address.ss_family, SOCK_STREAM), &address, n); }
static long udp(char **a) { socklen_t n = ip(a[0], a[1]); return CALL6(SYS_sendto, sock(address.ss_family, SOCK_DGRAM), "x", 1, 0, &address, n); }
static long udp_connect(char **a)
{
	socklen_t n = ip(a[0], a[1]);
	long s = sock(address.ss_family, SOCK_DGRAM);
	long made = CALL3(SYS_connect, s, &address, n);
	return made < 0 ? made : CALL6(SYS_sendto, s, "x", 1, 0, NULL, 0);
}
static long udp_sendmsg(char **a) { socklen_t n = ip(a[0], a[1]); return message(sock(address.ss_family, SOCK_DGRAM), n, 0); }
static long udp_sendmmsg(char **a) { socklen_t n = ip(a[0], a[1]); return messages(sock(address.ss_family, SOCK_DGRAM), n); }
static long udp_unspec(char **a) /* udp takes AF_UNSPEC for AF_INET */
{
	socklen_t n = ip(a[0], a[1]);
	long s = sock(AF_INET, SOCK_DGRAM);
	address.ss_family = AF_UNSPEC;
	return CALL6(SYS_sendto, s, "x", 1, 0, &address, n);
}
static long udp6_to_4(char **a) /* an IPv6 socket takes IPv4 addresses */
{
	long s = sock(AF_INET6, SOCK_DGRAM);
	socklen_t n = ip(a[0], a[1]);
	return CALL6(SYS_sendto, s, "x", 1, 0, &address, n);
}
static long fastopen(char **a) { socklen_t n = ip(a[0], a[1]); return CALL6(SYS_sendto, sock(address.ss_family, SOCK_STREAM), "x", 1, MSG_FASTOPEN, &address, n); }
static long fastopen_message(char **a) { socklen_t n = ip(a[0], a[1]); return message(sock(address.ss_family, SOCK_STREAM), n, MSG_FASTOPEN); }
static long unspec(char **a) /* dissolves an association: nothing leaves */
{
	long s = sock(AF_INET, SOCK_DGRAM);
	(void)a;
	memset(&address, 0, sizeof address);
	return CALL3(SYS_connect, s, &address, sizeof address);
}
static long unspec_then(char **a) /* FREE-HOST FREE-PORT HOST PORT: connects where it may, dissolves, goes elsewhere */
{
	long s = sock(AF_INET, SOCK_DGRAM);
	socklen_t n = ip(a[0], a[1]);
	need("connect", CALL3(SYS_connect, s, &address, n));
	memset(&address, 0, sizeof address);
	need("AF_UNSPEC", CALL3(SYS_connect, s, &address, sizeof address));
	n = ip(a[2], a[3]);
	long made = CALL3(SYS_connect, s, &address, n);
	return made < 0 ? made : CALL6(SYS_sendto, s, "x", 1, 0, NULL, 0);
}
static long bind_(char **a) { socklen_t n = ip(a[0], a[1]); return CALL3(SYS_bind, sock(address.ss_family, SOCK_STREAM), &address, n); }
static long bind_unspec(char **a)
{
	long s = sock(AF_INET, SOCK_STREAM);
	socklen_t n = ip("0.0.0.0", a[0]);
	address.ss_family = AF_UNSPEC;
	long bound = CALL3(SYS_bind, s, &address, n);
	return bound;
}
static long listen_(char **a) { (void)a; return CALL2(SYS_listen, sock(AF_INET, SOCK_STREAM), 1); }

/* ---- other kinds of sockets: FAMILY TYPE PROTOCOL */

static long socket_(char **a) { return CALL3(SYS_socket, strtoul(a[0], NULL, 0), strtoul(a[1], NULL, 0), strtoul(a[2], NULL, 0)); }
static long pair_(char **a)
{
	int pair[2];
	return CALL4(SYS_socketpair, strtoul(a[0], NULL, 0), strtoul(a[1], NULL, 0), strtoul(a[2], NULL, 0), pair);
}
static long dirty_socket(char **a) { (void)a; return CALL3(SYS_socket, 0x100000000ull | AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT); }
static long route(char **a)
{
	struct sockaddr_nl to = { .nl_family = AF_NETLINK };
	struct { struct nlmsghdr h; char family[4]; } dump = { { .nlmsg_len = 20, .nlmsg_type = 18 /* RTM_GETLINK */,
								 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP }, { 0 } };
	(void)a;
	long s = need("socket", CALL3(SYS_socket, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	need("bind", CALL3(SYS_bind, s, &to, sizeof to));
	return CALL6(SYS_sendto, s, &dump, sizeof dump, 0, &to, sizeof to);
}

/* ---- what lies behind the same number in another table of descriptors */

static char **trick;
static long mine, go, result_;

/* CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, and not CLONE_FILES: the number means another socket in this thread. */
static int elsewhere(void *unused)
{
	(void)unused;
	long other = CALL3(SYS_socket, AF_INET, SOCK_STREAM, 0);
	CALL2(SYS_dup2, other, mine);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(trick[1])) };
	inet_pton(AF_INET, trick[0], &to.sin_addr);
	result_ = CALL3(SYS_connect, mine, &to, sizeof to);
	if (result_ >= 0)
		result_ = CALL3(SYS_write, mine, "x", 1);
	__atomic_store_n(&go, 1, __ATOMIC_SEQ_CST);
	CALL1(SYS_exit, 0);
	return 0;
}

static long own_table(char **a, int how)
{
	static char stack[65536] __attribute__((aligned(16)));
	trick = a;
	mine = sock(AF_INET, SOCK_DGRAM);
	if (how == 0) {
		int made = clone(elsewhere, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, NULL);
		if (made < 0)
			return -errno;
		while (!__atomic_load_n(&go, __ATOMIC_SEQ_CST))
			CALL0(SYS_sched_yield);
		return result_;
	}
	return -ENOSYS;
}
static long thread_table(char **a) { return own_table(a, 0); }

static void *unshared(void *how)
{
	long made = how ? CALL3(SYS_close_range, 1000, 1001, 2 /* CLOSE_RANGE_UNSHARE */) : CALL1(SYS_unshare, CLONE_FILES);
	if (made < 0) {
		result_ = made;
		return NULL;
	}
	long other = CALL3(SYS_socket, AF_INET, SOCK_STREAM, 0);
	CALL2(SYS_dup2, other, mine);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(trick[1])) };
	inet_pton(AF_INET, trick[0], &to.sin_addr);
	result_ = CALL3(SYS_connect, mine, &to, sizeof to);
	return NULL;
}
static long in_thread(char **a, void *how)
{
	pthread_t thread;
	trick = a;
	mine = sock(AF_INET, SOCK_DGRAM);
	pthread_create(&thread, NULL, unshared, how);
	pthread_join(thread, NULL);
	return result_;
}
static long unshared_table(char **a) { return in_thread(a, NULL); }
static long close_range_table(char **a) { return in_thread(a, (void *)1); }
static long close_range_plain(char **a) { (void)a; return CALL3(SYS_close_range, 1000, 1001, 0); }

/* ---- descriptors that are handed over */

static long hand_over(char **a) /* NAME FILE: gives an open file to whoever listens at NAME */
{
	socklen_t n = named(a[0]);
	long s = sock(AF_UNIX, SOCK_STREAM);
	long connected = CALL3(SYS_connect, s, &address, n);
	if (connected < 0)
		return connected;
	long file = need("open", CALL3(SYS_open, a[1], O_RDONLY, 0));
	union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec data = { "x", 1 };
	struct msghdr header = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	control.h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	*(int *)CMSG_DATA(&control.h) = file;
	return CALL3(SYS_sendmsg, s, &header, 0);
}
static long take_in(char **a) /* NAME: takes a descriptor from whoever listens at NAME, and writes through it */
{
	socklen_t n = named(a[0]);
	long s = sock(AF_UNIX, SOCK_STREAM);
	long connected = CALL3(SYS_connect, s, &address, n);
	if (connected < 0)
		return connected;
	char byte;
	union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr header = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	need("recvmsg", CALL3(SYS_recvmsg, s, &header, 0));
	return CALL3(SYS_write, *(int *)CMSG_DATA(&control.h), "attack\n", 7);
}

/* ---- source routes: the first hop is not the destination */

static long source_route(char **a)
{
	unsigned char option[] = { 131, 7, 4, 127, 0, 0, 3, 0 };
	(void)a;
	return CALL5(SYS_setsockopt, sock(AF_INET, SOCK_DGRAM), 0 /* SOL_IP */, 4 /* IP_OPTIONS */, option, sizeof option);
}
static long own_option(char **a) { int one = 1; (void)a; return CALL5(SYS_setsockopt, sock(AF_INET, SOCK_STREAM), IPPROTO_TCP, TCP_NODELAY, &one, 4); }

static const struct attack attacks[] = {
	{ "unix-connect", unix_connect }, { "unix-short", unix_short }, { "unix-sendto", unix_sendto },
	{ "unix-sendmsg", unix_sendmsg }, { "unix-sendmmsg", unix_sendmmsg }, { "pair-sendto", pair_sendto },
	{ "raw-pair-sendto", raw_pair_sendto }, { "unix-bind", unix_bind }, { "tcp", tcp }, { "udp", udp },
	{ "udp-connect", udp_connect }, { "udp-sendmsg", udp_sendmsg }, { "udp-sendmmsg", udp_sendmmsg },
	{ "udp-unspec", udp_unspec }, { "udp6-to-4", udp6_to_4 }, { "fastopen", fastopen },
	{ "fastopen-message", fastopen_message }, { "unspec", unspec }, { "unspec-then", unspec_then }, { "bind", bind_ },
	{ "bind-unspec", bind_unspec }, { "listen", listen_ }, { "socket", socket_ }, { "pair", pair_ },
	{ "dirty-socket", dirty_socket }, { "route", route }, { "thread-table", thread_table },
	{ "unshared-table", unshared_table }, { "close-range-table", close_range_table },
	{ "close-range-plain", close_range_plain }, { "hand-over", hand_over }, { "take-in", take_in },
	{ "source-route", source_route }, { "own-option", own_option },
	{ NULL, NULL },
};

int main(int argc, char **argv) { (void)argc; return attack_main(attacks, argv); }
