/*
 * bt_keep.c - kept translations: making records of regions, and regions of records.
 *
 * Runs while the guest's vector state is loaded: no libc.
 */
#include "engine/bt/bt_keep.h"

#include <sys/mman.h>

/* --- records --- */

u64 bt_keep_sum(const void *data, size_t n)
{
    const u64 *p = data;
    u64 a = 0x9e3779b97f4a7c15ull ^ n, b = 0xc2b2ae3d27d4eb4full;
    for (size_t k = n / 16; k; k--, p += 2) {
        a = (a ^ p[0]) * 0xff51afd7ed558ccdull;
        b = (b ^ p[1]) * 0xc4ceb9fe1a85ec53ull;
        a ^= a >> 29;
        b ^= b >> 31;
    }
    if (n & 8)
        a = (a ^ p[0]) * 0xff51afd7ed558ccdull;
    a ^= a >> 32 ^ b;
    a *= 0xc4ceb9fe1a85ec53ull;
    return a ^ a >> 29;
}

bool bt_keep_split(const void *record, u64 room, struct keep_parts *p)
{
    const struct keep_record *r = record;
    if (room < sizeof(*r) || r->size > room || r->size & 7 || r->zero || !r->nblocks ||
        r->nblocks > KEEP_BLOCKS || r->view >= BT_VIEWS || !r->code)
        return false;
    p->r = r;
    p->block = (const struct keep_block *)(r + 1);
    p->stub = (const u16 *)(p->block + r->nblocks);
    p->site = p->stub + r->nstubs;
    p->exit = p->site + r->nsites;
    p->fault = (const struct keep_fault *)(p->exit + r->nexits);
    p->length = (const u8 *)(p->fault + r->nfaults);
    p->bytes = p->length + r->nops;
    p->code = p->bytes + r->bytes;
    return align_up((u64)(p->code + r->code - (const u8 *)record), 8) == r->size;
}

static u64 mix(u64 h, u64 v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 32;
}

#define HASHED 16 /* bytes */

u64 bt_keep_hash(const u8 *code, unsigned avail, unsigned off, unsigned view)
{
    u64 w[2] = {0, 0};
    if (likely(avail >= HASHED))
        w[0] = ((const u64_any *)code)[0], w[1] = ((const u64_any *)code)[1];
    else
        cpu_copy(w, code, avail);
    return mix(mix(mix(off | view << 12, w[0]), w[1]), 0);
}

void bt_keep_enter(struct keep_index *index, unsigned bits, u64 hash, u64 at)
{
    u32 mask = (1u << bits) - 1, n = (u32)hash & mask;
    while (index[n].at)
        n = (n + 1) & mask;
    index[n] = (struct keep_index){.tag = (u32)(hash >> 32), .at = (u32)(at / 8 + 1)};
}

/* --- recording --- */

/* What data each stub is given: R13 points to it, or it lies behind the call. ORDER BT_STUB */
enum behind { BEHIND_NOTHING, BEHIND_SITE, BEHIND_EXIT };
static const u8 behind[] = {
    [BT_STUB_BODY] = BEHIND_SITE,       [BT_STUB_BODY_SAVED] = BEHIND_SITE,
    [BT_STUB_NEXT] = BEHIND_SITE,       [BT_STUB_NEXT_SAVED] = BEHIND_SITE,
    [BT_STUB_JUMP] = BEHIND_SITE,       [BT_STUB_JUMP_SAVED] = BEHIND_SITE,
    [BT_STUB_MISS] = BEHIND_SITE,       [BT_STUB_FPU] = BEHIND_SITE,
    [BT_STUB_FPU_SAVED] = BEHIND_SITE,  [BT_STUB_EXIT] = BEHIND_EXIT,
    [BT_STUB_EXIT_SAVED] = BEHIND_EXIT, [BT_STUB_GOTO] = BEHIND_NOTHING,
    [BT_STUB_CROSS] = BEHIND_EXIT,      [BT_STUB_CROSS_SAVED] = BEHIND_EXIT,
    [BT_STUB_SYSCALL] = BEHIND_SITE,    [BT_STUB_SYSRET] = BEHIND_SITE,
    [BT_STUB_SYSENTER] = BEHIND_SITE,   [BT_STUB_SYSEXIT] = BEHIND_SITE,
    [BT_STUB_POPF] = BEHIND_NOTHING,    [BT_STUBS - 1] = BEHIND_NOTHING,
};
static_assert(BT_STUB_SENTINEL == 23, "whoever adds a stub says what data it is given");

#define RELOCS_MAX 4096

struct sweep {
    struct tr *t;
    const u8 *start, *end;
    const u8 *data; /* that R13 has been pointed to */
    unsigned fault0;
    u16 stub[RELOCS_MAX], site[RELOCS_MAX], exit[RELOCS_MAX];
    unsigned nstubs, nsites, nexits;
};

static bool note(u16 *list, unsigned *n, u64 off)
{
    if (*n == RELOCS_MAX || off > UINT16_MAX)
        return false;
    list[(*n)++] = (u16)off;
    return true;
}

/* The stub's data at *p. */
static bool skip_data(struct sweep *s, unsigned stub, const u8 **p)
{
    u64 off = (u64)(*p - s->start);
    switch (behind[stub]) {
    case BEHIND_SITE:
        *p += sizeof(struct bt_site);
        return note(s->site, &s->nsites, off);
    case BEHIND_EXIT:
        *p += sizeof(struct bt_exit);
        return ((const struct bt_exit *)(s->start + off))->patch ? note(s->exit, &s->nexits, off)
                                                                 : true;
    default:
        return true;
    }
}

/* A branch by a rel32 whose displacement ends at *p. */
static bool sweep_branch(struct sweep *s, bool call, const u8 **p)
{
    const u8 *to = *p + (s32) * (const u32_any *)(*p - 4), *code = s->t->bt->code;
    if (to >= s->start && to < s->end)
        return true;
    u64 stub = (u64)(to - code) / BT_STUB_SIZE;
    if (stub >= BT_STUBS || (u64)(to - code) % BT_STUB_SIZE)
        return false; /* another region: it need not be there next time */
    return note(s->stub, &s->nstubs, (u64)(*p - 4 - s->start)) &&
           (call || s->data == *p ? skip_data(s, (unsigned)stub, p) : true);
}

/* Finds all in the region's code that depends on where it is; false: it cannot be kept. */
static bool sweep(struct sweep *s)
{
    for (const u8 *p = s->start; p < s->end;) {
        struct x86_decoded d;
        if (x86_decode(p, (unsigned)(s->end - p), X86_MODE64, &d) != X86_OK)
            return false;
        p += d.i.len;
        bool call = d.op == X86_CALL_NEAR;
        bool branch = call || d.op == X86_JMP_NEAR || (d.op >= X86_JO && d.op <= X86_JNLE);
        if (branch && d.imm_len == 4 && !sweep_branch(s, call, &p))
            return false;
        if (d.i.prefix & X86_PFX_MEM && d.i.base == X86_SLOT_RIP) {
            const u8 *to = p + d.i.disp;
            if (to < s->start || to >= s->end)
                return false;
            s->data = to;
        }
    }
    return true;
}

/* The region's blocks, then those that it depends on. */
static unsigned count_blocks(const struct tr *t)
{
    return t->r.n + t->nguests;
}

static const struct block *block_at(const struct tr *t, unsigned n)
{
    return n < t->r.n ? t->r.blk[n] : t->guest[n - t->r.n];
}

static unsigned count_ops(const struct tr *t, unsigned *bytes)
{
    unsigned nops = 0;
    *bytes = 0;
    for (unsigned n = 0; n < count_blocks(t); n++) {
        nops += block_at(t, n)->nops;
        *bytes += block_at(t, n)->bytes;
    }
    return nops;
}

static u64 block_hash(const struct tr *t, const struct block *b)
{
    unsigned off = b->gpa & PAGE_MASK;
    return bt_keep_hash(mem_ptr(t->c->mem, b->gpa), (unsigned)PAGE_SIZE - off, off, t->view);
}

static struct keep_block describe(const struct sweep *s, unsigned n)
{
    const struct tr *t = s->t;
    const struct block *b = block_at(t, n);
    u64 hash = block_hash(t, b);
    struct keep_block k = {.off = b->gpa & PAGE_MASK,
                           .bytes = b->bytes,
                           .nops = (u8)b->nops,
                           .flags = b->ends ? KEEP_ENDS : 0,
                           .hash = {(u32)hash, (u32)(hash >> 32)}};
    if (n >= t->r.n) {
        k.flags |= KEEP_GUEST;
        return k;
    }
    k.near = (u16)(t->r.near[n] - s->start);
    k.live = (u16)t->r.in[n];
    k.flags |= t->r.loop[n] ? KEEP_LOOP : 0;
    return k;
}

static void put_blocks(const struct sweep *s, const struct keep_parts *p)
{
    u8 *length = (u8 *)p->length, *bytes = (u8 *)p->bytes;
    for (unsigned n = 0; n < p->r->nblocks; n++) {
        const struct block *b = block_at(s->t, n);
        ((struct keep_block *)p->block)[n] = describe(s, n);
        for (unsigned k = 0; k < b->nops; k++)
            *length++ = b->op[k].i.len;
        cpu_copy(bytes, mem_ptr(s->t->c->mem, b->gpa), b->bytes);
        bytes += b->bytes;
    }
}

/* Sites name the op by the number of its block and its own. */
static bool number_op(const struct tr *t, struct bt_site *site)
{
    const struct op *o = (const struct op *)(t->bt->interp.arena + site->op);
    for (unsigned n = 0; n < count_blocks(t); n++) {
        const struct block *b = block_at(t, n);
        if (o >= b->op && o < b->op + b->nops) {
            site->op = n << 8 | (u32)(o - b->op);
            return true;
        }
    }
    return false;
}

/* As if the region lay at the start of the code cache. */
static bool put_code(const struct sweep *s, const struct keep_parts *p)
{
    u8 *code = (u8 *)p->code;
    u32 base = (u32)(s->start - s->t->bt->code);
    cpu_copy(code, s->start, p->r->code);
    for (unsigned n = 0; n < s->nstubs; n++)
        *(u32_any *)(code + s->stub[n]) += base;
    for (unsigned n = 0; n < s->nsites; n++)
        if (!number_op(s->t, (struct bt_site *)(code + s->site[n])))
            return false;
    return true;
}

static void put_lists(const struct sweep *s, const struct keep_parts *p)
{
    const struct bt_fault *f = &s->t->bt->fault[s->fault0];
    u32 base = (u32)(s->start - s->t->bt->code);
    struct keep_fault *kf = (struct keep_fault *)p->fault;
    cpu_copy((u16 *)p->stub, s->stub, s->nstubs * sizeof(u16));
    cpu_copy((u16 *)p->site, s->site, s->nsites * sizeof(u16));
    cpu_copy((u16 *)p->exit, s->exit, s->nexits * sizeof(u16));
    for (unsigned n = 0; n < p->r->nfaults; n++)
        kf[n] = (struct keep_fault){.at = (u16)(f[n].at - base), .cold = (u16)(f[n].cold - base)};
}

/* Its head; false if there is no room for it. */
static bool put_head(const struct sweep *s, struct keep_cpu *kc, struct keep_parts *p)
{
    const struct tr *t = s->t;
    unsigned bytes, nops = count_ops(t, &bytes), nfaults = t->bt->nfaults - s->fault0;
    u64 code = (u64)(s->end - s->start);
    u64 size = sizeof(struct keep_record) + count_blocks(t) * sizeof(struct keep_block) +
               (s->nstubs + s->nsites + s->nexits) * sizeof(u16) +
               nfaults * sizeof(struct keep_fault) + nops + bytes + code;
    size = align_up(size, 8);
    if (code > UINT16_MAX || nfaults > RELOCS_MAX || kc->own.size + size > KEEP_OWN_SIZE ||
        kc->nindexed + KEEP_BLOCKS > (1u << KEEP_OWN_BITS) * 3 / 4)
        return false;
    struct keep_record *r = (struct keep_record *)(kc->record + kc->own.size);
    *r = (struct keep_record){.size = (u32)size,
                              .code = (u16)code,
                              .view = t->view,
                              .nblocks = (u8)count_blocks(t),
                              .nstubs = (u16)s->nstubs,
                              .nsites = (u16)s->nsites,
                              .nexits = (u16)s->nexits,
                              .nfaults = (u16)nfaults,
                              .nops = (u16)nops,
                              .bytes = (u16)bytes};
    return bt_keep_split(r, size, p);
}

static u64 hash_of(const struct keep_block *b)
{
    return b->hash[0] | (u64)b->hash[1] << 32;
}

static u64 sum_of(const struct keep_record *r)
{
    const void *behind_sum = &r->sum + 1;
    return bt_keep_sum(behind_sum, r->size - (size_t)((const u8 *)behind_sum - (const u8 *)r));
}

void bt_keep_record(struct tr *t, const u8 *start, unsigned fault0)
{
    struct keep_cpu *kc = t->bt->keep;
    struct keep_parts p;
    struct sweep s;
    s.t = t;
    s.start = start;
    s.end = t->e.p;
    s.fault0 = fault0;
    s.nstubs = s.nsites = s.nexits = 0;
    s.data = NULL;
    if (!sweep(&s) || !put_head(&s, kc, &p) || !put_code(&s, &p)) {
        kc->unkept++;
        return;
    }
    put_blocks(&s, &p);
    put_lists(&s, &p);
    if (mem_code_gen(t->c->mem, t->r.blk[0]->page) != t->r.blk[0]->gen)
        return; /* changed since it was translated */
    struct keep_record *r = (struct keep_record *)p.r;
    r->sum = sum_of(r);
    for (unsigned n = 0; n < r->nblocks; n++)
        bt_keep_enter(kc->index, KEEP_OWN_BITS, hash_of(&p.block[n]), kc->own.size);
    kc->nindexed += r->nblocks;
    kc->own.size += r->size;
    kc->own.nrecords++;
}

/* --- installing --- */

/* A page of guest code that a record may fit. */
struct page {
    struct cpu *c;
    struct bt_cpu *bt;
    gpa_t gpa;
    u64 page;
    const u8 *host;
    u32 gen;
    u8 view, mode, xmode; /* enum tlb_mode, enum x86_mode */
};

static bool has_block_at(const struct keep_parts *p, unsigned off)
{
    for (unsigned n = 0; n < p->r->nblocks; n++)
        if (p->block[n].off == off && !(p->block[n].flags & KEEP_GUEST))
            return true;
    return false;
}

/* Its blocks make sense, and the page has their bytes: marked as code before they are read. */
static bool same_bytes(struct page *g, const struct keep_parts *p)
{
    unsigned nbytes = 0, nops = 0;
    u64 chunks = 0;
    for (unsigned n = 0; n < p->r->nblocks; n++) {
        const struct keep_block *b = &p->block[n];
        if (!b->nops || b->nops > BLOCK_OPS_MAX || b->near >= p->r->code ||
            b->off + b->bytes > PAGE_SIZE || !b->bytes)
            return false;
        nbytes += b->bytes;
        nops += b->nops;
        chunks |= mem_chunks(b->off, b->bytes);
    }
    if (nbytes != p->r->bytes || nops != p->r->nops)
        return false;
    g->gen = mem_code_gen(g->c->mem, g->page);
    mem_code_mark(g->c->mem, g->page, chunks);
    const u8 *bytes = p->bytes;
    for (unsigned n = 0; n < p->r->nblocks; bytes += p->block[n++].bytes)
        for (unsigned k = 0; k < p->block[n].bytes; k++)
            if (bytes[k] != g->host[p->block[n].off + k])
                return false;
    return true;
}

static bool in_order(const u16 *list, unsigned n, unsigned size, unsigned end)
{
    unsigned from = 0;
    for (; n; n--, list++) {
        if (*list < from || *list + size > end)
            return false;
        from = *list + size;
    }
    return true;
}

/* Nothing in it leads out of what it is: damage that the checksum does not show. */
static bool sound(const struct keep_parts *p)
{
    const struct keep_record *r = p->r;
    const u8 *length = p->length;
    for (unsigned n = 0; n < r->nblocks; n++) {
        unsigned sum = 0;
        for (unsigned k = 0; k < p->block[n].nops; k++)
            sum += *length++;
        if (sum != p->block[n].bytes)
            return false;
    }
    if (!in_order(p->stub, r->nstubs, 4, r->code) ||
        !in_order(p->site, r->nsites, sizeof(struct bt_site), r->code) ||
        !in_order(p->exit, r->nexits, sizeof(struct bt_exit), r->code))
        return false;
    for (unsigned n = 0; n < r->nfaults; n++)
        if (p->fault[n].at >= r->code || p->fault[n].cold >= r->code ||
            (n && p->fault[n].at <= p->fault[n - 1].at))
            return false;
    return true;
}

/* Blocks as they are, or new ones whose instructions are decoded when somebody wants them. */
static bool take_blocks(const struct page *g, const struct keep_parts *p, struct block **blk)
{
    const u8 *length = p->length;
    for (unsigned n = 0; n < p->r->nblocks; length += p->block[n++].nops) {
        const struct keep_block *k = &p->block[n];
        struct interp_cpu *ic = &g->bt->interp;
        struct block *b = interp_peek(g->c, ic, g->gpa | k->off, (enum x86_mode)g->xmode);
        if (!b)
            b = interp_add_late(g->c, ic,
                                &(struct block){.gpa = g->gpa | k->off,
                                                .page = g->page,
                                                .gen = g->gen,
                                                .nops = k->nops,
                                                .bytes = k->bytes,
                                                .mode = g->xmode,
                                                .ends = k->flags & KEEP_ENDS},
                                length);
        if (b->nops != k->nops || b->bytes != k->bytes)
            return false;
        blk[n] = b;
    }
    return true;
}

static bool relocate_sites(const struct page *g, const struct keep_parts *p, u8 *code,
                           struct block *const *blk)
{
    for (unsigned n = 0; n < p->r->nsites; n++) {
        struct bt_site *s = (struct bt_site *)(code + p->site[n]);
        unsigned b = s->op >> 8, op = s->op & 0xff;
        if (b >= p->r->nblocks || op >= blk[b]->nops)
            return false;
        s->op = (u32)((const u8 *)&blk[b]->op[op] - g->bt->interp.arena);
    }
    return true;
}

static bool relocate_stubs(const struct page *g, const struct keep_parts *p, u8 *code)
{
    u32 base = (u32)(code - g->bt->code);
    for (unsigned n = 0; n < p->r->nstubs; n++) {
        u32_any *rel = (u32_any *)(code + p->stub[n]);
        u32 to = *rel + p->stub[n] + 4;
        if (to % BT_STUB_SIZE || to / BT_STUB_SIZE >= BT_STUBS)
            return false;
        *rel -= base;
    }
    return true;
}

/* Exits to blocks that are there are joined right away. */
static void join_exits(const struct page *g, const struct keep_parts *p, u8 *code)
{
    for (unsigned n = 0; n < p->r->nexits; n++) {
        struct bt_exit *x = (struct bt_exit *)(code + p->exit[n]);
        s64 site = (s64)p->exit[n] + x->patch;
        if (site < 0 || site + 4 > p->r->code || (u32)x->offset >= PAGE_SIZE)
            continue;
        const struct block *b =
            interp_peek(g->c, &g->bt->interp, g->gpa | (u32)x->offset, (enum x86_mode)g->xmode);
        u32 to = !b ? 0 : x->offset <= x->from ? b->check[g->mode] : b->near[g->mode];
        if (to)
            emit_patch(code + site, g->bt->code + to);
    }
}

static void publish(const struct page *g, const struct keep_parts *p, const u8 *code,
                    struct block *const *blk)
{
    struct bt_cpu *bt = g->bt;
    u32 base = (u32)(code - bt->code);
    for (unsigned n = 0; n < p->r->nfaults; n++)
        bt->fault[bt->nfaults++] =
            (struct bt_fault){.at = base + p->fault[n].at, .cold = base + p->fault[n].cold};
    for (unsigned n = 0; n < p->r->nblocks; n++) {
        if (blk[n]->near[g->mode] || p->block[n].flags & KEEP_GUEST)
            continue;
        u32 near = base + p->block[n].near;
        blk[n]->near[g->mode] = near;
        blk[n]->check[g->mode] = p->block[n].flags & KEEP_LOOP ? near : 0;
        blk[n]->far[g->mode] = 0;
        blk[n]->live[g->mode] = p->block[n].live;
        bt_known_add(&bt->known, blk[n]->gpa);
    }
    bt->at = (u8 *)align_up((u64)code + p->r->code, 16);
}

static bool has_room(const struct page *g, const struct keep_parts *p)
{
    return interp_has_room(&g->bt->interp, p->r->nblocks, p->r->nops) &&
           (size_t)(g->bt->code_end - g->bt->at) >= BT_REGION_ROOM &&
           g->bt->nfaults + p->r->nfaults < BT_FAULTS_MAX;
}

static struct block *install(struct page *g, const struct keep_parts *p, unsigned off)
{
    struct block *blk[KEEP_BLOCKS];
    struct keep_cpu *kc = g->bt->keep;
    if (!has_room(g, p) || !same_bytes(g, p))
        return NULL;
    u8 *code = g->bt->at;
    if (p->r->sum == sum_of(p->r) && sound(p) && take_blocks(g, p, blk)) {
        cpu_copy(code, p->code, p->r->code);
        if (relocate_sites(g, p, code, blk) && relocate_stubs(g, p, code)) {
            publish(g, p, code, blk);
            join_exits(g, p, code);
            bt_tell_names(g->bt, code, p->r->code, g->view);
            kc->installed++;
            kc->blocks += p->r->nblocks;
            for (unsigned n = 0; n < p->r->nblocks; n++)
                if (p->block[n].off == off && blk[n]->near[g->mode])
                    return blk[n];
        }
    }
    kc->refused++;
    return NULL;
}

static void give_back(struct keep_segment *s, u64 size)
{
    u64 was = atomic_fetch_add_explicit(&s->used, size, memory_order_relaxed);
    u64 first = align_up((u64)s->record, PAGE_SIZE);
    u64 end = align_down((u64)s->record + s->size, PAGE_SIZE);
    if (s->map && (was + size) / KEEP_RESIDENT != was / KEEP_RESIDENT && first < end)
        madvise((void *)first, end - first, MADV_DONTNEED);
}

static struct block *find_in(struct keep_segment *s, struct page *g, u64 hash, unsigned off)
{
    if (!s->index)
        return NULL;
    u32 mask = (1u << s->index_bits) - 1, n = (u32)hash & mask;
    for (u32 tries = 0; s->index[n].at && tries <= mask; n = (n + 1) & mask, tries++) {
        u64 at = (s->index[n].at - 1ull) * 8;
        struct keep_parts p;
        if (s->index[n].tag != (u32)(hash >> 32) || at >= s->size ||
            !bt_keep_split(s->record + at, s->size - at, &p) || p.r->view != g->view ||
            !has_block_at(&p, off))
            continue;
        struct block *b = install(g, &p, off);
        if (b) {
            give_back(s, p.r->size);
            return b;
        }
    }
    return NULL;
}

struct block *bt_keep_find(struct cpu *c, struct bt_cpu *bt, unsigned view, gpa_t gpa, u64 page,
                           const u8 *host)
{
    unsigned off = gpa & PAGE_MASK;
    struct keep *k = bt->keep->keep;
    struct page g = {.c = c,
                     .bt = bt,
                     .gpa = gpa & ~PAGE_MASK,
                     .page = page,
                     .host = host,
                     .view = (u8)view,
                     .mode = (u8)(view % 3),
                     .xmode = view >= 3 ? X86_MODE64 : X86_MODE32};
    u64 hash = bt_keep_hash(host + off, (unsigned)PAGE_SIZE - off, off, view);
    struct block *b = find_in(&bt->keep->own, &g, hash, off);
    for (unsigned n = 0; !b && n < k->nsegments; n++) {
        b = find_in(&k->segment[n], &g, hash, off);
    }
    return b;
}
