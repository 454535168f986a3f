/*
 * qcow2.h - the qcow2 format, versions 2 and 3: inside of block/.
 *
 * Source: QEMU's docs/interop/qcow2.txt (the specification of the format). All numbers in the file
 * are big-endian.
 *
 * What each file does: qcow2.c opens and closes; qcow2_table.c has the L1 and L2 tables and writes
 * metadata back in an order that a crash cannot harm; qcow2_refcount.c allocates and frees;
 * qcow2_io.c reads and writes; qcow2_zip.c compresses; qcow2_create.c makes and resizes images;
 * qcow2_check.c verifies and repairs.
 *
 * Durability. Metadata is cached and written back by qcow2_flush(), in stages with an fdatasync
 * after each:
 *   A  refcount blocks, and L2 tables that the L1 table on disk does not refer to yet
 *      (guest data has been written before its L2 entry was set)
 *   R  the refcount table, if it has changed
 *   C  all other L2 tables, and L1 entries
 * Only then clusters that are no longer referred to lose their reference. So at any moment the file
 * is an image without errors, in which at most some clusters are counted that nobody uses (leaks).
 */
#ifndef POPF_QCOW2_H
#define POPF_QCOW2_H

#include "block/image.h"

#define QCOW2_MAGIC   0x514649fbu
#define QCOW2_V2_SIZE 72
#define QCOW2_V3_SIZE 112 /* with the compression type */

#define L1_OFFSET     0x00fffffffffffe00ull
#define L2_OFFSET     0x00fffffffffffe00ull
#define L2_COPIED     BIT(63) /* the only reference: may be written in place */
#define L2_COMPRESSED BIT(62)
#define L2_ZERO       BIT(0)

/* Incompatible features */
#define QCOW2_DIRTY       BIT(0)
#define QCOW2_CORRUPT     BIT(1)
#define QCOW2_EXTERNAL    BIT(2)
#define QCOW2_COMPRESSION BIT(3)
#define QCOW2_EXTENDED_L2 BIT(4)
/* Compatible features */
#define QCOW2_LAZY BIT(0)

enum qcow2_compression {
    QCOW2_ZLIB,
    QCOW2_ZSTD,
};

/* An L2 table in memory. */
struct qcow2_l2 {
    u64 offset;   /* in the file */
    u64 index;    /* in the L1 table */
    u64 dirty;    /* a bit for each of up to 64 parts of the table */
    bool fresh;   /* the L1 table on disk does not point to it */
    bool writing; /* a flush is under way with it: stays in memory */
    bool used;    /* since the clock's hand passed */
    u64 entry[];  /* big-endian */
};

/* A refcount block in memory; once loaded, it stays. */
struct qcow2_rb {
    u64 offset;
    u64 dirty;
    bool fresh; /* the refcount table on disk does not point to it */
    _Alignas(8) u8 data[];
};

/* Guest clusters that a request is at work on. */
struct qcow2_range {
    u64 first, last; /* guest cluster numbers, inclusive */
    bool exclusive;  /* the mapping will change; else it only must not */
    struct qcow2_range *next;
};

/* A growing list of numbers. */
struct qcow2_list {
    u64 *at;
    size_t n, cap;
};

struct qcow2 {
    struct image m; /* first: struct image * is a struct qcow2 * */

    /* --- as in the header; constant while it is open, but for `incompat` --- */
    u32 version, cluster_bits, refcount_order, header_length;
    u64 incompat, compat;
    enum qcow2_compression compression;
    u64 snapshots_offset;
    u32 nsnapshots;
    char *backing_name, *backing_format; /* NULL: none */

    /* --- derived --- */
    u64 cluster; /* bytes */
    u32 l2_bits; /* log2 of entries of an L2 table */
    u32 rb_bits; /* log2 of entries of a refcount block */
    u64 part;    /* bytes for each bit of a `dirty` */
    bool lazy;   /* refcounts are written back when the image is closed */

    /* --- meta: everything below --- */
    pthread_mutex_t meta;
    pthread_cond_t changed; /* a range was unlocked */
    struct qcow2_range *ranges;

    u64 *l1; /* host order */
    u64 l1_offset;
    u32 l1_size;
    struct qcow2_list l1_dirty; /* indices */
    struct qcow2_l2 **l2_at;    /* [l1_size]: those in memory */
    struct qcow2_l2 **slot;     /* [nslots] */
    unsigned nslots, slots_max, hand;

    u64 *rt;                /* refcount table, host order */
    u64 rt_offset, rt_size; /* entries */
    struct qcow2_list rt_dirty;
    bool rb_dirty;        /* some rb[i] is */
    bool rt_moved;        /* all of it is to be written, and the header */
    struct qcow2_rb **rb; /* [rt_size] */

    u8 *avoid; /* repair: clusters that are used whatever their refcount; NULL */
    u64 navoid;

    u64 hint;                /* no cluster below it is free */
    u64 end;                 /* clusters from here on were never used: they read as zeros */
    u8 *is_meta;             /* a bit per cluster: metadata is there, nothing else may be */
    u64 nis_meta;            /* clusters that is_meta has bits for */
    struct qcow2_list frees; /* clusters that lose a reference once L2 tables are on disk */
    u64 zip_at;              /* where the next compressed cluster may begin; 0: in a new cluster */
    bool corrupt;            /* no more writes */

    /* --- flush: held during a flush; taken before meta --- */
    pthread_mutex_t flush;

    /* --- zip_lock, a leaf: the clusters decompressed last --- */
    pthread_mutex_t zip_lock;
    struct qcow2_zip {
        u64 entry; /* its L2 entry; 0: none */
        u64 stamp;
        u8 *data;
    } zip[4];
    u64 zip_stamp;
    u64 zip_epoch; /* counts invalidations */
};

static inline struct qcow2 *qcow2_of(struct image *m)
{
    return (struct qcow2 *)m;
}

static inline u64 be64(u64 v)
{
    return __builtin_bswap64(v);
}

static inline u32 be32(u32 v)
{
    return __builtin_bswap32(v);
}

/* Bytes of the guest's disk that one L2 table covers. */
static inline u64 qcow2_l2_span(const struct qcow2 *q)
{
    return q->cluster << q->l2_bits;
}

int qcow2_list_add(struct qcow2_list *l, u64 v);

/* The bits of a `dirty` for bytes [off, off+len) of the table. */
u64 qcow2_parts(const struct qcow2 *q, u64 off, u64 len);

/* The image is damaged: says so once; it takes no more writes. Returns -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...) PRINTF(2, 3);

/* --- qcow2.c --- */

/* Takes *f over if it succeeds. */
struct image *qcow2_open(struct file *f, const struct image_config *c, struct err *e);

/* A new image in an empty file over `base`. Takes both over if it succeeds. */
struct image *qcow2_overlay(struct file *f, struct image *base, struct err *e);

/* Replaces the incompatible features in the header; not durable. */
int qcow2_write_incompat(struct qcow2 *q, u64 incompat);

struct qcow2_snapshot {
    u64 l1_offset, disk_size, vm_clock, vm_state_size;
    u32 l1_size, date_sec;
    char id[64], name[256];
};

/* The index-th snapshot at *pos of the file (snapshots_offset at first), which moves on. */
int qcow2_read_snapshot(struct qcow2 *q, u64 *pos, struct qcow2_snapshot *s, struct err *e);

/* Reads `n` big-endian numbers from the file, checked to be in it. NULL and *e. */
u64 *qcow2_read_table(struct qcow2 *q, u64 offset, u64 n, const char *what, struct err *e);

/* --- qcow2_table.c; meta is held unless said otherwise --- */

/* What an L2 entry says. */
enum qcow2_kind {
    KIND_NONE,       /* not here: see the backing file */
    KIND_ZERO,       /* zeros */
    KIND_ZERO_ALLOC, /* zeros; `host` is reserved for it */
    KIND_DATA,       /* at `host` */
    KIND_ZIP,        /* compressed */
};

/* *host is the offset in the file, for DATA and ZERO_ALLOC. Negative errno if it is impossible. */
int qcow2_classify(struct qcow2 *q, u64 entry, u64 *host);

/* Makes room for one more L2 table; may drop the lock meanwhile (take everything anew). */
int qcow2_make_room(struct qcow2 *q);

/* The L2 table for reading; NULL in *t if there is none. After qcow2_make_room(). */
int qcow2_l2_read(struct qcow2 *q, u64 index, struct qcow2_l2 **t);

/* The L2 table for writing, made or copied if need be. After qcow2_make_room(). */
int qcow2_l2_write(struct qcow2 *q, u64 index, struct qcow2_l2 **t);

void qcow2_l2_set(struct qcow2 *q, struct qcow2_l2 *t, u64 index, u64 entry);

static inline u64 qcow2_l2_get(const struct qcow2_l2 *t, u64 index)
{
    return be64(t->entry[index]);
}

/* Writes metadata back; not held. With `all`, also what a lazy image keeps back. */
int qcow2_write_back(struct qcow2 *q, bool all);

void qcow2_tables_free(struct qcow2 *q);

/* --- qcow2_refcount.c; meta is held --- */

bool qcow2_is_meta(const struct qcow2 *q, u64 cluster);
int qcow2_set_meta(struct qcow2 *q, u64 cluster, bool on);

/* Marks the clusters of [offset, offset+len); -1 if one is marked already. */
int qcow2_mark_meta(struct qcow2 *q, u64 offset, u64 len);

/* A number in a refcount block. */
u64 qcow2_rb_get(const struct qcow2 *q, const u8 *data, u64 index);
void qcow2_rb_set(const struct qcow2 *q, u8 *data, u64 index, u64 v);

int qcow2_refcount(struct qcow2 *q, u64 cluster, u64 *v);
int qcow2_set_refcount(struct qcow2 *q, u64 cluster, u64 v);

/* Up to `want` clusters in a row with reference 1; their number in *got. */
int qcow2_alloc(struct qcow2 *q, u64 want, u64 *first, u64 *got);

/* Exactly n clusters in a row, at the end of the file. */
int qcow2_alloc_table(struct qcow2 *q, u64 n, u64 *first);

/* They were allocated and never used. */
void qcow2_unalloc(struct qcow2 *q, u64 first, u64 n);

/* What this L2 entry refers to loses a reference after the next flush. */
int qcow2_free_entry(struct qcow2 *q, u64 entry);

/* The first n of `frees` lose their references. Not held. */
int qcow2_apply_frees(struct qcow2 *q, size_t n);

/* --- qcow2_io.c --- */

extern const struct image_ops qcow2_ops;

/* --- qcow2_zip.c --- */

/* Bytes [in, in+len) of a compressed cluster. Not held. */
int qcow2_zip_read(struct qcow2 *q, u64 entry, u64 in, const struct iovec *v, unsigned n, u64 len);

/* Compressed clusters may have been overwritten. */
void qcow2_zip_forget(struct qcow2 *q);
void qcow2_zip_free(struct qcow2 *q);

/* The range of the file that a compressed entry names: whole sectors. */
void qcow2_zip_where(const struct qcow2 *q, u64 entry, u64 *offset, u64 *len);

/*
 * Writes one whole guest cluster at `off` compressed, or plain where that does not make it smaller.
 * For filling a new image: nothing else may be writing.
 */
int qcow2_write_compressed(struct image *m, u64 off, const void *data);

/* --- qcow2_create.c --- */

struct qcow2_create {
    u64 size;           /* bytes; rounded up to 512 */
    u32 version;        /* 2 or 3; 0: 3 */
    u32 cluster_bits;   /* 9 to 21; 0: 16 */
    u32 refcount_order; /* 0 to 6, plus 1; 0: 16 bits */
    enum qcow2_compression compression;
    bool lazy;
    const char *backing, *backing_format; /* NULL: none */
};

/* Fills an empty file. */
int qcow2_format(struct file *f, const struct qcow2_create *c, struct err *e);

/* Changes the size of the guest's disk; smaller cuts off. Nothing else may be going on. */
int qcow2_resize(struct image *m, u64 size, struct err *e);

/* --- qcow2_check.c --- */

struct qcow2_check {
    u64 errors; /* references that are missing, or lead where they must not */
    u64 leaks;  /* clusters counted that nobody uses */
    u64 fixed;
    u64 used;        /* clusters that hold something */
    u64 allocated;   /* guest clusters with data of their own */
    u64 zipped;      /* of them, compressed */
    char first[200]; /* the first error, in words */
};

/* Compares refcounts with references. `fix` corrects refcounts. -1 and *e: it could not. */
int qcow2_check(struct image *m, bool fix, struct qcow2_check *r, struct err *e);

#endif
