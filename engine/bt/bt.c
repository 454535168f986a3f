/*
 * bt.c - the translator behind the engine contract: finding, joining and dropping translations.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "cpu/cpu_event.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_insn.h"
#include "engine/bt/bt_keep.h"
#include "engine/direct/direct.h"

#define HWCAP2_FSGS 2 /* linux/asm/hwcap2.h */

struct bt {
    struct engine engine;
    struct engine_config cfg;
    struct bt_settings set;
    struct keep *keep;    /* NULL: nothing is kept */
    pthread_mutex_t lock; /* of the list */
    struct bt_cpu *cpu[256];
    unsigned ncpus;
    struct direct_hosts hosts;
};

static u64 get_gs(void)
{
    u64 base;
    __asm__ volatile("rdgsbase %0" : "=r"(base));
    return base;
}

/* --- running --- */

/* Points the exit that was taken to the block that it led to. */
static void join(struct cpu *c, struct bt_cpu *bt, const struct bt_exit *x, struct block *b)
{
    unsigned m = c->emitted[BT_VIEW] % 3;
    if (!x || !x->patch || (b->gpa & PAGE_MASK) != (unsigned)x->offset || !b->near[m])
        return;
    u8 *site = bt->code + ((const u8 *)x - bt->map.run) + x->patch;
    emit_patch(site, bt->code + (x->offset <= x->from ? b->check[m] : b->near[m]));
}

/* Before a block is decoded: has it been translated in another run? */
static struct block *find_kept(struct cpu *c, struct interp_cpu *ic, gpa_t gpa, u64 page,
                               const u8 *host)
{
    struct bt_cpu *bt = c->engine;
    if (bt->flushes_seen != ic->flushes || !bt_translatable(c) || c->debug)
        return NULL; /* a debugger's breakpoints cut blocks short */
    return bt_keep_find(c, bt, (unsigned)bt_view_of(c), gpa, page, host);
}

/* For a block that is known in other modes only. */
static bool was_kept(struct cpu *c, struct bt_cpu *bt, const struct block *b, unsigned mode)
{
    if (!bt->keep || !(b->near[0] | b->near[1] | b->near[2]))
        return false;
    const u8 *host = mem_ptr(c->mem, b->gpa & ~PAGE_MASK);
    return bt_keep_find(c, bt, (unsigned)c->emitted[BT_VIEW], b->gpa, b->page, host) &&
           b->near[mode];
}

/* Some runs are left to one that was hot, so that what it leads to is decoded. */
#define KNOWN_RUNS 3

static bool is_hot(const struct bt_cpu *bt, struct block *b)
{
    u8 hot = bt->set->hot;
    if (!b->heat && hot > KNOWN_RUNS && bt_known(&bt->known, b->gpa))
        b->heat = hot - KNOWN_RUNS;
    if (b->heat >= hot)
        return true;
    b->heat++;
    return false;
}

/* The block has a translation for the mode: made when it has come back often enough. */
static bool translated(struct cpu *c, struct bt_cpu *bt, struct block *b, unsigned mode)
{
    if (b->crosses || b->far[mode])
        return b->far[mode] != 0;
    if (!b->near[mode] && (b->heat || !was_kept(c, bt, b, mode)) && !is_hot(bt, b))
        return false;
    if ((size_t)(bt->code_end - bt->at) < BT_REGION_ROOM || bt->nfaults + 2048 > BT_FAULTS_MAX) {
        interp_cache_flush(&bt->interp);
        bt_catch_up(c, bt);
        return false;
    }
    if (!b->near[mode] && !bt_translate(c, bt, b))
        return false;
    bt_make_entries(c, bt, b);
    return true;
}

/*
 * 64-bit code has branched to where RIP cannot be: undone, and a fault instead. The instruction is
 * not run again: a CALL has stored the return address, as processors do before they look at the
 * target, and that may have been where the target was read from.
 */
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
    cpu_throw_gp(c, 0);
}

static void begin_inside(struct bt_cpu *bt)
{
    bt->entered++;
    if (unlikely(bt->set->count))
        bt->count.began = __builtin_ia32_rdtsc();
}

static void end_inside(struct bt_cpu *bt)
{
    if (likely(!bt->count.began))
        return;
    bt->count.inside += __builtin_ia32_rdtsc() - bt->count.began;
    bt->count.began = 0;
}

static void count_exit(struct bt_cpu *bt, const struct bt_exit *x, bool body)
{
    if (x && x->patch)
        bt->count.unjoined++;
    else if (x)
        bt->count.events++;
    else if (body)
        bt->count.bodies++;
    else
        bt->count.unknown++;
}

/* Runs translations from this block on, until they leave; the exit that they left by, or NULL. */
static const struct bt_exit *enter(struct cpu *c, struct bt_cpu *bt, const struct block *b)
{
    u64 rip = c->reg[X86_SLOT_RIP];
    unsigned view = (unsigned)c->emitted[BT_VIEW];
    u64 tag = rip + (BT_USER(view) ? c->emitted[BT_SALT] : 0);
    const u8 *code = bt->map.run + b->far[view % 3];
    bt_remember(bt, view, tag, code);
    c->emitted[BT_R14] = tag;
    c->emitted[BT_RESUME] = (u64)code;
    c->emitted[BT_LINK] = 0;
    c->emitted[BT_BRANCH] = BT_BRANCH_NONE;
    u64 left = c->emitted[BT_LEFT];
    begin_inside(bt);
    bt_enter();
    end_inside(bt);
    const struct bt_exit *x = (const struct bt_exit *)c->emitted[BT_LINK];
    count_exit(bt, x, c->emitted[BT_LEFT] != left);
    if (x)
        c->reg[X86_SLOT_RIP] = (c->emitted[BT_VBASE] + (u64)(s64)x->offset) & c->la_mask;
    else if (unlikely(!x86_canonical(c->reg[X86_SLOT_RIP])))
        undo_branch(c);
    return x;
}

static void run_blocks(struct cpu *c, struct bt_cpu *bt, struct engine_result *res)
{
    const struct bt_exit *link = NULL;
    for (;;) {
        atomic_store(&c->poll, 0);
        if (unlikely(cpu_event_pending(c)) || c->activity != CPU_RUNNING) {
            bt_direct_sample(c, bt);
            return;
        }
        if (unlikely(c->emitted[BT_ARRIVE]) && bt_direct_run(c, bt, &res->err)) {
            if (res->err.msg[0])
                return;
            continue;
        }
        u64 flushes = bt->interp.flushes;
        struct block *b = interp_find(c, &bt->interp);
        c->code_stale = false;
        cpu_clear_rf(c);
        if (unlikely(bt->interp.flushes != flushes))
            link = NULL; /* its site is free for other code now */
        if (unlikely(!b) || (unlikely(c->mode != X86_MODE64) &&
                             unlikely(c->reg[X86_SLOT_RIP] + b->bytes - 1 > c->seg[CS].limit))) {
            cpu_insn_step(c);
            link = NULL;
            continue;
        }
        if (unlikely(bt->direct.known) && c->cpl == 3 && !c->emitted[BT_ARRIVE] &&
            bt_direct_knows(c, bt, b->page)) {
            link = NULL;
            continue;
        }
        bt_catch_up(c, bt);
        flushes = bt->interp.flushes;
        bool can = bt_translatable(c);
        unsigned view = can ? (unsigned)bt_view_of(c) : 0;
        if (view != c->emitted[BT_VIEW])
            link = NULL;
        if (can)
            bt_enter_view(c, view);
        bool ready = can && likely(!bt->direct.away) && translated(c, bt, b, view % 3);
        if (bt->interp.flushes != flushes) { /* b is gone */
            link = NULL;
            continue;
        }
        if (!ready) {
            interp_run_block(c, &bt->interp, b);
            link = NULL;
            continue;
        }
        join(c, bt, link, b);
        link = enter(c, bt, b);
    }
}

/* --- other CPUs --- */

/* Waits until this CPU has left emitted code, or was not there. */
static void demand_leave(const struct bt_cpu *bt)
{
    struct cpu *c = bt->cpu;
    _Atomic u64 *in = (_Atomic u64 *)&c->emitted[BT_IN_CODE];
    for (unsigned n = 0; atomic_load(in) && atomic_load(&c->poll); n++)
        if (n < 100)
            __builtin_ia32_pause();
        else
            sched_yield();
}

/* The same for the process that runs its user code. */
static void stop_direct_writer(struct bt_cpu *bt, u64 page, bool own)
{
    struct direct *d = bt->direct.d;
    if (!d || !direct_drop_writer(d, page) || own)
        return;
    direct_kick(d);
    while (direct_running(d) && direct_has_drops(d))
        sched_yield();
}

/* A page gets its first code: nobody may write to it without asking any more (mem.h). */
static void on_code_page(void *arg, u64 page)
{
    struct bt *en = arg;
    bool wait[ARRAY_SIZE(en->cpu)] = {false}, any = false;
    u64 gs = get_gs();
    for (unsigned n = 0; n < en->ncpus; n++) {
        struct bt_cpu *bt = en->cpu[n];
        bool own = (u64)cpu_window(bt->cpu) == gs;
        wait[n] = cpu_shadow_drop_writer(bt->cpu, page, own) && !own;
        any |= wait[n];
        if (wait[n])
            atomic_store(&bt->cpu->poll, 1);
    }
    if (any)
        mem_fence_all_threads();
    for (unsigned n = 0; n < en->ncpus; n++)
        if (wait[n])
            demand_leave(en->cpu[n]);
    for (unsigned n = 0; n < en->ncpus; n++)
        stop_direct_writer(en->cpu[n], page, (u64)cpu_window(en->cpu[n]->cpu) == gs);
}

/* --- the thread's part --- */

static void set_gs(u64 base)
{
    __asm__ volatile("wrgsbase %0" : : "r"(base));
}

static NORETURN void crash(int sig)
{
    signal(sig, SIG_DFL);
    raise(sig);
    abort();
}

static const struct bt_fault *find_fault(const struct bt_cpu *bt, u32 at)
{
    unsigned lo = 0, hi = bt->nfaults;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (bt->fault[mid].at < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < bt->nfaults && bt->fault[lo].at == at ? &bt->fault[lo] : NULL;
}

/*
 * SIGSEGV or SIGBUS in emitted code: an access through an entry of another page goes to its
 * out-of-line part, as does, by SIGFPE, a division whose quotient is too large; a full prediction
 * stack is begun anew. Anything else is a bug of ours, and ends the process.
 */
static void on_fault(int sig, siginfo_t *si, void *context)
{
    greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;
    u64 gs = get_gs();
    if (!gs)
        crash(sig);
    struct cpu *c = (struct cpu *)(gs - CPU_SPAN);
    struct bt_cpu *bt = c->engine;
    u64 at = (u64)reg[REG_RIP] - (u64)bt->map.run;
    if (at >= bt->set->code_size)
        crash(sig);
    bt->faults++;
    for (unsigned v = 0; v < BT_VIEWS; v++)
        if ((u64)si->si_addr - (gs + (u64)BT_STACK(v)) < PAGE_SIZE) {
            reg[REG_RSP] = (greg_t)(gs + (u64)BT_STACK_BASE(v));
            return;
        }
    const struct bt_fault *f = find_fault(bt, (u32)at);
    if (!f)
        crash(sig);
    reg[REG_RIP] = (greg_t)(bt->map.run + f->cold);
}

/* Signals go to a stack of their own: emitted code has next to none. Others than faults wait. */
static void prepare_thread(struct bt_cpu *bt, sigset_t *was)
{
    stack_t st = {.ss_sp = bt->sigstack, .ss_size = bt->sigstack_size};
    if (!bt->has_thread || !pthread_equal(bt->thread, pthread_self()))
        sigaltstack(&st, NULL);
    bt->has_thread = true;
    bt->thread = pthread_self();
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
    if (__builtin_setjmp(c->unwind)) {
        interp_settle(c, &bt->interp);
        end_inside(bt);
    }
    while (!interp_leave(c, res)) {
        if (interp_prepare(c, &bt->interp))
            run_blocks(c, bt, res);
        if (unlikely(res->err.msg[0])) {
            res->exit = EXIT_ERROR;
            return;
        }
    }
}

static void run(struct engine *en, struct cpu *c, u64 max_insns, struct engine_result *res)
{
    if (max_insns) { /* exact counts are the interpreter's business */
        engine_interp.run(en, c, max_insns, res);
        return;
    }
    sigset_t was;
    prepare_thread(c->engine, &was);
    u64 gs = get_gs();
    set_gs((u64)cpu_window(c));
    *res = (struct engine_result){.exit = EXIT_BUDGET, .err.msg = ""};
    struct bt_cpu *bt = c->engine;
    c->cr8_known = 0;
    u64 began = __builtin_ia32_rdtsc();
    loop(c, bt, res);
    bt->count.running += __builtin_ia32_rdtsc() - began;
    cpu_leave(c);
    set_gs(gs);
    pthread_sigmask(SIG_SETMASK, &was, NULL);
}

/* --- the contract --- */

int bt_usable(struct err *e)
{
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGS) || !__builtin_cpu_supports("bmi2"))
        return err_set(e, "the translator needs a host with BMI2 and FSGSBASE (CPUs since 2013, "
                          "Linux 5.9); use --engine interp");
    struct bt_code code;
    if (bt_code_map(&code, PAGE_SIZE, e) < 0)
        return -1;
    bt_code_unmap(&code);
    return 0;
}

static void destroy(struct engine *en)
{
    struct bt *b = (struct bt *)en;
    if (b->keep)
        bt_keep_close(b->keep);
    if (b->set.perf_map >= 0)
        close(b->set.perf_map);
    free(en);
}

static int open_files(struct bt *en, const struct engine_config *cfg, struct err *e)
{
    struct bt_settings *set = &en->set;
    if (cfg->bt.perf_map && (set->perf_map = bt_perfmap_open(e)) < 0)
        return -1;
    if (set->kept_in && !(en->keep = bt_keep_open(set->kept_in, cfg->model, set, cfg->log, e)))
        return -1;
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
    pthread_mutex_init(&en->lock, NULL);
    bt_settings_init(&en->set, &cfg->bt);
    if (open_files(en, cfg, e) < 0) {
        destroy(&en->engine);
        return NULL;
    }
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL); /* an address that is not canonical, off RSP or RBP: #SS */
    sigaction(SIGFPE, &sa, NULL);
    return &en->engine;
}

static void put_stubs(struct bt_cpu *bt)
{
    const u8 *const target[BT_STUB_SENTINEL] = {
        [BT_STUB_BODY] = bt_stub_body,
        [BT_STUB_BODY_SAVED] = bt_stub_body_saved,
        [BT_STUB_NEXT] = bt_stub_next,
        [BT_STUB_NEXT_SAVED] = bt_stub_next_saved,
        [BT_STUB_JUMP] = bt_stub_jump,
        [BT_STUB_JUMP_SAVED] = bt_stub_jump_saved,
        [BT_STUB_MISS] = bt_stub_miss,
        [BT_STUB_FPU] = bt_stub_fpu,
        [BT_STUB_FPU_SAVED] = bt_stub_fpu_saved,
        [BT_STUB_EXIT] = bt_stub_exit,
        [BT_STUB_EXIT_SAVED] = bt_stub_exit_saved,
        [BT_STUB_CROSS] = bt_stub_cross,
        [BT_STUB_CROSS_SAVED] = bt_stub_cross_saved,
        [BT_STUB_GOTO] = bt_stub_goto,
        [BT_STUB_SYSCALL] = bt_sys_syscall,
        [BT_STUB_SYSRET] = bt_sys_sysret,
        [BT_STUB_SYSENTER] = bt_sys_sysenter,
        [BT_STUB_SYSEXIT] = bt_sys_sysexit,
        [BT_STUB_POPF] = bt_sys_popf,
        [BT_STUB_LOAD_ES] = bt_sys_load_es,
        [BT_STUB_LOAD_DS] = bt_sys_load_ds,
        [BT_STUB_LOAD_FS] = bt_sys_load_fs,
        [BT_STUB_LOAD_GS] = bt_sys_load_gs,
    };
    for (unsigned n = 0; n < BT_STUB_SENTINEL; n++) {
        struct emit e = {bt->code + n * BT_STUB_SIZE};
        emit_jmp_far(&e, target[n]);
    }
    bt_make_stubs(bt);
}

static void free_tables(struct bt_cpu *bt)
{
    if (bt->keep)
        bt_keep_detach(bt->keep);
    if (bt->gdbjit)
        bt_gdbjit_free(bt->gdbjit);
    bt_code_unmap(&bt->map);
    if (bt->fault)
        munmap(bt->fault, BT_FAULTS_MAX * sizeof(*bt->fault));
    if (bt->sigstack)
        munmap(bt->sigstack, bt->sigstack_size);
    for (unsigned v = 0; v < BT_VIEWS; v++)
        if (bt->filled[v])
            munmap(bt->filled[v], BT_JUMPS * sizeof(u16));
    bt_tr_free(bt->tr);
    free(bt->body_count);
}

/* Jump tables and prediction stacks, in the room below struct cpu. */
static int make_views(struct bt_cpu *bt)
{
    u8 *gs = cpu_window(bt->cpu);
    if (mprotect(gs + BT_TAGS(0), BT_VIEWS * BT_VIEW_SIZE, PROT_READ | PROT_WRITE))
        return -1;
    for (unsigned v = 0; v < BT_VIEWS; v++) {
        if (mprotect(gs + BT_STACK(v) + PAGE_SIZE, BT_STACK_SIZE, PROT_READ | PROT_WRITE))
            return -1;
        u64 *base = (u64 *)(gs + BT_STACK_BASE(v));
        for (unsigned n = 0; n < 8; n++)
            base[n] = (u64)bt->map.run + (BT_STUB_SENTINEL + v) * BT_STUB_SIZE;
        *bt_slot(bt, v, 0) = bt_no_tag(0); /* all zero, they would match RIP 0 */
        *bt_slot(bt, v, 1) = bt_no_tag(1);
        bt->filled[v] = reserve_memory(BT_JUMPS * sizeof(u16));
        if (!bt->filled[v])
            return -1;
        bt_reset_stack(bt, v);
    }
    return 0;
}

static int make_tables(struct bt_cpu *bt, struct err *e)
{
    if (bt_code_map(&bt->map, bt->set->code_size, e) < 0)
        return -1;
    bt->code = bt->map.write;
    bt->code_end = bt->code + bt->set->code_size;
    bt->at = bt->code + BT_STUBS * BT_STUB_SIZE;
    bt->fault = reserve_memory(BT_FAULTS_MAX * sizeof(*bt->fault));
    bt->sigstack_size = 16 * KiB + align_up(max_u64(getauxval(AT_MINSIGSTKSZ), 4096), PAGE_SIZE);
    bt->sigstack = reserve_memory(bt->sigstack_size);
    bt->tr = bt_tr_new();
    if (bt->engine->keep && !(bt->keep = bt_keep_attach(bt->engine->keep)))
        return err_set(e, "out of memory for kept translations");
    if (bt->set->gdb_jit && !(bt->gdbjit = bt_gdbjit_new()))
        return err_errno(e, "no memory for names of translations; leave out --gdb-jit");
    bt->body_count = calloc(x86_row_count, sizeof(*bt->body_count));
    if (!bt->fault || !bt->sigstack || !bt->tr || !bt->body_count || make_views(bt))
        return err_errno(e, "cannot allocate the translator's tables");
    return 0;
}

static void enlist(struct bt *en, struct bt_cpu *bt)
{
    pthread_mutex_lock(&en->lock);
    assert(en->ncpus < ARRAY_SIZE(en->cpu));
    en->cpu[en->ncpus++] = bt;
    pthread_mutex_unlock(&en->lock);
    struct mem *m = bt->cpu->mem;
    m->code_page = on_code_page;
    m->code_page_arg = en;
}

static void delist(struct bt *en, const struct bt_cpu *bt)
{
    pthread_mutex_lock(&en->lock);
    for (unsigned n = 0; n < en->ncpus; n++)
        if (en->cpu[n] == bt)
            en->cpu[n--] = en->cpu[--en->ncpus];
    if (!en->ncpus)
        bt->cpu->mem->code_page = NULL;
    pthread_mutex_unlock(&en->lock);
}

static int cpu_attach(struct engine *en, struct cpu *c, struct err *e)
{
    struct bt *b = (struct bt *)en;
    struct bt_cpu *bt = calloc(1, sizeof(*bt));
    if (!bt)
        return err_set(e, "out of memory creating a virtual CPU");
    bt->cpu = c;
    bt->set = &b->set;
    bt->engine = b;
    bt->direct.hosts = &b->hosts;
    bt->direct.off = b->set.no_direct;
    bt->direct.always = b->set.always_direct;
    size_t first = max_u64(6 * MiB / (b->cfg.ncpus ? b->cfg.ncpus : 1), 1 * MiB);
    size_t most = max_u64(BT_ARENA(bt->set->code_size), first);
    if (cpu_shadow_init(c, e) < 0 || make_tables(bt, e) < 0 ||
        interp_cache_init(&bt->interp, first, most, e) < 0) {
        cpu_shadow_free(c);
        free_tables(bt);
        free(bt);
        return -1;
    }
    put_stubs(bt);
    bt->interp.other = bt->keep ? find_kept : NULL;
    bt->interp.fpu_gen = cpu_fpu_generation(c);
    c->engine = bt;
    c->emitted[BT_SELF] = (u64)c;
    c->emitted[BT_ARRIVE] = bt->direct.always ? BT_ARRIVE_ASK : 0;
    enlist(b, bt);
    return 0;
}

static void cpu_detach(struct engine *en, struct cpu *c)
{
    struct bt_cpu *bt = c->engine;
    delist((struct bt *)en, bt);
    if (bt->has_thread && pthread_equal(bt->thread, pthread_self()))
        sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL);
    bt_direct_free(bt);
    interp_cache_free(&bt->interp);
    free_tables(bt);
    cpu_shadow_free(c);
    free(bt);
    c->engine = NULL;
}

/* Every block looks at cpu.poll: setting it was enough. */
static void kick(struct engine *en, struct cpu *c)
{
    struct bt_cpu *bt = c->engine;
    struct direct *d = atomic_load(&bt->direct.d);
    if (d)
        direct_kick(d);
}

static void same_state(struct engine *en, struct cpu *c)
{
}

static void stats(struct engine *en, struct cpu *c, void (*line)(void *arg, const char *text),
                  void *arg)
{
    bt_stats(c->engine, line, arg);
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
