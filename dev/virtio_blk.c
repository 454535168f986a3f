#include "dev/virtio_blk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_MAX 256

/* 5.2.3: feature bits. */
#define F_SIZE_MAX     BIT(1)
#define F_SEG_MAX      BIT(2)
#define F_RO           BIT(5)
#define F_BLK_SIZE     BIT(6)
#define F_FLUSH        BIT(9)
#define F_TOPOLOGY     BIT(10)
#define F_CONFIG_WCE   BIT(11)
#define F_MQ           BIT(12)
#define F_DISCARD      BIT(13)
#define F_WRITE_ZEROES BIT(14)

/* 5.2.4: offsets in the configuration space. */
enum {
    C_CAPACITY = 0,
    C_SIZE_MAX = 8,
    C_SEG_MAX = 12,
    C_BLK_SIZE = 20,
    C_PHYSICAL_BLOCK_EXP = 24,
    C_MIN_IO_SIZE = 26,
    C_OPT_IO_SIZE = 28,
    C_WRITEBACK = 32,
    C_NUM_QUEUES = 34,
    C_MAX_DISCARD_SECTORS = 36,
    C_MAX_DISCARD_SEG = 40,
    C_DISCARD_ALIGN = 44,
    C_MAX_ZERO_SECTORS = 48,
    C_MAX_ZERO_SEG = 52,
    C_ZERO_MAY_UNMAP = 56,
};

/* 5.2.6: requests. */
enum {
    T_IN = 0,
    T_OUT = 1,
    T_FLUSH = 4,
    T_GET_ID = 8,
    T_DISCARD = 11,
    T_WRITE_ZEROES = 13,
};

enum {
    S_OK = 0,
    S_IOERR = 1,
    S_UNSUPP = 2,
};

#define SECTOR    512ull
#define SIZE_MAX_ (1 * MiB)              /* of a segment */
#define SEG_MAX   (VIRTQ_SEGS_MAX - 2)   /* header and status have one each */
#define BYTES_MAX (SIZE_MAX_ * SEG_MAX)  /* more would keep a reset waiting */
#define RANGES    16                     /* of a discard or write zeroes */
#define RANGE_MAX (4 * GiB / SECTOR - 8) /* sectors of one range */

struct header {
    u32 type;
    u32 reserved;
    u64 sector;
};
static_assert(sizeof(struct header) == 16, "5.2.6: layout of a request");

struct range {
    u64 sector;
    u32 sectors;
    u32 flags; /* bit 0: unmap */
};
static_assert(sizeof(struct range) == 16, "5.2.6: layout of a discard");

struct virtio_blk_slot {
    struct virtio_blk *b;
    struct block_req r;
    unsigned q;
    struct virtio_blk_slot *next, *next_all; /* of `unused` or `stalled`; of `all` */
    unsigned range, nranges;                 /* of a discard: the current one */
    struct range ranges[RANGES];
    struct iovec v[VIRTQ_SEGS_MAX];
    struct virtq_buf buf;
};

static void done(struct block_req *r);

/* --- slots --- */

static struct virtio_blk_slot *slot_get(struct virtio_blk *b)
{
    struct virtio_blk_slot *s = b->unused;
    if (s) {
        b->unused = s->next;
        return s;
    }
    s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->b = b;
    s->r.done = done;
    s->next_all = b->all;
    b->all = s;
    return s;
}

static void slot_put(struct virtio_blk_slot *s)
{
    s->next = s->b->unused;
    s->b->unused = s;
}

/* --- answers --- */

static void answer(struct virtio_blk_slot *s, u8 status)
{
    struct virtio_blk *b = s->b;
    /* A reset in between: the buffers are the driver's again. */
    if (s->buf.epoch == b->v.epoch) {
        virtq_write(&s->buf, s->buf.in_len - 1, &status, 1);
        virtq_push(&b->v, s->q, &s->buf, (u32)min_u64(s->buf.in_len, UINT32_MAX));
    }
    slot_put(s);
}

static bool is_retried(const struct virtio_blk_slot *s)
{
    return s->b->cfg.stop_on_error && s->buf.epoch == s->b->v.epoch && s->r.status != -ECANCELED &&
           s->r.status != -EPERM;
}

static const char *op_name(enum block_op op)
{
    static const char *const names[] = {
        [BLOCK_READ] = "reading",       [BLOCK_WRITE] = "writing", [BLOCK_FLUSH] = "flushing",
        [BLOCK_DISCARD] = "discarding", [BLOCK_ZERO] = "zeroing",
    };
    return names[op];
}

/* The host failed. Either the machine stops and the request waits, or the guest gets an error. */
static void failed(struct virtio_blk_slot *s)
{
    struct virtio_blk *b = s->b;
    char why[400];
    snprintf(why, sizeof(why), "%.200s: %s %llu bytes at %llu failed: %s", b->cfg.disk.file,
             op_name(s->r.op), (unsigned long long)s->r.len, (unsigned long long)s->r.offset,
             strerror(-s->r.status));
    if (s->r.status != -ECANCELED)
        log_emit(b->v.log, "%s", why);
    if (!is_retried(s)) {
        answer(s, S_IOERR);
        return;
    }
    bool first = !b->stalled;
    s->next = b->stalled;
    b->stalled = s;
    if (first && b->cfg.stop)
        b->cfg.stop(b->cfg.arg, why);
}

static void start_range(struct virtio_blk_slot *s)
{
    const struct range *g = &s->ranges[s->range];
    s->r.offset = g->sector * SECTOR;
    s->r.len = g->sectors * SECTOR;
    s->r.flags &= ~(u32)BLOCK_MAY_UNMAP;
    if (s->r.op == BLOCK_ZERO && g->flags & 1)
        s->r.flags |= BLOCK_MAY_UNMAP;
}

/* Submits the request and all that follows from it, as long as it is done at once. */
static void submit(struct virtio_blk_slot *s)
{
    while (block_submit(s->b->block, &s->r)) {
        if (s->r.status) {
            failed(s);
            return;
        }
        if (++s->range >= s->nranges) {
            answer(s, S_OK);
            return;
        }
        start_range(s);
    }
}

/* From the loop. */
static void done(struct block_req *r)
{
    struct virtio_blk_slot *s = container_of(r, struct virtio_blk_slot, r);
    struct virtio_blk *b = s->b;
    unsigned q = s->q;
    if (s->buf.epoch != b->v.epoch) {
        slot_put(s);
        return;
    }
    if (r->status) {
        failed(s);
    } else if (++s->range < s->nranges) {
        start_range(s);
        submit(s);
    } else {
        answer(s, S_OK);
    }
    virtq_signal(&b->v, q);
}

/* --- requests --- */

/* 5.2.6.2: without a write cache, or for a driver that cannot flush one, writes are durable. */
static bool is_writeback(const struct virtio_blk *b)
{
    if (virtio_has(&b->v, F_CONFIG_WCE))
        return b->config[C_WRITEBACK];
    return virtio_has(&b->v, F_FLUSH);
}

static u32 durable(const struct virtio_blk *b)
{
    return is_writeback(b) ? 0 : BLOCK_DURABLE;
}

static bool is_on_disk(const struct virtio_blk *b, u64 sector, u64 sectors)
{
    return sector <= b->sectors && sectors <= b->sectors - sector;
}

static u8 prepare_data(struct virtio_blk_slot *s, const struct header *h)
{
    struct virtio_blk *b = s->b;
    bool write = h->type == T_OUT;
    u64 len = write ? s->buf.out_len - sizeof(*h) : s->buf.in_len - 1;
    if (len % SECTOR || len > BYTES_MAX || !is_on_disk(b, h->sector, len / SECTOR))
        return S_IOERR;
    if (write && b->v.offered & F_RO)
        return S_IOERR;
    s->r.op = write ? BLOCK_WRITE : BLOCK_READ;
    s->r.flags = write ? durable(b) : 0;
    s->r.offset = h->sector * SECTOR;
    s->r.len = len;
    s->r.iov = s->v;
    s->r.niov = write ? virtq_slice(s->buf.out, s->buf.nout, sizeof(*h), len, s->v, VIRTQ_SEGS_MAX)
                      : virtq_slice(s->buf.in, s->buf.nin, 0, len, s->v, VIRTQ_SEGS_MAX);
    return S_OK;
}

static u8 prepare_ranges(struct virtio_blk_slot *s, const struct header *h)
{
    struct virtio_blk *b = s->b;
    bool zero = h->type == T_WRITE_ZEROES;
    u64 len = s->buf.out_len - sizeof(*h);
    if (!virtio_has(&b->v, zero ? F_WRITE_ZEROES : F_DISCARD))
        return S_UNSUPP;
    if (!len || len % sizeof(struct range) || len > sizeof(s->ranges))
        return S_IOERR;
    virtq_read(&s->buf, sizeof(*h), s->ranges, len);
    s->nranges = (unsigned)(len / sizeof(struct range));
    for (unsigned i = 0; i < s->nranges; i++) {
        const struct range *g = &s->ranges[i];
        if (g->flags & ~(zero ? 1u : 0u))
            return S_UNSUPP;
        if (g->sectors > RANGE_MAX || !is_on_disk(b, g->sector, g->sectors))
            return S_IOERR;
    }
    s->r.op = zero ? BLOCK_ZERO : BLOCK_DISCARD;
    s->r.flags = durable(b);
    start_range(s);
    return S_OK;
}

static u8 prepare(struct virtio_blk_slot *s, const struct header *h)
{
    s->range = 0;
    s->nranges = 1;
    s->r.flags = 0;
    s->r.offset = s->r.len = 0;
    s->r.niov = 0;
    switch (h->type) {
    case T_IN:
    case T_OUT:
        return prepare_data(s, h);
    case T_FLUSH:
        s->r.op = BLOCK_FLUSH;
        return S_OK;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        return prepare_ranges(s, h);
    default:
        return S_UNSUPP;
    }
}

static void get_id(struct virtio_blk_slot *s)
{
    u64 room = s->buf.in_len - 1;
    virtq_write(&s->buf, 0, s->b->serial, min_u64(room, sizeof(s->b->serial)));
    answer(s, S_OK);
}

static void start(struct virtio_blk_slot *s)
{
    struct header h;
    if (virtq_read(&s->buf, 0, &h, sizeof(h)) < sizeof(h) || !s->buf.in_len) {
        virtio_broken(&s->b->v, "a block request without a header or a status byte");
        slot_put(s);
        return;
    }
    if (h.type == T_GET_ID) {
        get_id(s);
        return;
    }
    u8 status = prepare(s, &h);
    if (status != S_OK)
        answer(s, status);
    else if (!s->r.len && s->r.op != BLOCK_FLUSH && s->nranges == 1)
        answer(s, S_OK);
    else
        submit(s);
}

/* --- queues --- */

static void again(void *arg);

/* Takes what is there, but no more than a queue holds: other CPUs may go on adding. */
static void serve(struct virtio_blk *b, unsigned q)
{
    for (unsigned n = b->v.q[q].num; n; n--) {
        struct virtio_blk_slot *s = slot_get(b);
        if (!s)
            break;
        if (virtq_pop(&b->v, q, &s->buf) <= 0) {
            slot_put(s);
            virtq_signal(&b->v, q);
            return;
        }
        s->q = q;
        start(s);
    }
    virtq_signal(&b->v, q);
    if (!virtq_pending(&b->v, q))
        return;
    b->again_queues |= BIT(q);
    if (b->cfg.disk.loop)
        loop_post(b->cfg.disk.loop, &b->again, again, b);
}

static void again(void *arg)
{
    struct virtio_blk *b = arg;
    u64 queues = b->again_queues;
    b->again_queues = 0;
    for (unsigned q = 0; q < b->v.nqueues; q++)
        if (queues & BIT(q) && virtio_ready(&b->v) && b->v.q[q].enabled)
            serve(b, q);
}

static void notify(struct virtio_dev *d, unsigned q)
{
    serve(container_of(d, struct virtio_blk, v), q);
}

static void drop_stalled(struct virtio_blk *b)
{
    while (b->stalled) {
        struct virtio_blk_slot *s = b->stalled;
        b->stalled = s->next;
        slot_put(s);
    }
}

static void set_writeback(struct virtio_blk *b, bool on)
{
    b->config[C_WRITEBACK] = on;
}

static void reset(struct virtio_dev *d)
{
    struct virtio_blk *b = container_of(d, struct virtio_blk, v);
    block_quiesce(b->block);
    drop_stalled(b);
    b->again_queues = 0;
    set_writeback(b, true);
}

void virtio_blk_retry(struct virtio_blk *b)
{
    struct virtio_blk_slot *list = b->stalled;
    b->stalled = NULL;
    while (list) {
        struct virtio_blk_slot *s = list;
        list = s->next;
        unsigned q = s->q;
        submit(s);
        virtq_signal(&b->v, q);
    }
}

/* --- configuration space --- */

static u64 config_read(struct virtio_dev *d, unsigned off, unsigned size)
{
    u64 val = 0;
    memcpy(&val, d->config + off, size);
    return val;
}

static void config_write(struct virtio_dev *d, unsigned off, unsigned size, u64 val)
{
    struct virtio_blk *b = container_of(d, struct virtio_blk, v);
    if (off == C_WRITEBACK && size == 1 && virtio_has(d, F_CONFIG_WCE))
        set_writeback(b, val & 1);
}

static void put(struct virtio_blk *b, unsigned off, u64 val, unsigned size)
{
    memcpy(b->config + off, &val, size);
}

static void fill_config(struct virtio_blk *b, const struct block_info *i, unsigned queues)
{
    put(b, C_CAPACITY, b->sectors, 8);
    put(b, C_SIZE_MAX, SIZE_MAX_, 4);
    put(b, C_SEG_MAX, SEG_MAX, 4);
    put(b, C_BLK_SIZE, SECTOR, 4);
    put(b, C_PHYSICAL_BLOCK_EXP, 3, 1); /* 4096: what host file systems like */
    put(b, C_MIN_IO_SIZE, i->min_io / SECTOR, 2);
    put(b, C_OPT_IO_SIZE, i->opt_io / SECTOR, 4);
    set_writeback(b, true);
    put(b, C_NUM_QUEUES, queues, 2);
    put(b, C_MAX_DISCARD_SECTORS, RANGE_MAX, 4);
    put(b, C_MAX_DISCARD_SEG, RANGES, 4);
    put(b, C_DISCARD_ALIGN, i->discard_align / SECTOR, 4);
    put(b, C_MAX_ZERO_SECTORS, RANGE_MAX, 4);
    put(b, C_MAX_ZERO_SEG, RANGES, 4);
    put(b, C_ZERO_MAY_UNMAP, 1, 1);
}

static const struct virtio_ops ops = {
    .notify = notify,
    .reset = reset,
    .config_read = config_read,
    .config_write = config_write,
};

/* --- its life --- */

int virtio_blk_init(struct virtio_blk *b, const struct virtio_blk_config *cfg, struct mem *mem,
                    struct err *e)
{
    *b = (struct virtio_blk){.cfg = *cfg};
    b->block = block_open(&cfg->disk, e);
    if (!b->block)
        return -1;
    struct block_info i;
    block_info(b->block, &i);
    b->sectors = i.size / SECTOR;
    if (cfg->serial)
        memcpy(b->serial, cfg->serial, strnlen(cfg->serial, sizeof(b->serial)));
    unsigned queues = cfg->queues ? cfg->queues : 1;
    if (queues > VIRTIO_BLK_QUEUES_MAX)
        queues = VIRTIO_BLK_QUEUES_MAX;
    u64 features = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE | F_MQ;
    features |= i.ro ? F_RO : F_DISCARD | F_WRITE_ZEROES;
    virtio_init(&b->v, &ops, VIRTIO_BLK, features, queues, QUEUE_MAX, mem);
    fill_config(b, &i, queues);
    b->v.name = "virtio-blk";
    b->v.log = cfg->disk.log;
    b->v.config = b->config;
    b->v.config_size = sizeof(b->config);
    return 0;
}

int virtio_blk_free(struct virtio_blk *b, struct err *e)
{
    int rc = block_close(b->block, e);
    b->block = NULL;
    if (b->cfg.disk.loop)
        loop_unpost(b->cfg.disk.loop, &b->again);
    while (b->all) {
        struct virtio_blk_slot *s = b->all;
        b->all = s->next_all;
        if (b->cfg.disk.loop)
            loop_unpost(b->cfg.disk.loop, &s->r.post);
        free(s);
    }
    b->unused = b->stalled = NULL;
    return rc;
}

int virtio_blk_drain(struct virtio_blk *b)
{
    return block_drain(b->block);
}

void virtio_blk_state(struct virtio_blk *b, struct state *s)
{
    virtio_state(&b->v, s); /* first: loading it resets the device */
    state_section(s, "virtio-blk", 1);
    u64 sectors = b->sectors;
    u8 writeback = b->config[C_WRITEBACK];
    state_val(s, sectors);
    state_val(s, writeback);
    if (s->loading && !s->failed && (sectors != b->sectors || writeback > 1))
        state_fail(s, "the disk %s has another size than when the state was saved",
                   b->cfg.disk.file);
    if (s->loading && !s->failed)
        set_writeback(b, writeback);
}
