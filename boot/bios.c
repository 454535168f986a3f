#include "boot/bios.h"

#include <string.h>

/* bios.S */
extern const u8 bios_image[], bios_image_end[];
extern const u16 bios_vectors[];
extern const u8 bios_e820[];

#define MAP_MAX   32
#define MAP_ENTRY 20

static void put_vector(u8 *ivt, unsigned vector, u16 offset)
{
    u16 far[2] = {offset, BIOS_GPA >> 4};
    memcpy(ivt + 4 * vector, far, 4);
}

static void put_vectors(u8 *ivt)
{
    for (unsigned v = 0; v < 256; v++)
        put_vector(ivt, v, bios_vectors[1]);
    for (const u16 *row = bios_vectors + 2; row[0] != 0xffff; row += 2)
        put_vector(ivt, row[0], row[1]);
}

/* The fields that software still reads: IBM PS/2 technical reference, "BIOS data area". */
static void put_bda(u8 *bda)
{
    static const u16 com1 = 0x3f8, equipment = 0x0202, kib = 639, ebda = 0x9fc0;
    memset(bda, 0, 0x100);
    memcpy(bda + 0x00, &com1, 2);
    memcpy(bda + 0x0e, &ebda, 2);
    memcpy(bda + 0x10, &equipment, 2);
    memcpy(bda + 0x13, &kib, 2);
    bda[0x49] = 3;  /* video mode */
    bda[0x4a] = 80; /* columns */
    bda[0x84] = 24; /* rows - 1 */
}

static void put_map(u8 *to, const struct layout_map *map)
{
    u32 n = min_u64(map->n, MAP_MAX);
    memcpy(to, &n, 4);
    for (u32 k = 0; k < n; k++) {
        u8 *entry = to + 4 + MAP_ENTRY * k;
        memcpy(entry, &map->range[k].gpa, 8);
        memcpy(entry + 8, &map->range[k].size, 8);
        memcpy(entry + 16, &map->range[k].type, 4);
    }
}

void bios_install(struct mem *m, const struct layout_map *map)
{
    u8 *low = mem_range(m, 0, 0x500), *rom = mem_range(m, BIOS_GPA, 0x10000);
    if (!low || !rom)
        return;
    memcpy(rom, bios_image, (size_t)(bios_image_end - bios_image));
    put_map(rom + (bios_e820 - bios_image), map);
    put_vectors(low);
    put_bda(low + 0x400);
    /* F000:FFF0: INT 19h, then halt; the model byte of a PC/AT at F000:FFFE. */
    static const u8 reset[] = {0xcd, 0x19, 0xf4, 0xeb, 0xfd};
    memcpy(rom + 0xfff0, reset, sizeof(reset));
    rom[0xfffe] = 0xfc;
}
