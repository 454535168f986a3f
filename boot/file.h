/*
 * file.h - whole files in host memory.
 */
#ifndef POPF_BOOT_FILE_H
#define POPF_BOOT_FILE_H

#include "boot/boot.h"

/* Bytes in host memory. `owned` is what blob_free() frees: NULL for borrowed bytes. */
struct blob {
    const u8 *data;
    u64 size;
    void *owned;
};

/* Good for a zeroed blob and for one that was freed. */
void blob_free(struct blob *b);

/* These bytes of a blob that owns its memory are not wanted any more: whole pages go back to the
 * host, and read as zeros. */
void blob_forget(const u8 *from, u64 size);

/*
 * Reads all of a regular file, or borrows the buffer of *src. `role` ("kernel", "initrd") starts
 * every message. Fails on an empty file, on one larger than `max` bytes, and on one that shrinks.
 */
int file_load(const struct boot_src *src, const char *role, u64 max, struct blob *out,
              struct err *e);

#endif
