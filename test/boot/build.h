/*
 * build.h - kernels made up on the spot, and a guest memory to load them into.
 */
#ifndef POPF_TEST_BOOT_BUILD_H
#define POPF_TEST_BOOT_BUILD_H

#include "boot/boot.h"

/* A file in the making; grows as needed. */
struct image {
    u8 *data;
    u64 size;
};

void image_free(struct image *img);
/* Makes the image at least `size` bytes long; new bytes are 0. */
void image_size(struct image *img, u64 size);
void image_put(struct image *img, u64 at, const void *data, u64 size);
void image_put16(struct image *img, u64 at, u16 v);
void image_put32(struct image *img, u64 at, u32 v);
void image_put64(struct image *img, u64 at, u64 v);

/* One PT_LOAD segment of recognizable bytes, BUILD_BYTE(i) at i, and 4 KiB of bss. */
#define BUILD_BYTE(i) ((u8)((i)*7 + ((i) >> 8) + 3))
#define BUILD_BSS     4096

struct elf_spec {
    bool is64;
    u64 paddr, vaddr, entry; /* entry 0: paddr + 0x10 */
    u32 size;                /* of the segment in the file; 0: 8192 */
    u32 pvh;                 /* entry of the PVH note; 0: no note */
    bool banner;             /* "Linux version ", as a vmlinux has */
    bool multiboot;          /* a header at the start of the segment */
};

void build_elf(struct image *img, const struct elf_spec *spec);

enum { PACK_NONE, PACK_GZIP, PACK_XZ, PACK_LZMA, PACK_LZ4_LEGACY, PACK_LZ4, PACK_ZSTD };

/* Packs as the kernel's build does, the unpacked size appended if `tail` (but for gzip). */
void build_packed(struct image *out, const struct image *in, int pack, bool tail);

/* A bzImage of boot protocol 2.15 round a payload: 4 setup sectors, load address 16 MiB. */
void build_bzimage(struct image *img, const struct image *payload);
/* Makes its checksum right again after changes. */
void build_seal(struct image *img);

#define BZ_SETUP_SIZE 2560  /* boot sector and 4 setup sectors */
#define BZ_PAYLOAD    0x400 /* offset of the payload in the protected-mode code */
#define BZ_PREF       (16 * MiB)
#define BZ_INIT_SIZE  (1 * MiB)

/* A guest with `mib` MiB of RAM. */
struct guest {
    struct mem mem;
    struct boot_config cfg;
    struct boot_state st;
    struct err err;
};

void guest_init(struct guest *g, u64 mib);
void guest_free(struct guest *g);
/* Boots the image. On failure g->err has the message, which is asserted to be one line. */
int guest_boot(struct guest *g, const struct image *img);
u8 guest8(const struct guest *g, gpa_t gpa);
u16 guest16(const struct guest *g, gpa_t gpa);
u32 guest32(const struct guest *g, gpa_t gpa);
u64 guest64(const struct guest *g, gpa_t gpa);
/* Asserts that the segment of build_elf() is at gpa, and that its bss is zero. */
void guest_assert_segment(const struct guest *g, gpa_t gpa, u32 size, u32 from);

/* Boots and asserts failure with `part` in the message. */
void guest_assert_refused(struct guest *g, const struct image *img, const char *part);

#endif
