/*
 * bt_genoffsets.c - compiled to assembly by the build; the lines marked @ become bt_offsets.h.
 */
#include "cpu/cpu_fpu.h"
#include "engine/bt/bt.h"

#define OFFSET(name, value) __asm__ volatile("@" #name " %c0" : : "i"(value))
#define WORD(w)             (offsetof(struct cpu, emitted) + 8 * (w))

void bt_genoffsets(void);
void bt_genoffsets(void)
{
    OFFSET(CPU_REG, offsetof(struct cpu, reg));
    OFFSET(CPU_AFLAGS, offsetof(struct cpu, aflags));
    OFFSET(CPU_INSN, offsetof(struct cpu, insn));
    OFFSET(CPU_CODE_STALE, offsetof(struct cpu, code_stale));
    OFFSET(CPU_FPU_OFF, offsetof(struct cpu, fpu_off));
    OFFSET(FPU_SSE_LEVEL, FPU_SSE);
    OFFSET(CPU_HOST_RSP, WORD(BT_HOST_RSP));
    OFFSET(CPU_RESUME, WORD(BT_RESUME));
    OFFSET(CPU_SCRATCH, WORD(BT_SCRATCH));
    OFFSET(CPU_JTAB, WORD(BT_JTAB));
    OFFSET(CPU_SELF, WORD(BT_SELF));
    OFFSET(OP_FN, offsetof(struct op, fn));
    OFFSET(OP_INSN, offsetof(struct op, i));
}
