/* gen.c - encodings of table rows with operands that mean something. */
#include "gen.h"

#include <string.h>

#include "rows.h"
#include "x86/x86_table.h"

/* --- registers --- */

static unsigned gprs(const struct test_case *t)
{
    return t->m64 ? 16 : 8;
}

/* A general register to be written to: rarely one that others use as an address. */
static unsigned pick_gpr(struct gen *g, const struct test_case *t)
{
    for (unsigned tries = 0; tries < 8; tries++) {
        unsigned n = pick(&g->rng, gprs(t));
        if (n == RSP && !one_in(&g->rng, 16))
            continue;
        if (t->role[n] == ROLE_VALUE || one_in(&g->rng, 6))
            return n;
    }
    return RAX;
}

static int pick_role(struct gen *g, const struct test_case *t, enum role role)
{
    for (unsigned tries = 0; tries < 12; tries++) {
        unsigned n = pick(&g->rng, gprs(t));
        if (t->role[n] == role)
            return (int)n;
    }
    return -1;
}

/* An address in or about the data pages. */
static u32 pick_address(struct gen *g)
{
    struct rng *r = &g->rng;
    switch (pick(r, 24)) {
    case 0: /* crosses a page */
    case 1:
        return DATA + (1 + pick(r, 3)) * (u32)PAGE_SIZE - pick(r, 64);
    case 2: /* into read-only memory */
        return RO - 1 - pick(r, 64);
    case 3:
        return RO + pick(r, (u32)PAGE_SIZE);
    case 4: /* out of memory */
        return RO + (u32)PAGE_SIZE - pick(r, 64);
    case 5:
        return DATA - pick(r, 64);
    case 6:
    case 7:
    case 8:
    case 9:
        return DATA + pick(r, DATA_SIZE - 64);
    case 10: /* code, which can only be read */
        return one_in(r, 4) ? CODE + pick(r, CODE_SIZE) : DATA + 0xc00 + 8 * pick(r, 64);
    case 11: /* pointers to the end of the code */
        return DATA + 0xc00 + 8 * pick(r, 64);
    default:
        return DATA + 64 * pick(r, DATA_SIZE / 64);
    }
}

/* --- memory operands --- */

static void set_sib(struct memop *m, unsigned base, unsigned index, unsigned scale)
{
    m->rm = 4;
    m->has_sib = true;
    m->sib = (u8)(scale << 6 | (index & 7) << 3 | (base & 7));
    m->b = base >> 3 & 1;
    m->x = index >> 3 & 1;
    m->v2 = index >> 4 & 1;
}

/* disp alone; in 64-bit code not relative to RIP. */
static void mem_absolute(struct memop *m, const struct test_case *t, u32 at)
{
    m->mod = 0;
    m->disp_len = 4;
    m->disp = (s32)at;
    if (t->m64)
        set_sib(m, 5, 4, 0);
    else
        m->rm = 5;
}

static void set_disp(struct gen *g, struct memop *m, s64 disp)
{
    m->disp = (s32)disp;
    if (disp == 0 && (m->has_sib ? m->sib & 7 : m->rm) != 5) {
        m->mod = 0;
        m->disp_len = 0;
    } else if (one_in(&g->rng, 2)) {
        m->mod = 1;
        m->disp_len = 1;
        m->disp = (s8)rnd(&g->rng);
    } else {
        m->mod = 2;
        m->disp_len = 4;
    }
}

static void mem_base(struct gen *g, const struct test_case *t, struct memop *m, bool indexed)
{
    int base = pick_role(g, t, ROLE_POINTER), index = RSP;
    if (base < 0) {
        mem_absolute(m, t, pick_address(g));
        return;
    }
    unsigned scale = pick(&g->rng, 4);
    if (indexed)
        index = pick_role(g, t, ROLE_SMALL);
    if (index < 0)
        index = RSP;
    u64 at = t->r.reg[base];
    if (index != RSP)
        at += t->r.reg[index] << scale;
    if (indexed || (base & 7) == RSP) {
        set_sib(m, (unsigned)base, (unsigned)index, scale);
    } else {
        m->rm = base & 7;
        m->b = base >> 3 & 1;
    }
    set_disp(g, m, one_in(&g->rng, 4) ? 0 : (s64)(pick_address(g) - at));
}

/* Any registers: nearly always a fault. */
static void mem_wild(struct gen *g, const struct test_case *t, struct memop *m)
{
    set_sib(m, pick(&g->rng, gprs(t)), pick(&g->rng, gprs(t)), pick(&g->rng, 4));
    m->mod = (u8)pick(&g->rng, 3);
    m->disp_len = m->mod == 1 ? 1 : m->mod == 2 || (m->sib & 7) == 5 ? 4 : 0;
    m->disp = (s32)rnd_value(&g->rng);
}

/* FS and GS have a base of their own: their offsets are small. */
static void mem_segment(struct gen *g, const struct test_case *t, struct memop *m)
{
    static const u8 prefixes[] = {0x64, 0x65, 0x64, 0x65, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26};
    m->seg = prefixes[pick(&g->rng, ARRAY_SIZE(prefixes))];
    if (t->m64 || m->seg < 0x64)
        return;
    if (one_in(&g->rng, 3)) { /* 16-bit addressing, by disp16 or registers */
        m->p67 = true;
        m->has_sib = false;
        m->mod = (u8)pick(&g->rng, 3);
        m->rm = (u8)(one_in(&g->rng, 2) ? 6 : pick(&g->rng, 8));
        m->disp_len = m->mod == 1 ? 1 : m->mod == 2 || m->rm == 6 ? 2 : 0;
        m->disp = (s32)(pick_address(g) - DATA);
        return;
    }
    mem_absolute(m, t, pick_address(g) - DATA);
}

/* Elements' offsets are small in vector registers 6, 7, 14, 15, ... (gen_state). */
static void mem_vsib(struct gen *g, const struct test_case *t, struct memop *m, bool evex)
{
    unsigned nvec = t->m64 ? (evex ? 32 : 16) : 8, index = pick(&g->rng, nvec);
    int base = pick_role(g, t, ROLE_POINTER);
    if (!one_in(&g->rng, 8))
        index |= 6;
    if (base < 0)
        base = RSI;
    set_sib(m, (unsigned)base, index, pick(&g->rng, 4));
    m->mod = 2;
    m->disp_len = 4;
    if (one_in(&g->rng, 4))
        m->disp = (s32)(pick_address(g) - t->r.reg[base]);
}

/* Close to the one before, by the same registers: the translator may look them up together. */
static struct memop mem_close(struct gen *g)
{
    struct memop m = g->last;
    s32 by = 4 * ((s32)pick(&g->rng, 32) - 16);
    m.address += (u32)by;
    m.disp = (m.disp_len == 1 ? (s8)m.disp : m.disp_len ? m.disp : 0) + by;
    if (!m.rip && m.disp_len < 4)
        m.mod = 2;
    m.disp_len = 4;
    return m;
}

static struct memop pick_mem(struct gen *g, const struct test_case *t, const struct x86_enc *enc)
{
    struct memop m = {0};
    if (enc->vsib) {
        mem_vsib(g, t, &m, enc->space >= SPACE_EVEX);
        return m;
    }
    if (t->n && g->has_last && one_in(&g->rng, 2))
        return g->last = mem_close(g);
    switch (pick(&g->rng, 16)) {
    case 0:
        mem_wild(g, t, &m);
        break;
    case 1:
    case 2:
        if (t->m64) {
            m.rm = 5;
            m.disp_len = 4;
            m.rip = true;
            m.address = pick_address(g);
            break;
        }
        /* fall through */
    case 3:
    case 4:
    case 5:
        mem_absolute(&m, t, pick_address(g));
        break;
    case 6:
    case 7:
    case 8:
        mem_base(g, t, &m, true);
        break;
    default:
        mem_base(g, t, &m, false);
    }
    if (one_in(&g->rng, 12) && !m.rip)
        mem_segment(g, t, &m);
    if (t->m64 && one_in(&g->rng, 24))
        m.p67 = true;
    g->has_last = !m.p67 && !m.seg;
    g->last = m;
    return m;
}

/* --- encodings --- */

struct enc_state {
    const struct x86_row *row;
    const struct x86_enc *enc;
    u8 pfx, w, l;
    u8 r, r2, vvvv;
    struct memop m;
    bool is_mem;
    u8 modrm;
    u8 aaa, z, bc;
    u8 opcode;
    bool lock;
};

static bool has_kind(const struct x86_row *row, unsigned kind)
{
    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++)
        if (row->operand[n] == kind)
            return true;
    return false;
}

static void pick_selectors(struct gen *g, const struct test_case *t, struct enc_state *s,
                           unsigned variant)
{
    u32 mask = s->enc->mask, value = s->enc->value;
    bool legacy = s->enc->space<SPACE_VEX + 1, evex = s->enc->space> SPACE_EVEX;
    u8 any = 0;
    if (legacy) {
        any = variant & 2 ? 1 : 0;
        if (s->row->attr & X86_STRING ? one_in(&g->rng, 2) : one_in(&g->rng, 24))
            any = (u8)(2 + pick(&g->rng, 2));
    } else {
        any = (u8)pick(&g->rng, 4);
    }
    u8 fixed = (u8)(mask >> KEY_PFX & 3);
    s->pfx = (u8)((value >> KEY_PFX & 3) | (any & ~fixed));
    s->w = mask & KEY_W ? (value & KEY_W) != 0 : (variant >> 2 & 1) && (!legacy || t->m64);
    unsigned lmask = mask >> KEY_L & 3;
    s->l = (u8)(lmask ? value >> KEY_L & 3 : evex ? pick(&g->rng, 3) : pick(&g->rng, 2));
    if (mask & KEY_LNOT0 && !lmask)
        s->l = mask & value & KEY_LNOT0 ? (u8)(evex ? 1 + pick(&g->rng, 2) : 1) : 0;
    if (!legacy && !lmask && !(s->row->attr & (X86_AVX | X86_AVX512)) && !one_in(&g->rng, 8))
        s->l = 0;
}

static unsigned pick_reg_field(struct gen *g, const struct test_case *t, struct enc_state *s)
{
    bool evex = s->enc->space > SPACE_EVEX;
    if (has_kind(s->row, X86_O_V))
        return pick(&g->rng, t->m64 ? (evex ? 32 : 16) : 8);
    if (has_kind(s->row, X86_O_G))
        return pick_gpr(g, t);
    return pick(&g->rng, 8);
}

static unsigned pick_rm_reg(struct gen *g, const struct test_case *t, struct enc_state *s)
{
    bool evex = s->enc->space > SPACE_EVEX;
    if (has_kind(s->row, X86_O_W) || has_kind(s->row, X86_O_U))
        return pick(&g->rng, t->m64 ? (evex ? 32 : 16) : 8);
    if (has_kind(s->row, X86_O_E) || has_kind(s->row, X86_O_R)) {
        int code = one_in(&g->rng, 4) ? pick_role(g, t, ROLE_CODE) : -1;
        return code >= 0 && s->row->attr & X86_ENDS_BLOCK ? (unsigned)code : pick_gpr(g, t);
    }
    return pick(&g->rng, 8);
}

static void pick_modrm(struct gen *g, const struct test_case *t, struct enc_state *s,
                       unsigned variant)
{
    u32 mask = s->enc->mask, value = s->enc->value;
    unsigned reg = mask >> 3 & 7 ? value >> 3 & 7 : pick_reg_field(g, t, s);
    bool is_reg = mask & KEY_REG ? (value & KEY_REG) != 0 : variant & 1;
    s->is_mem = !is_reg;
    s->r = reg >> 3 & 1;
    s->r2 = reg >> 4 & 1;
    if (s->is_mem) {
        s->m = pick_mem(g, t, s->enc);
        s->modrm = (u8)(s->m.mod << 6 | (reg & 7) << 3 | s->m.rm);
        return;
    }
    unsigned rm = mask & 7 ? value & 7 : pick_rm_reg(g, t, s);
    s->m.b = rm >> 3 & 1;
    s->m.x = rm >> 4 & 1;
    s->modrm = (u8)(0xc0 | (reg & 7) << 3 | (rm & 7));
}

static void pick_evex(struct gen *g, struct enc_state *s)
{
    u16 ev = s->enc->evex;
    if (ev & K && (ev & EV_KREQ || one_in(&g->rng, 2)))
        s->aaa = (u8)(1 + pick(&g->rng, 7));
    if (ev & EV_Z && s->aaa && !(s->is_mem && s->row->attr & X86_MEM_WRITE))
        s->z = (u8)pick(&g->rng, 2);
    if (s->is_mem ? ev & BC_MASK : ev & (ER | SAE))
        s->bc = one_in(&g->rng, 3);
    if (s->bc && !s->is_mem)
        s->l = (u8)pick(&g->rng, 4);
}

static void pick_vvvv(struct gen *g, const struct test_case *t, struct enc_state *s)
{
    if (!has_kind(s->row, X86_O_H) && !has_kind(s->row, X86_O_B) && !has_kind(s->row, X86_O_KH))
        return;
    if (has_kind(s->row, X86_O_KH))
        s->vvvv = (u8)pick(&g->rng, 8);
    else if (has_kind(s->row, X86_O_B))
        s->vvvv = (u8)pick_gpr(g, t);
    else
        s->vvvv = (u8)pick(&g->rng, t->m64 ? (s->enc->space > SPACE_EVEX ? 32 : 16) : 8);
}

/* --- bytes --- */

static u8 *put_legacy(struct gen *g, const struct test_case *t, const struct enc_state *s, u8 *p)
{
    static const u8 mandatory[] = {0, 0x66, 0xf3, 0xf2};
    bool fixed = s->enc->mask >> KEY_PFX & 3;
    u8 rex = (u8)(s->w << 3 | s->r << 2 | s->m.x << 1 | s->m.b);
    if (s->pfx)
        *p++ = mandatory[s->pfx];
    if (!fixed && s->pfx > 1 && one_in(&g->rng, 4))
        *p++ = 0x66;
    if (t->m64 && (rex || one_in(&g->rng, 8)))
        *p++ = 0x40 | rex;
    if (s->enc->space > 0)
        *p++ = 0x0f;
    if (s->enc->space > 1)
        *p++ = s->enc->space == 2 ? 0x38 : 0x3a;
    *p++ = s->opcode;
    return p;
}

static u8 *put_vex(const struct enc_state *s, u8 *p)
{
    static const u8 pp[] = {0, 1, 2, 3};
    u8 map = s->enc->space - SPACE_VEX;
    u8 last = (u8)((~s->vvvv & 15) << 3 | s->l << 2 | pp[s->pfx]);
    if (map == 1 && !s->w && !s->m.x && !s->m.b && s->vvvv & 1) {
        *p++ = 0xc5;
        *p++ = (u8)(last | !s->r << 7);
    } else {
        *p++ = 0xc4;
        *p++ = (u8)(!s->r << 7 | !s->m.x << 6 | !s->m.b << 5 | map);
        *p++ = (u8)(last | s->w << 7);
    }
    *p++ = s->opcode;
    return p;
}

static u8 *put_evex(const struct enc_state *s, u8 *p)
{
    u8 v2 = s->enc->vsib ? s->m.v2 : s->vvvv >> 4;
    *p++ = 0x62;
    *p++ =
        (u8)(!s->r << 7 | !s->m.x << 6 | !s->m.b << 5 | !s->r2 << 4 | (s->enc->space - SPACE_EVEX));
    *p++ = (u8)(s->w << 7 | (~s->vvvv & 15) << 3 | 4 | s->pfx);
    *p++ = (u8)(s->z << 7 | s->l << 5 | s->bc << 4 | !v2 << 3 | s->aaa);
    *p++ = s->opcode;
    return p;
}

static u8 *put_modrm(const struct enc_state *s, u8 *p)
{
    *p++ = s->modrm;
    if (!s->is_mem)
        return p;
    if (s->m.has_sib)
        *p++ = s->m.sib;
    memcpy(p, &s->m.disp, 4);
    return p + s->m.disp_len;
}

/* More than any immediate needs: the decoder says where the instruction ends. */
static void put_immediate(struct gen *g, const struct enc_state *s, u8 *p)
{
    u64 v = rnd_value(&g->rng);
    switch (s->enc->imm) {
    case IMM_MOFFS:
        v = pick_address(g);
        if (s->m.seg)
            v -= DATA;
        break;
    case IMM_ENTER: /* small frames, small nesting */
        if (!one_in(&g->rng, 4))
            v &= 0x0f00ff;
        break;
    case IMM_UB:
        if (s->row->op == X86_INT)
            v = one_in(&g->rng, 2) || (v & 0xff) == 0x80 ? 3 + pick(&g->rng, 2) : v;
        break; /* never 0x80: a system call of the host's */
    }
    memcpy(p, &v, 8);
}

static unsigned put_all(struct gen *g, const struct test_case *t, const struct enc_state *s,
                        u8 *buf)
{
    u8 *p = buf;
    if (s->lock)
        *p++ = 0xf0;
    if (s->m.p67)
        *p++ = 0x67;
    if (s->m.seg)
        *p++ = s->m.seg;
    if (s->enc->space > SPACE_EVEX)
        p = put_evex(s, p);
    else if (s->enc->space > SPACE_VEX)
        p = put_vex(s, p);
    else
        p = put_legacy(g, t, s, p);
    if (s->enc->modrm)
        p = put_modrm(s, p);
    put_immediate(g, s, p);
    return (unsigned)(p - buf);
}

/* --- one instruction --- */

static void pick_all(struct gen *g, const struct test_case *t, struct enc_state *s,
                     unsigned variant)
{
    pick_selectors(g, t, s, variant);
    pick_vvvv(g, t, s);
    s->opcode = s->enc->opcode;
    if (s->enc->modrm)
        pick_modrm(g, t, s, variant);
    if (s->enc->space > SPACE_EVEX)
        pick_evex(g, s);
    if (s->enc->span == 8) {
        unsigned n = pick_gpr(g, t);
        s->opcode += n & 7;
        s->m.b = n >> 3 & 1;
    }
    if (!s->enc->modrm && one_in(&g->rng, 16)) {
        if (one_in(&g->rng, 2))
            mem_segment(g, t, &s->m);
        else
            s->m.p67 = true;
    }
    if (s->row->attr & X86_LOCKABLE && s->is_mem)
        s->lock = one_in(&g->rng, 4);
}

static bool far_target(unsigned op)
{
    return op == X86_CALL_FAR || op == X86_JMP_FAR;
}

static void note_fixes(struct gen *g, struct insn *i, const struct enc_state *s,
                       const struct x86_decoded *d)
{
    if (d->i.prefix & X86_PFX_MEM && s->m.rip && d->disp_len == 4) {
        i->fix = FIX_RIP;
        i->fix_at = d->disp_at;
        i->fix_len = 4;
        i->address = s->m.address;
    } else if (has_kind(s->row, X86_O_J)) {
        i->fix = FIX_REL;
        i->fix_at = d->imm_at;
        i->fix_len = d->imm_len;
    } else if (far_target(s->row->op) && d->imm_len == 6) {
        i->fix = FIX_FAR;
        i->fix_at = d->imm_at;
        i->fix_len = 4;
        u16 sel = one_in(&g->rng, 4) ? (u16)rnd_value(&g->rng) : SEL_CS32;
        if (sel == SEL_CS64) /* 32-bit ways out are no 64-bit code */
            sel = 0;
        memcpy(i->b + d->imm_at + 4, &sel, 2);
    }
}

bool gen_insn(struct gen *g, struct test_case *t, unsigned row, unsigned variant)
{
    enum x86_mode mode = t->m64 ? X86_MODE64 : X86_MODE32;
    const struct x86_enc *enc = &x86_encs[row];
    if (enc->mask & KEY_64 && t->m64 != ((enc->value & KEY_64) != 0))
        return false;
    for (unsigned tries = 0; tries < 64; tries++) {
        struct enc_state s = {.row = &x86_rows[row], .enc = enc};
        struct insn *i = &t->in[t->n];
        u8 buf[48] = {0};
        struct x86_decoded d;
        pick_all(g, t, &s, tries < 16 ? variant : (unsigned)rnd(&g->rng));
        put_all(g, t, &s, buf);
        if (x86_decode(buf, 15, mode, &d) != X86_OK || d.i.row != row)
            continue;
        *i = (struct insn){.len = d.i.len, .row = (u16)row};
        memcpy(i->b, buf, d.i.len);
        note_fixes(g, i, &s, &d);
        t->uses_fpu |= row_is_fpu(row);
        t->n++;
        return true;
    }
    return false;
}

/* --- branches and places --- */

static bool loops(unsigned op)
{
    return op == X86_LOOP || op == X86_LOOPE || op == X86_LOOPNE;
}

/* May instructions from..to be repeated by a LOOP? Not if they are likely to make RCX large. */
static bool can_repeat(const struct test_case *t, unsigned from, unsigned to)
{
    for (unsigned k = from; k < to; k++) {
        const struct x86_row *r = &x86_rows[t->in[k].row];
        if (r->attr & X86_STRING || loops(r->op))
            return false;
    }
    return true;
}

/* Forward over a few instructions; LOOPs go back if their counter is small and left alone. */
void gen_branches(struct gen *g, struct test_case *t)
{
    for (unsigned k = 0; k < t->n; k++) {
        struct insn *i = &t->in[k];
        if (i->fix != FIX_REL && i->fix != FIX_FAR)
            continue;
        unsigned room = t->n - k;
        i->label = (u8)(k + 1 + pick(&g->rng, room < 4 ? room : 4));
        if (i->label > t->n)
            i->label = (u8)t->n;
        unsigned back = pick(&g->rng, k + 1);
        if (loops(x86_rows[i->row].op) && t->role[RCX] == ROLE_SMALL && t->r.reg[RCX] &&
            can_repeat(t, 0, k))
            i->label = (u8)back;
    }
}

u32 gen_next_start(struct gen *g)
{
    u32 at = g->next_start;
    if (at + sizeof(((struct test_case *)0)->code) > CODE + CODE_SIZE)
        at = CODE;
    g->next_start = at;
    return at;
}

/* Values in memory that are the end's address, alone and as far pointers and frames. */
static void put_pointers(struct test_case *t)
{
    u8 *p = t->mem + 0xc00;
    u64 end = t->end, far = end | (u64)(t->m64 ? SEL_CS64 : SEL_CS32) << 32;
    for (unsigned n = 0; n < 16; n++)
        memcpy(p + 8 * n, &end, 8);
    for (unsigned n = 16; n < 48; n++)
        memcpy(p + 8 * n, &far, 8);
    for (unsigned n = 48; n < 64; n += 2) {
        memcpy(p + 8 * n, &end, 8);
        memset(p + 8 * n + 8, 0, 8);
        p[8 * n + 8] = SEL_CS64;
    }
    u64 off = t->r.reg[RSP] - STACK;
    if (off > PAGE_SIZE - 64 || t->seed & 1)
        return;
    u64 frame[] = {end, t->m64 ? SEL_CS64 : SEL_CS32, 0x246, STACK + 0x800, SEL_DS};
    p = t->mem + DATA_SIZE + PAGE_SIZE + off;
    if (t->m64 && t->seed & 2) {
        memcpy(p, frame, sizeof frame);
    } else {
        for (unsigned n = 0; n < ARRAY_SIZE(frame); n++, p += 4)
            memcpy(p, &frame[n], 4);
    }
}

static void fix_insn(const struct test_case *t, const struct insn *i, u8 *b, u32 at,
                     const u32 *place)
{
    u32 next = at + i->len, to = 0;
    switch (i->fix) {
    case FIX_REL:
        to = place[i->label] - next;
        break;
    case FIX_FAR:
        to = place[i->label];
        break;
    case FIX_RIP:
        to = i->address - next;
        break;
    default:
        return;
    }
    memcpy(b + i->fix_at, &to, i->fix_len);
}

void gen_place(struct test_case *t, u32 start)
{
    u32 place[INSNS_MAX + 1], at = start;
    for (unsigned k = 0; k < t->n; k++) {
        place[k] = at;
        at += t->in[k].len;
    }
    place[t->n] = at;
    t->start = start;
    t->end = at;
    u8 *p = t->code;
    for (unsigned k = 0; k < t->n; k++) {
        memcpy(p, t->in[k].b, t->in[k].len);
        fix_insn(t, &t->in[k], p, place[k], place);
        p += t->in[k].len;
    }
    u32 away = (t->m64 ? EXIT : EXIT32) - (at + 5);
    *p++ = 0xe9;
    memcpy(p, &away, 4);
    t->bytes = (unsigned)(p + 4 - t->code);
    t->r.rip = start;
    for (unsigned n = 0; n < 16; n++)
        if (t->role[n] == ROLE_CODE)
            t->r.reg[n] = t->end;
    put_pointers(t);
}
