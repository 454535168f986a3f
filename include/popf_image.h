/*
 * popf_image.h - libpopf: disk images, raw and qcow2.
 *
 * Functions return 0, or -1 and one line in *err (which may be NULL). Formats are "raw" and
 * "qcow2"; NULL is the one that the file's first bytes show. Images that are in use are refused.
 */
#ifndef POPF_IMAGE_H_
#define POPF_IMAGE_H_

#include "popf.h"

#ifdef __cplusplus
extern "C" {
#endif

struct popf_image_options {
    const char *format;  /* NULL: "qcow2" */
    const char *backing; /* the image below, as the new one shall name it; NULL: none */
    const char *backing_format;
    const char *compression; /* "zlib" or "zstd"; NULL: "zlib" */
    unsigned cluster;        /* bytes, a power of two, 512 to 2 MiB; 0: 65536 */
    unsigned version;        /* of qcow2, 2 or 3; 0: 3 */
    bool lazy_refcounts;
    bool force; /* overwrite what is there */
};

/* A new image; size 0 with a backing file: as large as that. */
int popf_image_create(const char *file, uint64_t size, const struct popf_image_options *o,
                      struct popf_error *err);

struct popf_image_info {
    char format[16];
    uint64_t size;      /* of the disk, bytes */
    uint64_t file_size; /* what ls shows */
    uint64_t used;      /* what the file takes on the host, bytes */
    unsigned cluster;   /* bytes; 0 for raw, as everything below */
    unsigned version;
    char compression[16];
    char backing[1100], backing_format[32]; /* empty: none */
    bool lazy_refcounts, dirty, corrupt;
    unsigned snapshots;
};

struct popf_image_snapshot {
    char id[64], name[256];
    uint64_t size;     /* of the disk then */
    uint64_t vm_state; /* bytes of a machine's state beside it */
    int64_t date;      /* seconds since 1970 */
};

int popf_image_info(const char *file, const char *format, struct popf_image_info *info,
                    struct popf_error *err);

/* The index-th snapshot inside an image. */
int popf_image_snapshot(const char *file, unsigned index, struct popf_image_snapshot *s,
                        struct popf_error *err);

struct popf_image_convert {
    const char *from, *from_format;
    const char *snapshot; /* one inside `from`, by id or name; NULL: the disk as it is */
    const char *to;
    struct popf_image_options
        options; /* of `to`; with a backing file only what differs is copied */
    bool compress;
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* bytes; NULL: nobody is told */
    void *progress_arg;
};

/* Copies a disk into a new image; zeros take no space there. */
int popf_image_convert(const struct popf_image_convert *c, struct popf_error *err);

/* Smaller cuts off what is there, and is refused unless `shrink`. */
int popf_image_resize(const char *file, const char *format, uint64_t size, bool shrink,
                      struct popf_error *err);

struct popf_image_check {
    uint64_t errors, leaks; /* clusters */
    uint64_t fixed;
    uint64_t allocated, compressed, total; /* guest clusters */
    char first[200];                       /* the first error */
};

/* Verifies a qcow2 image; `repair` corrects its reference counts where nothing worse is wrong. */
int popf_image_check(const char *file, bool repair, struct popf_image_check *r,
                     struct popf_error *err);

#ifdef __cplusplus
}
#endif

#endif
