#include "boot/decompress.h"

#include <lz4.h>
#include <lz4frame.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

/* Input is handed on in steps of this size, so that progress can be shown. */
#define STEP (1 * MiB)

/* LZMA dictionaries and zstd windows beyond this are refused: kernels use 128 MiB at most. */
#define WINDOW_LOG_MAX 28
#define LZMA_MEMORY    (512 * MiB)

/* Size of the legacy LZ4 format's blocks, before packing. */
#define LZ4_LEGACY_BLOCK (8 * MiB)
#define LZ4_LEGACY_MAGIC 0x184c2102u

/* Where unpacked bytes go; grows, up to max. */
struct sink {
    u8 *data;
    u64 size, room, max;
    bool full; /* max was not enough */
};

struct source {
    const u8 *data;
    u64 size, pos;
    boot_progress_fn *progress;
    void *arg;
};

struct codec {
    const char *name;
    u8 magic[8];
    unsigned magic_len;
    int (*run)(struct source *in, struct sink *out, struct err *e);
};

/* Makes room for at least `want` more bytes (fewer near max). False if there is none at all. */
static bool sink_grow(struct sink *s, u64 want)
{
    if (s->room - s->size >= want)
        return true;
    if (s->size == s->max) {
        s->full = true;
        return false;
    }
    u64 room = min_u64(max_u64(s->size + want, s->room + s->room / 2), s->max);
    u8 *data = realloc(s->data, room);
    if (!data)
        return false;
    s->data = data;
    s->room = room;
    return true;
}

static int no_room(const struct sink *s, const char *what, struct err *e)
{
    if (s->full)
        return err_set(e, "its %s data unpacks to more than %llu MiB", what,
                       (unsigned long long)(s->max / MiB));
    return err_set(e, "no memory to unpack its %s data", what);
}

static int truncated(const struct source *in, const char *what, struct err *e)
{
    return err_set(e, "its %s data is cut off after %llu bytes", what,
                   (unsigned long long)in->size);
}

static int damaged(const struct source *in, const char *what, const char *why, struct err *e)
{
    return err_set(e, "its %s data is damaged near byte %llu of %llu (%s)", what,
                   (unsigned long long)in->pos, (unsigned long long)in->size, why);
}

static u64 next_step(const struct source *in)
{
    return min_u64(in->size - in->pos, STEP);
}

static void advance(struct source *in, u64 n)
{
    u64 before = in->pos / STEP;
    in->pos += n;
    if (in->progress && (in->pos / STEP != before || in->pos == in->size))
        in->progress(in->arg, "unpacking the kernel", in->pos, in->size);
}

/* --- gzip --- */

static int inflate_all(z_stream *z, struct source *in, struct sink *out, struct err *e)
{
    for (;;) {
        if (!sink_grow(out, 64 * KiB))
            return no_room(out, "gzip", e);
        u64 give = next_step(in), room = min_u64(out->room - out->size, 1 * GiB);
        z->next_in = (u8 *)in->data + in->pos;
        z->avail_in = give;
        z->next_out = out->data + out->size;
        z->avail_out = room;
        int r = inflate(z, Z_NO_FLUSH);
        u64 took = give - z->avail_in, made = room - z->avail_out;
        advance(in, took);
        out->size += made;
        if (r == Z_STREAM_END)
            return 0;
        if (r == Z_BUF_ERROR || (r == Z_OK && !took && !made))
            return truncated(in, "gzip", e);
        if (r == Z_MEM_ERROR)
            return err_set(e, "no memory to unpack its gzip data");
        if (r != Z_OK)
            return damaged(in, "gzip", z->msg ? z->msg : "bad data", e);
    }
}

static int run_gzip(struct source *in, struct sink *out, struct err *e)
{
    z_stream z = {0};
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return err_set(e, "no memory to unpack its gzip data");
    int r = inflate_all(&z, in, out, e);
    inflateEnd(&z);
    return r;
}

/* --- xz and the older lzma --- */

static const char *lzma_why(lzma_ret r)
{
    switch (r) {
    case LZMA_FORMAT_ERROR:
        return "not the format it claims";
    case LZMA_OPTIONS_ERROR:
        return "unknown filter or option";
    case LZMA_MEMLIMIT_ERROR:
        return "its dictionary is larger than any kernel's";
    default:
        return "bad data";
    }
}

static int lzma_all(lzma_stream *s, const char *what, struct source *in, struct sink *out,
                    struct err *e)
{
    for (;;) {
        if (!sink_grow(out, 64 * KiB))
            return no_room(out, what, e);
        u64 give = next_step(in), room = out->room - out->size;
        s->next_in = in->data + in->pos;
        s->avail_in = give;
        s->next_out = out->data + out->size;
        s->avail_out = room;
        lzma_ret r = lzma_code(s, LZMA_RUN);
        u64 took = give - s->avail_in, made = room - s->avail_out;
        advance(in, took);
        out->size += made;
        if (r == LZMA_STREAM_END)
            return 0;
        if (r == LZMA_BUF_ERROR || (r == LZMA_OK && !took && !made))
            return truncated(in, what, e);
        if (r == LZMA_MEM_ERROR)
            return err_set(e, "no memory to unpack its %s data", what);
        if (r != LZMA_OK)
            return damaged(in, what, lzma_why(r), e);
    }
}

static int run_xz(struct source *in, struct sink *out, struct err *e)
{
    lzma_stream s = LZMA_STREAM_INIT;
    if (lzma_stream_decoder(&s, LZMA_MEMORY, 0) != LZMA_OK)
        return err_set(e, "no memory to unpack its xz data");
    int r = lzma_all(&s, "xz", in, out, e);
    lzma_end(&s);
    return r;
}

static int run_lzma(struct source *in, struct sink *out, struct err *e)
{
    lzma_stream s = LZMA_STREAM_INIT;
    if (lzma_alone_decoder(&s, LZMA_MEMORY) != LZMA_OK)
        return err_set(e, "no memory to unpack its lzma data");
    int r = lzma_all(&s, "lzma", in, out, e);
    lzma_end(&s);
    return r;
}

/* --- lz4 --- */

static u32 le32(const u8 *p)
{
    u32 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static int legacy_block(struct source *in, u32 packed, struct sink *out, struct err *e)
{
    if (packed > LZ4_compressBound(LZ4_LEGACY_BLOCK))
        return damaged(in, "lz4", "a block larger than the format has", e);
    if (packed > in->size - in->pos)
        return truncated(in, "lz4", e);
    if (!sink_grow(out, LZ4_LEGACY_BLOCK))
        return no_room(out, "lz4", e);
    u64 room = min_u64(out->room - out->size, LZ4_LEGACY_BLOCK);
    int n = LZ4_decompress_safe((const char *)in->data + in->pos, (char *)out->data + out->size,
                                packed, room);
    if (n < 0 && room < LZ4_LEGACY_BLOCK) {
        out->full = true;
        return no_room(out, "lz4", e);
    }
    if (n < 0)
        return damaged(in, "lz4", "bad data", e);
    out->size += n;
    advance(in, packed);
    return 0;
}

/*
 * The format has no end mark: blocks follow each other to the end of the input, where the kernel's
 * build has appended the unpacked size (four bytes, like a block's header with nothing after it).
 */
static int run_lz4_legacy(struct source *in, struct sink *out, struct err *e)
{
    while (in->size - in->pos >= 4) {
        u32 packed = le32(in->data + in->pos);
        advance(in, 4);
        if (packed == LZ4_LEGACY_MAGIC)
            continue;
        if (in->pos == in->size)
            break;
        if (legacy_block(in, packed, out, e))
            return -1;
    }
    return out->size ? 0 : truncated(in, "lz4", e);
}

static int lz4_all(LZ4F_dctx *ctx, struct source *in, struct sink *out, struct err *e)
{
    for (;;) {
        if (!sink_grow(out, 64 * KiB))
            return no_room(out, "lz4", e);
        size_t took = next_step(in), made = out->room - out->size;
        size_t r =
            LZ4F_decompress(ctx, out->data + out->size, &made, in->data + in->pos, &took, NULL);
        if (LZ4F_isError(r))
            return damaged(in, "lz4", LZ4F_getErrorName(r), e);
        advance(in, took);
        out->size += made;
        if (r == 0)
            return 0;
        if (!took && !made)
            return truncated(in, "lz4", e);
    }
}

static int run_lz4(struct source *in, struct sink *out, struct err *e)
{
    LZ4F_dctx *ctx;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&ctx, LZ4F_VERSION)))
        return err_set(e, "no memory to unpack its lz4 data");
    int r = lz4_all(ctx, in, out, e);
    LZ4F_freeDecompressionContext(ctx);
    return r;
}

/* --- zstd --- */

static int zstd_all(ZSTD_DCtx *ctx, struct source *in, struct sink *out, struct err *e)
{
    for (;;) {
        if (!sink_grow(out, 64 * KiB))
            return no_room(out, "zstd", e);
        ZSTD_inBuffer ib = {in->data + in->pos, next_step(in), 0};
        ZSTD_outBuffer ob = {out->data + out->size, out->room - out->size, 0};
        size_t r = ZSTD_decompressStream(ctx, &ob, &ib);
        if (ZSTD_isError(r))
            return damaged(in, "zstd", ZSTD_getErrorName(r), e);
        advance(in, ib.pos);
        out->size += ob.pos;
        if (r == 0)
            return 0;
        if (!ib.pos && !ob.pos)
            return truncated(in, "zstd", e);
    }
}

static int run_zstd(struct source *in, struct sink *out, struct err *e)
{
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    if (!ctx)
        return err_set(e, "no memory to unpack its zstd data");
    ZSTD_DCtx_setParameter(ctx, ZSTD_d_windowLogMax, WINDOW_LOG_MAX);
    int r = zstd_all(ctx, in, out, e);
    ZSTD_freeDCtx(ctx);
    return r;
}

/* --- which is which --- */

/* lzma has no magic: properties 0x5d, a power-of-two dictionary, as every packer writes it. */
static const struct codec codecs[PACKING_N] = {
    [PACKING_GZIP] = {"gzip", {0x1f, 0x8b}, 2, run_gzip},
    [PACKING_XZ] = {"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, run_xz},
    [PACKING_LZMA] = {"lzma", {0x5d, 0, 0}, 3, run_lzma},
    [PACKING_LZ4_LEGACY] = {"lz4", {0x02, 0x21, 0x4c, 0x18}, 4, run_lz4_legacy},
    [PACKING_LZ4] = {"lz4", {0x04, 0x22, 0x4d, 0x18}, 4, run_lz4},
    [PACKING_ZSTD] = {"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, run_zstd},
    [PACKING_BZIP2] = {"bzip2", {'B', 'Z', 'h'}, 3, NULL},
    [PACKING_LZO] = {"lzo", {0x89, 'L', 'Z', 'O', 0}, 5, NULL},
};

enum packing decompress_detect(const u8 *data, u64 size)
{
    for (enum packing p = PACKING_NONE + 1; p < PACKING_N; p++)
        if (size >= codecs[p].magic_len && !memcmp(data, codecs[p].magic, codecs[p].magic_len))
            return p;
    return PACKING_NONE;
}

const char *decompress_name(enum packing p)
{
    return p > PACKING_NONE && p < PACKING_N ? codecs[p].name : "unknown";
}

bool decompress_supported(enum packing p)
{
    return p > PACKING_NONE && p < PACKING_N && codecs[p].run;
}

int decompress(const u8 *in, u64 size, u64 max, boot_progress_fn *progress, void *arg,
               struct blob *out, struct err *e)
{
    *out = (struct blob){0};
    enum packing p = decompress_detect(in, size);
    if (!decompress_supported(p))
        return err_set(e, "it is packed with %s; popf unpacks gzip, xz, lzma, lz4 and zstd",
                       p ? decompress_name(p) : "something unknown");
    struct source src = {.data = in, .size = size, .progress = progress, .arg = arg};
    struct sink sink = {.max = max};
    /* A kernel unpacks to three to eight times its size; the rest is left to growth. */
    if (!sink_grow(&sink, min_u64(max_u64(size * 4, 64 * KiB), max)) ||
        codecs[p].run(&src, &sink, e)) {
        if (!sink.data)
            no_room(&sink, codecs[p].name, e);
        free(sink.data);
        return -1;
    }
    *out = (struct blob){.data = sink.data, .size = sink.size, .owned = sink.data};
    return 0;
}
