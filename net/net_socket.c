/*
 * A cable between two machines of one host: a unix socket of type SOCK_SEQPACKET. A message is a
 * struct net_offload and a frame.
 *
 * Whoever holds the lock on PATH.lock listens on PATH; the other one connects. A machine that finds
 * itself without a partner tries both again and again, so it does not matter which is started, or
 * ends, first: when the one that listens dies the kernel drops its lock, and the other takes over.
 * The link is up while there is a partner. A third machine finds nobody who answers.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/net.h"

#define BATCH    64
#define RETRY_NS (NSEC_PER_SEC / 4)
#define SNDBUF   (1 << 20) /* as much of it as the host gives */

struct net_socket {
    struct net n;
    struct loop *loop;
    struct timer retry;
    char path[NET_NAME_MAX];
    int lock;     /* holds PATH.lock; -1: we do not listen */
    int listener; /* -1: none */
    int peer;     /* -1: none */
    struct loop_fd listener_loop, peer_loop;
    bool full;
    u8 frame[NET_FRAME_MAX];
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* --- frames --- */

static void wait_for(struct net_socket *s)
{
    u32 events = (s->n.peer_full ? 0 : EPOLLIN) | (s->full ? EPOLLOUT : 0);
    if (s->peer_loop.loop && s->peer_loop.events != events)
        loop_mod(&s->peer_loop, events);
}

static void disconnect(struct net_socket *s)
{
    if (s->peer < 0)
        return;
    loop_del(&s->peer_loop);
    close_fd(&s->peer);
    net_set_link(&s->n, false);
    if (s->full) {
        s->full = false;
        net_room(&s->n); /* where frames are lost now */
    }
    if (s->listener < 0)
        timer_set(&s->retry, clock_now(s->retry.clock) + RETRY_NS);
}

/* False: nothing there, or no longer anybody. */
static bool read_frame(struct net_socket *s)
{
    struct net_offload o;
    struct iovec v[2] = {{&o, sizeof(o)}, {s->frame, sizeof(s->frame)}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
    ssize_t n = recvmsg(s->peer, &m, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        disconnect(s);
        return false;
    }
    if ((size_t)n > sizeof(o) && !(m.msg_flags & MSG_TRUNC))
        net_receive(&s->n, s->frame, (size_t)n - sizeof(o), &o);
    return true;
}

static void peer_ready(void *arg, u32 events)
{
    struct net_socket *s = arg;
    if (events & EPOLLOUT && s->full) {
        s->full = false;
        net_room(&s->n);
    }
    for (unsigned i = 0; i < BATCH && !s->n.peer_full && read_frame(s); i++)
        ;
    /* A hang-up is told even to who reads nothing. */
    if (s->n.peer_full && events & (EPOLLHUP | EPOLLERR))
        disconnect(s);
    net_receive_flush(&s->n);
    wait_for(s);
}

static int send_frame(struct net *n, u8 *frame, size_t len, const struct net_offload *o)
{
    struct net_socket *s = container_of(n, struct net_socket, n);
    struct iovec v[2] = {{(void *)o, sizeof(*o)}, {frame, len}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
    if (s->peer < 0 || sendmsg(s->peer, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || errno != EAGAIN)
        return 0; /* who has hung up is noticed when reading */
    s->full = true;
    wait_for(s);
    return -1;
}

static void resume(struct net *n)
{
    wait_for(container_of(n, struct net_socket, n));
}

/* --- finding each other --- */

static void adopt(struct net_socket *s, int fd)
{
    int size = SNDBUF;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    s->peer = fd;
    s->full = false;
    u32 events = s->n.peer_full ? 0 : EPOLLIN;
    if (loop_add(s->loop, &s->peer_loop, fd, events, peer_ready, s)) {
        close_fd(&s->peer);
        return;
    }
    net_set_link(&s->n, true);
}

static void listener_ready(void *arg, u32 events)
{
    struct net_socket *s = arg;
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (s->peer >= 0)
        close(fd); /* a cable has two ends */
    else
        adopt(s, fd);
}

static struct sockaddr_un address(const struct net_socket *s)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, s->path, sizeof(a.sun_path) - 1);
    return a;
}

static bool connect_to(struct net_socket *s)
{
    struct sockaddr_un a = address(s);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof(a))) {
        adopt(s, fd);
        return s->peer >= 0;
    }
    close_fd(&fd);
    return false;
}

/* 1: we hold the lock; 0: another does; -1: neither can be, errno says why. */
static int take_lock(struct net_socket *s)
{
    char name[NET_NAME_MAX + 8];
    snprintf(name, sizeof(name), "%s.lock", s->path);
    s->lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock < 0)
        return -1;
    int busy = flock(s->lock, LOCK_EX | LOCK_NB);
    struct stat ours, there;
    /* It may have been removed by its last owner since it was opened. */
    if (busy || fstat(s->lock, &ours) || stat(name, &there) || ours.st_ino != there.st_ino ||
        ours.st_dev != there.st_dev) {
        close_fd(&s->lock);
        return 0;
    }
    return 1;
}

static void drop_lock(struct net_socket *s)
{
    char name[NET_NAME_MAX + 8];
    if (s->lock < 0)
        return;
    snprintf(name, sizeof(name), "%s.lock", s->path);
    unlink(name);
    close_fd(&s->lock);
}

/* The lock is ours: what lies at PATH is of nobody's any more. Only a socket is removed. */
static int listen_at(struct net_socket *s)
{
    struct sockaddr_un a = address(s);
    struct stat st;
    if (!lstat(s->path, &st) && S_ISSOCK(st.st_mode))
        unlink(s->path);
    s->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listener < 0 || bind(s->listener, (struct sockaddr *)&a, sizeof(a)))
        return -1;
    if (!chmod(s->path, 0600) && !listen(s->listener, 4) &&
        !loop_add(s->loop, &s->listener_loop, s->listener, EPOLLIN, listener_ready, s))
        return 0;
    unlink(s->path);
    return -1;
}

/* Becomes one end or the other. -1: this path can never work; errno says why. */
static int find_partner(struct net_socket *s)
{
    int mine = take_lock(s);
    if (mine < 0)
        return -1;
    if (mine) {
        if (!listen_at(s))
            return 0;
        int why = errno;
        close_fd(&s->listener);
        drop_lock(s);
        errno = why;
        return -1;
    }
    if (!connect_to(s))
        timer_set(&s->retry, clock_now(s->retry.clock) + RETRY_NS);
    return 0;
}

static void retry(void *arg)
{
    struct net_socket *s = arg;
    if (s->peer < 0 && s->listener < 0 && find_partner(s))
        timer_set(&s->retry, clock_now(s->retry.clock) + RETRY_NS);
}

/* --- making one --- */

static void free_socket(struct net *n)
{
    struct net_socket *s = container_of(n, struct net_socket, n);
    n->peer = NULL;
    disconnect(s);
    timer_cancel(&s->retry);
    if (s->listener >= 0) {
        loop_del(&s->listener_loop);
        unlink(s->path);
        close_fd(&s->listener);
    }
    drop_lock(s);
    net_uninit(n);
    free(s);
}

static const struct net_ops socket_ops = {
    .send = send_frame, .resume = resume, .free = free_socket};

struct net *net_socket_open(const struct net_config *c, struct loop *loop, struct clock *clock,
                            const struct log *log, struct err *e)
{
    struct net_socket *s = calloc(1, sizeof(*s));
    if (!s || net_init(&s->n, &socket_ops, log, e)) {
        free(s);
        return NULL;
    }
    s->lock = s->listener = s->peer = -1;
    s->loop = loop;
    memcpy(s->path, c->name, sizeof(s->path));
    timer_init(&s->retry, clock, retry, s);
    s->n.link = false;
    s->n.caps = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6;
    s->n.mtu = c->mtu ? c->mtu : NET_MTU;
    if (find_partner(s)) {
        err_errno(e, "cannot listen on or connect to %s", s->path);
        free_socket(&s->n);
        return NULL;
    }
    return &s->n;
}
