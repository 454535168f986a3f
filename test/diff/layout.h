/*
 * layout.h - one instruction sequence, the state it starts from, and what became of it: shared by
 * the side that runs it on the bare CPU and the one that runs it under an engine.
 *
 * Both give the code the same addresses, all below 2 GiB so that 32-bit code reaches them:
 *
 *   CODE   15 pages, executable, not writable, then the page of the ways out (EXIT, EXIT32)
 *   DATA   4 pages to read and write, then RO, 1 page to read; nothing before and after
 *   STACK  1 page to read and write; nothing before and after
 */
#ifndef POPF_DIFF_LAYOUT_H
#define POPF_DIFF_LAYOUT_H

#include "x86/x86_insn.h"

#define CODE      0x10000000u
#define CODE_SIZE 0xf000u
#define EXIT      (CODE + CODE_SIZE)
#define EXIT32    (EXIT + 64)
#define DATA      0x20000000u
#define DATA_SIZE 0x4000u
#define RO        (DATA + DATA_SIZE)
#define STACK     0x30000000u
#define MEM_PAGES 6 /* of DATA, RO, STACK, in this order */
#define MEM_SIZE  (MEM_PAGES * PAGE_SIZE)
#define FPU_MAX   4096

/* Selectors as Linux has them, and those of our LDT. */
#define SEL_CS32   0x23
#define SEL_DS     0x2b
#define SEL_CS64   0x33
#define SEL_LDT(n) ((n) << 3 | 7)
#define SEL_FS     SEL_LDT(1)

/* Descriptors of the LDT, in the words of modify_ldt(2). */
struct ldt_entry {
    u32 base, limit;
    u8 contents; /* 0 data, 1 expand-down, 2 code */
    bool ro;     /* data: no writing; code: no reading */
};
#define LDT_N 7
extern const struct ldt_entry diff_ldt[LDT_N]; /* [0] unused */

struct regs {
    u64 reg[16];
    u64 rip;
    u64 rflags;
    u16 sel[6]; /* by X86 number */
    u64 fs_base, gs_base;
};

/* Why a run ended, besides exceptions by their vectors. */
#define END_DONE (-1) /* arrived at the way out */
#define END_HANG (-2)
#define END_AWAY (-3) /* tried a system call */

struct outcome {
    struct regs r;
    int vec;
    u32 err;
    u64 cr2;
};

/* What is run. `mem` and `fpu` (NULL: FP state plays no part) are the initial images. */
struct input {
    bool m64;
    struct regs r;
    const u8 *mem;
    const u8 *fpu;
};

#endif
