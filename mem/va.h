/*
 * va.h - host address space for guest memory, spaced for the translator.
 *
 * Translated code adds to a guest address what turns it into a host address. Where the table that
 * it takes this from holds another page's value (they share an entry: their addresses differ by a
 * multiple of VA_STRIDE), the sum is off by a multiple of VA_STRIDE. It must then hit nothing that
 * is mapped. So guest memory lies where no two mappings of the process agree modulo VA_STRIDE.
 */
#ifndef POPF_VA_H
#define POPF_VA_H

#include "base/base.h"

#define VA_STRIDE (1ull << 38)

/*
 * Reserves `size` bytes (less than VA_STRIDE) of zeroed private memory with protection `prot`,
 * page-aligned; untouched pages cost nothing. Modulo VA_STRIDE it overlaps no mapping of the
 * process that exists, and none that the kernel is likely to add near them: *spaced tells whether
 * such a place was found, else it lies anywhere. NULL if the host refuses (errno). Free with
 * munmap().
 */
void *va_reserve(u64 size, int prot, bool *spaced);

#endif
