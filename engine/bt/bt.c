/*
 * bt.c - the translator behind the engine contract: finding, joining and dropping translations.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "cpu/cpu_event.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_insn.h"
#include "engine/bt/bt_emit.h"

/* Runs in the interpreter before a block is translated: translating costs as much as some dozens.
 */
#define HOT         24
#define LINKS_MAX   (1u << 17)
#define HWCAP2_FSGS 2 /* linux/asm/hwcap2.h */

struct bt {
    struct engine engine;
    struct engine_config cfg;
    u8 hot;
};

/* --- dropping --- */

static void clear_jumps(struct bt_cpu *bt)
{
    for (unsigned u = 0; u < BT_VIEWS; u++) {
        for (unsigned n = 0; n < bt->nfilled[u]; n++)
            bt->jump[u][bt->filled[u][n]].neg = 1; /* matches no canonical RIP of this slot */
        bt->nfilled[u] = 0;
    }
}

static void unjoin(struct bt_cpu *bt)
{
    for (unsigned n = 0; n < bt->njoined; n++)
        emit_patch(bt->joined[n], bt->joined[n] + 4);
    bt->njoined = 0;
}

static void drop_all(struct bt_cpu *bt)
{
    clear_jumps(bt);
    bt->njoined = bt->nlinks = 0;
    bt->at = bt->code + BT_STUBS * BT_STUB_SIZE;
}

/* What changed since translations were last entered? */
static void catch_up(struct cpu *c, struct bt_cpu *bt)
{
    if (bt->flushes_seen != bt->interp.flushes) { /* the blocks are gone */
        bt->flushes_seen = bt->interp.flushes;
        drop_all(bt);
    }
    u32 code_epoch = atomic_load_explicit(&c->mem->code_epoch, memory_order_acquire);
    if (bt->code_epoch != code_epoch) { /* some page's code: entries and joints may be stale */
        bt->code_epoch = code_epoch;
        unjoin(bt);
        clear_jumps(bt);
    }
    if (bt->epoch != c->map_epoch) {
        bt->epoch = c->map_epoch;
        clear_jumps(bt);
    }
}

void bt_wrote(struct cpu *c, u64 host)
{
    u64 page = (_Atomic u64 *)c->emitted[BT_CODE] - c->mem->code_map;
    unsigned off = host & PAGE_MASK;
    mem_code_written(c->mem, page, off, min_u64(16, PAGE_SIZE - off)); /* no store is wider */
}

/* --- running --- */

static void remember(struct bt_cpu *bt, unsigned view, u64 rip, u8 *code)
{
    u32 slot = rip & (BT_JUMPS - 1);
    struct bt_jump *j = &bt->jump[view][slot];
    if (j->neg == -rip && j->code == code)
        return;
    if (bt->nfilled[view] == BT_JUMPS)
        clear_jumps(bt);
    bt->filled[view][bt->nfilled[view]++] = slot;
    *j = (struct bt_jump){.neg = -rip, .code = code};
}

static void join(struct bt_cpu *bt, const struct bt_link *l, const struct block *b)
{
    if (!l || (b->gpa & ~PAGE_MASK) != l->page)
        return;
    emit_patch(l->site, b->code + BT_PROLOGUE);
    bt->joined[bt->njoined++] = l->site;
}

static bool flat(const struct cpu *c, unsigned seg, bool write)
{
    const struct seg *s = &c->seg[seg];
    return !s->base && s->rd_end >> 32 && (!write || s->wr_end >> 32);
}

/*
 * 64-bit code, and 32-bit code with flat segments: translations take base 0 and no limit for
 * granted. Whatever loads a segment register ends its block and comes by here.
 */
static bool translatable(const struct cpu *c)
{
    if (likely(c->mode == X86_MODE64))
        return true;
    return c->mode == X86_MODE32 && c->seg[SS].attr & SEG_DB && !c->seg[CS].base &&
           c->seg[CS].limit == 0xffffffff && flat(c, DS, true) && flat(c, ES, true) &&
           flat(c, SS, true);
}

/* The block's translation, made when it has come back often enough; NULL: interpret it. */
static u8 *translation(struct cpu *c, struct bt_cpu *bt, struct block *b)
{
    if (b->code || b->crosses)
        return b->code;
    if (b->heat < bt->hot) {
        b->heat++;
        return NULL;
    }
    if ((size_t)(bt->code_end - bt->at) < BT_BLOCK_ROOM) {
        interp_cache_flush(&bt->interp);
        catch_up(c, bt);
        return NULL;
    }
    return b->code = bt_translate(c, bt, b);
}

/* 64-bit code has branched to where RIP cannot be: undone, so that the body can fault. */
static void undo_branch(struct cpu *c)
{
    u32 word = (u32)c->emitted[BT_BRANCH];
    switch (word >> 12 & 3) {
    case BT_BRANCH_NONE:
        return;
    case BT_BRANCH_CALL:
        c->reg[RSP] += 8;
        break;
    case BT_BRANCH_RET:
        c->reg[RSP] -= 8 + (word >> 16);
        break;
    }
    c->reg[X86_SLOT_RIP] = c->emitted[BT_VBASE] + (word & PAGE_MASK);
    cpu_insn_step(c);
}

static void run_blocks(struct cpu *c, struct bt_cpu *bt)
{
    struct bt_link *link = NULL;
    while (likely(!cpu_event_pending(c)) && c->activity == CPU_RUNNING) {
        u64 flushes = bt->interp.flushes;
        struct block *b = interp_find(c, &bt->interp);
        c->code_stale = false;
        if (unlikely(bt->interp.flushes != flushes))
            link = NULL; /* its site is free for other code now */
        if (unlikely(!b) || (unlikely(c->mode != X86_MODE64) &&
                             unlikely(c->reg[X86_SLOT_RIP] + b->bytes - 1 > c->seg[CS].limit))) {
            cpu_insn_step(c);
            link = NULL;
            continue;
        }
        catch_up(c, bt);
        flushes = bt->interp.flushes;
        u8 *code = translatable(c) ? translation(c, bt, b) : NULL;
        if (bt->interp.flushes != flushes) { /* b is gone */
            link = NULL;
            continue;
        }
        if (!code) {
            interp_run_block(c, &bt->interp, b);
            link = NULL;
            continue;
        }
        unsigned view = (c->cpl == 3) | (c->mode == X86_MODE64) << 1;
        remember(bt, view, c->reg[X86_SLOT_RIP], code);
        if (bt->njoined < LINKS_MAX)
            join(bt, link, b);
        c->emitted[BT_JTAB] = (u64)bt->jump[view];
        c->emitted[BT_LINK] = 0;
        c->emitted[BT_BRANCH] = BT_BRANCH_NONE;
        bt->entered++;
        bt_enter(c, code);
        if (unlikely(!x86_canonical(c->reg[X86_SLOT_RIP])))
            undo_branch(c);
        link = (struct bt_link *)c->emitted[BT_LINK];
    }
}

static u64 swap_gs(u64 base)
{
    u64 was;
    __asm__ volatile("rdgsbase %0\n\twrgsbase %1" : "=&r"(was) : "r"(base));
    return was;
}

/* With guest RSP in RSP no signal may arrive on this thread's stack. */
static void block_signals(sigset_t *was)
{
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGTRAP);
    pthread_sigmask(SIG_SETMASK, &all, was);
}

static void loop(struct cpu *c, struct bt_cpu *bt, struct engine_result *res)
{
    if (__builtin_setjmp(c->unwind))
        interp_settle(c, &bt->interp);
    while (!interp_leave(c, res))
        if (interp_prepare(c, &bt->interp))
            run_blocks(c, bt);
}

static void run(struct engine *en, struct cpu *c, u64 max_insns, struct engine_result *res)
{
    if (max_insns) { /* exact counts are the interpreter's business */
        engine_interp.run(en, c, max_insns, res);
        return;
    }
    sigset_t was;
    block_signals(&was);
    u64 gs = swap_gs((u64)c);
    *res = (struct engine_result){.exit = EXIT_BUDGET};
    loop(c, c->engine, res);
    cpu_leave(c);
    swap_gs(gs);
    pthread_sigmask(SIG_SETMASK, &was, NULL);
}

/* --- the contract --- */

int bt_usable(struct err *e)
{
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGS) || !__builtin_cpu_supports("bmi2"))
        return err_set(e, "the translator needs a host with BMI2 and FSGSBASE (CPUs since 2013, "
                          "Linux 5.9); use --engine interp");
    void *p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);
    if (p == MAP_FAILED)
        return err_set(e, "the translator needs memory that is writable and executable, which is "
                          "forbidden here (SELinux, seccomp); use --engine interp");
    munmap(p, PAGE_SIZE);
    return 0;
}

static struct engine *create(const struct engine_config *cfg, struct err *e)
{
    if (bt_usable(e) < 0)
        return NULL;
    struct bt *en = calloc(1, sizeof(*en));
    if (!en) {
        err_set(e, "out of memory creating the translator");
        return NULL;
    }
    en->engine.ops = &engine_bt;
    en->cfg = *cfg;
    /* For tests: translate at once, or never. */
    const char *hot = getenv("POPF_BT_HOT");
    en->hot = hot ? (u8)min_u64(strtoul(hot, NULL, 10), UINT8_MAX) : HOT;
    return &en->engine;
}

static void destroy(struct engine *en)
{
    free(en);
}

static void *reserve(size_t size, int prot)
{
    void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void put_stubs(struct bt_cpu *bt)
{
    const u8 *const target[BT_STUBS] = {
        [BT_STUB_JUMP_TO] = bt_jump_to,   [BT_STUB_LEAVE] = bt_leave,
        [BT_STUB_BODY] = bt_body,         [BT_STUB_BODY_SAVED] = bt_body_saved,
        [BT_STUB_BODY_END] = bt_body_end, [BT_STUB_BODY_END_SAVED] = bt_body_end_saved,
        [BT_STUB_WROTE] = bt_wrote_code,  [BT_STUB_WROTE_SAVED] = bt_wrote_code_saved,
        [BT_STUB_BODY_FPU] = bt_body_fpu, [BT_STUB_BODY_FPU_SAVED] = bt_body_fpu_saved,
        [BT_STUB_FPU] = bt_fpu,           [BT_STUB_FPU_SAVED] = bt_fpu_saved,
    };
    for (unsigned n = 0; n < BT_STUBS; n++) {
        struct emit e = {bt->code + n * BT_STUB_SIZE};
        emit_jmp_far(&e, target[n]);
    }
    bt->at = bt->code + BT_STUBS * BT_STUB_SIZE;
}

static void free_tables(struct bt_cpu *bt)
{
    if (bt->code)
        munmap(bt->code, BT_CODE_SIZE);
    if (bt->link)
        munmap(bt->link, LINKS_MAX * sizeof(*bt->link));
    if (bt->joined)
        munmap(bt->joined, LINKS_MAX * sizeof(*bt->joined));
    for (unsigned u = 0; u < BT_VIEWS; u++) {
        if (bt->jump[u])
            munmap(bt->jump[u], BT_JUMPS * sizeof(struct bt_jump));
        if (bt->filled[u])
            munmap(bt->filled[u], BT_JUMPS * sizeof(u32));
    }
}

static int make_tables(struct bt_cpu *bt, struct err *e)
{
    bt->code = reserve(BT_CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC);
    if (!bt->code)
        return err_errno(e, "cannot have memory that is writable and executable "
                            "(use --engine interp)");
    bt->code_end = bt->code + BT_CODE_SIZE;
    bt->link = reserve(LINKS_MAX * sizeof(*bt->link), PROT_READ | PROT_WRITE);
    bt->joined = reserve(LINKS_MAX * sizeof(*bt->joined), PROT_READ | PROT_WRITE);
    bool ok = bt->link && bt->joined;
    for (unsigned u = 0; u < BT_VIEWS; u++) {
        bt->jump[u] = reserve(BT_JUMPS * sizeof(struct bt_jump), PROT_READ | PROT_WRITE);
        bt->filled[u] = reserve(BT_JUMPS * sizeof(u32), PROT_READ | PROT_WRITE);
        ok = ok && bt->jump[u] && bt->filled[u];
    }
    if (!ok)
        return err_errno(e, "cannot allocate the translator's tables");
    bt->links_max = LINKS_MAX;
    return 0;
}

static int cpu_attach(struct engine *en, struct cpu *c, struct err *e)
{
    struct bt *b = (struct bt *)en;
    struct bt_cpu *bt = calloc(1, sizeof(*bt));
    if (!bt)
        return err_set(e, "out of memory creating a virtual CPU");
    size_t arena = max_u64(6 * MiB / (b->cfg.ncpus ? b->cfg.ncpus : 1), 1 * MiB);
    if (make_tables(bt, e) < 0 || interp_cache_init(&bt->interp, arena, e) < 0) {
        free_tables(bt);
        free(bt);
        return -1;
    }
    put_stubs(bt);
    bt->hot = b->hot;
    for (unsigned u = 0; u < BT_VIEWS; u++)
        bt->jump[u][0].neg = 1; /* all zero, it would match RIP 0 */
    bt->interp.fpu_gen = cpu_fpu_generation(c);
    c->engine = bt;
    c->emitted[BT_SELF] = (u64)c;
    return 0;
}

static void cpu_detach(struct engine *en, struct cpu *c)
{
    struct bt_cpu *bt = c->engine;
    interp_cache_free(&bt->interp);
    free_tables(bt);
    free(bt);
    c->engine = NULL;
}

/* Every block looks at cpu.events: setting them was enough. */
static void kick(struct engine *en, struct cpu *c)
{
}

static void same_state(struct engine *en, struct cpu *c)
{
}

static void stats(struct engine *en, struct cpu *c, void (*line)(void *arg, const char *text),
                  void *arg)
{
    const struct bt_cpu *bt = c->engine;
    char text[200];
    snprintf(text, sizeof(text),
             "cpu%u: %llu blocks translated to %llu KiB, entered %llu times from the monitor",
             c->id, (unsigned long long)bt->translated, (unsigned long long)bt->bytes >> 10,
             (unsigned long long)bt->entered);
    line(arg, text);
    engine_interp.stats(en, c, line, arg);
}

const struct engine_ops engine_bt = {
    .name = "bt",
    .create = create,
    .destroy = destroy,
    .cpu_attach = cpu_attach,
    .cpu_detach = cpu_detach,
    .run = run,
    .kick = kick,
    .get_state = same_state,
    .put_state = same_state,
    .stats = stats,
};
