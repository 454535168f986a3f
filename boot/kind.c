#include "boot/decompress.h"
#include "boot/loader.h"

/* A file format known by bytes at a fixed place. */
struct kind_magic {
    u32 offset;
    u8 len;
    const char *magic;
    const char *what;
};

/* More telling ones first. */
static const struct kind_magic magics[] = {
    {0x38, 4, "ARM\x64", "an arm64 Linux image; popf runs x86 kernels"},
    {0x38, 4, "RSC\x05", "a RISC-V Linux image; popf runs x86 kernels"},
    {0, 4, "\x27\x05\x19\x56", "a U-Boot image; popf runs x86 kernels (bzImage, vmlinux)"},
    {0x8001, 5, "CD001", "an ISO 9660 image; unpack the kernel in it and give that"},
    {0, 4, "QFI\xfb", "a qcow2 disk image, not a kernel"},
    {0, 4, "KDMV", "a VMDK disk image, not a kernel"},
    {0, 8, "conectix", "a VHD disk image, not a kernel"},
    {0, 8, "vhdxfile", "a VHDX disk image, not a kernel"},
    {0x40, 4, "\x7f\x10\xda\xbe", "a VDI disk image, not a kernel"},
    {0, 6, "070701", "a cpio archive; give it as --initrd"},
    {0, 6, "070707", "a cpio archive; give it as --initrd"},
    {0, 8, "!<arch>\n", "an archive (a Debian package?); unpack the kernel in it"},
    {257, 5, "ustar", "a tar archive; unpack the kernel in it"},
    {0, 4, "PK\x03\x04", "a zip archive; unpack the kernel in it"},
    {0, 4, "hsqs", "a SquashFS image, not a kernel"},
    {0x438, 2, "\x53\xef", "an ext2/3/4 file system, not a kernel"},
    {0, 2, "#!", "a script, not a kernel"},
};

static const struct kind_magic *find_magic(const u8 *data, u64 size)
{
    for (unsigned i = 0; i < ARRAY_SIZE(magics); i++) {
        const struct kind_magic *m = &magics[i];
        if (size >= m->offset + m->len && !memcmp(data + m->offset, m->magic, m->len))
            return m;
    }
    return NULL;
}

static bool is_multiboot2(const u8 *data, u64 size)
{
    for (u64 i = 0; i + 16 <= min_u64(size, 32768); i += 8)
        if (get32(data + i) == 0xe85250d6u &&
            get32(data + i) + get32(data + i + 4) + get32(data + i + 8) + get32(data + i + 12) == 0)
            return true;
    return false;
}

static const char *packed_kind(enum packing p)
{
    switch (p) {
    case PACKING_GZIP:
        return "gzip data, not a kernel by itself; unpack it first (gzip -dc)";
    case PACKING_XZ:
    case PACKING_LZMA:
        return "xz or lzma data, not a kernel by itself; unpack it first (xz -dc)";
    case PACKING_LZ4:
    case PACKING_LZ4_LEGACY:
        return "lz4 data, not a kernel by itself; unpack it first (lz4 -dc)";
    case PACKING_ZSTD:
        return "zstd data, not a kernel by itself; unpack it first (zstd -dc)";
    case PACKING_BZIP2:
        return "bzip2 data, not a kernel by itself; unpack it first (bzip2 -dc)";
    default:
        return "lzop data, not a kernel by itself; unpack it first (lzop -dc)";
    }
}

const char *kind_of_foreign(const u8 *data, u64 size)
{
    const struct kind_magic *m = find_magic(data, size);
    enum packing packing = decompress_detect(data, size);
    if (m)
        return m->what;
    if (packing)
        return packed_kind(packing);
    if (is_multiboot2(data, size))
        return "a multiboot 2 kernel; popf loads multiboot 1, PVH and Linux kernels";
    if (size < 1024)
        return "too short for a kernel (a truncated file?); give a bzImage, vmlinux or multiboot "
               "kernel";
    if (size >= 2 && data[0] == 'M' && data[1] == 'Z')
        return "an EFI (PE) program without a Linux setup header; give a bzImage or vmlinux";
    if (size >= 512 && get16(data + 510) == 0xaa55)
        return "a boot sector or disk image, not a kernel; give a bzImage, vmlinux or multiboot "
               "kernel";
    return "not a kernel that popf knows; give a bzImage, vmlinux or multiboot kernel";
}
