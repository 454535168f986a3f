#include "engine/bt/bt_build.h"

#include <link.h>

/* Between the constants that it reads, AddressSanitizer has put what nobody is to read. */
static __attribute__((noinline, no_sanitize("address"))) u64 hash_words(u64 h, const u64 *p, u64 n)
{
    u64 a = h, b = ~h;
    for (; n > 1; n -= 2, p += 2) {
        a = (a ^ p[0]) * 0xff51afd7ed558ccdull;
        b = (b ^ p[1]) * 0xc4ceb9fe1a85ec53ull;
        a ^= a >> 32;
        b ^= b >> 32;
    }
    return a ^ b * 0x9e3779b97f4a7c15ull;
}

/* All that is loaded and cannot be written to: machine code, and tables. */
static u64 hash_object(const struct dl_phdr_info *info)
{
    u64 h = 0;
    for (unsigned n = 0; n < info->dlpi_phnum; n++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[n];
        if (ph->p_type != PT_LOAD || ph->p_flags & PF_W || ph->p_filesz < 16)
            continue;
        const u64 *code = (const u64 *)align_up(info->dlpi_addr + ph->p_vaddr, 8);
        h = hash_words(h ^ ph->p_filesz, code, ph->p_filesz / 8 - 1);
    }
    return h;
}

static int hash_if_here(struct dl_phdr_info *info, size_t size, void *arg)
{
    u64 here = (u64)&hash_if_here - info->dlpi_addr;
    for (unsigned n = 0; n < info->dlpi_phnum; n++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[n];
        if (ph->p_type == PT_LOAD && here - ph->p_vaddr < ph->p_memsz) {
            *(u64 *)arg = hash_object(info);
            return 1;
        }
    }
    return 0;
}

u64 bt_build_hash(void)
{
    u64 h = 0;
    dl_iterate_phdr(hash_if_here, &h);
    return h;
}
