#include "net/net.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "net/net_csum.h"
#include "net/net_gso.h"
#include "net/net_pcap.h"

int net_init(struct net *n, const struct net_ops *ops, const struct log *log, struct err *e)
{
    *n = (struct net){
        .ops = ops, .log = log, .mtu = NET_MTU, .len_max = NET_FRAME_MAX, .link = true};
    n->scratch = malloc(NET_FRAME_MAX);
    return n->scratch ? 0 : err_set(e, "no memory for networking");
}

void net_uninit(struct net *n)
{
    net_pcap_close(n->pcap);
    free(n->scratch);
}

/* --- what both directions share --- */

/* What `caps` must have to take the frame as it is. */
static u32 wanted_caps(const struct net_offload *o)
{
    switch (o->gso) {
    case NET_GSO_TCPV4:
        return NET_CAN_TSO4;
    case NET_GSO_TCPV6:
        return NET_CAN_TSO6;
    default:
        return o->flags & NET_NEEDS_CSUM ? NET_CAN_CSUM : 0;
    }
}

/* Does the record make sense? It comes from a guest, or from another machine. */
static bool plausible(const u8 *frame, size_t len, const struct net_offload *o)
{
    if (len < NET_ETH_HLEN || len > NET_FRAME_MAX)
        return false;
    if (o->flags & NET_NEEDS_CSUM &&
        (o->csum_start >= len || o->csum_offset + 2u > len - o->csum_start))
        return false;
    struct net_gso g;
    switch (o->gso) {
    case NET_GSO_NONE:
        return true;
    case NET_GSO_TCPV4:
    case NET_GSO_TCPV6:
        return o->flags & NET_NEEDS_CSUM && net_gso_parse(frame, len, o, &g);
    default:
        return false;
    }
}

static const struct net_offload no_offload;

/* --- from the device --- */

void net_attach(struct net *n, const struct net_peer_ops *peer, void *arg)
{
    n->peer = peer;
    n->peer_arg = arg;
}

void net_peer_can(struct net *n, u32 caps)
{
    n->peer_caps = caps;
    n->again = false;
    if (n->ops->peer_can)
        n->ops->peer_can(n);
}

/* A backend that fills up in the middle of a row loses the rest: TCP sends it again. */
static bool send_segment(void *arg, u8 *segment, size_t len)
{
    struct net *n = arg;
    return n->ops->send(n, segment, len, &no_offload) == 0;
}

/* In a copy: the frame comes again, as it was, if the backend is full. */
static int send_finished(struct net *n, const u8 *frame, size_t len, const struct net_offload *o)
{
    memcpy(n->scratch, frame, len);
    net_csum_finish(n->scratch, len, o->csum_start, o->csum_offset);
    return n->ops->send(n, n->scratch, len, &no_offload);
}

int net_send(struct net *n, u8 *frame, size_t len, const struct net_offload *o)
{
    if (!o)
        o = &no_offload;
    if (!plausible(frame, len, o) || !n->link)
        return 0;
    if (n->pcap && !n->again) /* before the answer, which may come from within send() */
        net_pcap_write(n->pcap, frame, len, o);
    bool as_is = !(wanted_caps(o) & ~n->caps) && len <= n->len_max;
    int full = 0;
    if (as_is)
        full = n->ops->send(n, frame, len, o);
    else if (o->gso)
        net_gso_cut(frame, len, o, n->scratch, send_segment, n);
    else if (len <= n->len_max)
        full = send_finished(n, frame, len, o);
    n->again = full;
    return full;
}

void net_flush(struct net *n)
{
    if (n->ops->flush)
        n->ops->flush(n);
}

void net_resume(struct net *n)
{
    if (!n->peer_full)
        return;
    n->peer_full = false;
    n->ops->resume(n);
}

/* --- from the backend --- */

static bool receive(struct net *n, const u8 *frame, size_t len, const struct net_offload *o)
{
    if (!n->peer->receive(n->peer_arg, frame, len, o))
        n->peer_full = true;
    return !n->peer_full;
}

static bool receive_segment(void *arg, u8 *segment, size_t len)
{
    static const struct net_offload valid = {.flags = NET_CSUM_VALID};
    receive(arg, segment, len, &valid);
    return true;
}

bool net_receive(struct net *n, const u8 *frame, size_t len, const struct net_offload *o)
{
    if (!o)
        o = &no_offload;
    if (!n->peer || !plausible(frame, len, o))
        return !n->peer_full;
    if (n->pcap)
        net_pcap_write(n->pcap, frame, len, o);
    if (!(wanted_caps(o) & ~n->peer_caps))
        return receive(n, frame, len, o);
    if (o->gso) {
        net_gso_cut(frame, len, o, n->scratch, receive_segment, n);
        return !n->peer_full;
    }
    memcpy(n->scratch, frame, len);
    net_csum_finish(n->scratch, len, o->csum_start, o->csum_offset);
    return receive(n, n->scratch, len, &no_offload);
}

void net_receive_flush(struct net *n)
{
    if (n->peer)
        n->peer->flush(n->peer_arg);
}

void net_room(struct net *n)
{
    if (n->peer)
        n->peer->room(n->peer_arg);
}

void net_set_link(struct net *n, bool up)
{
    if (n->link == up)
        return;
    n->link = up;
    if (n->peer)
        n->peer->link(n->peer_arg, up);
}

/* --- making one --- */

/* "PF" under a locally administered prefix. On a network of its own, a card is always the same one;
 * where others may be, the rest is random. */
static void choose_mac(struct net_config *c)
{
    static const u8 own[6] = {0x52, 0x50, 0x46, 0, 0, 1};
    memcpy(c->mac, own, 6);
    if (c->kind != NET_USER && getrandom(c->mac + 3, 3, 0) != 3)
        c->mac[5] = 2;
    c->has_mac = true;
}

static struct net *open_backend(const struct net_config *c, struct loop *loop, struct clock *clock,
                                const struct log *log, struct err *e)
{
    switch (c->kind) {
    case NET_USER:
        return net_user_open(c, loop, clock, log, e);
    case NET_TAP:
        return net_tap_open(c, loop, log, e);
    case NET_SOCKET:
        return net_socket_open(c, loop, clock, log, e);
    default:
        err_set(e, "there is no network to open");
        return NULL;
    }
}

struct net *net_open(struct net_config *c, struct loop *loop, struct clock *clock,
                     const struct log *log, struct err *e)
{
    if (c->kind != NET_USER && (c->nforward || c->restricted)) {
        err_set(e, "ports are forwarded, and a guest restricted, with --net user only");
        return NULL;
    }
    if (c->nallow && !c->restricted) {
        err_set(e, "--allow makes sense with --net user,restrict only: without it, the guest may "
                   "go anywhere");
        return NULL;
    }
    if (!c->has_mac)
        choose_mac(c);
    struct net_pcap *pcap = NULL;
    if (c->pcap && !(pcap = net_pcap_open(c->pcap, log, e)))
        return NULL;
    struct net *n = open_backend(c, loop, clock, log, e);
    if (!n) {
        net_pcap_close(pcap);
        return NULL;
    }
    n->pcap = pcap;
    return n;
}

void net_close(struct net *n)
{
    if (n)
        n->ops->free(n);
}
