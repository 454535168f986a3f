/*
 * share_msg.h - the wire format of 9P: little-endian integers, strings with a 16-bit length.
 *
 * Both sides are sticky: a read past the end, or a write that does not fit, is remembered, so that
 * an operation decodes all it needs and checks once, before it does anything.
 */
#ifndef POPF_SHARE_MSG_H
#define POPF_SHARE_MSG_H

#include "base/base.h"

#define SHARE_NAME_MAX   255
#define SHARE_TARGET_MAX 4095 /* of a symbolic link */

/* The message types that are served. ORDER 9P: share.c has the table. An R-message is its
 * T-message's number plus one. */
enum share_type {
    TLERROR = 6, /* only Rlerror exists */
    TSTATFS = 8,
    TLOPEN = 12,
    TLCREATE = 14,
    TSYMLINK = 16,
    TMKNOD = 18,
    TRENAME = 20,
    TREADLINK = 22,
    TGETATTR = 24,
    TSETATTR = 26,
    TXATTRWALK = 30,
    TXATTRCREATE = 32,
    TREADDIR = 40,
    TFSYNC = 50,
    TLOCK = 52,
    TGETLOCK = 54,
    TLINK = 70,
    TMKDIR = 72,
    TRENAMEAT = 74,
    TUNLINKAT = 76,
    TVERSION = 100,
    TAUTH = 102,
    TATTACH = 104,
    TFLUSH = 108,
    TWALK = 110,
    TREAD = 116,
    TWRITE = 118,
    TCLUNK = 120,
    TREMOVE = 122,
    SHARE_TYPES = 128
};

#define SHARE_HEADER 7 /* size[4] type[1] tag[2] */
#define SHARE_NOTAG  0xffff
#define SHARE_NOFID  0xffffffffu

struct share_in {
    const u8 *buf;
    size_t len, pos;
    int err; /* the first errno of a damaged or forbidden argument; 0: none yet */
};

struct share_out {
    u8 *buf;
    size_t cap, pos;
    bool full; /* something did not fit */
};

struct share_qid {
    u8 type;
    u32 version;
    u64 path;
};

u8 share_in_u8(struct share_in *in);
u16 share_in_u16(struct share_in *in);
u32 share_in_u32(struct share_in *in);
u64 share_in_u64(struct share_in *in);

/* The next n bytes, or NULL. */
const u8 *share_in_bytes(struct share_in *in, size_t n);

/* A string of at most size - 1 bytes, none of them NUL. */
void share_in_str(struct share_in *in, char *to, size_t size);

/* The same for text that ends with a NUL (FUSE). */
void share_in_text(struct share_in *in, char *to, size_t size);
void share_in_text_name(struct share_in *in, char to[SHARE_NAME_MAX + 1], int dots);

/* The name of one directory entry: not empty, no "/". "." and ".." are refused with `dots`, an
 * errno, or allowed if that is 0. */
void share_in_name(struct share_in *in, char to[SHARE_NAME_MAX + 1], int dots);

void share_out_u8(struct share_out *out, u8 v);
void share_out_u16(struct share_out *out, u16 v);
void share_out_u32(struct share_out *out, u32 v);
void share_out_u64(struct share_out *out, u64 v);
void share_out_str(struct share_out *out, const char *s, size_t len);
void share_out_qid(struct share_out *out, const struct share_qid *q);

/* Bytes that can still be written. */
static inline size_t share_out_room(const struct share_out *out)
{
    return out->full ? 0 : out->cap - out->pos;
}

/* Writes v over what stands at `pos`, which has been written already. */
void share_out_patch32(struct share_out *out, size_t pos, u32 v);

#endif
