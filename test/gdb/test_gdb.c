/* The debugger's protocol against a machine that is not there: two threads, some memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdb/gdb.h"
#include "gdb/gdb_packet.h"

#define MEM_AT   0x1000u
#define MEM_SIZE 256u
#define THREADS  2

struct rig {
    struct gdb g;
    char out[65536]; /* all that was sent */
    size_t nout;
    u8 mem[MEM_SIZE];
    struct gdb_regs regs[THREADS];
    char log[512]; /* what the machine was asked to do */
};

static void note(struct rig *r, const char *fmt, ...) PRINTF(2, 3);

static void note(struct rig *r, const char *fmt, ...)
{
    size_t n = strlen(r->log);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->log + n, sizeof(r->log) - n, fmt, ap);
    va_end(ap);
}

/* --- the machine --- */

static void on_send(void *arg, const void *buf, size_t n)
{
    struct rig *r = arg;
    assert_true(r->nout + n < sizeof(r->out));
    memcpy(r->out + r->nout, buf, n);
    r->nout += n;
    r->out[r->nout] = 0;
}

static int on_get_regs(void *arg, unsigned thread, struct gdb_regs *regs)
{
    struct rig *r = arg;
    *regs = r->regs[thread];
    return 0;
}

static int on_set_regs(void *arg, unsigned thread, const struct gdb_regs *regs)
{
    struct rig *r = arg;
    if (regs->tr)
        return -1;
    r->regs[thread] = *regs;
    return 0;
}

static size_t on_read(void *arg, unsigned thread, u64 addr, void *buf, size_t n)
{
    struct rig *r = arg;
    if (addr < MEM_AT || addr >= MEM_AT + MEM_SIZE)
        return 0;
    n = min_u64(n, MEM_AT + MEM_SIZE - addr);
    memcpy(buf, r->mem + (addr - MEM_AT), n);
    return n;
}

static int on_write(void *arg, unsigned thread, u64 addr, const void *buf, size_t n)
{
    struct rig *r = arg;
    if (addr < MEM_AT || addr - MEM_AT > MEM_SIZE || n > MEM_AT + MEM_SIZE - addr)
        return -1;
    memcpy(r->mem + (addr - MEM_AT), buf, n);
    return 0;
}

static int on_insert(void *arg, enum gdb_point type, u64 addr, u64 len)
{
    note(arg, "insert %d %llx %llx;", type, (unsigned long long)addr, (unsigned long long)len);
    return addr == 0xbad ? -1 : 0;
}

static int on_remove(void *arg, enum gdb_point type, u64 addr, u64 len)
{
    note(arg, "remove %d %llx %llx;", type, (unsigned long long)addr, (unsigned long long)len);
    return 0;
}

static void on_resume(void *arg, const struct gdb_resume *p)
{
    for (unsigned i = 0; i < THREADS; i++)
        note(arg, "%u:%c%llx-%llx;", i, "-cs"[p[i].action], (unsigned long long)p[i].lo,
             (unsigned long long)p[i].hi);
}

static void on_interrupt(void *arg)
{
    note(arg, "interrupt;");
}

static void on_detach(void *arg)
{
    note(arg, "detach;");
}

static void on_kill(void *arg)
{
    note(arg, "kill;");
}

static void on_thread_info(void *arg, unsigned thread, char *buf, size_t size)
{
    snprintf(buf, size, "CPU %u", thread);
}

static void on_monitor(void *arg, unsigned thread, const char *line)
{
    struct rig *r = arg;
    gdb_print(&r->g, "%u %s!\n", thread, line);
}

static const struct gdb_ops ops = {
    .send = on_send,
    .get_regs = on_get_regs,
    .set_regs = on_set_regs,
    .read = on_read,
    .write = on_write,
    .insert = on_insert,
    .remove = on_remove,
    .resume = on_resume,
    .interrupt = on_interrupt,
    .detach = on_detach,
    .kill = on_kill,
    .thread_info = on_thread_info,
    .monitor = on_monitor,
};

/* --- the rig --- */

static struct rig *rig_arch(enum gdb_arch arch)
{
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    for (unsigned i = 0; i < MEM_SIZE; i++)
        r->mem[i] = (u8)i;
    assert_int_equal(gdb_init(&r->g, &ops, r, THREADS, arch, GDB_AVX512), 0);
    return r;
}

static struct rig *rig(void)
{
    return rig_arch(GDB_X86_64);
}

static void done(struct rig *r)
{
    gdb_free(&r->g);
    free(r);
}

static void send_raw(struct rig *r, const char *body, size_t n)
{
    u8 sum = 0;
    char tail[4];
    for (size_t i = 0; i < n; i++)
        sum += (u8)body[i];
    snprintf(tail, sizeof(tail), "#%02x", sum);
    r->nout = 0;
    r->out[0] = 0;
    gdb_input(&r->g, "$", 1);
    gdb_input(&r->g, body, n);
    gdb_input(&r->g, tail, 3);
}

/* The bodies of all packets that came back, with ';' behind each but the last. */
static const char *answer(struct rig *r)
{
    static _Thread_local char text[65536];
    size_t n = 0;
    for (const char *p = strchr(r->out, '$'); p; p = strchr(p, '$')) {
        const char *end = strchr(p, '#');
        assert_non_null(end);
        u8 sum = 0;
        for (const char *q = p + 1; q < end; q++)
            sum += (u8)*q;
        assert_int_equal(strtoul((char[]){end[1], end[2], 0}, NULL, 16), sum);
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%.*s", n ? ";" : "",
                              (int)(end - p - 1), p + 1);
        p = end;
    }
    text[n] = 0;
    return text;
}

static const char *ask(struct rig *r, const char *body)
{
    send_raw(r, body, strlen(body));
    return answer(r);
}

#define check(r, packet, reply) assert_string_equal(ask(r, packet), reply)

static const char *asked(struct rig *r)
{
    static _Thread_local char text[sizeof(r->log)];
    memcpy(text, r->log, sizeof(text));
    r->log[0] = 0;
    return text;
}

static void stop(struct rig *r, enum gdb_reason why, unsigned thread, enum gdb_point point, u64 at)
{
    r->nout = 0;
    r->out[0] = 0;
    gdb_stopped(&r->g,
                &(struct gdb_stop){.reason = why, .thread = thread, .point = point, .addr = at});
}

/* --- tests --- */

static void acks(void **state)
{
    struct rig *r = rig();
    send_raw(r, "qC", 2);
    assert_string_equal(r->out, "+$QC1#c5");
    r->nout = 0;
    gdb_input(&r->g, "-", 1); /* again, please */
    assert_string_equal(r->out, "$QC1#c5");
    r->nout = 0;
    gdb_input(&r->g, "+$qC#00", 7); /* damaged */
    assert_string_equal(r->out, "-");
    r->nout = 0;
    gdb_input(&r->g, "$garb$qC#b4", 11); /* cut off, then whole */
    assert_string_equal(r->out, "+$QC1#c5");
    r->nout = 0;
    gdb_input(&r->g, "$qC#zz", 6);
    assert_true(r->out[0] == '-' || !strcmp(answer(r), "E07"));
    check(r, "QStartNoAckMode", "OK");
    send_raw(r, "qC", 2);
    assert_string_equal(r->out, "$QC1#c5");
    done(r);
}

static void unknown(void **state)
{
    struct rig *r = rig();
    check(r, "vMustReplyEmpty", "");
    check(r, "qTStatus", "");
    check(r, "qCRC:0,1", "");
    check(r, "", "");
    check(r, "Z7,0,0", "");
    done(r);
}

static void threads(void **state)
{
    struct rig *r = rig();
    check(r, "qfThreadInfo", "m1,2");
    check(r, "qsThreadInfo", "l");
    check(r, "qThreadExtraInfo,2", "4350552031");
    check(r, "qThreadExtraInfo,3", "E16");
    check(r, "T2", "OK");
    check(r, "T3", "E16");
    check(r, "Hg2", "OK");
    check(r, "Hg9", "E16");
    check(r, "Hx1", "E16");
    check(r, "qAttached", "1");
    done(r);
}

static void memory(void **state)
{
    struct rig *r = rig();
    check(r, "m1000,4", "00010203");
    check(r, "m10fe,8", "feff"); /* as far as there is something */
    check(r, "m2000,1", "E0e");
    check(r, "mx", "E16");
    check(r, "M1010,2:beef", "OK");
    check(r, "m1010,2", "beef");
    check(r, "M1010,2:be", "E16");
    check(r, "M5000,1:00", "E0e");
    check(r, "X1000,0:", "OK");
    send_raw(r, "X1020,3:}\x03}\x04z", 13);
    assert_string_equal(answer(r), "OK");
    check(r, "m1020,3", "23247a");
    send_raw(r, "X1020,4:abc", 11);
    assert_string_equal(answer(r), "E16");
    done(r);
}

/* The register of this name, or -1. */
static int number_of(const struct rig *r, const char *name)
{
    for (unsigned i = 0; i < r->g.map.n; i++)
        if (!strcmp(r->g.map.reg[i].name, name))
            return (int)i;
    return -1;
}

static void registers(void **state)
{
    struct rig *r = rig();
    char text[64];
    r->regs[0].gpr[0] = 0x1122334455667788;
    r->regs[1].gpr[0] = 0xaa;
    r->regs[0].cr3 = 0x5000;
    check(r, "p0", "8877665544332211");
    check(r, "pffff", "E16");
    assert_int_equal(number_of(r, "rip"), 16); /* gdb's amd64 numbering */
    snprintf(text, sizeof(text), "p%x", number_of(r, "cr3"));
    check(r, text, "0050000000000000");
    check(r, "Hg2", "OK");
    check(r, "p0", "aa00000000000000");
    check(r, "P0=0100000000000000", "OK");
    assert_int_equal(r->regs[1].gpr[0], 1);
    check(r, "P0=01", "E16");
    check(r, "P0:01", "E16");
    snprintf(text, sizeof(text), "P%x=01000000", number_of(r, "tr"));
    check(r, text, "E16"); /* the machine refuses */
    done(r);
}

static void all_registers(void **state)
{
    struct rig *r = rig();
    static char packet[16384];
    r->regs[0].zmm[31][63] = 0x5a;
    r->regs[0].st[7][9] = 0x40;
    snprintf(packet, sizeof(packet), "G%s", ask(r, "g"));
    assert_int_equal(strlen(packet), 1 + 2 * r->g.map.bytes);
    memset(&r->regs[0], 0, sizeof(r->regs[0]));
    check(r, packet, "OK");
    assert_int_equal(r->regs[0].zmm[31][63], 0x5a);
    assert_int_equal(r->regs[0].st[7][9], 0x40);
    packet[strlen(packet) - 1] = 0;
    check(r, packet, "E16");
    done(r);
}

static void narrow(void **state)
{
    struct rig *r = rig_arch(GDB_I386);
    r->regs[0].gpr[1] = 0xffffffff12345678;
    assert_int_equal(number_of(r, "eip"), 8); /* gdb's i386 numbering */
    assert_int_equal(number_of(r, "r8"), -1);
    assert_int_equal(number_of(r, "xmm8"), -1);
    check(r, "p1", "78563412");
    assert_non_null(strstr(r->g.map.xml, "<architecture>i386</architecture>"));
    done(r);
}

/* qXfer gives the description in pieces that add up. */
static void description(void **state)
{
    struct rig *r = rig();
    char *xml = calloc(1, GDB_XML_MAX), packet[64];
    assert_non_null(xml);
    size_t n = 0;
    for (bool last = false; !last;) {
        snprintf(packet, sizeof(packet), "qXfer:features:read:target.xml:%zx,7ff", n);
        const char *p = ask(r, packet);
        last = p[0] == 'l';
        assert_true(last || p[0] == 'm');
        assert_true(*++p || last);
        for (; *p; p++)
            xml[n++] = *p == '}' ? *++p ^ 0x20 : *p;
    }
    assert_string_equal(xml, r->g.map.xml);
    assert_non_null(strstr(xml, "org.gnu.gdb.i386.avx512"));
    check(r, "qXfer:features:read:other.xml:0,10", "E00");
    check(r, "qXfer:features:read:target.xml:fffff,10", "E16");
    free(xml);
    done(r);
}

static void breakpoints(void **state)
{
    struct rig *r = rig();
    check(r, "Z0,1234,1", "OK");
    check(r, "Z2,ffffffff81000000,8", "OK");
    check(r, "z1,5,1", "OK");
    assert_string_equal(asked(r), "insert 0 1234 1;insert 2 ffffffff81000000 8;remove 1 5 1;");
    check(r, "Z0,bad,1", "E16");
    check(r, "Z0,bad", "E16");
    check(r, "Z", "E16");
    done(r);
}

static void running(void **state)
{
    struct rig *r = rig();
    check(r, "vCont?", "vCont;c;C;s;S;r");
    check(r, "vCont;s:2;c", "");
    assert_string_equal(asked(r), "0:c0-0;1:s0-0;");
    check(r, "m1000,1", ""); /* not now */
    gdb_input(&r->g, "\003", 1);
    assert_string_equal(asked(r), "interrupt;");
    stop(r, GDB_STOPPED, 1, 0, 0);
    assert_memory_equal(answer(r), "T02thread:2;", 12);
    check(r, "vCont;r10,20:1", "");
    assert_string_equal(asked(r), "0:s10-20;1:-0-0;");
    stop(r, GDB_STEPPED, 0, 0, 0);
    check(r, "vCont;C05:-1", "");
    assert_string_equal(asked(r), "0:c0-0;1:c0-0;");
    stop(r, GDB_STEPPED, 0, 0, 0);
    const char *const bad[] = {"vCont",      "vCont;",        "vCont;x",   "vCont;s:7",
                               "vCont;r1:1", "vCont;c:1junk", "vCont;C:1", "vCont;s:"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        check(r, bad[i], "E16");
    assert_string_equal(asked(r), "");
    gdb_input(&r->g, "\003", 1); /* nothing runs */
    assert_string_equal(asked(r), "");
    done(r);
}

static void old_packets(void **state)
{
    struct rig *r = rig();
    check(r, "c", "");
    assert_string_equal(asked(r), "0:c0-0;1:c0-0;");
    stop(r, GDB_STEPPED, 1, 0, 0);
    check(r, "s", ""); /* the one that stopped */
    assert_string_equal(asked(r), "0:-0-0;1:s0-0;");
    stop(r, GDB_STEPPED, 1, 0, 0);
    check(r, "Hc1", "OK");
    check(r, "C05", "");
    assert_string_equal(asked(r), "0:c0-0;1:-0-0;");
    stop(r, GDB_STEPPED, 1, 0, 0);
    check(r, "Hc0", "OK"); /* any */
    check(r, "S05", "");
    assert_string_equal(asked(r), "0:-0-0;1:s0-0;");
    stop(r, GDB_STEPPED, 1, 0, 0);
    check(r, "c1000", "E16");
    done(r);
}

static void reasons(void **state)
{
    struct rig *r = rig();
    assert_memory_equal(ask(r, "?"), "T05thread:1;", 12);
    ask(r, "qSupported:multiprocess+;swbreak+;xmlRegisters=i386");
    assert_non_null(strstr(answer(r), "PacketSize=4000;"));
    ask(r, "c");
    stop(r, GDB_AT_BREAK, 0, GDB_SW_BREAK, 0);
    assert_non_null(strstr(answer(r), "T05thread:1;swbreak:;"));
    ask(r, "c");
    stop(r, GDB_AT_BREAK, 0, GDB_HW_BREAK, 0); /* not asked for */
    assert_null(strstr(answer(r), "break"));
    ask(r, "c");
    stop(r, GDB_AT_WATCH, 1, GDB_WATCH_ACCESS, 0xffff800000001000);
    assert_non_null(strstr(answer(r), "T05thread:2;awatch:ffff800000001000;"));
    check(r, "qC", "QC2");
    ask(r, "c");
    stop(r, GDB_SHUT_DOWN, 0, 0, 0);
    assert_memory_equal(answer(r), "T0b", 3);
    stop(r, GDB_STEPPED, 0, 0, 0); /* it stands already */
    assert_string_equal(answer(r), "");
    done(r);
}

static void ends(void **state)
{
    struct rig *r = rig();
    ask(r, "c");
    r->nout = 0;
    gdb_exited(&r->g, 3, 0);
    assert_string_equal(answer(r), "W03");
    done(r);

    r = rig();
    ask(r, "c");
    r->nout = 0;
    gdb_exited(&r->g, 0, 9);
    assert_string_equal(answer(r), "X09");
    done(r);

    r = rig();
    check(r, "D", "OK");
    assert_true(r->g.detached);
    done(r);

    r = rig();
    check(r, "vKill;1", "OK");
    assert_string_equal(asked(r), "kill;");
    done(r);
}

static void monitor(void **state)
{
    struct rig *r = rig();
    check(r, "qRcmd,6869",
          "O3020686921"
          "0a;OK"); /* "hi": "0 hi!\n" */
    check(r, "qRcmd,686", "E16");
    done(r);
}

/* Whatever comes, nothing is written out of bounds and packets still work after it. */
static void garbage(void **state)
{
    struct rig *r = rig();
    u32 x = 12345;
    static const char likely_bytes[] = "$#}+-\003vCont;sr:,mMXGPpHgZz0123456789abcdef?q";
    for (unsigned i = 0; i < 200000; i++) {
        x = x * 1664525 + 1013904223;
        char c = x >> 31 ? (char)(x >> 16) : likely_bytes[(x >> 16) % (sizeof(likely_bytes) - 1)];
        gdb_input(&r->g, &c, 1);
        r->nout = 0;
        r->log[0] = 0;
        r->g.running = r->g.detached = false;
    }
    gdb_input(&r->g, "#00", 3);
    for (unsigned i = 0; i < 100000; i++) { /* well framed */
        char body[24];
        unsigned n = 1 + i % sizeof(body);
        for (unsigned k = 0; k < n; k++) {
            x = x * 1664525 + 1013904223;
            body[k] = likely_bytes[3 + (x >> 16) % (sizeof(likely_bytes) - 4)];
        }
        send_raw(r, body, n);
        r->log[0] = 0;
        r->g.running = r->g.detached = r->g.noack = false;
    }
    static char huge[2 * GDB_PACKET_MAX];
    memset(huge, 'm', sizeof(huge));
    send_raw(r, huge, sizeof(huge));
    assert_string_equal(answer(r), "E07");
    assert_non_null(strstr(ask(r, "qfThreadInfo"), "m1,2"));
    done(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acks),    cmocka_unit_test(unknown),     cmocka_unit_test(threads),
        cmocka_unit_test(memory),  cmocka_unit_test(registers),   cmocka_unit_test(all_registers),
        cmocka_unit_test(narrow),  cmocka_unit_test(description), cmocka_unit_test(breakpoints),
        cmocka_unit_test(running), cmocka_unit_test(old_packets), cmocka_unit_test(reasons),
        cmocka_unit_test(ends),    cmocka_unit_test(monitor),     cmocka_unit_test(garbage),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("gdb", tests, NULL, NULL);
}
