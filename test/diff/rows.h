/* rows.h - which rows of the table are compared, and which are not and why. */
#ifndef POPF_DIFF_ROWS_H
#define POPF_DIFF_ROWS_H

#include "layout.h"

/* NULL if the row can be compared; else why it cannot. */
const char *row_skip(unsigned row);

/* Kinds of rows, for mixing sequences. */
enum row_class {
    ROW_INT,
    ROW_STRING,
    ROW_BRANCH,
    ROW_FAULT, /* ends a sequence by an exception, nearly always */
    ROW_X87,
    ROW_SSE, /* and MMX */
    ROW_VEX,
    ROW_EVEX,
    ROW_CLASSES
};
enum row_class row_class(unsigned row);

/* Works on FP or SIMD state. */
bool row_is_fpu(unsigned row);

/* Flags that the op leaves undefined and that differ for a known reason. */
u32 row_loose_flags(unsigned row);

/* When they fault processors have already changed some registers, or memory. */
bool row_partial_regs(unsigned row);
bool row_partial_mem(unsigned row);
bool row_partial_fpu(unsigned row);

/* May fault though its mask is zero (SDM vol. 2B, MASKMOVDQU). */
bool row_faults_at_will(unsigned row);

/* With TF a fault in the middle gives way to the trap (SDM vol. 2C, VGATHER*). */
bool row_gathers(unsigned row);

/* CR2 names another byte of the operand: of a masked store the last one written, of an environment
 * its last. */
bool row_loose_cr2(unsigned row);

/* "ADD (0F 00 /0)" */
const char *row_name(unsigned row, char *buf, unsigned size);

#endif
