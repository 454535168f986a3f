/*
 * test_zydis.c - the decoder against Zydis: every opcode of every map, under every prefix that
 * matters, with ModRM bytes of every form, in 16-, 32- and 64-bit code. Validity and length must
 * agree, and so must memory operands, registers, immediates, accesses and flags.
 *
 * Differences that are meant are in known_unknown() and tolerated(), each with its reason.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#ifdef NO_ZYDIS
int main(void)
{
    printf("1..0 # SKIP Zydis (libzydis-dev) was not there when this was built\n");
    return 0;
}
#else
#include <Zydis/Zydis.h>

#include "x86/x86_insn.h"

#define MAX_REPORTS 120

struct check {
    ZydisDecoder zydis[3];
    enum x86_mode mode;
    u8 code[24];
    unsigned failures;
    unsigned long compared, valid;
    struct {
        const char *fmt;
        unsigned row;
    } seen[MAX_REPORTS]; /* each kind of difference is shown once per row */
    unsigned shown;
};

/*
 * Extensions that Zydis knows and popf does not: they are #UD, as on a processor without them.
 * (Those that reuse hint NOPs - MPX, CET, CLDEMOTE - are switched off in Zydis, and are NOPs.)
 */
static bool unknown_extension(ZydisISAExt ext)
{
    switch (ext) {
    case ZYDIS_ISA_EXT_AMD3DNOW:
    case ZYDIS_ISA_EXT_AMD_INVLPGB:
    case ZYDIS_ISA_EXT_AMX_BF16:
    case ZYDIS_ISA_EXT_AMX_INT8:
    case ZYDIS_ISA_EXT_AMX_TILE:
    case ZYDIS_ISA_EXT_CET:
    case ZYDIS_ISA_EXT_CLZERO:
    case ZYDIS_ISA_EXT_ENQCMD:
    case ZYDIS_ISA_EXT_FMA4:
    case ZYDIS_ISA_EXT_HRESET:
    case ZYDIS_ISA_EXT_KEYLOCKER:
    case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
    case ZYDIS_ISA_EXT_KNC:
    case ZYDIS_ISA_EXT_KNCE:
    case ZYDIS_ISA_EXT_KNCV:
    case ZYDIS_ISA_EXT_MCOMMIT:
    case ZYDIS_ISA_EXT_MONITORX:
    case ZYDIS_ISA_EXT_PADLOCK:
    case ZYDIS_ISA_EXT_PCONFIG:
    case ZYDIS_ISA_EXT_PT:
    case ZYDIS_ISA_EXT_RDPRU:
    case ZYDIS_ISA_EXT_RTM:
    case ZYDIS_ISA_EXT_SGX:
    case ZYDIS_ISA_EXT_SGX_ENCLV:
    case ZYDIS_ISA_EXT_SMX:
    case ZYDIS_ISA_EXT_SNP:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_TBM:
    case ZYDIS_ISA_EXT_TDX:
    case ZYDIS_ISA_EXT_TSX_LDTRK:
    case ZYDIS_ISA_EXT_UINTR:
    case ZYDIS_ISA_EXT_VMFUNC:
    case ZYDIS_ISA_EXT_WAITPKG:
    case ZYDIS_ISA_EXT_XOP:
        return true;
    default:
        return false;
    }
}

static bool unknown_isa_set(ZydisISASet set)
{
    switch (set) {
    case ZYDIS_ISA_SET_AVX512ER_512: /* Xeon Phi alone */
    case ZYDIS_ISA_SET_AVX512ER_SCALAR:
    case ZYDIS_ISA_SET_AVX512PF_512:
    case ZYDIS_ISA_SET_AVX512_4FMAPS_512:
    case ZYDIS_ISA_SET_AVX512_4FMAPS_SCALAR:
    case ZYDIS_ISA_SET_AVX512_4VNNIW_512:
        return true;
    default:
        return false;
    }
}

/* What Zydis decodes and popf takes for #UD. */
static bool known_unknown(const ZydisDecodedInstruction *z)
{
    if (unknown_extension(z->meta.isa_ext) || unknown_isa_set(z->meta.isa_set))
        return true;
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_RSM: /* #UD outside system management mode, which there is none of */
        return true;
    default:
        break;
    }
    /* Virtualization inside guests is not offered; VMCALL and VMMCALL alone are known. */
    return (z->meta.isa_ext == ZYDIS_ISA_EXT_VTX || z->meta.isa_ext == ZYDIS_ISA_EXT_SVM) &&
           z->mnemonic != ZYDIS_MNEMONIC_VMCALL && z->mnemonic != ZYDIS_MNEMONIC_VMMCALL;
}

static bool seen_before(struct check *c, const char *fmt, unsigned row)
{
    for (unsigned n = 0; n < c->shown; n++)
        if (c->seen[n].fmt == fmt && c->seen[n].row == row)
            return true;
    if (c->shown == MAX_REPORTS)
        return true;
    c->seen[c->shown].fmt = fmt;
    c->seen[c->shown++].row = row;
    return false;
}

static void report(struct check *c, const struct x86_decoded *d, const char *fmt, ...) PRINTF(3, 4);
static void report(struct check *c, const struct x86_decoded *d, const char *fmt, ...)
{
    static const char *const modes[] = {"16", "32", "64"};
    unsigned row = d->i.len ? d->i.row : 0x10000 + d->map * 256 + c->code[d->opcode_at];
    char what[128];
    va_list ap;

    c->failures++;
    if (seen_before(c, fmt, row))
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    printf("# %s-bit", modes[c->mode]);
    for (unsigned n = 0; n < 12; n++)
        printf(" %02x", c->code[n]);
    printf(": %s: %s\n", d->i.len ? x86_op_name(d->op) : "-", what);
}

static unsigned slot_of(ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_NONE)
        return X86_SLOT_ZERO;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return X86_SLOT_RIP;
    return ZydisRegisterGetId(r);
}

static unsigned seg_of(ZydisRegister r, enum x86_mode mode)
{
    unsigned id = ZydisRegisterGetId(r);

    return mode == X86_MODE64 && id < FS ? X86_SEG_FLAT : id;
}

static unsigned reg_of(ZydisRegister r)
{
    unsigned id = ZydisRegisterGetId(r);

    if (ZydisRegisterGetClass(r) != ZYDIS_REGCLASS_GPR8 || id < 4)
        return id;
    return id < 8 ? X86_HIGH_BYTE + id - 4 : id - 4;
}

static bool is_kind(unsigned kind, ZydisOperandEncoding enc)
{
    switch (enc) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        return kind == X86_O_G || kind == X86_O_V || kind == X86_O_P || kind == X86_O_K ||
               kind == X86_O_S || kind == X86_O_C || kind == X86_O_D;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        return kind == X86_O_E || kind == X86_O_M || kind == X86_O_R || kind == X86_O_W ||
               kind == X86_O_U || kind == X86_O_Q || kind == X86_O_N || kind == X86_O_KM ||
               kind == X86_O_KR || kind == X86_O_STI || kind == X86_O_VSIB;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        return kind == X86_O_H || kind == X86_O_B || kind == X86_O_KH;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
        return kind == X86_O_Z;
    case ZYDIS_OPERAND_ENCODING_IS4:
        return kind == X86_O_L;
    default:
        return false;
    }
}

static int find_operand(const struct x86_row *row, ZydisOperandEncoding enc)
{
    for (int n = 0; n < X86_OPERANDS_MAX; n++)
        if (is_kind(row->operand[n], enc))
            return n;
    return -1;
}

/* Hints and undefined instructions touch no memory; Zydis lists their operand as read. */
static bool accesses_nothing(u16 op)
{
    return op == X86_PREFETCH || op == X86_NOP || op == X86_UD0 || op == X86_UD1;
}

/* These keep or load the flags as a whole, beyond what Zydis lists. */
static bool saves_flags(u16 op)
{
    return op == X86_INT || op == X86_INT1 || op == X86_INT3 || op == X86_INTO || op == X86_IRET ||
           op == X86_SYSCALL || op == X86_SYSRET || op == X86_VMCALL;
}

static void check_mem(struct check *c, const struct x86_decoded *d, const ZydisDecodedOperand *o)
{
    const struct x86_row *row = x86_row(&d->i);
    s64 disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;

    if (!(d->i.prefix & X86_PFX_MEM))
        report(c, d, "memory operand missed");
    /* SIB.base 5 under mod 0 is no base, whatever REX.B says; Zydis forgets it after a 67 */
    if (c->code[d->modrm_at] < 0x40 && (c->code[d->modrm_at] & 7) == RSP &&
        (c->code[d->modrm_at + 1] & 7) == RBP && d->i.adsize == 4)
        return;
    if (slot_of(o->mem.base) != d->i.base || slot_of(o->mem.index) != d->i.index)
        report(c, d, "base %u, not %u; index %u, not %u", d->i.base, slot_of(o->mem.base),
               d->i.index, slot_of(o->mem.index));
    if (o->mem.index != ZYDIS_REGISTER_NONE && (1 << d->i.scale) != o->mem.scale)
        report(c, d, "scale %u, not %u", 1 << d->i.scale, o->mem.scale);
    if (d->i.adsize == 2 ? (u16)d->i.disp != (u16)disp : d->i.disp != (s32)disp)
        report(c, d, "disp %x, not %llx", d->i.disp, (long long)disp);
    if (o->mem.type == ZYDIS_MEMOP_TYPE_MEM && seg_of(o->mem.segment, c->mode) != d->i.seg)
        report(c, d, "segment %u, not %u", d->i.seg, seg_of(o->mem.segment, c->mode));
    if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN || o->mem.type == ZYDIS_MEMOP_TYPE_MIB)
        return;
    /* MOVSXD r16 reads two bytes (SDM); Zydis has four */
    if (d->mem_size != o->size / 8 && d->op != X86_MOVSXD &&
        row->width[find_operand(row, o->encoding)] != X86_W_ANY)
        report(c, d, "memory size %u, not %u", d->mem_size, o->size / 8);
    bool r = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    bool w = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (d->op == X86_INVLPG || d->op == X86_CLFLUSH || d->op == X86_CLFLUSHOPT || d->op == X86_CLWB)
        return; /* they name a line or a page, and load nothing */
    if (r != !!(row->attr & X86_MEM_READ) || w != !!(row->attr & X86_MEM_WRITE))
        report(c, d, "memory access %x, not %x", row->attr >> 8 & 3, r | w << 1);
}

static unsigned our_number(const struct check *c, const struct x86_decoded *d,
                           ZydisOperandEncoding enc)
{
    switch (enc) {
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        return d->i.rm;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        return d->vvvv;
    case ZYDIS_OPERAND_ENCODING_IS4:
        return d->i.imm >> 4 & (c->mode == X86_MODE64 ? 15 : 7);
    default:
        return d->i.reg;
    }
}

static void check_reg(struct check *c, const struct x86_decoded *d, const ZydisDecodedOperand *o)
{
    const struct x86_row *row = x86_row(&d->i);
    int n = find_operand(row, o->encoding);

    if (o->encoding == ZYDIS_OPERAND_ENCODING_NONE || o->encoding == ZYDIS_OPERAND_ENCODING_MASK)
        return;
    if (n < 0) {
        report(c, d, "operand %u missed", o->id);
        return;
    }
    if (our_number(c, d, o->encoding) != reg_of(o->reg.value))
        report(c, d, "register %u of operand %u, not %u", our_number(c, d, o->encoding), n,
               reg_of(o->reg.value));
    bool w = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (w != (row->written >> n & 1))
        report(c, d, "operand %u is %swritten", n, w ? "" : "not ");
    ZydisRegisterClass cl = ZydisRegisterGetClass(o->reg.value);
    bool gpr = cl >= ZYDIS_REGCLASS_GPR8 && cl <= ZYDIS_REGCLASS_GPR64;
    /* LAR and LSL read 16 bits of a register, which Zydis names by its longer name */
    if (gpr && d->op != X86_LAR && d->op != X86_LSL && d->width[n] != o->size / 8)
        report(c, d, "width %u of operand %u, not %u", d->width[n], n, o->size / 8);
}

static void check_imm(struct check *c, const struct x86_decoded *d, const ZydisDecodedOperand *o)
{
    u64 mask = o->imm.is_signed ? ~0ull : o->size < 64 ? BIT(o->size) - 1 : ~0ull;

    if (o->encoding == ZYDIS_OPERAND_ENCODING_NONE || d->op == X86_ENTER)
        return;
    if ((d->i.imm & mask) != o->imm.value.u)
        report(c, d, "immediate %llx, not %llx", (long long)d->i.imm, (long long)o->imm.value.u);
}

static void check_flags(struct check *c, const struct x86_decoded *d,
                        const ZydisDecodedInstruction *z)
{
    const struct x86_row *row = x86_row(&d->i);
    u32 mask = FLAGS_ARITH | FLAG_DF, read = 0, changed = 0;

    if (z->cpu_flags) {
        read = z->cpu_flags->tested & mask;
        changed = (z->cpu_flags->modified | z->cpu_flags->set_0 | z->cpu_flags->set_1 |
                   z->cpu_flags->undefined) &
                  mask;
    }
    if (saves_flags(d->op))
        return;
    /* VTESTPS, VTESTPD and VPTEST clear OF, SF, AF and PF as PTEST does (SDM); Zydis has ZF, CF */
    if (d->op == X86_VTESTPS || d->op == X86_VTESTPD || d->op == X86_VPTEST)
        return;
    if (d->op == X86_CMPS || d->op == X86_SCAS)
        read &= ~FLAG_ZF; /* REPE tests what the iteration set */
    if (read != row->flags_read)
        report(c, d, "flags read %x, not %x", row->flags_read, read);
    if (changed != (row->flags_written | row->flags_undef))
        report(c, d, "flags changed %x, not %x", row->flags_written | row->flags_undef, changed);
}

/* Of SSE's 16-byte operands those that need no alignment in spite of their exception class. */
static bool is_unaligned_sse(u16 op)
{
    return op == X86_MOVUPS || op == X86_MOVUPD || op == X86_MOVDQU || op == X86_LDDQU ||
           (op >= X86_PCMPESTRM && op <= X86_VPCMPISTRI);
}

static bool is_aligned(const struct x86_decoded *d, ZydisExceptionClass cl)
{
    switch (cl) {
    case ZYDIS_EXCEPTION_CLASS_SSE1:
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE4:
        return !d->vex && d->mem_size == 16 && !is_unaligned_sse(d->op);
    case ZYDIS_EXCEPTION_CLASS_AVX1:
    case ZYDIS_EXCEPTION_CLASS_E1:
    case ZYDIS_EXCEPTION_CLASS_E1NF:
        return true;
    default: /* these two are in no class */
        return d->op == X86_CVTPD2PI || d->op == X86_CVTTPD2PI;
    }
}

/* In its descriptions of these Zydis differs from the SDM: LGDT and LIDT need CPL 0; the others
 * are #UD, not #GP, elsewhere. */
static bool privilege_differs(u16 op)
{
    return op == X86_LGDT || op == X86_LIDT || op == X86_MONITOR || op == X86_MWAIT ||
           op == X86_CLAC || op == X86_STAC;
}

/* Where the operand size means nothing, or goes by REX.W alone, Zydis lets 66 and the mode count.
 */
static bool size_differs(const struct x86_decoded *d)
{
    const struct x86_row *row = x86_row(&d->i);

    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++)
        if (row->operand[n] && row->width[n] >= X86_W_Y)
            return true;
    return (row->attr & X86_HOST) || d->op == X86_CMPXCHG8B || d->op == X86_LDMXCSR ||
           d->op == X86_STMXCSR || d->op == X86_SYSCALL || d->op == X86_INS || d->op == X86_OUTS;
}

static void check_attributes(struct check *c, const struct x86_decoded *d,
                             const ZydisDecodedInstruction *z)
{
    u32 attr = x86_row(&d->i)->attr;
    bool is_mem = d->i.prefix & X86_PFX_MEM;
    bool lockable = z->attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK;
    bool privileged = z->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED;

    if (is_mem && is_aligned(d, z->meta.exception_class) != !!(attr & X86_ALIGNED))
        report(c, d, "alignment: exception class %u", z->meta.exception_class);
    if (!!(attr & X86_PRIV) != privileged && !privilege_differs(d->op))
        report(c, d, "privileged: %u", !!(attr & X86_PRIV));
    if (z->meta.branch_type && !(attr & X86_ENDS_BLOCK))
        report(c, d, "does not end a block");
    if (is_mem && !!(attr & X86_LOCKABLE) != lockable)
        report(c, d, "lockable: %u", !!(attr & X86_LOCKABLE));
    if (d->vl && d->vex && d->vl * 8 != z->avx.vector_length)
        report(c, d, "vector length %u, not %u", d->vl * 8, z->avx.vector_length);
    if (d->i.opsize * 8 != z->operand_width && !size_differs(d))
        report(c, d, "operand size %u, not %u", d->i.opsize * 8, z->operand_width);
}

static void check_details(struct check *c, const struct x86_decoded *d,
                          const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
    if (accesses_nothing(d->op))
        return;
    if (d->i.adsize * 8 != z->address_width)
        report(c, d, "address size %u, not %u", d->i.adsize * 8, z->address_width);
    for (unsigned n = 0; n < z->operand_count_visible; n++) {
        const ZydisDecodedOperand *o = &ops[n];

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
            check_mem(c, d, o);
        else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
            check_reg(c, d, o);
        else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            check_imm(c, d, o);
    }
    check_flags(c, d, z);
    check_attributes(c, d, z);
}

/* EVEX.W is ignored outside 64-bit code where it would widen a general register (SDM, footnotes
 * of VCVTSI2SD, VCVTSI2SH, VCVTSH2SI, ...); Zydis has #UD for some of these. */
static bool tolerated(const struct check *c, const struct x86_decoded *d)
{
    if (c->mode == X86_MODE64 || d->vex != 4)
        return false;
    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++)
        if (x86_row(&d->i)->width[n] == X86_W_Y)
            return true;
    return false;
}

/* Decodes c->code both ways; returns the length or 0. */
static unsigned compare(struct check *c)
{
    struct x86_decoded d;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    enum x86_status s = x86_decode(c->code, 15, c->mode, &d);
    bool ok = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&c->zydis[c->mode], c->code, 15, &z, ops));

    c->compared++;
    if (s != X86_OK && !ok)
        return 0;
    if (s != X86_OK) {
        if (!known_unknown(&z))
            report(c, &d, "not decoded: %s", ZydisMnemonicGetString(z.mnemonic));
        return 0;
    }
    c->valid++;
    if (!ok && tolerated(c, &d))
        return 0;
    if (!ok) {
        report(c, &d, "decoded, but invalid");
        return 0;
    }
    if (d.i.len != z.length)
        report(c, &d, "length %u, not %u", d.i.len, z.length);
    else
        check_details(c, &d, &z, ops);
    return z.length;
}

static const u8 legacy_prefixes[][3] = {
    {0},          {0x66}, {0xf3},       {0xf2},       {0x66, 0xf3}, {0xf2, 0x66}, {0x67},
    {0xf0},       {0x64}, {0x48},       {0x44},       {0x41},       {0x66, 0x48}, {0xf3, 0x48},
    {0xf2, 0x4d}, {0x40}, {0x48, 0x66}, {0x2e, 0x36}, {0xf0, 0xf2}, {0xf3, 0xf2}, {0xf2, 0xf3},
};

static const u8 tail[] = {0x8d, 0x92, 0xa3, 0xb4, 0xc5, 0xd6, 0xe7, 0xf8, 0x19, 0x2a, 0x3b};

static void put_opcode(struct check *c, unsigned at, unsigned map, unsigned opcode)
{
    static const u8 escapes[4][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    unsigned n = map == 0 ? 0 : map == 1 ? 1 : 2;

    memcpy(c->code + at, escapes[map], n);
    at += n;
    c->code[at++] = opcode;
    for (unsigned modrm = 0; modrm < 256; modrm++) {
        /* of memory forms, base registers 0, 4 (SIB), 5 and 6 stand for all */
        if (modrm < 0xc0 && !(0x71 >> (modrm & 7) & 1))
            continue;
        c->code[at] = modrm;
        memcpy(c->code + at + 1, tail, sizeof(tail));
        compare(c);
    }
}

static void legacy_maps(struct check *c)
{
    for (unsigned p = 0; p < ARRAY_SIZE(legacy_prefixes); p++) {
        unsigned at = 0;

        while (at < 3 && legacy_prefixes[p][at]) {
            c->code[at] = legacy_prefixes[p][at];
            at++;
        }
        for (unsigned i = 0; i < 4 * 256; i++)
            put_opcode(c, at, i / 256, i % 256);
    }
}

static void begin(struct check *c)
{
    c->failures = c->compared = c->valid = c->shown = 0;
}

static void end(struct check *c)
{
    printf("# %lu compared, %lu valid, %u differences\n", c->compared, c->valid, c->failures);
    assert_int_equal(c->failures, 0);
}

/* All ModRM.reg with a register, and memory: plain, SIB, RIP-relative or disp32, disp8, disp32;
 * the last FEW of them are a fair choice where groups by ModRM.reg do not matter. */
static const u8 some_modrm[] = {0x18, 0x0c, 0x5e, 0x93, 0xc1, 0xca, 0xdc, 0xe5,
                                0xee, 0xf7, 0xd3, 0xf8, 0x05, 0x44, 0x48};
#define FEW         5

static void with_modrm(struct check *c, unsigned at, unsigned opcode, unsigned first)
{
    c->code[at] = opcode;
    memcpy(c->code + at + 2, tail, sizeof(tail));
    for (unsigned n = first; n < ARRAY_SIZE(some_modrm); n++) {
        c->code[at + 1] = some_modrm[n];
        compare(c);
    }
}

/* W, vvvv, L, pp: the last byte of a VEX prefix (vvvv inverted) */
static void vex_opcodes(struct check *c, unsigned at)
{
    static const u8 vvvv[] = {0x78, 0x10};

    for (unsigned i = 0; i < 2 * 2 * 8 * 256; i++) {
        unsigned w = i >> 11 & 1, lpp = i >> 8 & 7, v = i >> 12;

        c->code[at] = w << 7 | vvvv[v] | lpp;
        with_modrm(c, at + 1, i & 255, 0);
    }
}

static void test_vex(void **state)
{
    static const u8 rxb[] = {0xe0, 0xc0, 0x60, 0x00};
    static const u8 maps[] = {0, 1, 2, 3, 4, 5, 17};
    struct check *c = *state;

    begin(c);
    for (c->mode = X86_MODE16; c->mode <= X86_MODE64; c->mode++) {
        c->code[0] = 0xc5;
        vex_opcodes(c, 1);
        c->code[0] = 0xc4;
        for (unsigned i = 0; i < 4 * ARRAY_SIZE(maps); i++) {
            c->code[1] = rxb[i & 3] | maps[i / 4];
            vex_opcodes(c, 2);
        }
    }
    end(c);
}

static void evex_opcode(struct check *c, unsigned rxbr, unsigned map, unsigned vvvv, unsigned last,
                        unsigned wpp)
{
    c->code[0] = 0x62;
    c->code[1] = (rxbr ^ 15) << 4 | map;
    c->code[2] = (wpp & 4) << 5 | (~vvvv & 15) << 3 | 4 | (wpp & 3);
    c->code[3] = last ^ 8 ^ (vvvv & 16) >> 1;
    for (unsigned opcode = 0; opcode < 256; opcode++)
        with_modrm(c, 4, opcode, ARRAY_SIZE(some_modrm) - FEW);
}

/* Every W, pp, L'L, b and z, with and without a mask. */
static void test_evex_fields(void **state)
{
    struct check *c = *state;

    begin(c);
    for (c->mode = X86_MODE32; c->mode <= X86_MODE64; c->mode++)
        for (unsigned map = 0; map < 8; map++)
            for (unsigned i = 0; i < 256; i++)
                evex_opcode(c, 0, map, 0, (i >> 4) << 4 | (i >> 3 & 1), i & 7);
    end(c);
}

/* Every extension of a register number, and vvvv used and unused. */
static void test_evex_registers(void **state)
{
    static const u8 vvvv[] = {0, 10, 16, 31};
    struct check *c = *state;

    begin(c);
    for (c->mode = X86_MODE16; c->mode <= X86_MODE64; c->mode++)
        for (unsigned i = 0; i < 8 * 2 * 16 * ARRAY_SIZE(vvvv); i++) {
            unsigned rxbr = i >> 4 & 15;

            if (c->mode != X86_MODE64 && rxbr != 0 && rxbr != 3)
                continue; /* this is BOUND, mostly */
            for (unsigned map = 1; map < 7; map++)
                evex_opcode(c, rxbr, map, vvvv[i >> 8], 0x40 | (i >> 3 & 1), i & 7);
        }
    end(c);
}

static void test_legacy(void **state)
{
    struct check *c = *state;

    begin(c);
    for (c->mode = X86_MODE16; c->mode <= X86_MODE64; c->mode++)
        legacy_maps(c);
    end(c);
}

static u32 next_random(u32 *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* Random prefixes before random bytes: orders, repetitions, too many of them. */
static void test_random(void **state)
{
    static const u8 prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x48,
                                  0x41, 0x4f, 0x0f, 0x0f, 0xc4, 0xc5, 0x62};
    struct check *c = *state;
    u32 seed = 0x12345678;

    begin(c);
    for (unsigned n = 0; n < 4000000; n++) {
        unsigned count = next_random(&seed) % (n % 16 ? 4 : 15);

        c->mode = n % 3;
        for (unsigned k = 0; k < 15; k++) {
            u32 r = next_random(&seed) >> 8;
            c->code[k] = k < count ? prefixes[r % ARRAY_SIZE(prefixes)] : r;
        }
        compare(c);
    }
    end(c);
}

static int setup(void **state)
{
    static const ZydisDecoderMode off[] = {
        ZYDIS_DECODER_MODE_MPX,
        ZYDIS_DECODER_MODE_CET,
        ZYDIS_DECODER_MODE_CLDEMOTE,
        ZYDIS_DECODER_MODE_KNC,
    };
    struct check *c = test_calloc(1, sizeof(*c));

    ZydisDecoderInit(&c->zydis[X86_MODE16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&c->zydis[X86_MODE32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&c->zydis[X86_MODE64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned m = 0; m < 3; m++)
        for (unsigned n = 0; n < ARRAY_SIZE(off); n++)
            ZydisDecoderEnableMode(&c->zydis[m], off[n], ZYAN_FALSE);
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    test_free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_legacy),      cmocka_unit_test(test_vex),
        cmocka_unit_test(test_evex_fields), cmocka_unit_test(test_evex_registers),
        cmocka_unit_test(test_random),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, setup, teardown);
}
#endif
