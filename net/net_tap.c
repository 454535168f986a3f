/*
 * A tap device: a network interface of the host, whose other side is here. Somebody with
 * CAP_NET_ADMIN must have made it, and given it to this user:
 *
 *     ip tuntap add dev NAME mode tap user USER
 *
 * Source: Linux's Documentation/networking/tuntap.rst, linux/if_tun.h. Frames travel with a
 * struct virtio_net_hdr of 10 bytes before them, so that the kernel does what offloads ask for.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "net/net.h"

#define BATCH 64 /* frames read before others get their turn */

struct net_tap {
    struct net n;
    struct loop_fd loop;
    int fd; /* -1: none yet */
    bool full;
    u8 frame[NET_FRAME_MAX];
};

static void wait_for(struct net_tap *t)
{
    u32 events = (t->n.peer_full ? 0 : EPOLLIN) | (t->full ? EPOLLOUT : 0);
    if (t->loop.loop && t->loop.events != events)
        loop_mod(&t->loop, events);
}

/* False: nothing there. */
static bool read_frame(struct net_tap *t)
{
    struct net_offload o;
    struct iovec v[2] = {{&o, sizeof(o)}, {t->frame, sizeof(t->frame)}};
    ssize_t n = readv(t->fd, v, 2);
    if (n < 0 && errno == EBADFD) { /* the interface is gone */
        loop_del(&t->loop);
        net_set_link(&t->n, false);
    }
    if (n < 0)
        return false;
    if ((size_t)n > sizeof(o))
        net_receive(&t->n, t->frame, (size_t)n - sizeof(o), &o);
    return true;
}

static void ready(void *arg, u32 events)
{
    struct net_tap *t = arg;
    if (events & EPOLLOUT && t->full) {
        t->full = false;
        net_room(&t->n);
    }
    for (unsigned i = 0; i < BATCH && !t->n.peer_full && read_frame(t); i++)
        ;
    net_receive_flush(&t->n);
    wait_for(t);
}

static int send_frame(struct net *n, u8 *frame, size_t len, const struct net_offload *o)
{
    struct net_tap *t = container_of(n, struct net_tap, n);
    struct iovec v[2] = {{(void *)o, sizeof(*o)}, {frame, len}};
    if (writev(t->fd, v, 2) >= 0 || errno != EAGAIN)
        return 0; /* what the host refuses (the interface is down) is lost */
    t->full = true;
    wait_for(t);
    return -1;
}

static void resume(struct net *n)
{
    wait_for(container_of(n, struct net_tap, n));
}

static void peer_can(struct net *n)
{
    struct net_tap *t = container_of(n, struct net_tap, n);
    unsigned flags = (n->peer_caps & NET_CAN_CSUM ? TUN_F_CSUM : 0u) |
                     (n->peer_caps & NET_CAN_TSO4 ? TUN_F_TSO4 : 0u) |
                     (n->peer_caps & NET_CAN_TSO6 ? TUN_F_TSO6 : 0u);
    ioctl(t->fd, TUNSETOFFLOAD, flags); /* if it fails, net.c makes frames complete */
}

static void free_tap(struct net *n)
{
    struct net_tap *t = container_of(n, struct net_tap, n);
    loop_del(&t->loop);
    if (t->fd >= 0)
        close(t->fd);
    net_uninit(n);
    free(t);
}

static const struct net_ops tap_ops = {
    .send = send_frame, .resume = resume, .peer_can = peer_can, .free = free_tap};

/* The MTU that the host's side has. */
static unsigned host_mtu(const char *name)
{
    struct ifreq r = {0};
    memcpy(r.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int failed = s < 0 || ioctl(s, SIOCGIFMTU, &r);
    if (s >= 0)
        close(s);
    bool usable = !failed && r.ifr_mtu >= (int)NET_MTU_MIN && r.ifr_mtu <= (int)NET_MTU_MAX;
    return usable ? (unsigned)r.ifr_mtu : NET_MTU;
}

static int no_access(const char *name, struct err *e)
{
    int why = errno;
    err_errno(e, "cannot open tap device %s", name);
    if (why == EPERM || why == EACCES || why == ENOENT || why == ENODEV)
        err_set(e,
                "cannot open tap device %s: %s (root makes one for you by \"ip tuntap add dev %s "
                "mode tap user $USER\", in a container /dev/net/tun must be passed in; --net user "
                "needs no permission)",
                name, strerror(why), name);
    return -1;
}

static int set_up(struct net_tap *t, const struct net_config *c, struct loop *loop, struct err *e)
{
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    memcpy(r.ifr_name, c->name, strnlen(c->name, IFNAMSIZ - 1));
    t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int size = sizeof(struct net_offload);
    if (t->fd < 0 || ioctl(t->fd, TUNSETIFF, &r) || ioctl(t->fd, TUNSETVNETHDRSZ, &size))
        return no_access(c->name, e);
    t->n.caps = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6;
    t->n.mtu = c->mtu ? c->mtu : host_mtu(r.ifr_name);
    peer_can(&t->n);
    if (loop_add(loop, &t->loop, t->fd, EPOLLIN, ready, t))
        return err_errno(e, "cannot wait for tap device %s", c->name);
    return 0;
}

struct net *net_tap_open(const struct net_config *c, struct loop *loop, const struct log *log,
                         struct err *e)
{
    struct net_tap *t = calloc(1, sizeof(*t));
    if (!t || net_init(&t->n, &tap_ops, log, e)) {
        free(t);
        return NULL;
    }
    t->fd = -1;
    if (set_up(t, c, loop, e)) {
        free_tap(&t->n);
        return NULL;
    }
    return &t->n;
}
