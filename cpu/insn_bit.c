/*
 * insn_bit.c - BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT, BMI1/2, ADX, CRC32.
 *
 * For VEX-encoded ones the binder puts VEX.vvvv into insn.imm (none has an immediate but RORX,
 * which has no vvvv).
 */
#include "cpu/insn_int.h"
#include "cpu/insn_ops.h"

/* --- bit tests --- */

enum { OP_BT, OP_BTS, OP_BTR, OP_BTC };

static void bit_flags(struct cpu *c, u64 word, unsigned bit)
{
    /* CF is the bit; the host leaves the other flags alone. */
    c->aflags = (c->aflags & ~0x100) | (word >> bit & 1) << 8;
}

static u64 bit_apply(unsigned op, u64 word, unsigned bit)
{
    switch (op) {
    case OP_BTS:
        return word | 1ull << bit;
    case OP_BTR:
        return word & ~(1ull << bit);
    case OP_BTC:
        return word ^ 1ull << bit;
    default:
        return word;
    }
}

/* Atomically, by the host's instruction; what was, but for the other bits. */
#define LOCKED(op, bits, sfx)                                                                      \
    __asm__ volatile("lock " op sfx " %[n], %[m]"                                                  \
                     : [m] "+m"(*(u##bits##_any *)p), "=@ccc"(was)                                 \
                     : [n] "r"((u##bits)bit)                                                       \
                     : "memory")
#define LOCKED_SIZES(op)                                                                           \
    do {                                                                                           \
        if (size == 2)                                                                             \
            LOCKED(op, 16, "w");                                                                   \
        else if (size == 4)                                                                        \
            LOCKED(op, 32, "l");                                                                   \
        else                                                                                       \
            LOCKED(op, 64, "q");                                                                   \
    } while (0)
static u64 bit_locked(void *p, unsigned op, unsigned size, unsigned bit)
{
    bool was;
    if (op == OP_BTS)
        LOCKED_SIZES("bts");
    else if (op == OP_BTR)
        LOCKED_SIZES("btr");
    else
        LOCKED_SIZES("btc");
    return (u64)was << bit;
}

static void bit_mem(struct cpu *c, const struct x86_insn *i, unsigned op, u64 ea, unsigned bit)
{
    unsigned size = i->opsize;
    if (op == OP_BT) {
        bit_flags(c, cpu_ld(c, i->seg, ea, size), bit);
        return;
    }
    struct cpu_rmw m;
    cpu_rmw_begin(c, &m, i->seg, ea, size, insn_locked(i));
    u64 old = 0;
    if (insn_locked(i)) {
        old = bit_locked(m.p, op, size, bit);
    } else {
        cpu_copy(&old, m.p, size);
        u64 new = bit_apply(op, old, bit);
        cpu_copy(m.p, &new, size);
    }
    bit_flags(c, old, bit);
    cpu_rmw_end(c, &m);
}

static void bit_body(struct cpu *c, const struct x86_insn *i, unsigned op)
{
    unsigned size = i->opsize, n = 8 * size;
    bool imm = x86_row(i)->operand[1] == X86_O_I;
    s64 index = imm ? (s64)(i->imm & (n - 1)) : sext(reg_get(c, i->reg, size), n);
    if (i->prefix & X86_PFX_MEM) {
        /* A register index reaches beyond the operand: by whole words of the operand's size. */
        u64 ea = cpu_ea(c, i) + (u64)((index >> (3 + __builtin_ctz(size))) * (s64)size);
        if (i->adsize != 8)
            ea &= size_mask(i->adsize);
        bit_mem(c, i, op, ea, index & (n - 1));
        return;
    }
    u64 word = reg_get(c, i->rm, size);
    unsigned bit = index & (n - 1);
    bit_flags(c, word, bit);
    if (op != OP_BT)
        reg_set(c, i->rm, size, bit_apply(op, word, bit));
}

static void insn_bt(struct cpu *c, const struct x86_insn *i)
{
    bit_body(c, i, OP_BT);
}

static void insn_bts(struct cpu *c, const struct x86_insn *i)
{
    bit_body(c, i, OP_BTS);
}

static void insn_btr(struct cpu *c, const struct x86_insn *i)
{
    bit_body(c, i, OP_BTR);
}

static void insn_btc(struct cpu *c, const struct x86_insn *i)
{
    bit_body(c, i, OP_BTC);
}

/* --- scans and counts --- */

/* reg = f(rm), by the host, on all of the destination: BSF and BSR of zero leave it as the host
 * does, the upper half included. */
#define SCAN(op, bits, sfx, mod)                                                                   \
    static u64 scan_##op##_##bits(struct cpu *c, u64 src, u64 dst)                                 \
    {                                                                                              \
        u16 fl = c->aflags;                                                                        \
        __asm__(FLAGS_LOAD #op sfx " %" mod "[s], %" mod "[d]" FLAGS_SAVE                          \
                : [d] "+r"(dst), "+a"(fl)                                                          \
                : [s] "r"(src)                                                                     \
                : "cc");                                                                           \
        c->aflags = fl;                                                                            \
        return dst;                                                                                \
    }
#define SCANS(op)                                                                                  \
    SCAN(op, 16, "w", "w")                                                                         \
    SCAN(op, 32, "l", "k")                                                                         \
    SCAN(op, 64, "q", "q")                                                                         \
    static void insn_##op(struct cpu *c, const struct x86_insn *i)                                 \
    {                                                                                              \
        u64 s = rm_get(c, i, i->opsize), d = c->reg[i->reg];                                       \
        c->reg[i->reg] = i->opsize == 8   ? scan_##op##_64(c, s, d)                                \
                         : i->opsize == 4 ? scan_##op##_32(c, s, d)                                \
                                          : scan_##op##_16(c, s, d);                               \
    }
SCANS(bsf)
SCANS(bsr)
SCANS(tzcnt)
SCANS(lzcnt)
SCANS(popcnt)

/* --- BMI1, BMI2 --- */

/* reg = f(vvvv or rm ...) with flags; AT&T operand order is source(s) first. */
#define BMI3(op, bits, sfx)                                                                        \
    static u64 bmi_##op##_##bits(struct cpu *c, u##bits a, u##bits b)                              \
    {                                                                                              \
        u##bits d;                                                                                 \
        u16 fl = c->aflags;                                                                        \
        __asm__(FLAGS_LOAD #op sfx " %[b], %[a], %[d]" FLAGS_SAVE                                  \
                : [d] "=&r"(d), "+a"(fl)                                                           \
                : [a] "r"(a), [b] "r"(b)                                                           \
                : "cc");                                                                           \
        c->aflags = fl;                                                                            \
        return d;                                                                                  \
    }
/* VEX.vvvv is the first source: ANDN, PDEP, PEXT. */
#define BMI_V_RM(op)                                                                               \
    BMI3(op, 32, "l")                                                                              \
    BMI3(op, 64, "q")                                                                              \
    static void insn_##op(struct cpu *c, const struct x86_insn *i)                                 \
    {                                                                                              \
        u64 b = rm_get(c, i, i->opsize), a = c->reg[i->imm];                                       \
        reg_set(c, i->reg, i->opsize,                                                              \
                i->opsize == 8 ? bmi_##op##_64(c, a, b) : bmi_##op##_32(c, a, b));                 \
    }
/* VEX.vvvv is the second: BEXTR, BZHI, SARX, SHLX, SHRX. */
#define BMI_RM_V(op)                                                                               \
    BMI3(op, 32, "l")                                                                              \
    BMI3(op, 64, "q")                                                                              \
    static void insn_##op(struct cpu *c, const struct x86_insn *i)                                 \
    {                                                                                              \
        u64 a = rm_get(c, i, i->opsize), b = c->reg[i->imm];                                       \
        reg_set(c, i->reg, i->opsize,                                                              \
                i->opsize == 8 ? bmi_##op##_64(c, a, b) : bmi_##op##_32(c, a, b));                 \
    }
BMI_V_RM(andn)
BMI_V_RM(pdep)
BMI_V_RM(pext)
BMI_RM_V(bextr)
BMI_RM_V(bzhi)
BMI_RM_V(sarx)
BMI_RM_V(shlx)
BMI_RM_V(shrx)

/* vvvv = f(rm) */
#define BMI_BLS(op)                                                                                \
    SCAN(op, 32, "l", "k")                                                                         \
    SCAN(op, 64, "q", "q")                                                                         \
    static void insn_##op(struct cpu *c, const struct x86_insn *i)                                 \
    {                                                                                              \
        u64 s = rm_get(c, i, i->opsize);                                                           \
        reg_set(c, i->imm, i->opsize,                                                              \
                i->opsize == 8 ? scan_##op##_64(c, s, 0) : scan_##op##_32(c, s, 0));               \
    }
BMI_BLS(blsi)
BMI_BLS(blsmsk)
BMI_BLS(blsr)

static void insn_mulx(struct cpu *c, const struct x86_insn *i)
{
    u64 b = rm_get(c, i, i->opsize);
    if (i->opsize == 8) {
        u128 p = (u128)c->reg[RDX] * b;
        c->reg[i->imm] = (u64)p; /* if both are the same register, the high half stays */
        c->reg[i->reg] = p >> 64;
        return;
    }
    u64 p = (u64)(u32)c->reg[RDX] * b;
    c->reg[i->imm] = (u32)p;
    c->reg[i->reg] = p >> 32;
}

static void insn_rorx(struct cpu *c, const struct x86_insn *i)
{
    unsigned bits = 8 * i->opsize, n = i->imm & (bits - 1);
    u64 v = rm_get(c, i, i->opsize);
    reg_set(c, i->reg, i->opsize, n ? v >> n | v << (bits - n) : v);
}

/* ADCX and ADOX: add with CF (OF) in and out, the other flags untouched. */
static void add_carry(struct cpu *c, const struct x86_insn *i, u32 flag)
{
    u64 a = reg_get(c, i->reg, i->opsize), b = rm_get(c, i, i->opsize);
    u128 sum = (u128)a + b + !!(aflags_unpack(c->aflags) & flag);
    set_flags_masked(c, flag, sum >> (8 * i->opsize) ? flag : 0);
    reg_set(c, i->reg, i->opsize, (u64)sum);
}

static void insn_adcx(struct cpu *c, const struct x86_insn *i)
{
    add_carry(c, i, FLAG_CF);
}

static void insn_adox(struct cpu *c, const struct x86_insn *i)
{
    add_carry(c, i, FLAG_OF);
}

/* CRC32 (Castagnoli), bit by bit reversed: SDM vol. 2A. The source's width is in the row. */
static void insn_crc32(struct cpu *c, const struct x86_insn *i)
{
    unsigned size = x86_row(i)->width[1] ? x86_row(i)->width[1] : i->opsize;
    u64 src = rm_get(c, i, size);
    u32 crc = (u32)c->reg[i->reg];
    for (unsigned n = 0; n < size; n++) {
        crc ^= (u8)(src >> (8 * n));
        for (unsigned k = 0; k < 8; k++)
            crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1));
    }
    c->reg[i->reg] = crc;
}

cpu_insn_fn *insn_bind_bit(struct x86_decoded *d)
{
    static const struct {
        u16 op;
        bool vex; /* vvvv goes to imm */
        cpu_insn_fn *fn;
    } body[] = {
        {X86_BT, 0, insn_bt},         {X86_BTS, 0, insn_bts},     {X86_BTR, 0, insn_btr},
        {X86_BTC, 0, insn_btc},       {X86_BSF, 0, insn_bsf},     {X86_BSR, 0, insn_bsr},
        {X86_TZCNT, 0, insn_tzcnt},   {X86_LZCNT, 0, insn_lzcnt}, {X86_POPCNT, 0, insn_popcnt},
        {X86_ANDN, 1, insn_andn},     {X86_PDEP, 1, insn_pdep},   {X86_PEXT, 1, insn_pext},
        {X86_BEXTR, 1, insn_bextr},   {X86_BZHI, 1, insn_bzhi},   {X86_SARX, 1, insn_sarx},
        {X86_SHLX, 1, insn_shlx},     {X86_SHRX, 1, insn_shrx},   {X86_BLSI, 1, insn_blsi},
        {X86_BLSMSK, 1, insn_blsmsk}, {X86_BLSR, 1, insn_blsr},   {X86_MULX, 1, insn_mulx},
        {X86_RORX, 0, insn_rorx},     {X86_ADCX, 0, insn_adcx},   {X86_ADOX, 0, insn_adox},
        {X86_CRC32, 0, insn_crc32},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(body); n++) {
        if (body[n].op != d->op)
            continue;
        if (body[n].vex)
            d->i.imm = d->vvvv;
        return body[n].fn;
    }
    return NULL;
}
