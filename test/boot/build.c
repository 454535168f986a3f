#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "build.h"

#include <elf.h>
#include <lz4.h>
#include <lz4frame.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

/* --- images --- */

void image_free(struct image *img)
{
    free(img->data);
    *img = (struct image){0};
}

void image_size(struct image *img, u64 size)
{
    if (size <= img->size)
        return;
    img->data = realloc(img->data, size);
    assert_non_null(img->data);
    memset(img->data + img->size, 0, size - img->size);
    img->size = size;
}

void image_put(struct image *img, u64 at, const void *data, u64 size)
{
    image_size(img, at + size);
    memcpy(img->data + at, data, size);
}

void image_put16(struct image *img, u64 at, u16 v)
{
    image_put(img, at, &v, sizeof(v));
}

void image_put32(struct image *img, u64 at, u32 v)
{
    image_put(img, at, &v, sizeof(v));
}

void image_put64(struct image *img, u64 at, u64 v)
{
    image_put(img, at, &v, sizeof(v));
}

/* --- ELF --- */

enum { SEG_OFFSET = 0x400, NOTE_OFFSET = 0x300 };

static void put_phdr(struct image *img, unsigned i, bool is64, Elf64_Phdr h)
{
    if (is64) {
        image_put(img, sizeof(Elf64_Ehdr) + i * sizeof(h), &h, sizeof(h));
        return;
    }
    Elf32_Phdr n = {h.p_type,   h.p_offset, h.p_vaddr, h.p_paddr,
                    h.p_filesz, h.p_memsz,  h.p_flags, h.p_align};
    image_put(img, sizeof(Elf32_Ehdr) + i * sizeof(n), &n, sizeof(n));
}

static void put_ehdr(struct image *img, bool is64, u64 entry, unsigned phnum)
{
    u8 ident[EI_NIDENT] = {0x7f, 'E', 'L', 'F', is64 ? ELFCLASS64 : ELFCLASS32, ELFDATA2LSB, 1};
    if (is64) {
        Elf64_Ehdr h = {
            .e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = 1, .e_entry = entry};
        h.e_phoff = h.e_ehsize = sizeof(h);
        h.e_phentsize = sizeof(Elf64_Phdr);
        h.e_phnum = phnum;
        memcpy(h.e_ident, ident, sizeof(ident));
        image_put(img, 0, &h, sizeof(h));
        return;
    }
    Elf32_Ehdr h = {.e_type = ET_EXEC, .e_machine = EM_386, .e_version = 1, .e_entry = entry};
    h.e_phoff = h.e_ehsize = sizeof(h);
    h.e_phentsize = sizeof(Elf32_Phdr);
    h.e_phnum = phnum;
    memcpy(h.e_ident, ident, sizeof(ident));
    image_put(img, 0, &h, sizeof(h));
}

/* Another owner's note first, so that finding the right one takes a walk. */
static void put_notes(struct image *img, bool is64, u32 pvh)
{
    static const char owner[] = "Xen";
    u32 at = NOTE_OFFSET;
    for (unsigned i = 0; i < 2; i++) {
        image_put32(img, at, sizeof(owner));
        image_put32(img, at + 4, 4);
        image_put32(img, at + 8, i ? 18 : 6);
        image_put(img, at + 12, owner, sizeof(owner));
        image_put32(img, at + 16, i ? pvh : 0x55555555);
        at += 20;
    }
    put_phdr(
        img, 1, is64,
        (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = NOTE_OFFSET, .p_filesz = 40, .p_align = 4});
}

void build_elf(struct image *img, const struct elf_spec *s)
{
    u32 size = s->size ? s->size : 8192;
    put_ehdr(img, s->is64, s->entry ? s->entry : s->paddr + 0x10, s->pvh ? 2 : 1);
    Elf64_Phdr load = {
        .p_type = PT_LOAD,
        .p_offset = SEG_OFFSET,
        .p_vaddr = s->vaddr ? s->vaddr : s->paddr,
        .p_paddr = s->paddr,
        .p_filesz = size,
        .p_memsz = size + BUILD_BSS,
        .p_align = 4096,
    };
    put_phdr(img, 0, s->is64, load);
    if (s->pvh)
        put_notes(img, s->is64, s->pvh);
    image_size(img, SEG_OFFSET + size);
    for (u32 i = 0; i < size; i++)
        img->data[SEG_OFFSET + i] = BUILD_BYTE(i);
    if (s->banner)
        image_put(img, SEG_OFFSET, "Linux version 9", 16);
    if (s->multiboot) {
        image_put32(img, SEG_OFFSET, 0x1badb002);
        image_put32(img, SEG_OFFSET + 4, 3);
        image_put32(img, SEG_OFFSET + 8, -(0x1badb002 + 3));
    }
}

/* --- packing --- */

static u64 pack_gzip(const struct image *in, u8 *out, u64 room)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = in->data;
    z.avail_in = in->size;
    z.next_out = out;
    z.avail_out = room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

/* With the x86 filter, as the kernel's build does it. */
static u64 pack_lzma(const struct image *in, u8 *out, u64 room, bool alone)
{
    lzma_options_lzma opt;
    lzma_lzma_preset(&opt, 1);
    lzma_filter chain[] = {
        {LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &opt}, {LZMA_VLI_UNKNOWN, NULL}};
    lzma_stream s = LZMA_STREAM_INIT;
    assert_int_equal(alone ? lzma_alone_encoder(&s, &opt)
                           : lzma_stream_encoder(&s, chain, LZMA_CHECK_CRC32),
                     LZMA_OK);
    s.next_in = in->data;
    s.avail_in = in->size;
    s.next_out = out;
    s.avail_out = room;
    assert_int_equal(lzma_code(&s, LZMA_FINISH), LZMA_STREAM_END);
    u64 size = s.total_out;
    lzma_end(&s);
    return size;
}

static u64 pack_lz4_legacy(const struct image *in, u8 *out, u64 room)
{
    u64 at = 4;
    memcpy(out, &(u32){0x184c2102}, 4);
    for (u64 i = 0; i < in->size; i += 8 * MiB) {
        int n = LZ4_compress_default((char *)in->data + i, (char *)out + at + 4,
                                     min_u64(in->size - i, 8 * MiB), room - at - 4);
        assert_true(n > 0);
        memcpy(out + at, &(u32){n}, 4);
        at += 4 + n;
    }
    return at;
}

void build_packed(struct image *out, const struct image *in, int pack, bool tail)
{
    u64 room = in->size + in->size / 8 + 65536, n;
    image_size(out, room);
    switch (pack) {
    case PACK_GZIP:
        n = pack_gzip(in, out->data, room);
        break;
    case PACK_XZ:
    case PACK_LZMA:
        n = pack_lzma(in, out->data, room, pack == PACK_LZMA);
        break;
    case PACK_LZ4_LEGACY:
        n = pack_lz4_legacy(in, out->data, room);
        break;
    case PACK_LZ4:
        n = LZ4F_compressFrame(out->data, room, in->data, in->size, NULL);
        break;
    case PACK_ZSTD:
        n = ZSTD_compress(out->data, room, in->data, in->size, 3);
        break;
    default:
        memcpy(out->data, in->data, in->size);
        n = in->size;
        break;
    }
    out->size = n;
    if (tail && pack != PACK_GZIP && pack != PACK_NONE)
        image_put32(out, n, in->size);
}

/* --- bzImage --- */

void build_seal(struct image *img)
{
    u32 crc = ~crc32(0, img->data, img->size - 4);
    image_put32(img, img->size - 4, crc);
}

void build_bzimage(struct image *img, const struct image *payload)
{
    static const char version[] = "6.1.0-test (popf)";
    u64 code = align_up(BZ_PAYLOAD + payload->size + 4, 16);
    image_size(img, BZ_SETUP_SIZE + code);
    img->data[0x1f1] = BZ_SETUP_SIZE / 512 - 1;
    image_put32(img, 0x1f4, code / 16);
    image_put16(img, 0x1fe, 0xaa55);
    image_put16(img, 0x200, 0x6aeb); /* jump to 0x26c */
    image_put32(img, 0x202, 0x53726448);
    image_put16(img, 0x206, 0x020f);
    image_put16(img, 0x20e, 0x600); /* version text at 0x800 */
    image_put(img, 0x800, version, sizeof(version));
    img->data[0x211] = 0x03; /* LOADED_HIGH, and KASLR, which must not reach the kernel */
    image_put32(img, 0x214, 0x100000);
    image_put32(img, 0x22c, 0x7fffffff);
    image_put32(img, 0x230, 2 * MiB);
    img->data[0x234] = 1;
    image_put16(img, 0x236, 0x3); /* 64-bit entry, initrd above 4 GiB */
    image_put32(img, 0x238, 2047);
    image_put32(img, 0x248, BZ_PAYLOAD);
    image_put32(img, 0x24c, payload->size);
    image_put64(img, 0x258, BZ_PREF);
    image_put32(img, 0x260, BZ_INIT_SIZE);
    memset(img->data + BZ_SETUP_SIZE, 0xf4, BZ_PAYLOAD);
    image_put(img, BZ_SETUP_SIZE + BZ_PAYLOAD, payload->data, payload->size);
    build_seal(img);
}

/* --- the guest --- */

void guest_init(struct guest *g, u64 mib)
{
    *g = (struct guest){0};
    u64 low = min_u64(mib * MiB, BOOT_HOLE_START), high = mib * MiB - low;
    assert_int_equal(mem_init(&g->mem, &g->err), 0);
    assert_int_equal(mem_add_ram(&g->mem, 0, low, false, &g->err), 0);
    if (high)
        assert_int_equal(mem_add_ram(&g->mem, BOOT_HOLE_END, high, false, &g->err), 0);
    g->cfg =
        (struct boot_config){.mem = &g->mem, .ram_low = low, .ram_high = high, .rsdp = 0xe0010};
    g->cfg.kernel.path = "vmtest";
}

void guest_free(struct guest *g)
{
    mem_free(&g->mem);
}

int guest_boot(struct guest *g, const struct image *img)
{
    g->err.msg[0] = 0;
    if (img) {
        g->cfg.kernel.data = img->data;
        g->cfg.kernel.size = img->size;
    }
    int r = boot_load(&g->cfg, &g->st, &g->err);
    if (r) {
        assert_true(strlen(g->err.msg) > 10);
        assert_null(strchr(g->err.msg, '\n'));
    } else {
        assert_non_null(g->st.how);
    }
    return r;
}

static u64 guest_n(const struct guest *g, gpa_t gpa, unsigned n)
{
    u64 v = 0;
    assert_int_equal(mem_read(&g->mem, gpa, &v, n), 0);
    return v;
}

u8 guest8(const struct guest *g, gpa_t gpa)
{
    return guest_n(g, gpa, 1);
}

u16 guest16(const struct guest *g, gpa_t gpa)
{
    return guest_n(g, gpa, 2);
}

u32 guest32(const struct guest *g, gpa_t gpa)
{
    return guest_n(g, gpa, 4);
}

u64 guest64(const struct guest *g, gpa_t gpa)
{
    return guest_n(g, gpa, 8);
}

void guest_assert_segment(const struct guest *g, gpa_t gpa, u32 size, u32 from)
{
    for (u32 i = from; i < size; i++)
        if (guest8(g, gpa + i) != BUILD_BYTE(i))
            fail_msg("byte %u of the segment is wrong", i);
    for (u32 i = 0; i < BUILD_BSS; i++)
        if (guest8(g, gpa + size + i))
            fail_msg("byte %u of the bss is not 0", i);
}

void guest_assert_refused(struct guest *g, const struct image *img, const char *part)
{
    if (!guest_boot(g, img))
        fail_msg("it was loaded, though \"%s\" was expected", part);
    if (!strstr(g->err.msg, part))
        fail_msg("\"%s\" is not in \"%s\"", part, g->err.msg);
}
