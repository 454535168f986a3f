/*
 * bt_simd.c - x87, MMX, SSE, AVX and AVX-512 in place, and integer instructions with VEX or
 * mandatory prefixes.
 *
 * The guest's vector registers are in the host's while cpu.fpu_off says so (cpu_fpu.h). A block
 * asks at its first such instruction and after each C body that is not out of line; bt_body_fpu
 * keeps the answer true across those that are. No signal may come from emitted code, which has the
 * guest's RSP: hence only with all exceptions masked, alignment tested, and encodings that the host
 * is known to have.
 */
#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_fpu.h"
#include "engine/bt/bt_tr.h"

#define GS_FPU_OFF(level) (offsetof(struct cpu, fpu_off) + (level))

/* mov dword gs:[off], v */
static void emit_gs_imm32(struct tr *t, u32 off, u32 v)
{
    struct emit *e = &t->e;
    e8(e, 0x65), e8(e, 0xc7), e8(e, 0x04), e8(e, 0x25), e32(e, off), e32(e, v);
}

/* --- is the state there? --- */

/* Without touching the flags: jrcxz over the jump. */
static u8 *emit_test_keeping(struct tr *t, u32 off)
{
    struct emit *e = &t->e;
    emit_mov(e, T2, RCX);
    e8(e, 0x65), e8(e, 0x0f), e8(e, 0xb6), e8(e, 0x0c), e8(e, 0x25),
        e32(e, off);       /* movzx ecx, [] */
    e8(e, 0xe3), e8(e, 5); /* jrcxz */
    u8 *site = emit_jmp(e, e->p);
    emit_mov(e, RCX, T2);
    return site;
}

static void check_ready(struct tr *t, unsigned level)
{
    struct emit *e = &t->e;
    if (t->fpu_level >= level)
        return;
    t->fpu_level = level;
    struct fpu_check *k = &t->fpu_check[t->nfpu_checks++];
    *k = (struct fpu_check){.op = t->op,
                            .next = t->next,
                            .level = level,
                            .saved = t->flags_saved,
                            .rcx_in_t2 = t->flags_live && !t->flags_saved};
    if (k->rcx_in_t2) {
        k->site = emit_test_keeping(t, GS_FPU_OFF(level));
    } else {
        e8(e, 0x65), e8(e, 0x80), e8(e, 0x3c), e8(e, 0x25); /* cmp byte gs:[fpu_off + level], 0 */
        e32(e, GS_FPU_OFF(level));
        e8(e, 0);
        k->site = emit_jcc(e, JNZ, e->p);
    }
    k->resume = e->p;
}

void bt_simd_cold(struct tr *t)
{
    for (unsigned n = 0; n < t->nfpu_checks; n++) {
        const struct fpu_check *k = &t->fpu_check[n];
        emit_patch(k->site, t->e.p);
        if (k->rcx_in_t2)
            emit_mov(&t->e, RCX, T2);
        bt_body_args(t, k->op, k->next, k->resume);
        emit_gs_imm32(t, GS_WORD(BT_SCRATCH), k->level);
        emit_jmp(&t->e, STUB(t, k->saved ? BT_STUB_FPU_SAVED : BT_STUB_FPU));
    }
}

/* Called by bt_fpu with RIP behind op: false if its body has run instead. */
bool bt_fpu_enter(struct cpu *c, const struct op *op)
{
    if (cpu_fpu_ready(c, (enum cpu_fpu_level)(u32)c->emitted[BT_SCRATCH]))
        return true;
    c->insn = &op->i;
    op->fn(c, &op->i);
    c->insn = NULL;
    return false;
}

/* --- copying --- */

static bool is_mem(const struct tr *t)
{
    return t->d.i.prefix & X86_PFX_MEM;
}

/* A general register that the instruction names, in a register of its own if it must be. */
static u8 gpr_in(struct tr *t, bool named, unsigned reg, unsigned temp)
{
    return named ? (u8)bt_temp(t, reg, temp) : 0;
}

static void gpr_out(struct tr *t, enum x86_operand kind, unsigned reg, unsigned temp)
{
    if (is_temp(reg) && bt_operand_written(x86_row(&t->d.i), kind))
        emit_store(&t->e, temp, GS_REG(reg));
}

/* The instruction, its memory operand being [T0] already. */
static void emit_insn(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    bool e_reg = !is_mem(t) && bt_has_operand(row, X86_O_E);
    bool r_reg = bt_has_operand(row, X86_O_R);
    if (bt_uses_flags(t))
        bt_want_flags(t);
    struct cpu_fpu_regs r = {
        .reg = gpr_in(t, bt_has_operand(row, X86_O_G), d->i.reg, T1),
        .rm = gpr_in(t, e_reg || r_reg, d->i.rm, T0),
        .vvvv = gpr_in(t, bt_has_operand(row, X86_O_B), d->vvvv & 15, T2),
        .mem = T0,
    };
    t->e.p += cpu_fpu_encode(d, t->word == 8, &r, t->e.p);
    gpr_out(t, X86_O_B, d->vvvv & 15, T2); /* before G: MULX with one register for both */
    gpr_out(t, X86_O_G, d->i.reg, T1);
    if (e_reg)
        gpr_out(t, X86_O_E, d->i.rm, T0);
    if (r_reg)
        gpr_out(t, X86_O_R, d->i.rm, T0);
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
        emit_load(&t->e, T2, GS_WORD(BT_VBASE));
        emit_store(&t->e, T2, offsetof(struct cpu, x87_page));
        t->x87_page_noted = true;
    }
    u32 at = (t->next - t->d.i.len) & PAGE_MASK;
    emit_gs_imm32(t, offsetof(struct cpu, x87_last),
                  at | X87_LAST_SET | (u32)p->fop << X87_LAST_FOP);
}

/* T1 is free. */
static void note_operand(struct tr *t)
{
    struct emit *e = &t->e;
    emit_load(e, T1, offsetof(struct cpu, x87_ea));
    emit_store(e, T1, offsetof(struct cpu, x87_dp));
    e8(e, 0x65), e8(e, 0x66), e8(e, 0xc7), e8(e, 0x04), e8(e, 0x25); /* mov word gs:[x87_seg], n */
    e32(e, offsetof(struct cpu, x87_seg));
    e8(e, t->op->i.seg + 1), e8(e, 0);
}

/* --- control registers --- */

/*
 * FLDCW, LDMXCSR: what was read is kept where no other CPU can change it, and loaded if it masks
 * all exceptions and has no reserved bit; else the body's turn. T0 = host address.
 */
static void emit_load_control(struct tr *t, bool x87)
{
    struct emit *e = &t->e;
    u32 masks = x87 ? 0x3f : 0x1f80, reserved = x87 ? 0 : ~cpu_fpu_mxcsr_mask(t->c);
    e8(e, 0x45);
    if (x87)
        e8(e, 0x0f), e8(e, 0xb7), e8(e, 0x3e); /* movzx r15d, word [r14] */
    else
        e8(e, 0x8b), e8(e, 0x3e); /* mov r15d, [r14] */
    emit_store(e, T1, GS_WORD(BT_SCRATCH));
    bt_save_flags(t);
    e8(e, 0x41), e8(e, 0xf7), e8(e, 0xc7), e32(e, reserved); /* test r15d, reserved */
    bt_cold_jump(t);
    e8(e, 0x41), e8(e, 0xf7), e8(e, 0xd7);                /* not r15d */
    e8(e, 0x41), e8(e, 0xf7), e8(e, 0xc7), e32(e, masks); /* test r15d, masks */
    bt_cold_jump(t);
    e8(e, 0x65); /* fldcw or ldmxcsr gs:[scratch] */
    if (x87)
        e8(e, 0xd9), e8(e, 0x2c);
    else
        e8(e, 0x0f), e8(e, 0xae), e8(e, 0x14);
    e8(e, 0x25), e32(e, GS_WORD(BT_SCRATCH));
}

static void emit_address(struct tr *t, unsigned size, bool write)
{
    bt_ea(t);
    bt_segment(t, size, write);
    bt_lookup(t, size, write);
}

static bool mxcsr(struct tr *t)
{
    if (t->d.i.adsize == 2)
        return false;
    bool store = t->d.op == X86_STMXCSR;
    check_ready(t, t->d.vex ? FPU_AVX : FPU_SSE);
    emit_address(t, 4, store);
    if (store) /* stmxcsr [r14] */
        e8(&t->e, 0x41), e8(&t->e, 0x0f), e8(&t->e, 0xae), e8(&t->e, 0x1e);
    else
        emit_load_control(t, false);
    bt_cold_resume(t);
    return true;
}

/* --- X86_HOST instructions --- */

static void host_memory(struct tr *t, const struct cpu_fpu_plan *p)
{
    bool note = p->x87_ptr && !cpu_fpu_exc_ptrs(t->c);
    bt_ea(t);
    if (note)
        emit_store(&t->e, T0, offsetof(struct cpu, x87_ea));
    bt_segment(t, p->size, p->write);
    if (p->aligned)
        bt_lookup_aligned(t, p->size, p->write);
    else
        bt_lookup(t, p->size, p->write);
    if (note)
        note_operand(t);
    if (t->d.op == X86_FLDCW)
        emit_load_control(t, true);
    else
        emit_insn(t);
}

static bool host(struct tr *t)
{
    struct cpu_fpu_plan p;
    if (!cpu_fpu_plan(t->c, &t->d, &p) || (p.control && t->d.op != X86_FLDCW) || p.size > 64 ||
        is_mem(t) != (p.size != 0) || (is_mem(t) && t->d.i.adsize == 2))
        return false;
    check_ready(t, p.level);
    if (is_mem(t))
        host_memory(t, &p);
    else
        emit_insn(t);
    bt_cold_resume(t); /* the page must be noted on the way from the body, too */
    if (p.x87_ptr)
        note_pointers(t, &p);
    return true;
}

/* --- integer instructions that bt_copy() does not know --- */

static bool copy_other(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    if (!cpu_has(t->c, x86_row(&d->i)->feature)) /* #UD */
        return false;
    if (is_mem(t) && (d->i.adsize == 2 || !d->mem_size))
        return false;
    if (!is_mem(t) && d->width[1] == 1) /* CRC32 of a byte: SPL and AH differ by an empty REX */
        return false;
    if (is_mem(t))
        emit_address(t, d->mem_size, x86_row(&d->i)->attr & X86_MEM_WRITE);
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
