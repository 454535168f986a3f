/*
 * block.h - the disk behind a block device: asynchronous reads, writes and flushes of an image.
 *
 * What is quick is done at once by whoever submits it: reads that the page cache can answer, small
 * writes into it. The rest is done by a few threads of the disk's own, and reported on the thread
 * of the machine's loop. There is no order between requests in flight: a flush makes durable what
 * had completed when it was submitted.
 */
#ifndef POPF_BLOCK_H
#define POPF_BLOCK_H

#include "base/loop.h"
#include "block/image.h"
#include "block/iov.h"

#define BLOCK_THREADS_MAX 8

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,
    BLOCK_DISCARD,
    BLOCK_ZERO,
};

#define BLOCK_DURABLE   BIT(0) /* a write, discard or zero: on disk before it completes */
#define BLOCK_MAY_UNMAP BIT(1) /* zero: the space may go back to the host */

struct block;

/* One request: embedded in its device, which fills in the first part. */
struct block_req {
    enum block_op op;
    u32 flags;
    u64 offset, len;         /* bytes; any alignment, within the disk */
    const struct iovec *iov; /* read, write: as many bytes as len; stays until it is done */
    unsigned niov;           /* up to BLOCK_SEGS_MAX */
    /* On the loop's thread, its lock held. Without a loop: on any thread. */
    void (*done)(struct block_req *r);

    int status; /* when done: 0 or a negative errno; -ECANCELED by block_quiesce() */

    struct block_req *next;
    struct loop_post post;
};

struct block_config {
    const char *file;
    enum image_format format;
    bool ro;
    bool overlay; /* what is written goes to a temporary overlay */
    bool direct;  /* past the host's page cache */
    struct loop *loop;
    const struct log *log;
    const struct file_watch *watch; /* tests; NULL */
};

struct block_info {
    u64 size; /* bytes, a multiple of 512 */
    bool ro;
    const char *format;
    u32 min_io, opt_io; /* bytes: sizes of requests that suit the image */
    u32 discard_align;  /* bytes that can be discarded at a time */
};

/* NULL and one line in *e that names the file. */
struct block *block_open(const struct block_config *c, struct err *e);

/*
 * Finishes what is in flight, writes everything back and frees. Completions that have not been
 * called by then never are: loop's `lock` held, or the loop turns no more. -1 and *e if the image
 * may lack something that was written.
 */
int block_close(struct block *b, struct err *e);

void block_info(const struct block *b, struct block_info *i);

/* Reads at once, on the caller's thread: for whoever boots from it. 0 or a negative errno. */
int block_read(struct block *b, u64 offset, void *buf, u64 len);

/*
 * Starts a request. True if it is done already: status is valid and done() will not be called.
 */
bool block_submit(struct block *b, struct block_req *r);

/*
 * When this returns nobody reads or writes the memory of any request that was submitted; those that
 * had not begun fail with -ECANCELED. done() is called all the same, later. `lock` may be held.
 */
void block_quiesce(struct block *b);

/* Waits for all requests in flight and flushes: the file holds everything. 0 or a negative errno.
 */
int block_drain(struct block *b);

#endif
