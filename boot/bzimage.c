#include "boot/decompress.h"
#include "boot/linux.h"

#include <stdio.h>
#include <zlib.h>

/* Where the real-mode code is put, and its heap, stack and command line (boot.rst's layout). */
#define SETUP_SEG     0x9000
#define SETUP_GPA     0x90000ull
#define SETUP_HEAP    0xe000ull /* from SETUP_GPA */
#define SETUP_CMDLINE (SETUP_GPA + SETUP_HEAP)

/* Where protected-mode code goes that unpacks itself. */
#define CODE32_GPA 0x100000ull

struct bzimage {
    const u8 *data;
    u64 size;
    unsigned version; /* of the boot protocol */
    u64 setup_size;   /* boot sector and setup: the protected-mode code follows */
    u64 code_size;
    struct linux_kernel kernel;
    u64 pref_address, init_size;      /* 0 before 2.10 */
    u64 payload_offset, payload_size; /* in the file; size 0 before 2.08 */
};

bool bzimage_is(const u8 *data, u64 size)
{
    return size >= BP_HEADER + 4 && get16(data + BP_BOOT_FLAG) == LINUX_BOOT_FLAG &&
           get32(data + BP_HEADER) == LINUX_MAGIC;
}

/* --- the header --- */

static int check_header(const u8 *p, u64 size, struct err *e)
{
    if (size < BP_HEADER_END)
        return err_set(e, "a truncated bzImage: its %llu bytes do not hold the setup header",
                       (unsigned long long)size);
    unsigned version = get16(p + BP_VERSION);
    if (version < 0x0202)
        return err_set(e, "a Linux kernel from before 2.4 (boot protocol %u.%02u); popf needs 2.02",
                       version >> 8, version & 0xff);
    if (!(p[BP_LOADFLAGS] & LOADFLAG_LOADED_HIGH))
        return err_set(e, "a zImage, which loads below 1 MiB; build a bzImage");
    if (p[BP_JUMP] != 0xeb || BP_HEADER + p[BP_JUMP + 1] <= BP_INITRD_ADDR_MAX - 4)
        return err_set(e, "a damaged bzImage: no jump over the setup header");
    return 0;
}

static void read_kernel(struct bzimage *b)
{
    const u8 *p = b->data;
    b->kernel = (struct linux_kernel){
        .header = p,
        .header_end = min_u64(BP_HEADER + p[BP_JUMP + 1], BP_HEADER_END),
        .initrd_max = 0x38000000,
        .cmdline_max = 255,
    };
    if (b->version >= 0x0203)
        b->kernel.initrd_max = (u64)get32(p + BP_INITRD_ADDR_MAX) + 1;
    if (b->version >= 0x0206)
        b->kernel.cmdline_max = min_u64(get32(p + BP_CMDLINE_SIZE), BOOT_CMDLINE_MAX);
    if (b->version >= 0x020a) {
        b->pref_address = get64(p + BP_PREF_ADDRESS);
        b->init_size = get32(p + BP_INIT_SIZE);
    }
    b->kernel.above_4g = b->version >= 0x020c && get16(p + BP_XLOADFLAGS) & XLF_ABOVE_4G;
}

static int find_payload(struct bzimage *b, struct err *e)
{
    if (b->version < 0x0208)
        return 0;
    u64 offset = get32(b->data + BP_PAYLOAD_OFFSET), size = get32(b->data + BP_PAYLOAD_LENGTH);
    if (offset > b->code_size || size > b->code_size - offset)
        return err_set(e,
                       "a truncated bzImage: its payload ends at byte %llu, the file at %llu; "
                       "fetch it again",
                       (unsigned long long)(b->setup_size + offset + size),
                       (unsigned long long)b->size);
    b->payload_offset = b->setup_size + offset;
    b->payload_size = size;
    return 0;
}

/* syssize counts paragraphs, rounded up. What follows (a signature) is not part of it. */
static int check_size(const struct bzimage *b, struct err *e)
{
    u64 end = b->setup_size;
    if (b->version >= 0x0204)
        end += 16ull * get32(b->data + BP_SYSSIZE);
    if (b->size <= b->setup_size || end > b->size + 15)
        return err_set(e,
                       "a truncated bzImage: it should have %llu bytes and has %llu; fetch it "
                       "again",
                       (unsigned long long)end, (unsigned long long)b->size);
    return 0;
}

static int parse(struct bzimage *b, const u8 *data, u64 size, struct err *e)
{
    if (check_header(data, size, e))
        return -1;
    unsigned sects = data[BP_SETUP_SECTS] ? data[BP_SETUP_SECTS] : 4;
    *b = (struct bzimage){
        .data = data,
        .size = size,
        .version = get16(data + BP_VERSION),
        .setup_size = (sects + 1) * 512,
    };
    if (check_size(b, e))
        return -1;
    b->code_size = size - b->setup_size;
    read_kernel(b);
    return find_payload(b, e);
}

/* --- the checksum --- */

/* "6.1.0-50-686 (...)" at kernel_version + 0x200 in the file. */
static bool older_than(const struct bzimage *b, unsigned major, unsigned minor)
{
    char text[16] = "";
    unsigned have_major, have_minor;
    u64 at = get16(b->data + BP_KERNEL_VERSION) + 0x200;
    if (at + sizeof(text) > b->setup_size)
        return false;
    memcpy(text, b->data + at, sizeof(text) - 1);
    if (sscanf(text, "%3u.%3u.", &have_major, &have_minor) != 2)
        return false;
    return have_major < major || (have_major == major && have_minor < minor);
}

/* Offset of the PE optional header of a kernel with an EFI stub, or 0. */
static u64 pe_optional_header(const struct bzimage *b)
{
    u64 pe = get32(b->data + 0x3c);
    if (b->data[0] != 'M' || b->data[1] != 'Z' || pe > BP_SETUP_SECTS - 24)
        return 0;
    return get32(b->data + pe) == 0x4550 ? pe + 24 : 0;
}

static bool overlaps(u64 at, u64 field, unsigned n)
{
    return at >= field && at < field + n;
}

/*
 * The CRC-32 that the kernel's build leaves in the last four bytes covers all before. Signing
 * came later, and wrote two fields of the PE header that were 0 when the sum was made: the
 * checksum and the directory entry of the signature.
 */
static u32 checksum(const struct bzimage *b, u64 end)
{
    u8 head[512];
    memcpy(head, b->data, sizeof(head));
    u64 opt = pe_optional_header(b);
    u64 dirs = opt && get16(head + opt) == 0x20b ? opt + 112 : opt + 96;
    for (u64 i = 0; opt && i < sizeof(head); i++)
        if (overlaps(i, opt + 64, 4) || overlaps(i, dirs + 4 * 8, 8))
            head[i] = 0;
    u32 crc = crc32_z(crc32(0, NULL, 0), head, sizeof(head));
    return ~crc32_z(crc, b->data + sizeof(head), end - sizeof(head));
}

/* Kernels from 2.6.30 up to 6.14 have it; without it a flipped bit in LZ4 data goes unseen. */
static int check_sum(const struct bzimage *b, struct err *e)
{
    u64 end = b->setup_size + 16ull * get32(b->data + BP_SYSSIZE);
    if (b->version < 0x0208 || end > b->size || older_than(b, 2, 7) || !older_than(b, 6, 15))
        return 0;
    u32 want = get32(b->data + end - 4), have = checksum(b, end - 4);
    if (want != have)
        return err_set(e, "a damaged bzImage: its checksum is %08x, not %08x; fetch it again", have,
                       want);
    return 0;
}

/* --- ways in --- */

/* The payload, unpacked. */
static int unpack(const struct loader *ld, const struct bzimage *b, struct blob *out, struct err *e)
{
    const u8 *p = b->data + b->payload_offset;
    enum packing packing = decompress_detect(p, b->payload_size);
    if (elf_is(p, b->payload_size)) {
        *out = (struct blob){.data = p, .size = b->payload_size};
        return 0;
    }
    if (!decompress_supported(packing))
        return err_set(e,
                       "its payload is packed with %s; popf unpacks gzip, xz, lzma, lz4 and "
                       "zstd: use --entry 32 to let the kernel unpack itself",
                       packing ? decompress_name(packing) : "something unknown");
    log_info(ld->cfg->log, "boot: unpacking %llu KiB of %s",
             (unsigned long long)(b->payload_size / KiB), decompress_name(packing));
    if (decompress(p, b->payload_size, BOOT_KERNEL_MAX, ld->cfg->progress, ld->cfg->progress_arg,
                   out, e))
        return -1;
    /* The build appends the size, but for gzip, whose last field it is. Only a check. */
    u32 size = get32(p + b->payload_size - 4);
    if (size == (u32)out->size) {
        if (ld->image_owned) /* large, and not read again */
            blob_forget(p, b->payload_size);
        return 0;
    }
    blob_free(out);
    return err_set(e, "a damaged bzImage: its %s payload unpacks to a size other than %u bytes",
                   decompress_name(packing), size);
}

/* Room that the kernel uses beyond its segments, up to its own memory management. */
static int claim_init(struct loader *ld, const struct bzimage *b, gpa_t start, struct err *e)
{
    if (start != b->pref_address)
        return 0;
    return layout_claim(&ld->lay, start, b->init_size, loader_kernel, e);
}

static int enter_elf(struct loader *ld, const struct bzimage *b, const struct elf *elf,
                     struct err *e)
{
    gpa_t start, end, params;
    u64 entry = elf_entry_phys(elf);
    elf_span(elf, &start, &end);
    if (claim_init(ld, b, start, e) || elf_load(elf, &ld->lay, e) ||
        linux_params(ld, &b->kernel, &params, e))
        return -1;
    if (elf->is64)
        return linux_enter64(ld, entry, params, "Linux 64-bit", e);
    return linux_enter32(ld, entry, params, "Linux 32-bit", e);
}

static int load_payload(struct loader *ld, const struct bzimage *b, struct err *e)
{
    struct blob blob;
    struct elf elf;
    struct err why;
    gpa_t start, end;
    if (unpack(ld, b, &blob, e))
        return -1;
    int r;
    if (elf_parse(&elf, blob.data, blob.size, &why)) {
        r = err_set(e, "its payload is %.400s", why.msg);
    } else if (ld->cfg->entry == BOOT_ENTRY_PVH) {
        elf_span(&elf, &start, &end);
        r = claim_init(ld, b, start, e) || pvh_load(ld, &elf, e) ? -1 : 0;
    } else {
        r = enter_elf(ld, b, &elf, e);
    }
    blob_free(&blob);
    return r;
}

/* The whole of the protected-mode code at 1 MiB, and the room that it unpacks itself into. */
static int load_code32(struct loader *ld, const struct bzimage *b, struct err *e)
{
    u64 end = CODE32_GPA + max_u64(b->code_size, b->version >= 0x020a ? 0 : 8 * MiB);
    if (b->init_size && b->pref_address >= CODE32_GPA)
        end = max_u64(end, b->pref_address + b->init_size);
    if (layout_claim(&ld->lay, CODE32_GPA, end - CODE32_GPA, loader_kernel, e))
        return -1;
    return loader_write(&ld->lay, CODE32_GPA, b->data + b->setup_size, b->code_size, e);
}

static int load_self(struct loader *ld, const struct bzimage *b, struct err *e)
{
    bool want64 = ld->cfg->entry == BOOT_ENTRY_64;
    gpa_t params;
    if (want64 && (b->version < 0x020c || !(get16(b->data + BP_XLOADFLAGS) & XLF_KERNEL_64)))
        return err_set(e, "it has no 64-bit entry; use --entry 32 or auto");
    if (load_code32(ld, b, e) || linux_params(ld, &b->kernel, &params, e))
        return -1;
    if (want64)
        return linux_enter64(ld, CODE32_GPA + 0x200, params, "Linux 64-bit, unpacking itself", e);
    return linux_enter32(ld, CODE32_GPA, params, "Linux 32-bit, unpacking itself", e);
}

/* The fields of the header in memory that the setup code reads. */
static void fill_setup(const struct loader *ld, u8 *p)
{
    p[BP_TYPE_OF_LOADER] = LINUX_LOADER_OTHER;
    p[BP_LOADFLAGS] |= LOADFLAG_CAN_USE_HEAP;
    put16(p + BP_VID_MODE, 0xffff);
    put32(p + BP_CODE32_START, CODE32_GPA);
    put16(p + BP_HEAP_END_PTR, SETUP_HEAP - 0x200);
    put32(p + BP_CMD_LINE_PTR, SETUP_CMDLINE);
    put32(p + BP_RAMDISK_IMAGE, ld->initrd_gpa);
    put32(p + BP_RAMDISK_SIZE, ld->initrd.size);
}

static int load_setup(struct loader *ld, const struct bzimage *b, struct err *e)
{
    const char *cmdline = ld->cfg->cmdline ? ld->cfg->cmdline : "";
    u64 len = strlen(cmdline),
        max = min_u64(b->kernel.cmdline_max, LAYOUT_LOW_END - SETUP_CMDLINE - 1);
    u8 head[BP_HEADER_END];
    if (b->setup_size > SETUP_HEAP - 0x1000)
        return err_set(e, "its real-mode code of %llu KiB leaves no room for heap and stack",
                       (unsigned long long)(b->setup_size / KiB));
    if (len > max)
        return err_set(e,
                       "it takes a command line of %llu bytes, the one given has %llu; shorten it",
                       (unsigned long long)max, (unsigned long long)len);
    memcpy(head, b->data, sizeof(head));
    fill_setup(ld, head);
    if (loader_write(&ld->lay, SETUP_GPA, head, sizeof(head), e) ||
        loader_write(&ld->lay, SETUP_GPA + sizeof(head), b->data + sizeof(head),
                     b->setup_size - sizeof(head), e))
        return -1;
    return loader_write(&ld->lay, SETUP_CMDLINE, cmdline, len + 1, e);
}

static int load_real(struct loader *ld, const struct bzimage *b, struct err *e)
{
    if (layout_claim(&ld->lay, SETUP_GPA, LAYOUT_LOW_END - SETUP_GPA, "the real-mode code", e) ||
        load_code32(ld, b, e) || loader_initrd(ld, b->kernel.initrd_max, false, e) ||
        load_setup(ld, b, e))
        return -1;
    entry_real16(ld, SETUP_SEG + 0x20, 0, SETUP_SEG, SETUP_HEAP);
    ld->st->how = "Linux real mode";
    return 0;
}

int bzimage_load(struct loader *ld, struct err *e)
{
    struct bzimage b;
    if (parse(&b, ld->image, ld->image_size, e) || check_sum(&b, e))
        return -1;
    switch (ld->cfg->entry) {
    case BOOT_ENTRY_16:
        return load_real(ld, &b, e);
    case BOOT_ENTRY_32:
    case BOOT_ENTRY_64:
        return load_self(ld, &b, e);
    case BOOT_ENTRY_AUTO:
        if (b.payload_size < 16)
            return load_self(ld, &b, e); /* too old to say where its payload is */
        return load_payload(ld, &b, e);
    default:
        if (b.payload_size < 16)
            return err_set(e, "it is too old to have a PVH entry; use --entry auto");
        return load_payload(ld, &b, e);
    }
}
