/*
 * net_filter.h - no way out of a restricted guest but to where --allow leads.
 *
 * Stands between the guest and libslirp, which would open a socket for whatever it is shown. Let
 * through are: ARP, neighbour discovery and DHCP with the gateway; pings of the gateway; TCP to
 * what is allowed, which is decided when a connection is opened; UDP to what is allowed; UDP
 * answers to those who came in through a forwarded port; and questions to the name server for the
 * names that are allowed. The addresses in its answers are allowed then, too.
 */
#ifndef POPF_NET_FILTER_H
#define POPF_NET_FILTER_H

#include "net/net.h"

#define NET_FILTER_LEARNED 256
#define NET_FILTER_FLOWS   256

/* An address that a name of the list has been found to have. */
struct net_learned {
    bool v6;
    u8 addr[16];
    u8 allow; /* index of the entry */
};

/* Somebody who sent UDP to a forwarded port. */
struct net_flow {
    bool v6;
    u8 addr[16];
    u16 port, guest;
};

struct net_filter {
    unsigned nallow, nforward;
    struct net_allow allow[NET_ALLOW_MAX];
    struct net_forward forward[NET_FORWARDS_MAX];
    unsigned nlearned, nflows; /* ever; both tables are rings */
    struct net_learned learned[NET_FILTER_LEARNED];
    struct net_flow flow[NET_FILTER_FLOWS];
};

void net_filter_init(struct net_filter *f, const struct net_config *c);

/* May the guest send this? */
bool net_filter_out(struct net_filter *f, u8 *frame, size_t len);

/* Notes what a frame on its way to the guest teaches. */
void net_filter_in(struct net_filter *f, u8 *frame, size_t len);

/*
 * Turns a frame that may not pass into the answer that it gets at once instead of a time-out: a
 * reset for TCP, "refused" for a question to the name server. Returns the answer's length, or 0 if
 * there is none.
 */
size_t net_filter_refuse(u8 *frame, size_t len);

#endif
