/*
 * bt_region.c - which blocks are translated together, and which flags live where in them.
 *
 * A region is a block that has come back often enough and what it leads to within its page, as far
 * as that has run too. Its blocks are emitted in the order found here: what falls through follows.
 */
#include "engine/bt/bt_tr.h"

#define OPS_MAX  320 /* in a region */
#define HEAT_MIN 2   /* runs of a block that make it worth while to be taken along */

struct block *bt_block_at(const struct tr *t, s64 offset)
{
    gpa_t gpa = (t->r.blk[0]->gpa & ~PAGE_MASK) + (gpa_t)offset;
    struct block *b = interp_peek(t->c, &t->bt->interp, gpa, (enum x86_mode)t->r.blk[0]->mode);
    if (b && !b->near[t->mode])
        interp_bind(t->c, b);
    return b;
}

int bt_region_at(const struct tr *t, s64 offset)
{
    for (unsigned n = 0; n < t->r.n; n++)
        if ((s64)(t->r.blk[n]->gpa & PAGE_MASK) == offset)
            return (int)n;
    return -1;
}

/* --- what follows a block --- */

struct ends {
    unsigned at;   /* offset of the last instruction */
    s64 next, to;  /* offsets; -1: none that is known */
    s64 then;      /* it goes on there, but in code of another region; -1: no */
    bool call;     /* `to` is called and comes back to `next` */
    bool all_live; /* what else follows may want any flag */
};

/* Where the block goes on that ends with an STI in front of `off` and takes along what is there. */
static s64 behind_shadow(const struct tr *t, s64 off)
{
    const struct block *b = off < (s64)PAGE_SIZE ? bt_block_at(t, off) : NULL;
    if (!b || !b->nops)
        return off;
    return b->nops == 1 && b->ends ? -1 : off + b->op[0].i.len;
}

static struct ends ends_of(const struct tr *t, const struct block *b)
{
    const struct x86_insn *i = &b->op[b->nops - 1].i;
    unsigned off = (b->gpa & PAGE_MASK) + b->bytes;
    struct ends e = {.at = off - i->len, .next = off, .to = -1, .then = -1};
    if (!b->ends)
        return e;
    enum x86_op op = i->len ? x86_row(i)->op : X86_RET_NEAR;
    s64 to = (s64)off + (s64)i->imm;
    if (t->word == 4)
        to = (s32)to;
    bool near = i->opsize == t->word;
    bool loop = op == X86_LOOP || op == X86_LOOPE || op == X86_LOOPNE || op == X86_JRCXZ;
    if (((op >= X86_JO && op <= X86_JNLE) || loop) && near) {
        e.to = to;
    } else if (op == X86_JMP_NEAR && near) {
        e.to = to;
        e.next = -1;
    } else if (op == X86_CALL_NEAR && near) {
        e.to = to;
        e.call = true;
    } else if (op == X86_CALL_NEAR_IND && near) {
        e.call = e.all_live = true;
    } else if (op == X86_STI) {
        e.then = off;
        e.next = behind_shadow(t, off);
    } else if (op == X86_STAC || op == X86_CLAC) {
        e.then = off;
        e.next = -1;
    } else if (bt_goes_on(op)) {
        e.all_live = op != X86_POPF && op != X86_PAUSE; /* its body may leave */
    } else {
        e.next = -1;
        e.all_live = true;
    }
    return e;
}

bool bt_goes_on(enum x86_op op)
{
    switch (op) {
    case X86_STI:
    case X86_POPF:
    case X86_PAUSE:
    case X86_IN:
    case X86_OUT:
    case X86_INS:
    case X86_OUTS:
    case X86_MOVS:
    case X86_CMPS:
    case X86_STOS:
    case X86_LODS:
    case X86_SCAS:
    case X86_WRMSR:
    case X86_SERIALIZE:
    case X86_CPUID:
    case X86_MOV_TO_CR:
    case X86_INVLPG:
    case X86_MOV_TO_SREG:
    case X86_POP_SREG:
        return true;
    default:
        return false;
    }
}

static bool in_page(s64 offset)
{
    return offset >= 0 && offset < (s64)PAGE_SIZE;
}

/* --- which blocks --- */

static bool wanted(const struct tr *t, const struct block *b)
{
    return b && b->nops && !b->near[t->mode] && b->heat >= HEAT_MIN;
}

static void consider(struct tr *t, struct block **todo, unsigned *n, s64 offset)
{
    if (!in_page(offset) || bt_region_at(t, offset) >= 0 || *n == REGION_BLOCKS)
        return;
    struct block *b = bt_block_at(t, offset);
    if (wanted(t, b))
        todo[(*n)++] = b;
}

/* Depth first, what falls through before what is jumped to. */
static void find_blocks(struct tr *t, struct block *head)
{
    struct block *todo[REGION_BLOCKS];
    unsigned n = 0, ops = 0;
    t->r.n = 0;
    t->r.blk[0] = head; /* bt_block_at() asks it */
    todo[n++] = head;
    unsigned most = t->bt->set->one_block ? 1 : REGION_BLOCKS;
    while (n && t->r.n < most) {
        struct block *b = todo[--n];
        if (bt_region_at(t, (s64)(b->gpa & PAGE_MASK)) >= 0 || ops + b->nops > OPS_MAX)
            continue;
        ops += b->nops;
        t->r.blk[t->r.n++] = b;
        struct ends e = ends_of(t, b);
        if (!e.call)
            consider(t, todo, &n, e.to);
        consider(t, todo, &n, e.next);
    }
}

/* Where something jumps back to within the region. */
static void find_loops(struct tr *t)
{
    for (unsigned n = 0; n < t->r.n; n++)
        t->r.loop[n] = false;
    for (unsigned n = 0; n < t->r.n; n++) {
        struct ends e = ends_of(t, t->r.blk[n]);
        int to = in_page(e.to) && e.to <= (s64)e.at ? bt_region_at(t, e.to) : -1;
        if (to >= 0)
            t->r.loop[to] = true;
    }
}

/* --- flags --- */

/* Undefined flags count as written, except where processors leave them as they were: as the
 * interpreter does, and programs may have come to rely on. */
static u32 flags_written(const struct x86_row *row)
{
    switch (row->op) {
    case X86_BT ... X86_BTC:
    case X86_BSF:
    case X86_BSR:
    case X86_DIV:
    case X86_IDIV:
        return row->flags_written;
    default:
        return row->attr & X86_FLAGS_MAYBE ? 0 : row->flags_written | row->flags_undef;
    }
}

u32 bt_block_live(const struct block *b, u32 out, u32 *live)
{
    live[b->nops] = out;
    for (unsigned n = b->nops; n-- > 0;) {
        const struct x86_insn *i = &b->op[n].i;
        if (!i->len) {
            out = FLAGS_ARITH;
        } else {
            const struct x86_row *row = x86_row(i);
            out = (out & ~flags_written(row)) | (row->flags_read & FLAGS_ARITH);
        }
        live[n] = out;
    }
    return out;
}

u32 bt_live_at(struct tr *t, s64 offset)
{
    if (!in_page(offset))
        return FLAGS_ARITH;
    int n = bt_region_at(t, offset);
    if (n >= 0)
        return t->r.in[n];
    const struct block *b = bt_block_at(t, offset);
    u32 live[BLOCK_OPS_MAX + 1];
    if (!b || t->bt->keep) /* kept code depends on nothing outside the region */
        return FLAGS_ARITH;
    return b->near[t->mode] ? b->live[t->mode] : bt_block_live(b, FLAGS_ARITH, live);
}

static u32 live_out(struct tr *t, const struct block *b)
{
    struct ends e = ends_of(t, b);
    if (e.all_live)
        return FLAGS_ARITH;
    u32 out = 0;
    if (e.to != -1)
        out |= bt_live_at(t, e.to);
    if (e.then != -1)
        out |= bt_live_at(t, e.then);
    if (e.next != -1 && !e.call)
        out |= bt_live_at(t, e.next);
    return out;
}

/* The least solution, from below. */
static void find_live(struct tr *t)
{
    u32 live[BLOCK_OPS_MAX + 1];
    struct region *r = &t->r;
    for (unsigned n = 0; n < r->n; n++)
        r->in[n] = r->out[n] = 0;
    for (bool again = true; again;) {
        again = false;
        for (unsigned n = r->n; n-- > 0;) {
            r->out[n] = live_out(t, r->blk[n]);
            u32 in = bt_block_live(r->blk[n], r->out[n], live);
            again |= in != r->in[n];
            r->in[n] = in;
        }
    }
}

void bt_find_region(struct tr *t, struct block *b)
{
    find_blocks(t, b);
    find_loops(t);
    find_live(t);
    for (unsigned n = 0; n < t->r.n; n++)
        t->r.near[n] = NULL;
}
