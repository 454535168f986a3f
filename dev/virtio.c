#include "dev/virtio.h"

#include <string.h>

/* 2.7.5: descriptors; 2.7.6, 2.7.8: flags of the rings. */
#define DESC_SIZE     16u
#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4
#define NO_INTERRUPT  1

struct desc {
    u64 addr;
    u32 len;
    u16 flags;
    u16 next;
};
static_assert(sizeof(struct desc) == DESC_SIZE, "not the descriptor of 2.7.5");

/* --- guest memory --- */

static u16 load16(const u8 *p)
{
    return __atomic_load_n((const u16 *)p, __ATOMIC_ACQUIRE);
}

static void store16(u8 *p, u16 v)
{
    __atomic_store_n((u16 *)p, v, __ATOMIC_RELEASE);
}

/* After a store and a fence: code decoded from there is stale. */
static void mark_written(struct mem *m, const u8 *host, u64 len)
{
    for (unsigned i = 0; i < m->nregions; i++) {
        const struct mem_region *r = &m->region[i];
        u64 at = (u64)(host - r->host);
        if (at >= r->size)
            continue;
        for (u64 end = min_u64(at + len, r->size); at < end;) {
            unsigned off = at & PAGE_MASK;
            unsigned n = (unsigned)min_u64(end - at, PAGE_SIZE - off);
            u64 page = r->page0 + (at >> PAGE_SHIFT);
            if (mem_has_code(m, page))
                mem_code_written(m, page, off, n);
            at += n;
        }
        return;
    }
}

void virtio_mem_written(struct mem *m, const void *host, u64 len)
{
    atomic_thread_fence(memory_order_seq_cst);
    mark_written(m, host, len);
}

/* --- the device --- */

void virtio_init(struct virtio_dev *d, const struct virtio_ops *ops, u16 id, u64 features,
                 unsigned nqueues, u16 queue_max, struct mem *mem)
{
    assert(nqueues <= VIRTIO_QUEUES_MAX && queue_max <= VIRTQ_SIZE_MAX);
    assert(queue_max && !(queue_max & (queue_max - 1)));
    *d = (struct virtio_dev){.ops = ops,
                             .name = "virtio",
                             .mem = mem,
                             .id = id,
                             .offered = features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC |
                                        VIRTIO_F_EVENT_IDX | VIRTIO_F_ANY_LAYOUT,
                             .nqueues = nqueues};
    for (unsigned i = 0; i < nqueues; i++)
        d->q[i] = (struct virtq){.num = queue_max, .num_max = queue_max};
}

void virtio_reset(struct virtio_dev *d)
{
    if (d->ops->reset)
        d->ops->reset(d);
    for (unsigned i = 0; i < d->nqueues; i++)
        d->q[i] = (struct virtq){.num = d->q[i].num_max, .num_max = d->q[i].num_max};
    d->features = 0;
    d->refused = false;
    d->broken = false;
    d->status = 0;
    d->epoch++;
}

void virtio_broken(struct virtio_dev *d, const char *why)
{
    if (d->broken)
        return;
    if (!d->told)
        log_emit(d->log, "%s: %s: it needs a reset now", d->name, why);
    d->told = true;
    d->broken = true;
    d->status |= VIRTIO_S_NEEDS_RESET;
    if ((d->status & VIRTIO_S_DRIVER_OK) && d->interrupt)
        d->interrupt(d, -1);
}

void virtio_set_features(struct virtio_dev *d, u64 features)
{
    if (d->status & (VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK))
        return;
    d->features = features & d->offered;
    d->refused = features & ~d->offered;
}

/* Buffers may have been made available before DRIVER_OK, and their kicks ignored. */
static void go(struct virtio_dev *d)
{
    log_trace(d->log, TRACE_DEV, "%s: started, features %#llx", d->name,
              (unsigned long long)d->features);
    if (d->ops->driver_ok)
        d->ops->driver_ok(d);
    for (unsigned i = 0; i < d->nqueues; i++)
        virtio_notify(d, i);
}

void virtio_set_status(struct virtio_dev *d, u8 status)
{
    if (!status) {
        virtio_reset(d);
        return;
    }
    bool was_ok = d->status & VIRTIO_S_DRIVER_OK;
    if (d->refused)
        status &= (u8)~VIRTIO_S_FEATURES_OK;
    d->status = (status & (u8)~VIRTIO_S_NEEDS_RESET) | (d->broken ? VIRTIO_S_NEEDS_RESET : 0);
    if (!was_ok && virtio_ready(d))
        go(d);
}

void virtio_notify(struct virtio_dev *d, unsigned q)
{
    if (q < d->nqueues && d->q[q].enabled && virtio_ready(d) && d->ops->notify)
        d->ops->notify(d, q);
}

/* --- configuration space --- */

static bool in_config(const struct virtio_dev *d, unsigned off, unsigned size)
{
    return off < d->config_size && size <= d->config_size - off;
}

u64 virtio_config_read(struct virtio_dev *d, unsigned off, unsigned size)
{
    u64 val = 0;
    if (!in_config(d, off, size))
        return ~0ull;
    if (d->ops->config_read)
        return d->ops->config_read(d, off, size);
    if (d->config)
        memcpy(&val, d->config + off, size);
    return val;
}

void virtio_config_write(struct virtio_dev *d, unsigned off, unsigned size, u64 val)
{
    if (in_config(d, off, size) && d->ops->config_write)
        d->ops->config_write(d, off, size, val);
}

void virtio_config_changed(struct virtio_dev *d)
{
    d->config_generation++;
    if (virtio_ready(d) && d->interrupt)
        d->interrupt(d, -1);
}

/* --- queues: taking chains --- */

static bool map_queue(struct virtio_dev *d, struct virtq *q)
{
    unsigned n = q->num;
    if (!n || (n & (n - 1)) || n > q->num_max)
        return false;
    if ((q->desc & 15) || (q->avail & 1) || (q->used & 3))
        return false;
    q->desc_at = mem_range(d->mem, q->desc, (u64)DESC_SIZE * n);
    q->avail_at = mem_range(d->mem, q->avail, 6 + 2ull * n);
    q->used_at = mem_range(d->mem, q->used, 6 + 8ull * n);
    return q->desc_at && q->avail_at && q->used_at;
}

void virtio_enable_queue(struct virtio_dev *d, unsigned i)
{
    if (i >= d->nqueues || d->q[i].enabled || d->broken)
        return;
    struct virtq *q = &d->q[i];
    if (!map_queue(d, q)) {
        virtio_broken(d, "a queue is not in RAM, or has no valid size or alignment");
        return;
    }
    q->enabled = true;
}

/* Appends [addr, addr+len) to the chain; what is wrong with it, or NULL. */
static const char *add_seg(struct virtio_dev *d, struct virtq_buf *b, const struct desc *s)
{
    bool in = s->flags & DESC_WRITE;
    unsigned *n = in ? &b->nin : &b->nout;
    if (!in && b->nin)
        return "a descriptor to read follows one to write";
    if (!s->len)
        return NULL;
    if (*n == VIRTQ_SEGS_MAX)
        return "a chain has too many descriptors";
    u8 *host = mem_range(d->mem, s->addr, s->len);
    if (!host)
        return "a descriptor points outside RAM";
    (in ? b->in : b->out)[(*n)++] = (struct iovec){.iov_base = host, .iov_len = s->len};
    *(in ? &b->in_len : &b->out_len) += s->len;
    return NULL;
}

/* A table of n descriptors, walked from `at` on. Each descriptor is copied before it is judged. */
struct table {
    const u8 *host;
    u32 n;
    u32 at;
    bool indirect;
};

static const char *enter_indirect(struct virtio_dev *d, const struct desc *s, struct table *t)
{
    if (t->indirect)
        return "an indirect table within an indirect table";
    if (!virtio_has(d, VIRTIO_F_INDIRECT_DESC) || (s->flags & DESC_NEXT))
        return "an indirect descriptor where none is allowed";
    if (!s->len || s->len % DESC_SIZE || s->len / DESC_SIZE > VIRTQ_SIZE_MAX)
        return "an indirect table has no valid size";
    *t = (struct table){
        .host = mem_range(d->mem, s->addr, s->len), .n = s->len / DESC_SIZE, .indirect = true};
    return t->host ? NULL : "an indirect table is not in RAM";
}

static const char *walk(struct virtio_dev *d, struct table t, struct virtq_buf *b)
{
    const char *wrong = NULL;
    for (u32 steps = 0; !wrong; steps++) {
        struct desc s;
        if (t.at >= t.n)
            return "a descriptor's number is out of range";
        if (steps == t.n)
            return "descriptors form a loop";
        memcpy(&s, t.host + DESC_SIZE * t.at, sizeof(s));
        if (s.flags & DESC_INDIRECT) {
            wrong = enter_indirect(d, &s, &t);
            steps = (u32)-1; /* counts anew in the table */
            continue;
        }
        wrong = add_seg(d, b, &s);
        if (!(s.flags & DESC_NEXT))
            break;
        t.at = s.next;
    }
    return wrong;
}

/* The number of chains to take. When there are none, asks for a kick and looks once more. */
static u16 available(struct virtio_dev *d, struct virtq *q)
{
    u16 n = load16(q->avail_at + 2) - q->last_avail;
    if (n || !virtio_has(d, VIRTIO_F_EVENT_IDX))
        return n;
    u8 *avail_event = q->used_at + 4 + 8u * q->num;
    store16(avail_event, q->last_avail);
    atomic_thread_fence(memory_order_seq_cst);
    mark_written(d->mem, avail_event, 2);
    return load16(q->avail_at + 2) - q->last_avail;
}

bool virtq_pending(struct virtio_dev *d, unsigned i)
{
    assert(i < d->nqueues);
    struct virtq *q = &d->q[i];
    return virtio_ready(d) && q->enabled && load16(q->avail_at + 2) != q->last_avail;
}

int virtq_pop(struct virtio_dev *d, unsigned i, struct virtq_buf *b)
{
    assert(i < d->nqueues);
    struct virtq *q = &d->q[i];
    if (!virtio_ready(d) || !q->enabled)
        return -1;
    u16 n = available(d, q);
    if (!n)
        return 0;
    const char *wrong = NULL;
    if (n > q->num)
        wrong = "the available ring's index is out of range";
    else if (q->inflight >= q->num)
        wrong = "more chains are in flight than the queue has room for";
    b->head = load16(q->avail_at + 4 + 2u * (q->last_avail & (q->num - 1)));
    b->epoch = d->epoch;
    b->nout = b->nin = 0;
    b->out_len = b->in_len = 0;
    if (!wrong)
        wrong = walk(d, (struct table){.host = q->desc_at, .n = q->num, .at = b->head}, b);
    if (wrong) {
        virtio_broken(d, wrong);
        return -1;
    }
    q->last_avail++;
    q->inflight++;
    return 1;
}

/* --- queues: handing chains back --- */

static bool is_stale(const struct virtio_dev *d, const struct virtq *q, const struct virtq_buf *b)
{
    return b->epoch != d->epoch || d->broken || !q->enabled || !q->inflight;
}

void virtq_unpop(struct virtio_dev *d, unsigned i, const struct virtq_buf *b)
{
    assert(i < d->nqueues);
    struct virtq *q = &d->q[i];
    if (is_stale(d, q, b))
        return;
    q->last_avail--;
    q->inflight--;
}

void virtq_push(struct virtio_dev *d, unsigned i, const struct virtq_buf *b, u32 written)
{
    assert(i < d->nqueues);
    struct virtq *q = &d->q[i];
    if (is_stale(d, q, b))
        return;
    u8 *idx = q->used_at + 2;
    u8 *elem = q->used_at + 4 + 8u * (q->used_idx & (q->num - 1));
    u32 pair[2] = {b->head, written};
    memcpy(elem, pair, sizeof(pair));
    store16(idx, ++q->used_idx);
    q->inflight--;

    atomic_thread_fence(memory_order_seq_cst);
    mark_written(d->mem, idx, 2);
    mark_written(d->mem, elem, sizeof(pair));
    u64 left = written;
    for (unsigned k = 0; k < b->nin && left; k++) {
        u64 n = min_u64(left, b->in[k].iov_len);
        mark_written(d->mem, b->in[k].iov_base, n);
        left -= n;
    }
}

/* 2.7.10: does the driver want to hear of the entries after `old`, up to `new`? */
static bool passed(u16 event, u16 new, u16 old)
{
    return (u16)(new - event - 1) < (u16)(new - old);
}

void virtq_signal(struct virtio_dev *d, unsigned i)
{
    assert(i < d->nqueues);
    struct virtq *q = &d->q[i];
    if (!virtio_ready(d) || !q->enabled || q->used_idx == q->signalled)
        return;
    atomic_thread_fence(memory_order_seq_cst); /* the index first, then the driver's wish */
    u16 old = q->signalled;
    q->signalled = q->used_idx;
    bool wanted = virtio_has(d, VIRTIO_F_EVENT_IDX)
                      ? passed(load16(q->avail_at + 4 + 2u * q->num), q->used_idx, old)
                      : !(load16(q->avail_at) & NO_INTERRUPT);
    if (wanted && d->interrupt)
        d->interrupt(d, (int)i);
}

/* --- segments --- */

unsigned virtq_slice(const struct iovec *v, unsigned n, size_t off, size_t len, struct iovec *to,
                     unsigned max)
{
    unsigned used = 0;
    for (unsigned i = 0; i < n && len; i++) {
        if (off >= v[i].iov_len) {
            off -= v[i].iov_len;
            continue;
        }
        size_t part = min_u64(len, v[i].iov_len - off);
        if (used == max)
            return 0;
        to[used++] = (struct iovec){.iov_base = (u8 *)v[i].iov_base + off, .iov_len = part};
        len -= part;
        off = 0;
    }
    return used;
}

size_t virtq_gather(const struct iovec *v, unsigned n, size_t off, void *to, size_t len)
{
    size_t done = 0;
    for (unsigned i = 0; i < n && done < len; i++) {
        if (off >= v[i].iov_len) {
            off -= v[i].iov_len;
            continue;
        }
        size_t part = min_u64(len - done, v[i].iov_len - off);
        memcpy((u8 *)to + done, (const u8 *)v[i].iov_base + off, part);
        done += part;
        off = 0;
    }
    return done;
}

size_t virtq_scatter(const struct iovec *v, unsigned n, size_t off, const void *from, size_t len)
{
    size_t done = 0;
    for (unsigned i = 0; i < n && done < len; i++) {
        if (off >= v[i].iov_len) {
            off -= v[i].iov_len;
            continue;
        }
        size_t part = min_u64(len - done, v[i].iov_len - off);
        memcpy((u8 *)v[i].iov_base + off, (const u8 *)from + done, part);
        done += part;
        off = 0;
    }
    return done;
}

size_t virtq_read(const struct virtq_buf *b, size_t off, void *to, size_t n)
{
    return virtq_gather(b->out, b->nout, off, to, n);
}

size_t virtq_write(struct virtq_buf *b, size_t off, const void *from, size_t n)
{
    return virtq_scatter(b->in, b->nin, off, from, n);
}

/* --- state --- */

static void queue_state(struct virtio_dev *d, struct virtq *q, struct state *s)
{
    u8 enabled = q->enabled;
    state_val(s, q->num);
    state_val(s, enabled);
    state_val(s, q->desc);
    state_val(s, q->avail);
    state_val(s, q->used);
    state_val(s, q->last_avail);
    state_val(s, q->used_idx);
    state_val(s, q->signalled);
    if (!s->loading || s->failed)
        return;
    q->inflight = 0;
    q->enabled = enabled && map_queue(d, q);
    if (enabled && !q->enabled) {
        state_fail(s, "%s: a saved queue is not in RAM", d->name);
    }
}

static bool has_inflight(const struct virtio_dev *d)
{
    for (unsigned i = 0; i < d->nqueues; i++)
        if (d->q[i].inflight)
            return true;
    return false;
}

void virtio_state(struct virtio_dev *d, struct state *s)
{
    state_section(s, "virtio", 1);
    if (!s->loading && has_inflight(d))
        state_fail(s, "%s: requests are in flight", d->name);
    if (s->loading && !s->failed)
        virtio_reset(d);
    u16 id = d->id;
    state_val(s, id);
    state_val(s, d->features);
    state_val(s, d->status);
    state_val(s, d->config_generation);
    for (unsigned i = 0; i < d->nqueues; i++)
        queue_state(d, &d->q[i], s);
    if (!s->loading)
        return;
    if (id != d->id || (d->features & ~d->offered))
        state_fail(s, "%s: another device was saved, or one with other features", d->name);
    if (s->failed)
        virtio_reset(d);
    d->broken = d->status & VIRTIO_S_NEEDS_RESET;
}
