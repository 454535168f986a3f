/*
 * image.h - a disk image seen as an array of bytes: what raw and qcow2 have in common. Synchronous;
 * block.h puts threads round it.
 *
 * All operations may be called by several threads at once, but for open and close. They return 0 or
 * a negative errno. Overlapping requests that run at the same time happen in some order.
 */
#ifndef POPF_IMAGE_H
#define POPF_IMAGE_H

#include "block/file.h"

/* A longer chain of backing files is taken for a loop. */
#define IMAGE_DEPTH_MAX 64

enum image_format {
    IMAGE_AUTO, /* looked up in the first bytes */
    IMAGE_RAW,
    IMAGE_QCOW2,
};

struct image;

/* What is known of a range without reading it. */
struct image_extent {
    u64 len;
    bool zero;  /* reads as zeros */
    bool local; /* held by the image itself, not by its backing chain */
};

struct image_ops {
    const char *format;
    int (*readv)(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len);
    int (*writev)(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len);
    /* The same when it takes no waiting but for copying; or else -EAGAIN, nothing changed. */
    int (*try_readv)(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len);
    int (*try_writev)(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len);
    int (*flush)(struct image *m);
    /* The guest needs the range no more; it may read as anything the guest could read before. */
    int (*discard)(struct image *m, u64 off, u64 len);
    int (*zero)(struct image *m, u64 off, u64 len, bool may_unmap);
    int (*map)(struct image *m, u64 off, u64 len, struct image_extent *x);
    int (*close)(
        struct image *m); /* of an image with a file: writes back, frees all but the base */
};

struct image {
    const struct image_ops *ops;
    struct file file;
    u64 size; /* bytes, a multiple of 512 */
    u32 unit; /* bytes that are allocated and discarded at a time */
    bool ro;
    bool probed_raw;       /* nobody said that it is raw: see image_writev() */
    struct image *backing; /* owned; NULL: none. Read only */
    const struct log *log;
};

struct image_config {
    const char *file;
    enum image_format format;
    bool ro;
    bool direct;          /* O_DIRECT */
    bool no_lock;         /* for looking at an image that is in use */
    bool no_backing;      /* the image itself: what is not in it reads as zeros */
    const char *snapshot; /* reads this internal snapshot (its id or name); implies ro */
    const struct log *log;
    const struct file_watch *watch;
    unsigned l2_tables; /* kept in memory at most; 0: as many as are useful. For tests */
    unsigned depth;     /* of backing files; 0 at first */
};

/*
 * Opens an image with its backing chain. NULL and one line that names the file if it cannot be
 * read, is in use, or is damaged so that it cannot be used in the way asked for.
 */
struct image *image_open(const struct image_config *c, struct err *e);

/* An unlinked qcow2 image over `base`, of its size; owns base, also when it fails. */
struct image *image_overlay(struct image *base, struct err *e);

/* Writes back what is cached. Reports what failed (by its return value); frees everything. */
int image_close(struct image *m);

/* "raw", "qcow2": IMAGE_AUTO and -1 for another name. */
int image_format_parse(const char *name, enum image_format *f);

/* --- the calls: like those of image_ops, with the range checked --- */

int image_readv(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len);
int image_writev(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len);
int image_try_readv(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len);
int image_try_writev(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len);
int image_flush(struct image *m);
int image_discard(struct image *m, u64 off, u64 len);
int image_zero(struct image *m, u64 off, u64 len, bool may_unmap);

/* The state of a range that starts at `off`, at most `len` bytes long; len > 0. */
int image_map(struct image *m, u64 off, u64 len, struct image_extent *x);

int image_read(struct image *m, u64 off, void *buf, u64 len);
int image_write(struct image *m, u64 off, const void *buf, u64 len);

/* What lies past the end of a shorter backing file is zeros; NULL is all zeros. */
int image_read_backing(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len);

/* raw.c, qcow2.c. They take the open file over if they succeed. */
struct image *raw_open(struct file *f, const struct image_config *c, struct err *e);

#endif
