/*
 * net_gso.h - cutting a TCP segment that is larger than the link into ones that are not.
 */
#ifndef POPF_NET_GSO_H
#define POPF_NET_GSO_H

#include "net/net.h"

/* Where the parts of a TCP segment's frame are. */
struct net_gso {
    unsigned ip, tcp, payload; /* offsets */
    bool v6;
};

/*
 * Finds the headers of a frame whose record says o->gso, and checks that they are what it says.
 * False if they are not, or something does not fit.
 */
bool net_gso_parse(const u8 *frame, size_t len, const struct net_offload *o, struct net_gso *g);

/*
 * Cuts the frame: emit() gets segments one after the other, complete with checksums, built in `buf`
 * (NET_FRAME_MAX bytes). Stops early if emit() returns false. False if the frame makes no sense.
 */
bool net_gso_cut(const u8 *frame, size_t len, const struct net_offload *o, u8 *buf,
                 bool (*emit)(void *arg, u8 *segment, size_t len), void *arg);

#endif
