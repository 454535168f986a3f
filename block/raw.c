/*
 * raw.c - an image that is nothing but the disk's bytes.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/image.h"
#include "block/iov.h"

static int do_readv(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    return file_readv(&m->file, v, n, off);
}

static int do_writev(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    return file_writev(&m->file, v, n, off);
}

static int try_readv(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    return file_try_readv(&m->file, v, n, off);
}

/* A write into the page cache; block.c watches how long that takes. */
static int try_writev(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    return m->file.align > 1 || m->file.device ? -EAGAIN : file_writev(&m->file, v, n, off);
}

static int flush(struct image *m)
{
    return file_sync(&m->file);
}

static int discard(struct image *m, u64 off, u64 len)
{
    int rc = file_punch(&m->file, off, len);
    return rc == -EOPNOTSUPP ? 0 : rc;
}

static int zero(struct image *m, u64 off, u64 len, bool may_unmap)
{
    return file_zero(&m->file, off, len, may_unmap);
}

static int map(struct image *m, u64 off, u64 len, struct image_extent *x)
{
    u64 end = off + len;
    u64 data = m->file.device ? off : file_next(&m->file, off, end, true);
    *x = (struct image_extent){.zero = data > off, .local = true};
    if (data > off)
        x->len = data - off;
    else
        x->len = (m->file.device ? end : file_next(&m->file, off, end, false)) - off;
    if (!x->len) /* it changed between the two questions */
        *x = (struct image_extent){.len = len, .local = true};
    return 0;
}

static int do_close(struct image *m)
{
    return m->ro ? 0 : file_sync(&m->file);
}

static const struct image_ops ops = {
    .format = "raw",
    .readv = do_readv,
    .writev = do_writev,
    .try_readv = try_readv,
    .try_writev = try_writev,
    .flush = flush,
    .discard = discard,
    .zero = zero,
    .map = map,
    .close = do_close,
};

struct image *raw_open(struct file *f, const struct image_config *c, struct err *e)
{
    if (c->snapshot) {
        err_set(e, "%s is a raw image: it has no snapshots", f->name);
        return NULL;
    }
    struct image *m = calloc(1, sizeof(*m));
    if (!m) {
        err_errno(e, "%s", f->name);
        return NULL;
    }
    /* A last sector that the file holds in part ends in zeros. */
    *m =
        (struct image){.ops = &ops, .size = align_up(file_size(f), 512), .unit = 4096, .ro = c->ro};
    m->file = *f;
    return m;
}
