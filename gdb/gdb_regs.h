/*
 * gdb_regs.h - the registers of an x86 CPU as gdb wants them: names, sizes and order.
 *
 * gdb learns the set from a target description (XML); register numbers and the layout of 'g'
 * packets follow the order there. Which features exist and what their registers are called is
 * prescribed by the GDB manual, "i386 Features"; the system registers are a feature of our own,
 * org.popf.system.
 */
#ifndef POPF_GDB_REGS_H
#define POPF_GDB_REGS_H

#include "base/base.h"

enum gdb_arch { GDB_X86_64, GDB_I386, GDB_I8086, GDB_ARCHS };

/* How much of the vector state the CPU has. */
enum gdb_vector { GDB_SSE, GDB_AVX, GDB_AVX512 };

/* The registers of one thread, whatever the architecture; segments are ES CS SS DS FS GS. */
struct gdb_regs {
    u64 gpr[16]; /* by number: RAX RCX RDX RBX RSP RBP RSI RDI R8 ... */
    u64 pc;      /* linear: CS.base + RIP, so that gdb finds code in 16-bit modes too */
    u32 eflags;
    u32 seg[6];
    u64 seg_base[6];

    u8 st[8][10];
    u32 fctrl, fstat, ftag, fiseg, fioff, foseg, fooff, fop; /* ftag: two bits a register */
    u32 mxcsr;
    u8 zmm[32][64];
    u64 k[8];

    u64 cr0, cr2, cr3, cr4, cr8, efer, xcr0;
    u64 k_gs_base, gdtr_base, idtr_base, ldtr_base, tr_base;
    u32 gdtr_limit, idtr_limit, ldtr, tr;
    u64 dr[8]; /* the guest's own; 4 and 5 unused */
};

struct gdb_reg {
    char name[12];
    u16 at;   /* offset in struct gdb_regs */
    u8 size;  /* bytes */
    u8 group; /* internal: which feature */
    const char *type;
};

#define GDB_REGS_MAX 224
#define GDB_XML_MAX  32768

struct gdb_regmap {
    enum gdb_arch arch;
    unsigned n, pc, sp;
    unsigned bytes; /* of a 'g' packet */
    struct gdb_reg reg[GDB_REGS_MAX];
    size_t xml_len;
    char xml[GDB_XML_MAX]; /* target.xml */
};

void gdb_regmap_init(struct gdb_regmap *m, enum gdb_arch arch, enum gdb_vector vector);

/* "i386:x86-64", "i386" or "i8086". */
const char *gdb_arch_name(enum gdb_arch arch);

#endif
