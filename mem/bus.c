#include "mem/bus.h"

int bus_add(struct bus *b, u64 base, u64 size, const struct bus_ops *ops, void *dev,
            const char *name)
{
    if (b->nranges == BUS_RANGES_MAX)
        return -1;
    b->range[b->nranges] = (struct bus_range){
        .base = base, .size = size, .ops = ops, .dev = dev, .name = name, .enabled = true};
    return (int)b->nranges++;
}

void bus_move(struct bus *b, int handle, u64 base, bool enabled)
{
    assert(handle >= 0 && (unsigned)handle < b->nranges);
    b->range[handle].base = base;
    b->range[handle].enabled = enabled;
}

static struct bus_range *find(struct bus *b, u64 addr)
{
    for (unsigned i = b->nranges; i-- > 0;) {
        struct bus_range *r = &b->range[i];
        if (r->enabled && addr - r->base < r->size)
            return r;
    }
    return NULL;
}

/* The widest access at addr, a power of two and at most `left`, that one device takes whole. */
static unsigned fit(const struct bus_range *r, u64 addr, unsigned left)
{
    if (!r)
        return 1;
    unsigned max = r->ops->max_size ? r->ops->max_size : 8;
    unsigned n = 8;
    while (n > 1 && (n > left || n > max || addr - r->base + n > r->size))
        n /= 2;
    return n;
}

u64 bus_read(struct bus *b, u64 addr, unsigned size)
{
    u64 val = 0;
    for (unsigned done = 0; done < size;) {
        struct bus_range *r = find(b, addr + done);
        unsigned n = fit(r, addr + done, size - done);
        u64 part = r && r->ops->read ? r->ops->read(r->dev, addr + done - r->base, n) : ~0ull;
        val |= (part & size_mask(n)) << (8 * done);
        done += n;
    }
    if (unlikely(log_wants(b->log, TRACE_DEV))) {
        struct bus_range *r = find(b, addr);
        log_emit(b->log, "%s read  %#llx.%u = %#llx (%s)", b->name, (unsigned long long)addr, size,
                 (unsigned long long)val, r ? r->name : "nobody");
    }
    return val;
}

void bus_write(struct bus *b, u64 addr, unsigned size, u64 val)
{
    if (unlikely(log_wants(b->log, TRACE_DEV))) {
        struct bus_range *r = find(b, addr);
        log_emit(b->log, "%s write %#llx.%u = %#llx (%s)", b->name, (unsigned long long)addr, size,
                 (unsigned long long)(val & size_mask(size)), r ? r->name : "nobody");
    }
    for (unsigned done = 0; done < size;) {
        struct bus_range *r = find(b, addr + done);
        unsigned n = fit(r, addr + done, size - done);
        if (r && r->ops->write)
            r->ops->write(r->dev, addr + done - r->base, n, (val >> (8 * done)) & size_mask(n));
        done += n;
    }
}
