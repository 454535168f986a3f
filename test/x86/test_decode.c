/*
 * test_decode.c - the decoder against instructions decoded by hand, in every mode.
 * The exhaustive comparison is test_zydis.c; here is what Zydis does not show, and what a reader
 * would look up.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "x86/x86_insn.h"

#define Z    X86_SLOT_ZERO
#define FLAT X86_SEG_FLAT
#define AH   16
#define MEM  X86_PFX_MEM

struct expect {
    enum x86_mode mode;
    const char *hex;
    u16 op;
    u8 opsize, prefix; /* those X86_PFX_x that must be set; MEM must agree */
    u8 reg, rm;        /* rm only if not memory */
    u8 seg, base, index, scale;
    s32 disp;
    u64 imm;
};

static unsigned from_hex(const char *hex, u8 *out)
{
    unsigned n = 0;

    for (char *end; *hex; hex = end)
        out[n++] = strtoul(hex, &end, 16);
    return n;
}

#define M16 X86_MODE16
#define M32 X86_MODE32
#define M64 X86_MODE64

/* clang-format off */
static const struct expect cases[] = {
    /* mode, bytes, op, opsize, prefix, reg, rm, seg, base, index, scale, disp, imm */
    {M64, "00 c8", X86_ADD, 1, 0, RCX, RAX, FLAT, Z, Z},
    {M64, "00 e0", X86_ADD, 1, 0, AH, RAX, FLAT, Z, Z},
    {M64, "40 00 e0", X86_ADD, 1, X86_PFX_REX, RSP, RAX, FLAT, Z, Z},
    {M64, "44 88 3f", X86_MOV, 1, MEM, R15, 0, FLAT, RDI, Z},
    {M64, "b7 80", X86_MOV, 1, 0, AH + 3, 0, FLAT, Z, Z, 0, 0, -128},
    {M64, "41 b7 80", X86_MOV, 1, 0, R15, 0, FLAT, Z, Z, 0, 0, -128},
    {M64, "48 83 ec 08", X86_SUB, 8, 0, 5, RSP, FLAT, Z, Z, 0, 0, 8},
    {M64, "66 83 c0 ff", X86_ADD, 2, 0, 0, RAX, FLAT, Z, Z, 0, 0, -1},
    {M64, "81 c0 ff ff ff ff", X86_ADD, 4, 0, 0, RAX, FLAT, Z, Z, 0, 0, -1},
    {M64, "48 b8 88 77 66 55 44 33 22 11", X86_MOV, 8, 0, RAX, 0, FLAT, Z, Z, 0, 0, 0x1122334455667788},
    /* addressing */
    {M64, "8b 05 10 00 00 00", X86_MOV, 4, MEM, RAX, 0, FLAT, X86_SLOT_RIP, Z, 0, 16},
    {M64, "8b 04 25 10 00 00 80", X86_MOV, 4, MEM, RAX, 0, FLAT, Z, Z, 0, (s32)0x80000010},
    {M64, "8b 04 24", X86_MOV, 4, MEM, RAX, 0, FLAT, RSP, Z},
    {M64, "42 8b 04 24", X86_MOV, 4, MEM, RAX, 0, FLAT, RSP, R12},
    {M64, "43 8b 44 ed fc", X86_MOV, 4, MEM, RAX, 0, FLAT, R13, R13, 3, -4},
    {M64, "65 48 8b 04 25 28 00 00 00", X86_MOV, 8, MEM | X86_PFX_SEG, RAX, 0, GS, Z, Z, 0, 0x28},
    {M64, "36 8b 00", X86_MOV, 4, MEM | X86_PFX_SEG, RAX, 0, FLAT, RAX, Z},
    {M64, "65 36 8b 00", X86_MOV, 4, MEM, RAX, 0, GS, RAX, Z},
    {M64, "a1 88 77 66 55 44 33 22 11", X86_MOV, 4, MEM, 0, 0, FLAT, Z, Z, 0, 0, 0x1122334455667788},
    {M64, "67 a1 88 77 66 55", X86_MOV, 4, MEM, 0, 0, FLAT, Z, Z, 0, 0, 0x55667788},
    {M32, "8b 45 08", X86_MOV, 4, MEM, RAX, 0, SS, RBP, Z, 0, 8},
    {M32, "8b 04 28", X86_MOV, 4, MEM, RAX, 0, DS, RAX, RBP},
    {M32, "8b 44 05 00", X86_MOV, 4, MEM, RAX, 0, SS, RBP, RAX},
    {M32, "3e 8b 45 08", X86_MOV, 4, MEM | X86_PFX_SEG, RAX, 0, DS, RBP, Z, 0, 8},
    {M32, "8b 05 10 00 00 00", X86_MOV, 4, MEM, RAX, 0, DS, Z, Z, 0, 16},
    {M32, "67 8b 40 fe", X86_MOV, 4, MEM, RAX, 0, DS, RBX, RSI, 0, -2},
    {M16, "8b 46 fe", X86_MOV, 2, MEM, RAX, 0, SS, RBP, Z, 0, -2},
    {M16, "8b 0e 34 92", X86_MOV, 2, MEM, RCX, 0, DS, Z, Z, 0, (s16)0x9234},
    {M16, "8b 03", X86_MOV, 2, MEM, RAX, 0, SS, RBP, RDI},
    {M16, "26 8a 07", X86_MOV, 1, MEM, RAX, 0, ES, RBX, Z},
    {M16, "66 67 8b 44 24 04", X86_MOV, 4, MEM, RAX, 0, SS, RSP, Z, 0, 4},
    /* stack and branches */
    {M64, "55", X86_PUSH, 8, 0, RBP, 0, FLAT, Z, Z},
    {M64, "41 57", X86_PUSH, 8, 0, R15, 0, FLAT, Z, Z},
    {M64, "66 50", X86_PUSH, 2, 0, RAX, 0, FLAT, Z, Z},
    {M64, "68 ff ff ff ff", X86_PUSH, 8, 0, 0, 0, FLAT, Z, Z, 0, 0, -1},
    {M64, "66 6a 80", X86_PUSH, 2, 0, 0, 0, FLAT, Z, Z, 0, 0, -128},
    {M64, "66 e8 fb ff ff ff", X86_CALL_NEAR, 8, X86_PFX_66, 0, 0, FLAT, Z, Z, 0, 0, -5},
    {M32, "66 e8 fb ff", X86_CALL_NEAR, 2, X86_PFX_66, 0, 0, DS, Z, Z, 0, 0, -5},
    {M16, "e8 fb ff", X86_CALL_NEAR, 2, 0, 0, 0, DS, Z, Z, 0, 0, -5},
    {M64, "75 fe", X86_JNZ, 8, 0, 0, 0, FLAT, Z, Z, 0, 0, -2},
    {M64, "0f 8f 00 01 00 00", X86_JNLE, 8, 0, 0, 0, FLAT, Z, Z, 0, 0, 256},
    {M64, "ff 25 00 00 00 00", X86_JMP_NEAR_IND, 8, MEM, 4, 0, FLAT, X86_SLOT_RIP, Z},
    {M64, "48 ff 2b", X86_JMP_FAR_IND, 8, MEM, 5, 0, FLAT, RBX, Z},
    {M32, "ea 78 56 34 12 08 00", X86_JMP_FAR, 4, 0, 0, 0, DS, Z, Z, 0, 0, 0x812345678},
    {M16, "ea f0 ff 00 f0", X86_JMP_FAR, 2, 0, 0, 0, DS, Z, Z, 0, 0, 0xf0000000fff0},
    {M16, "66 ea 78 56 34 12 08 00", X86_JMP_FAR, 4, 0, 0, 0, DS, Z, Z, 0, 0, 0x812345678},
    {M64, "c2 f0 ff", X86_RET_NEAR, 8, 0, 0, 0, FLAT, Z, Z, 0, 0, 0xfff0},
    {M64, "48 cf", X86_IRET, 8, 0, 0, 0, FLAT, Z, Z},
    {M64, "c8 34 92 1f", X86_ENTER, 8, 0, 0, 0, FLAT, Z, Z, 0, 0, 0x1f9234},
    {M64, "0f a8", X86_PUSH_SREG, 8, 0, GS, 0, FLAT, Z, Z},
    {M32, "16", X86_PUSH_SREG, 4, 0, SS, 0, DS, Z, Z},
    {M64, "cd 80", X86_INT, 4, 0, 0, 0, FLAT, Z, Z, 0, 0, 0x80},
    /* conditions are by number */
    {M64, "0f 9f c4", X86_SETNLE, 1, 0, 0, AH, FLAT, Z, Z},
    {M64, "0f 44 c1", X86_CMOVZ, 4, 0, RAX, RCX, FLAT, Z, Z},
    /* 90 */
    {M64, "90", X86_NOP, 4, 0, 0, 0, FLAT, Z, Z},
    {M64, "f3 90", X86_PAUSE, 4, X86_PFX_REP, 0, 0, FLAT, Z, Z},
    {M64, "48 90", X86_NOP, 8, 0, 0, 0, FLAT, Z, Z},
    {M64, "41 90", X86_XCHG, 4, 0, R8, 0, FLAT, Z, Z},
    {M64, "66 66 2e 0f 1f 84 00 00 00 00 00", X86_NOP, 2, MEM, 0, 0, FLAT, RAX, RAX},
    {M64, "f3 0f 1e fa", X86_NOP, 4, X86_PFX_REP, 7, RDX, FLAT, Z, Z},
    /* strings and ports */
    {M64, "f3 48 a5", X86_MOVS, 8, X86_PFX_REP, 0, 0, FLAT, Z, Z},
    {M64, "f2 ae", X86_SCAS, 1, X86_PFX_REPNE, 0, 0, FLAT, Z, Z},
    {M32, "f3 64 a4", X86_MOVS, 1, X86_PFX_REP | X86_PFX_SEG, 0, 0, FS, Z, Z},
    {M16, "66 6f", X86_OUTS, 4, 0, 0, 0, DS, Z, Z},
    {M64, "6e", X86_OUTS, 1, 0, 0, 0, FLAT, Z, Z},
    {M64, "e6 80", X86_OUT, 1, 0, 0, 0, FLAT, Z, Z, 0, 0, 0x80},
    {M64, "48 ed", X86_IN, 4, 0, 0, 0, FLAT, Z, Z},
    /* F2 and F3: the last counts */
    {M64, "f2 f3 0f bc c1", X86_TZCNT, 4, X86_PFX_REP, RAX, RCX, FLAT, Z, Z},
    {M64, "f3 f2 0f bc c1", X86_BSF, 4, X86_PFX_REPNE, RAX, RCX, FLAT, Z, Z},
    {M64, "66 f3 0f b8 c1", X86_POPCNT, 2, X86_PFX_REP, RAX, RCX, FLAT, Z, Z},
    {M64, "66 f2 0f 38 f1 c1", X86_CRC32, 2, X86_PFX_REPNE, RAX, RCX, FLAT, Z, Z},
    {M64, "f2 0f 38 f0 c5", X86_CRC32, 1, 0, RAX, AH + 1, FLAT, Z, Z},
    {M64, "66 0f 38 f6 c1", X86_ADCX, 4, 0, RAX, RCX, FLAT, Z, Z},
    /* a REX before another prefix is ignored */
    {M64, "48 66 01 c0", X86_ADD, 2, 0, RAX, RAX, FLAT, Z, Z},
    /* system */
    {M64, "0f 22 d8", X86_MOV_TO_CR, 8, 0, 3, RAX, FLAT, Z, Z},
    {M32, "66 0f 20 00", X86_MOV_FROM_CR, 4, 0, 0, RAX, DS, Z, Z},
    {M16, "0f 20 c0", X86_MOV_FROM_CR, 4, 0, 0, RAX, DS, Z, Z},
    {M64, "44 0f 20 c0", X86_MOV_FROM_CR, 8, 0, 8, RAX, FLAT, Z, Z},
    {M64, "0f 01 f8", X86_SWAPGS, 4, 0, 7, RAX, FLAT, Z, Z},
    {M64, "0f 01 38", X86_INVLPG, 4, MEM, 7, 0, FLAT, RAX, Z},
    {M64, "66 0f 38 82 07", X86_INVPCID, 8, MEM, RAX, 0, FLAT, RDI, Z},
    {M32, "8e d8", X86_MOV_TO_SREG, 4, 0, DS, RAX, DS, Z, Z},
    {M16, "63 c8", X86_ARPL, 2, 0, RCX, RAX, DS, Z, Z},
    {M64, "48 63 c8", X86_MOVSXD, 8, 0, RCX, RAX, FLAT, Z, Z},
    {M32, "c5 00", X86_LDS, 4, MEM, RAX, 0, DS, RAX, Z},
    {M32, "62 00", X86_BOUND, 4, MEM, RAX, 0, DS, RAX, Z},
    {M64, "f0 48 0f c7 0e", X86_CMPXCHG16B, 8, MEM | X86_PFX_LOCK, 1, 0, FLAT, RSI, Z},
    {M32, "82 c0 ff", X86_ADD, 1, 0, 0, RAX, DS, Z, Z, 0, 0, -1},
    /* FP and SIMD */
    {M64, "d9 c1", X86_FLD, 4, 0, 0, 1, FLAT, Z, Z},
    {M64, "66 0f ef c0", X86_PXOR, 16, 0, 0, 0, FLAT, Z, Z},
    {M64, "f3 44 0f 10 40 04", X86_MOVSS, 16, MEM, 8, 0, FLAT, RAX, Z, 0, 4},
    {M64, "c5 f8 77", X86_VZEROUPPER, 16, X86_PFX_VEX, 0, 0, FLAT, Z, Z},
    {M64, "c4 c1 7d 6f 00", X86_VMOVDQA, 32, MEM | X86_PFX_VEX, 0, 0, FLAT, R8, Z},
    {M64, "c4 e2 f9 f7 c3", X86_SHLX, 8, X86_PFX_VEX, RAX, RBX, FLAT, Z, Z},
    {M32, "c4 e2 f9 f7 c3", X86_SHLX, 4, X86_PFX_VEX, RAX, RBX, DS, Z, Z},
    {M64, "62 f1 7c 48 58 40 01", X86_VADDPS, 64, MEM | X86_PFX_VEX, 0, 0, FLAT, RAX, Z, 0, 64},
    {M64, "62 f1 7c 58 58 40 ff", X86_VADDPS, 64, MEM | X86_PFX_VEX, 0, 0, FLAT, RAX, Z, 0, -4},
    {M64, "62 a1 7c 48 58 c1", X86_VADDPS, 64, X86_PFX_VEX, 16, 17, FLAT, Z, Z},
    {M64, "62 f2 7d 49 88 40 01", X86_VEXPANDPS, 64, MEM, 0, 0, FLAT, RAX, Z, 0, 4},
};
/* clang-format on */

static void check_case(const struct expect *e)
{
    u8 code[16];
    unsigned len = from_hex(e->hex, code);
    struct x86_decoded d;

    print_message("# %s\n", e->hex);
    assert_int_equal(x86_decode(code, len, e->mode, &d), X86_OK);
    assert_string_equal(x86_op_name(d.op), x86_op_name(e->op));
    assert_int_equal(d.i.len, len);
    assert_int_equal(x86_row(&d.i)->op, d.op);
    assert_int_equal(d.i.opsize, e->opsize);
    assert_int_equal(d.i.prefix & e->prefix, e->prefix);
    assert_int_equal(d.i.prefix & MEM, e->prefix & MEM);
    assert_int_equal(d.i.reg, e->reg);
    assert_int_equal(d.i.rm, e->rm);
    assert_int_equal(d.i.seg, e->seg);
    assert_int_equal(d.i.base, e->base);
    assert_int_equal(d.i.index, e->index);
    assert_int_equal(d.i.scale, e->scale);
    assert_int_equal(d.i.disp, e->disp);
    assert_int_equal(d.i.imm, e->imm);
    assert_memory_equal(d.bytes, code, len);
}

static void test_cases(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(cases); n++)
        check_case(&cases[n]);
}

/* Every shorter piece of an instruction asks for more, and no byte past the end is looked at. */
static void test_truncated(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
        u8 code[16];
        unsigned len = from_hex(cases[n].hex, code);
        struct x86_decoded d;

        for (unsigned avail = 0; avail < len; avail++) {
            u8 *exact = test_malloc(avail + 1); /* its end is guarded under cmocka */
            memcpy(exact, code, avail);
            assert_int_equal(x86_decode(exact, avail, cases[n].mode, &d), X86_MORE);
            test_free(exact);
        }
    }
}

static enum x86_status status_of(enum x86_mode mode, const char *hex)
{
    u8 code[32] = {0};
    struct x86_decoded d;

    from_hex(hex, code);
    return x86_decode(code, sizeof(code), mode, &d);
}

static void test_undefined(void **state)
{
    static const struct {
        enum x86_mode mode;
        const char *hex;
    } undefined[] = {
        {M64, "06"},
        {M64, "27"},
        {M64, "60"},
        {M64, "9a"},
        {M64, "d4 0a"},
        {M64, "82 c0 00"},
        {M64, "c4 00"},
        {M64, "62 00"},
        {M64, "ce"},
        {M64, "d6"},
        {M64, "ea"},
        /* LOCK: only with memory, only where listed */
        {M64, "f0 01 c0"},
        {M64, "f0 8b 00"},
        {M64, "f0 39 00"},
        {M64, "f0 0f a3 00"},
        {M64, "f0 90"},
        {M64, "f0 83 38 00"},
        /* MOV to CS, no such segment or control register */
        {M64, "8e c8"},
        {M64, "8e f0"},
        {M64, "8c f8"},
        {M64, "0f 20 c8"},
        {M64, "0f 22 e8"},
        {M64, "44 0f 21 c0"},
        /* memory where a register must be, and the other way round */
        {M64, "8d c0"},
        {M64, "ff d8"},
        {M64, "0f c7 c8"},
        {M32, "62 c0"},
        /* groups */
        {M64, "8f c8"},
        {M64, "c6 c8 00"},
        {M64, "fe d0"},
        {M64, "ff f8"},
        {M64, "0f ba c0 00"},
        /* what is not offered */
        {M64, "0f 0f c0 9e"},
        {M64, "0f aa"},
        {M64, "0f 01 c2"},
        {M64, "0f 78 c0"},
        {M64, "c7 f8 00 00 00 00"},
        {M64, "c6 f8 00"},
        {M64, "0f 04"},
        {M64, "0f a6 c0"},
        /* VEX after a prefix; vvvv used where there is no such operand; W, L */
        {M64, "66 c5 f8 77"},
        {M64, "f3 c5 f8 77"},
        {M64, "48 c5 f8 77"},
        {M64, "f0 c5 f8 77"},
        {M64, "c5 f0 77"},
        {M64, "c5 f0 28 c0"},
        {M64, "c4 e2 fd 18 00"},
        {M64, "c4 e2 79 19 00"},
        {M64, "c4 e0 78 58 c0"},
        {M64, "c4 e4 78 58 c0"},
        /* gathers: registers that coincide; no SIB */
        {M64, "c4 e2 71 90 04 08"},
        {M64, "c4 e2 69 90 0c 08"},
        {M64, "c4 e2 69 90 00"},
        /* EVEX: reserved bits, rounding or zeroing where there is none, k0 where a mask must be */
        {M64, "62 f9 7c 48 58 c1"},
        {M64, "62 f1 78 48 58 c1"},
        {M64, "62 f1 7c 58 10 c1"},
        {M64, "62 f1 7c c8 58 c1"},
        {M64, "62 f1 7c c9 11 00"},
        {M64, "62 f2 7d 48 90 04 08"},
        {M64, "62 f1 7c 68 58 c1"},
    };

    for (unsigned n = 0; n < ARRAY_SIZE(undefined); n++) {
        print_message("# %s\n", undefined[n].hex);
        assert_int_equal(status_of(undefined[n].mode, undefined[n].hex), X86_UD);
    }
}

/* SDM vol. 3A, table 6-2 and vol. 2A, 2.3.11: fifteen bytes are allowed, sixteen are #GP. */
static void test_length_limit(void **state)
{
    u8 code[16];
    struct x86_decoded d;

    memset(code, 0x66, sizeof(code));
    code[14] = 0x90;
    assert_int_equal(x86_decode(code, 15, M64, &d), X86_OK);
    assert_int_equal(d.i.len, 15);
    assert_int_equal(x86_decode(code, 14, M64, &d), X86_MORE);
    code[13] = 0x0f;
    code[14] = 0x1f;
    assert_int_equal(x86_decode(code, 15, M64, &d), X86_TOO_LONG);
    memset(code, 0x66, sizeof(code));
    assert_int_equal(x86_decode(code, 16, M64, &d), X86_TOO_LONG);
}

static void decode_ok(enum x86_mode mode, const char *hex, struct x86_decoded *d)
{
    u8 code[16];

    assert_int_equal(x86_decode(code, from_hex(hex, code), mode, d), X86_OK);
}

/* Where the parts of an instruction are, for those who re-emit it. */
static void test_parts(void **state)
{
    struct x86_decoded d;

    decode_ok(M64, "66 44 0f 3a 0f 84 24 80 00 00 00 07", &d); /* PALIGNR xmm8, [rsp+128], 7 */
    assert_int_equal(d.rex, 0x44);
    assert_int_equal(d.map, 3);
    assert_int_equal(d.opcode_at, 4);
    assert_int_equal(d.modrm_at, 5);
    assert_int_equal(d.disp_at, 7);
    assert_int_equal(d.disp_len, 4);
    assert_int_equal(d.imm_at, 11);
    assert_int_equal(d.imm_len, 1);
    assert_int_equal(d.mem_size, 16);
    assert_int_equal(d.vl, 16);
    assert_int_equal(x86_row(&d.i)->attr & (X86_ALIGNED | X86_HOST | X86_SSE | X86_MEM_READ),
                     X86_ALIGNED | X86_HOST | X86_SSE | X86_MEM_READ);

    decode_ok(M64, "48 69 05 00 00 00 00 78 56 34 12", &d); /* IMUL rax, [rip], 12345678h */
    assert_int_equal(d.disp_at, 3);
    assert_int_equal(d.imm_at, 7);
    assert_int_equal(d.imm_len, 4);
    assert_int_equal(d.i.imm, 0x12345678);
}

static void test_memory_sizes(void **state)
{
    static const struct {
        enum x86_mode mode;
        const char *hex;
        u16 size;
    } sizes[] = {
        {M64, "8a 00", 1},
        {M64, "8b 00", 4},
        {M64, "48 8b 00", 8},
        {M64, "0f b6 00", 1},
        {M64, "8c 18", 2},
        {M64, "0f 01 10", 10},
        {M32, "0f 01 10", 6},
        {M32, "c5 00", 6},
        {M16, "c5 00", 4},
        {M64, "48 ff 18", 10},
        {M32, "62 00", 8},
        {M64, "8d 00", 0},
        {M64, "0f c7 08", 8},
        {M64, "48 0f c7 08", 16},
        {M64, "0f ae 00", 512},
        {M64, "0f ae 20", 0},
        {M64, "d9 20", 28},
        {M64, "66 d9 20", 14},
        {M64, "dd 20", 108},
        {M64, "db 28", 10},
        {M64, "0f 60 00", 4},
        {M64, "66 0f 60 00", 16},
        {M64, "0f 5a 00", 8},
        {M64, "66 0f 3a 14 00 00", 1},
        {M64, "66 0f c4 00 00", 2},
        {M64, "c5 fb 12 00", 8},
        {M64, "c5 ff 12 00", 32},
        {M64, "c4 e2 7d 22 00", 4},
        {M64, "c4 e2 69 92 04 08", 4},
        {M64, "62 f1 7c 58 58 00", 4},
        {M64, "62 f2 7d 49 88 00", 64},
        {M64, "62 f2 7e 48 32 00", 8},
        {M64, "66 0f 38 f8 00", 64},
    };
    struct x86_decoded d;

    for (unsigned n = 0; n < ARRAY_SIZE(sizes); n++) {
        print_message("# %s\n", sizes[n].hex);
        decode_ok(sizes[n].mode, sizes[n].hex, &d);
        assert_int_equal(d.mem_size, sizes[n].size);
    }
}

static void test_evex(void **state)
{
    struct x86_decoded d;

    decode_ok(M64, "62 51 85 d3 58 41 02", &d); /* VADDPD zmm8{k3}{z}, zmm31, [r9+16]{1to8} */
    assert_int_equal(d.op, X86_VADDPD);
    assert_int_equal(d.vex, 4);
    assert_int_equal(d.map, 1);
    assert_int_equal(d.evex_aaa, 3);
    assert_int_equal(d.evex_z, 1);
    assert_int_equal(d.evex_b, 1);
    assert_int_equal(d.vvvv, 31);
    assert_int_equal(d.i.reg, 8);
    assert_int_equal(d.i.base, R9);
    assert_int_equal(d.i.disp, 16);
    assert_int_equal(d.mem_size, 8);
    assert_int_equal(d.vl, 64);

    decode_ok(M64, "62 22 7d 41 a0 04 0f", &d); /* VPSCATTERDD [rdi+zmm25]{k1}, zmm24 */
    assert_int_equal(d.i.index, 25);
    assert_int_equal(d.i.base, RDI);
    assert_int_equal(d.i.reg, 24);
    assert_int_equal(d.vsib, 64);
    assert_int_equal(d.mem_size, 4);

    decode_ok(M64, "c4 e2 e9 92 04 08", &d); /* VGATHERDPD xmm0, [rax+xmm1], xmm2 */
    assert_int_equal(d.vsib, 8);
    assert_int_equal(d.vvvv, 2);

    decode_ok(M64, "62 f1 7c 38 58 c1", &d); /* VADDPS zmm0, zmm0, zmm1, {rd-sae} */
    assert_int_equal(d.vl, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),     cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_undefined), cmocka_unit_test(test_length_limit),
        cmocka_unit_test(test_parts),     cmocka_unit_test(test_memory_sizes),
        cmocka_unit_test(test_evex),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
