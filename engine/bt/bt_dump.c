/*
 * bt_dump.c - --bt-dump: what the translation of one address went through.
 *
 * Per block the guest's instructions with the flags that are live before each, and the host code
 * that each became, in hex; then what lies out of line. `objdump -D -b binary -m i386:x86-64` reads
 * the hex after xxd -r -p.
 */
#include <stdio.h>

#include "engine/bt/bt_tr.h"

#define LINE_BYTES 24

static void flags_text(u32 live, char text[8])
{
    static const struct {
        u32 bit;
        char name;
    } flags[] = {{FLAG_OF, 'O'}, {FLAG_SF, 'S'}, {FLAG_ZF, 'Z'},
                 {FLAG_AF, 'A'}, {FLAG_PF, 'P'}, {FLAG_CF, 'C'}};
    for (unsigned n = 0; n < ARRAY_SIZE(flags); n++)
        text[n] = live & flags[n].bit ? flags[n].name : '-';
    text[ARRAY_SIZE(flags)] = 0;
}

static void hex_text(char *text, const u8 *p, unsigned n)
{
    for (; n; n--, text += 2)
        snprintf(text, 3, "%02x", *p++);
}

/* Host code from one offset in the code cache to another. */
static void host_code(const struct tr *t, u32 from, u32 to, u32 start)
{
    char hex[2 * LINE_BYTES + 1];
    while (from < to) {
        unsigned n = (unsigned)min_u64(LINE_BYTES, to - from);
        hex_text(hex, t->bt->code + from, n);
        log_emit(t->c->log, "bt:        +%04x  %s", from - start, hex);
        from += n;
    }
}

static void guest_insn(const struct tr *t, u64 rip, const struct op *op, const u8 *code, u32 live)
{
    char hex[2 * X86_INSN_MAX + 1] = "", flags[8];
    hex_text(hex, code, op->i.len);
    flags_text(live, flags);
    log_emit(t->c->log, "bt:   %016llx  %-30s  %-12s live %s", (unsigned long long)rip, hex,
             op->i.len ? x86_op_name(x86_row(&op->i)->op) : "(raises)", flags);
}

/* Where in the code the next instruction or block begins. */
static u32 end_of(const struct tr *t, unsigned n, unsigned insn)
{
    const struct block *b = t->r.blk[n];
    for (insn++; insn < b->nops; insn++)
        if (t->dump.op[n][insn])
            return t->dump.op[n][insn];
    return n + 1 < t->r.n ? (u32)(t->r.near[n + 1] - t->bt->code) : t->dump.slow;
}

static void block(const struct tr *t, unsigned n, u64 page_rip, u32 start)
{
    const struct block *b = t->r.blk[n];
    const u8 *code = mem_ptr(t->c->mem, b->gpa);
    u64 rip = page_rip + (b->gpa & PAGE_MASK);
    u32 live[BLOCK_OPS_MAX + 1], near = (u32)(t->r.near[n] - t->bt->code);
    char in[8], out[8];
    bt_block_live(b, t->r.out[n], live);
    flags_text(t->r.in[n], in);
    flags_text(t->r.out[n], out);
    log_emit(t->c->log, "bt: block %u at %llx, near +%04x, flags in %s, out %s%s%s", n,
             (unsigned long long)rip, near - start, in, out, t->r.loop[n] ? ", loop" : "",
             t->r.grouped[n] ? ", shares look-ups" : "");
    host_code(t, near, t->dump.op[n][0] ? t->dump.op[n][0] : near, start);
    for (unsigned k = 0; k < b->nops; k++) {
        guest_insn(t, rip, &b->op[k], code, live[k]);
        if (t->dump.op[n][k])
            host_code(t, t->dump.op[n][k], end_of(t, n, k), start);
        rip += b->op[k].i.len;
        code += b->op[k].i.len;
    }
}

static bool wanted(const struct tr *t, u64 page_rip)
{
    u64 at = t->bt->set->dump_at;
    for (unsigned n = 0; n < t->r.n; n++) {
        const struct block *b = t->r.blk[n];
        if (at - b->gpa < b->bytes || at - (page_rip + (b->gpa & PAGE_MASK)) < b->bytes)
            return true;
    }
    return false;
}

void bt_dump(struct tr *t, const u8 *start)
{
    static const char *const who[] = {"kernel", "kernel (no user pages)", "user"};
    u64 page_rip = t->c->reg[X86_SLOT_RIP] & ~PAGE_MASK;
    u32 from = (u32)(start - t->bt->code), end = (u32)(t->e.p - t->bt->code);
    if (!wanted(t, page_rip))
        return;
    cpu_leave(t->c);
    log_emit(t->c->log,
             "bt: cpu%u: region at %llx (physical %llx), %s, %u-bit: %u blocks to %u bytes of code "
             "at %p",
             t->c->id, (unsigned long long)t->c->reg[X86_SLOT_RIP],
             (unsigned long long)t->r.blk[0]->gpa, who[t->mode], t->word * 8, t->r.n, end - from,
             (const void *)(t->bt->map.run + from));
    for (unsigned n = 0; n < t->r.n; n++)
        block(t, n, page_rip, from);
    if (t->dump.slow < t->dump.cold)
        log_emit(t->c->log, "bt: blocks again, without shared look-ups");
    host_code(t, t->dump.slow, t->dump.cold, from);
    log_emit(t->c->log, "bt: out of line, with data behind calls of stubs");
    host_code(t, t->dump.cold, end, from);
}
