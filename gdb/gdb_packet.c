#include "gdb/gdb_packet.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char digits[] = "0123456789abcdef";

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool gdb_hex(const char **p, u64 *val)
{
    const char *start = *p;
    *val = 0;
    for (int d; (d = digit(**p)) >= 0; ++*p)
        *val = *val << 4 | (u64)d;
    return *p != start;
}

bool gdb_hex_bytes(const char **p, void *buf, size_t n)
{
    u8 *to = buf;
    for (size_t i = 0; i < n; i++, *p += 2) {
        int hi = digit((*p)[0]), lo = hi < 0 ? -1 : digit((*p)[1]);
        if (lo < 0)
            return false;
        to[i] = (u8)(hi << 4 | lo);
    }
    return true;
}

/* --- out --- */

static void put(struct gdb *g, char c)
{
    if (g->nout < sizeof(g->out) - 3) /* room for the sum */
        g->out[g->nout++] = c;
}

void gdb_begin(struct gdb *g)
{
    g->out[0] = '$';
    g->nout = 1;
}

void gdb_put(struct gdb *g, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    for (const char *p = text; *p; p++)
        put(g, *p);
}

void gdb_put_hex(struct gdb *g, const void *buf, size_t n)
{
    const u8 *p = buf;
    for (size_t i = 0; i < n; i++) {
        put(g, digits[p[i] >> 4]);
        put(g, digits[p[i] & 15]);
    }
}

void gdb_put_binary(struct gdb *g, const void *buf, size_t n)
{
    const char *p = buf;
    for (size_t i = 0; i < n; i++) {
        bool escape = p[i] == '#' || p[i] == '$' || p[i] == '}' || p[i] == '*';
        if (escape)
            put(g, '}');
        put(g, escape ? p[i] ^ 0x20 : p[i]);
    }
}

void gdb_send(struct gdb *g)
{
    u8 sum = 0;
    for (size_t i = 1; i < g->nout; i++)
        sum += (u8)g->out[i];
    g->out[g->nout++] = '#';
    g->out[g->nout++] = digits[sum >> 4];
    g->out[g->nout++] = digits[sum & 15];
    g->nsent = g->nout;
    g->ops->send(g->arg, g->out, g->nout);
}

void gdb_reply(struct gdb *g, const char *text)
{
    gdb_begin(g);
    for (; *text; text++)
        put(g, *text);
    gdb_send(g);
}

void gdb_print(struct gdb *g, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    gdb_begin(g);
    gdb_put(g, "O");
    gdb_put_hex(g, text, strlen(text));
    gdb_send(g);
}

/* --- in --- */

static size_t unescape(char *p, size_t n)
{
    size_t to = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '}' && i + 1 < n)
            p[to++] = p[++i] ^ 0x20;
        else
            p[to++] = p[i];
    }
    return to;
}

static void finish(struct gdb *g, u8 sum)
{
    bool good = sum == g->rx_sum && !g->overflow;
    bool noack = g->noack;
    g->rx = RX_IDLE;
    if (!noack)
        g->ops->send(g->arg, sum == g->rx_sum ? "+" : "-", 1);
    if (!good) {
        if (g->overflow && sum == g->rx_sum)
            gdb_reply(g, "E07");
        return;
    }
    size_t n = unescape(g->in, g->nin);
    g->in[n] = 0;
    gdb_packet(g, g->in, n);
}

static void idle(struct gdb *g, char c)
{
    switch (c) {
    case '$':
        g->rx = RX_BODY;
        g->nin = 0;
        g->rx_sum = 0;
        g->overflow = false;
        break;
    case 3:
        gdb_break(g);
        break;
    case '-': /* a damaged packet: once more */
        if (!g->noack && g->nsent)
            g->ops->send(g->arg, g->out, g->nsent);
        break;
    }
}

static void body(struct gdb *g, char c)
{
    if (c == '#') {
        g->rx = RX_SUM1;
    } else if (c == '$') { /* the last one was cut off */
        idle(g, c);
    } else {
        g->rx_sum += (u8)c;
        if (g->nin < GDB_PACKET_MAX)
            g->in[g->nin++] = c;
        else
            g->overflow = true;
    }
}

void gdb_input(struct gdb *g, const void *buf, size_t n)
{
    const char *p = buf;
    for (size_t i = 0; i < n && !g->detached; i++) {
        int d = digit(p[i]);
        switch (g->rx) {
        case RX_IDLE:
            idle(g, p[i]);
            break;
        case RX_BODY:
            body(g, p[i]);
            break;
        case RX_SUM1:
            g->rx_digit = (u8)d; /* what is no digit makes no right sum */
            g->overflow |= d < 0;
            g->rx = RX_SUM2;
            break;
        case RX_SUM2:
            g->overflow |= d < 0;
            finish(g, (u8)(g->rx_digit << 4 | (d & 15)));
            break;
        }
    }
}
