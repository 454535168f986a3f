/*
 * kvm_state.c - the registers of a virtual CPU, between struct cpu and KVM; its CPUID.
 *
 * MSRs fall in two groups. Those that the hardware acts on are KVM's while the guest runs, and are
 * in the table below; all others (memory types, machine check, microcode, TSC adjustment...) stay
 * in struct cpu and the guest's accesses to them exit to cpu_msr.c, so that every engine answers
 * alike. The filter that divides them is in kvm.c: ORDER KVM_MSR.
 */
#include "engine/kvm/kvm_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_ctl.h"
#include "cpu/cpu_event.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"
#include "cpu/cpu_paging.h"
#include "cpu/cpu_seg.h"

#define XSAVE_HEADER_BV 512 /* XSTATE_BV in the XSAVE area (SDM vol. 1, 13.4.2) */

/* ORDER KVM_MSR */
static const struct kvm_msr_field msr_fields[] = {
    {MSR_IA32_SPEC_CTRL, offsetof(struct cpu, spec_ctrl)},
    {MSR_IA32_SYSENTER_CS, offsetof(struct cpu, sysenter_cs)},
    {MSR_IA32_SYSENTER_ESP, offsetof(struct cpu, sysenter_esp)},
    {MSR_IA32_SYSENTER_EIP, offsetof(struct cpu, sysenter_eip)},
    {MSR_IA32_DEBUGCTL, offsetof(struct cpu, debugctl)},
    {MSR_IA32_PAT, offsetof(struct cpu, pat)},
    {MSR_IA32_XSS, offsetof(struct cpu, xss)},
    {MSR_STAR, offsetof(struct cpu, star)},
    {MSR_LSTAR, offsetof(struct cpu, lstar)},
    {MSR_CSTAR, offsetof(struct cpu, cstar)},
    {MSR_SFMASK, offsetof(struct cpu, sfmask)},
    {MSR_KERNEL_GS_BASE, offsetof(struct cpu, kernel_gs_base)},
    {MSR_TSC_AUX, offsetof(struct cpu, tsc_aux)},
};
static_assert(ARRAY_SIZE(msr_fields) <= KVM_MSR_FIELDS_MAX, "struct kvm_vcpu has room for all");

bool kvm_state_has_msr(u32 msr)
{
    for (unsigned i = 0; i < ARRAY_SIZE(msr_fields); i++)
        if (msr_fields[i].msr == msr)
            return true;
    return msr == MSR_EFER || msr == MSR_FS_BASE || msr == MSR_GS_BASE ||
           msr == MSR_IA32_PRED_CMD || msr == MSR_IA32_FLUSH_CMD ||
           msr == MSR_IA32_ARCH_CAPABILITIES;
}

/* --- CPUID: the model, as far as the hardware goes along --- */

enum { EAX, EBX, ECX, EDX };

#define B(n) (1u << (n))

/* Feature words that KVM must agree to; `ours` are bits that popf provides without it. */
static const struct {
    u32 leaf, subleaf;
    u8 reg;
    u32 ours;
} feature_words[] = {
    {1, 0, ECX, B(21) | B(24) | B(31)},               /* x2APIC, TSC deadline, hypervisor */
    {1, 0, EDX, B(7) | B(9) | B(12) | B(14) | B(28)}, /* MCE, APIC, MTRR, MCA, HTT */
    {7, 0, EBX, B(1)},                                /* IA32_TSC_ADJUST */
    {7, 0, ECX, 0},
    {7, 0, EDX, 0},
    {7, 1, EAX, 0},
    {7, 1, EDX, 0},
    {7, 2, EDX, 0},
    {0xd, 0, EAX, 0},
    {0xd, 0, EDX, 0},
    {0xd, 1, EAX, 0},
    {0x80000001, 0, ECX, B(1)}, /* CmpLegacy */
    {0x80000001, 0, EDX, 0},
    {0x80000008, 0, EBX, 0},
    {0x80000021, 0, EAX, 0},
};

struct kvm_cpuid2 *kvm_cpuid_new(void)
{
    struct kvm_cpuid2 *list =
        calloc(1, sizeof(*list) + KVM_CPUID_MAX * sizeof(struct kvm_cpuid_entry2));
    if (list)
        list->nent = KVM_CPUID_MAX;
    return list;
}

static u32 *cpuid_reg(struct kvm_cpuid_entry2 *e, unsigned reg)
{
    return reg == EAX ? &e->eax : reg == EBX ? &e->ebx : reg == ECX ? &e->ecx : &e->edx;
}

static struct kvm_cpuid_entry2 *find_leaf(struct kvm_cpuid2 *list, u32 leaf, u32 subleaf)
{
    for (u32 i = 0; i < list->nent; i++)
        if (list->entries[i].function == leaf && list->entries[i].index == subleaf)
            return &list->entries[i];
    return NULL;
}

static void cut_features(struct kvm_cpuid2 *list, struct kvm_cpuid2 *supported)
{
    for (unsigned i = 0; i < ARRAY_SIZE(feature_words); i++) {
        u32 leaf = feature_words[i].leaf, subleaf = feature_words[i].subleaf;
        struct kvm_cpuid_entry2 *mine = find_leaf(list, leaf, subleaf);
        struct kvm_cpuid_entry2 *kvms = find_leaf(supported, leaf, subleaf);
        u32 have = kvms ? *cpuid_reg(kvms, feature_words[i].reg) : 0;
        if (mine)
            *cpuid_reg(mine, feature_words[i].reg) &= have | feature_words[i].ours;
    }
    struct kvm_cpuid_entry2 *mine = find_leaf(list, 0x80000008, 0);
    const struct kvm_cpuid_entry2 *kvms = find_leaf(supported, 0x80000008, 0);
    if (mine && kvms && (kvms->eax & 0xff) && (kvms->eax & 0xff) < (mine->eax & 0xff))
        mine->eax = (mine->eax & ~0xffu) | (kvms->eax & 0xff);
}

/* Leaf 0DH speaks of the components that are left; returns them, 0 without XSAVE. */
static u64 cut_xsave(struct kvm_cpuid2 *list)
{
    const struct kvm_cpuid_entry2 *one = find_leaf(list, 1, 0), *d = find_leaf(list, 0xd, 0);
    u64 xcr0 = one && d && one->ecx & B(26) ? d->eax | (u64)d->edx << 32 : 0;
    for (u32 i = 0; i < list->nent; i++) {
        struct kvm_cpuid_entry2 *e = &list->entries[i];
        bool component = e->index >= 2 && e->index < 63;
        if (e->function == 0xd && (!xcr0 || (component && !(xcr0 & BIT(e->index)))))
            e->eax = e->ebx = e->ecx = e->edx = 0;
    }
    return xcr0;
}

static void fill_leaves(const struct cpu *c, struct kvm_cpuid2 *list)
{
    struct cpu_cpuid_entry m[KVM_CPUID_MAX];
    list->nent = cpu_model_entries(c->model, m, KVM_CPUID_MAX);
    for (u32 i = 0; i < list->nent; i++) {
        u32 r[4];
        cpu_cpuid(c, m[i].leaf, m[i].subleaf, r); /* with this CPU's APIC id */
        list->entries[i] = (struct kvm_cpuid_entry2){
            .function = m[i].leaf,
            .index = m[i].subleaf,
            .flags = m[i].has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = r[EAX],
            .ebx = r[EBX],
            .ecx = r[ECX],
            .edx = r[EDX],
        };
    }
}

int kvm_cpuid_set(struct kvm_vcpu *v, struct err *e)
{
    struct kvm_cpuid2 *list = kvm_cpuid_new();
    if (!list)
        return err_set(e, "out of memory creating a virtual CPU");
    fill_leaves(v->c, list);
    cut_features(list, v->en->supported);
    v->xcr0 = cut_xsave(list);
    int r = ioctl(v->fd, KVM_SET_CPUID2, list);
    free(list);
    return r < 0 ? err_errno(e, "KVM refuses the CPU model") : 0;
}

/* --- asking KVM --- */

/* One ioctl of the vCPU's, with its failure put in words. */
static int call(struct kvm_vcpu *v, unsigned long nr, const char *name, void *arg, struct err *e)
{
    if (ioctl(v->fd, nr, arg) >= 0)
        return 0;
    return err_errno(e, "KVM refuses %s for CPU %u", name, v->c->id);
}

#define CALL(v, nr, arg, e) call((v), (nr), #nr, (arg), (e))

/* --- general registers --- */

static u64 *reg_at(struct kvm_regs *r, unsigned n)
{
    u64 *const at[16] = {
        [RAX] = (u64 *)&r->rax, [RCX] = (u64 *)&r->rcx, [RDX] = (u64 *)&r->rdx,
        [RBX] = (u64 *)&r->rbx, [RSP] = (u64 *)&r->rsp, [RBP] = (u64 *)&r->rbp,
        [RSI] = (u64 *)&r->rsi, [RDI] = (u64 *)&r->rdi, [R8] = (u64 *)&r->r8,
        [R9] = (u64 *)&r->r9,   [R10] = (u64 *)&r->r10, [R11] = (u64 *)&r->r11,
        [R12] = (u64 *)&r->r12, [R13] = (u64 *)&r->r13, [R14] = (u64 *)&r->r14,
        [R15] = (u64 *)&r->r15,
    };
    return at[n];
}

static int read_regs(struct kvm_vcpu *v, struct err *e)
{
    struct kvm_regs r;
    if (CALL(v, KVM_GET_REGS, &r, e))
        return -1;
    for (unsigned n = 0; n < 16; n++)
        v->c->reg[n] = *reg_at(&r, n);
    v->c->reg[X86_SLOT_RIP] = r.rip;
    cpu_set_flags(v->c, (u32)r.rflags);
    return 0;
}

static int write_regs(struct kvm_vcpu *v, struct err *e)
{
    struct kvm_regs r = {.rip = v->c->reg[X86_SLOT_RIP], .rflags = cpu_flags(v->c)};
    for (unsigned n = 0; n < 16; n++)
        *reg_at(&r, n) = v->c->reg[n];
    return CALL(v, KVM_SET_REGS, &r, e);
}

u64 kvm_state_rip(struct kvm_vcpu *v)
{
    struct kvm_regs r;
    if (v->owner != OWNER_KVM || ioctl(v->fd, KVM_GET_REGS, &r) < 0)
        return v->c->reg[X86_SLOT_RIP];
    return r.rip;
}

/* --- segments and control registers --- */

static void read_seg(struct seg *s, const struct kvm_segment *k)
{
    s->sel = k->selector;
    s->base = k->base;
    s->limit = k->limit;
    s->attr = (k->type & SEG_TYPE) | (k->s ? SEG_S : 0) | (k->dpl & 3u) << SEG_DPL_SHIFT |
              (k->present ? SEG_P : 0) | (k->avl ? SEG_AVL : 0) | (k->l ? SEG_L : 0) |
              (k->db ? SEG_DB : 0) | (k->g ? SEG_G : 0) | (k->unusable ? SEG_UNUSABLE : 0);
}

static void write_seg(const struct seg *s, struct kvm_segment *k)
{
    *k = (struct kvm_segment){
        .selector = s->sel,
        .base = s->base,
        .limit = s->limit,
        .type = s->attr & SEG_TYPE,
        .s = !!(s->attr & SEG_S),
        .dpl = (s->attr & SEG_DPL) >> SEG_DPL_SHIFT,
        .present = s->attr & SEG_P && !(s->attr & SEG_UNUSABLE),
        .avl = !!(s->attr & SEG_AVL),
        .l = !!(s->attr & SEG_L),
        .db = !!(s->attr & SEG_DB),
        .g = !!(s->attr & SEG_G),
        .unusable = !!(s->attr & SEG_UNUSABLE),
    };
}

static struct kvm_segment *seg_at(struct kvm_sregs *s, unsigned n)
{
    struct kvm_segment *const at[6] = {
        [ES] = &s->es, [CS] = &s->cs, [SS] = &s->ss, [DS] = &s->ds, [FS] = &s->fs, [GS] = &s->gs,
    };
    return at[n];
}

/* KVM takes the CPL from SS.DPL (SDM vol. 3C, 24.4.1). */
static u8 cpl_of(const struct cpu *c, bool v86)
{
    if (!(c->cr0 & CR0_PE))
        return 0;
    return v86 ? 3 : (c->seg[SS].attr & SEG_DPL) >> SEG_DPL_SHIFT;
}

static int read_sregs(struct kvm_vcpu *v, struct err *e)
{
    struct cpu *c = v->c;
    struct kvm_sregs s;
    struct kvm_regs r;
    if (CALL(v, KVM_GET_SREGS, &s, e) || CALL(v, KVM_GET_REGS, &r, e))
        return -1;
    for (unsigned n = 0; n < 6; n++)
        read_seg(&c->seg[n], seg_at(&s, n));
    read_seg(&c->ldtr, &s.ldt);
    read_seg(&c->tr, &s.tr);
    c->gdtr = (struct dtable){.base = s.gdt.base, .limit = s.gdt.limit};
    c->idtr = (struct dtable){.base = s.idt.base, .limit = s.idt.limit};
    c->cr0 = s.cr0;
    c->cr2 = s.cr2;
    c->cr3 = s.cr3;
    c->cr4 = s.cr4;
    c->efer = s.efer;
    c->cpl = cpl_of(c, r.rflags & FLAG_VM);
    return 0;
}

/* What VM entry demands of a segment in V86 mode (SDM vol. 3C, 26.3.1.2). */
static void as_v86(struct kvm_segment *k)
{
    struct seg s = {.sel = k->selector,
                    .base = (u64)k->selector << 4,
                    .limit = 0xffff,
                    .attr = SEG_P | SEG_DPL | SEG_S | SEG_WRITABLE | SEG_ACCESSED};
    write_seg(&s, k);
}

/* With the local APIC in popf, KVM only wants to know whether it is on. x2APIC mode is our own. */
static u64 apic_base(struct cpu *c)
{
    const u64 x2apic = BIT(10);
    u64 base;
    if (!c->world->msr_read || c->world->msr_read(c, MSR_IA32_APIC_BASE, &base))
        base = 0xfee00000 | BIT(11) | (c->id == 0 ? BIT(8) : 0);
    return base & ~x2apic;
}

static int write_sregs(struct kvm_vcpu *v, struct err *e)
{
    struct cpu *c = v->c;
    struct kvm_sregs s = {
        .gdt = {.base = c->gdtr.base, .limit = c->gdtr.limit},
        .idt = {.base = c->idtr.base, .limit = c->idtr.limit},
        .cr0 = c->cr0,
        .cr2 = c->cr2,
        .cr3 = c->cr3,
        .cr4 = c->cr4,
        .cr8 = c->world->cr8_read(c) & 15,
        .efer = c->efer,
        .apic_base = apic_base(c),
    };
    for (unsigned n = 0; n < 6; n++) {
        write_seg(&c->seg[n], seg_at(&s, n));
        if (cpu_v86(c))
            as_v86(seg_at(&s, n));
    }
    s.ss.dpl = c->cpl;
    write_seg(&c->ldtr, &s.ldt);
    write_seg(&c->tr, &s.tr);
    v->apic_base_moved = false;
    return CALL(v, KVM_SET_SREGS, &s, e);
}

int kvm_state_apic_base(struct kvm_vcpu *v, struct err *e)
{
    struct kvm_sregs s;
    v->apic_base_moved = false;
    if (CALL(v, KVM_GET_SREGS, &s, e))
        return -1;
    s.apic_base = apic_base(v->c);
    return CALL(v, KVM_SET_SREGS, &s, e);
}

/* --- MSRs --- */

struct one_msr {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
};

struct all_msrs {
    struct kvm_msrs head;
    struct kvm_msr_entry entry[KVM_MSR_FIELDS_MAX];
};

static bool msr_works(struct kvm_vcpu *v, u32 msr)
{
    struct one_msr m = {.head.nmsrs = 1, .entry.index = msr};
    return ioctl(v->fd, KVM_GET_MSRS, &m) == 1 && ioctl(v->fd, KVM_SET_MSRS, &m) == 1;
}

/* The flaws of the real CPU, which the guest has to know when it runs on it directly. */
static void set_arch_capabilities(struct kvm_vcpu *v)
{
    struct one_msr m = {.head.nmsrs = 1, .entry.index = MSR_IA32_ARCH_CAPABILITIES};
    if (ioctl(v->en->kvm, KVM_GET_MSRS, &m) == 1)
        ioctl(v->fd, KVM_SET_MSRS, &m); /* refused where the guest has no such register */
}

/* struct cpu.tsc_ratio, with the hardware's scaling. */
static int scale_tsc(struct kvm_vcpu *v, struct err *e)
{
    u64 ratio = v->c->tsc_ratio;
    long host_khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
    if (!ratio || ratio == BIT(32))
        return 0;
    if (host_khz > 0) {
        u64 khz = (u64)((u128)(u64)host_khz * ratio >> 32);
        if (ioctl(v->fd, KVM_SET_TSC_KHZ, khz) == 0)
            return 0;
    }
    return err_set(e, "this host's KVM cannot run the time-stamp counter at another frequency");
}

int kvm_state_probe(struct kvm_vcpu *v, struct err *e)
{
    for (unsigned i = 0; i < ARRAY_SIZE(msr_fields); i++)
        if (msr_works(v, msr_fields[i].msr))
            v->msr[v->nmsrs++] = msr_fields[i];
    set_arch_capabilities(v);
    v->xsave_size = sizeof(struct kvm_xsave);
    if (v->en->xsave2_size > v->xsave_size)
        v->xsave_size = v->en->xsave2_size;
    if (cpu_fpu_size(v->c) > v->xsave_size)
        return err_set(e, "KVM has %u bytes of FP state, this CPU model %u", v->xsave_size,
                       cpu_fpu_size(v->c));
    v->xsave = calloc(1, v->xsave_size);
    if (!v->xsave)
        return err_set(e, "out of memory creating a virtual CPU");
    v->tsc_offset = ~v->c->tsc_offset; /* unlike it: not told yet */
    return scale_tsc(v, e);
}

static u64 *field(struct kvm_vcpu *v, unsigned i)
{
    return (u64 *)((u8 *)v->c + v->msr[i].at);
}

static int read_msrs(struct kvm_vcpu *v, struct err *e)
{
    struct all_msrs m = {.head.nmsrs = v->nmsrs};
    for (unsigned i = 0; i < v->nmsrs; i++)
        m.entry[i].index = v->msr[i].msr;
    int n = ioctl(v->fd, KVM_GET_MSRS, &m);
    if (n < (int)v->nmsrs)
        return err_set(e, "KVM does not give MSR %#x", v->msr[n < 0 ? 0 : n].msr);
    for (unsigned i = 0; i < v->nmsrs; i++)
        *field(v, i) = m.entry[i].data;
    return 0;
}

static int write_msrs(struct kvm_vcpu *v, struct err *e)
{
    struct all_msrs m = {.head.nmsrs = v->nmsrs};
    for (unsigned i = 0; i < v->nmsrs; i++)
        m.entry[i] = (struct kvm_msr_entry){.index = v->msr[i].msr, .data = *field(v, i)};
    int n = ioctl(v->fd, KVM_SET_MSRS, &m);
    if (n >= (int)v->nmsrs)
        return 0;
    const struct kvm_msr_entry *bad = &m.entry[n < 0 ? 0 : n];
    return err_set(e, "KVM refuses MSR %#x = %#llx", bad->index, (unsigned long long)bad->data);
}

/*
 * Exactly, where KVM takes an offset (Linux 5.16); else by the counter's value, now. Some software
 * KVMs take it and do nothing: then the machine goes by the counter that the guest really sees.
 */
int kvm_state_tsc(struct kvm_vcpu *v, struct err *e)
{
    struct cpu *c = v->c;
    u64 offset = c->tsc_offset;
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)&offset};
    if (v->tsc_offset == offset)
        return 0;
    if (ioctl(v->fd, KVM_SET_DEVICE_ATTR, &attr) == 0 &&
        ioctl(v->fd, KVM_GET_DEVICE_ATTR, &attr) == 0) {
        if (offset != c->tsc_offset)
            log_info(c->log, "cpu%u: this KVM cannot move the time-stamp counter", c->id);
        c->tsc_offset = v->tsc_offset = offset;
        return 0;
    }
    struct one_msr m = {.head.nmsrs = 1, .entry = {.index = MSR_IA32_TSC, .data = cpu_tsc(c)}};
    if (ioctl(v->fd, KVM_SET_MSRS, &m) != 1)
        return err_set(e, "KVM refuses to set the time-stamp counter");
    v->tsc_offset = c->tsc_offset;
    return 0;
}

/* --- floating point --- */

static int read_fpu(struct kvm_vcpu *v, struct err *e)
{
    bool big = v->en->xsave2_size != 0;
    if (big ? CALL(v, KVM_GET_XSAVE2, v->xsave, e) : CALL(v, KVM_GET_XSAVE, v->xsave, e))
        return -1;
    if (cpu_fpu_set(v->c, v->xsave))
        return err_set(e, "KVM's FP state does not fit the CPU model");
    if (!v->xcr0)
        return 0;
    struct kvm_xcrs x;
    if (CALL(v, KVM_GET_XCRS, &x, e))
        return -1;
    for (unsigned i = 0; i < x.nr_xcrs && i < KVM_MAX_XCRS; i++)
        if (x.xcrs[i].xcr == 0)
            v->c->xcr0 = x.xcrs[i].value;
    return 0;
}

/* The image holds x87 and SSE even where XSTATE_BV calls them initial; KVM would not take MXCSR. */
static int write_fpu(struct kvm_vcpu *v, struct err *e)
{
    struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs[0] = {.value = v->c->xcr0 & v->xcr0}};
    u64 present;
    if (v->xcr0 && CALL(v, KVM_SET_XCRS, &x, e))
        return -1;
    memset(v->xsave, 0, v->xsave_size);
    cpu_fpu_get(v->c, v->xsave);
    memcpy(&present, v->xsave + XSAVE_HEADER_BV, sizeof(present));
    present = (present & v->xcr0) | XCR0_X87 | XCR0_SSE;
    memcpy(v->xsave + XSAVE_HEADER_BV, &present, sizeof(present));
    return CALL(v, KVM_SET_XSAVE, v->xsave, e);
}

/* --- debug registers --- */

static int read_debug(struct kvm_vcpu *v, struct err *e)
{
    struct kvm_debugregs d;
    if (CALL(v, KVM_GET_DEBUGREGS, &d, e))
        return -1;
    for (unsigned n = 0; n < 4; n++)
        v->c->dr[n] = d.db[n];
    v->c->dr[6] = d.dr6 | DR6_FIXED;
    v->c->dr[7] = d.dr7 | DR7_FIXED;
    return 0;
}

static int write_debug(struct kvm_vcpu *v, struct err *e)
{
    struct kvm_debugregs d = {.dr6 = v->c->dr[6], .dr7 = v->c->dr[7]};
    for (unsigned n = 0; n < 4; n++)
        d.db[n] = v->c->dr[n];
    return CALL(v, KVM_SET_DEBUGREGS, &d, e);
}

/* --- what is on its way into the guest --- */

/*
 * An interrupt by INT n that was cut short is not kept: RIP is still at the instruction, which will
 * be executed again. An NMI that KVM has not begun to deliver goes back to where it came from.
 */
static int read_events(struct kvm_vcpu *v, struct err *e)
{
    struct cpu *c = v->c;
    struct kvm_vcpu_events ev = {0};
    if (CALL(v, KVM_GET_VCPU_EVENTS, &ev, e))
        return -1;
    c->exc = (struct cpu_exc){0};
    if (ev.exception.injected || ev.exception.pending)
        c->exc = (struct cpu_exc){.pending = true,
                                  .vec = ev.exception.nr,
                                  .has_err = ev.exception.has_error_code,
                                  .err = ev.exception.error_code};
    else if (ev.nmi.injected)
        c->exc = (struct cpu_exc){.pending = true, .ext = true, .vec = EXC_NMI};
    else if (ev.interrupt.injected && !ev.interrupt.soft)
        c->exc = (struct cpu_exc){.pending = true, .ext = true, .vec = ev.interrupt.nr};
    c->delivering = -1;
    c->delivering_ext = false;
    c->db_pending = 0;
    c->shadow = ev.interrupt.shadow & KVM_X86_SHADOW_INT_STI;
    c->shadow_ss = ev.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
    c->nmi_blocked = ev.nmi.masked;
    if (ev.nmi.pending) {
        cpu_event_set(c, EV_NMI);
        v->owner = OWNER_CPU; /* KVM must forget it */
    }
    return 0;
}

/* Settles in struct cpu what KVM has no words for: nested delivery, debug traps that are due. */
static void simplify(struct cpu *c)
{
    if (c->exc.pending)
        cpu_exc_merge(c);
    c->delivering = -1;
    if (!c->db_pending || c->exc.pending)
        return;
    c->dr[6] = (c->dr[6] & ~0xfull) | c->db_pending | DR6_FIXED;
    c->db_pending = 0;
    c->activity = CPU_RUNNING;
    c->exc = (struct cpu_exc){.pending = true, .vec = EXC_DB, .trap = true};
}

static int write_events(struct kvm_vcpu *v, struct err *e)
{
    struct cpu *c = v->c;
    struct kvm_vcpu_events ev = {.flags = KVM_VCPUEVENT_VALID_NMI_PENDING,
                                 .nmi.masked = c->nmi_blocked};
    if (v->en->shadow) {
        ev.flags |= KVM_VCPUEVENT_VALID_SHADOW;
        ev.interrupt.shadow = (c->shadow ? KVM_X86_SHADOW_INT_STI : 0) |
                              (c->shadow_ss ? KVM_X86_SHADOW_INT_MOV_SS : 0);
    }
    if (c->exc.pending && c->exc.vec == EXC_NMI) {
        ev.nmi.injected = 1;
    } else if (c->exc.pending && (c->exc.ext || c->exc.vec > 31)) {
        ev.interrupt.injected = 1;
        ev.interrupt.nr = c->exc.vec;
    } else if (c->exc.pending) {
        ev.exception.injected = 1;
        ev.exception.nr = c->exc.vec;
        ev.exception.has_error_code = c->exc.has_err;
        ev.exception.error_code = c->exc.err;
    }
    return CALL(v, KVM_SET_VCPU_EVENTS, &ev, e);
}

/* --- all of it --- */

/* The PDPTE registers are not given out: they are loaded anew from where CR3 points. */
static void derive(struct cpu *c)
{
    c->insn = NULL;
    cpu_tlb_flush(c);
    cpu_update_mode(c);
    cpu_seg_derive(c);
    if (c->cr0 & CR0_PG && c->cr4 & CR4_PAE && !(c->efer & EFER_LMA))
        cpu_load_pdptes(c, c->cr3);
}

int kvm_state_read(struct kvm_vcpu *v, struct err *e)
{
    if (v->owner != OWNER_KVM)
        return 0;
    v->owner = OWNER_BOTH;
    int r = read_sregs(v, e) || read_regs(v, e) || read_msrs(v, e) || read_fpu(v, e) ||
            read_debug(v, e) || read_events(v, e);
    derive(v->c);
    return r ? -1 : 0;
}

int kvm_state_write(struct kvm_vcpu *v, struct err *e)
{
    if (v->owner != OWNER_CPU)
        return 0;
    simplify(v->c);
    v->window_known = false;
    if (write_sregs(v, e) || write_regs(v, e) || write_msrs(v, e) || write_fpu(v, e) ||
        write_debug(v, e) || write_events(v, e))
        return -1;
    v->owner = OWNER_BOTH;
    return 0;
}
