#include "share/share_msg.h"

#include <errno.h>
#include <string.h>

static void fail(struct share_in *in, int err)
{
    if (!in->err)
        in->err = err;
}

const u8 *share_in_bytes(struct share_in *in, size_t n)
{
    if (in->err || n > in->len - in->pos) {
        fail(in, EPROTO);
        return NULL;
    }
    const u8 *p = in->buf + in->pos;
    in->pos += n;
    return p;
}

static u64 get(struct share_in *in, unsigned size)
{
    const u8 *p = share_in_bytes(in, size);
    u64 v = 0;
    for (unsigned i = 0; p && i < size; i++)
        v |= (u64)p[i] << (8 * i);
    return v;
}

u8 share_in_u8(struct share_in *in)
{
    return get(in, 1);
}

u16 share_in_u16(struct share_in *in)
{
    return get(in, 2);
}

u32 share_in_u32(struct share_in *in)
{
    return get(in, 4);
}

u64 share_in_u64(struct share_in *in)
{
    return get(in, 8);
}

void share_in_str(struct share_in *in, char *to, size_t size)
{
    size_t n = share_in_u16(in);
    const u8 *p = share_in_bytes(in, n);
    to[0] = 0;
    if (!p)
        return;
    if (n >= size) {
        fail(in, ENAMETOOLONG);
        return;
    }
    if (memchr(p, 0, n)) {
        fail(in, EINVAL);
        return;
    }
    memcpy(to, p, n);
    to[n] = 0;
}

void share_in_text(struct share_in *in, char *to, size_t size)
{
    size_t left = in->len - in->pos, n = strnlen((const char *)in->buf + in->pos, left);
    const u8 *p = share_in_bytes(in, n + 1);
    to[0] = 0;
    if (p && n >= size)
        fail(in, ENAMETOOLONG);
    else if (p)
        memcpy(to, p, n + 1);
}

static void check_name(struct share_in *in, const char *to, int dots)
{
    if (in->err)
        return;
    if (!to[0])
        fail(in, ENOENT);
    else if (strchr(to, '/'))
        fail(in, EINVAL);
    else if (dots && (!strcmp(to, ".") || !strcmp(to, "..")))
        fail(in, dots);
}

void share_in_name(struct share_in *in, char to[SHARE_NAME_MAX + 1], int dots)
{
    share_in_str(in, to, SHARE_NAME_MAX + 1);
    check_name(in, to, dots);
}

void share_in_text_name(struct share_in *in, char to[SHARE_NAME_MAX + 1], int dots)
{
    share_in_text(in, to, SHARE_NAME_MAX + 1);
    check_name(in, to, dots);
}

static void put(struct share_out *out, u64 v, unsigned size)
{
    if (share_out_room(out) < size) {
        out->full = true;
        return;
    }
    for (unsigned i = 0; i < size; i++)
        out->buf[out->pos++] = v >> (8 * i);
}

void share_out_u8(struct share_out *out, u8 v)
{
    put(out, v, 1);
}

void share_out_u16(struct share_out *out, u16 v)
{
    put(out, v, 2);
}

void share_out_u32(struct share_out *out, u32 v)
{
    put(out, v, 4);
}

void share_out_u64(struct share_out *out, u64 v)
{
    put(out, v, 8);
}

void share_out_str(struct share_out *out, const char *s, size_t len)
{
    if (len > UINT16_MAX || share_out_room(out) < len + 2) {
        out->full = true;
        return;
    }
    share_out_u16(out, len);
    memcpy(out->buf + out->pos, s, len);
    out->pos += len;
}

void share_out_qid(struct share_out *out, const struct share_qid *q)
{
    share_out_u8(out, q->type);
    share_out_u32(out, q->version);
    share_out_u64(out, q->path);
}

void share_out_patch32(struct share_out *out, size_t pos, u32 v)
{
    struct share_out at = {.buf = out->buf, .cap = out->cap, .pos = pos};
    share_out_u32(&at, v);
}
