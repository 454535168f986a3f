#include "dev/virtio_balloon.h"

#define F_DEFLATE_ON_OOM BIT(2)
#define F_REPORTING      BIT(5)
#define CONFIG_SIZE      8 /* num_pages, actual */
#define ACTUAL           4
#define PFNS             256u /* copied in at a time */
#define PFNS_MAX         8192 /* of one request: the rest is not given */

/* Without statistics and free page hints, the reports' queue is number 2 (5.5.2). */
enum { Q_INFLATE, Q_DEFLATE, Q_REPORT, QUEUES };

/* A run of host pages that are given together: one call to the kernel instead of hundreds. */
struct run {
    u8 *at;
    u64 len;
};

static void give(struct virtio_balloon *b, u8 *host, u64 len)
{
    mem_discard(host, len);
    /* They read as zeros now: code decoded from them is as stale as after a store. */
    virtio_mem_written(b->v.mem, host, len);
    b->given += len >> PAGE_SHIFT;
}

static void flush(struct virtio_balloon *b, struct run *r)
{
    if (r->len)
        give(b, r->at, r->len);
    *r = (struct run){0};
}

/* Guests hand pages out in ascending and in descending order. */
static void add_page(struct virtio_balloon *b, struct run *r, u8 *page)
{
    if (r->len && page + PAGE_SIZE == r->at) {
        r->at = page;
    } else if (!r->len || page != r->at + r->len) {
        flush(b, r);
        r->at = page;
    }
    r->len += PAGE_SIZE;
}

static void inflate(struct virtio_balloon *b, const struct virtq_buf *buf)
{
    u32 pfn[PFNS];
    struct run run = {0};
    for (size_t done = 0; done < PFNS_MAX * sizeof(*pfn);) {
        size_t n = virtq_read(buf, done, pfn, sizeof(pfn)) / sizeof(*pfn);
        if (!n)
            break;
        for (size_t i = 0; i < n; i++) {
            u8 *page = mem_range(b->v.mem, (u64)pfn[i] << PAGE_SHIFT, PAGE_SIZE);
            if (page)
                add_page(b, &run, page);
        }
        done += n * sizeof(*pfn);
    }
    flush(b, &run);
}

/*
 * Whole pages within each segment; 4 KiB pages of the guest are 4 KiB pages of ours. A report of
 * more than there is names pages twice, to keep us busy.
 */
static void take_report(struct virtio_balloon *b, const struct virtq_buf *buf)
{
    if (buf->in_len > mem_ram_size(b->v.mem))
        return;
    for (unsigned i = 0; i < buf->nin; i++) {
        u64 at = align_up((u64)(uintptr_t)buf->in[i].iov_base, PAGE_SIZE);
        u64 end = align_down((u64)(uintptr_t)buf->in[i].iov_base + buf->in[i].iov_len, PAGE_SIZE);
        if (at < end)
            give(b, (u8 *)(uintptr_t)at, end - at);
    }
}

static void notify(struct virtio_dev *d, unsigned q)
{
    struct virtio_balloon *b = container_of(d, struct virtio_balloon, v);
    struct virtq_buf buf;
    for (unsigned n = 0; n < d->q[q].num && virtq_pop(d, q, &buf) > 0; n++) {
        if (q == Q_INFLATE)
            inflate(b, &buf);
        else if (q == Q_REPORT && virtio_has(d, F_REPORTING))
            take_report(b, &buf);
        virtq_push(d, q, &buf, 0); /* deflated pages come back when they are touched */
    }
    virtq_signal(d, q);
}

static void reset(struct virtio_dev *d)
{
    struct virtio_balloon *b = container_of(d, struct virtio_balloon, v);
    b->actual = 0;
}

static u64 config_read(struct virtio_dev *d, unsigned off, unsigned size)
{
    const struct virtio_balloon *b = container_of(d, struct virtio_balloon, v);
    u64 config = b->target | (u64)b->actual << 32;
    return config >> (8 * off) & size_mask(size);
}

static void config_write(struct virtio_dev *d, unsigned off, unsigned size, u64 val)
{
    struct virtio_balloon *b = container_of(d, struct virtio_balloon, v);
    if (off == ACTUAL && size == 4)
        b->actual = (u32)val;
}

static const struct virtio_ops ops = {
    .notify = notify, .reset = reset, .config_read = config_read, .config_write = config_write};

void virtio_balloon_init(struct virtio_balloon *b, struct mem *mem)
{
    *b = (struct virtio_balloon){0};
    virtio_init(&b->v, &ops, VIRTIO_BALLOON, F_DEFLATE_ON_OOM | F_REPORTING, QUEUES, 128, mem);
    b->v.name = "virtio-balloon";
    b->v.config_size = CONFIG_SIZE;
}

void virtio_balloon_set(struct virtio_balloon *b, u32 pages)
{
    if (b->target == pages)
        return;
    b->target = pages;
    virtio_config_changed(&b->v);
}

void virtio_balloon_state(struct virtio_balloon *b, struct state *s)
{
    state_section(s, "virtio-balloon", 1);
    state_val(s, b->target);
    state_val(s, b->actual);
}
