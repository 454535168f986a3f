#include "base/state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void state_init_save(struct state *s)
{
    *s = (struct state){0};
}

void state_init_load(struct state *s, const void *buf, size_t len)
{
    *s = (struct state){.loading = true, .buf = (u8 *)buf, .len = len, .cap = len};
}

void state_free(struct state *s)
{
    if (!s->loading)
        free(s->buf);
    s->buf = NULL;
}

void state_fail(struct state *s, const char *fmt, ...)
{
    if (s->failed)
        return;
    s->failed = true;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s->err.msg, sizeof(s->err.msg), fmt, ap);
    va_end(ap);
}

void state_bytes(struct state *s, void *p, size_t len)
{
    if (s->failed)
        return;
    if (s->loading) {
        if (len > s->len - s->pos) {
            state_fail(s, "the saved state ends too early");
            return;
        }
        memcpy(p, s->buf + s->pos, len);
        s->pos += len;
        return;
    }
    if (len > s->cap - s->len) {
        size_t cap = max_u64(2 * s->cap, s->len + len + 256);
        u8 *buf = realloc(s->buf, cap);
        if (!buf) {
            state_fail(s, "out of memory while saving %zu bytes of state", cap);
            return;
        }
        s->buf = buf;
        s->cap = cap;
    }
    memcpy(s->buf + s->len, p, len);
    s->len += len;
}

void state_section(struct state *s, const char *name, u32 version)
{
    char tag[16] = {0};
    snprintf(tag, sizeof(tag), "%s", name);
    char got[16];
    u32 got_version = version;
    memcpy(got, tag, sizeof(tag));
    state_bytes(s, got, sizeof(got));
    state_val(s, got_version);
    if (s->failed || !s->loading)
        return;
    if (memcmp(got, tag, sizeof(tag)))
        state_fail(s, "the saved state has no section \"%s\" where one is due", name);
    else if (got_version != version)
        state_fail(s, "section \"%s\" has version %u, this popf reads %u", name, got_version,
                   version);
}
