/*
 * bt_simd.c - x87, MMX, SSE, AVX and AVX-512 in place, and integer instructions with VEX or
 * mandatory prefixes.
 *
 * The guest's vector registers are in the host's while cpu.fpu_off says so (cpu_fpu.h). A block
 * asks at its first such instruction and after each C body that is not out of line; bt_body() and
 * bt_miss() keep the answer true across those that are. Nothing here may fault on the host: hence
 * only with all exceptions masked, alignment tested, and encodings that the host is known to have.
 */
#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_fpu.h"
#include "engine/bt/bt_tr.h"

#define GS_FPU_OFF(level) (GS_CPU(fpu_off) + (level))

/* --- is the state there? --- */

/* Without touching the flags: jrcxz over the jump. */
static u8 *emit_test_keeping(struct tr *t, u32 off)
{
    struct emit *e = &t->e;
    bt_t1_used(t);
    emit_mov(e, T1, RCX);
    e8(e, 0x65), e8(e, 0x0f), e8(e, 0xb6), e8(e, 0x0c), e8(e, 0x25),
        e32(e, off);       /* movzx ecx, [] */
    e8(e, 0xe3), e8(e, 5); /* jrcxz */
    u8 *site = emit_jmp(e, e->p);
    emit_mov(e, RCX, T1);
    return site;
}

static void check_ready(struct tr *t, unsigned level)
{
    struct emit *e = &t->e;
    if (t->fpu_level >= level)
        return;
    bt_forget_temps(t);
    struct cold *k = bt_cold(t, COLD_FPU);
    t->fpu_level = (u8)level;
    k->level = (u8)level;
    k->rcx_in_t1 = t->flags_live && !t->flags_saved;
    if (k->rcx_in_t1) {
        k->body = emit_test_keeping(t, GS_FPU_OFF(level));
    } else {
        e8(e, 0x65), e8(e, 0x80), e8(e, 0x3c), e8(e, 0x25); /* cmp byte gs:[fpu_off + level], 0 */
        e32(e, GS_FPU_OFF(level));
        e8(e, 0);
        k->body = emit_jcc(e, JNZ, e->p);
    }
    k->retry = e->p;
}

/* With RIP behind the instruction: on at it when the state is there, else its body has run. */
const u8 *bt_fpu(struct cpu *c, const struct bt_site *s)
{
    struct bt_cpu *bt = c->engine;
    const struct op *op = (const struct op *)(bt->interp.arena + s->op);
    c->reg[X86_SLOT_RIP] = bt_site_rip(c, s);
    if (cpu_fpu_ready(c, (enum cpu_fpu_level)s->size)) {
        c->emitted[BT_IN_CODE] = 1;
        return (const u8 *)s + s->retry;
    }
    c->insn = &op->i;
    op->fn(c, &op->i);
    c->insn = NULL;
    return NULL;
}

/* --- copying --- */

static bool is_mem(const struct tr *t)
{
    return t->d.i.prefix & X86_PFX_MEM;
}

/* A general register that the instruction names, in a register of its own if it must be. */
static u8 gpr_in(struct tr *t, bool named, unsigned reg, unsigned temp)
{
    return named ? (u8)bt_reg(t, reg, temp) : 0;
}

static void gpr_out(struct tr *t, enum x86_operand kind, unsigned reg, unsigned temp)
{
    if (is_homed(reg) && bt_operand_written(x86_row(&t->d.i), kind))
        emit_store(&t->e, temp, GS_REG(reg));
}

/* Its general registers that are not in host registers find room. */
static bool has_room(const struct tr *t)
{
    const struct x86_row *row = x86_row(&t->d.i);
    bool rm = !is_mem(t) && (bt_has_operand(row, X86_O_E) || bt_has_operand(row, X86_O_R));
    unsigned n = (bt_has_operand(row, X86_O_G) && is_homed(t->d.i.reg)) +
                 (rm && is_homed(t->d.i.rm)) +
                 (bt_has_operand(row, X86_O_B) && is_homed(t->d.vvvv & 15));
    return n <= (is_mem(t) ? 1 : 2);
}

/* The instruction; its memory operand has been looked up. */
static void emit_insn(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    bool g = bt_has_operand(row, X86_O_G), b = bt_has_operand(row, X86_O_B);
    bool rm = !is_mem(t) && (bt_has_operand(row, X86_O_E) || bt_has_operand(row, X86_O_R));
    unsigned vvvv = d->vvvv & 15;
    bool wants = bt_uses_flags(t) && t->flags_saved;
    bool homed = (g && is_homed(d->i.reg)) || (b && is_homed(vvvv));
    bool combined = is_mem(t) && (wants || homed);
    if (combined)
        bt_combine(t);
    if (wants)
        bt_want_flags(t);
    struct cpu_fpu_regs r = {.mem = combined ? T0 : t->areg,
                             .index = combined ? 0 : T1,
                             .disp = combined ? 0 : t->adisp};
    r.reg = gpr_in(t, g, d->i.reg, T1);
    r.rm = gpr_in(t, rm, d->i.rm, g && is_homed(d->i.reg) ? T0 : T1);
    r.vvvv = gpr_in(t, b, vvvv, g && is_homed(d->i.reg) ? T0 : rm && is_homed(d->i.rm) ? T0 : T1);
    if (is_mem(t))
        bt_access(t);
    t->e.p += cpu_fpu_encode(d, t->word == 8, &r, t->e.p);
    if (b)
        gpr_out(t, X86_O_B, vvvv, r.vvvv); /* before G: MULX with one register for both */
    if (g)
        gpr_out(t, X86_O_G, d->i.reg, r.reg);
    if (rm && bt_has_operand(row, X86_O_E))
        gpr_out(t, X86_O_E, d->i.rm, r.rm);
    if (rm && bt_has_operand(row, X86_O_R))
        gpr_out(t, X86_O_R, d->i.rm, r.rm);
}

/* --- x87 pointers --- */

/* The next instruction will note itself before anything can ask. */
static bool next_notes(const struct tr *t)
{
    const struct op *op = t->op + 1;
    if (op >= t->b->op + t->b->nops || !op->i.len || op->i.prefix & X86_PFX_MEM)
        return false;
    const struct x86_row *row = x86_row(&op->i);
    return row->attr & X86_X87 && !(row->attr & X86_NOWAIT);
}

static void note_pointers(struct tr *t, const struct cpu_fpu_plan *p)
{
    if (next_notes(t))
        return;
    if (!t->x87_page_noted) {
        emit_load(&t->e, T1, GS_WORD(BT_VBASE));
        emit_store(&t->e, T1, GS_CPU(x87_page));
        t->x87_page_noted = true;
    }
    u32 at = (t->next - t->d.i.len) & PAGE_MASK;
    emit_gs_imm32(&t->e, GS_CPU(x87_last), at | X87_LAST_SET | (u32)p->fop << X87_LAST_FOP);
}

static void note_operand(struct tr *t)
{
    struct emit *e = &t->e;
    emit_load(e, T1, GS_CPU(x87_ea));
    emit_store(e, T1, GS_CPU(x87_dp));
    e8(e, 0x65), e8(e, 0x66), e8(e, 0xc7), e8(e, 0x04), e8(e, 0x25); /* mov word gs:[x87_seg], n */
    e32(e, GS_CPU(x87_seg));
    e8(e, t->op->i.seg + 1), e8(e, 0);
}

/* --- control registers --- */

/*
 * FLDCW, LDMXCSR: what was read is kept where no other CPU can change it, and loaded if it masks
 * all exceptions and has no reserved bit; else the body's turn.
 */
static void emit_load_control(struct tr *t, bool x87)
{
    struct emit *e = &t->e;
    u32 masks = x87 ? 0x3f : 0x1f80, reserved = x87 ? 0 : ~cpu_fpu_mxcsr_mask(t->c);
    bt_combine(t);
    bt_access(t);
    e8(e, 0x45);
    if (x87)
        e8(e, 0x0f), e8(e, 0xb7), e8(e, 0x2e); /* movzx r13d, word [r14] */
    else
        e8(e, 0x8b), e8(e, 0x2e); /* mov r13d, [r14] */
    emit_store(e, T1, GS_WORD(BT_SCRATCH));
    e8(e, 0x41), e8(e, 0xf7), e8(e, 0xc5), e32(e, reserved); /* test r13d, reserved */
    bt_body_if(t, JNZ);
    e8(e, 0x41), e8(e, 0xf7), e8(e, 0xd5);                /* not r13d */
    e8(e, 0x41), e8(e, 0xf7), e8(e, 0xc5), e32(e, masks); /* test r13d, masks */
    bt_body_if(t, JNZ);
    e8(e, 0x65); /* fldcw or ldmxcsr gs:[scratch] */
    if (x87)
        e8(e, 0xd9), e8(e, 0x2c);
    else
        e8(e, 0x0f), e8(e, 0xae), e8(e, 0x14);
    e8(e, 0x25), e32(e, GS_WORD(BT_SCRATCH));
}

static bool mxcsr(struct tr *t)
{
    if (t->d.i.adsize == 2)
        return false;
    bool store = t->d.op == X86_STMXCSR;
    check_ready(t, t->d.vex ? FPU_AVX : FPU_SSE);
    bt_operand(t, 4, store, ANY_ALIGN);
    if (store) {
        bt_combine(t);
        bt_access(t);
        e8(&t->e, 0x41), e8(&t->e, 0x0f), e8(&t->e, 0xae), e8(&t->e, 0x1e); /* stmxcsr [r14] */
    } else {
        emit_load_control(t, false);
    }
    bt_cold_resume(t);
    return true;
}

/* --- X86_HOST instructions --- */

static void host_memory(struct tr *t, const struct cpu_fpu_plan *p)
{
    bool note = p->x87_ptr && !cpu_fpu_exc_ptrs(t->c);
    if (note) {
        bt_ea(t, 0);
        emit_store(&t->e, T0, GS_CPU(x87_ea));
    }
    bt_operand(t, p->size, p->write, p->aligned ? MUST_ALIGN : ANY_ALIGN);
    t->cold[t->ncold - 1].masked = p->masked;
    if (note) {
        bt_combine(t);
        t->areg = T0;
        t->adisp = 0;
        note_operand(t);
        e8(&t->e, 0x45), e8(&t->e, 0x31), e8(&t->e, 0xed); /* xor r13d, r13d: flags are saved */
    }
    if (t->d.op == X86_FLDCW)
        emit_load_control(t, true);
    else
        emit_insn(t);
}

static bool host(struct tr *t)
{
    struct cpu_fpu_plan p;
    if (!cpu_fpu_plan(t->c, &t->d, &p) || (p.control && t->d.op != X86_FLDCW) || p.size > 64 ||
        is_mem(t) != (p.size != 0) || (is_mem(t) && t->d.i.adsize == 2) || !has_room(t))
        return false;
    check_ready(t, p.level);
    if (is_mem(t))
        host_memory(t, &p);
    else
        emit_insn(t);
    /* The page must be noted on the way from the body, too. */
    for (unsigned n = t->op_cold; n < t->ncold; n++)
        if (t->cold[n].kind != COLD_FPU)
            t->cold[n].resume = t->e.p;
    if (p.x87_ptr)
        note_pointers(t, &p);
    return true;
}

/* --- integer instructions that bt_copy() does not know --- */

static bool copy_other(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    if (is_mem(t) && (d->i.adsize == 2 || !d->mem_size))
        return false;
    if (!is_mem(t) && d->width[1] == 1) /* CRC32 of a byte: SPL and AH differ by an empty REX */
        return false;
    if (!has_room(t))
        return false;
    bool write = x86_row(&d->i)->attr & X86_MEM_WRITE;
    if (is_mem(t)) {
        bt_operand(t, d->mem_size, write, ANY_ALIGN);
    }
    emit_insn(t);
    bt_cold_resume(t);
    return true;
}

static bool verbatim(struct tr *t)
{
    for (unsigned n = 0; n < t->d.i.len; n++)
        e8(&t->e, t->d.bytes[n]);
    return true;
}

bool bt_simd(struct tr *t)
{
    if (x86_row(&t->d.i)->attr & X86_HOST)
        return t->op->fn == cpu_fpu_exec && host(t);
    switch (t->d.op) {
    case X86_LDMXCSR:
    case X86_STMXCSR:
        return mxcsr(t);
    case X86_FWAIT: /* nothing pends while all is masked */
        check_ready(t, FPU_SSE);
        return true;
    case X86_ADCX:
    case X86_ADOX:
    case X86_ANDN:
    case X86_BEXTR:
    case X86_BLSI:
    case X86_BLSMSK:
    case X86_BLSR:
    case X86_BZHI:
    case X86_MULX:
    case X86_PDEP:
    case X86_PEXT:
    case X86_RORX:
    case X86_SARX:
    case X86_SHLX:
    case X86_SHRX:
    case X86_CRC32:
    case X86_MOVNTI:
        return copy_other(t);
    case X86_LFENCE:
    case X86_MFENCE:
    case X86_SFENCE:
        return verbatim(t);
    case X86_PREFETCH: /* it may do nothing, and so it does */
        return true;
    default:
        return false;
    }
}
