/* diff.c - both sides of a case compared. */
#include "diff.h"

#include <cpuid.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bare.h"
#include "rows.h"

#ifdef HAVE_ZYDIS
#include <Zydis/Zydis.h>
#endif

/* --- start --- */

static u32 host_mxcsr_mask(void)
{
    u8 area[512] __attribute__((aligned(16))) = {0};
    u32 mask;
    __asm__ volatile("fxsave %0" : "=m"(area));
    memcpy(&mask, area + 28, 4);
    return mask ? mask : 0xffbf;
}

static unsigned component_at(u64 xcr0, unsigned n)
{
    u32 a, b = 0, c, d;
    if (!(xcr0 >> n & 1) || !__get_cpuid_count(0xd, n, &a, &b, &c, &d))
        return 0;
    return b;
}

/* Stray jumps are not to find what earlier cases have left, nor to run on to where code is. */
static void clear_code(struct diff *d, u32 start, unsigned bytes)
{
    static const u8 hlt[PAGE_SIZE] = {[0 ... PAGE_SIZE - 1] = 0xf4};
    bare_code(start, hlt, bytes);
    guest_code(d->g, start, hlt, bytes);
}

int diff_init(struct diff *d, const struct engine_ops *ops, u64 seed, struct err *e)
{
    memset(d, 0, sizeof *d);
    d->g = guest_new(ops, e);
    d->keeps_flags = ops != &engine_bt;
    if (!d->g)
        return -1;
    u64 xcr0 = guest_xcr0(d->g);
    if (bare_init(xcr0, guest_fpu_size(d->g), e))
        return -1;
    guest_code(d->g, EXIT, bare_exits(), PAGE_SIZE);
    for (unsigned at = 0; at < CODE_SIZE; at += PAGE_SIZE)
        clear_code(d, CODE + at, PAGE_SIZE);
    struct gen_caps caps = {.xcr0 = xcr0,
                            .fpu_size = guest_fpu_size(d->g),
                            .fsgsbase = bare_has_fsgsbase(),
                            .mxcsr_mask = host_mxcsr_mask(),
                            .at_ymm = component_at(xcr0, 2),
                            .at_opmask = component_at(xcr0, 5),
                            .at_zmm_hi256 = component_at(xcr0, 6),
                            .at_hi16_zmm = component_at(xcr0, 7)};
    static const u32 mxcsr = 0x1f80;
    memcpy(d->clean + 24, &mxcsr, 4);
    gen_init(&d->gen, &caps, seed);
    for (unsigned n = 0; n < 64; n++) /* all parts of a state are made now and then */
        gen_state(&d->gen, &d->t, true);
    return 0;
}

void diff_free(struct diff *d)
{
    guest_free(d->g);
}

/* --- comparing --- */

static void differ(struct diff *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void differ(struct diff *d, const char *fmt, ...)
{
    size_t at = strlen(d->what);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(d->what + at, sizeof d->what - at, fmt, ap);
    va_end(ap);
}

static void compare_u64(struct diff *d, const char *name, u64 bare, u64 guest)
{
    if (bare != guest)
        differ(d, "#   %-8s bare %016llx  popf %016llx\n", name, (unsigned long long)bare,
               (unsigned long long)guest);
}

/* Did the run end in an instruction of this kind? */
static bool ended_in(const struct diff *d, bool (*kind)(unsigned row))
{
    u32 at = d->t.start;
    for (unsigned k = 0; k < d->t.n; at += d->t.in[k].len, k++)
        if (d->bare.vec >= 0 && d->bare.r.rip == at)
            return kind(d->t.in[k].row);
    return false;
}

static void compare_end(struct diff *d)
{
    const struct outcome *b = &d->bare, *g = &d->guest;
    u32 mask = ~0u;
    if (b->vec != g->vec) {
        differ(d, "#   %-8s bare %d (error %x at %llx)  popf %d (error %x at %llx)\n", "vector",
               b->vec, b->err, (unsigned long long)b->r.rip, g->vec, g->err,
               (unsigned long long)g->r.rip);
        return;
    }
    if (b->vec < 0)
        return;
    compare_u64(d, "RIP", b->r.rip, g->r.rip);
    compare_u64(d, "CS", b->r.sel[CS], g->r.sel[CS]);
    if (b->vec == EXC_PF) {
        u64 ignored = ended_in(d, row_loose_cr2) ? ~0ull : 0;
        compare_u64(d, "CR2", b->cr2 | ignored, g->cr2 | ignored);
        if (b->cr2 >= 0x7ffffffff000) /* Linux does not let on what it maps there */
            mask &= ~PF_P;
    }
    compare_u64(d, "error", b->err & mask, g->err & mask);
}

/* Arithmetic flags that what follows instruction k may read before they are overwritten. */
static u32 flags_behind(const struct test_case *t, unsigned k, const u32 *live)
{
    const struct insn *i = &t->in[k];
    const struct x86_row *row = &x86_rows[i->row];
    if (!(row->attr & X86_ENDS_BLOCK))
        return live[k + 1];
    if (i->fix != FIX_REL)
        return FLAGS_ARITH;
    bool goes_on = row->op != X86_JMP_NEAR && row->op != X86_CALL_NEAR;
    return live[i->label] | (goes_on ? live[k + 1] : 0);
}

/* And so what instruction k and those behind it may. */
static u32 flags_read(const struct test_case *t, unsigned k, const u32 *live)
{
    const struct x86_row *row = &x86_rows[t->in[k].row];
    u32 written = row->attr & X86_FLAGS_MAYBE ? 0 : row->flags_written | row->flags_undef;
    return (flags_behind(t, k, live) & ~written) | (row->flags_read & FLAGS_ARITH);
}

/* Arithmetic flags that instruction k or those behind it, by direct jumps too, overwrite before
 * anything reads them: the least solution, from below. */
static u32 dead_flags(const struct test_case *t, unsigned k)
{
    u32 live[INSNS_MAX + 1] = {0};
    live[t->n] = FLAGS_ARITH;
    for (bool again = true; again;) {
        again = false;
        for (unsigned n = t->n; n-- > 0;) {
            u32 in = flags_read(t, n, live);
            again |= in != live[n];
            live[n] = in;
        }
    }
    return FLAGS_ARITH & ~live[k];
}

/*
 * The translator computes no flags that are dead (find_live() in bt_region.c). Who is told of a
 * fault there finds others in the frame; the guest that goes on after it cannot tell. A jump into
 * the middle of an instruction makes another sequence of these, which is not looked at, as is one
 * into the ways out.
 */
static u32 flags_lost(const struct diff *d)
{
    u64 at = d->t.start, rip = d->bare.r.rip;
    if (d->keeps_flags || d->bare.vec < 0)
        return 0;
    if (rip >= EXIT && rip < EXIT + PAGE_SIZE)
        return FLAGS_ARITH;
    if (rip < at || rip >= at + d->t.bytes)
        return 0;
    for (unsigned k = 0; k < d->t.n; at += d->t.in[k].len, k++)
        if (rip == at)
            return dead_flags(&d->t, k);
    return FLAGS_ARITH;
}

static u32 flags_compared(const struct diff *d)
{
    u32 mask = FLAGS_ARITH | FLAG_DF | FLAG_IF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID;
    if (d->bare.vec >= 0)
        mask |= FLAG_TF;
    else
        mask &= ~FLAG_AC; /* gone when a trace trap ended the run */
    for (unsigned n = 0; n < d->t.n; n++)
        mask &= ~row_loose_flags(d->t.in[n].row);
    return mask & ~flags_lost(d);
}

static void compare_regs(struct diff *d)
{
    static const char *const names[] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                        "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
    static const char *const segs[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
    const struct regs *b = &d->bare.r, *g = &d->guest.r;
    u64 mask = d->t.m64 ? ~0ull : 0xffffffff;
    u32 flags = flags_compared(d);
    for (unsigned n = 0; n < (d->t.m64 ? 16 : 8) && !ended_in(d, row_partial_regs); n++)
        compare_u64(d, names[n], b->reg[n] & mask, g->reg[n] & mask);
    compare_u64(d, "RFLAGS", b->rflags & flags, g->rflags & flags);
    /* A null selector's RPL is lost by any interrupt of the host. */
    for (unsigned s = ES; s <= GS; s++)
        if (s != CS && (b->sel[s] > 3 || g->sel[s] > 3))
            compare_u64(d, segs[s], b->sel[s], g->sel[s]);
    if (!d->gen.caps.fsgsbase)
        return;
    compare_u64(d, "FS base", b->fs_base, g->fs_base);
    compare_u64(d, "GS base", b->gs_base, g->gs_base);
}

static u32 mem_address(unsigned at)
{
    return at < DATA_SIZE + PAGE_SIZE ? DATA + at : STACK + at - DATA_SIZE - (u32)PAGE_SIZE;
}

static void compare_bytes(struct diff *d, const char *name, const u8 *b, const u8 *g, unsigned n)
{
    if (memcmp(b, g, n) == 0)
        return;
    differ(d, "#   %s\n#     bare", name);
    for (unsigned i = n; i-- > 0;)
        differ(d, " %02x", b[i]);
    differ(d, "\n#     popf");
    for (unsigned i = n; i-- > 0;)
        differ(d, " %02x", g[i]);
    differ(d, "\n");
}

static void compare_memory(struct diff *d)
{
    const u8 *b = bare_mem(), *g = guest_mem(d->g);
    if (memcmp(b, g, MEM_SIZE) == 0 || ended_in(d, row_partial_mem))
        return;
    unsigned shown = 0;
    for (unsigned at = 0; at < MEM_SIZE && shown < 8; at += 8) {
        char name[32];
        if (memcmp(b + at, g + at, 8) == 0)
            continue;
        snprintf(name, sizeof name, "[%x]", mem_address(at));
        compare_bytes(d, name, b + at, g + at, 8);
        shown++;
    }
}

static void compare_parts(struct diff *d, const char *fmt, unsigned at, unsigned size, unsigned n)
{
    const u8 *b = bare_fpu(), *g = guest_fpu(d->g);
    for (unsigned i = 0; at && i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s%u", fmt, i);
        compare_bytes(d, name, b + at + size * i, g + at + size * i, size);
    }
}

static void compare_fpu(struct diff *d)
{
    const struct gen_caps *c = &d->gen.caps;
    const u8 *b = bare_fpu(), *g = guest_fpu(d->g);
    if (memcmp(b, g, 416) == 0 && memcmp(b + 576, g + 576, c->fpu_size - 576) == 0)
        return;
    compare_bytes(d, "FCW", b, g, 2);
    compare_bytes(d, "FSW", b + 2, g + 2, 2);
    compare_bytes(d, "FTW", b + 4, g + 4, 1);
    compare_bytes(d, "FOP", b + 6, g + 6, 2);
    compare_bytes(d, "FIP", b + 8, g + 8, 6); /* what else can be loaded is no address */
    compare_bytes(d, "FDP", b + 16, g + 16, 6);
    compare_bytes(d, "MXCSR", b + 24, g + 24, 4);
    for (unsigned n = 0; n < 8; n++) {
        char name[8];
        snprintf(name, sizeof name, "ST%u", n);
        compare_bytes(d, name, b + 32 + 16 * n, g + 32 + 16 * n, 10);
    }
    compare_parts(d, "XMM", 160, 16, 16);
    compare_parts(d, "YMM_Hi128 ", c->at_ymm, 16, 16);
    compare_parts(d, "K", c->at_opmask, 8, 8);
    compare_parts(d, "ZMM_Hi256 ", c->at_zmm_hi256, 32, 16);
    compare_parts(d, "ZMM 16+", c->at_hi16_zmm, 64, 16);
}

/* What the host is given is what was meant: a stray SYSCALL would be the host's. */
static bool as_meant(const struct test_case *t)
{
    const u8 *p = t->code;
    for (unsigned k = 0; k < t->n; p += t->in[k].len, k++) {
        struct x86_decoded dec;
        if (x86_decode(p, 15, t->m64 ? X86_MODE64 : X86_MODE32, &dec) != X86_OK ||
            dec.i.row != t->in[k].row || dec.i.len != t->in[k].len || row_skip(dec.i.row))
            return false;
    }
    return true;
}

/* Loops that do not end, or by a counter that has become large: stopped at different times. Few end
 * on the bare CPU alone. */
static bool unfinished(struct diff *d)
{
    if (d->bare.vec != END_HANG && d->guest.vec != END_HANG)
        return false;
    bool loop = d->bare.vec == d->guest.vec;
    for (unsigned k = 0; k < d->t.n; k++)
        loop |= d->t.in[k].fix == FIX_REL && d->t.in[k].label <= k;
    d->cut_short += d->bare.vec != END_HANG;
    return loop && d->cut_short < 5 + d->runs / 10000;
}

/* An FP or SIMD operand that crosses its segment's limit and absent pages, or is misaligned, too:
 * which fault comes first hangs on the parts in which the processor accesses it. */
static bool two_faults(const struct diff *d)
{
    u32 of_operand = 1u << EXC_SS | 1u << EXC_GP | 1u << EXC_PF | 1u << EXC_AC;
    const struct outcome *b = &d->bare, *g = &d->guest;
    return !d->t.m64 && b->vec != g->vec && b->vec >= 0 && b->vec < 32 && g->vec >= 0 &&
           g->vec < 32 && of_operand >> b->vec & of_operand >> g->vec & 1 && b->r.rip == g->r.rip &&
           ended_in(d, row_is_fpu);
}

bool diff_run(struct diff *d)
{
    struct test_case *t = &d->t;
    u32 start = gen_next_start(&d->gen);
    gen_place(t, start);
    assert(as_meant(t));
    d->gen.next_start = start + t->bytes;
    bare_code(start, t->code, t->bytes);
    guest_code(d->g, start, t->code, t->bytes);
    struct input in = {
        .m64 = t->m64, .r = t->r, .mem = t->mem, .fpu = t->uses_fpu ? t->fpu : d->clean};
    bare_run(&in, &d->bare);
    guest_run(d->g, &in, &d->guest);
    d->runs++;
    d->done += d->bare.vec == END_DONE;
    d->what[0] = '\0';
    clear_code(d, start, t->bytes);
    if (d->bare.vec == END_AWAY || unfinished(d))
        return true;
    if (ended_in(d, row_faults_at_will) || (d->bare.vec == EXC_DB && ended_in(d, row_gathers)) ||
        two_faults(d))
        return true;
    compare_end(d);
    compare_regs(d);
    compare_memory(d);
    if (t->uses_fpu && !ended_in(d, row_partial_fpu))
        compare_fpu(d);
    return d->what[0] == '\0';
}

/* --- shrinking --- */

static void without(struct test_case *to, const struct test_case *from, unsigned at, unsigned n)
{
    to->n = 0;
    for (unsigned k = 0; k < from->n; k++) {
        if (k >= at && k < at + n)
            continue;
        struct insn *i = &to->in[to->n++];
        *i = from->in[k];
        if (i->label > at)
            i->label -= (u8)(i->label - at < n ? i->label - at : n);
    }
}

void diff_shrink(struct diff *d)
{
    static struct test_case whole; /* only here, in a program of one thread; 60 KiB */
    for (unsigned n = d->t.n; n; n = n / 2) {
        for (unsigned at = 0; at + n <= d->t.n;) {
            whole = d->t;
            if (n == whole.n) {
                at++;
                continue;
            }
            without(&d->t, &whole, at, n);
            d->gen.next_start = whole.start; /* its own address may matter */
            if (diff_run(d)) {
                d->t = whole;
                at++;
            }
        }
    }
    d->gen.next_start = d->t.start;
    diff_run(d);
}

/* --- printing --- */

static void print_insn(const struct test_case *t, u32 at, const u8 *b, unsigned len)
{
    char text[128] = "";
#ifdef HAVE_ZYDIS
    ZydisDisassembledInstruction z;
    ZydisMachineMode mode = t->m64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32;
    if (ZYAN_SUCCESS(ZydisDisassembleIntel(mode, at, b, len, &z)))
        snprintf(text, sizeof text, "%s", z.text);
#endif
    printf("#   %x:", at);
    for (unsigned n = 0; n < 15; n++)
        n < len ? printf(" %02x", b[n]) : printf("   ");
    printf("  %s\n", text);
}

static void print_fpu(const struct test_case *t)
{
    u16 cw, sw;
    u32 mxcsr;
    memcpy(&cw, t->fpu, 2);
    memcpy(&sw, t->fpu + 2, 2);
    memcpy(&mxcsr, t->fpu + 24, 4);
    printf("#   FCW %x FSW %x FTW %x MXCSR %x", cw, sw, t->fpu[4], mxcsr);
    for (unsigned n = 0; n < 8; n++) {
        printf("%s ST%u ", n % 4 ? "" : "\n#  ", n);
        for (unsigned i = 10; i-- > 0;)
            printf("%02x", t->fpu[32 + 16 * n + i]);
    }
    printf("\n");
}

void diff_print(const struct diff *d)
{
    const struct test_case *t = &d->t;
    char name[64];
    u32 at = t->start;
    const u8 *b = t->code;
    printf("# difference, %s-bit, row %s:\n", t->m64 ? "64" : "32",
           t->n ? row_name(t->in[t->n - 1].row, name, sizeof name) : "none");
    for (unsigned k = 0; k < t->n; at += t->in[k].len, b += t->in[k].len, k++)
        print_insn(t, at, b, t->in[k].len);
    printf("#  at first:");
    for (unsigned n = 0; n < (t->m64 ? 16 : 8); n++)
        printf("%s %llx", n == 8 ? "\n#  " : "", (unsigned long long)t->r.reg[n]);
    printf(" flags %llx\n", (unsigned long long)t->r.rflags);
    if (t->uses_fpu)
        print_fpu(t);
    printf("#  ended: bare vector %d RIP %llx, popf vector %d RIP %llx\n%s", d->bare.vec,
           (unsigned long long)d->bare.r.rip, d->guest.vec, (unsigned long long)d->guest.r.rip,
           d->what);
    fflush(stdout);
}
