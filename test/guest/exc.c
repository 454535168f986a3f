/*
 * exc.c - every exception that software can raise: vector, error code, saved instruction pointer (a
 * fault names the instruction, a trap the next one), RF, CR2 (SDM vol. 3A, chapter 6; vol.
 * 3B, 17.3), nested ones, and the stack in 64-bit mode. For both widths.
 */
#include "guest.h"

#define ERR_NONE 0xffffffffu

/* Descriptors of our own. */
#define SEL_ABSENT  (SEL_FREE + 0)  /* data, P = 0 */
#define SEL_SMALL   (SEL_FREE + 8)  /* data, 4 KiB - 1 */
#define SEL_READ    (SEL_FREE + 16) /* data, read-only */
#define SEL_EXEC    (SEL_FREE + 24) /* code, not readable */
#define SEL_RSVD    (SEL_FREE + 32) /* system, type 0 */
#define SEL_ABSCODE (SEL_FREE + 40) /* code, P = 0 */
#define SEL_CODE1   (SEL_FREE + 48) /* code, DPL 1 */
#define SEL_ABSENT0 (SEL_FREE + 56) /* data, P = 0, DPL 0 */
#define SEL_BEYOND  0x3f8           /* behind the GDT */

enum { AT, END };

struct exc {
    const char *name;
    const struct snip *s;
    u8 vec;
    u8 where; /* AT: fault, END: trap */
    u8 ring;
    u32 err;       /* ERR_NONE: none is pushed */
    u32 fl;        /* more flags */
    u32 cr0, ncr0; /* CR0 bits set and cleared meanwhile */
    u32 cr4, ncr4;
    word cr2; /* checked if the vector is #PF */
};

/* Runs it with the control registers asked for. */
static void run_case(const struct exc *e, struct ctx *c)
{
    word cr0 = read_cr0(), cr4 = read_cr4();
    ctx_init(c, e->s, e->ring);
    c->flags |= e->fl;
    write_cr4((cr4 | e->cr4) & ~(word)e->ncr4);
    write_cr0((cr0 | e->cr0) & ~(word)e->ncr0);
    run(c);
    write_cr0(cr0 & ~(word)CR0_TS);
    write_cr4(cr4);
    __asm__ volatile("fninit");
}

static unsigned rf_wrong; /* claimed once: some emulators never push RF */

static bool right(const struct exc *e, const struct ctx *c)
{
    word ip = e->where == AT ? e->s->at : e->s->end;
    if (e->vec == VEC_DONE)
        ip += 2; /* behind the INT */
    if (c->vec != e->vec || c->ip != ip)
        return false;
    if (e->err != ERR_NONE ? !c->has_err || c->err != e->err : c->has_err)
        return false;
    if (e->vec == PF && c->cr2 != e->cr2)
        return false;
    rf_wrong += !(c->flags & FL_RF) != (e->where == END);
    return true;
}

static void try_case(const struct exc *e)
{
    struct ctx c;
    run_case(e, &c);
    if (right(e, &c))
        ok(true, "%s", e->name);
    else
        ok(false, "%s: vector %lu err %lx IP at%s%lx CR2 %lx; want %d %x %s", e->name, c.vec, c.err,
           c.ip < e->s->at ? "-" : "+", c.ip < e->s->at ? e->s->at - c.ip : c.ip - e->s->at, c.cr2,
           e->vec, e->err, e->where == AT ? "at" : "end");
}

/* --- 6.15, one by one --- */

SNIP(div_zero, "xor %edx, %edx; xor %ecx, %ecx; mov $1, %eax", "div %ecx");
SNIP(div_big, "mov $1, %ecx; mov $1, %edx; xor %eax, %eax", "div %ecx");
SNIP(idiv_min, "mov $0x80000000, %eax; cltd; mov $-1, %ecx", "idiv %ecx");
SNIP(div8_big, "mov $0x1000, %eax; mov $16, %ecx", "div %cl");
SNIP(icebp, "", ".byte 0xf1");
SNIP(nop, "", "nop");
SNIP(int3, "", "int3");
SNIP(int_3, "", ".byte 0xcd, 3");
SNIP(ud2, "", "ud2");
SNIP(ud1, "", ".byte 0x0f, 0xb9, 0xc0");
SNIP(lock_reg, "", ".byte 0xf0, 0x01, 0xc0");
SNIP(lock_cmp, "", ".byte 0xf0, 0x39, 0x04, 0x24");
SNIP(lock_nop, "", ".byte 0xf0, 0x90");
SNIP(lock_mov, "", ".byte 0xf0, 0x89, 0x04, 0x24");
SNIP(mov_cs, "", ".byte 0x8e, 0xc8");
SNIP(mov_seg6, "", ".byte 0x8e, 0xf0");
SNIP(mov_cr1, "", ".byte 0x0f, 0x20, 0xc8");
SNIP(cmpxchg8b_reg, "", ".byte 0x0f, 0xc7, 0xc8");
SNIP(lea_reg, "", ".byte 0x8d, 0xc0");
SNIP(rsm, "", ".byte 0x0f, 0xaa");
SNIP(fnop, "", "fnop");
SNIP(fwait_, "", "fwait");
SNIP(fnstcw_, "", "fnstcw (%esp)");
SNIP(movaps_, "", "movaps %xmm0, %xmm0");
SNIP(emms_, "", "emms");
SNIP(ldmxcsr_, "movl $0x1f80, (%esp)", "ldmxcsr (%esp)");
SNIP(ldmxcsr_bad, "movl $0x10000, (%esp)", "ldmxcsr (%esp)");
SNIP(mf_fwait, "fninit; movl $0x37b, (%esp); fldcw (%esp); fldz; fld1; fdiv %st(1), %st", "fwait");
SNIP(mf_fld1, "fninit; movl $0x37b, (%esp); fldcw (%esp); fldz; fld1; fdiv %st(1), %st", "fld1");
SNIP(mf_none, "fninit; movl $0x37b, (%esp); fldcw (%esp); fldz; fld1; fdiv %st(1), %st",
     "fnstsw %ax");
SNIP(mf_masked, "fninit; fldz; fld1; fdiv %st(1), %st", "fwait");
#define UNMASK_ZM "movl $0x1d80, (%esp); ldmxcsr (%esp); xorps %xmm0, %xmm0; xorps %xmm1, %xmm1; "
SNIP(xm_div, UNMASK_ZM "movl $0x3f800000, (%esp); movss (%esp), %xmm1", "divss %xmm0, %xmm1");
SNIP(restore_mxcsr, "movl $0x1f80, (%esp)", "ldmxcsr (%esp)");
SNIP(ac_load, "", "mov 1(%esp), %eax");
SNIP(ac_word, "", "mov 1(%esp), %ax");
SNIP(ac_byte, "", "mov 1(%esp), %al");
SNIP(ac_aligned, "", "mov 4(%esp), %eax");
SNIP(ac_store, "", "mov %eax, 2(%esp)");
SNIP(ac_fld, "", "fldl 4(%esp)");
SNIP(ac_movups, "", "movups 4(%esp), %xmm0");
SNIP(movaps_bad, "", "movaps 4(%esp), %xmm0");
SNIP(hlt_, "", "hlt");
SNIP(cli_, "", "cli");
SNIP(sti_, "", "sti");
SNIP(in_, "", "in $0x80, %al");
SNIP(out_, "", "out %al, $0x80");
SNIP(insb_, "mov $0x80, %edx", "insb");
SNIP(read_cr0_, "", ".byte 0x0f, 0x20, 0xc0");
SNIP(read_dr0_, "", ".byte 0x0f, 0x21, 0xc0");
SNIP(clts_, "", "clts");
SNIP(lmsw_, "", "lmsw %ax");
SNIP(smsw_, "", "smsw %ax");
SNIP(sldt_, "", "sldt %ax");
SNIP(lgdt_, "", "lgdt (%esp)");
SNIP(sgdt_, "", "sgdt (%esp)");
SNIP(ltr_, "", "ltr %ax");
SNIP(lldt_, "", "lldt %ax");
SNIP(invlpg_, "", "invlpg (%esp)");
SNIP(wbinvd_, "", "wbinvd");
SNIP(rdmsr_, "", "rdmsr");
SNIP(rdtsc_, "", "rdtsc");
SNIP(rdpmc_, "mov $0x12345, %ecx", "rdpmc");
SNIP(int_20, "", "int $0x20");
#define LOAD_SEG(name, seg, sel) SNIP(name, "mov $" #sel ", %eax", "mov %eax, %" #seg)
LOAD_SEG(ds_beyond, ds, 0x3fb);
LOAD_SEG(ds_ldt, ds, 0x0c);
LOAD_SEG(ds_absent, ds, 0x60);
LOAD_SEG(ds_exec, ds, 0x78);
LOAD_SEG(ds_system, ds, 0x80);
LOAD_SEG(ss_absent, ss, 0x98);
LOAD_SEG(ss_read, ss, 0x70);
LOAD_SEG(ss_code, ss, 0x08);
LOAD_SEG(ss_rpl, ss, 0x13);
LOAD_SEG(ds_dpl, ds, 0x10);

static const struct exc common[] = {
    {"#DE, DIV by zero", &div_zero, DE, AT, 0, ERR_NONE},
    {"#DE, DIV's quotient is too large", &div_big, DE, AT, 3, ERR_NONE},
    {"#DE, IDIV of the smallest by -1", &idiv_min, DE, AT, 3, ERR_NONE},
    {"#DE, DIV of bytes", &div8_big, DE, AT, 3, ERR_NONE},
    {"#DB, INT1", &icebp, DB, END, 3, ERR_NONE},
    {"#DB, single step", &nop, DB, END, 3, ERR_NONE, .fl = FL_TF},
    {"#BP, INT3 from ring 3", &int3, BP_, END, 3, ERR_NONE},
    {"#BP, INT3 from ring 0", &int3, BP_, END, 0, ERR_NONE},
    {"#BP, INT 3 of two bytes", &int_3, BP_, END, 3, ERR_NONE},
    {"#UD, UD2", &ud2, UD, AT, 3, ERR_NONE},
    {"#UD, UD1", &ud1, UD, AT, 3, ERR_NONE},
    {"#UD, LOCK with a register destination", &lock_reg, UD, AT, 0, ERR_NONE},
    {"#UD, LOCK CMP", &lock_cmp, UD, AT, 0, ERR_NONE},
    {"#UD, LOCK NOP", &lock_nop, UD, AT, 0, ERR_NONE},
    {"#UD, LOCK MOV", &lock_mov, UD, AT, 0, ERR_NONE},
    {"#UD, MOV to CS", &mov_cs, UD, AT, 0, ERR_NONE},
    {"#UD, MOV to a seventh segment register", &mov_seg6, UD, AT, 0, ERR_NONE},
    {"#UD, MOV from CR1", &mov_cr1, UD, AT, 0, ERR_NONE},
    {"#UD, CMPXCHG8B of a register", &cmpxchg8b_reg, UD, AT, 0, ERR_NONE},
    {"#UD, LEA of a register", &lea_reg, UD, AT, 0, ERR_NONE},
    {"#UD, RSM outside SMM", &rsm, UD, AT, 0, ERR_NONE},
    {"#UD before #GP, RSM in ring 3", &rsm, UD, AT, 3, ERR_NONE},

    /* Vol. 3A, table 2-2 and 13-1 */
    {"#NM, x87 with CR0.TS", &fnop, NM, AT, 3, ERR_NONE, .cr0 = CR0_TS},
    {"#NM, x87 with CR0.EM", &fnop, NM, AT, 0, ERR_NONE, .cr0 = CR0_EM},
    {"#NM, FNSTCW with CR0.TS", &fnstcw_, NM, AT, 0, ERR_NONE, .cr0 = CR0_TS},
    {"#NM, FWAIT with CR0.MP and TS", &fwait_, NM, AT, 0, ERR_NONE, .cr0 = CR0_TS | CR0_MP},
    {
        "FWAIT with CR0.TS alone",
        &fwait_,
        VEC_DONE,
        END,
        0,
        ERR_NONE,
        .cr0 = CR0_TS,
        .ncr0 = CR0_MP,
    },
    {"#NM, SSE with CR0.TS", &movaps_, NM, AT, 3, ERR_NONE, .cr0 = CR0_TS},
    {"#UD, SSE with CR0.EM", &movaps_, UD, AT, 3, ERR_NONE, .cr0 = CR0_EM},
    {"#UD, SSE with CR0.EM and TS", &movaps_, UD, AT, 0, ERR_NONE, .cr0 = CR0_EM | CR0_TS},
    {"#UD, SSE without CR4.OSFXSR", &movaps_, UD, AT, 3, ERR_NONE, .ncr4 = CR4_OSFXSR},
    {"#UD, LDMXCSR without CR4.OSFXSR", &ldmxcsr_, UD, AT, 0, ERR_NONE, .ncr4 = CR4_OSFXSR},
    {"#NM, MMX with CR0.TS", &emms_, NM, AT, 0, ERR_NONE, .cr0 = CR0_TS},
    {"#UD, MMX with CR0.EM", &emms_, UD, AT, 0, ERR_NONE, .cr0 = CR0_EM},
    {"#MF at FWAIT", &mf_fwait, MF, AT, 3, ERR_NONE},
    {"#MF at the next x87 instruction", &mf_fld1, MF, AT, 0, ERR_NONE},
    {"no #MF at FNSTSW", &mf_none, VEC_DONE, END, 0, ERR_NONE},
    {"no #MF if masked", &mf_masked, VEC_DONE, END, 0, ERR_NONE},
    {"#XM", &xm_div, XM, AT, 3, ERR_NONE},
    {"#UD for #XM without CR4.OSXMMEXCPT", &xm_div, UD, AT, 0, ERR_NONE, .ncr4 = CR4_OSXMMEXCPT},
    {"MXCSR as it was", &restore_mxcsr, VEC_DONE, END, 0, ERR_NONE},
    {"#GP, a reserved bit of MXCSR", &ldmxcsr_bad, GP, AT, 3, 0},

    /* 6.15, interrupt 17 */
    {"#AC, load", &ac_load, AC, AT, 3, 0, .fl = FL_AC, .cr0 = CR0_AM},
    {"#AC, word", &ac_word, AC, AT, 3, 0, .fl = FL_AC, .cr0 = CR0_AM},
    {"#AC, store", &ac_store, AC, AT, 3, 0, .fl = FL_AC, .cr0 = CR0_AM},
    {"no #AC, byte", &ac_byte, VEC_DONE, END, 3, ERR_NONE, .fl = FL_AC, .cr0 = CR0_AM},
    {
        "no #AC, aligned",
        &ac_aligned,
        VEC_DONE,
        END,
        3,
        ERR_NONE,
        .fl = FL_AC,
        .cr0 = CR0_AM,
    },
    {"no #AC without EFLAGS.AC", &ac_load, VEC_DONE, END, 3, ERR_NONE, .cr0 = CR0_AM},
    {
        "no #AC without CR0.AM",
        &ac_load,
        VEC_DONE,
        END,
        3,
        ERR_NONE,
        .fl = FL_AC,
        .ncr0 = CR0_AM,
    },
    {
        "no #AC in ring 0",
        &ac_load,
        VEC_DONE,
        END,
        0,
        ERR_NONE,
        .fl = FL_AC,
        .cr0 = CR0_AM,
    },
    {"#AC, x87 double", &ac_fld, AC, AT, 3, 0, .fl = FL_AC, .cr0 = CR0_AM},
    {"#GP, MOVAPS misaligned", &movaps_bad, GP, AT, 3, 0},

    {"#GP, HLT in ring 3", &hlt_, GP, AT, 3, 0},
    {"#GP, CLI in ring 3, IOPL 0", &cli_, GP, AT, 3, 0},
    {"CLI in ring 3, IOPL 3", &cli_, VEC_DONE, END, 3, ERR_NONE, .fl = FL_IOPL},
    {"#GP, STI in ring 3, IOPL 0", &sti_, GP, AT, 3, 0},
    {"#GP, IN in ring 3", &in_, GP, AT, 3, 0},
    {"IN in ring 3, IOPL 3", &in_, VEC_DONE, END, 3, ERR_NONE, .fl = FL_IOPL},
    {"#GP, OUT in ring 3", &out_, GP, AT, 3, 0},
    {"#GP, INSB in ring 3", &insb_, GP, AT, 3, 0},
    {"#GP, MOV from CR0 in ring 3", &read_cr0_, GP, AT, 3, 0},
    {"#GP, MOV from DR0 in ring 3", &read_dr0_, GP, AT, 3, 0},
    {"#GP, CLTS in ring 3", &clts_, GP, AT, 3, 0},
    {"#GP, LMSW in ring 3", &lmsw_, GP, AT, 3, 0},
    {"SMSW in ring 3", &smsw_, VEC_DONE, END, 3, ERR_NONE},
    {"#GP, LGDT in ring 3", &lgdt_, GP, AT, 3, 0},
    {"SGDT in ring 3", &sgdt_, VEC_DONE, END, 3, ERR_NONE},
    {"#GP, LTR in ring 3", &ltr_, GP, AT, 3, 0},
    {"#GP, LLDT in ring 3", &lldt_, GP, AT, 3, 0},
    {"#GP, INVLPG in ring 3", &invlpg_, GP, AT, 3, 0},
    {"#GP, WBINVD in ring 3", &wbinvd_, GP, AT, 3, 0},
    {"#GP, RDMSR in ring 3", &rdmsr_, GP, AT, 3, 0},
    {"RDTSC in ring 3", &rdtsc_, VEC_DONE, END, 3, ERR_NONE},
    {"#GP, RDTSC in ring 3 with CR4.TSD", &rdtsc_, GP, AT, 3, 0, .cr4 = CR4_TSD},
    {"RDTSC in ring 0 with CR4.TSD", &rdtsc_, VEC_DONE, END, 0, ERR_NONE, .cr4 = CR4_TSD},
    {"#GP, RDPMC of no counter", &rdpmc_, GP, AT, 0, 0},

    {"#GP, selector behind the GDT", &ds_beyond, GP, AT, 0, SEL_BEYOND},
    {"#GP, selector in no LDT", &ds_ldt, GP, AT, 0, 0x0c},
    {"#NP, data segment", &ds_absent, NP, AT, 3, SEL_ABSENT},
    {"#GP, unreadable code as data", &ds_exec, GP, AT, 0, SEL_EXEC},
    {"#GP, system descriptor as data", &ds_system, GP, AT, 0, SEL_RSVD},
    {"#SS, stack segment not present", &ss_absent, SS_, AT, 0, SEL_ABSENT0},
    {"#GP, read-only stack", &ss_read, GP, AT, 0, SEL_READ},
    {"#GP, code as stack", &ss_code, GP, AT, 0, SEL_CODE0},
    {"#GP, stack with another RPL", &ss_rpl, GP, AT, 0, SEL_DATA0},
    {"#GP, kernel data in ring 3", &ds_dpl, GP, AT, 3, SEL_DATA0},
};

static const struct exc umip[] = {
    {"#GP, SMSW in ring 3 with UMIP", &smsw_, GP, AT, 3, 0, .cr4 = CR4_UMIP},
    {"#GP, SLDT in ring 3 with UMIP", &sldt_, GP, AT, 3, 0, .cr4 = CR4_UMIP},
    {"#GP, SGDT in ring 3 with UMIP", &sgdt_, GP, AT, 3, 0, .cr4 = CR4_UMIP},
    {"SMSW in ring 0 with UMIP", &smsw_, VEC_DONE, END, 0, ERR_NONE, .cr4 = CR4_UMIP},
};

#if !IS64
SNIP(aam_zero, "", ".byte 0xd4, 0");
SNIP(into_of, "mov $0x7fffffff, %eax; add $1, %eax", "into");
SNIP(into_no, "xor %eax, %eax", "into");
SNIP(bound_, "movl $1, (%esp); movl $5, 4(%esp); mov $6, %eax", "bound %eax, (%esp)");
SNIP(bound_low, "movl $-3, (%esp); movl $5, 4(%esp); mov $-4, %eax", "bound %eax, (%esp)");
SNIP(bound_in, "movl $-3, (%esp); movl $5, 4(%esp); mov $5, %eax", "bound %eax, (%esp)");
SNIP(null_ds, "xor %eax, %eax; mov %eax, %ds", "mov (%eax), %eax");
SNIP(limit_es, "mov $0x68, %eax; mov %eax, %es", "mov %es:0xffd, %eax");
SNIP(limit_es_ok, "mov $0x68, %eax; mov %eax, %es", "mov %es:0xffc, %eax");
SNIP(limit_cs, "", "ljmp $0x08, $0xffffffff");
SNIP(write_read, "mov $0x70, %eax; mov %eax, %es", "movl $0, %es:0");
SNIP(write_cs, "", "movl $0, %cs:0");
SNIP(salc_, "stc", ".byte 0xd6");
SNIP(push_limit, "mov %esp, %ebp; mov $0x6b, %eax; mov %eax, %ss; mov $0x1002, %esp", "push %eax");
SNIP(far_absent, "", "ljmp $0x88, $0");
SNIP(far_system, "", "ljmp $0x80, $0");
SNIP(far_null, "", "ljmp $0, $0");

static const struct exc own[] = {
    {"#DE, AAM by zero", &aam_zero, DE, AT, 3, ERR_NONE},
    {"#OF", &into_of, OF, END, 3, ERR_NONE},
    {"no #OF", &into_no, VEC_DONE, END, 3, ERR_NONE},
    {"#BR above", &bound_, BR, AT, 3, ERR_NONE},
    {"#BR below", &bound_low, BR, AT, 3, ERR_NONE},
    {"BOUND at the limit", &bound_in, VEC_DONE, END, 3, ERR_NONE},
    {"#AC with SSE", &ac_movups, VEC_DONE, END, 3, ERR_NONE},
    {"#GP, null DS", &null_ds, GP, AT, 3, 0},
    {"#GP, limit", &limit_es, GP, AT, 0, 0},
    {"last bytes within the limit", &limit_es_ok, VEC_DONE, END, 0, ERR_NONE},
    {"#GP, write to a read-only segment", &write_read, GP, AT, 0, 0},
    {"#GP, write to code", &write_cs, GP, AT, 0, 0},
    {"SALC", &salc_, VEC_DONE, END, 3, ERR_NONE},
    {"#SS, limit", &push_limit, SS_, AT, 3, 0},
    {"#NP, code segment", &far_absent, NP, AT, 0, SEL_ABSCODE},
    {"#GP, far jump to nothing", &far_system, GP, AT, 0, SEL_RSVD},
    {"#GP, far jump to null", &far_null, GP, AT, 0, 0},
};
#else
SNIP(opc_06, "", ".byte 0x06");
SNIP(opc_27, "", ".byte 0x27");
SNIP(opc_ce, "", ".byte 0xce");
SNIP(opc_d4, "", ".byte 0xd4, 0");
SNIP(opc_d6, "", ".byte 0xd6");
SNIP(opc_ea, "", ".byte 0xea, 0, 0, 0, 0, 8, 0");
SNIP(opc_9a, "", ".byte 0x9a, 0, 0, 0, 0, 8, 0");
SNIP(opc_60, "", ".byte 0x60");
SNIP(opc_82, "", ".byte 0x82, 0xc0, 0");
#define HIGH "movabs $0x0000800000000000, %rbx; "
SNIP(high_load, HIGH, "mov (%rbx), %eax");
SNIP(high_store, HIGH, "mov %eax, (%rbx)");
SNIP(high_edge, "movabs $0x00007ffffffffffe, %rbx", "mov (%rbx), %eax");
SNIP(high_rbp, "movabs $0x0000800000000000, %rbp", "mov (%rbp), %eax");
SNIP(high_push, "movabs $0x0000900000000000, %rsp", "push %rax");
SNIP(high_call, HIGH, "call *%rbx");
SNIP(high_jmp, HIGH, "jmp *%rbx");
SNIP(high_ret, HIGH "push %rbx", "ret");
SNIP(high_fetch_ok, "movabs $0x00007ffffffff000, %rbx", "call *%rbx");
SNIP(not_mapped, "movabs $0x0000123456789abc, %rbx", "mov (%rbx), %eax");
SNIP(not_mapped_w, "movabs $0x0000123456789abc, %rbx", "mov %eax, (%rbx)");
SNIP(cr0_bad, "mov $0x80000000, %eax", "mov %rax, %cr0");
SNIP(cr0_high, "movabs $0x100000033, %rax", "mov %rax, %cr0");
SNIP(cr8_bad, "mov $16, %eax", "mov %rax, %cr8");
SNIP(cr9_, "", ".byte 0x44, 0x0f, 0x20, 0xc8");
SNIP(dr7_high, "movabs $0x100000400, %rax", "mov %rax, %dr7");
SNIP(far_legacy, "", "ljmp *0(%esp)");
SNIP(swapgs3, "", "swapgs");
SNIP(cmpxchg16b_bad, "", "cmpxchg16b 8(%rsp)");
SNIP(too_long, "",
     ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, "
     "0x66, 0x66, 0x66, 0x90");
SNIP(longest, "",
     ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, "
     "0x66, 0x66, 0x90");
SNIP(wrfsbase_off, "", "wrfsbase %rax");
SNIP(wrfsbase_bad, HIGH, "wrfsbase %rbx");
SNIP(sysenter_null, "", "sysenter");

static const struct exc own[] = {
    {"#UD, PUSH ES", &opc_06, UD, AT, 3, ERR_NONE},
    {"#UD, DAA", &opc_27, UD, AT, 3, ERR_NONE},
    {"#UD, INTO", &opc_ce, UD, AT, 3, ERR_NONE},
    {"#UD, AAM", &opc_d4, UD, AT, 3, ERR_NONE},
    {"#UD, SALC", &opc_d6, UD, AT, 3, ERR_NONE},
    {"#UD, JMP ptr16:32", &opc_ea, UD, AT, 3, ERR_NONE},
    {"#UD, CALL ptr16:32", &opc_9a, UD, AT, 3, ERR_NONE},
    {"#UD, PUSHA", &opc_60, UD, AT, 3, ERR_NONE},
    {"#UD, opcode 82", &opc_82, UD, AT, 3, ERR_NONE},
    {"#GP, non-canonical load", &high_load, GP, AT, 3, 0},
    {"#GP, non-canonical store", &high_store, GP, AT, 0, 0},
    {"#GP, across the edge", &high_edge, GP, AT, 3, 0},
    {"#SS, non-canonical by RBP", &high_rbp, SS_, AT, 3, 0},
    {"#SS, non-canonical PUSH", &high_push, SS_, AT, 3, 0},
    {"#GP, CALL to a non-canonical address", &high_call, GP, AT, 3, 0},
    {"#GP, JMP to a non-canonical address", &high_jmp, GP, AT, 3, 0},
    {"#GP, RET to a non-canonical address", &high_ret, GP, AT, 3, 0},
    {"#PF, user read", &not_mapped, PF, AT, 3, 4, .cr2 = 0x123456789abc},
    {"#PF, user write", &not_mapped_w, PF, AT, 3, 6, .cr2 = 0x123456789abc},
    {"#PF, kernel read", &not_mapped, PF, AT, 0, 0, .cr2 = 0x123456789abc},
    {"#PF, kernel write", &not_mapped_w, PF, AT, 0, 2, .cr2 = 0x123456789abc},
    {"#GP, CR0.PG without PE", &cr0_bad, GP, AT, 0, 0},
    {"#GP, CR0 bit 32", &cr0_high, GP, AT, 0, 0},
    {"#GP, CR8 above 15", &cr8_bad, GP, AT, 0, 0},
    {"#UD, CR9", &cr9_, UD, AT, 0, ERR_NONE},
    {"#GP, DR7 bit 32", &dr7_high, GP, AT, 0, 0},
    {"#GP, SWAPGS in ring 3", &swapgs3, GP, AT, 3, 0},
    {"#GP, CMPXCHG16B misaligned", &cmpxchg16b_bad, GP, AT, 3, 0},
    {"#GP, 16 bytes of instruction", &too_long, GP, AT, 3, 0},
    {"15 bytes of instruction", &longest, VEC_DONE, END, 3, ERR_NONE},
    {"#UD, WRFSBASE without CR4.FSGSBASE", &wrfsbase_off, UD, AT, 3, ERR_NONE},
    {"#GP, WRFSBASE non-canonical", &wrfsbase_bad, GP, AT, 3, 0, .cr4 = CR4_FSGSBASE},
    {"#GP, SYSENTER with a null SYSENTER_CS", &sysenter_null, GP, AT, 3, 0},
};
#endif

static void run_all(const struct exc *e, unsigned n)
{
    for (; n; n--, e++)
        try_case(e);
}

static void make_descriptors(void)
{
    gdt[SEL_ABSENT / 8] = make_desc(0, 0xfffff, 0xc000 | 0x13 | ATTR_DPL(3));
    gdt[SEL_SMALL / 8] = make_desc(0x100000, 0xfff, ATTR_DB | 0x93 | ATTR_DPL(3));
    gdt[SEL_READ / 8] = make_desc(0, 0xfffff, 0xc000 | 0x91);
    gdt[SEL_EXEC / 8] = make_desc(0, 0xfffff, 0xc000 | 0x99);
    gdt[SEL_RSVD / 8] = make_desc(0, 0xfffff, 0x80);
    gdt[SEL_ABSCODE / 8] = make_desc(0, 0xfffff, 0xc000 | 0x1b);
    gdt[SEL_ABSENT0 / 8] = make_desc(0, 0xfffff, 0xc000 | 0x13);
    gdt[SEL_CODE1 / 8] =
        make_desc(0, 0xfffff, 0x9b | ATTR_DPL(1) | ATTR_G | (IS64 ? ATTR_L : ATTR_DB));
}

/* --- errors on the way to a handler: 6.13 (error codes), 6.15 (#DF), table 6-5 --- */

static void absent_gate(unsigned vec)
{
#if IS64
    idt[vec * 2] &= ~BIT(47);
#else
    idt[vec * 2 + 1] &= ~BIT(15);
#endif
}

/* `vec` has a bad gate: what is delivered instead? */
static void nested(const char *name, const struct snip *s, unsigned ring, unsigned vec, bool twice,
                   unsigned want, u32 err)
{
    struct ctx c;
    absent_gate(vec);
    if (twice)
        absent_gate(NP);
    ctx_init(&c, s, ring);
    run(&c);
    reset_gate(vec);
    reset_gate(NP);
    ok(c.vec == want && c.err == err, "%s: vector %lu error code %lx", name, c.vec, c.err);
}

static void test_nested(void)
{
    struct ctx c;
    nested("INT n through an absent gate", &int_20, 3, 0x20, false, NP, 0x20 * 8 + 2);
    nested("INT3 through an absent gate", &int3, 3, BP_, false, NP, BP_ * 8 + 2);
    nested("INT1 through an absent gate", &icebp, 3, DB, false, NP, DB * 8 + 3);
    nested("#UD (benign) then #NP", &ud2, 3, UD, false, NP, UD * 8 + 3);
    nested("#DE then #NP (contributory) is #DF", &div_zero, 3, DE, false, DF, 0);
    nested("#GP then #NP is #DF", &hlt_, 3, GP, false, DF, 0);
    nested("#UD then #NP then #NP is #DF", &ud2, 3, UD, true, DF, 0);

    set_gate(UD, SEL_BEYOND, 0, GATE_INT, 3, 0);
    ctx_init(&c, &ud2, 3);
    run(&c);
    ok(c.vec == GP && c.err == (SEL_BEYOND | 1), "#UD to a selector behind the GDT: %lu %lx", c.vec,
       c.err);
    set_gate(UD, 0, 0, GATE_INT, 3, 0);
    ctx_init(&c, &ud2, 3);
    run(&c);
    ok(c.vec == GP && c.err == 1, "#UD to a null selector: %lu %lx", c.vec, c.err);
    set_gate(UD, SEL_ABSCODE, 0, GATE_INT, 3, 0);
    ctx_init(&c, &ud2, 3);
    run(&c);
    unsigned want = IS64 ? GP : NP; /* in long mode it has no L bit either: #GP comes first */
    ok(c.vec == want && c.err == (SEL_ABSCODE | 1), "#UD to an absent code segment: %lu %lx", c.vec,
       c.err);
    reset_gate(UD);

    set_gate(0x20, SEL_CODE0, 0x100000, GATE_INT, 0, 0);
    ctx_init(&c, &int_20, 3);
    run(&c);
    ok(c.vec == GP && c.err == 0x20 * 8 + 2 && c.ip == int_20.at,
       "INT n against the gate's DPL: %lu %lx", c.vec, c.err);
    set_gate(0x20, SEL_CODE0, 0x100000, 2, 3, 0);
    ctx_init(&c, &int_20, 0);
    run(&c);
    ok(c.vec == GP && c.err == 0x20 * 8 + 2, "INT n to what is no gate: %lu %lx", c.vec, c.err);
    set_gate(0x20, SEL_CODE3, 0x100000, GATE_INT, 3, 0);
    ctx_init(&c, &int_20, 0);
    run(&c);
    ok(c.vec == GP && c.err == (SEL_CODE3 & ~3), "INT n to less privileged code: %lu %lx", c.vec,
       c.err);
    reset_gate(0x20);
}

/* Vectors behind the IDT's limit. */
static void test_idt_limit(void)
{
    struct {
        u16 limit;
        word base;
    } __attribute__((packed)) whole = {sizeof(idt) - 1, (word)idt}, cut = whole;
    struct ctx c;
    cut.limit = 0x20 * sizeof(word) * 2 + 2;
    __asm__ volatile("lidt %0" : : "m"(cut));
    ctx_init(&c, &int_20, 0);
    run(&c);
    __asm__ volatile("lidt %0" : : "m"(whole));
    ok(c.vec == GP && c.err == 0x20 * 8 + 2, "INT n behind the IDT: %lu %lx", c.vec, c.err);
}

/* --- #TS: 6.15, interrupt 10 --- */

static void test_ts(void)
{
    struct ctx c;
#if IS64
    /* An IST entry behind the TSS's limit. */
    gdt[SEL_TSS / 8] = make_desc((u32)(word)&tss, offsetof(struct tss, ist) - 1, 0x89);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
    set_gate(0x20, SEL_CODE0, 0x100000, GATE_INT, 3, 1);
    ctx_init(&c, &int_20, 0);
    run(&c);
    ok(c.vec == TS && c.err == SEL_TSS && c.ip == int_20.at, "#TS, IST behind the limit: %lu %lx",
       c.vec, c.err);
    load_tr();
    tss.ist[0] = 0x900000000000;
    ctx_init(&c, &int_20, 0);
    run(&c);
    ok(c.vec == SS_ && c.err == 0, "#SS, non-canonical IST: %lu %lx", c.vec, c.err);
#else
    static const struct {
        const char *name;
        u32 ss, vec, err;
    } stacks[] = {
        {"#TS, null stack", 0, TS, 0},
        {"#TS, stack's RPL", SEL_DATA0, TS, SEL_DATA0},
        {"#TS, stack's DPL", SEL_DATA3 - 2, TS, SEL_DATA3 & ~3u},
        {"#TS, stack behind the GDT", SEL_BEYOND | 1, TS, SEL_BEYOND},
        {"#TS, stack read-only", SEL_READ | 1, TS, SEL_READ},
    };
    set_gate(0x20, SEL_CODE1, 0x100000, GATE_INT, 3, 0);
    for (unsigned n = 0; n < ARRAY_SIZE(stacks); n++) {
        tss.ss1 = stacks[n].ss;
        tss.esp1 = 0x1000;
        ctx_init(&c, &int_20, 3);
        run(&c);
        ok(c.vec == stacks[n].vec && c.err == stacks[n].err && c.ip == int_20.at, "%s: %lu %lx",
           stacks[n].name, c.vec, c.err);
    }
    gdt[SEL_ABSENT / 8] = make_desc(0, 0xfffff, 0xc000 | 0x13 | ATTR_DPL(1));
    tss.ss1 = SEL_ABSENT | 1;
    ctx_init(&c, &int_20, 3);
    run(&c);
    ok(c.vec == SS_ && c.err == SEL_ABSENT, "#SS, stack absent: %lu %lx", c.vec, c.err);
    gdt[SEL_ABSENT / 8] = make_desc(0x100000, 0xfff, 0x4093 | ATTR_DPL(1));
    tss.esp1 = 8;
    ctx_init(&c, &int_20, 3);
    run(&c);
    ok(c.vec == SS_ && c.err == SEL_ABSENT, "#SS, no room on the stack: %lu %lx", c.vec, c.err);

    gdt[SEL_TSS / 8] = make_desc((u32)&tss, 10, 0x89);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
    gdt[SEL_ABSENT / 8] = make_desc(0, 0xfffff, 0xc000 | 0x13 | ATTR_DPL(3));
    load_tr();
#endif
    reset_gate(0x20);
}

/* --- the stack in 64-bit mode (6.14.2, 6.14.5) --- */

#if IS64
static u8 ist_stack[4096] __attribute__((aligned(16)));

static void test_stack64(void)
{
    struct ctx c;
    ctx_init(&c, &int3, 0);
    c.gpr[SP] = (c.gpr[SP] & ~15ul) + 5;
    word sp = c.gpr[SP];
    run(&c);
    ok(c.frame == (sp & ~15ul) - 40 && c.gpr[SP] == sp && c.ss == SEL_DATA0,
       "frame aligned to 16 bytes: %lx for RSP %lx", c.frame, sp);
    ctx_init(&c, &hlt_, 3);
    run(&c);
    ok(c.frame == (word)kernel_stack_top - 48, "RSP0 with an error code: %lx", c.frame);
    set_gate(BP_, SEL_CODE0,
             idt[0] ? ((idt[BP_ * 2] & 0xffff) | (idt[BP_ * 2] >> 32 & 0xffff0000)) : 0, GATE_INT,
             3, 7);
    tss.ist[6] = (word)ist_stack + 4096 - 8;
    ctx_init(&c, &int3, 3);
    run(&c);
    ok(c.frame == (word)ist_stack + 4096 - 16 - 40, "IST 7 from ring 3, aligned: %lx", c.frame);
    ctx_init(&c, &int3, 0);
    run(&c);
    ok(c.frame == (word)ist_stack + 4096 - 16 - 40, "IST 7 from ring 0: %lx", c.frame);
    reset_gate(BP_);

    tss.sp[0] = 0x900000000000;
    set_gate(DF, SEL_CODE0, (word)((idt[DF * 2] & 0xffff) | (idt[DF * 2] >> 32 & 0xffff0000)),
             GATE_INT, 3, 7);
    ctx_init(&c, &ud2, 3);
    set_gate(SS_, SEL_CODE0, (word)((idt[SS_ * 2] & 0xffff) | (idt[SS_ * 2] >> 32 & 0xffff0000)),
             GATE_INT, 3, 7);
    run(&c);
    ok(c.vec == SS_ && c.err == 1, "#SS(EXT), non-canonical RSP0: %lu %lx", c.vec, c.err);
    reset_gate(SS_);
    ctx_init(&c, &ud2, 3);
    run(&c);
    ok(c.vec == DF, "no stack for #UD nor for #SS: %lu", c.vec);
    tss.sp[0] = (word)kernel_stack_top;
    reset_gate(DF);
}
#else
static void test_stack64(void)
{
    struct ctx c;
    ctx_init(&c, &int3, 0);
    c.gpr[SP] += 1;
    word sp = c.gpr[SP];
    run(&c);
    ok(c.frame == sp - 12, "three words at any alignment: %lx for ESP %lx", c.frame, sp);
    ctx_init(&c, &hlt_, 3);
    run(&c);
    ok(c.frame == (word)kernel_stack_top - 24, "ESP0 with an error code: %lx", c.frame);
}
#endif

int main(void)
{
    make_descriptors();
    run_all(common, ARRAY_SIZE(common));
    run_all(own, ARRAY_SIZE(own));
    if (cpu_has(7, 2, 2))
        run_all(umip, ARRAY_SIZE(umip));
    else
        skip("UMIP", "not offered");
    expect("faults that did not push RF = 1, or traps RF = 0", rf_wrong, 0);
    test_nested();
    test_idt_limit();
    test_ts();
    test_stack64();
    return 0;
}
