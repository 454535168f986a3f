#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "build.h"
#include "x86/x86.h"

#include <string.h>

static const struct elf_spec pvh64 = {.is64 = true, .paddr = MiB, .pvh = MiB + 0x40};
static const struct elf_spec pvh32 = {.paddr = MiB, .pvh = MiB + 0x40};
static const struct elf_spec linux64 = {
    .is64 = true, .paddr = MiB, .vaddr = 0xffffffff80100000, .banner = true};
static const struct elf_spec linux32 = {.paddr = MiB, .banner = true};

static void assert_boot(struct guest *g, const struct image *img)
{
    if (guest_boot(g, img))
        fail_msg("%s", g->err.msg);
}

static void pvh_boots(void **state)
{
    for (int is64 = 0; is64 < 2; is64++) {
        struct guest g;
        struct image img = {0};
        guest_init(&g, 16);
        build_elf(&img, is64 ? &pvh64 : &pvh32);
        assert_boot(&g, &img);
        assert_int_equal(g.st.mode, BOOT_PROT32);
        assert_int_equal(g.st.rip, MiB + 0x40);
        assert_int_equal(g.st.cr0, CR0_PE | CR0_ET);
        assert_int_equal(g.st.rflags, 2);
        assert_int_equal(g.st.tr.attr, 0x8b);
        guest_assert_segment(&g, MiB, 8192, 0);
        image_free(&img);
        guest_free(&g);
    }
}

static void start_info(void **state)
{
    struct guest g;
    struct image img = {0};
    char text[16];
    guest_init(&g, 16);
    g.cfg.cmdline = "a=b c";
    g.cfg.initrd = (struct boot_src){.data = "initrd!", .size = 7};
    build_elf(&img, &pvh64);
    assert_boot(&g, &img);
    gpa_t si = g.st.rbx;
    assert_int_equal(guest32(&g, si), 0x336ec578);
    assert_int_equal(guest32(&g, si + 4), 1);
    assert_int_equal(guest32(&g, si + 12), 1);
    gpa_t mod = guest64(&g, si + 16);
    assert_int_equal(guest64(&g, mod), 16 * MiB - PAGE_SIZE);
    assert_int_equal(guest64(&g, mod + 8), 7);
    assert_int_equal(guest8(&g, guest64(&g, mod)), 'i');
    assert_int_equal(mem_read(&g.mem, guest64(&g, si + 24), text, 6), 0);
    assert_string_equal(text, "a=b c");
    assert_int_equal(guest64(&g, si + 32), 0xe0010);
    gpa_t map = guest64(&g, si + 40);
    assert_int_equal(guest32(&g, si + 48), 4);
    assert_int_equal(guest64(&g, map + 8), 0x9fc00);
    assert_int_equal(guest32(&g, map + 16), 1);
    assert_int_equal(guest64(&g, map + 3 * 24), MiB);
    assert_int_equal(guest64(&g, map + 3 * 24 + 8), 15 * MiB);
    image_free(&img);
    guest_free(&g);
}

static void linux_without_a_note_boots(void **state)
{
    struct guest g;
    struct image img = {0}, img32 = {0};
    guest_init(&g, 16);
    build_elf(&img, &linux64);
    assert_boot(&g, &img);
    assert_int_equal(g.st.mode, BOOT_LONG64);
    assert_int_equal(g.st.rip, MiB + 0x10);
    assert_int_equal(guest32(&g, g.st.rsi + 0x202), 0x53726448);
    assert_int_equal(guest16(&g, g.st.rsi + 0x1fe), 0xaa55);
    guest_assert_segment(&g, MiB, 8192, 16);
    build_elf(&img32, &linux32);
    assert_boot(&g, &img32);
    assert_int_equal(g.st.mode, BOOT_PROT32);
    assert_int_equal(g.st.rip, MiB + 0x10);
    g.cfg.entry = BOOT_ENTRY_32;
    assert_boot(&g, &img32);
    image_free(&img);
    image_free(&img32);
    guest_free(&g);
}

/* Old kernels have a virtual address for an entry. */
static void virtual_entry_is_translated(void **state)
{
    struct guest g;
    struct image img = {0};
    struct elf_spec spec = linux64;
    guest_init(&g, 16);
    spec.entry = spec.vaddr + 0x30;
    build_elf(&img, &spec);
    assert_boot(&g, &img);
    assert_int_equal(g.st.rip, MiB + 0x30);
    image_free(&img);
    guest_free(&g);
}

static void entry_preference_is_kept(void **state)
{
    struct guest g;
    struct image img = {0}, noted = {0};
    guest_init(&g, 16);
    build_elf(&img, &linux64);
    build_elf(&noted, &pvh64);
    g.cfg.entry = BOOT_ENTRY_16;
    guest_assert_refused(&g, &img, "no real-mode entry");
    g.cfg.entry = BOOT_ENTRY_32;
    guest_assert_refused(&g, &img, "64-bit ELF file cannot be entered by the 32-bit");
    g.cfg.entry = BOOT_ENTRY_PVH;
    guest_assert_refused(&g, &img, "no PVH entry");
    g.cfg.entry = BOOT_ENTRY_64;
    assert_boot(&g, &noted);
    assert_int_equal(g.st.mode, BOOT_LONG64);
    image_free(&img);
    image_free(&noted);
    guest_free(&g);
}

static void entries_have_names(void **state)
{
    for (int i = 0; i < BOOT_ENTRY_N; i++)
        assert_int_equal(boot_entry_parse(boot_entry_name(i)), i);
    assert_int_equal(boot_entry_parse("128"), -1);
    assert_int_equal(boot_entry_parse("pvh"), BOOT_ENTRY_PVH);
}

/* Changes of a good ELF64 file: header at 0, program header at 64, note header at 120. */
struct change {
    u32 at;
    u64 value;
    unsigned size;
    const char *part;
};

static void bad_files_are_refused(void **state)
{
    static const struct change changes[] = {
        {4, 3, 1, "class 3"},
        {5, 2, 1, "big-endian"},
        {16, 1, 2, "object"},
        {16, 4, 2, "core dump"},
        {16, 77, 2, "type 77"},
        {18, 183, 2, "arm64"},
        {18, 243, 2, "RISC-V"},
        {18, 999, 2, "another machine"},
        {32, ~0ull, 8, "program headers"},
        {32, 1ull << 40, 8, "program headers"},
        {54, 8, 2, "program headers of 8"},
        {56, 0xffff, 2, "program headers"},
        {56, 0, 2, "nothing to load"},
        {64, 3, 4, "program for Linux"},
        {64 + 8, ~0ull - 8, 8, "truncated"},
        {64 + 8, 0x100000, 8, "truncated"},
        {64 + 32, ~0ull, 8, "truncated"},
        {64 + 40, 1, 8, "sizes that cannot be"},
        {64 + 40, ~0ull, 8, "sizes that cannot be"},
        {64 + 24, ~0ull, 8, "sizes that cannot be"},
        {64 + 40, 1ull << 60, 8, "no memory"},
        {64 + 40, 100 * MiB, 8, "--memory 101M"},
        {64 + 24, 5 * GiB, 8, "overlap the PC's memory hole"},
        {64 + 24, 0x9f000, 8, "overlap the PC's memory hole"},
    };
    struct guest g;
    guest_init(&g, 16);
    for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
        struct image img = {0};
        build_elf(&img, &pvh64);
        image_put(&img, changes[i].at, &changes[i].value, changes[i].size);
        guest_assert_refused(&g, &img, changes[i].part);
        image_free(&img);
    }
    guest_free(&g);
}

static void programs_are_not_kernels(void **state)
{
    struct guest g;
    struct image img = {0};
    struct elf_spec spec = linux64;
    guest_init(&g, 16);
    spec.banner = false;
    build_elf(&img, &spec);
    guest_assert_refused(&g, &img, "neither Linux nor");
    image_free(&img);
    guest_free(&g);
}

static void notes_may_be_damaged(void **state)
{
    struct guest g;
    guest_init(&g, 16);
    for (u32 at = 0x300; at < 0x328; at += 4) {
        struct image img = {0};
        build_elf(&img, &pvh64);
        image_put32(&img, at, 0xfffffff0);
        guest_boot(&g, &img);
        image_free(&img);
    }
    guest_free(&g);
}

static void every_truncation_is_refused(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 16);
    build_elf(&img, &pvh64);
    u64 whole = img.size;
    for (img.size = 1; img.size < whole; img.size += img.size < 1100 ? 1 : 61)
        assert_int_equal(guest_boot(&g, &img), -1);
    img.size = whole;
    image_free(&img);
    guest_free(&g);
}

static void segments_do_not_hit_reserved_memory(void **state)
{
    static const struct boot_range acpi = {MiB + 0x1000, 0x1000, BOOT_MEM_ACPI};
    struct guest g;
    struct image img = {0};
    guest_init(&g, 16);
    g.cfg.reserved = &acpi;
    g.cfg.nreserved = 1;
    build_elf(&img, &pvh64);
    guest_assert_refused(&g, &img, "would overlap what the machine keeps");
    image_free(&img);
    guest_free(&g);
}

/* Bytes of a foreign file at a place, and what is said of it. */
struct foreign {
    u32 at;
    const char *bytes;
    unsigned size;
    u64 file_size;
    const char *part;
};

static void foreign_files_are_named(void **state)
{
    static const struct foreign files[] = {
        {0x38, "ARM\x64", 4, 65536, "arm64 Linux image"},
        {0x38, "RSC\x05", 4, 65536, "RISC-V"},
        {0, "\x27\x05\x19\x56", 4, 4096, "U-Boot"},
        {0x8001, "CD001", 5, 65536, "ISO 9660"},
        {0, "QFI\xfb", 4, 65536, "qcow2"},
        {0, "070701", 6, 4096, "--initrd"},
        {0, "\x1f\x8b\x08", 3, 4096, "gzip data"},
        {0,
         "\xfd"
         "7zXZ\0",
         6, 4096, "xz or lzma"},
        {0, "\x28\xb5\x2f\xfd", 4, 4096, "zstd data"},
        {0, "\x04\x22\x4d\x18", 4, 4096, "lz4 data"},
        {0, "BZh9", 4, 4096, "bzip2 data"},
        {0, "MZ", 2, 4096, "EFI (PE) program"},
        {510, "\x55\xaa", 2, 4096, "boot sector"},
        {0, "#!/bin/sh", 9, 100, "a script"},
        {0, "!<arch>\n", 8, 4096, "Debian package"},
        {0x438, "\x53\xef", 2, 4096, "file system"},
        {0, "x", 1, 1, "too short"},
        {0, "hello", 5, 4096, "not a kernel that popf knows"},
        {8, "\xd6\x50\x52\xe8\0\0\0\0\x18\0\0\0\x12\xaf\xad\x17", 16, 4096, "multiboot 2"},
    };
    struct guest g;
    guest_init(&g, 16);
    for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
        struct image img = {0};
        image_put(&img, files[i].at, files[i].bytes, files[i].size);
        image_size(&img, files[i].file_size);
        guest_assert_refused(&g, &img, files[i].part);
        assert_non_null(strstr(g.err.msg, "kernel 'vmtest'"));
        image_free(&img);
    }
    guest_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pvh_boots),
        cmocka_unit_test(start_info),
        cmocka_unit_test(linux_without_a_note_boots),
        cmocka_unit_test(virtual_entry_is_translated),
        cmocka_unit_test(entry_preference_is_kept),
        cmocka_unit_test(entries_have_names),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(programs_are_not_kernels),
        cmocka_unit_test(notes_may_be_damaged),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(segments_do_not_hit_reserved_memory),
        cmocka_unit_test(foreign_files_are_named),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
