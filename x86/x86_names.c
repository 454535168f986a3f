/* x86_names.c - mnemonics for traces. */
#include "x86/x86_insn.h"

static const char *const names[] = {
#define OP(name) [X86_##name] = #name,
#include "x86/x86_ops.def"
#undef OP
};

const char *x86_op_name(enum x86_op op)
{
    return (unsigned)op < X86_OP_COUNT ? names[op] : "?";
}
