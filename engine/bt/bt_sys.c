/*
 * bt_sys.c - system instructions in line: what kernels do all the time.
 *
 * In the kernel's views CPL is 0 (bt.c); EFLAGS.TF and RF are clear while emitted code runs. The
 * bodies in cpu/ say what each of them is to do.
 */
#include "engine/bt/bt_tr.h"

#define JC 2

/* --- operands in struct cpu --- */

enum { OR = 1, AND = 4, CMP = 7 };

/* OP dword gs:[off], imm */
static void emit_gs_op(struct tr *t, unsigned op, u32 off, u32 imm)
{
    struct emit *e = &t->e;
    e8(e, 0x65), e8(e, 0x81), e8(e, op << 3 | 4), e8(e, 0x25), e32(e, off), e32(e, imm);
}

/* test dword gs:[off], imm */
static void emit_gs_test(struct tr *t, u32 off, u32 imm)
{
    struct emit *e = &t->e;
    e8(e, 0x65), e8(e, 0xf7), e8(e, 0x04), e8(e, 0x25), e32(e, off), e32(e, imm);
}

/* OP reg32, gs:[off] */
static void emit_gs32(struct tr *t, unsigned op, unsigned reg, u32 off)
{
    struct emit *e = &t->e;
    e8(e, 0x65), e8(e, 0x40 | (reg >> 3 & 1) << 2), e8(e, op);
    e8(e, (reg & 7) << 3 | 4), e8(e, 0x25), e32(e, off);
}

/* movzx reg32, byte gs:[off] */
static void emit_gs_byte(struct tr *t, unsigned reg, u32 off)
{
    struct emit *e = &t->e;
    e8(e, 0x65), e8(e, 0x40 | (reg >> 3 & 1) << 2), e8(e, 0x0f), e8(e, 0xb6);
    e8(e, (reg & 7) << 3 | 4), e8(e, 0x25), e32(e, off);
}

/* OP reg32, reg32 */
static void emit_rr32(struct tr *t, unsigned op, unsigned reg, unsigned rm)
{
    struct emit *e = &t->e;
    e8(e, 0x40 | (reg >> 3 & 1) << 2 | (rm >> 3 & 1)), e8(e, op);
    e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* A shift of reg by n: 4 SHL, 5 SHR, 7 SAR; size 4 or 8 */
static void emit_shift(struct tr *t, unsigned size, unsigned op, unsigned reg, unsigned n)
{
    struct emit *e = &t->e;
    e8(e, 0x40 | (size & 8) | (reg >> 3 & 1)), e8(e, 0xc1), e8(e, 0xc0 | op << 3 | (reg & 7));
    e8(e, n);
}

/* reg = the address of one of struct cpu's TLBs, stored as the one in use. */
static void emit_select_tlb(struct tr *t, enum tlb_mode m, unsigned temp)
{
    emit_load(&t->e, temp, GS_WORD(BT_SELF));
    emit_lea(&t->e, temp, temp, (s32)(offsetof(struct cpu, tlbs) + m * sizeof(t->c->tlbs[0])));
    emit_store(&t->e, temp, GS_CPU(tlb));
}

/* The body may change what emitted code counts on. */
static void body_changes(struct tr *t)
{
    for (unsigned n = t->op_cold; n < t->ncold; n++)
        t->cold[n].changes = true;
}

static void body_if(struct tr *t, unsigned cc)
{
    bt_body_if(t, cc);
    t->cold[t->ncold - 1].changes = true;
}

static bool in_kernel(const struct tr *t)
{
    return !BT_USER(t->view);
}

/* --- system calls --- */

static bool emit_syscall(struct tr *t)
{
    if (in_kernel(t) || t->word != 8)
        return false;
    t->flags_live = true;
    bt_save_flags(t);
    bt_rip(t, T0, t->next);
    bt_call_body(t, BT_STUB_SYSCALL);
    return t->ended = true;
}

static bool emit_sysret(struct tr *t)
{
    if (!in_kernel(t) || t->word != 8 || t->d.i.opsize != 8)
        return false;
    t->flags_live = true; /* for the body */
    bt_save_flags(t);
    bt_call_body(t, BT_STUB_SYSRET);
    return t->ended = true;
}

static bool emit_sysenter(struct tr *t)
{
    if (in_kernel(t) || t->word != 4)
        return false;
    t->flags_live = true;
    bt_save_flags(t);
    bt_call_body(t, BT_STUB_SYSENTER);
    return t->ended = true;
}

static bool emit_sysexit(struct tr *t)
{
    if (!in_kernel(t) || t->word != 4)
        return false;
    t->flags_live = true;
    bt_save_flags(t);
    bt_call_body(t, BT_STUB_SYSEXIT);
    return t->ended = true;
}

static bool emit_swapgs(struct tr *t)
{
    struct emit *e = &t->e;
    if (!in_kernel(t))
        return false;
    emit_load(e, T0, GS_CPU(seg[GS].base));
    emit_load(e, T1, GS_CPU(kernel_gs_base));
    emit_store(e, T0, GS_CPU(kernel_gs_base));
    emit_store(e, T1, GS_CPU(seg[GS].base));
    return true;
}

/* --- flags --- */

static bool emit_cli(struct tr *t)
{
    if (!in_kernel(t))
        return false;
    bt_save_flags(t);
    emit_gs_op(t, AND, GS_CPU(eflags), ~FLAG_IF);
    emit_gs_op(t, AND, GS_CPU(event_mask), ~EV_INTR);
    return true;
}

/* With an interrupt waiting it is the body's. One that comes from here on is not looked at before
 * the next instruction is done. */
static bool emit_sti(struct tr *t)
{
    if (!in_kernel(t) || !bt_can_shadow(t))
        return false;
    bt_save_flags(t);
    emit_gs_test(t, GS_CPU(events), EV_INTR);
    body_if(t, JNZ);
    emit_gs_op(t, OR, GS_CPU(eflags), FLAG_IF);
    emit_gs_op(t, OR, GS_CPU(event_mask), EV_INTR);
    bt_cold_resume(t);
    bt_shadow(t);
    return true;
}

static bool emit_pushf(struct tr *t)
{
    struct emit *e = &t->e;
    if (t->d.i.opsize != t->word || (!in_kernel(t) && t->word == 4 /* V86 mode? */))
        return false;
    bt_save_flags(t);
    emit_gs_byte(t, T0, GS_CPU(aflags));
    emit_shift(t, 4, 4, T0, 11);
    emit_gs_byte(t, T1, GS_CPU(aflags) + 1);
    emit_rr32(t, 0x09, T1, T0);
    emit_gs32(t, 0x0b, T0, GS_CPU(eflags)); /* or */
    emit_store(e, T0, GS_WORD(BT_TARGET));
    bt_push_gs(t, GS_WORD(BT_TARGET));
    return true;
}

/* TF and AC are the body's. */
static bool emit_popf(struct tr *t)
{
    struct emit *e = &t->e;
    if (t->d.i.opsize != t->word || !in_kernel(t))
        return false;
    bt_top_t0(t);
    emit_gs32(t, 0x8b, T1, GS_CPU(eflags));
    emit_rr32(t, 0x31, T0, T1);
    e8(e, 0x41), e8(e, 0xf7), e8(e, 0xc5), e32(e, FLAG_TF | FLAG_AC); /* test r13d, */
    bt_body_if(t, JNZ);
    bt_adjust_sp(t, t->word);
    emit_call(e, STUB(t, BT_STUB_POPF));
    body_changes(t);
    t->flags_saved = true;
    bt_leave_if(t, JNZ);
    bt_cold_resume(t);
    return true;
}

static bool emit_direction(struct tr *t, bool down)
{
    bt_save_flags(t);
    emit_gs_op(t, down ? OR : AND, GS_CPU(eflags), down ? FLAG_DF : ~FLAG_DF);
    return true;
}

/* --- STAC, CLAC --- */

/* On behind the instruction in another of the kernel's views. */
static void go_on_in(struct tr *t, enum tlb_mode m)
{
    struct emit *e = &t->e;
    unsigned view = bt_view(m, t->word == 8);
    emit_gs(e, 0x89, RSP, GS_WORD(BT_VIEW_ESP + t->view));
    emit_gs(e, 0x8b, RSP, GS_WORD(BT_VIEW_ESP + view));
    emit_select_tlb(t, m, T1);
    emit_gs_imm32(e, GS_WORD(BT_VIEW), view);
    if (t->live_after)
        bt_want_flags(t);
    t->flags_saved = false;
    t->ended = true;
    const struct block *b = bt_block_at(t, t->next);
    if (b && b->near[m]) {
        emit_jmp(e, t->bt->code + b->near[m]);
        return;
    }
    struct cold *k = bt_cold(t, COLD_EXIT);
    k->offset = t->next;
    k->body = emit_jmp(e, e->p);
}

static bool emit_ac(struct tr *t, bool set)
{
    if (!in_kernel(t) || t->next == PAGE_SIZE)
        return false;
    bt_save_flags(t);
    if (!set && t->mode == TLB_KERNEL) {
        emit_gs_test(t, GS_CPU(cr4), CR4_SMAP);
        body_if(t, 4 /* JZ */);
    }
    emit_gs_op(t, set ? OR : AND, GS_CPU(eflags), set ? FLAG_AC : ~FLAG_AC);
    enum tlb_mode m = set ? TLB_KERNEL : TLB_KERNEL_SMAP;
    if (m == t->mode)
        bt_cold_resume(t);
    else
        go_on_in(t, m);
    return true;
}

/* --- time and registers --- */

static bool emit_rdtsc(struct tr *t, bool p)
{
    struct emit *e = &t->e;
    bt_save_flags(t);
    e8(e, 0x65), e8(e, 0x48), e8(e, 0x83), e8(e, 0x3c), e8(e, 0x25); /* cmp qword gs:[], 0 */
    e32(e, GS_CPU(tsc_ratio)), e8(e, 0);
    bt_body_if(t, JNZ);
    if (!in_kernel(t)) {
        emit_gs_test(t, GS_CPU(cr4), CR4_TSD);
        bt_body_if(t, JNZ);
    }
    e8(e, 0x0f), e8(e, 0x31);
    emit_shift(t, 8, 4, RDX, 32);
    emit_rr(e, 0x09, RDX, RAX);
    emit_gs(e, 0x03, RAX, GS_CPU(tsc_offset));
    emit_rorx(e, RDX, RAX, 32);
    emit_zero_extend(e, RDX);
    emit_zero_extend(e, RAX);
    if (p)
        emit_gs32(t, 0x8b, RCX, GS_CPU(tsc_aux));
    bt_cold_resume(t);
    return true;
}

/* A general register of the instruction gets T1 or what is in a host register's place already. */
static unsigned out_reg(unsigned reg)
{
    return is_homed(reg) ? T1 : host_reg(reg);
}

static void put_reg(struct tr *t, unsigned reg)
{
    if (is_homed(reg))
        emit_store(&t->e, T1, GS_REG(reg));
}

/* mov reg, gs:[off] of `size` bytes, zero-extended */
static bool emit_read(struct tr *t, unsigned reg, u32 off, unsigned size)
{
    if (size == 8)
        emit_load(&t->e, out_reg(reg), off);
    else
        emit_gs32(t, 0x8b, out_reg(reg), off);
    put_reg(t, reg);
    return true;
}

/* The value that is there already. What another one lets through, or holds back, the machine
 * knows. */
static bool emit_mov_to_cr8(struct tr *t)
{
    if (!in_kernel(t) || t->d.i.reg != 8)
        return false;
    bt_save_flags(t);
    emit_lea(&t->e, T1, bt_reg(t, t->d.i.rm, T1), 1);
    emit_gs(&t->e, 0x3b, T1, GS_CPU(cr8_known)); /* cmp */
    body_if(t, JNZ);
    bt_cold_resume(t);
    return true;
}

static bool emit_mov_from_cr8(struct tr *t)
{
    struct emit *e = &t->e;
    unsigned reg = t->d.i.rm;
    bt_save_flags(t);
    emit_load(e, T1, GS_CPU(cr8_known));
    e8(e, 0x49), e8(e, 0x83), e8(e, 0xed), e8(e, 1); /* sub r13, 1 */
    bt_body_if(t, JC);
    if (!is_homed(reg))
        emit_mov(e, host_reg(reg), T1);
    put_reg(t, reg);
    bt_cold_resume(t);
    return true;
}

static bool emit_mov_from_cr(struct tr *t)
{
    static const u16 at[5] = {[0] = offsetof(struct cpu, cr0),
                              [2] = offsetof(struct cpu, cr2),
                              [3] = offsetof(struct cpu, cr3),
                              [4] = offsetof(struct cpu, cr4)};
    unsigned n = t->d.i.reg;
    if (in_kernel(t) && n == 8)
        return emit_mov_from_cr8(t);
    if (!in_kernel(t) || n >= ARRAY_SIZE(at) || !at[n])
        return false;
    return emit_read(t, t->d.i.rm, (u32)(at[n] - (s32)CPU_SPAN), t->word);
}

static u32 sel_field(const struct tr *t)
{
    return (u32)(GS_CPU(seg) + t->d.i.reg * sizeof(struct seg) + offsetof(struct seg, sel));
}

/* movzx reg32, the selector */
static void emit_load_sel(struct tr *t, unsigned reg)
{
    struct emit *e = &t->e;
    e8(e, 0x65), e8(e, 0x40 | (reg >> 3 & 1) << 2), e8(e, 0x0f), e8(e, 0xb7);
    e8(e, (reg & 7) << 3 | 4), e8(e, 0x25), e32(e, sel_field(t));
}

/* A memory operand has 2 bytes whatever the operand size. */
static bool emit_store_sreg(struct tr *t)
{
    struct emit *e = &t->e;
    if (t->d.i.adsize == 2)
        return false;
    bt_operand(t, 2, true, ANY_ALIGN);
    bt_combine(t);
    bt_t1_used(t);
    emit_load_sel(t, T1);
    bt_access(t);
    e8(e, 0x66);
    emit_mem_sized(e, 4, 0x89, T1, T0, 0);
    bt_cold_resume(t);
    return true;
}

/* The rest of the register stays. */
static bool emit_short_from_sreg(struct tr *t)
{
    struct emit *e = &t->e;
    unsigned rm = t->d.i.rm, reg = host_reg(rm);
    bt_t1_used(t);
    emit_load_sel(t, T1);
    if (is_homed(rm)) {
        t->t_home[0] = 0;
        e8(e, 0x65), e8(e, 0x66), e8(e, 0x44), e8(e, 0x89); /* mov gs:[], r13w */
        e8(e, 0x2c), e8(e, 0x25), e32(e, GS_REG(rm));
        return true;
    }
    e8(e, 0x66), e8(e, 0x44 | (reg >> 3 & 1)), e8(e, 0x89), e8(e, 0xc0 | (T1 & 7) << 3 | (reg & 7));
    return true;
}

static bool emit_mov_from_sreg(struct tr *t)
{
    const struct x86_insn *i = &t->d.i;
    if (i->reg > GS)
        return false;
    if (i->prefix & X86_PFX_MEM)
        return emit_store_sreg(t);
    if (i->opsize == 2)
        return emit_short_from_sreg(t);
    emit_load_sel(t, out_reg(i->rm));
    put_reg(t, i->rm);
    return true;
}

/* --- loads of segment registers, in 32-bit kernels --- */

static bool loads_in_line(const struct tr *t)
{
    unsigned reg = t->d.i.reg;
    return in_kernel(t) && t->word == 4 && (reg == ES || reg == DS || reg == FS || reg == GS);
}

/* The selector is in T0, zero-extended; flags are saved. */
static void emit_load_seg(struct tr *t)
{
    static const u8 stub[] = {[ES] = BT_STUB_LOAD_ES,
                              [DS] = BT_STUB_LOAD_DS,
                              [FS] = BT_STUB_LOAD_FS,
                              [GS] = BT_STUB_LOAD_GS};
    struct emit *e = &t->e;
    if (t->mode == TLB_KERNEL) { /* by EFLAGS.AC? Descriptors are read without it */
        emit_gs_test(t, GS_CPU(cr4), CR4_SMAP);
        body_if(t, JNZ);
    }
    e8(e, 0x41), e8(e, 0xbd); /* mov r13d, imm32 */
    e32(e, (u32)(8 * SHADOW_KIND_STEP * shadow_kind(t->mode, false)));
    emit_call(e, STUB(t, stub[t->d.i.reg]));
    body_if(t, JNZ);
    body_changes(t);
}

/* movzx r14d, reg16 */
static void emit_sel_from(struct tr *t, unsigned reg)
{
    struct emit *e = &t->e;
    e8(e, 0x44 | (reg >> 3 & 1)), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xc0 | (T0 & 7) << 3 | (reg & 7));
}

static bool emit_mov_to_sreg(struct tr *t)
{
    struct emit *e = &t->e;
    const struct x86_insn *i = &t->d.i;
    bool mem = i->prefix & X86_PFX_MEM;
    if (!loads_in_line(t) || (mem && i->adsize == 2))
        return false;
    if (mem) {
        bt_operand(t, 2, false, ANY_ALIGN);
        bt_combine(t);
        bt_access(t);
        e8(e, 0x45), e8(e, 0x0f), e8(e, 0xb7), emit_base_disp(e, T0, T0, 0); /* movzx r14d, [] */
    } else {
        bt_save_flags(t);
        emit_sel_from(t, bt_reg(t, i->rm, T0));
    }
    emit_load_seg(t);
    bt_cold_resume(t);
    return true;
}

static bool emit_pop_sreg(struct tr *t)
{
    if (!loads_in_line(t) || t->d.i.opsize != t->word)
        return false;
    bt_top_t0(t);
    emit_sel_from(t, T0);
    emit_load_seg(t);
    bt_adjust_sp(t, t->word);
    bt_cold_resume(t);
    return true;
}

static bool emit_push_sreg(struct tr *t)
{
    if (t->d.i.opsize != t->word)
        return false;
    bt_push_sel(t, sel_field(t));
    return true;
}

/* CR4.FSGSBASE is asked first. */
static void check_fsgsbase(struct tr *t)
{
    bt_save_flags(t);
    emit_gs_test(t, GS_CPU(cr4), CR4_FSGSBASE);
    bt_body_if(t, 4 /* JZ */);
}

static bool emit_rdbase(struct tr *t, unsigned seg)
{
    check_fsgsbase(t);
    emit_read(t, t->d.i.rm, (u32)(GS_CPU(seg) + seg * sizeof(struct seg)),
              t->d.i.opsize == 8 ? 8 : 4);
    bt_cold_resume(t);
    return true;
}

/* What is not canonical is the body's: bits 63 to 47 are all alike. */
static void check_canonical(struct tr *t, unsigned reg)
{
    struct emit *e = &t->e;
    emit_mov(e, T1, reg);
    emit_shift(t, 8, 7, T1, 47);
    e8(e, 0x49), e8(e, 0x83), e8(e, 0xc5), e8(e, 1); /* add r13, 1 */
    e8(e, 0x49), e8(e, 0x83), e8(e, 0xfd), e8(e, 1); /* cmp r13, 1 */
    bt_body_if(t, 7 /* above */);
}

static bool emit_wrbase(struct tr *t, unsigned seg)
{
    struct emit *e = &t->e;
    check_fsgsbase(t);
    unsigned reg = bt_reg(t, t->d.i.rm, T0);
    if (t->d.i.opsize == 8) {
        check_canonical(t, reg);
    } else {
        emit_rr32(t, 0x89, reg, T0);
        reg = T0;
    }
    emit_store(e, reg, (u32)(GS_CPU(seg) + seg * sizeof(struct seg)));
    bt_cold_resume(t);
    return true;
}

/* Many in a row are the body's: it makes room for other threads. */
static bool emit_pause(struct tr *t)
{
    struct emit *e = &t->e;
    bt_save_flags(t);
    emit_gs_op(t, CMP, GS_CPU(pauses), 98);
    body_if(t, 7 /* above */);
    emit_gs_op(t, 0 /* ADD */, GS_CPU(pauses), 1);
    e8(e, 0xf3), e8(e, 0x90);
    bt_cold_resume(t);
    return true;
}

/* --- by instruction --- */

static bool emit_serialize(struct tr *t)
{
    e8(&t->e, 0x0f), e8(&t->e, 0xae), e8(&t->e, 0xf0); /* mfence */
    return true;
}

bool bt_sys(struct tr *t)
{
    switch (t->d.op) {
    case X86_SYSCALL:
        return emit_syscall(t);
    case X86_SYSRET:
        return emit_sysret(t);
    case X86_SYSENTER:
        return emit_sysenter(t);
    case X86_SYSEXIT:
        return emit_sysexit(t);
    case X86_SWAPGS:
        return emit_swapgs(t);
    case X86_CLI:
        return emit_cli(t);
    case X86_STI:
        return emit_sti(t);
    case X86_PUSHF:
        return emit_pushf(t);
    case X86_POPF:
        return emit_popf(t);
    case X86_CLD:
    case X86_STD:
        return emit_direction(t, t->d.op == X86_STD);
    case X86_STAC:
    case X86_CLAC:
        return emit_ac(t, t->d.op == X86_STAC);
    case X86_RDTSC:
    case X86_RDTSCP:
        return emit_rdtsc(t, t->d.op == X86_RDTSCP);
    case X86_RDPID:
        return emit_read(t, t->d.i.rm, GS_CPU(tsc_aux), 4);
    case X86_MOV_TO_CR:
        return emit_mov_to_cr8(t);
    case X86_MOV_FROM_CR:
        return emit_mov_from_cr(t);
    case X86_MOV_FROM_SREG:
        return emit_mov_from_sreg(t);
    case X86_MOV_TO_SREG:
        return emit_mov_to_sreg(t);
    case X86_POP_SREG:
        return emit_pop_sreg(t);
    case X86_PUSH_SREG:
        return emit_push_sreg(t);
    case X86_RDFSBASE:
    case X86_RDGSBASE:
        return emit_rdbase(t, t->d.op == X86_RDFSBASE ? FS : GS);
    case X86_WRFSBASE:
    case X86_WRGSBASE:
        return emit_wrbase(t, t->d.op == X86_WRFSBASE ? FS : GS);
    case X86_PAUSE:
        return emit_pause(t);
    case X86_SERIALIZE:
        return emit_serialize(t);
    case X86_WBINVD:
    case X86_INVD:
        return in_kernel(t);
    default:
        return false;
    }
}
