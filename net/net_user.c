/*
 * User-mode networking by libslirp.
 *
 * libslirp wants to be polled: before sleeping it lists its sockets and what they wait for, and
 * afterwards it asks what came of each. Here its sockets are in an epoll set of their own, which is
 * one descriptor in the machine's loop; after whatever may have changed libslirp's mind,
 * take_list() takes its list anew and tells epoll the differences only.
 *
 * libslirp keeps its idea of the time in a variable of the process: all instances must be given the
 * same clock, CLOCK_MONOTONIC, and not the machine's.
 */
#include "net/net_user.h"

#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "net/net.h"
#include "net/net_csum.h"
#include "net/net_filter.h"
#include "net/net_merge.h"
#include "net/net_packet.h"

#define NSEC_PER_MSEC 1000000ull
#define EVENTS_MAX    64
#define FDS_MAX       4096 /* sockets a guest may have the host open; fewer if ulimit -n is low */
#define IDLE_MS       1000 /* libslirp's answer when it has nothing to wait for */
#define STALE_NS      (50 * NSEC_PER_MSEC)

/* What is known of one of libslirp's descriptors. */
struct user_fd {
    bool known; /* between register_poll_fd() and unregister_poll_fd() */
    u32 have;   /* what epoll waits for; 0: not in the set */
    u32 want;   /* in this round */
    u32 ready;  /* what epoll has told */
    u32 round;
};

struct user_timer {
    struct timer t;
    struct net_user *u;
    SlirpTimerCb fire;
    void *arg;
};

struct net_user {
    struct net n;
    Slirp *slirp;
    struct loop_fd epoll;
    int epfd; /* -1: none yet */
    struct clock *clock;
    struct timer timer;
    u64 polled; /* CLOCK_MONOTONIC when libslirp last looked at the clock */
    struct user_fd *fd;
    int nfd, count, limit; /* size of the table; how many are known; how many may be */
    u32 round;
    bool busy;                 /* within libslirp */
    struct net_filter *filter; /* NULL: the guest may go anywhere */
    struct net_merge merge;
};

static u64 monotonic(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * NSEC_PER_SEC + (u64)t.tv_nsec;
}

/* --- the epoll set --- */

/* The entry of a descriptor, or NULL if there is no memory for one. */
static struct user_fd *entry(struct net_user *u, int fd)
{
    if (fd < u->nfd)
        return &u->fd[fd];
    int n = (int)align_up((u64)fd + 1, 64);
    struct user_fd *p = realloc(u->fd, (size_t)n * sizeof(*p));
    if (!p)
        return NULL;
    memset(p + u->nfd, 0, (size_t)(n - u->nfd) * sizeof(*p));
    u->fd = p;
    u->nfd = n;
    return &p[fd];
}

/* Waits for `want` on fd, or for nothing if that is 0: epoll tells of hang-ups even then, so the
 * descriptor leaves the set. */
static void wait_for(struct net_user *u, int fd, u32 want)
{
    struct user_fd *f = &u->fd[fd];
    struct epoll_event ev = {.events = want, .data.fd = fd};
    if (f->have == want)
        return;
    int op = !want ? EPOLL_CTL_DEL : f->have ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    int failed = epoll_ctl(u->epfd, op, fd, &ev);
    if (failed && want && (errno == ENOENT || errno == EEXIST))
        failed = epoll_ctl(u->epfd, errno == ENOENT ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &ev);
    f->have = failed ? 0 : want;
}

static void register_fd(int fd, void *arg)
{
    struct net_user *u = arg;
    struct user_fd *f = fd >= 0 ? entry(u, fd) : NULL;
    if (!f)
        return;
    u->count += !f->known;
    *f = (struct user_fd){.known = true};
}

static void unregister_fd(int fd, void *arg)
{
    struct net_user *u = arg;
    if (fd < 0 || fd >= u->nfd)
        return;
    u->count -= u->fd[fd].known;
    wait_for(u, fd, 0);
    u->fd[fd] = (struct user_fd){0};
}

static u32 to_epoll(int slirp)
{
    return (slirp & SLIRP_POLL_IN ? EPOLLIN : 0u) | (slirp & SLIRP_POLL_OUT ? EPOLLOUT : 0u) |
           (slirp & SLIRP_POLL_PRI ? EPOLLPRI : 0u);
}

static int from_epoll(u32 events)
{
    return (events & EPOLLIN ? SLIRP_POLL_IN : 0) | (events & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
           (events & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (events & EPOLLERR ? SLIRP_POLL_ERR : 0) |
           (events & EPOLLHUP ? SLIRP_POLL_HUP : 0);
}

static int add_poll(int fd, int events, void *arg)
{
    struct net_user *u = arg;
    struct user_fd *f = entry(u, fd);
    if (!f)
        return -1;
    if (u->n.peer_full) /* nothing is read that the guest has no room for */
        events &= SLIRP_POLL_OUT;
    f->want = to_epoll(events);
    f->round = u->round;
    return fd;
}

static int get_revents(int fd, void *arg)
{
    struct net_user *u = arg;
    return fd >= 0 && fd < u->nfd ? from_epoll(u->fd[fd].ready) : 0;
}

/* --- time --- */

/* Sooner is no harm: libslirp looks at the clock itself. */
static void poll_within(struct net_user *u, u64 ns)
{
    u64 at = clock_now(u->clock) + ns;
    if (!u->timer.armed || u->timer.deadline > at)
        timer_set(&u->timer, at);
}

/* Takes libslirp's list of what it waits for. */
static void take_list(struct net_user *u)
{
    u32 timeout = IDLE_MS;
    u->round++;
    slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
    for (int fd = 0; fd < u->nfd; fd++)
        if (u->fd[fd].have || u->fd[fd].round == u->round)
            wait_for(u, fd, u->fd[fd].round == u->round ? u->fd[fd].want : 0);
    if (timeout < IDLE_MS)
        poll_within(u, timeout * NSEC_PER_MSEC);
    else
        timer_cancel(&u->timer);
}

/* Lets libslirp look at the clock, and at what is ready. */
static void poll_slirp(struct net_user *u)
{
    u->polled = monotonic();
    u->busy = true;
    slirp_pollfds_poll(u->slirp, 0, get_revents, u);
    u->busy = false;
}

/* After every call of libslirp's. */
static void settle(struct net_user *u)
{
    net_merge_flush(&u->merge, &u->n);
    take_list(u);
    net_receive_flush(&u->n);
}

static void poll_now(struct net_user *u)
{
    poll_slirp(u);
    settle(u);
}

static void timer_fired(void *arg)
{
    poll_now(arg);
}

static void ready(void *arg, u32 events)
{
    struct net_user *u = arg;
    struct epoll_event ev[EVENTS_MAX];
    int n = epoll_wait(u->epfd, ev, EVENTS_MAX, 0);
    for (int i = 0; i < n; i++)
        u->fd[ev[i].data.fd].ready = ev[i].events;
    poll_slirp(u);
    for (int i = 0; i < n; i++)
        u->fd[ev[i].data.fd].ready = 0;
    settle(u);
}

/* --- what libslirp calls --- */

static ssize_t to_guest(const void *frame, size_t len, void *arg)
{
    static const struct net_offload valid = {.flags = NET_CSUM_VALID};
    struct net_user *u = arg;
    if (u->filter)
        net_filter_in(u->filter, (u8 *)frame, len);
    bool merge = u->n.peer_caps & NET_CAN_TSO4 && net_merge_can_start(frame, len);
    if (merge && net_merge_add(&u->merge, frame, len))
        return (ssize_t)len;
    net_merge_flush(&u->merge, &u->n); /* what came first goes first */
    if (!merge || !net_merge_add(&u->merge, frame, len))
        net_receive(&u->n, frame, len, &valid);
    return (ssize_t)len;
}

static void guest_error(const char *msg, void *arg)
{
    struct net_user *u = arg;
    log_trace(u->n.log, TRACE_DEV, "net: %s", msg);
}

static int64_t clock_ns(void *arg)
{
    return (int64_t)monotonic();
}

static void fire(void *arg)
{
    struct user_timer *t = arg;
    struct net_user *u = t->u;
    t->fire(t->arg);
    settle(u);
}

static void *new_timer(SlirpTimerCb cb, void *cb_arg, void *arg)
{
    struct net_user *u = arg;
    struct user_timer *t = calloc(1, sizeof(*t));
    if (!t)
        abort(); /* as libslirp does */
    t->u = u;
    t->fire = cb;
    t->arg = cb_arg;
    timer_init(&t->t, u->clock, fire, t);
    return t;
}

static void free_timer(void *timer, void *arg)
{
    struct user_timer *t = timer;
    timer_cancel(&t->t);
    free(t);
}

static void mod_timer(void *timer, int64_t expire_ms, void *arg)
{
    struct user_timer *t = timer;
    u64 now = monotonic(), at = (u64)expire_ms * NSEC_PER_MSEC;
    timer_set(&t->t, clock_now(t->u->clock) + (at > now ? at - now : 0));
}

static void notify(void *arg)
{
    /* Only happens within calls that take_list() follows. */
}

/* --- from the guest --- */

/* Would libslirp open a socket for it? With so many open, the host's supply is spared. */
static bool opens_socket(u8 *frame, size_t len)
{
    struct net_packet p;
    if (!net_packet_parse(frame, len, &p))
        return true; /* fragments, and what else is not looked into */
    return p.type != ETH_ARP && !(p.proto == IP_TCP && !(p.tcp_flags & TCP_SYN));
}

static void refuse(struct net_user *u, u8 *frame, size_t len)
{
    size_t n = net_filter_refuse(frame, len);
    if (n)
        net_receive(&u->n, frame, n, NULL);
}

static int send_frame(struct net *n, u8 *frame, size_t len, const struct net_offload *o)
{
    struct net_user *u = container_of(n, struct net_user, n);
    u16 type = net_get16(frame + 12);
    if (type != ETH_IPV4 && type != ETH_IPV6 && type != ETH_ARP)
        return 0; /* libslirp has a management controller (NC-SI), too */
    if (u->filter && !net_filter_out(u->filter, frame, len)) {
        refuse(u, frame, len);
        return 0;
    }
    if (u->count >= u->limit && opens_socket(frame, len))
        return 0;
    if (o->flags & NET_NEEDS_CSUM)
        net_csum_finish(frame, len, o->csum_start, o->csum_offset);
    if (monotonic() - u->polled > STALE_NS)
        poll_slirp(u);
    slirp_input(u->slirp, frame, (int)len);
    return 0;
}

static void flush(struct net *n)
{
    struct net_user *u = container_of(n, struct net_user, n);
    settle(u);
}

static void resume(struct net *n)
{
    struct net_user *u = container_of(n, struct net_user, n);
    if (!u->busy)
        take_list(u);
}

static void free_user(struct net *n)
{
    struct net_user *u = container_of(n, struct net_user, n);
    n->peer = NULL;
    if (u->slirp)
        slirp_cleanup(u->slirp);
    timer_cancel(&u->timer);
    loop_del(&u->epoll);
    if (u->epfd >= 0)
        close(u->epfd);
    free(u->filter);
    free(u->fd);
    net_uninit(n);
    free(u);
}

static const struct net_ops user_ops = {
    .send = send_frame, .flush = flush, .resume = resume, .free = free_user};

/* --- making one --- */

static struct in_addr addr4(const u8 a[4])
{
    struct in_addr in;
    memcpy(&in, a, 4);
    return in;
}

static struct in6_addr addr6(const u8 a[16])
{
    struct in6_addr in;
    memcpy(&in, a, 16);
    return in;
}

static Slirp *make_slirp(struct net_user *u)
{
    static const SlirpCb callbacks = {
        .send_packet = to_guest,
        .guest_error = guest_error,
        .clock_get_ns = clock_ns,
        .timer_new = new_timer,
        .timer_free = free_timer,
        .timer_mod = mod_timer,
        .register_poll_fd = register_fd,
        .unregister_poll_fd = unregister_fd,
        .notify = notify,
    };
    static const u8 network[4] = NET_USER_NETWORK, netmask[4] = NET_USER_NETMASK,
                    gateway[4] = NET_USER_GATEWAY, dns[4] = NET_USER_DNS, guest[4] = NET_USER_GUEST;
    static const u8 prefix6[16] = NET_USER_PREFIX6, gateway6[16] = NET_USER_GATEWAY6,
                    dns6[16] = NET_USER_DNS6;
    const SlirpConfig cfg = {
        .version = 3,
        .in_enabled = true,
        .vnetwork = addr4(network),
        .vnetmask = addr4(netmask),
        .vhost = addr4(gateway),
        .in6_enabled = true,
        .vprefix_addr6 = addr6(prefix6),
        .vprefix_len = NET_USER_PREFIX6_LEN,
        .vhost6 = addr6(gateway6),
        .vdhcp_start = addr4(guest),
        .vnameserver = addr4(dns),
        .vnameserver6 = addr6(dns6),
        .if_mtu = u->n.mtu,
        .if_mru = u->n.mtu,
    };
    return slirp_new(&cfg, &callbacks, u);
}

/* libslirp would let a second UDP socket have the port. */
static bool udp_port_taken(const struct net_forward *f)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(f->host), .sin_addr = {.s_addr = f->addr}};
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool taken = s >= 0 && bind(s, (struct sockaddr *)&a, sizeof(a));
    int saved = errno;
    if (s >= 0)
        close(s);
    errno = saved;
    return taken;
}

static int add_forward(struct net_user *u, const struct net_forward *f, struct err *e)
{
    struct in_addr host = {.s_addr = f->addr}, guest = {0};
    bool taken = f->udp && udp_port_taken(f);
    if (!taken && !slirp_add_hostfwd(u->slirp, f->udp, host, f->host, guest, f->guest))
        return 0;
    int why = errno;
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &f->addr, text, sizeof(text));
    errno = why;
    return err_errno(e, "cannot forward %s port %u of %s to the guest%s", f->udp ? "UDP" : "TCP",
                     f->host, text,
                     why == EADDRINUSE ? " (another program or machine has it: choose another port)"
                     : why == EACCES   ? " (an ordinary user has ports from 1024 on)"
                                       : "");
}

static int fd_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur == RLIM_INFINITY)
        return FDS_MAX;
    return (int)min_u64(r.rlim_cur / 2, FDS_MAX);
}

static int set_up(struct net_user *u, const struct net_config *c, struct loop *loop, struct err *e)
{
    u->n.mtu = c->mtu ? c->mtu : NET_MTU;
    u->n.caps = NET_CAN_CSUM | NET_CAN_TSO4; /* IPv6 must fit the MTU, says libslirp */
    u->limit = fd_limit();
    if (c->restricted) {
        u->filter = malloc(sizeof(*u->filter));
        if (!u->filter)
            return err_set(e, "no memory for networking");
        net_filter_init(u->filter, c);
    }
    u->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (u->epfd < 0 || loop_add(loop, &u->epoll, u->epfd, EPOLLIN, ready, u))
        return err_errno(e, "cannot wait for network sockets (see ulimit -n)");
    u->slirp = make_slirp(u);
    if (!u->slirp)
        return err_set(e, "libslirp %s refuses to work", slirp_version_string());
    for (unsigned i = 0; i < c->nforward; i++)
        if (add_forward(u, &c->forward[i], e))
            return -1;
    poll_slirp(u);
    take_list(u);
    return 0;
}

struct net *net_user_open(const struct net_config *c, struct loop *loop, struct clock *clock,
                          const struct log *log, struct err *e)
{
    struct net_user *u = calloc(1, sizeof(*u));
    if (!u || net_init(&u->n, &user_ops, log, e)) {
        free(u);
        return NULL;
    }
    u->epfd = -1;
    u->clock = clock;
    timer_init(&u->timer, clock, timer_fired, u);
    if (set_up(u, c, loop, e)) {
        free_user(&u->n);
        return NULL;
    }
    return &u->n;
}
