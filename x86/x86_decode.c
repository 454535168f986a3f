/*
 * x86_decode.c - bytes to struct x86_decoded, by x86_table.def.
 *
 * Sources: Intel SDM vol. 2A chapter 2 (2.1 formats, 2.2 REX, 2.3 VEX, 2.7 EVEX).
 */
#include <string.h>

#include "x86/x86_table.h"
#include "x86_index.inc"

/* Longest thing that is read before the length is checked: 15 prefixes, opcode and operands. */
#define BUF_SIZE 48

struct dec {
    u8 buf[BUF_SIZE]; /* the bytes given, zeros after them */
    unsigned pos;     /* next byte */
    unsigned limit;   /* bytes given, at most 15 */
    bool m64;
    u8 opsize; /* after 66 */
    u8 seg;    /* override or 0xff */
    u8 rex;
    u8 pfx; /* the key's mandatory prefix: 0, 1 = 66, 2 = F3, 3 = F2 */
    u8 w, l;
    u8 r, x, b; /* extension bits, in place: 8 */
    u8 r2, v2;  /* EVEX: 16 */
    u8 vvvv;    /* as encoded: 0 if unused */
    u8 modrm;
    u8 space;
    const struct x86_enc *enc;
    const struct x86_row *row;
};

static void set_sizes(struct dec *d, struct x86_insn *i, enum x86_mode mode, bool p66, bool p67)
{
    d->m64 = mode == X86_MODE64;
    d->opsize = (mode == X86_MODE16) != p66 ? 2 : 4;
    if (d->m64)
        i->adsize = p67 ? 4 : 8;
    else
        i->adsize = (mode == X86_MODE16) != p67 ? 2 : 4;
}

static void set_segment(struct dec *d, struct x86_insn *i, unsigned seg)
{
    i->prefix |= X86_PFX_SEG;
    if (!d->m64 || seg >= FS)
        d->seg = seg;
}

/* SDM vol. 2A, 2.1.1 and 2.2.1: of F2 and F3 the last counts; a REX counts only right before the
 * opcode. In 64-bit code CS, DS, ES and SS overrides are ignored. */
static void parse_prefixes(struct dec *d, struct x86_insn *i, enum x86_mode mode)
{
    bool p67 = false;
    u8 p = 0;

    d->seg = 0xff;
    d->m64 = mode == X86_MODE64;
    for (; d->pos < d->limit; d->pos++) {
        u8 c = d->buf[d->pos];

        switch (c) {
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            set_segment(d, i, c >> 3 & 3);
            break;
        case 0x64:
        case 0x65:
            set_segment(d, i, c - 0x60);
            break;
        case 0x66:
            p |= X86_PFX_66;
            break;
        case 0x67:
            p67 = true;
            break;
        case 0xf0:
            p |= X86_PFX_LOCK;
            break;
        case 0xf2:
            p = (p & ~X86_PFX_REP) | X86_PFX_REPNE;
            break;
        case 0xf3:
            p = (p & ~X86_PFX_REPNE) | X86_PFX_REP;
            break;
        default:
            if (!d->m64 || (c & 0xf0) != 0x40)
                goto done;
            d->rex = c;
            continue;
        }
        d->rex = 0;
    }
done:
    i->prefix |= p;
    set_sizes(d, i, mode, p & X86_PFX_66, p67);
    d->pfx = p & X86_PFX_REPNE ? 3 : p & X86_PFX_REP ? 2 : p & X86_PFX_66 ? 1 : 0;
}

/* There are eight registers outside 64-bit code; the bits that would name more are ignored. */
static void drop_extensions(struct dec *d, struct x86_decoded *out)
{
    d->vvvv = out->vvvv;
    if (d->m64)
        return;
    d->r = d->x = d->b = d->r2 = d->v2 = 0;
    out->vvvv &= 7;
}

/* Both VEX forms (SDM vol. 2A, 2.3.5): reg, vvvv and index bits are inverted. */
static void parse_vex(struct dec *d, struct x86_decoded *out)
{
    const u8 *p = d->buf + d->pos;
    bool three = p[0] == 0xc4;
    u8 last = three ? p[2] : p[1];

    out->vex = three ? 3 : 2;
    out->map = three ? p[1] & 31 : 1;
    d->r = p[1] & 0x80 ? 0 : 8;
    if (three) {
        d->x = p[1] & 0x40 ? 0 : 8;
        d->b = p[1] & 0x20 ? 0 : 8;
        d->w = last >> 7;
    }
    out->vvvv = ~last >> 3 & 15;
    d->l = last >> 2 & 1;
    d->pfx = "\0\1\2\3"[last & 3];
    d->space = out->map >= 1 && out->map <= 3 ? SPACE_VEX + out->map : SPACE_COUNT;
    d->pos += three ? 3 : 2;
    drop_extensions(d, out);
}

/* SDM vol. 2A, 2.7.1. */
static bool parse_evex(struct dec *d, struct x86_decoded *out)
{
    const u8 *p = d->buf + d->pos;

    out->vex = 4;
    out->map = p[1] & 7;
    d->r = p[1] & 0x80 ? 0 : 8;
    d->x = p[1] & 0x40 ? 0 : 8;
    d->b = p[1] & 0x20 ? 0 : 8;
    d->r2 = p[1] & 0x10 ? 0 : 16;
    d->w = p[2] >> 7;
    out->vvvv = ~p[2] >> 3 & 15;
    d->pfx = p[2] & 3;
    out->evex_z = p[3] >> 7;
    d->l = p[3] >> 5 & 3;
    out->evex_b = p[3] >> 4 & 1;
    d->v2 = p[3] & 0x08 ? 0 : 16;
    out->evex_aaa = p[3] & 7;
    d->space = out->map >= 1 ? SPACE_EVEX + out->map : SPACE_COUNT;
    d->pos += 4;
    if (d->v2 && !d->m64)
        return false;
    drop_extensions(d, out);
    return !(p[1] & 0x08) && (p[2] & 0x04);
}

static void parse_legacy(struct dec *d, struct x86_decoded *out)
{
    if (d->rex) {
        out->rex = d->rex;
        out->i.prefix |= X86_PFX_REX;
        d->w = d->rex >> 3 & 1;
        d->r = d->rex << 1 & 8;
        d->x = d->rex << 2 & 8;
        d->b = d->rex << 3 & 8;
    }
    if (d->buf[d->pos] == 0x0f) {
        u8 c = d->buf[++d->pos];

        out->map = c == 0x38 ? 2 : c == 0x3a ? 3 : 1;
        d->pos += out->map > 1;
    }
    d->space = SPACE_LEG + out->map;
}

/* C4, C5 and 62 are LES, LDS and BOUND outside 64-bit code if ModRM would name memory. */
static bool is_vex(const struct dec *d)
{
    u8 c = d->buf[d->pos];

    return (c == 0xc4 || c == 0xc5 || c == 0x62) && (d->m64 || (d->buf[d->pos + 1] & 0xc0) == 0xc0);
}

/* Finds the opcode's space and leaves pos at the opcode; false: #UD. */
static bool parse_escape(struct dec *d, struct x86_decoded *out)
{
    if (likely(!is_vex(d))) {
        parse_legacy(d, out);
        return true;
    }
    bool alone =
        !d->rex && !(out->i.prefix & (X86_PFX_LOCK | X86_PFX_REP | X86_PFX_REPNE | X86_PFX_66));
    out->i.prefix |= X86_PFX_VEX;
    if (d->buf[d->pos] == 0x62)
        alone &= parse_evex(d, out);
    else
        parse_vex(d, out);
    return alone && d->space != SPACE_COUNT;
}

static u32 make_key(const struct dec *d, const struct x86_decoded *out)
{
    bool is_reg = d->modrm >= 0xc0;
    u32 l = out->evex_b && is_reg ? 2 : d->l; /* rounding: the length is 512 */

    return d->modrm | (u32)d->pfx << KEY_PFX | (d->w ? KEY_W : 0) | l << KEY_L |
           (d->m64 ? KEY_64 : 0) | (is_reg ? KEY_REG : 0) | (d->b ? KEY_REX_B : 0) |
           (l ? KEY_LNOT0 : 0);
}

/* Reads opcode and ModRM and picks the row; false if there is none. */
static bool select_row(struct dec *d, struct x86_decoded *out)
{
    const struct x86_slot *slot = &slots[d->space * 256 + d->buf[d->pos]];
    const struct x86_candidate *c = &candidates[slot->first];

    out->opcode_at = d->pos++;
    if (slot->modrm) {
        out->modrm_at = d->pos;
        d->modrm = d->buf[d->pos++];
    }
    u32 key = make_key(d, out);
    for (unsigned n = slot->count; n; n--, c++) {
        if ((key & c->mask) == c->value) {
            out->i.row = c->row;
            d->row = &x86_rows[c->row];
            d->enc = &x86_encs[c->row];
            out->op = d->row->op;
            return true;
        }
    }
    return false;
}

static unsigned integer_size(const struct dec *d)
{
    u32 attr = d->row->attr;

    if (!d->m64)
        return d->opsize;
    if (d->w || (attr & X86_FORCE64))
        return 8;
    if (attr & X86_DEF64)
        return d->opsize == 2 ? 2 : 8;
    return d->opsize;
}

static void set_opsize(struct dec *d, struct x86_decoded *out)
{
    unsigned size;

    switch (d->enc->osz) {
    case OSZ_BYTE:
        size = 1;
        break;
    case OSZ_CAP4:
        size = d->m64 && d->w ? 4 : d->opsize;
        break;
    case OSZ_NATIVE:
        size = d->m64 ? 8 : 4;
        break;
    case OSZ_Y:
        size = d->m64 && d->w ? 8 : 4;
        break;
    case OSZ_MMX:
        size = 8;
        break;
    case OSZ_VL:
        size = out->vl = 16 << d->l;
        break;
    default:
        size = integer_size(d);
        break;
    }
    out->i.opsize = size;
}

static unsigned special_width(unsigned w, const struct dec *d, const struct x86_decoded *out)
{
    unsigned size = out->i.opsize;
    bool is_mem = out->i.prefix & X86_PFX_MEM;

    switch (w) {
    case X86_W_Z:
        return size == 2 ? 2 : 4;
    case X86_W_Y:
        return d->m64 && d->w ? 8 : 4;
    case X86_W_N:
        return d->m64 ? 8 : 4;
    case X86_W_ADDR:
        return out->i.adsize;
    case X86_W_FAR:
        return 2 + size;
    case X86_W_PAIR:
        return 2 * size;
    case X86_W_DTR:
        return d->m64 ? 10 : 6;
    case X86_W_HALF:
        return size / 2;
    case X86_W_QUARTER:
        return size / 4;
    case X86_W_EIGHTH:
        return size / 8;
    case X86_W_DUP:
        return size == 16 ? 8 : size;
    case X86_W_RV_M2:
        return is_mem ? 2 : size;
    case X86_W_RD_M1:
        return is_mem ? 1 : 4;
    case X86_W_RD_M2:
        return is_mem ? 2 : 4;
    case X86_W_ENV:
        return d->opsize == 2 && !d->w ? 14 : 28;
    case X86_W_FSAVE:
        return d->opsize == 2 && !d->w ? 94 : 108;
    default: /* X86_W_ANY, X86_W_FXSAVE */
        return 0;
    }
}

static void set_widths(struct dec *d, struct x86_decoded *out)
{
    for (unsigned n = 0; n < X86_OPERANDS_MAX && d->row->operand[n]; n++) {
        unsigned w = d->row->width[n];

        out->width[n] = w == 0 ? out->i.opsize : w < 0x80 ? w : special_width(w, d, out);
    }
    if (!(out->i.prefix & X86_PFX_MEM) || d->enc->mem > 3)
        return;
    out->mem_size = out->width[d->enc->mem];
    if (d->row->width[d->enc->mem] == X86_W_FXSAVE)
        out->mem_size = 512;
    if (out->evex_b)
        out->mem_size = 1 << (d->enc->evex & BC_MASK);
}

/* N of disp8*N (SDM vol. 2A, 2.7.5): the memory operand's size, but for compress and expand. */
static s32 disp8_unit(const struct dec *d, const struct x86_decoded *out)
{
    return d->enc->evex >= N1 ? d->enc->evex >> 8 : out->mem_size;
}

static s32 read_disp(struct dec *d, struct x86_decoded *out, unsigned len)
{
    const u8 *p = d->buf + d->pos;
    u32 v = p[0] | p[1] << 8 | p[2] << 16 | (u32)p[3] << 24;

    out->disp_at = len ? d->pos : 0;
    out->disp_len = len;
    d->pos += len;
    if (len == 1)
        return (s8)p[0] * (out->vex == 4 ? disp8_unit(d, out) : 1);
    return len == 2 ? (s16)v : len == 4 ? (s32)v : 0;
}

/* SDM vol. 2A, table 2-1. */
static void parse_mem16(struct dec *d, struct x86_decoded *out)
{
    static const u8 bases[8] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
    static const u8 indexes[8] = {RSI,           RDI,           RSI,           RDI,
                                  X86_SLOT_ZERO, X86_SLOT_ZERO, X86_SLOT_ZERO, X86_SLOT_ZERO};
    unsigned mod = d->modrm >> 6, rm = d->modrm & 7;
    unsigned len = mod;

    out->i.base = bases[rm];
    out->i.index = indexes[rm];
    if (mod == 0 && rm == 6) {
        out->i.base = X86_SLOT_ZERO;
        len = 2;
    }
    out->i.disp = read_disp(d, out, len);
}

static void parse_sib(struct dec *d, struct x86_decoded *out)
{
    u8 sib = d->buf[d->pos++];
    unsigned index = (sib >> 3 & 7) | d->x;

    if (d->enc->vsib)
        out->i.index = index | d->v2;
    else if (index != RSP)
        out->i.index = index;
    out->i.scale = sib >> 6;
    out->i.base = (sib & 7) == RBP && d->modrm < 0x40 ? X86_SLOT_ZERO : (sib & 7) | d->b;
}

/* SDM vol. 2A, tables 2-2 and 2-3. */
static void parse_mem(struct dec *d, struct x86_decoded *out)
{
    unsigned mod = d->modrm >> 6, rm = d->modrm & 7;
    unsigned len = mod == 1 ? 1 : mod == 2 ? 4 : 0;

    if (rm == RSP) {
        parse_sib(d, out);
        if (out->i.base == X86_SLOT_ZERO)
            len = 4;
    } else if (mod == 0 && rm == RBP) {
        out->i.base = d->m64 ? X86_SLOT_RIP : X86_SLOT_ZERO;
        len = 4;
    } else {
        out->i.base = rm | d->b;
    }
    out->i.disp = read_disp(d, out, len);
}

static u8 default_segment(const struct dec *d, const struct x86_insn *i)
{
    if (d->seg != 0xff)
        return d->seg;
    if (d->m64)
        return X86_SEG_FLAT;
    return i->base == RSP || i->base == RBP ? SS : DS;
}

/* In byte forms without REX the numbers 4..7 are AH, CH, DH and BH. */
static u8 byte_reg(const struct x86_decoded *out, unsigned n)
{
    return !(out->i.prefix & X86_PFX_REX) && n >= 4 && n < 8 ? X86_HIGH_BYTE + n - 4 : n;
}

static u8 reg_number(const struct dec *d, const struct x86_decoded *out)
{
    unsigned uses = d->enc->uses;
    unsigned n = (d->modrm >> 3 & 7) | d->r;

    if (d->enc->span == 8) {
        n = (d->buf[out->opcode_at] & 7) | d->b;
        return out->i.opsize == 1 ? byte_reg(out, n) : n;
    }
    if (uses & USES_GB)
        return byte_reg(out, n);
    if (uses & USES_REG_EXT)
        return n | d->r2;
    if (uses & USES_REG_3BIT)
        return n & 7;
    if (uses & USES_SEGREG)
        return d->buf[out->opcode_at] >> 3 & 7;
    return d->enc->modrm ? n : 0;
}

static u8 rm_number(const struct dec *d, const struct x86_decoded *out)
{
    unsigned uses = d->enc->uses;
    unsigned n = (d->modrm & 7) | d->b;

    if (uses & USES_EB)
        return byte_reg(out, n);
    if ((uses & USES_RM_EXT) && out->vex == 4)
        return n | d->x << 1;
    return uses & USES_RM_3BIT ? n & 7 : n;
}

static u64 read_le(const u8 *p, unsigned len)
{
    u64 v;

    __builtin_memcpy(&v, p, sizeof(v));
    return len ? v & size_mask(len) : 0;
}

static unsigned imm_length(const struct dec *d, const struct x86_insn *i)
{
    switch (d->enc->imm) {
    case IMM_IB:
    case IMM_UB:
        return 1;
    case IMM_IW:
        return 2;
    case IMM_IZ:
    case IMM_JZ:
        return i->opsize == 2 ? 2 : 4;
    case IMM_IV:
        return i->opsize;
    case IMM_PTR:
        return 2 + i->opsize;
    case IMM_MOFFS:
        return i->adsize;
    case IMM_ENTER:
        return 3;
    default:
        return 0;
    }
}

static void parse_imm(struct dec *d, struct x86_decoded *out)
{
    unsigned len = imm_length(d, &out->i);
    u64 v = read_le(d->buf + d->pos, len);

    out->imm_at = d->pos;
    out->imm_len = len;
    d->pos += len;
    switch (d->enc->imm) {
    case IMM_IB:
    case IMM_IZ:
    case IMM_JZ:
    case IMM_IV:
        v = sext(v, len * 8);
        break;
    case IMM_PTR:
        v = (v & size_mask(len - 2)) | v >> (len - 2) * 8 << 32;
        break;
    case IMM_MOFFS:
        out->i.prefix |= X86_PFX_MEM;
        break;
    }
    out->i.imm = v;
}

/* Fields of VEX and EVEX that the row does not use must be as if absent (SDM vol. 2A, 2.3, 2.7). */
static bool vex_legal(const struct dec *d, const struct x86_decoded *out)
{
    bool is_mem = out->i.prefix & X86_PFX_MEM;

    if (!(d->enc->uses & USES_VVVV) && (d->vvvv || (d->v2 && !d->enc->vsib)))
        return false;
    if ((d->enc->uses & USES_KH) && out->vvvv > 7)
        return false;
    if ((d->enc->uses & USES_G) && d->r2)
        return false;
    if ((d->enc->uses & USES_K) && (d->r || d->r2))
        return false;
    if (d->enc->vsib && ((d->modrm & 7) != 4 || !is_mem || out->i.adsize == 2))
        return false;
    return true;
}

static bool evex_legal(const struct dec *d, const struct x86_decoded *out)
{
    bool is_mem = out->i.prefix & X86_PFX_MEM;
    u16 ev = d->enc->evex;

    if (out->evex_b && !(is_mem ? ev & BC_MASK : ev & (ER | SAE)))
        return false;
    if (out->evex_aaa ? !(ev & K) : (ev & EV_KREQ) || out->evex_z)
        return false;
    if (out->evex_z && (!(ev & EV_Z) || (is_mem && (d->row->attr & X86_MEM_WRITE))))
        return false;
    return true;
}

/* Gathers: destination, index and (VEX) mask are different registers; complex products: the
 * destination is no source. */
static bool registers_distinct(const struct dec *d, const struct x86_decoded *out)
{
    unsigned reg = out->i.reg, index = out->i.index, v = out->vvvv;

    if (!d->enc->distinct)
        return true;
    if (!d->enc->vsib)
        return reg != v && ((out->i.prefix & X86_PFX_MEM) || reg != out->i.rm);
    return reg != index && (out->vex == 4 || (reg != v && index != v));
}

static bool special_regs_legal(const struct dec *d, const struct x86_decoded *out)
{
    unsigned reg = out->i.reg;

    if (d->enc->uses & USES_SREG)
        return reg <= GS && !(d->row->op == X86_MOV_TO_SREG && reg == CS);
    if (d->enc->uses & USES_CR)
        return reg <= 8 && (0x11d & 1 << reg);
    if (d->enc->uses & USES_DR)
        return reg < 8;
    return true;
}

static bool lock_legal(const struct dec *d, const struct x86_decoded *out)
{
    return !(out->i.prefix & X86_PFX_LOCK) ||
           ((d->row->attr & X86_LOCKABLE) && (out->i.prefix & X86_PFX_MEM));
}

static bool legal(const struct dec *d, const struct x86_decoded *out)
{
    if (out->vex && !vex_legal(d, out))
        return false;
    if (out->vex == 4 && !evex_legal(d, out))
        return false;
    return lock_legal(d, out) && special_regs_legal(d, out) && registers_distinct(d, out);
}

/* More bytes are wanted than there are. */
static enum x86_status past_end(const struct dec *d)
{
    return d->limit < X86_INSN_MAX ? X86_MORE : X86_TOO_LONG;
}

/* Scalars have a length of 128, whatever L'L; with rounding in L'L it is 512. */
static void set_evex(struct dec *d, struct x86_decoded *out)
{
    if (!(d->row->attr & X86_NEEDS_VL))
        d->l = 0;
    else if (out->evex_b && d->modrm >= 0xc0)
        d->l = 2;
    if (!d->enc->vsib)
        out->vvvv |= d->v2;
}

static void parse_operands(struct dec *d, struct x86_decoded *out)
{
    struct x86_insn *i = &out->i;
    bool is_mem = d->enc->modrm && d->modrm < 0xc0 && !d->enc->modreg;

    i->base = i->index = X86_SLOT_ZERO;
    if (is_mem)
        i->prefix |= X86_PFX_MEM;
    set_opsize(d, out);
    set_widths(d, out);
    i->reg = reg_number(d, out);
    if (is_mem && i->adsize == 2)
        parse_mem16(d, out);
    else if (is_mem)
        parse_mem(d, out);
    else if (d->enc->modrm)
        i->rm = rm_number(d, out);
    i->seg = default_segment(d, i);
    if (d->enc->imm)
        parse_imm(d, out);
    if (d->enc->vsib)
        out->vsib = d->enc->vsib == VSIB_HALF ? out->vl / 2 : out->vl;
}

static void keep_bytes(const struct dec *d, struct x86_decoded *out)
{
    u128 v;

    __builtin_memcpy(&v, d->buf, sizeof(v));
    v &= ~(u128)0 >> (128 - 8 * d->pos);
    __builtin_memcpy(out->bytes, &v, sizeof(v));
}

static enum x86_status decode(struct dec *d, enum x86_mode mode, struct x86_decoded *out)
{
    parse_prefixes(d, &out->i, mode);
    if (d->pos >= d->limit)
        return past_end(d);
    bool known = parse_escape(d, out);
    if (d->pos >= d->limit)
        return past_end(d);
    if (!known)
        return X86_UD;
    bool found = select_row(d, out);
    if (d->pos > d->limit)
        return past_end(d);
    if (!found || (d->l == 3 && !(out->evex_b && d->modrm >= 0xc0)))
        return X86_UD;
    if (out->vex == 4)
        set_evex(d, out);
    parse_operands(d, out);
    if (d->pos > d->limit)
        return past_end(d);
    if (!legal(d, out))
        return X86_UD;
    out->i.len = d->pos;
    keep_bytes(d, out);
    return X86_OK;
}

enum x86_status x86_decode(const u8 *code, unsigned avail, enum x86_mode mode,
                           struct x86_decoded *out)
{
    struct dec d = {.limit = avail < X86_INSN_MAX ? avail : X86_INSN_MAX};

    if (likely(avail >= 16))
        __builtin_memcpy(d.buf, code, 16); /* of a size known to the compiler: no call */
    else
        for (unsigned n = 0; n < d.limit; n++)
            d.buf[n] = code[n];
    *out = (struct x86_decoded){0};
    return decode(&d, mode, out);
}
