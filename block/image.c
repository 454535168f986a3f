#include "block/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/iov.h"
#include "block/qcow2.h"

int image_format_parse(const char *name, enum image_format *f)
{
    *f = IMAGE_AUTO;
    if (!strcmp(name, "raw"))
        *f = IMAGE_RAW;
    else if (!strcmp(name, "qcow2"))
        *f = IMAGE_QCOW2;
    return *f == IMAGE_AUTO ? -1 : 0;
}

/* Formats of others, so that nobody boots a container file as if it were a disk. */
static const struct {
    u16 at;
    u16 len;
    char magic[9];
    const char *name;
} foreign[] = {
    {0, 4, "KDMV", "VMDK"},
    {0, 8, "conectix", "VHD"},
    {0, 8, "vhdxfile", "VHDX"},
    {64, 4, "\x7f\x10\xda\xbe", "VDI"},
    {0, 4, "QED", "QED"},
    {0, 6,
     "\xfd"
     "7zXZ",
     "xz"},
    {0, 2, "\x1f\x8b", "gzip"},
    {0, 4, "\x28\xb5\x2f\xfd", "zstd"},
};

static bool is_qcow2(const u8 *head)
{
    return !memcmp(head, "QFI\xfb", 4);
}

static int probe(struct file *f, enum image_format *format, struct err *e)
{
    u8 head[512];
    int rc = file_read(f, head, sizeof(head), 0);
    if (rc) {
        errno = -rc;
        return err_errno(e, "cannot read %s", f->name);
    }
    *format = is_qcow2(head) ? IMAGE_QCOW2 : IMAGE_RAW;
    for (unsigned i = 0; i < ARRAY_SIZE(foreign); i++)
        if (!memcmp(head + foreign[i].at, foreign[i].magic, foreign[i].len))
            return err_set(e,
                           "%s is in format %s, which popf does not read (convert it with "
                           "qemu-img or unpack it; if it is a raw disk, say format=raw)",
                           f->name, foreign[i].name);
    return 0;
}

static struct image *open_format(struct file *f, const struct image_config *c, struct err *e)
{
    enum image_format format = c->format;
    if (format == IMAGE_AUTO && probe(f, &format, e))
        return NULL;
    struct image *m = format == IMAGE_QCOW2 ? qcow2_open(f, c, e) : raw_open(f, c, e);
    if (!m)
        return NULL;
    m->log = c->log;
    m->probed_raw = format == IMAGE_RAW && c->format == IMAGE_AUTO;
    return m;
}

struct image *image_open(const struct image_config *config, struct err *e)
{
    struct image_config c = *config;
    if (c.depth > IMAGE_DEPTH_MAX) {
        err_set(e, "%s: its backing files form a loop or more than %u layers", c.file,
                IMAGE_DEPTH_MAX);
        return NULL;
    }
    c.ro |= c.snapshot != NULL;
    struct file f;
    u32 flags = (c.ro ? FILE_RO : 0) | (c.direct ? FILE_DIRECT : 0) | (c.no_lock ? FILE_NOLOCK : 0);
    if (file_open(&f, c.file, flags, e))
        return NULL;
    f.watch = c.watch;
    struct image *m = open_format(&f, &c, e);
    if (!m)
        file_close(&f);
    return m;
}

struct image *image_overlay(struct image *base, struct err *e)
{
    struct file f;
    if (file_open_temp(&f, e)) {
        image_close(base);
        return NULL;
    }
    struct image *m = qcow2_overlay(&f, base, e);
    if (!m) {
        file_close(&f);
        image_close(base);
        return NULL;
    }
    m->log = base->log;
    return m;
}

int image_close(struct image *m)
{
    if (!m)
        return 0;
    struct image *backing = m->backing;
    int rc = m->ops->close(m);
    file_close(&m->file);
    free(m);
    image_close(backing);
    return rc;
}

/* --- the calls --- */

static bool in_range(const struct image *m, u64 off, u64 len)
{
    return off <= m->size && len <= m->size - off;
}

int image_readv(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    if (!in_range(m, off, len) || n > BLOCK_SEGS_MAX + 1)
        return -EINVAL;
    return len ? m->ops->readv(m, off, v, n, len) : 0;
}

/*
 * A guest that writes a qcow2 header into a raw image of which nobody has said that it is raw
 * would choose its own backing file, any file of the host's, at the next start. What is looked at
 * is a copy, and the copy is written: the guest may change its buffer meanwhile.
 */
static int write_start(struct image *m, const struct iovec *v, unsigned n, u64 len)
{
    u8 head[512];
    u64 copied = min_u64(len, sizeof(head));
    iov_copy(v, n, 0, head, copied, true);
    if (copied >= 4 && is_qcow2(head)) {
        log_emit(m->log,
                 "%s: the guest wants to write a qcow2 header into a raw image; allow it with "
                 "format=raw",
                 m->file.name);
        return -EPERM;
    }
    struct iovec part[BLOCK_SEGS_ALL];
    part[0] = (struct iovec){head, copied};
    unsigned k = 1 + iov_slice(part + 1, v, n, copied, len - copied);
    return m->ops->writev(m, 0, part, k, len);
}

static int check_write(const struct image *m, u64 off, u64 len)
{
    if (m->ro)
        return -EROFS;
    return in_range(m, off, len) ? 0 : -EINVAL;
}

int image_writev(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    int rc = check_write(m, off, len);
    if (rc || !len)
        return rc;
    if (n > BLOCK_SEGS_MAX)
        return -EINVAL;
    if (m->probed_raw && !off)
        return write_start(m, v, n, len);
    return m->ops->writev(m, off, v, n, len);
}

int image_try_readv(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    if (!in_range(m, off, len) || !len || n > BLOCK_SEGS_MAX)
        return -EAGAIN;
    return m->ops->try_readv(m, off, v, n, len);
}

int image_try_writev(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    if (check_write(m, off, len) || !len || n > BLOCK_SEGS_MAX || (m->probed_raw && !off))
        return -EAGAIN;
    return m->ops->try_writev(m, off, v, n, len);
}

int image_flush(struct image *m)
{
    return m->ro ? 0 : m->ops->flush(m);
}

int image_discard(struct image *m, u64 off, u64 len)
{
    int rc = check_write(m, off, len);
    return rc || !len ? rc : m->ops->discard(m, off, len);
}

int image_zero(struct image *m, u64 off, u64 len, bool may_unmap)
{
    int rc = check_write(m, off, len);
    return rc || !len ? rc : m->ops->zero(m, off, len, may_unmap);
}

int image_map(struct image *m, u64 off, u64 len, struct image_extent *x)
{
    if (!in_range(m, off, len) || !len)
        return -EINVAL;
    return m->ops->map(m, off, len, x);
}

int image_read(struct image *m, u64 off, void *buf, u64 len)
{
    struct iovec v = {buf, len};
    return image_readv(m, off, &v, 1, len);
}

int image_write(struct image *m, u64 off, const void *buf, u64 len)
{
    struct iovec v = {(void *)buf, len};
    return image_writev(m, off, &v, 1, len);
}

int image_read_backing(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    u64 size = m ? m->size : 0;
    u64 there = off < size ? min_u64(len, size - off) : 0;
    if (there < len)
        iov_zero(v, n, there, len - there);
    if (!there)
        return 0;
    struct iovec part[BLOCK_SEGS_ALL];
    unsigned k = iov_slice(part, v, n, 0, there);
    return m->ops->readv(m, off, part, k, there);
}
