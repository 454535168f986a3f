/*
 * gdb's side of the debugger port: whatever it sends, in whatever pieces, to a machine of two CPUs.
 * Bytes with the high bit set begin a packet whose sum is right, so that most of them count.
 */
#include "gdb/gdb.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEM_SIZE 4096u

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct machine {
    struct gdb gdb;
    struct gdb_regs regs[2];
    u8 mem[MEM_SIZE];
};

static void on_send(void *arg, const void *buf, size_t n)
{
    const char *p = buf;
    if (!n || (*p == '$' && (n < 4 || p[n - 3] != '#')))
        abort();
}

static int on_get(void *arg, unsigned thread, struct gdb_regs *r)
{
    *r = ((struct machine *)arg)->regs[thread];
    return 0;
}

static int on_set(void *arg, unsigned thread, const struct gdb_regs *r)
{
    ((struct machine *)arg)->regs[thread] = *r;
    return 0;
}

static size_t on_read(void *arg, unsigned thread, u64 addr, void *buf, size_t n)
{
    const struct machine *m = arg;
    size_t got = addr < MEM_SIZE ? min_u64(n, MEM_SIZE - addr) : 0;
    memcpy(buf, m->mem + (got ? addr : 0), got);
    return got;
}

static int on_write(void *arg, unsigned thread, u64 addr, const void *buf, size_t n)
{
    struct machine *m = arg;
    if (addr > MEM_SIZE || n > MEM_SIZE - addr)
        return -1;
    memcpy(m->mem + addr, buf, n);
    return 0;
}

static int on_point(void *arg, enum gdb_point type, u64 addr, u64 len)
{
    if ((unsigned)type > GDB_WATCH_ACCESS)
        abort();
    return addr & 1 ? -1 : 0;
}

static void on_resume(void *arg, const struct gdb_resume *r)
{
    struct machine *m = arg;
    struct gdb_stop stop = {.reason = r[0].action == GDB_STEP ? GDB_STEPPED : GDB_AT_WATCH,
                            .thread = 1,
                            .point = GDB_WATCH_READ};
    gdb_stopped(&m->gdb, &stop);
}

static void on_nothing(void *arg)
{
}

static void on_info(void *arg, unsigned thread, char *buf, size_t size)
{
    snprintf(buf, size, "CPU %u", thread);
}

static void on_monitor(void *arg, unsigned thread, const char *line)
{
    gdb_print(&((struct machine *)arg)->gdb, "%s", line);
}

static const struct gdb_ops ops = {
    .send = on_send,
    .get_regs = on_get,
    .set_regs = on_set,
    .read = on_read,
    .write = on_write,
    .insert = on_point,
    .remove = on_point,
    .resume = on_resume,
    .interrupt = on_nothing,
    .detach = on_nothing,
    .kill = on_nothing,
    .thread_info = on_info,
    .monitor = on_monitor,
};

static const char *const beginnings[] = {
    "qXfer:features:read:target.xml:",
    "qThreadExtraInfo,",
    "qRcmd,",
    "qSupported:",
    "vCont;",
    "vCont;r",
    "Hg",
    "Hc",
    "T",
    "G",
    "P",
    "p",
    "m",
    "M0,4:",
    "X0,4:",
    "Z0,",
    "z2,",
    "g",
    "?",
};

/* A packet of up to 32 bytes of the input, with the right sum. */
static size_t packet(struct gdb *g, const u8 *data, size_t size)
{
    char body[80], tail[4];
    const char *begin = beginnings[(data[0] & 0x7f) % ARRAY_SIZE(beginnings)];
    size_t n = min_u64(size - 1, 32), at = strlen(begin);
    u8 sum = 0;
    memcpy(body, begin, at);
    for (size_t i = 0; i < n; i++)
        body[at++] = "0123456789abcdef,;:=-"[data[1 + i] % 21];
    for (size_t i = 0; i < at; i++)
        sum += (u8)body[i];
    snprintf(tail, sizeof(tail), "#%02x", sum);
    gdb_input(g, "$", 1);
    gdb_input(g, body, at);
    gdb_input(g, tail, 3);
    return 1 + n;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct machine *m = calloc(1, sizeof(*m));
    if (!m || size < 1 ||
        gdb_init(&m->gdb, &ops, m, 2, (enum gdb_arch)(data[0] % GDB_ARCHS), GDB_AVX512)) {
        free(m);
        return 0;
    }
    for (size_t at = 1; at < size && !m->gdb.detached;) {
        if (data[at] & 0x80) {
            at += packet(&m->gdb, data + at, size - at);
        } else {
            gdb_input(&m->gdb, data + at, 1);
            at++;
        }
    }
    gdb_free(&m->gdb);
    free(m);
    return 0;
}
