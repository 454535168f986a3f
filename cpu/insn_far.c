/*
 * insn_far.c - far transfers, interrupts by instruction, fast system calls, the flags register.
 */
#include "cpu/insn_far.h"

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_event.h"
#include "cpu/cpu_far.h"
#include "cpu/insn_ops.h"

/* --- CALL, JMP, RET, IRET --- */

static u64 far_offset(const struct x86_insn *i)
{
    return i->imm & size_mask(i->opsize == 2 ? 2 : 4);
}

static u16 far_sel(const struct x86_insn *i)
{
    return (u16)(i->imm >> 32);
}

/* The selector of a far pointer in memory, after its offset. */
static u16 mem_sel(struct cpu *c, const struct x86_insn *i)
{
    return cpu_ld16(c, i->seg, (cpu_ea(c, i) + i->opsize) & size_mask(i->adsize));
}

void insn_call_far(struct cpu *c, const struct x86_insn *i)
{
    cpu_far_call(c, far_sel(i), far_offset(i), i->opsize);
}

void insn_jmp_far(struct cpu *c, const struct x86_insn *i)
{
    cpu_far_jmp(c, far_sel(i), far_offset(i), i->opsize);
}

void insn_call_far_ind(struct cpu *c, const struct x86_insn *i)
{
    u64 off = cpu_ld(c, i->seg, cpu_ea(c, i), i->opsize);
    cpu_far_call(c, mem_sel(c, i), off, i->opsize);
}

void insn_jmp_far_ind(struct cpu *c, const struct x86_insn *i)
{
    u64 off = cpu_ld(c, i->seg, cpu_ea(c, i), i->opsize);
    cpu_far_jmp(c, mem_sel(c, i), off, i->opsize);
}

void insn_ret_far(struct cpu *c, const struct x86_insn *i)
{
    cpu_far_ret(c, i->opsize, (u16)i->imm);
}

void insn_iret(struct cpu *c, const struct x86_insn *i)
{
    cpu_iret(c, i->opsize);
}

/* --- INT --- */

void insn_int(struct cpu *c, const struct x86_insn *i)
{
    cpu_soft_int(c, (u8)i->imm, false);
}

void insn_int3(struct cpu *c, const struct x86_insn *i)
{
    cpu_soft_int(c, EXC_BP, true);
}

void insn_into(struct cpu *c, const struct x86_insn *i)
{
    if (aflags_unpack(c->aflags) & FLAG_OF)
        cpu_soft_int(c, EXC_OF, true);
}

/* Like a debug trap of its own, with what a MOV SS before it has held back; no privilege is asked
 * and DR6 gets no bit for it. */
void insn_int1(struct cpu *c, const struct x86_insn *i)
{
    bool stepped = c->eflags & FLAG_TF;
    u32 held = c->db_pending & ~DR6_BS;
    if (held)
        c->dr[6] = (c->dr[6] & ~0xfull) | held;
    c->db_pending = 0;
    c->exc = (struct cpu_exc){.pending = true, .vec = EXC_DB, .trap = true};
    cpu_deliver(c);
    c->no_step = stepped;
}

/* --- SYSCALL, SYSRET --- */

#define ATTR_CODE (SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED | SEG_G)
#define ATTR_DATA (SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED | SEG_G | SEG_DB)

/* A flat segment that is not read from any table. */
static void set_flat(struct cpu *c, unsigned seg, u16 sel, u32 attr)
{
    u32 dpl = (u32)c->cpl << SEG_DPL_SHIFT;
    c->seg[seg] = (struct seg){
        .sel = sel,
        .limit = UINT32_MAX,
        .attr = attr | dpl,
        .rd_end = UINT64_MAX, /* until cpu_update_mode() */
        .wr_end = UINT64_MAX,
    };
}

/* SDM vol. 2, SYSCALL and SYSRET: a single step is reported by TF as it is at their end. */
static void step_by_new_flags(struct cpu *c, bool stepped)
{
    bool tf = c->eflags & FLAG_TF;
    if (stepped && !tf)
        c->no_step = true;
    else if (tf && !stepped)
        c->db_pending |= DR6_BS;
}

static bool is_amd(const struct cpu *c)
{
    const char *v = cpu_model_vendor(c->model);
    return v[0] == 'A' || v[0] == 'H'; /* AuthenticAMD, HygonGenuine */
}

/* AMD's outside long mode: a target of its own, and flags are neither kept nor masked (APM vol. 3,
 * SYSCALL). */
static void syscall_legacy(struct cpu *c)
{
    u16 cs = (u16)(c->star >> 32) & 0xfffc;
    c->reg[RCX] = (u32)c->reg[X86_SLOT_RIP];
    c->reg[X86_SLOT_RIP] = (u32)c->star;
    cpu_put_flags(c, cpu_flags(c) & ~(FLAG_IF | FLAG_RF));
    c->cpl = 0;
    set_flat(c, CS, cs, ATTR_CODE | SEG_DB);
    set_flat(c, SS, cs + 8, ATTR_DATA);
    cpu_update_mode(c);
}

void insn_syscall(struct cpu *c, const struct x86_insn *i)
{
    bool compat = c->mode != X86_MODE64;
    if (!(c->efer & EFER_SCE) || cpu_realish(c) || (compat && !is_amd(c)))
        cpu_throw_ud(c);
    if (!cpu_long(c)) {
        syscall_legacy(c);
        return;
    }
    bool stepped = c->eflags & FLAG_TF;
    u16 cs = (u16)(c->star >> 32) & 0xfffc;
    c->reg[RCX] = c->reg[X86_SLOT_RIP];
    c->reg[R11] = cpu_flags(c) & ~FLAG_RF;
    c->reg[X86_SLOT_RIP] = compat ? c->cstar : c->lstar;
    cpu_put_flags(c, cpu_flags(c) & ~((u32)c->sfmask | FLAG_RF));
    c->cpl = 0;
    set_flat(c, CS, cs, ATTR_CODE | SEG_L);
    set_flat(c, SS, cs + 8, ATTR_DATA);
    step_by_new_flags(c, stepped);
    cpu_update_mode(c);
}

/* AMD's from 32- and 16-bit code (APM vol. 3, SYSRET). */
static void sysret_legacy(struct cpu *c)
{
    if (cpu_realish(c) || c->cpl != 0)
        cpu_throw_gp(c, 0);
    u16 sel = (u16)(c->star >> 48);
    c->reg[X86_SLOT_RIP] = (u32)c->reg[RCX];
    cpu_put_flags(c, (cpu_flags(c) | FLAG_IF) & ~FLAG_RF);
    c->cpl = 3;
    set_flat(c, CS, sel | 3, ATTR_CODE | SEG_DB);
    set_flat(c, SS, (sel + 8) | 3, ATTR_DATA);
    cpu_update_mode(c);
}

void insn_sysret(struct cpu *c, const struct x86_insn *i)
{
    bool to64 = i->opsize == 8, compat = c->mode != X86_MODE64;
    if (!(c->efer & EFER_SCE) || (compat && !is_amd(c)))
        cpu_throw_ud(c);
    if (compat) {
        sysret_legacy(c);
        return;
    }
    if (c->cpl != 0 || (to64 && !x86_canonical(c->reg[RCX])))
        cpu_throw_gp(c, 0);
    bool stepped = c->eflags & FLAG_TF;
    u16 sel = (u16)(c->star >> 48);
    c->reg[X86_SLOT_RIP] = to64 ? c->reg[RCX] : (u32)c->reg[RCX];
    cpu_put_flags(c, (u32)c->reg[R11] & FLAGS_ALL & ~(FLAG_RF | FLAG_VM));
    c->cpl = 3;
    set_flat(c, CS, (to64 ? sel + 16 : sel) | 3, ATTR_CODE | (to64 ? SEG_L : SEG_DB));
    set_flat(c, SS, (sel + 8) | 3, ATTR_DATA);
    step_by_new_flags(c, stepped);
    cpu_update_mode(c);
}

/* --- SYSENTER, SYSEXIT --- */

/* AMD's processors have neither of the two in long mode. */
static void check_sysenter(struct cpu *c)
{
    if (cpu_long(c) && is_amd(c))
        cpu_throw_ud(c);
}

void insn_sysenter(struct cpu *c, const struct x86_insn *i)
{
    u16 cs = (u16)c->sysenter_cs & 0xfffc;
    check_sysenter(c);
    if (!cpu_protected(c) || cs == 0)
        cpu_throw_gp(c, 0);
    bool wide = cpu_long(c);
    cpu_put_flags(c, cpu_flags(c) & ~(FLAG_VM | FLAG_IF | FLAG_RF));
    c->cpl = 0;
    c->reg[RSP] = wide ? c->sysenter_esp : (u32)c->sysenter_esp;
    c->reg[X86_SLOT_RIP] = wide ? c->sysenter_eip : (u32)c->sysenter_eip;
    set_flat(c, CS, cs, ATTR_CODE | (wide ? SEG_L : SEG_DB));
    set_flat(c, SS, cs + 8, ATTR_DATA);
    cpu_update_mode(c);
}

void insn_sysexit(struct cpu *c, const struct x86_insn *i)
{
    u16 cs = (u16)c->sysenter_cs & 0xfffc;
    bool to64 = i->opsize == 8;
    check_sysenter(c);
    if (!cpu_protected(c) || cs == 0 || c->cpl != 0)
        cpu_throw_gp(c, 0);
    if (to64 && !(x86_canonical(c->reg[RCX]) && x86_canonical(c->reg[RDX])))
        cpu_throw_gp(c, 0);
    c->reg[RSP] = to64 ? c->reg[RCX] : (u32)c->reg[RCX];
    c->reg[X86_SLOT_RIP] = to64 ? c->reg[RDX] : (u32)c->reg[RDX];
    c->cpl = 3;
    set_flat(c, CS, (cs + (to64 ? 32 : 16)) | 3, ATTR_CODE | (to64 ? SEG_L : SEG_DB));
    set_flat(c, SS, (cs + (to64 ? 40 : 24)) | 3, ATTR_DATA);
    cpu_update_mode(c);
}

/* --- PUSHF, POPF (SDM vol. 2; vol. 3A, 20.3 for VME) --- */

static bool v86_needs_iopl(const struct cpu *c)
{
    return cpu_v86(c) && cpu_iopl(c) < 3;
}

void insn_pushf(struct cpu *c, const struct x86_insn *i)
{
    u32 fl = cpu_flags(c) & ~(FLAG_VM | FLAG_RF);
    if (v86_needs_iopl(c)) {
        if (!(c->cr4 & CR4_VME) || i->opsize != 2)
            cpu_throw_gp(c, 0);
        fl = (fl & ~FLAG_IF) | FLAG_IOPL | (fl & FLAG_VIF ? FLAG_IF : 0);
    }
    cpu_push(c, i->opsize, fl);
}

static u32 popf_mask(const struct cpu *c, unsigned opsize)
{
    u32 mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;
    if (c->cpl <= cpu_iopl(c))
        mask |= FLAG_IF;
    if (c->cpl == 0)
        mask |= FLAG_IOPL;
    return opsize == 2 ? mask & 0xffff : mask;
}

static void popf_vme(struct cpu *c)
{
    u64 sp = c->reg[RSP];
    u32 fl = (u32)cpu_pop(c, 2);
    if ((fl & FLAG_IF && c->eflags & FLAG_VIP) || fl & FLAG_TF) {
        c->reg[RSP] = sp;
        cpu_throw_gp(c, 0);
    }
    u32 mask = FLAGS_ARITH | FLAG_DF | FLAG_NT | FLAG_TF | FLAG_VIF;
    fl |= fl & FLAG_IF ? FLAG_VIF : 0;
    cpu_set_flags(c, (cpu_flags(c) & ~(mask | FLAG_RF)) | (fl & mask));
}

void insn_popf(struct cpu *c, const struct x86_insn *i)
{
    if (v86_needs_iopl(c)) {
        if (!(c->cr4 & CR4_VME) || i->opsize != 2)
            cpu_throw_gp(c, 0);
        popf_vme(c);
        return;
    }
    u32 mask = popf_mask(c, i->opsize);
    u32 fl = (u32)cpu_pop(c, i->opsize);
    cpu_set_flags(c, (cpu_flags(c) & ~(mask | FLAG_RF)) | (fl & mask));
}

/* --- CLI, STI --- */

/* Which flag CLI and STI act on: IF, or VIF under VME and PVI; 0 is #GP(0). */
static u32 interrupt_flag(const struct cpu *c)
{
    if (!cpu_protected(c) || c->cpl <= cpu_iopl(c))
        return FLAG_IF;
    bool virtual = c->cpl == 3 && c->cr4 & (cpu_v86(c) ? CR4_VME : CR4_PVI);
    return virtual ? FLAG_VIF : 0;
}

void insn_cli(struct cpu *c, const struct x86_insn *i)
{
    u32 flag = interrupt_flag(c);
    if (!flag)
        cpu_throw_gp(c, 0);
    c->eflags &= ~flag;
    if (flag == FLAG_IF)
        c->event_mask &= ~EV_INTR;
}

void insn_sti(struct cpu *c, const struct x86_insn *i)
{
    u32 flag = interrupt_flag(c);
    if (!flag || (flag == FLAG_VIF && c->eflags & FLAG_VIP))
        cpu_throw_gp(c, 0);
    if (flag == FLAG_IF && !(c->eflags & FLAG_IF)) {
        c->event_mask |= EV_INTR;
        c->shadow = true;
        cpu_event_set(c, EV_SLOW); /* the next instruction alone */
    }
    c->eflags |= flag;
}
