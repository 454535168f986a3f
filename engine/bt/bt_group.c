/*
 * bt_group.c - accesses of a block that are known to lie close together share one look-up.
 *
 * Registers are followed symbolically through the block: each holds an unknown value, its root,
 * plus a constant. Accesses off one root, of one kind, within GROUP_SPAN bytes make a group. The
 * first that is emitted looks up the page of them all, after having made sure that it is one page;
 * the others find what to add in a word of struct cpu, or still in T1. Where it is not one page,
 * the block goes on in a slow version of itself that shares nothing.
 */
#include "engine/bt/bt_tr.h"

#define GROUP_SPAN 1024
#define GROUP_MIN  2 /* accesses that make it worth while */
#define NO_ROOT    0xff

struct roots {
    u8 of[16];
    s32 plus[16];
    unsigned n; /* next new root */
};

static void forget(struct roots *r, unsigned reg)
{
    r->of[reg] = (u8)r->n++;
    r->plus[reg] = 0;
}

/* --- what instructions do to registers --- */

static unsigned reg_bit(unsigned reg)
{
    return 1u << (reg >= X86_HIGH_BYTE ? reg & 3 : reg & 15);
}

/* Named as operands and written. */
static u32 written_operands(const struct x86_decoded *d)
{
    const struct x86_row *row = x86_row(&d->i);
    bool mem = d->i.prefix & X86_PFX_MEM;
    u32 mask = 0;
    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++) {
        if (!(row->written >> n & 1))
            continue;
        switch (row->operand[n]) {
        case X86_O_E:
        case X86_O_R:
            mask |= mem ? 0 : reg_bit(d->i.rm);
            break;
        case X86_O_G:
        case X86_O_Z:
            mask |= reg_bit(d->i.reg);
            break;
        case X86_O_B:
            mask |= reg_bit(d->vvvv);
            break;
        case X86_O_ACC:
            mask |= 1u << RAX;
            break;
        default:
            break;
        }
    }
    return mask;
}

/* Registers that an instruction may write; all of them unless it is known well. */
static u32 written(const struct x86_decoded *d)
{
    const u32 all = 0xffff;
    switch (d->op) {
    case X86_MUL:
    case X86_IMUL1:
    case X86_CBW:
    case X86_CWD:
        return written_operands(d) | 1u << RAX | 1u << RDX;
    case X86_CMPXCHG:
    case X86_CMPXCHG8B:
    case X86_CMPXCHG16B:
        return written_operands(d) | 1u << RAX | 1u << RDX;
    case X86_PUSH:
        return 1u << RSP;
    case X86_POP:
    case X86_LEAVE:
        return written_operands(d) | 1u << RSP | 1u << RBP;
    case X86_LEA:
    case X86_NOP:
    case X86_ANDN:
    case X86_BEXTR:
    case X86_BLSI:
    case X86_BLSMSK:
    case X86_BLSR:
    case X86_BZHI:
    case X86_MULX:
    case X86_PDEP:
    case X86_PEXT:
    case X86_RORX:
    case X86_SARX:
    case X86_SHLX:
    case X86_SHRX:
    case X86_CRC32:
        return written_operands(d);
    default:
        break;
    }
    if (x86_row(&d->i)->attr & X86_HOST) {
        u8 opcode = d->bytes[d->opcode_at];
        bool pcmpstr = d->map == 3 && opcode >= 0x60 && opcode <= 0x63;
        bool x87 = x86_row(&d->i)->attr & X86_X87;
        return written_operands(d) | (pcmpstr ? 1u << RCX : 0) | (x87 ? 1u << RAX : 0);
    }
    return bt_copyable(d) ? written_operands(d) : all;
}

/* reg = from + by, of the full width. */
static void set_sum(struct roots *r, unsigned reg, unsigned from, s64 by)
{
    s64 plus = r->plus[from] + by;
    if (plus != (s32)plus) {
        forget(r, reg);
        return;
    }
    r->of[reg] = r->of[from];
    r->plus[reg] = (s32)plus;
}

/* Instructions after which a register's root is still known; false: any other. */
static bool follow_known(struct roots *r, const struct x86_decoded *d, unsigned word)
{
    const struct x86_insn *i = &d->i;
    const struct x86_row *row = x86_row(i);
    bool reg_form = d->modrm_at && !(i->prefix & X86_PFX_MEM);
    if (i->opsize != word || i->prefix & X86_PFX_LOCK)
        return false;
    switch (d->op) {
    case X86_ADD:
    case X86_SUB:
        if (!reg_form || row->operand[1] != X86_O_I)
            return false;
        set_sum(r, i->rm, i->rm, d->op == X86_ADD ? (s64)i->imm : -(s64)i->imm);
        return true;
    case X86_INC:
    case X86_DEC:
        if (!reg_form)
            return false;
        set_sum(r, i->rm, i->rm, d->op == X86_INC ? 1 : -1);
        return true;
    case X86_LEA:
        if (i->base >= 16 || i->index != X86_SLOT_ZERO || i->adsize != word)
            return false;
        set_sum(r, i->reg, i->base, i->disp);
        return true;
    case X86_MOV:
        if (!reg_form || row->operand[1] == X86_O_I)
            return false;
        if (row->operand[0] == X86_O_E && row->operand[1] == X86_O_G)
            set_sum(r, i->rm, i->reg, 0);
        else if (row->operand[0] == X86_O_G && row->operand[1] == X86_O_E)
            set_sum(r, i->reg, i->rm, 0);
        else
            return false;
        return true;
    case X86_PUSH:
        set_sum(r, RSP, RSP, -(s64)word);
        return true;
    case X86_POP:
        if (i->prefix & X86_PFX_MEM)
            return false;
        set_sum(r, RSP, RSP, (s64)word);
        forget(r, row->operand[0] == X86_O_Z ? i->reg : i->rm);
        return true;
    default:
        return false;
    }
}

static void follow(struct roots *r, const struct x86_decoded *d, unsigned word)
{
    if (follow_known(r, d, word))
        return;
    u32 mask = written(d);
    for (unsigned n = 0; n < 16; n++)
        if (mask >> n & 1)
            forget(r, n);
}

/* --- accesses --- */

static u32 key_of(unsigned base, unsigned index, unsigned scale)
{
    return base | index << 8 | scale << 16;
}

/* From it what a group spans can be taken away, or added, within 32 bits. */
static bool is_moderate(s64 off)
{
    return off > INT32_MIN + 4 * GROUP_SPAN && off < INT32_MAX - 4 * GROUP_SPAN;
}

/* Off register `base`, whose value is the root plus something, without an index; or NO_BASE. */
#define NO_BASE 16
static void add_access(struct tr *t, const struct roots *r, struct access *a, u32 key,
                       unsigned base, s64 off, unsigned size, bool write)
{
    bool based = base != NO_BASE;
    s32 plus = based ? r->plus[base] : 0;
    if (!is_moderate(off) || !size || size > 64)
        return;
    a->off = (s32)off;
    for (unsigned n = t->ngroups; n-- > 0;) {
        struct group *g = &t->group[n];
        s64 lo = off < g->lo ? off : g->lo, hi = off + size > g->hi ? off + size : g->hi;
        if (g->key != key || g->write != write || hi - lo > GROUP_SPAN)
            continue;
        g->lo = (s32)lo;
        g->hi = (s32)hi;
        g->n++;
        g->based &= based && plus == g->plus;
        a->group = (s8)n;
        return;
    }
    if (t->ngroups == GROUPS_MAX)
        return;
    a->group = (s8)t->ngroups;
    t->group[t->ngroups++] = (struct group){.key = key,
                                            .lo = (s32)off,
                                            .hi = (s32)(off + size),
                                            .plus = plus,
                                            .n = 1,
                                            .write = write,
                                            .based = based};
}

/* The ModRM operand. */
static void note_operand(struct tr *t, const struct roots *r, const struct x86_decoded *d,
                         struct access *a, unsigned size, bool write)
{
    const struct x86_insn *i = &d->i;
    if (!(i->prefix & X86_PFX_MEM) || i->adsize != t->word || !bt_seg_is_flat(t, i->seg) ||
        !is_moderate(i->disp))
        return;
    unsigned base = i->base < 16 ? r->of[i->base] : i->base == X86_SLOT_RIP ? 0xfe : NO_ROOT;
    unsigned index = i->index < 16 ? r->of[i->index] : NO_ROOT;
    s64 off = i->disp;
    if (i->base < 16)
        off += r->plus[i->base];
    if (i->base == X86_SLOT_RIP)
        off += t->next;
    if (i->index < 16)
        off += (s64)r->plus[i->index] << i->scale;
    bool based = i->base < 16 && !is_homed(i->base) && i->index == X86_SLOT_ZERO;
    add_access(t, r, a, key_of(base, index, index == NO_ROOT ? 0 : i->scale),
               based ? i->base : NO_BASE, off, size, write);
}

static void note_stack(struct tr *t, const struct roots *r, struct access *a, s64 disp, bool write)
{
    add_access(t, r, a, key_of(r->of[RSP], NO_ROOT, 0), RSP, r->plus[RSP] + disp, t->word, write);
}

static void note(struct tr *t, const struct roots *r, const struct x86_decoded *d,
                 struct access a[2])
{
    bool word = d->i.opsize == t->word, mem = d->i.prefix & X86_PFX_MEM;
    a[0].group = a[1].group = -1;
    switch (d->op) {
    case X86_PUSH:
    case X86_CALL_NEAR:
    case X86_CALL_NEAR_IND:
        if (!word)
            return;
        if (mem)
            note_operand(t, r, d, &a[0], t->word, false);
        note_stack(t, r, &a[1], -(s64)t->word, true);
        return;
    case X86_POP:
    case X86_RET_NEAR:
        if (word && !mem)
            note_stack(t, r, &a[1], 0, false);
        return;
    case X86_JMP_NEAR_IND:
        if (word)
            note_operand(t, r, d, &a[0], t->word, false);
        return;
    default:
        break;
    }
    const struct x86_row *row = x86_row(&d->i);
    if (mem && (row->attr & X86_HOST ? !(row->attr & X86_X87) && !d->vsib && !d->evex_aaa
                                     : bt_copyable(d) && !bt_high_byte(d)))
        note_operand(t, r, d, &a[0], d->mem_size, row->attr & X86_MEM_WRITE);
}

/* Groups too small to pay are broken up; the others get their words. */
static bool settle(struct tr *t, unsigned nops)
{
    bool any = false;
    for (unsigned n = 0; n < t->ngroups; n++) {
        t->group[n].used = t->group[n].n >= GROUP_MIN;
        any |= t->group[n].used;
    }
    for (unsigned k = 0; k < nops; k++)
        for (unsigned m = 0; m < 2; m++)
            if (t->access[k][m].group >= 0 && !t->group[t->access[k][m].group].used)
                t->access[k][m].group = -1;
    return any;
}

bool bt_find_groups(struct tr *t, unsigned nops)
{
    struct roots r = {.n = 16};
    for (unsigned n = 0; n < 16; n++)
        r.of[n] = (u8)n;
    t->ngroups = 0;
    u16 next = t->next;
    for (unsigned k = 0; k < nops; k++) {
        const struct x86_decoded *d = &t->decoded[k];
        t->next += d->i.len;
        if (r.n > 200) /* roots are bytes; nobody needs that many */
            t->access[k][0].group = t->access[k][1].group = -1;
        else
            note(t, &r, d, t->access[k]);
        if (r.n <= 200)
            follow(&r, d, t->word);
    }
    t->next = next;
    return settle(t, nops);
}
