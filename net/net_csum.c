#include "net/net_csum.h"

#include <string.h>

static u16 fold(u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    return (u16)((sum & 0xffff) + (sum >> 16));
}

/* Four 32-bit words at a time into sums of 64 bits, which compilers turn into vector code. */
static u64 sum_blocks(const u8 *p, size_t blocks)
{
    u64 a = 0, b = 0, c = 0, d = 0;
    for (; blocks; blocks--, p += 16) {
        u32 w[4];
        memcpy(w, p, sizeof(w));
        a += w[0];
        b += w[1];
        c += w[2];
        d += w[3];
    }
    return (u64)fold(a) + fold(b) + fold(c) + fold(d);
}

u16 net_csum_add(u16 sum, const void *from, size_t n)
{
    const u8 *p = from;
    u64 s = sum + sum_blocks(p, n / 16);
    p += n & ~(size_t)15;
    n &= 15;
    for (; n >= 2; n -= 2, p += 2) {
        u16 w;
        memcpy(&w, p, 2);
        s += w;
    }
    if (n)
        s += *p; /* little-endian: padded with a zero behind */
    return fold(s);
}

u16 net_csum_pseudo(const u8 *ip, u8 proto, u32 len)
{
    const u8 tail[8] = {len >> 24, len >> 16, len >> 8, len, 0, 0, 0, proto};
    bool v6 = ip[0] >> 4 == 6;
    u16 sum = v6 ? net_csum_add(0, ip + 8, 32) : net_csum_add(0, ip + 12, 8);
    return net_csum_add(sum, tail, sizeof(tail));
}

bool net_csum_finish(u8 *frame, size_t len, unsigned start, unsigned offset)
{
    if (start >= len || offset + 2 > len - start)
        return false;
    u16 sum = (u16)~net_csum_add(0, frame + start, len - start);
    if (!sum)
        sum = 0xffff; /* the same number; in UDP a zero says that there is none */
    memcpy(frame + start + offset, &sum, 2);
    return true;
}
