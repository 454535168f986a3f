/*
 * direct_scan.c - which pages of code may run on the host as they are.
 *
 * Instructions that a process can execute, but that would see the host or touch what is not saved
 * with a process, have no place there: they get breakpoints, if they are few. A page is decoded
 * from some way before it on, since where decoding begins soon makes no difference, and from where
 * it was entered.
 */
#include "cpu/cpu_cpuid.h"
#include "engine/direct/direct_priv.h"

/* POPF, because TF, AC and ID are not saved and restored between engines. */
static bool is_sensitive(enum x86_op op)
{
    switch (op) {
    case X86_POPF:
    case X86_MOV_FROM_SREG:
    case X86_MOV_TO_SREG:
    case X86_PUSH_SREG:
    case X86_POP_SREG:
    case X86_LES:
    case X86_LDS:
    case X86_LSS:
    case X86_LFS:
    case X86_LGS:
    case X86_CALL_FAR:
    case X86_CALL_FAR_IND:
    case X86_JMP_FAR:
    case X86_JMP_FAR_IND:
    case X86_RET_FAR:
    case X86_IRET:
    case X86_INTO:
    case X86_ARPL:
    case X86_LAR:
    case X86_LSL:
    case X86_VERR:
    case X86_VERW:
    case X86_SGDT:
    case X86_SIDT:
    case X86_SLDT:
    case X86_STR:
    case X86_SMSW:
    case X86_SYSENTER:
    case X86_VMCALL: /* the host's hypervisor would answer, or rewrite it */
    case X86_VMMCALL:
    case X86_RDPMC:
    case X86_RDPID:
    case X86_CPUID: /* the host could let it fault, at 5 us for each switch of a virtual machine's
                     */
        return true;
    default:
        return false;
    }
}

static bool is_xstate(enum x86_op op)
{
    switch (op) {
    case X86_XGETBV:
    case X86_XSAVE:
    case X86_XSAVEC:
    case X86_XSAVEOPT:
    case X86_XRSTOR:
        return true;
    default:
        return false;
    }
}

static bool may_run(const struct cpu *c, const struct x86_decoded *d, const struct scan_rules *r)
{
    enum x86_op op = (enum x86_op)d->op;
    u32 attr = x86_row(&d->i)->attr;
    if (is_sensitive(op) || (is_xstate(op) && !r->xstate) ||
        (attr & (X86_AVX | X86_AVX512) && !r->avx) ||
        (attr & X86_AND_AVX && !cpu_has(c, X86_F_AVX)) ||
        (attr & X86_AND_AVX512 && !cpu_has(c, X86_F_AVX512F)))
        return false;
    switch (op) {
    case X86_SYSCALL: /* of 32-bit code it is not a process's to make on every host */
        return r->mode64;
    case X86_INT: /* the host's own: INT 3 and 4 trap, INT 80h of 64-bit code loses half of RAX */
        return d->i.imm > 4 && (d->i.imm != 0x80 || !r->mode64);
    case X86_RDFSBASE:
    case X86_RDGSBASE:
    case X86_WRFSBASE:
    case X86_WRGSBASE:
        return r->fsgsbase;
    default:
        return cpu_has(c, (enum x86_feature)x86_row(&d->i)->feature);
    }
}

/* XBEGIN, XABORT: popf has none, but the host may. (XTEST only says that there is no transaction. C
 * libraries are full of it, in functions that they choose by CPUID.) */
static bool is_transaction(const u8 *p)
{
    return (p[0] == 0xc7 || p[0] == 0xc6) && p[1] == 0xf8;
}

static void found(struct verdict *v, unsigned at)
{
    if (at < SCAN_BEFORE)
        return;
    if (v->n < BREAKPOINTS)
        v->at[v->n] = (s16)(at - SCAN_BEFORE);
    v->n += v->n <= BREAKPOINTS;
}

/* Decodes from an offset on, until the end or what has been seen. */
static void sweep(const struct cpu *c, const struct scan_page *p, const struct scan_rules *rules,
                  unsigned at, u64 *seen, struct verdict *v)
{
    while (at < SCAN_BEFORE + PAGE_SIZE && !(seen[at >> 6] >> (at & 63) & 1)) {
        struct x86_decoded d;
        seen[at >> 6] |= 1ull << (at & 63);
        if (x86_decode(p->code + at, (unsigned)sizeof(p->code) - at,
                       rules->mode64 ? X86_MODE64 : X86_MODE32, &d) != X86_OK) {
            v->crosses |= at + 15 > SCAN_BEFORE + PAGE_SIZE;
            if (is_transaction(p->code + at))
                found(v, at);
            at++; /* data, or what faults here as there */
            continue;
        }
        if (!may_run(c, &d, rules))
            found(v, at);
        at += d.i.len;
        v->crosses |= at > SCAN_BEFORE + PAGE_SIZE;
    }
}

void direct_scan(const struct cpu *c, const struct scan_page *p, const struct scan_rules *rules,
                 unsigned entry, struct verdict *v)
{
    u64 seen[(SCAN_BEFORE + PAGE_SIZE) / 64] = {0};
    v->n = 0;
    v->crosses = false;
    sweep(c, p, rules, p->has_before ? 0 : SCAN_BEFORE, seen, v);
    sweep(c, p, rules, SCAN_BEFORE + entry, seen, v);
}
