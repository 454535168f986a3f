/*
 * layout.h - who sits where in guest memory, so that nothing is put over anything else.
 */
#ifndef POPF_BOOT_LAYOUT_H
#define POPF_BOOT_LAYOUT_H

#include "boot/boot.h"

#define LAYOUT_CLAIMS_MAX 64
#define LAYOUT_NONE       (~0ull)

/* The BIOS data area ends here; the interrupt vectors are before it. Only a kernel goes below. */
#define LAYOUT_LOW_START 0x1000ull
/* Conventional memory ends here: the extended BIOS data area, VGA, and ROMs up to 1 MiB. */
#define LAYOUT_LOW_END  0x9fc00ull
#define LAYOUT_HIGH_MEM (1 * MiB)

struct layout_claim {
    gpa_t start, end;
    const char *who; /* static text, compared by address */
};

struct layout {
    const struct boot_config *cfg;
    struct layout_claim claim[LAYOUT_CLAIMS_MAX];
    unsigned n;
    /* layout_place() starts from the top of conventional memory. For kernels that use the bottom of
     * it as they like; Linux's own unpacker does that with the top. */
    bool top_down;
    u64 initrd_size; /* counted in when saying how much memory is needed */
};

/* Starts with the holes of the PC and cfg->reserved claimed. */
int layout_init(struct layout *l, const struct boot_config *cfg, struct err *e);

/*
 * Takes [gpa, gpa+size), which must be RAM that nobody else has; `who` may add to what it has. The
 * message on failure says how much --memory would do.
 */
int layout_claim(struct layout *l, gpa_t gpa, u64 size, const char *who, struct err *e);

/* Lowest (highest) free place within [from, to), or LAYOUT_NONE; `align` is a power of two. */
gpa_t layout_find_up(const struct layout *l, gpa_t from, gpa_t to, u64 size, u64 align);
gpa_t layout_find_down(const struct layout *l, gpa_t from, gpa_t to, u64 size, u64 align);

/* Finds a place in conventional memory, else below 4 GiB, and takes it. */
int layout_place(struct layout *l, u64 size, u64 align, const char *who, gpa_t *gpa, struct err *e);

/* The map shown to the guest: RAM and what is reserved, by address, not overlapping. */
#define LAYOUT_MAP_MAX 64

struct layout_map {
    struct boot_range range[LAYOUT_MAP_MAX];
    unsigned n;
};

void layout_map(const struct boot_config *cfg, struct layout_map *map);

#endif
