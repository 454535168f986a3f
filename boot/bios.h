/*
 * bios.h - a small BIOS for guests that are entered in real mode, or that drop back into it.
 */
#ifndef POPF_BIOS_H
#define POPF_BIOS_H

#include "boot/layout.h"

#define BIOS_GPA 0xf0000ull

/*
 * Puts the BIOS at F000:0000, the interrupt vectors at 0:0, the BIOS data area at 40:0 and a jump
 * at the reset vector; `map` is what INT 15h tells. A kernel loaded later may write over the low
 * part. A machine whose RAM does not reach 1 MiB gets none.
 */
void bios_install(struct mem *m, const struct layout_map *map);

#endif
