#include "boot/layout.h"

static const char in_hole[] = "the PC's memory hole";
static const char in_reserve[] = "what the machine keeps for itself";

static int add(struct layout *l, gpa_t start, gpa_t end, const char *who, struct err *e)
{
    if (start >= end)
        return 0;
    if (l->n == LAYOUT_CLAIMS_MAX)
        return err_set(e, "%s consists of too many pieces", who);
    l->claim[l->n++] = (struct layout_claim){start, end, who};
    return 0;
}

int layout_init(struct layout *l, const struct boot_config *cfg, struct err *e)
{
    *l = (struct layout){.cfg = cfg};
    if (cfg->nreserved > BOOT_RESERVED_MAX || cfg->ram_low > BOOT_HOLE_START ||
        cfg->ram_low < LAYOUT_HIGH_MEM)
        return err_set(e,
                       "a PC's memory cannot be laid out so: %llu KiB below 3 GiB (1 MiB at "
                       "least), %u reserved ranges",
                       (unsigned long long)(cfg->ram_low / KiB), cfg->nreserved);
    if (add(l, LAYOUT_LOW_END, LAYOUT_HIGH_MEM, in_hole, e) ||
        add(l, cfg->ram_low, BOOT_HOLE_END, in_hole, e) ||
        add(l, BOOT_HOLE_END + cfg->ram_high, LAYOUT_NONE, in_hole, e))
        return -1;
    for (unsigned i = 0; i < cfg->nreserved; i++) {
        const struct boot_range *r = &cfg->reserved[i];
        if (add(l, r->gpa, r->gpa + min_u64(r->size, LAYOUT_NONE - r->gpa), in_reserve, e))
            return -1;
    }
    return 0;
}

/* The first claim that [start, end) overlaps, but for those of `but`. */
static const struct layout_claim *overlap(const struct layout *l, gpa_t start, gpa_t end,
                                          const char *but)
{
    for (unsigned i = 0; i < l->n; i++)
        if (start < l->claim[i].end && l->claim[i].start < end && l->claim[i].who != but)
            return &l->claim[i];
    return NULL;
}

static int too_small(const struct layout *l, gpa_t end, const char *who, struct err *e)
{
    u64 need = (end + align_up(l->initrd_size, MiB) + MiB - 1) / MiB;
    if (need > BOOT_HOLE_START / MiB)
        return err_set(e, "%s would have to lie at %#llx, where a PC has no memory", who,
                       (unsigned long long)end - 1);
    return err_set(e,
                   "%s does not fit the guest's %llu MiB of memory; give it --memory %lluM or "
                   "more",
                   who, (unsigned long long)((l->cfg->ram_low + l->cfg->ram_high) / MiB),
                   (unsigned long long)need);
}

/* Extends a claim of the same owner that the range touches. */
static bool merge(struct layout *l, gpa_t start, gpa_t end, const char *who)
{
    for (unsigned i = 0; i < l->n; i++) {
        struct layout_claim *c = &l->claim[i];
        if (c->who != who || start > c->end || c->start > end)
            continue;
        c->start = min_u64(c->start, start);
        c->end = max_u64(c->end, end);
        return true;
    }
    return false;
}

int layout_claim(struct layout *l, gpa_t gpa, u64 size, const char *who, struct err *e)
{
    if (!size)
        return 0;
    if (gpa + size < gpa)
        return err_set(e, "%s would have to lie at %#llx, where a PC has no memory", who,
                       (unsigned long long)gpa);
    gpa_t end = gpa + size;
    if (end > l->cfg->ram_low && gpa < BOOT_HOLE_END)
        return too_small(l, end, who, e);
    const struct layout_claim *c = overlap(l, gpa, end, who);
    if (c)
        return err_set(e, "%s at %#llx..%#llx would overlap %s at %#llx..%#llx", who,
                       (unsigned long long)gpa, (unsigned long long)end - 1, c->who,
                       (unsigned long long)c->start, (unsigned long long)c->end - 1);
    if (!mem_range(l->cfg->mem, gpa, size))
        return err_set(e, "%s at %#llx..%#llx is not all in RAM", who, (unsigned long long)gpa,
                       (unsigned long long)end - 1);
    return merge(l, gpa, end, who) ? 0 : add(l, gpa, end, who, e);
}

gpa_t layout_find_up(const struct layout *l, gpa_t from, gpa_t to, u64 size, u64 align)
{
    gpa_t at = align_up(from, align);
    while (at >= from && at < to && size <= to - at) {
        const struct layout_claim *c = overlap(l, at, at + size, NULL);
        if (!c)
            return at;
        from = c->end;
        at = align_up(c->end, align);
    }
    return LAYOUT_NONE;
}

gpa_t layout_find_down(const struct layout *l, gpa_t from, gpa_t to, u64 size, u64 align)
{
    while (to >= size && from <= to - size) {
        gpa_t at = align_down(to - size, align);
        if (at < from)
            break;
        const struct layout_claim *c = overlap(l, at, at + size, NULL);
        if (!c)
            return at;
        to = c->start;
    }
    return LAYOUT_NONE;
}

int layout_place(struct layout *l, u64 size, u64 align, const char *who, gpa_t *gpa, struct err *e)
{
    *gpa = (l->top_down ? layout_find_down : layout_find_up)(l, LAYOUT_LOW_START, LAYOUT_LOW_END,
                                                             size, align);
    if (*gpa == LAYOUT_NONE)
        *gpa = layout_find_down(l, LAYOUT_HIGH_MEM, l->cfg->ram_low, size, align);
    if (*gpa == LAYOUT_NONE)
        return err_set(e,
                       "no room for %s beside the kernel in %llu MiB; give the guest more "
                       "--memory",
                       who, (unsigned long long)(l->cfg->ram_low / MiB));
    return layout_claim(l, *gpa, size, who, e);
}

/* --- the map shown to the guest --- */

static void map_add(struct layout_map *map, gpa_t start, gpa_t end, u32 type)
{
    if (start >= end || map->n == LAYOUT_MAP_MAX)
        return;
    unsigned i = map->n++;
    for (; i > 0 && map->range[i - 1].gpa > start; i--)
        map->range[i] = map->range[i - 1];
    map->range[i] = (struct boot_range){start, end - start, type};
}

/* Cuts [start, end) out of all RAM in the map. */
static void map_cut(struct layout_map *map, gpa_t start, gpa_t end)
{
    struct layout_map old = *map;
    map->n = 0;
    for (unsigned i = 0; i < old.n; i++) {
        gpa_t a = old.range[i].gpa, b = a + old.range[i].size;
        u32 type = old.range[i].type;
        if (type != BOOT_MEM_RAM || b <= start || end <= a) {
            map_add(map, a, b, type);
            continue;
        }
        map_add(map, a, start, type);
        map_add(map, end, b, type);
    }
}

void layout_map(const struct boot_config *cfg, struct layout_map *map)
{
    *map = (struct layout_map){0};
    map_add(map, 0, LAYOUT_LOW_END, BOOT_MEM_RAM);
    map_add(map, LAYOUT_LOW_END, 0xa0000, BOOT_MEM_RESERVED);
    map_add(map, 0xe0000, LAYOUT_HIGH_MEM, BOOT_MEM_RESERVED);
    map_add(map, LAYOUT_HIGH_MEM, cfg->ram_low, BOOT_MEM_RAM);
    map_add(map, BOOT_HOLE_END, BOOT_HOLE_END + cfg->ram_high, BOOT_MEM_RAM);
    for (unsigned i = 0; i < cfg->nreserved; i++) {
        const struct boot_range *r = &cfg->reserved[i];
        gpa_t end = r->gpa + min_u64(r->size, LAYOUT_NONE - r->gpa);
        map_cut(map, r->gpa, end);
        if (r->gpa < LAYOUT_LOW_END || r->gpa >= LAYOUT_HIGH_MEM) /* else told of already */
            map_add(map, r->gpa, end, r->type);
    }
}
