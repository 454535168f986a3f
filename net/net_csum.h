/*
 * net_csum.h - the Internet checksum (RFC 1071).
 *
 * Sums are of 16-bit words as they lie in memory, folded to 16 bits and not complemented: what is
 * stored is ~sum, byte order and all.
 */
#ifndef POPF_NET_CSUM_H
#define POPF_NET_CSUM_H

#include "base/base.h"

/* Adds [p, p+n), which starts at an even offset of what is summed, to `sum`. */
u16 net_csum_add(u16 sum, const void *p, size_t n);

/* The pseudo-header of TCP or UDP over the IP header at `ip` (v4 or v6), for `len` bytes behind it.
 */
u16 net_csum_pseudo(const u8 *ip, u8 proto, u32 len);

/*
 * Does what NET_NEEDS_CSUM asks for: sums [start, len) and stores the complement at start + offset.
 * False, and nothing done, if that lies outside the frame.
 */
bool net_csum_finish(u8 *frame, size_t len, unsigned start, unsigned offset);

#endif
