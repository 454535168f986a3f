/*
 * net_merge.h - TCP segments that follow one another, put together into one large segment on their
 * way to a guest that takes those (GUEST_TSO4): it does its work once instead of forty times.
 */
#ifndef POPF_NET_MERGE_H
#define POPF_NET_MERGE_H

#include "net/net.h"

struct net_merge {
    size_t len;   /* of the frame so far; 0: none */
    u16 size;     /* payload of its first segment, and of all but the last */
    bool closed;  /* nothing may follow */
    unsigned n;   /* segments */
    u32 next_seq; /* of what would continue it */
    u8 frame[NET_FRAME_MAX];
};

/*
 * Takes a frame and returns true, or false if it neither starts a row of segments nor continues the
 * one that is there: then net_merge_flush() comes first. The frame's checksums are not looked at.
 */
bool net_merge_add(struct net_merge *m, const u8 *frame, size_t len);

/* Ends the row: hands what there is, if anything, to net_receive(). */
void net_merge_flush(struct net_merge *m, struct net *n);

/* Would net_merge_add() take it after a flush? */
bool net_merge_can_start(const u8 *frame, size_t len);

#endif
