/* known.c - sequences that once differed, kept. */
#include "known.h"

#include <stdlib.h>
#include <string.h>

#include "rows.h"

#define NON_CANONICAL      0x2055a01f27931665
#define LOW_END            0x800000000000 /* of what is canonical */
#define HIGH_START         0xffff800000000000
#define NON_CANONICAL_DATA (1ull << 63 | (DATA + 0x800)) /* like a page that is there */

/* Registers that are not set point into DATA, RSP into STACK, aligned. */
struct known {
    const char *name;
    bool m64;
    u32 flags;
    const char *code; /* hexadecimal */
    struct {
        u8 reg;
        u64 value;
    } set[4]; /* up to the first value of 0 */
};

static const struct known known[] = {
    {"ROR of the stack's top, CALL of a non-canonical address",
     true,
     FLAG_ZF | FLAG_PF | FLAG_AF,
     "68d7000000" /* push 0xd7 */
     "66480fca"   /* bswap rdx */
     "6648d10c24" /* ror qword [rsp], 1 */
     "ffd1",      /* call rcx */
     {{RCX, NON_CANONICAL}}},
    {"pushes, SHLD of memory, CALL of an address without code",
     true,
     FLAG_OF,
     "6a09"               /* push 9 */
     "6a00"               /* push 0 */
     "0fa40425c0340020ff" /* shld [0x200034c0], eax, 0xff */
     "ffd1",              /* call rcx */
     {{RAX, 0x83a8cda5d5f156d1}, {RCX, DATA + 0x26ad}}},
    {"CALL by the slot that it pushes to, of a non-canonical address",
     true,
     FLAG_CF,
     "48894c24f8" /* mov [rsp - 8], rcx */
     "ff5424f8",  /* call [rsp - 8] */
     {{RCX, NON_CANONICAL}}},
    {"RET to a non-canonical address",
     true,
     FLAG_CF,
     "51"      /* push rcx */
     "c20800", /* ret 8 */
     {{RCX, NON_CANONICAL}}},
    {"JMP to a non-canonical address",
     true,
     FLAG_CF,
     "4829c0"  /* sub rax, rax */
     "51"      /* push rcx */
     "ff2424", /* jmp [rsp] */
     {{RCX, NON_CANONICAL}}},
    {"REP MOVS from what is not canonical to what is not mapped",
     true,
     0,
     "488b10" /* mov rdx, [rax] */
     "f3a5",  /* rep movsd */
     {{RSI, NON_CANONICAL_DATA}, {RDI, 0xffffffffffffffb0}, {RCX, 14}}},
    {"masked store that is canonical in part",
     true,
     0,
     "b8ff000000"    /* mov eax, 0xff */
     "c5fb92c8"      /* kmovd k1, eax */
     "62f1fe497f07", /* vmovdqu64 [rdi] {k1}, zmm0 */
     {{RDI, LOW_END - 32}}},
    {"masked store whose part that is not canonical is masked",
     true,
     0,
     "b803000000"    /* mov eax, 3 */
     "c5fb92c8"      /* kmovd k1, eax */
     "62f1fe497f07", /* vmovdqu64 [rdi] {k1}, zmm0 */
     {{RDI, LOW_END - 32}}},
    {"masked load that is canonical in part",
     true,
     0,
     "b8ff000000"    /* mov eax, 0xff */
     "c5fb92c8"      /* kmovd k1, eax */
     "62f1fe496f07", /* vmovdqu64 zmm0 {k1}, [rdi] */
     {{RDI, HIGH_START - 32}}},
    {"VPCOMPRESSQ of two to what is canonical in part",
     true,
     0,
     "b803000000"    /* mov eax, 3 */
     "c5fb92c8"      /* kmovd k1, eax */
     "62f2fd498b07", /* vpcompressq [rdi] {k1}, zmm0 */
     {{RDI, LOW_END - 14}}},
    {"VPEXPANDQ of two from what is canonical in part",
     true,
     0,
     "b803000000"    /* mov eax, 3 */
     "c5fb92c8"      /* kmovd k1, eax */
     "62f2fd498907", /* vpexpandq zmm0 {k1}, [rdi] */
     {{RDI, LOW_END - 14}}},
    {"accesses 4 GiB apart, less a few bytes",
     true,
     0,
     "8b83ffffff7f"  /* mov eax, [rbx + 0x7fffffff] */
     "8b8b3b000080", /* mov ecx, [rbx - 0x7fffffc5] */
     {{RBX, DATA - 0x7fffffffull}}},
    {"stores close together, but in two pages, by an index that has just been written",
     true,
     0,
     "4d63f0"      /* movsxd r14, r8d */
     "4a891437"    /* mov [rdi + r14], rdx */
     "4a89543708"  /* mov [rdi + r14 + 8], rdx */
     "4a89543710", /* mov [rdi + r14 + 16], rdx */
     {{RDI, DATA}, {8, 0xff0}}},
    {"PUSH of memory across pages, and another one",
     true,
     0,
     "ffb6fe0f0000" /* push [rsi + 0xffe] */
     "4152"         /* push r10 */
     "4153",        /* push r11 */
     {{RSI, DATA}, {10, 0x33}, {11, 0x44}}},
    {"a hidden POPF that sets ID, NT and AC", true, 0,
     "6802422400" /* push 0x244202 */
     "eb01"       /* jmp behind the next instruction's opcode */
     "b89d909090" /* mov eax, ...: popf; nop; nop; nop */
     "4801c8"     /* add rax, rcx */
     "9c58"},     /* pushf; pop rax */
    {"a hidden POPF that sets TF", true, 0,
     "6802030000" /* push 0x302 */
     "eb01"       /* jmp behind the next instruction's opcode */
     "b89d909090" /* mov eax, ...: popf; nop; nop; nop */
     "4801c8"},   /* add rax, rcx */
    {"PUSHF behind it", true, 0, "9c58"},
    {"FNSTENV of 14 bytes across pages, EFLAGS.AC",
     false,
     FLAG_AC,
     "66d937", /* fnstenv [edi] */
     {{RDI, DATA + 0x1ffa}}},
    {"FLDENV of 14 bytes across pages, EFLAGS.AC",
     false,
     FLAG_AC,
     "66d927", /* fldenv [edi] */
     {{RDI, DATA + 0x1ffa}}},
    {"FNSAVE of 94 bytes across pages, EFLAGS.AC",
     false,
     FLAG_AC,
     "66dd37", /* fnsave [edi] */
     {{RDI, DATA + 0x1ffa}}},
    {"FRSTOR of 94 bytes across pages, EFLAGS.AC",
     true,
     FLAG_AC,
     "66dd27", /* frstor [rdi] */
     {{RDI, DATA + 0x1ffa}}},
};

unsigned known_count(void)
{
    return ARRAY_SIZE(known);
}

const char *known_name(unsigned n, bool *m64)
{
    *m64 = known[n].m64;
    return known[n].name;
}

static unsigned from_hex(u8 *out, unsigned max, const char *hex)
{
    unsigned n = 0;
    for (; hex[0] && n < max; hex += 2)
        out[n++] = (u8)strtoul((char[]){hex[0], hex[1], '\0'}, NULL, 16);
    return n;
}

static void set_registers(struct test_case *t, const struct known *k)
{
    memset(t->role, ROLE_VALUE, sizeof t->role);
    for (unsigned n = 0; n < (t->m64 ? 16 : 8); n++)
        t->r.reg[n] = n == RSP ? STACK + 0x840 : DATA + 0x800;
    for (unsigned n = 0; n < ARRAY_SIZE(k->set) && k->set[n].value; n++)
        t->r.reg[k->set[n].reg] = k->set[n].value;
    t->r.rflags = FLAG_ONE | FLAG_IF | k->flags;
}

void known_make(struct diff *d, unsigned n)
{
    const struct known *k = &known[n];
    struct test_case *t = &d->t;
    u8 code[INSNS_MAX * 16] = {0};
    unsigned bytes = from_hex(code, sizeof code - 15, k->code);
    gen_state(&d->gen, t, k->m64);
    set_registers(t, k);
    for (unsigned at = 0; at < bytes; at += t->in[t->n++].len) {
        struct x86_decoded dec;
        if (x86_decode(code + at, 15, k->m64 ? X86_MODE64 : X86_MODE32, &dec) != X86_OK)
            abort();
        struct insn *i = &t->in[t->n];
        *i = (struct insn){.len = dec.i.len, .row = dec.i.row};
        memcpy(i->b, code + at, i->len);
        t->uses_fpu |= row_is_fpu(i->row);
    }
}
