/* rows.c - which rows of the table are compared. */
#include "rows.h"

#include <stdio.h>
#include <string.h>

#include "x86/x86_table.h"

static const struct {
    u16 op;
    const char *why;
} skips[] = {
    {X86_RDTSC, "the time differs"},
    {X86_RDTSCP, "the time differs"},
    {X86_RDRAND, "random"},
    {X86_RDSEED, "random"},
    {X86_RDPID, "which CPU differs"},
    {X86_CPUID, "the model differs from the host"},
    {X86_XGETBV, "XCR0 differs from the host's (AMX, PKRU)"},
    {X86_RDPMC, "CR4.PCE is the host's"},
    {X86_RDPKRU, "CR4.PKE is the host's"},
    {X86_WRPKRU, "CR4.PKE is the host's"},
    {X86_SGDT, "Linux emulates it under UMIP"},
    {X86_SIDT, "Linux emulates it under UMIP"},
    {X86_SLDT, "Linux emulates it under UMIP"},
    {X86_STR, "Linux emulates it under UMIP"},
    {X86_SMSW, "Linux emulates it under UMIP"},
    {X86_SYSCALL, "enters the host's kernel"},
    {X86_SYSENTER, "enters the host's kernel"},
    {X86_VMCALL, "calls the host's hypervisor"},
    {X86_VMMCALL, "calls the host's hypervisor"},
    {X86_MONITOR, "an MSR of the host's decides on #UD"},
    {X86_MWAIT, "an MSR of the host's decides on #UD"},
    {X86_INT1, "Linux sends it on as a debug exception of its own"},
    {X86_XSAVE, "the host has state components that popf does not offer"},
    {X86_XSAVEOPT, "what it writes hangs on the host's use of the registers"},
    {X86_XSAVEC, "the host has state components that popf does not offer"},
    {X86_XRSTOR, "the host has state components that popf does not offer"},
};

const char *row_skip(unsigned row)
{
    for (unsigned n = 0; n < ARRAY_SIZE(skips); n++)
        if (skips[n].op == x86_rows[row].op)
            return skips[n].why;
    return NULL;
}

static bool faults(const struct x86_row *row)
{
    switch (row->op) {
    case X86_INT:
    case X86_INT3:
    case X86_UD0:
    case X86_UD1:
    case X86_UD2:
    case X86_IN:
    case X86_OUT:
    case X86_INS:
    case X86_OUTS:
    case X86_CLI:
    case X86_STI:
    case X86_CLAC:
    case X86_STAC:
    case X86_IRET:
    case X86_RET_FAR:
    case X86_CALL_FAR:
    case X86_CALL_FAR_IND:
    case X86_JMP_FAR:
    case X86_JMP_FAR_IND:
    case X86_LDS:
    case X86_LES:
    case X86_LSS:
    case X86_LFS:
    case X86_LGS:
    case X86_BOUND:
    case X86_FXRSTOR:
    case X86_LDMXCSR:
    case X86_POP_SREG:
    case X86_MOV_TO_SREG:
    case X86_FXSAVE:
        return true;
    default:
        return row->attr & X86_PRIV;
    }
}

enum row_class row_class(unsigned n)
{
    const struct x86_row *row = &x86_rows[n];
    if (faults(row))
        return ROW_FAULT;
    if (row->attr & X86_STRING)
        return ROW_STRING;
    if (row->attr & X86_X87)
        return ROW_X87;
    if (row->attr & (X86_MMX | X86_SSE))
        return ROW_SSE;
    if (row->attr & X86_HOST)
        return x86_encs[n].space > SPACE_EVEX ? ROW_EVEX : ROW_VEX;
    return row->attr & X86_ENDS_BLOCK ? ROW_BRANCH : ROW_INT;
}

bool row_is_fpu(unsigned row)
{
    const struct x86_row *r = &x86_rows[row];
    return r->attr & (X86_HOST | X86_X87 | X86_MMX | X86_SSE | X86_AVX | X86_AVX512) ||
           (r->op >= X86_FWAIT && r->op <= X86_STMXCSR);
}

static const struct {
    u16 op;
    u32 flags;
    const char *why;
} loose[] = {
    {X86_OP_COUNT, 0, NULL},
};

u32 row_loose_flags(unsigned row)
{
    for (unsigned n = 0; n < ARRAY_SIZE(loose); n++)
        if (loose[n].op == x86_rows[row].op)
            return loose[n].flags;
    return 0;
}

bool row_partial_regs(unsigned row)
{
    return x86_rows[row].op == X86_POPA;
}

bool row_partial_mem(unsigned row)
{
    switch (x86_rows[row].op) {
    case X86_PUSHA:
    case X86_ENTER:
    case X86_FXSAVE:
    case X86_FNSAVE:
    case X86_FNSTENV:
    case X86_FBSTP:
        return true;
    case X86_FSTP: /* m80 */
        return x86_rows[row].width[0] == 10;
    default:
        return false;
    }
}

bool row_partial_fpu(unsigned row)
{
    const struct x86_row *r = &x86_rows[row];
    /* MMX stores: the change from x87 to MMX has happened. VCVTPS2PH: MXCSR (SDM vol. 2C). */
    return (r->attr & X86_MMX && r->attr & X86_MEM_WRITE) || r->op == X86_MASKMOVQ ||
           r->op == X86_VCVTPS2PH;
}

bool row_faults_at_will(unsigned row)
{
    u16 op = x86_rows[row].op;
    return op == X86_MASKMOVQ || op == X86_MASKMOVDQU || op == X86_VMASKMOVDQU;
}

bool row_gathers(unsigned row)
{
    return x86_encs[row].vsib != 0;
}

bool row_loose_cr2(unsigned row)
{
    const struct x86_row *r = &x86_rows[row];
    switch (r->op) {
    case X86_VMASKMOVPS:
    case X86_VMASKMOVPD:
    case X86_VPMASKMOVD:
    case X86_VPMASKMOVQ:
    case X86_FXRSTOR:
    case X86_FLDENV:
    case X86_FNSTENV:
    case X86_FRSTOR:
    case X86_FNSAVE:
        return true;
    default:
        return x86_encs[row].evex & K && r->attr & X86_MEM_WRITE;
    }
}

const char *row_name(unsigned row, char *buf, unsigned size)
{
    static const char *const space[] = {
        "",         "0F ",        "0F38 ",      "0F3A ",   "VEX.0F ", "VEX.0F38 ", "VEX.0F3A ",
        "EVEX.0F ", "EVEX.0F38 ", "EVEX.0F3A ", "EVEX.4 ", "EVEX.5 ", "EVEX.6 "};
    const struct x86_enc *enc = &x86_encs[row];
    int n = snprintf(buf, size, "%s (%s%02X", x86_op_name(x86_rows[row].op), space[enc->space],
                     enc->opcode);
    if (enc->mask & 7 << 3)
        n += snprintf(buf + n, size - (unsigned)n, " /%u", enc->value >> 3 & 7);
    snprintf(buf + n, size - (unsigned)n, ")");
    return buf;
}
