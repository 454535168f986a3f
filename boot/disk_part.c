#include "boot/disk_part.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "boot/loader.h"

#define SECTOR           512u
#define GPT_HEADER_MIN   92u
#define GPT_ENTRY_MIN    128u
#define GPT_TABLE_MAX    (1u << 20)
#define MBR_SIGNATURE    0xaa55
#define MBR_PROTECTIVE   0xee
#define MBR_LOGICALS_MAX 60

struct table {
    const struct disk *d;
    struct disk_part *p;
    unsigned n, max;
};

static bool read_at(const struct disk *d, u64 off, void *buf, u64 len)
{
    return off <= d->size && len <= d->size - off && !d->read(d->arg, off, buf, len);
}

/* What lies outside of the disk is cut off, or left out. */
static struct disk_part *add(struct table *t, unsigned number, u64 lba, u64 sectors)
{
    u64 last = t->d->size / SECTOR;
    if (t->n == t->max || !lba || lba >= last || !sectors)
        return NULL;
    struct disk_part *p = &t->p[t->n++];
    *p = (struct disk_part){
        .number = number, .start = lba * SECTOR, .size = min_u64(sectors, last - lba) * SECTOR};
    return p;
}

/* --- GPT --- */

/* A GUID's first three fields are little-endian. */
static void guid_text(const u8 *g, char *out, size_t size)
{
    snprintf(out, size, "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", get32(g), get16(g + 4),
             get16(g + 6), g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]);
}

static bool header_good(const u8 *h)
{
    u8 copy[SECTOR];
    u32 size = get32(h + 12);
    if (memcmp(h, "EFI PART", 8) || size < GPT_HEADER_MIN || size > SECTOR)
        return false;
    memcpy(copy, h, SECTOR);
    put32(copy + 16, 0);
    return crc32(0, copy, size) == get32(h + 16);
}

static void add_gpt_entries(struct table *t, const u8 *entries, u32 n, u32 size)
{
    static const u8 unused[16];
    for (u32 i = 0; i < n; i++) {
        const u8 *g = entries + (u64)i * size;
        u64 first = get64(g + 32), last = get64(g + 40);
        if (!memcmp(g, unused, sizeof(unused)) || last < first || last == UINT64_MAX)
            continue;
        struct disk_part *p = add(t, i + 1, first, last - first + 1);
        if (!p)
            continue;
        p->gpt = true;
        guid_text(g + 16, p->uuid, sizeof(p->uuid));
    }
}

/* The table whose header is in this sector; false if it is not a good one. */
static bool read_gpt(struct table *t, u64 lba)
{
    u8 h[SECTOR];
    if (!read_at(t->d, lba * SECTOR, h, sizeof(h)) || !header_good(h))
        return false;
    u64 at = get64(h + 72);
    u32 n = get32(h + 80), size = get32(h + 84);
    u64 bytes = (u64)n * size;
    if (size < GPT_ENTRY_MIN || !n || bytes > GPT_TABLE_MAX || at > t->d->size / SECTOR)
        return false;
    u8 *entries = malloc(bytes);
    bool ok = entries && read_at(t->d, at * SECTOR, entries, bytes) &&
              crc32(0, entries, (uInt)bytes) == get32(h + 88);
    if (ok)
        add_gpt_entries(t, entries, n, size);
    free(entries);
    return ok;
}

/* --- MBR --- */

static bool is_extended(u8 type)
{
    return type == 0x05 || type == 0x0f || type == 0x85;
}

static void add_mbr(struct table *t, unsigned number, u64 lba, u64 sectors, u32 signature)
{
    struct disk_part *p = add(t, number, lba, sectors);
    if (p && signature)
        snprintf(p->uuid, sizeof(p->uuid), "%08x-%02x", signature, number);
}

/* A chain of sectors, each with one logical partition and the way to the next. */
static void add_logicals(struct table *t, u64 base, u32 signature)
{
    u8 s[SECTOR];
    u64 at = base;
    for (unsigned i = 0; i < MBR_LOGICALS_MAX; i++) {
        if (!read_at(t->d, at * SECTOR, s, sizeof(s)) || get16(s + 510) != MBR_SIGNATURE)
            return;
        const u8 *one = s + 446, *next = s + 462;
        if (one[4])
            add_mbr(t, 5 + i, at + get32(one + 8), get32(one + 12), signature);
        if (!is_extended(next[4]) || !get32(next + 8))
            return;
        at = base + get32(next + 8);
    }
}

/* Is this a partition table, not a boot sector of a file system? */
static bool is_mbr(const struct disk *d, const u8 *s)
{
    bool any = false;
    if (get16(s + 510) != MBR_SIGNATURE)
        return false;
    for (unsigned i = 0; i < 4; i++) {
        const u8 *e = s + 446 + 16 * i;
        if (e[0] & 0x7f || (e[4] && (!get32(e + 8) || get32(e + 8) >= d->size / SECTOR)))
            return false;
        any |= e[4] != 0;
    }
    return any;
}

static void read_mbr(struct table *t, const u8 *s)
{
    u32 signature = get32(s + 440);
    for (unsigned i = 0; i < 4; i++) {
        const u8 *e = s + 446 + 16 * i;
        if (e[4] && !is_extended(e[4]))
            add_mbr(t, i + 1, get32(e + 8), get32(e + 12), signature);
    }
    for (unsigned i = 0; i < 4; i++) {
        const u8 *e = s + 446 + 16 * i;
        if (is_extended(e[4]))
            add_logicals(t, get32(e + 8), signature);
    }
}

unsigned disk_parts(const struct disk *d, struct disk_part *p, unsigned max)
{
    struct table t = {.d = d, .p = p, .max = max};
    u8 s[SECTOR];
    bool mbr = read_at(d, 0, s, sizeof(s)) && is_mbr(d, s);
    bool gpt = !mbr || s[446 + 4] == MBR_PROTECTIVE || s[462 + 4] == MBR_PROTECTIVE;
    if (gpt && (read_gpt(&t, 1) || (mbr && read_gpt(&t, d->size / SECTOR - 1))))
        return t.n;
    if (mbr) {
        read_mbr(&t, s);
        return t.n;
    }
    p[0] = (struct disk_part){.size = d->size};
    return max ? 1 : 0;
}
