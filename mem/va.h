/*
 * va.h - host address space for guest memory, spaced for the translator.
 *
 * Translated code adds to a guest address what turns it into a host address. Where the table that
 * it takes this from holds another page's value (they share an entry), the sum is off by j *
 * VA_STRIDE + m * VA_PERIOD, for some j from -VA_KINDS + 1 to VA_KINDS - 1 and any m, not both 0.
 * It must then hit nothing that is mapped: no two mappings may be that far apart.
 */
#ifndef POPF_VA_H
#define POPF_VA_H

#include "base/base.h"

/* The stride is odd, so that what lies at round distances does not share entries: Linux' regions.
 */
#define VA_STRIDE 0x4612345000ull
#define VA_PERIOD (1ull << 41)
#define VA_KINDS  6

/*
 * Reserves `size` bytes (less than 128 GiB) of zeroed private memory with protection `prot`,
 * page-aligned; untouched pages cost nothing. *spaced tells whether such a place was found: none of
 * the process's mappings is that far from it, nor one that the kernel is likely to add near them;
 * else it lies anywhere. NULL if the host refuses (errno). Free with munmap().
 */
void *va_reserve(u64 size, int prot, bool *spaced);

#endif
