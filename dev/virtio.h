/*
 * virtio.h - what every virtio device is made of, whatever carries it: features, status, split
 * virtqueues.
 *
 * Source: OASIS Virtual I/O Device (VIRTIO) 1.2: 2 (basic facilities), 2.7 (split virtqueues), 3
 * (initialization). PCI is in virtio_pci.h. Everything here runs under the machine's device lock.
 *
 * A device embeds a struct virtio_dev as its field `v`, calls virtio_init() and gives a struct
 * virtio_ops. Its life with a queue is
 *
 *     static void serve(struct x *x, unsigned q)
 *     {
 *         struct virtq_buf b;
 *         while (virtq_pop(&x->v, q, &b) > 0) {
 *             virtq_read(&b, 0, &request, sizeof(request));     copy in, then check, then use
 *             ...
 *             virtq_push(&x->v, q, &b, bytes_written);
 *         }
 *         virtq_signal(&x->v, q);
 *     }
 *
 * The driver is not trusted. A ring or a chain that makes no sense marks the device as broken
 * (DEVICE_NEEDS_RESET): virtq_pop() then returns -1 until the driver has reset it. Memory that a
 * struct virtq_buf points to is guest RAM: it is always mapped, but another CPU may change it at
 * any time, so nothing there is looked at twice.
 */
#ifndef POPF_VIRTIO_H
#define POPF_VIRTIO_H

#include <sys/uio.h>

#include "base/state.h"
#include "mem/mem.h"

#define VIRTIO_QUEUES_MAX 66    /* a console with 32 ports */
#define VIRTQ_SIZE_MAX    32768 /* descriptors, 2.7 */
#define VIRTQ_SEGS_MAX    128   /* of a chain, each way */

/* 5: device types. */
enum virtio_id {
    VIRTIO_NET = 1,
    VIRTIO_BLK = 2,
    VIRTIO_CONSOLE = 3,
    VIRTIO_RNG = 4,
    VIRTIO_BALLOON = 5,
    VIRTIO_9P = 9,
    VIRTIO_VSOCK = 19,
};

/* 6: reserved feature bits. Devices do not offer them themselves: virtio_init() does. */
#define VIRTIO_F_ANY_LAYOUT    BIT(27) /* legacy: 6.3 */
#define VIRTIO_F_INDIRECT_DESC BIT(28)
#define VIRTIO_F_EVENT_IDX     BIT(29)
#define VIRTIO_F_VERSION_1     BIT(32)

/* 2.1: device status. */
#define VIRTIO_S_ACKNOWLEDGE 1
#define VIRTIO_S_DRIVER      2
#define VIRTIO_S_DRIVER_OK   4
#define VIRTIO_S_FEATURES_OK 8
#define VIRTIO_S_NEEDS_RESET 64
#define VIRTIO_S_FAILED      128

struct virtio_dev;

struct virtio_ops {
    /* The driver kicked queue q, which is enabled, after DRIVER_OK. */
    void (*notify)(struct virtio_dev *d, unsigned q);
    /*
     * The driver resets the device (or the machine is reset). Requests in flight are forgotten:
     * when this has returned the device writes to none of their buffers any more - a thread that
     * does so now is waited for - and never pushes them (a push that comes nevertheless is
     * dropped). Queues and features are cleared by the caller afterwards. May be NULL.
     */
    void (*reset)(struct virtio_dev *d);
    /* The driver has set DRIVER_OK: features are final, queues are there. May be NULL. */
    void (*driver_ok)(struct virtio_dev *d);
    /*
     * Device configuration space: size is 1, 2, 4 or 8 with off + size <= config_size. NULL:
     * d->config is read, and nothing can be written.
     */
    u64 (*config_read)(struct virtio_dev *d, unsigned off, unsigned size);
    void (*config_write)(struct virtio_dev *d, unsigned off, unsigned size, u64 val);
};

struct virtq {
    u16 num, num_max; /* descriptors: as the driver set it (a power of two); at most */
    bool enabled;
    gpa_t desc, avail, used; /* as the driver set them */
    /* The same on the host, checked to be all RAM when the queue was enabled. */
    const u8 *desc_at, *avail_at;
    u8 *used_at;
    u16 last_avail; /* next entry of the available ring to take */
    u16 used_idx;   /* next entry of the used ring to fill */
    u16 signalled;  /* used_idx at the last interrupt */
    u32 inflight;   /* popped and not yet pushed; never more than num */
};

struct virtio_dev {
    const struct virtio_ops *ops;
    const char *name; /* "virtio-blk": for logs; set by the device, or "virtio" */
    const struct log *log;
    struct mem *mem;
    u16 id;
    u64 offered;  /* feature bits */
    u64 features; /* negotiated */
    u8 status;
    bool refused; /* the driver asked for features that were not offered */
    bool broken;  /* status has NEEDS_RESET */
    bool told;    /* that it broke, once */
    u32 epoch;    /* counts resets: tells a stale struct virtq_buf */
    u8 *config;   /* device configuration, little-endian; the device's. May be NULL */
    unsigned config_size;
    u8 config_generation;
    unsigned nqueues;
    struct virtq q[VIRTIO_QUEUES_MAX];

    /* What carries it (virtio_pci.c): raises the interrupt of queue q, or of the configuration
     * (q < 0). May be NULL. */
    void (*interrupt)(struct virtio_dev *d, int q);
    void *carrier;
};

/*
 * `features` are the device's own bits. Every queue has room for queue_max descriptors, a power of
 * two. Afterwards the device may set config and config_size (and name, log).
 */
void virtio_init(struct virtio_dev *d, const struct virtio_ops *ops, u16 id, u64 features,
                 unsigned nqueues, u16 queue_max, struct mem *mem);

/* Was it negotiated? `feature_bit` is a mask: BIT(n). */
static inline bool virtio_has(const struct virtio_dev *d, u64 feature_bit)
{
    return d->features & feature_bit;
}

/* DRIVER_OK is set and the device is not broken. */
static inline bool virtio_ready(const struct virtio_dev *d)
{
    return (d->status & VIRTIO_S_DRIVER_OK) && !d->broken;
}

/* --- queues --- */

/*
 * A chain of descriptors, indirect ones included, checked and translated: first what the device
 * reads (out), then what it writes (in). Empty descriptors are left out. May be copied and kept
 * until it is pushed.
 */
struct virtq_buf {
    u16 head;
    u32 epoch;
    unsigned nout, nin;
    size_t out_len, in_len; /* bytes, sums */
    struct iovec out[VIRTQ_SEGS_MAX];
    struct iovec in[VIRTQ_SEGS_MAX];
};

/*
 * Takes the next chain. 1; 0 if there is none (the driver will kick when it adds one); -1 if the
 * device is broken or not started. Whoever stops before he has got 0 must come back by himself:
 * the driver need not kick again. At most `num` chains are in flight at a time.
 */
int virtq_pop(struct virtio_dev *d, unsigned q, struct virtq_buf *b);

/* Puts the chain taken last back, as if it had not been popped. It must not have been pushed. */
void virtq_unpop(struct virtio_dev *d, unsigned q, const struct virtq_buf *b);

/* Are there chains to take? */
bool virtq_pending(struct virtio_dev *d, unsigned q);

/*
 * Hands the chain back; the device has written the first `written` bytes of `in` (only they are
 * looked at for code). Any order. Signals nothing: see virtq_signal().
 */
void virtq_push(struct virtio_dev *d, unsigned q, const struct virtq_buf *b, u32 written);

/* Interrupts the driver if it wants to know about what was pushed since the last time. */
void virtq_signal(struct virtio_dev *d, unsigned q);

/* Copies out bytes [off, off+n) of `out`; returns how many there were. */
size_t virtq_read(const struct virtq_buf *b, size_t off, void *to, size_t n);

/* Copies to bytes [off, off+n) of `in`; returns how many there was room for. */
size_t virtq_write(struct virtq_buf *b, size_t off, const void *from, size_t n);

/* The same for any list of segments: for what is neither whole nor from a queue. */
size_t virtq_gather(const struct iovec *v, unsigned n, size_t off, void *to, size_t len);
size_t virtq_scatter(const struct iovec *v, unsigned n, size_t off, const void *from, size_t len);

/*
 * Fills to[0..max) with the segments that cover bytes [off, off+len) of v[0..n) and returns their
 * number (0 if there is nothing there, or more than max would be needed).
 */
unsigned virtq_slice(const struct iovec *v, unsigned n, size_t off, size_t len, struct iovec *to,
                     unsigned max);

/* The driver did what cannot be answered: NEEDS_RESET; logged. Nothing is popped any more. */
void virtio_broken(struct virtio_dev *d, const char *why);

/* The device changed its configuration space: a new generation, and the driver is told. */
void virtio_config_changed(struct virtio_dev *d);

/*
 * Features, status and queues; the device's own state comes behind. When loading, ring addresses
 * are checked again, and driver_ok() is not called. The requests in flight must be none.
 */
void virtio_state(struct virtio_dev *d, struct state *s);

/* --- for transports --- */

void virtio_reset(struct virtio_dev *d);

/* What a write to the status register does; 0 resets. */
void virtio_set_status(struct virtio_dev *d, u8 status);

/* The driver's features; ignored once FEATURES_OK is set. */
void virtio_set_features(struct virtio_dev *d, u64 features);

/* Enables a queue whose num and addresses are set. Not RAM, or unaligned: the device is broken. */
void virtio_enable_queue(struct virtio_dev *d, unsigned q);

/* The driver kicked queue q, whatever number that is. */
void virtio_notify(struct virtio_dev *d, unsigned q);

u64 virtio_config_read(struct virtio_dev *d, unsigned off, unsigned size);
void virtio_config_write(struct virtio_dev *d, unsigned off, unsigned size, u64 val);

/* A device stored to guest RAM at this host address, not through mem_write(): code there is stale.
 */
void virtio_mem_written(struct mem *m, const void *host, u64 len);

#endif
