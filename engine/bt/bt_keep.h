/*
 * bt_keep.h - translations kept from run to run.
 *
 * A record holds one region: the guest's bytes that it was made from, the code, and where in the
 * code there is something that depends on where things are. It is found by the first bytes of any
 * of its blocks, their offset in the page and the view, and used if all of the guest's bytes are
 * the same. So a patched kernel or a page with data beside code costs what differs, no more.
 *
 * For this, emitted code may contain no address of the process: all that it refers to is relative
 * to GS, within the region, one of the stubs, or in struct bt_site and bt_exit (bt.h). And it may
 * depend on nothing but the guest's bytes, the view and what goes into the key (bt_keepfile.c).
 *
 * Records lie in files (segments) of one folder, named after the key:
 *
 *     struct keep_file | records | index: 2^index_bits of struct keep_index
 *
 * A file never changes: it is written under another name and renamed. Each run adds one with what
 * it had to translate; when there are many they are merged. Numbers are little-endian.
 */
#ifndef POPF_BT_KEEP_H
#define POPF_BT_KEEP_H

#include "engine/bt/bt_tr.h"

struct keep_file {
    char magic[8];
    u32 version;
    u32 index_bits;
    u64 key;
    u64 size; /* of the records */
    u64 nrecords;
    u64 index_sum;
    u64 sum; /* of the fields before */
};
#define KEEP_MAGIC   "popfkept"
#define KEEP_VERSION 1

struct keep_index {
    u32 tag; /* upper half of the hash; the lower tells where to begin to look */
    u32 at;  /* the record: offset in the records / 8 + 1; 0: none */
};

struct keep_record {
    u32 size; /* of all of it, a multiple of 8 */
    u16 code; /* bytes of code */
    u8 view, nblocks;
    u64 sum; /* of all behind it */
    u16 nstubs, nsites, nexits, nfaults;
    u16 nops, bytes; /* of all blocks */
    u32 zero;
    /* struct keep_block[nblocks]; offsets in the code: u16 stub[nstubs], site[nsites],
     * exit[nexits]; struct keep_fault[nfaults]; u8 length[nops]; u8 bytes[]; u8 code[] */
};

struct keep_block {
    u16 off;   /* in the page */
    u16 bytes; /* of guest code */
    u16 near;  /* offset in the code */
    u16 live;
    u8 nops, flags; /* KEEP_x */
    u16 zero;
    u32 hash[2]; /* bt_keep_hash(): low half, high half */
};
enum {
    KEEP_ENDS = 1,
    KEEP_LOOP = 2,
    KEEP_GUEST = 4, /* not of the region, and not entered: the code depends on its bytes */
};
#define KEEP_BLOCKS (REGION_BLOCKS + GUESTS_MAX)

struct keep_fault {
    u16 at, cold;
};

/* A record's parts. */
struct keep_parts {
    const struct keep_record *r;
    const struct keep_block *block;
    const u16 *stub, *site, *exit;
    const struct keep_fault *fault;
    const u8 *length, *bytes, *code;
};

/* Records and their index: of a file, or in memory. */
struct keep_segment {
    const u8 *record;
    u64 size;
    const struct keep_index *index;
    unsigned index_bits;
    u64 nrecords;
    void *map; /* of a file */
    size_t map_size;
    char *name;
    _Atomic u64 used; /* bytes of records installed */
};
/* Of a file, so much is read before its pages are given back: most records are wanted once. */
#define KEEP_RESIDENT (1 * MiB)

#define KEEP_SEGMENTS 16

struct keep {
    struct keep_segment segment[KEEP_SEGMENTS]; /* do not change while CPUs run */
    unsigned nsegments;
    u64 key;
    int dir; /* -1: nothing is written */
    char *path;
    const struct log *log;
    pthread_mutex_t lock;  /* of the list */
    struct keep_cpu *done; /* CPUs that are gone */
};

/* What a CPU has translated. */
struct keep_cpu {
    struct keep_cpu *next;
    struct keep *keep;
    struct keep_segment own;
    u8 *record;
    struct keep_index *index;
    unsigned nindexed;
    u64 installed, blocks, refused, recorded, unkept; /* statistics */
};
#define KEEP_OWN_SIZE (64 * MiB)
#define KEEP_OWN_BITS 18

/* bt_keepfile.c */

/* Opens the folder, making it if need be, for CPUs of this model. NULL and *e if it cannot be
 * used; damaged files in it are not used, and said. */
struct keep *bt_keep_open(const char *path, const struct cpu_model *model,
                          const struct bt_settings *set, const struct log *log, struct err *e);
/* Writes what is new. */
void bt_keep_close(struct keep *k);
/* Of a CPU; NULL if there is no memory. */
struct keep_cpu *bt_keep_attach(struct keep *k);
void bt_keep_detach(struct keep_cpu *kc);

/* bt_keep.c */

/* The region just translated to what lies between `start` and bt->at; its faults begin there. */
void bt_keep_record(struct tr *t, const u8 *start, unsigned fault0);

/*
 * Installs a kept region with a block at this offset of a page of code, for the CPU's view, if
 * there is one that fits: the block, else NULL.
 */
struct block *bt_keep_find(struct cpu *c, struct bt_cpu *bt, unsigned view, gpa_t gpa, u64 page,
                           const u8 *host);

u64 bt_keep_sum(const void *p, size_t n); /* n is a multiple of 8 */
/* Splits a record of which `room` bytes are there; false if it is none. Not the checksum. */
bool bt_keep_split(const void *record, u64 room, struct keep_parts *p);
/* Hash of a block's first bytes, of which `avail` are there. */
u64 bt_keep_hash(const u8 *code, unsigned avail, unsigned off, unsigned view);
/* Enters a record in an index with room for it. */
void bt_keep_enter(struct keep_index *index, unsigned bits, u64 hash, u64 at);

#endif
