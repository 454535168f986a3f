/*
 * gdb.c - the packets, one function each.
 */
#include "gdb/gdb.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdb/gdb_packet.h"

#define SIGINT_N  2
#define SIGTRAP_N 5
#define SIGSEGV_N 11

/* Error replies are errno values; gdb only shows them. */
#define E_INVALID "E16"
#define E_FAULT   "E0e"
#define E_IO      "E05"

static void result(struct gdb *g, int rc)
{
    gdb_reply(g, rc ? E_INVALID : "OK");
}

/* --- threads --- */

/* An id: -1 is all of them, 0 any (the first). False: there is no such thread. */
static bool parse_thread(const struct gdb *g, const char **p, int *thread)
{
    u64 id;
    if (!strncmp(*p, "-1", 2)) {
        *p += 2;
        *thread = -1;
        return true;
    }
    if (!gdb_hex(p, &id) || id > g->nthreads)
        return false;
    *thread = id ? (int)id - 1 : 0;
    return true;
}

static void set_thread(struct gdb *g, const char *p)
{
    char which = *p ? *p++ : 0;
    bool any = *p == '0';
    int thread;
    if ((which != 'g' && which != 'c') || !parse_thread(g, &p, &thread)) {
        gdb_reply(g, E_INVALID);
        return;
    }
    if (which == 'g')
        g->g_thread = thread < 0 ? 0 : (unsigned)thread;
    else
        g->c_thread = any ? -1 : thread;
    gdb_reply(g, "OK");
}

static void is_alive(struct gdb *g, const char *p)
{
    int thread;
    gdb_reply(g, parse_thread(g, &p, &thread) && thread >= 0 ? "OK" : E_INVALID);
}

static void first_threads(struct gdb *g, const char *p)
{
    gdb_begin(g);
    for (unsigned i = 0; i < g->nthreads; i++)
        gdb_put(g, "%c%x", i ? ',' : 'm', i + 1);
    gdb_send(g);
}

static void more_threads(struct gdb *g, const char *p)
{
    gdb_reply(g, "l");
}

static void thread_extra(struct gdb *g, const char *p)
{
    char text[128] = "";
    int thread;
    if (!parse_thread(g, &p, &thread) || thread < 0) {
        gdb_reply(g, E_INVALID);
        return;
    }
    g->ops->thread_info(g->arg, (unsigned)thread, text, sizeof(text));
    gdb_begin(g);
    gdb_put_hex(g, text, strlen(text));
    gdb_send(g);
}

static void current_thread(struct gdb *g, const char *p)
{
    gdb_begin(g);
    gdb_put(g, "QC%x", g->last.thread + 1);
    gdb_send(g);
}

/* --- why it stands --- */

static unsigned signal_of(enum gdb_reason reason)
{
    return reason == GDB_STOPPED ? SIGINT_N : reason == GDB_SHUT_DOWN ? SIGSEGV_N : SIGTRAP_N;
}

static void put_reg(struct gdb *g, const struct gdb_regs *r, unsigned n)
{
    const struct gdb_reg *reg = &g->map.reg[n];
    gdb_put_hex(g, (const u8 *)r + reg->at, reg->size);
}

/* What gdb would ask for at once anyway. */
static void put_expedited(struct gdb *g)
{
    struct gdb_regs r;
    if (g->ops->get_regs(g->arg, g->last.thread, &r))
        return;
    const unsigned n[] = {g->map.pc, g->map.sp};
    for (unsigned i = 0; i < ARRAY_SIZE(n); i++) {
        gdb_put(g, "%x:", n[i]);
        put_reg(g, &r, n[i]);
        gdb_put(g, ";");
    }
}

static void put_reason(struct gdb *g)
{
    static const char *const watch[] = {
        [GDB_WATCH_WRITE] = "watch", [GDB_WATCH_READ] = "rwatch", [GDB_WATCH_ACCESS] = "awatch"};
    const struct gdb_stop *s = &g->last;
    if (s->reason == GDB_AT_WATCH && s->point >= GDB_WATCH_WRITE)
        gdb_put(g, "%s:%llx;", watch[s->point], (unsigned long long)s->addr);
    else if (s->reason == GDB_AT_BREAK && s->point == GDB_SW_BREAK && g->swbreak)
        gdb_put(g, "swbreak:;");
    else if (s->reason == GDB_AT_BREAK && s->point == GDB_HW_BREAK && g->hwbreak)
        gdb_put(g, "hwbreak:;");
}

static void report_stop(struct gdb *g, const char *p)
{
    gdb_begin(g);
    gdb_put(g, "T%02xthread:%x;", signal_of(g->last.reason), g->last.thread + 1);
    put_reason(g);
    put_expedited(g);
    gdb_send(g);
}

void gdb_stopped(struct gdb *g, const struct gdb_stop *stop)
{
    if (!g->running || g->detached)
        return;
    g->running = false;
    g->last = *stop;
    g->g_thread = stop->thread;
    report_stop(g, "");
}

void gdb_exited(struct gdb *g, u8 status, u8 signal)
{
    if (!g->running || g->detached)
        return;
    g->running = false;
    gdb_begin(g);
    gdb_put(g, "%c%02x", signal ? 'X' : 'W', signal ? signal : status);
    gdb_send(g);
}

void gdb_break(struct gdb *g)
{
    if (g->running)
        g->ops->interrupt(g->arg);
}

/* --- running --- */

static void run(struct gdb *g)
{
    g->running = true;
    g->ops->resume(g->arg, g->resume);
}

/* The old packets c, s, C and S: [signal;][address]. The thread is Hc's. */
static void old_resume(struct gdb *g, const char *p, enum gdb_action action, bool signal)
{
    u64 val;
    if (signal && gdb_hex(&p, &val) && *p == ';')
        p++;
    if (gdb_hex(&p, &val)) { /* gdb writes PC instead */
        gdb_reply(g, E_INVALID);
        return;
    }
    int thread = g->c_thread;
    if (thread < 0 && action == GDB_STEP)
        thread = (int)g->last.thread;
    for (unsigned i = 0; i < g->nthreads; i++)
        g->resume[i] = (struct gdb_resume){
            .action = (u8)(thread < 0 || i == (unsigned)thread ? action : GDB_STAY)};
    run(g);
}

static void old_continue(struct gdb *g, const char *p)
{
    old_resume(g, p, GDB_CONTINUE, false);
}

static void old_continue_signal(struct gdb *g, const char *p)
{
    old_resume(g, p, GDB_CONTINUE, true);
}

static void old_step(struct gdb *g, const char *p)
{
    old_resume(g, p, GDB_STEP, false);
}

static void old_step_signal(struct gdb *g, const char *p)
{
    old_resume(g, p, GDB_STEP, true);
}

/* One action of vCont: "c", "C05", "s", "S05", "r LO,HI". A virtual CPU has no use for signals. */
static bool parse_action(const char **p, struct gdb_resume *r)
{
    u64 val;
    char c = *(*p)++;
    *r = (struct gdb_resume){.action = c == 'c' || c == 'C' ? GDB_CONTINUE : GDB_STEP};
    switch (c) {
    case 'c':
    case 's':
        return true;
    case 'C':
    case 'S':
        return gdb_hex(p, &val);
    case 'r':
        if (!gdb_hex(p, &r->lo) || *(*p)++ != ',')
            return false;
        return gdb_hex(p, &r->hi);
    default:
        --*p;
        return false;
    }
}

/* The leftmost action that names a thread is the one that holds. */
static bool parse_actions(struct gdb *g, const char *p)
{
    bool any = false;
    for (unsigned i = 0; i < g->nthreads; i++)
        g->resume[i] = (struct gdb_resume){.action = GDB_STAY};
    while (*p == ';') {
        struct gdb_resume r;
        int thread = -1;
        p++;
        if (!parse_action(&p, &r))
            return false;
        if (*p == ':' && (p++, !parse_thread(g, &p, &thread)))
            return false;
        for (unsigned i = 0; i < g->nthreads; i++)
            if ((thread < 0 || i == (unsigned)thread) && g->resume[i].action == GDB_STAY) {
                g->resume[i] = r;
                any = true;
            }
    }
    return any && !*p;
}

static void vcont(struct gdb *g, const char *p)
{
    if (parse_actions(g, p))
        run(g);
    else
        gdb_reply(g, E_INVALID);
}

static void vcont_what(struct gdb *g, const char *p)
{
    gdb_reply(g, "vCont;c;C;s;S;r");
}

/* --- registers --- */

static bool get_regs(struct gdb *g, struct gdb_regs *r)
{
    if (!g->ops->get_regs(g->arg, g->g_thread, r))
        return true;
    gdb_reply(g, E_IO);
    return false;
}

static void read_regs(struct gdb *g, const char *p)
{
    struct gdb_regs r;
    if (!get_regs(g, &r))
        return;
    gdb_begin(g);
    for (unsigned i = 0; i < g->map.n; i++)
        put_reg(g, &r, i);
    gdb_send(g);
}

static void write_regs(struct gdb *g, const char *p)
{
    struct gdb_regs r;
    if (!get_regs(g, &r))
        return;
    bool ok = strlen(p) == 2 * g->map.bytes;
    for (unsigned i = 0; ok && i < g->map.n; i++)
        ok = gdb_hex_bytes(&p, (u8 *)&r + g->map.reg[i].at, g->map.reg[i].size);
    result(g, ok ? g->ops->set_regs(g->arg, g->g_thread, &r) : -1);
}

static void read_reg(struct gdb *g, const char *p)
{
    struct gdb_regs r;
    u64 n;
    if (!gdb_hex(&p, &n) || n >= g->map.n) {
        gdb_reply(g, E_INVALID);
        return;
    }
    if (!get_regs(g, &r))
        return;
    gdb_begin(g);
    put_reg(g, &r, (unsigned)n);
    gdb_send(g);
}

static void write_reg(struct gdb *g, const char *p)
{
    struct gdb_regs r;
    u64 n;
    if (!gdb_hex(&p, &n) || n >= g->map.n || *p++ != '=') {
        gdb_reply(g, E_INVALID);
        return;
    }
    if (!get_regs(g, &r))
        return;
    const struct gdb_reg *reg = &g->map.reg[n];
    bool ok = gdb_hex_bytes(&p, (u8 *)&r + reg->at, reg->size);
    result(g, ok ? g->ops->set_regs(g->arg, g->g_thread, &r) : -1);
}

/* --- memory --- */

/* "ADDR,LEN", and what must follow. */
static bool parse_range(const char **p, u64 *addr, u64 *len, char end)
{
    if (!gdb_hex(p, addr) || *(*p)++ != ',' || !gdb_hex(p, len))
        return false;
    return **p == end && (!end || ++*p);
}

static void read_memory(struct gdb *g, const char *p)
{
    u8 buf[GDB_PACKET_MAX / 2];
    u64 addr, len;
    if (!parse_range(&p, &addr, &len, 0)) {
        gdb_reply(g, E_INVALID);
        return;
    }
    size_t n = min_u64(len, sizeof(buf));
    n = n ? g->ops->read(g->arg, g->g_thread, addr, buf, n) : 0;
    if (!n && len) {
        gdb_reply(g, E_FAULT);
        return;
    }
    gdb_begin(g);
    gdb_put_hex(g, buf, n);
    gdb_send(g);
}

static void store(struct gdb *g, u64 addr, const void *buf, size_t n)
{
    int rc = n ? g->ops->write(g->arg, g->g_thread, addr, buf, n) : 0;
    gdb_reply(g, rc ? E_FAULT : "OK");
}

static void write_memory(struct gdb *g, const char *p)
{
    u8 buf[GDB_PACKET_MAX / 2];
    u64 addr, len;
    if (parse_range(&p, &addr, &len, ':') && len <= sizeof(buf) && gdb_hex_bytes(&p, buf, len))
        store(g, addr, buf, len);
    else
        gdb_reply(g, E_INVALID);
}

/* Data is binary; `end` is the packet's. */
static void write_binary(struct gdb *g, const char *p, const char *end)
{
    u64 addr, len;
    if (parse_range(&p, &addr, &len, ':') && len == (u64)(end - p))
        store(g, addr, p, len);
    else
        gdb_reply(g, E_INVALID);
}

/* --- breakpoints --- */

static void point(struct gdb *g, const char *p, bool insert)
{
    u64 type, addr, len;
    if (!gdb_hex(&p, &type) || *p++ != ',' || !gdb_hex(&p, &addr) || *p++ != ',' ||
        !gdb_hex(&p, &len)) {
        gdb_reply(g, E_INVALID);
    } else if (type > GDB_WATCH_ACCESS) {
        gdb_reply(g, ""); /* not supported */
    } else {
        int (*op)(void *, enum gdb_point, u64, u64) = insert ? g->ops->insert : g->ops->remove;
        result(g, op(g->arg, (enum gdb_point)type, addr, len));
    }
}

static void insert_point(struct gdb *g, const char *p)
{
    point(g, p, true);
}

static void remove_point(struct gdb *g, const char *p)
{
    point(g, p, false);
}

/* --- queries --- */

static bool offered(const char *list, const char *feature)
{
    const char *p = strstr(list, feature);
    return p && (p == list || p[-1] == ';' || p[-1] == ':');
}

static void supported(struct gdb *g, const char *p)
{
    g->swbreak = offered(p, "swbreak+");
    g->hwbreak = offered(p, "hwbreak+");
    gdb_begin(g);
    gdb_put(g,
            "PacketSize=%x;QStartNoAckMode+;vContSupported+;qXfer:features:read+;swbreak+;"
            "hwbreak+",
            GDB_PACKET_MAX);
    gdb_send(g);
}

static void features(struct gdb *g, const char *p)
{
    static const char name[] = "target.xml:";
    u64 at, len;
    if (strncmp(p, name, sizeof(name) - 1)) {
        gdb_reply(g, "E00");
        return;
    }
    p += sizeof(name) - 1;
    if (!parse_range(&p, &at, &len, 0) || at > g->map.xml_len) {
        gdb_reply(g, E_INVALID);
        return;
    }
    size_t left = g->map.xml_len - at;
    size_t n = min_u64(min_u64(len, left), GDB_PACKET_MAX / 2);
    gdb_begin(g);
    gdb_put(g, n < left ? "m" : "l");
    gdb_put_binary(g, g->map.xml + at, n);
    gdb_send(g);
}

static void attached(struct gdb *g, const char *p)
{
    gdb_reply(g, "1"); /* so that gdb detaches when it quits */
}

static void no_ack(struct gdb *g, const char *p)
{
    gdb_reply(g, "OK");
    g->noack = true;
}

static void monitor(struct gdb *g, const char *p)
{
    char line[256];
    size_t n = strlen(p) / 2;
    if (n >= sizeof(line) || !gdb_hex_bytes(&p, line, n) || *p) {
        gdb_reply(g, E_INVALID);
        return;
    }
    line[n] = 0;
    g->ops->monitor(g->arg, g->g_thread, line);
    if (!g->detached)
        gdb_reply(g, "OK");
}

static void unknown(struct gdb *g, const char *p)
{
    gdb_reply(g, "");
}

static void fine(struct gdb *g, const char *p)
{
    gdb_reply(g, "OK");
}

/* --- the end --- */

static void detach(struct gdb *g, const char *p)
{
    gdb_reply(g, "OK");
    g->detached = true;
    g->ops->detach(g->arg);
}

static void kill(struct gdb *g, const char *p)
{
    g->detached = true;
    g->ops->kill(g->arg);
}

static void vkill(struct gdb *g, const char *p)
{
    gdb_reply(g, "OK");
    kill(g, p);
}

/* --- which packet --- */

struct command {
    const char *name;
    void (*run)(struct gdb *g, const char *rest);
};

/* The first match counts: long names come before their beginnings. */
static const struct command commands[] = {
    {"?", report_stop},
    {"H", set_thread},
    {"T", is_alive},
    {"g", read_regs},
    {"G", write_regs},
    {"p", read_reg},
    {"P", write_reg},
    {"m", read_memory},
    {"M", write_memory},
    {"Z", insert_point},
    {"z", remove_point},
    {"c", old_continue},
    {"C", old_continue_signal},
    {"s", old_step},
    {"S", old_step_signal},
    {"D", detach},
    {"k", kill},
    {"vCont?", vcont_what},
    {"vCont", vcont},
    {"vKill", vkill},
    {"qSupported", supported},
    {"qXfer:features:read:", features},
    {"qfThreadInfo", first_threads},
    {"qsThreadInfo", more_threads},
    {"qThreadExtraInfo,", thread_extra},
    {"qC", current_thread},
    {"qAttached", attached},
    {"qSymbol", fine},
    {"qRcmd,", monitor},
    {"QStartNoAckMode", no_ack},
    {"", unknown},
};

/* qC must not answer for qCRC. */
static bool matches(const struct command *c, const char *p)
{
    size_t n = strlen(c->name);
    return !strncmp(p, c->name, n) && (strcmp(c->name, "qC") != 0 || !p[n]);
}

void gdb_packet(struct gdb *g, char *p, size_t n)
{
    if (g->running)
        return; /* in all-stop mode nothing but Ctrl-C comes now */
    if (*p == 'X') {
        write_binary(g, p + 1, p + n);
        return;
    }
    const struct command *c = commands;
    while (!matches(c, p))
        c++;
    c->run(g, p + strlen(c->name));
}

int gdb_init(struct gdb *g, const struct gdb_ops *ops, void *arg, unsigned nthreads,
             enum gdb_arch arch, enum gdb_vector vector)
{
    *g = (struct gdb){.ops = ops, .arg = arg, .nthreads = nthreads, .c_thread = -1};
    g->last = (struct gdb_stop){.reason = GDB_STEPPED};
    g->resume = calloc(nthreads, sizeof(*g->resume));
    if (!g->resume)
        return -1;
    gdb_regmap_init(&g->map, arch, vector);
    return 0;
}

void gdb_free(struct gdb *g)
{
    free(g->resume);
    g->resume = NULL;
}
