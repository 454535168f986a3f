#include "boot/loader.h"

#include <stdlib.h>

const char loader_kernel[] = "the kernel";

int loader_write(struct layout *l, gpa_t gpa, const void *data, u64 size, struct err *e)
{
    if (size && mem_write(l->cfg->mem, gpa, data, size))
        return err_set(e, "no RAM at %#llx..%#llx", (unsigned long long)gpa,
                       (unsigned long long)(gpa + size - 1));
    return 0;
}

static bool all_zero(const u8 *p, u64 size)
{
    return !size || (!p[0] && !memcmp(p, p + 1, size - 1));
}

int loader_zero(struct layout *l, gpa_t gpa, u64 size, struct err *e)
{
    static const u8 zeros[PAGE_SIZE];
    while (size) {
        u64 n = min_u64(size, PAGE_SIZE - (gpa & PAGE_MASK));
        const u8 *p = mem_ptr(l->cfg->mem, gpa);
        if ((!p || !all_zero(p, n)) && loader_write(l, gpa, zeros, n, e))
            return -1;
        gpa += n;
        size -= n;
    }
    return 0;
}

int loader_put(struct loader *ld, const void *data, u64 size, u64 align, const char *who,
               gpa_t *gpa, struct err *e)
{
    if (layout_place(&ld->lay, size, align, who, gpa, e))
        return -1;
    return loader_write(&ld->lay, *gpa, data, size, e);
}

int loader_cmdline(struct loader *ld, u64 max, gpa_t *gpa, struct err *e)
{
    const char *s = ld->cfg->cmdline ? ld->cfg->cmdline : "";
    u64 len = strlen(s);
    if (len > max)
        return err_set(e,
                       "it takes a command line of %llu bytes, the one given has %llu; shorten it",
                       (unsigned long long)max, (unsigned long long)len);
    return loader_put(ld, s, len + 1, 16, "the command line", gpa, e);
}

static gpa_t initrd_place(const struct loader *ld, u64 max, bool above_4g)
{
    const struct boot_config *cfg = ld->cfg;
    u64 size = ld->initrd.size;
    gpa_t gpa =
        layout_find_down(&ld->lay, LAYOUT_HIGH_MEM, min_u64(max, cfg->ram_low), size, PAGE_SIZE);
    if (gpa == LAYOUT_NONE && above_4g)
        gpa = layout_find_down(&ld->lay, BOOT_HOLE_END, BOOT_HOLE_END + cfg->ram_high, size,
                               PAGE_SIZE);
    return gpa;
}

int loader_initrd(struct loader *ld, u64 max, bool above_4g, struct err *e)
{
    if (!ld->initrd.size)
        return 0;
    gpa_t gpa = initrd_place(ld, max, above_4g);
    if (gpa == LAYOUT_NONE) {
        u64 kernel = 0;
        for (unsigned i = 0; i < ld->lay.n; i++)
            if (ld->lay.claim[i].who == loader_kernel)
                kernel = max_u64(kernel, ld->lay.claim[i].end);
        u64 need = align_up(kernel, MiB) + align_up(ld->initrd.size, MiB);
        if (need > min_u64(max, BOOT_HOLE_START))
            return err_set(e, "it cannot take an initrd of %llu MiB; use a smaller one",
                           (unsigned long long)(align_up(ld->initrd.size, MiB) / MiB));
        return err_set(e,
                       "it and its initrd of %llu MiB do not fit the guest's memory together; give "
                       "it --memory %lluM or more",
                       (unsigned long long)(align_up(ld->initrd.size, MiB) / MiB),
                       (unsigned long long)(need / MiB));
    }
    if (layout_claim(&ld->lay, gpa, ld->initrd.size, "the initrd", e))
        return -1;
    ld->initrd_gpa = gpa;
    return loader_write(&ld->lay, gpa, ld->initrd.data, ld->initrd.size, e);
}
