/*
 * decompress.h - the formats in which kernels are packed.
 */
#ifndef POPF_BOOT_DECOMPRESS_H
#define POPF_BOOT_DECOMPRESS_H

#include "boot/file.h"

enum packing {
    PACKING_NONE, /* not known */
    PACKING_GZIP,
    PACKING_XZ,
    PACKING_LZMA,
    PACKING_LZ4_LEGACY, /* magic 0x184c2102, blocks of 8 MiB, no end mark */
    PACKING_LZ4,        /* the frame format, magic 0x184d2204 */
    PACKING_ZSTD,
    PACKING_BZIP2, /* recognised only */
    PACKING_LZO,   /* recognised only */
    PACKING_N
};

/* Tells the format by the first bytes. */
enum packing decompress_detect(const u8 *data, u64 size);

/* "gzip", "xz", ... */
const char *decompress_name(enum packing p);

/* Whether decompress() knows it. */
bool decompress_supported(enum packing p);

/*
 * Unpacks one stream; what follows its end is ignored. Nothing the stream says about its size is
 * believed: output grows as it comes, and more than `max` bytes is an error. Reports input bytes
 * through progress (may be NULL). The message in *e names the format, not the file.
 */
int decompress(const u8 *in, u64 size, u64 max, boot_progress_fn *progress, void *arg,
               struct blob *out, struct err *e);

#endif
