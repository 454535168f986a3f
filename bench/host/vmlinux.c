/*
 * vmlinux.c - unpacks the ELF image in a bzImage, with popf's own code.
 *
 *   vmlinux BZIMAGE >VMLINUX
 */
#include "boot/decompress.h"
#include <stdio.h>
#include <string.h>

/* Offsets in the setup header (Linux x86 boot protocol 2.08). */
#define SETUP_SECTS    0x1f1
#define SETUP_MAGIC    0x202
#define PAYLOAD_OFFSET 0x248
#define PAYLOAD_LENGTH 0x24c

static u32 load32(const u8 *p)
{
    u32 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static int unpack(const struct blob *image, struct blob *out, struct err *e)
{
    const u8 *p = image->data;
    if (image->size < 0x250 || memcmp(p + SETUP_MAGIC, "HdrS", 4)) {
        err_set(e, "this is not a bzImage");
        return -1;
    }
    u64 sects = p[SETUP_SECTS] ? p[SETUP_SECTS] : 4;
    u64 start = (sects + 1) * 512 + load32(p + PAYLOAD_OFFSET), length = load32(p + PAYLOAD_LENGTH);
    if (start > image->size || length > image->size - start) {
        err_set(e, "the payload lies outside of the file");
        return -1;
    }
    return decompress(p + start, length, GiB, NULL, NULL, out, e);
}

int main(int argc, char **argv)
{
    struct blob image = {0}, out = {0};
    struct err e = {0};
    struct boot_src src = {.path = argc == 2 ? argv[1] : ""};
    if (file_load(&src, "kernel", GiB, &image, &e) || unpack(&image, &out, &e)) {
        fprintf(stderr, "vmlinux: %s\n", e.msg);
        return 1;
    }
    return fwrite(out.data, 1, out.size, stdout) != out.size || fflush(stdout);
}
