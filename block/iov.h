/*
 * iov.h - small helpers over lists of segments. `off` and `len` are bytes and lie within the list.
 */
#ifndef POPF_IOV_H
#define POPF_IOV_H

#include <string.h>
#include <sys/uio.h>

#include "base/base.h"

/* Segments that any list here may have; a few more are added on the way down (copy on write). */
#define BLOCK_SEGS_MAX 256
#define BLOCK_SEGS_ALL (BLOCK_SEGS_MAX + 2)

static inline u64 iov_length(const struct iovec *v, unsigned n)
{
    u64 sum = 0;
    for (unsigned i = 0; i < n; i++)
        sum += v[i].iov_len;
    return sum;
}

/* The segments that cover bytes [off, off+len) of v; `to` has room for n. Returns their number. */
static inline unsigned iov_slice(struct iovec *to, const struct iovec *v, unsigned n, u64 off,
                                 u64 len)
{
    unsigned k = 0;
    for (unsigned i = 0; i < n && len; i++) {
        if (off >= v[i].iov_len) {
            off -= v[i].iov_len;
            continue;
        }
        u64 part = min_u64(v[i].iov_len - off, len);
        to[k++] = (struct iovec){(u8 *)v[i].iov_base + off, part};
        len -= part;
        off = 0;
    }
    return k;
}

static inline void iov_zero(const struct iovec *v, unsigned n, u64 off, u64 len)
{
    for (unsigned i = 0; i < n && len; i++) {
        if (off >= v[i].iov_len) {
            off -= v[i].iov_len;
            continue;
        }
        u64 part = min_u64(v[i].iov_len - off, len);
        memset((u8 *)v[i].iov_base + off, 0, part);
        len -= part;
        off = 0;
    }
}

/* Copies from v to buf (`out`), or from buf to v. */
static inline void iov_copy(const struct iovec *v, unsigned n, u64 off, void *buf, u64 len,
                            bool out)
{
    u8 *p = buf;
    for (unsigned i = 0; i < n && len; i++) {
        if (off >= v[i].iov_len) {
            off -= v[i].iov_len;
            continue;
        }
        u64 part = min_u64(v[i].iov_len - off, len);
        u8 *seg = (u8 *)v[i].iov_base + off;
        memcpy(out ? p : seg, out ? seg : p, part);
        p += part;
        len -= part;
        off = 0;
    }
}

#endif
