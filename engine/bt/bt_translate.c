/*
 * bt_translate.c - a region of guest code into host code.
 *
 * An instruction is emitted in one of three ways: copied, with other registers and its memory
 * operand where the host has it; by hand (stack, control flow); or as a call of its C body. The
 * first two leave for the body, out of line, when the shadow table does not have the page. Nothing
 * of the guest's state is changed before the last such exit.
 */
#include "cpu/cpu_cpuid.h"
#include "engine/bt/bt_keep.h"

#include <stdlib.h>

struct tr *bt_tr_new(void)
{
    return calloc(1, sizeof(struct tr));
}

void bt_tr_free(struct tr *t)
{
    free(t);
}

/* --- data behind calls of stubs --- */

static void put_site(struct tr *t, struct bt_site s, const u8 *retry, const u8 *resume)
{
    u8 *at = t->e.p;
    const u8 *base = retry ? retry : resume;
    s.retry = base ? (s32)(base - at) : 0;
    s.resume = base && resume ? (u16)(resume - base) : 0;
    if (!resume)
        s.flags |= SITE_LEAVE;
    *(struct bt_site *)at = s;
    t->e.p += sizeof(s);
}

static u32 op_offset(const struct tr *t, const struct op *op)
{
    return (u32)((const u8 *)op - t->bt->interp.arena);
}

static struct bt_site site_of(const struct tr *t, const struct cold *k)
{
    return (struct bt_site){.op = op_offset(t, k->op),
                            .next = k->next,
                            .size = k->kind == COLD_FPU ? k->level : k->size,
                            .flags =
                                (u8)((k->write ? SITE_WRITE : 0) | (k->fpu ? SITE_FPU : 0) |
                                     (k->masked ? SITE_MASKED : 0) | (k->changes ? SITE_NEXT : 0) |
                                     (k->shadow ? SITE_SHADOW : 0))};
}

/* To a stub that wants R13 to point to data, which is to follow. */
static void emit_stub_jump(struct tr *t, enum bt_stub stub)
{
    struct emit *e = &t->e;
    e8(e, 0x4c), e8(e, 0x8d), e8(e, 0x2d), e32(e, 5); /* lea r13, [rip + the jump's length] */
    emit_jmp(e, STUB(t, stub));
}

void bt_call_body(struct tr *t, enum bt_stub stub)
{
    t->fpu_level = 0;
    emit_stub_jump(t, stub);
    struct bt_site s = {.op = op_offset(t, t->op), .next = t->next};
    put_site(t, s, NULL, t->e.p + sizeof(s));
    t->sp_aligned = false;
}

/* The current instruction's body. */
static void emit_body(struct tr *t, enum bt_stub stub)
{
    bt_want_flags(t);
    bt_call_body(t, stub);
}

/* --- out of line --- */

static void patch(u8 *site, const u8 *to)
{
    if (site)
        emit_patch(site, to);
}

/* The address may cross a page's end, or not: bit 12 tells. */
static void emit_crossing_test(struct tr *t, const struct cold *k)
{
    struct emit *e = &t->e;
    emit_patch(k->cross, e->p);
    emit_lea(e, T1, k->areg, k->size - 1);
    emit_rr(e, 0x31, k->areg, T1);                                         /* xor r13, areg */
    e8(e, 0x41), e8(e, 0x0f), e8(e, 0xba), e8(e, 0xe5), e8(e, PAGE_SHIFT); /* bt r13d, 12 */
    emit_jcc(e, 3, k->aligned);                                            /* jnc */
}

/* If the host faults at its access, on at `to`. */
static void note_fault(struct tr *t, const struct cold *k, const u8 *to)
{
    struct bt_cpu *bt = t->bt;
    if (k->access)
        bt->fault[bt->nfaults++] =
            (struct bt_fault){.at = (u32)(k->access - bt->code), .cold = (u32)(to - bt->code)};
}

/* One that shares a look-up: after its body the others cannot go on. */
static void emit_cold_shared(struct tr *t, const struct cold *k)
{
    struct emit *e = &t->e;
    note_fault(t, k, e->p);
    emit_stub_jump(t, !k->miss && !k->saved ? BT_STUB_BODY : BT_STUB_BODY_SAVED);
    put_site(t, site_of(t, k), NULL, NULL);
    if (!k->miss)
        return;
    emit_patch(k->miss, e->p);
    if (k->ahead)
        emit_lea(e, T0, T0, k->ahead);
    emit_stub_jump(t, BT_STUB_MISS);
    put_site(t, site_of(t, k), k->retry, NULL);
}

/* Over to the slow version, whose flags are where it has them at this instruction. */
static void emit_cold_slow(struct tr *t, const struct cold *k)
{
    if (k->saved && !k->body_only) /* wants them in the host's */
        bt_restore_flags(t);
    emit_jmp(&t->e, k->resume);
}

static void emit_cold_access(struct tr *t, const struct cold *k)
{
    struct emit *e = &t->e;
    if (k->shared) {
        emit_cold_shared(t, k);
        return;
    }
    if (k->cross && !k->body_only)
        emit_crossing_test(t, k);
    else
        patch(k->cross, e->p);
    u8 *body = e->p;
    e8(e, 0x4c), e8(e, 0x8d), e8(e, 0x2d); /* lea r13, [rip + data] */
    u8 *lea = e->p;
    e32(e, 0);
    emit_jmp(e, STUB(t, BT_STUB_BODY_SAVED));
    emit_patch(k->miss, e->p);
    if (k->areg != T0)
        emit_mov(e, T0, k->areg);
    emit_stub_jump(t, BT_STUB_MISS);
    emit_patch(lea, e->p);
    put_site(t, site_of(t, k), k->retry, k->leaves ? NULL : k->resume);
    note_fault(t, k, body);
}

static void emit_cold_body(struct tr *t, const struct cold *k)
{
    u8 *at = t->e.p;
    emit_stub_jump(t, k->saved ? BT_STUB_BODY_SAVED : BT_STUB_BODY);
    put_site(t, site_of(t, k), NULL, k->body_only || k->leaves ? NULL : k->resume);
    note_fault(t, k, at);
}

/* What is at this offset of the page goes on in the next one. */
static bool crosses(const struct tr *t, s32 offset)
{
    struct x86_decoded d;
    unsigned left = (unsigned)PAGE_SIZE - (unsigned)offset;
    if (!left || left >= X86_INSN_MAX)
        return false;
    const u8 *page = mem_ptr(t->c->mem, t->r.blk[0]->gpa & ~(gpa_t)PAGE_MASK);
    return x86_decode(page + offset, left, t->r.blk[0]->mode, &d) == X86_MORE;
}

static void put_exit(struct tr *t, const struct cold *k, bool joinable)
{
    bool cross = joinable && crosses(t, k->offset);
    joinable = joinable && !cross;
    if (cross) /* not by CALL: that would spoil the host's prediction of the returns to come */
        emit_stub_jump(t, BT_STUB_CROSS + k->saved); /* _SAVED comes next */
    else
        emit_call(&t->e, STUB(t, BT_STUB_EXIT + k->saved));
    u8 *at = t->e.p;
    *(struct bt_exit *)at = (struct bt_exit){
        .patch = joinable ? (s32)(k->body - at) : 0, .offset = k->offset, .from = k->at};
    t->e.p += sizeof(struct bt_exit);
}

static void emit_cold_one(struct tr *t, const struct cold *k)
{
    struct emit *e = &t->e;
    if (k->kind != COLD_ACCESS)
        patch(k->body, e->p);
    if (k->rcx_in_t1)
        emit_mov(e, RCX, T1);
    switch (k->kind) {
    case COLD_ACCESS:
        emit_cold_access(t, k);
        break;
    case COLD_BODY:
        emit_cold_body(t, k);
        break;
    case COLD_FPU:
        emit_stub_jump(t, k->saved ? BT_STUB_FPU_SAVED : BT_STUB_FPU);
        put_site(t, site_of(t, k), k->retry, k->retry);
        break;
    case COLD_REP:
        note_fault(t, k, e->p);
        bt_rep_undo(t);
        emit_stub_jump(t, BT_STUB_BODY_SAVED);
        put_site(t, site_of(t, k), NULL, k->resume);
        break;
    case COLD_EXIT:
        put_exit(t, k, true);
        break;
    case COLD_POLL:
        put_exit(t, k, false);
        break;
    case COLD_RETURN:
        emit_jmp(e, STUB(t, BT_STUB_LOOKUP + t->view));
        break;
    case COLD_SLOW:
        emit_cold_slow(t, k);
        break;
    case COLD_FAR:
        bt_far(t, (struct cold *)k);
        break;
    }
}

/* --- blocks --- */

/* What T0 and T1 hold of the guest's registers is known behind instructions with registers only. */
static bool keeps_temps(const struct tr *t)
{
    return !(t->d.i.prefix & X86_PFX_MEM) && (bt_copyable(&t->d) || t->d.op == X86_NOP);
}

/* Before an instruction that is copied without a look-up, or done by hand. */
static void settle_flags(struct tr *t)
{
    if (!t->flags_live)
        t->flags_saved = false; /* whatever was saved is overwritten before it is read */
    else if (bt_uses_flags(t) && !(t->d.i.prefix & X86_PFX_MEM))
        bt_want_flags(t);
}

/* One that ends its block: its body, and on from there. */
static void emit_last_body(struct tr *t)
{
    if (bt_goes_on(t->d.op)) {
        emit_body(t, BT_STUB_NEXT);
        return;
    }
    emit_body(t, BT_STUB_JUMP);
    t->ended = true;
}

static bool emit_in_line(struct tr *t)
{
    return bt_flow(t) || bt_copy(t) || bt_simd(t) || bt_sys(t) || bt_int(t) || bt_string(t);
}

static void emit_insn(struct tr *t, bool last)
{
    t->op_cold = t->ncold;
    settle_flags(t);
    if (cpu_has(t->c, x86_row(&t->d.i)->feature) && emit_in_line(t)) {
        bt_track_sp(t);
        if (t->ncold != t->op_cold || (!keeps_temps(t) && t->d.op != X86_LEA))
            bt_forget_temps(t);
        return;
    }
    bt_forget_temps(t);
    t->ncold = t->op_cold;
    if (last && t->b->ends)
        emit_last_body(t);
    else
        emit_body(t, BT_STUB_BODY);
}

/* State as at a block's start, whichever version. */
static void begin_version(struct tr *t, unsigned n)
{
    t->bi = n;
    t->b = t->r.blk[n];
    t->at = t->next = t->b->gpa & PAGE_MASK;
    t->op = t->b->op;
    t->flags_saved = t->sp_aligned = t->x87_page_noted = t->ended = t->in_shadow = false;
    t->fpu_level = 0;
    bt_forget_temps(t);
    for (unsigned g = 0; g < t->ngroups; g++)
        t->group[g].ready = false;
    bt_block_live(t->b, t->r.out[n], t->live);
}

/* Decodes the block: how many of its instructions are what they were. */
static unsigned decode_block(struct tr *t, const struct block *b)
{
    const u8 *code = mem_ptr(t->c->mem, b->gpa);
    const u8 *end = code + PAGE_SIZE - (b->gpa & PAGE_MASK);
    unsigned n;
    for (n = 0; n < b->nops; n++) {
        struct x86_decoded *d = &t->decoded[n];
        unsigned len = b->op[n].i.len;
        if (!len || x86_decode(code, (unsigned)(end - code), b->mode, d) != X86_OK ||
            d->i.len != len)
            break;
        code += len;
    }
    return n;
}

/* The slow version begins this instruction: jumps from the other one lead here. */
static void note_slow(struct tr *t)
{
    for (unsigned n = 0; n < t->ncold; n++) {
        struct cold *k = &t->cold[n];
        if (k->kind != COLD_SLOW || k->blk != t->bi || k->insn != t->insn)
            continue;
        bt_forget_temps(t); /* the look-up that found two pages has used them */
        k->resume = t->e.p;
        k->body_only = t->flags_saved;
    }
}

/* Instruction n of the current block, which begins at t->next; d: NULL if it cannot be decoded. */
static void emit_op(struct tr *t, unsigned n, const u32 *live, const struct x86_decoded *d)
{
    const struct block *b = t->b;
    t->op = &b->op[n];
    t->at = t->next;
    t->flags_live = live[n] != 0;
    t->live_after = live[n + 1] != 0;
    if (t->bt->set->dump && !t->slow && !t->in_shadow)
        t->dump.op[t->bi][n] = (u32)(t->e.p - t->bt->code);
    if (!d) {
        emit_body(t, BT_STUB_JUMP); /* raises an exception */
        t->ended = true;
        return;
    }
    t->d = *d;
    t->next += t->op->i.len;
    emit_insn(t, n + 1 == b->nops);
}

bool bt_can_shadow(const struct tr *t)
{
    const struct block *b = t->in_shadow || t->next == PAGE_SIZE ? NULL : bt_block_at(t, t->next);
    return b && b->nops;
}

static void note_guest(struct tr *t, struct block *b)
{
    for (unsigned n = 0; n < t->nguests && n < GUESTS_MAX; n++)
        if (t->guest[n] == b)
            return;
    if (t->nguests < GUESTS_MAX)
        t->guest[t->nguests] = b;
    t->nguests += t->nguests <= GUESTS_MAX;
}

void bt_shadow(struct tr *t)
{
    u32 live[BLOCK_OPS_MAX + 1];
    struct x86_decoded d;
    bool grouped = t->grouped;
    t->b = bt_block_at(t, t->next);
    interp_bind(t->c, t->b);
    if (bt_region_at(t, t->next) < 0)
        note_guest(t, t->b);
    bt_block_live(t->b, FLAGS_ARITH, live);
    const u8 *code = mem_ptr(t->c->mem, t->b->gpa);
    bool ok = t->b->op[0].i.len &&
              x86_decode(code, (unsigned)(PAGE_SIZE - t->next), t->b->mode, &d) == X86_OK &&
              d.i.len == t->b->op[0].i.len;
    t->in_shadow = true;
    t->grouped = false;
    emit_op(t, 0, live, ok ? &d : NULL);
    if (!t->ended)
        bt_goto(t, t->next);
    t->grouped = grouped;
    t->in_shadow = false;
    t->ended = true;
}

static void emit_insns(struct tr *t, unsigned ndecoded)
{
    for (unsigned i = 0, nops = t->b->nops; i < nops && !t->ended; i++) {
        t->insn = i;
        if (t->slow)
            note_slow(t);
        emit_op(t, i, t->live, i < ndecoded ? &t->decoded[i] : NULL);
    }
    if (!t->ended) {
        t->flags_live = t->r.out[t->bi] != 0;
        bt_goto(t, t->next);
    }
}

static void emit_block(struct tr *t, unsigned n)
{
    struct region *r = &t->r;
    t->ngroups = 0;
    begin_version(t, n);
    unsigned ndecoded = decode_block(t, t->b);
    t->grouped = bt_find_groups(t, ndecoded);
    begin_version(t, n);
    r->grouped[n] = t->grouped;
    r->near[n] = t->e.p;
    if (t->bt->set->count)
        emit_count(&t->e, T1, GS_WORD(BT_BLOCKS));
    if (r->loop[n])
        bt_poll(t, r->in[n], t->at);
    emit_insns(t, ndecoded);
}

/* The version of a block that shares no look-ups. */
static void emit_slow_block(struct tr *t, unsigned n)
{
    t->ngroups = 0;
    t->grouped = false;
    begin_version(t, n);
    unsigned ndecoded = decode_block(t, t->b);
    t->slow = true;
    emit_insns(t, ndecoded);
    t->slow = false;
}

static void keep(struct tr *t)
{
    for (unsigned n = 0; n < t->r.n; n++) {
        struct block *b = t->r.blk[n];
        u32 near = (u32)(t->r.near[n] - t->bt->code);
        b->near[t->mode] = near;
        b->check[t->mode] = t->r.loop[n] ? near : 0;
        b->far[t->mode] = 0;
        bt_known_add(&t->bt->known, b->gpa);
        b->live[t->mode] = (u16)t->r.in[n];
    }
    t->bt->at = (u8 *)align_up((u64)t->e.p, 16);
}

static void begin(struct tr *t, struct cpu *c, struct bt_cpu *bt, const struct block *b)
{
    t->c = c;
    t->bt = bt;
    t->mode = (u8)((c->tlb - c->tlbs[0]) >> TLB_BITS);
    t->view = (u8)bt_view(t->mode, b->mode == X86_MODE64);
    t->word = b->mode == X86_MODE64 ? 8 : 4;
    t->e.p = bt->at;
    t->ncold = t->nfixups = 0;
    t->nguests = 0;
    if (bt->set->dump)
        cpu_fill(&t->dump, 0, sizeof(t->dump));
}

bool bt_translate(struct cpu *c, struct bt_cpu *bt, struct block *b)
{
    struct tr *t = bt->tr;
    unsigned faults = bt->nfaults;
    const u8 *start = bt->at;
    begin(t, c, bt, b);
    interp_bind(c, b);
    bt_find_region(t, b);
    for (unsigned n = 0; n < t->r.n; n++)
        emit_block(t, n);
    t->dump.slow = (u32)(t->e.p - bt->code);
    for (unsigned n = 0; n < t->r.n; n++)
        if (t->r.grouped[n])
            emit_slow_block(t, n);
    for (unsigned n = 0; n < t->nfixups; n++)
        emit_patch(t->fixup[n].site, t->r.near[t->fixup[n].to]);
    t->dump.cold = (u32)(t->e.p - bt->code);
    for (unsigned n = 0; n < t->ncold; n++)
        emit_cold_one(t, &t->cold[n]);
    if (interp_drop_dead(c, &bt->interp))
        return false;
    if (mem_code_gen(c->mem, b->page) != b->gen) {
        bt->nfaults = faults;
        return false; /* another CPU has just changed the page: this may mix old and new code */
    }
    bt->regions++;
    bt->translated += t->r.n;
    bt->bytes += (u64)(t->e.p - bt->at);
    keep(t);
    bt_tell_names(bt, start, (u64)(t->e.p - start), t->view);
    if (bt->set->dump)
        bt_dump(t, start);
    if (bt->keep && t->nguests <= GUESTS_MAX)
        bt_keep_record(t, start, faults);
    return true;
}

/* --- other ways in --- */

/* From near, with a look for events. */
static void emit_check(struct tr *t, struct block *b)
{
    b->check[t->mode] = (u32)(t->e.p - t->bt->code);
    bt_poll(t, b->live[t->mode], t->at);
    emit_jmp(&t->e, t->bt->code + b->near[t->mode]);
}

/*
 * T0 = RIP, without salt. Salt is not added to what is not canonical: that might look like an
 * address of another space.
 */
static void emit_unsalt(struct tr *t)
{
    struct emit *e = &t->e;
    emit_gs(e, 0x2b, T0, GS_WORD(BT_SALT)); /* sub r14, salt */
    if (t->word == 4)
        return;
    e8(e, 0xc4), e8(e, 0x43), e8(e, 0xfb), e8(e, 0xf0), e8(e, 0xee),
        e8(e, 47);                                          /* rorx r13, r14, 47 */
    e8(e, 0x41), e8(e, 0xf7), e8(e, 0xc5), e32(e, 0x1ffff); /* test r13d, 1ffff */
    emit_jcc(e, JNZ, STUB(t, BT_STUB_GOTO));
}

/* From far: R14 = RIP (+ salt), all flags in cpu.aflags. */
static void emit_far(struct tr *t, struct block *b)
{
    struct emit *e = &t->e;
    b->far[t->mode] = (u32)(e->p - t->bt->code);
    if (BT_USER(t->view))
        emit_unsalt(t);
    emit_lea(e, T0, T0, -(s32)t->at);
    emit_store(e, T0, GS_WORD(BT_VBASE));
    t->flags_saved = true;
    bt_poll(t, 0, t->at);
    if (b->live[t->mode])
        bt_restore_flags(t);
    emit_jmp(e, t->bt->code + b->near[t->mode]);
}

void bt_make_entries(struct cpu *c, struct bt_cpu *bt, struct block *b)
{
    struct tr *t = bt->tr;
    begin(t, c, bt, b);
    t->b = b;
    t->op = b->op;
    t->at = t->next = b->gpa & PAGE_MASK;
    t->flags_saved = false;
    t->fpu_level = 0;
    if (!b->check[t->mode])
        emit_check(t, b);
    emit_far(t, b);
    for (unsigned n = 0; n < t->ncold; n++)
        emit_cold_one(t, &t->cold[n]);
    bt->at = (u8 *)align_up((u64)t->e.p, 16);
}

/* --- stubs of the views --- */

static void emit_sentinel(struct tr *t, u8 view)
{
    struct emit *e = &t->e;
    e->p = STUB(t, BT_STUB_SENTINEL + view);
    /* lea rsp, gs window + base: RSP = GS base + BT_STACK_BASE */
    e8(e, 0xf3), e8(e, 0x48), e8(e, 0x0f), e8(e, 0xae), e8(e, 0xcc); /* rdgsbase rsp */
    emit_lea(e, RSP, RSP, (s32)BT_STACK_BASE(view));
    emit_jmp(e, STUB(t, BT_STUB_LOOKUP + view));
}

void bt_make_stubs(struct bt_cpu *bt)
{
    struct tr *t = bt->tr;
    t->bt = bt;
    for (u8 v = 0; v < BT_VIEWS; v++) {
        t->view = v;
        emit_sentinel(t, v);
        t->e.p = STUB(t, BT_STUB_LOOKUP + v);
        bt_lookup_rip(t, STUB(t, BT_STUB_GOTO));
        assert(t->e.p <= STUB(t, BT_STUB_LOOKUP + v + 1));
    }
}
