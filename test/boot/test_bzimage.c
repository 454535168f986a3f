#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "build.h"
#include "x86/x86.h"

#include <string.h>

enum { HDR_LOADFLAGS = 0x211, CODE = BZ_SETUP_SIZE, PAYLOAD = BZ_SETUP_SIZE + BZ_PAYLOAD };

static const struct elf_spec kernel64 = {
    .is64 = true, .paddr = BZ_PREF, .vaddr = 0xffffffff81000000, .pvh = BZ_PREF + 0x20};
static const struct elf_spec kernel32 = {.paddr = BZ_PREF, .vaddr = 0xc1000000};

/* A bzImage of the given kernel, packed. */
static void build(struct image *img, const struct elf_spec *spec, int pack)
{
    struct image elf = {0}, packed = {0};
    build_elf(&elf, spec);
    build_packed(&packed, &elf, pack, true);
    build_bzimage(img, &packed);
    image_free(&elf);
    image_free(&packed);
}

static void assert_boot(struct guest *g, const struct image *img)
{
    if (guest_boot(g, img))
        fail_msg("%s", g->err.msg);
}

/* The page tables that CR3 names map va to itself. */
static void assert_mapped(const struct guest *g, u64 va)
{
    gpa_t table = g->st.cr3;
    for (int level = 3; level >= 1; level--) {
        u64 e = guest64(g, table + 8 * bits(va, 12 + 9 * level, 9));
        assert_true(e & PTE_P && e & PTE_W);
        table = e & 0xffffffffff000;
        if (e & PTE_PS) {
            assert_int_equal(level, 1);
            assert_int_equal(table, align_down(va, 2 * MiB));
            return;
        }
    }
    fail_msg("%#llx is not mapped by a large page", (unsigned long long)va);
}

static void assert_descriptor(const struct guest *g, const struct boot_seg *s)
{
    assert_in_range(s->sel, 8, g->st.gdt.limit - 7);
    u64 d = guest64(g, g->st.gdt.base + s->sel);
    assert_int_equal(bits(d, 40, 8) | bits(d, 52, 4) << 12, s->attr);
    assert_int_equal(bits(d, 0, 16) | bits(d, 48, 4) << 16, 0xfffff);
    assert_int_equal(s->limit, 0xffffffff);
    assert_int_equal(s->base, 0);
}

static void assert_params(const struct guest *g, gpa_t bp, const char *cmdline)
{
    char text[64] = "";
    assert_int_equal(bp & PAGE_MASK, 0);
    assert_int_equal(guest32(g, bp + 0x202), 0x53726448);
    assert_int_equal(guest8(g, bp + 0x210), 0xff);
    assert_int_equal(guest8(g, bp + HDR_LOADFLAGS) & 3, 1); /* no KASLR */
    assert_int_equal(guest64(g, bp + 0x70), 0xe0010);
    assert_int_equal(guest8(g, bp + 0x0f), 0); /* no VGA */
    assert_int_equal(guest8(g, bp + 0x1ef), 0);
    assert_int_equal(guest32(g, bp + 0x1e0), (g->cfg.ram_low - MiB) / KiB);
    assert_int_equal(mem_read(&g->mem, guest32(g, bp + 0x228), text, strlen(cmdline) + 1), 0);
    assert_string_equal(text, cmdline);
    assert_in_range(guest8(g, bp + 0x1e8), 4, 128);
    assert_int_equal(guest64(g, bp + 0x2d0), 0);
    assert_int_equal(guest64(g, bp + 0x2d8), 0x9fc00);
    assert_int_equal(guest32(g, bp + 0x2e0), 1);
}

static void every_packing_boots_at_64_bit(void **state)
{
    for (int pack = PACK_NONE; pack <= PACK_ZSTD; pack++) {
        struct guest g;
        struct image img = {0};
        guest_init(&g, 32);
        g.cfg.cmdline = "console=ttyS0 quiet";
        build(&img, &kernel64, pack);
        assert_boot(&g, &img);
        assert_int_equal(g.st.mode, BOOT_LONG64);
        assert_int_equal(g.st.rip, BZ_PREF + 0x10);
        guest_assert_segment(&g, BZ_PREF, 8192, 0);
        assert_params(&g, g.st.rsi, "console=ttyS0 quiet");
        image_free(&img);
        guest_free(&g);
    }
}

static void state_64(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 32);
    build(&img, &kernel64, PACK_LZ4_LEGACY);
    assert_boot(&g, &img);
    assert_int_equal(g.st.cr0, CR0_PG | CR0_ET | CR0_PE);
    assert_int_equal(g.st.cr4, CR4_PAE);
    assert_int_equal(g.st.efer, EFER_LME | EFER_LMA);
    assert_int_equal(g.st.rflags, 2);
    assert_int_equal(g.st.cs.sel, 0x10);
    assert_int_equal(g.st.ds.sel, 0x18);
    assert_int_equal(g.st.cs.attr & (SEG_L | SEG_DB), SEG_L);
    assert_descriptor(&g, &g.st.cs);
    assert_descriptor(&g, &g.st.ss);
    assert_mapped(&g, 0);
    assert_mapped(&g, BZ_PREF);
    assert_mapped(&g, 0xffffffff);
    image_free(&img);
    guest_free(&g);
}

static void state_32(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 32);
    build(&img, &kernel32, PACK_XZ);
    assert_boot(&g, &img);
    assert_int_equal(g.st.mode, BOOT_PROT32);
    assert_int_equal(g.st.rip, BZ_PREF + 0x10);
    assert_int_equal(g.st.cr0, CR0_ET | CR0_PE);
    assert_int_equal(g.st.efer | g.st.cr3 | g.st.cr4, 0);
    assert_int_equal(g.st.rbp | g.st.rdi | g.st.rbx, 0);
    assert_int_equal(g.st.cs.sel, 0x10);
    assert_int_equal(g.st.es.sel, 0x18);
    assert_descriptor(&g, &g.st.cs);
    assert_descriptor(&g, &g.st.ds);
    guest_assert_segment(&g, BZ_PREF, 8192, 0);
    assert_params(&g, g.st.rsi, "");
    image_free(&img);
    guest_free(&g);
}

/* Memory that is left from before a reset. */
static void bss_is_cleared(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 32);
    memset(mem_range(&g.mem, 0, 32 * MiB), 0xcc, 32 * MiB);
    build(&img, &kernel64, PACK_GZIP);
    assert_boot(&g, &img);
    guest_assert_segment(&g, BZ_PREF, 8192, 0);
    assert_params(&g, g.st.rsi, "");
    assert_mapped(&g, 3 * GiB);
    image_free(&img);
    guest_free(&g);
}

static void enters_pvh_when_asked(void **state)
{
    struct guest g;
    struct image img = {0}, img32 = {0};
    guest_init(&g, 32);
    g.cfg.entry = BOOT_ENTRY_PVH;
    build(&img, &kernel64, PACK_ZSTD);
    assert_boot(&g, &img);
    assert_string_equal(g.st.how, "PVH");
    assert_int_equal(g.st.rip, BZ_PREF + 0x20);
    build(&img32, &kernel32, PACK_ZSTD);
    guest_assert_refused(&g, &img32, "no PVH entry");
    image_free(&img);
    image_free(&img32);
    guest_free(&g);
}

static void kernel_unpacks_itself(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 32);
    build(&img, &kernel64, PACK_XZ);
    g.cfg.entry = BOOT_ENTRY_32;
    assert_boot(&g, &img);
    assert_int_equal(g.st.mode, BOOT_PROT32);
    assert_int_equal(g.st.rip, 0x100000);
    assert_int_equal(guest8(&g, 0x100000), 0xf4);
    assert_params(&g, g.st.rsi, "");
    g.cfg.entry = BOOT_ENTRY_64;
    assert_boot(&g, &img);
    assert_int_equal(g.st.mode, BOOT_LONG64);
    assert_int_equal(g.st.rip, 0x100200);
    image_put16(&img, 0x236, 0);
    build_seal(&img);
    guest_assert_refused(&g, &img, "no 64-bit entry");
    image_free(&img);
    guest_free(&g);
}

static void enters_real_mode(void **state)
{
    struct guest g;
    struct image img = {0};
    char text[32];
    guest_init(&g, 32);
    g.cfg.entry = BOOT_ENTRY_16;
    g.cfg.cmdline = "real mode";
    g.cfg.initrd = (struct boot_src){.data = "initrd!", .size = 7};
    build(&img, &kernel64, PACK_XZ);
    assert_boot(&g, &img);
    assert_int_equal(g.st.mode, BOOT_REAL16);
    assert_int_equal(g.st.cs.sel, 0x9020);
    assert_int_equal(g.st.cs.base, 0x90200);
    assert_int_equal(g.st.ds.sel, 0x9000);
    assert_int_equal(g.st.ss.base, 0x90000);
    assert_int_equal(g.st.rip, 0);
    assert_int_equal(g.st.cr0 & CR0_PE, 0);
    assert_int_equal(guest32(&g, 0x90202), 0x53726448);
    assert_int_equal(guest8(&g, 0x90211) & 0x81, 0x81);
    assert_int_equal(guest16(&g, 0x90224), 0xde00);
    assert_int_equal(guest32(&g, 0x90214), 0x100000);
    assert_int_equal(guest8(&g, 0x100000), 0xf4);
    assert_int_equal(mem_read(&g.mem, guest32(&g, 0x90228), text, 10), 0);
    assert_string_equal(text, "real mode");
    assert_int_equal(guest32(&g, 0x9021c), 7);
    assert_int_equal(mem_read(&g.mem, guest32(&g, 0x90218), text, 7), 0);
    assert_memory_equal(text, "initrd!", 7);
    image_free(&img);
    guest_free(&g);
}

static void initrd_goes_high(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 64);
    build(&img, &kernel64, PACK_GZIP);
    g.cfg.initrd = (struct boot_src){.data = "initrd!", .size = 7};
    assert_boot(&g, &img);
    gpa_t at = guest32(&g, g.st.rsi + 0x218);
    assert_int_equal(at, 64 * MiB - PAGE_SIZE);
    assert_int_equal(guest32(&g, g.st.rsi + 0x21c), 7);
    assert_int_equal(guest32(&g, g.st.rsi + 0xc0), 0);
    assert_int_equal(guest8(&g, at), 'i');
    image_put32(&img, 0x22c, 32 * MiB - 1); /* initrd_addr_max: its last byte */
    build_seal(&img);
    assert_boot(&g, &img);
    assert_int_equal(guest32(&g, g.st.rsi + 0x218), 32 * MiB - PAGE_SIZE);
    image_free(&img);
    guest_free(&g);
}

static void initrd_above_4g_where_it_fits_nowhere_else(void **state)
{
    struct guest g;
    struct image img = {0}, initrd = {0};
    guest_init(&g, 18);
    assert_int_equal(mem_add_ram(&g.mem, BOOT_HOLE_END, 64 * MiB, false, &g.err), 0);
    g.cfg.ram_high = 64 * MiB;
    build(&img, &kernel64, PACK_GZIP);
    image_size(&initrd, 20 * MiB);
    g.cfg.initrd = (struct boot_src){.data = initrd.data, .size = initrd.size};
    assert_boot(&g, &img);
    assert_int_equal(guest32(&g, g.st.rsi + 0xc0), 1);
    assert_int_equal(guest32(&g, g.st.rsi + 0x218), 44 * MiB);
    image_put16(&img, 0x236, 1); /* without XLF_CAN_BE_LOADED_ABOVE_4G */
    build_seal(&img);
    guest_assert_refused(&g, &img, "--memory 37M");
    image_free(&img);
    image_free(&initrd);
    guest_free(&g);
}

static void too_little_memory_says_how_much(void **state)
{
    struct guest g;
    struct image img = {0}, initrd = {0};
    guest_init(&g, 16);
    build(&img, &kernel64, PACK_GZIP);
    guest_assert_refused(&g, &img, "--memory 17M");
    image_size(&initrd, 9 * MiB);
    g.cfg.initrd = (struct boot_src){.data = initrd.data, .size = initrd.size};
    guest_assert_refused(&g, &img, "--memory 26M");
    image_size(&initrd, 17 * MiB);
    g.cfg.initrd = (struct boot_src){.data = initrd.data, .size = initrd.size};
    guest_assert_refused(&g, &img, "initrd '(in memory)' is too large");
    image_free(&img);
    image_free(&initrd);
    guest_free(&g);
}

static void cmdline_has_a_limit(void **state)
{
    struct guest g;
    struct image img = {0};
    char line[2049];
    guest_init(&g, 32);
    build(&img, &kernel64, PACK_GZIP);
    memset(line, 'x', 2048);
    line[2048] = 0;
    g.cfg.cmdline = line;
    guest_assert_refused(&g, &img, "command line of 2047 bytes");
    g.cfg.entry = BOOT_ENTRY_16;
    guest_assert_refused(&g, &img, "command line of 2047 bytes");
    line[2047] = 0;
    g.cfg.entry = BOOT_ENTRY_AUTO;
    assert_boot(&g, &img);
    image_free(&img);
    guest_free(&g);
}

static void initrd_errors_name_the_initrd(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 32);
    build(&img, &kernel64, PACK_GZIP);
    g.cfg.initrd.path = "/dev/null";
    guest_assert_refused(&g, &img, "initrd '/dev/null' is a device");
    assert_null(strstr(g.err.msg, "kernel"));
    g.cfg.initrd.path = "/nonexistent";
    guest_assert_refused(&g, &img, "cannot open initrd '/nonexistent'");
    image_free(&img);
    guest_free(&g);
}

/* Every length of the file is either whole or an error. */
static void truncated_files_are_refused(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 32);
    build(&img, &kernel64, PACK_GZIP);
    u64 whole = img.size;
    for (img.size = 1; img.size < whole - 15; img.size += img.size < 700 ? 1 : 53)
        if (!guest_boot(&g, &img))
            fail_msg("%llu of %llu bytes were enough", (unsigned long long)img.size,
                     (unsigned long long)whole);
    img.size = 0x210;
    guest_assert_refused(&g, &img, "truncated bzImage");
    img.size = whole - 16;
    guest_assert_refused(&g, &img, "truncated bzImage");
    img.size = whole;
    image_free(&img);
    guest_free(&g);
}

static void flipped_bits_are_noticed(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 32);
    build(&img, &kernel64, PACK_LZ4_LEGACY); /* which has no checksum of its own */
    for (u64 bit = 8 * CODE; bit < img.size * 8; bit += 331) {
        img.data[bit / 8] ^= 1u << (bit & 7);
        guest_assert_refused(&g, &img, "checksum");
        img.data[bit / 8] ^= 1u << (bit & 7);
    }
    for (u64 bit = 0; bit < 8 * CODE; bit++) { /* the header: whatever happens, no harm */
        img.data[bit / 8] ^= 1u << (bit & 7);
        guest_boot(&g, &img);
        img.data[bit / 8] ^= 1u << (bit & 7);
    }
    image_free(&img);
    guest_free(&g);
}

static void signed_kernels_pass_the_checksum(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 32);
    build(&img, &kernel64, PACK_GZIP);
    image_put16(&img, 0, 0x5a4d); /* MZ */
    image_put32(&img, 0x3c, 0x40);
    image_put32(&img, 0x40, 0x4550); /* PE */
    image_put16(&img, 0x58, 0x20b);
    build_seal(&img);
    assert_boot(&g, &img);
    image_put32(&img, 0x58 + 64, 0x12345678);       /* the checksum */
    image_put64(&img, 0x58 + 112 + 32, 0x12345678); /* where the signature is */
    image_put(&img, img.size, "signature", 9);
    assert_boot(&g, &img);
    image_put32(&img, 0x58 + 68, 1);
    guest_assert_refused(&g, &img, "checksum");
    image_free(&img);
    guest_free(&g);
}

/* From 6.15 on the build leaves no checksum. */
static void newer_kernels_have_no_checksum(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 32);
    build(&img, &kernel64, PACK_GZIP);
    image_put(&img, 0x800, "6.15.2", 6);
    image_put32(&img, img.size - 4, 0);
    assert_boot(&g, &img);
    image_put(&img, 0x800, "6.14.2", 6);
    guest_assert_refused(&g, &img, "checksum");
    image_free(&img);
    guest_free(&g);
}

/* One change of a good header, and what is said of it. */
struct change {
    u32 at, value;
    unsigned size;
    const char *part;
};

static void bad_headers_are_refused(void **state)
{
    static const struct change changes[] = {
        {0x206, 0x0201, 2, "before 2.4"},
        {HDR_LOADFLAGS, 0, 1, "zImage"},
        {0x200, 0x0000, 2, "jump"},
        {0x200, 0x10eb, 2, "jump"},
        {0x1f4, 0x00ffffff, 4, "truncated"},
        {0x1f1, 0xff, 1, "truncated"},
        {0x248, 0x7fffffff, 4, "truncated"},
        {0x24c, 0xffffffff, 4, "truncated"},
        {0x260, 0xfffff000, 4, "where a PC has no memory"},
        {0x260, 0x08000000, 4, "--memory 145M"},
        {0x22c, 0x00000fff, 4, "cannot take an initrd"},
        {0x1fe, 0, 2, "not a kernel"},
    };
    struct guest g;
    guest_init(&g, 32);
    g.cfg.initrd = (struct boot_src){.data = "initrd!", .size = 7};
    for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
        struct image img = {0};
        build(&img, &kernel64, PACK_GZIP);
        image_put(&img, changes[i].at, &changes[i].value, changes[i].size);
        build_seal(&img);
        guest_assert_refused(&g, &img, changes[i].part);
        image_free(&img);
    }
    guest_free(&g);
}

static void bad_payloads_are_refused(void **state)
{
    struct guest g;
    guest_init(&g, 32);
    struct image img = {0}, img2 = {0}, img3 = {0}, img4 = {0}, text = {0}, packed = {0};
    image_put(&text, 0, "BZh91AY&SY this is not for us", 30);
    build_bzimage(&img, &text);
    guest_assert_refused(&g, &img, "packed with bzip2");
    memcpy(text.data, "nothing known", 13);
    build_bzimage(&img2, &text);
    guest_assert_refused(&g, &img2, "something unknown");
    build_packed(&packed, &text, PACK_XZ, true);
    build_bzimage(&img3, &packed);
    guest_assert_refused(&g, &img3, "its payload is a truncated ELF");
    image_put32(&packed, packed.size - 4, 7); /* the appended size */
    build_bzimage(&img4, &packed);
    guest_assert_refused(&g, &img4, "other than 7 bytes");
    image_free(&img);
    image_free(&img2);
    image_free(&img3);
    image_free(&img4);
    image_free(&text);
    image_free(&packed);
    guest_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_packing_boots_at_64_bit),
        cmocka_unit_test(state_64),
        cmocka_unit_test(state_32),
        cmocka_unit_test(bss_is_cleared),
        cmocka_unit_test(enters_pvh_when_asked),
        cmocka_unit_test(kernel_unpacks_itself),
        cmocka_unit_test(enters_real_mode),
        cmocka_unit_test(initrd_goes_high),
        cmocka_unit_test(initrd_above_4g_where_it_fits_nowhere_else),
        cmocka_unit_test(too_little_memory_says_how_much),
        cmocka_unit_test(cmdline_has_a_limit),
        cmocka_unit_test(initrd_errors_name_the_initrd),
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(flipped_bits_are_noticed),
        cmocka_unit_test(signed_kernels_pass_the_checksum),
        cmocka_unit_test(newer_kernels_have_no_checksum),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(bad_payloads_are_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
