#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "build.h"
#include "x86/x86.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    INFO_FLAGS = 0,
    MEM_LOWER = 4,
    MEM_UPPER = 8,
    CMDLINE = 16,
    MODS_COUNT = 20,
    MODS_ADDR = 24,
    MMAP_LENGTH = 44,
    MMAP_ADDR = 48,
    LOADER_NAME = 64
};

static void assert_boot(struct guest *g, const struct image *img)
{
    if (guest_boot(g, img))
        fail_msg("%s", g->err.msg);
}

static void assert_text(const struct guest *g, gpa_t gpa, const char *want)
{
    char text[128] = "";
    assert_int_equal(mem_read(&g->mem, gpa, text, strlen(want) + 1), 0);
    assert_string_equal(text, want);
}

/* A flat kernel: its header at `header` in the file and loaded, as a whole, at 1 MiB. */
static void build_flat(struct image *img, u32 header, u32 size, u32 bss)
{
    image_size(img, size);
    memset(img->data, 0x90, size);
    const u32 fields[] = {0x1badb002, 0x10003,    -(0x1badb002 + 0x10003),    MiB + header,
                          MiB,        MiB + size, bss ? MiB + size + bss : 0, MiB + 0x20};
    image_put(img, header, fields, sizeof(fields));
}

static void elf_boots(void **state)
{
    static const struct elf_spec specs[] = {
        {.paddr = 4 * MiB, .multiboot = true},
        {.paddr = 4 * MiB, .multiboot = true, .is64 = true},
        {.paddr = 4 * MiB, .multiboot = true, .vaddr = 0xc0400000, .entry = 0xc0400010},
        {.paddr = 4 * MiB, .multiboot = true, .pvh = 0x123},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(specs); i++) {
        struct guest g;
        struct image img = {0};
        guest_init(&g, 16);
        build_elf(&img, &specs[i]);
        assert_boot(&g, &img);
        assert_string_equal(g.st.how, "multiboot");
        assert_int_equal(g.st.mode, BOOT_PROT32);
        assert_int_equal(g.st.rip, 4 * MiB + 0x10);
        assert_int_equal(g.st.rax, 0x2badb002);
        assert_int_equal(g.st.cr0, CR0_PE | CR0_ET);
        assert_int_equal(g.st.rflags & FLAG_IF, 0);
        guest_assert_segment(&g, 4 * MiB, 8192, 12);
        image_free(&img);
        guest_free(&g);
    }
}

static void information(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 16);
    g.cfg.cmdline = "one two";
    build_elf(&img, &(struct elf_spec){.paddr = 4 * MiB, .multiboot = true});
    assert_boot(&g, &img);
    gpa_t info = g.st.rbx;
    assert_int_equal(guest32(&g, info) & 0x245, 0x245);
    assert_int_equal(guest32(&g, info + MEM_LOWER), 639);
    assert_int_equal(guest32(&g, info + MEM_UPPER), 15 * 1024);
    assert_text(&g, guest32(&g, info + CMDLINE), "vmtest one two");
    assert_int_equal(guest32(&g, info + MODS_COUNT), 0);
    assert_text(&g, guest32(&g, info + LOADER_NAME), "popf");
    assert_int_equal(guest32(&g, info + MMAP_LENGTH), 4 * 24);
    gpa_t map = guest32(&g, info + MMAP_ADDR) + 3 * 24;
    assert_int_equal(guest32(&g, map), 20);
    assert_int_equal(guest64(&g, map + 4), MiB);
    assert_int_equal(guest64(&g, map + 12), 15 * MiB);
    assert_int_equal(guest32(&g, map + 20), 1);
    g.cfg.cmdline = NULL;
    assert_boot(&g, &img);
    assert_text(&g, guest32(&g, g.st.rbx + CMDLINE), "vmtest");
    image_free(&img);
    guest_free(&g);
}

static void flat_boots(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 16);
    memset(mem_range(&g.mem, MiB, MiB), 0xcc, MiB);
    build_flat(&img, 4096, 16384, 4096);
    assert_boot(&g, &img);
    assert_int_equal(g.st.rip, MiB + 0x20);
    assert_int_equal(guest32(&g, MiB + 4096), 0x1badb002);
    assert_int_equal(guest8(&g, MiB + 16383), 0x90);
    assert_int_equal(guest8(&g, MiB + 16384), 0);
    assert_int_equal(guest8(&g, MiB + 16384 + 4095), 0);
    assert_int_equal(guest8(&g, MiB + 16384 + 4096), 0xcc);
    image_put32(&img, 4096 + 20, 0); /* load_end_addr: to the end of the file */
    image_put32(&img, 4096 + 24, 0);
    assert_boot(&g, &img);
    assert_int_equal(guest8(&g, MiB + 16383), 0x90);
    image_free(&img);
    guest_free(&g);
}

/* A kernel in low memory, where the loader's own things would go first. */
static void low_kernels_are_not_overwritten(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 16);
    build_elf(&img, &(struct elf_spec){.paddr = 0x1000, .multiboot = true, .size = 0x9a000});
    assert_boot(&g, &img);
    guest_assert_segment(&g, 0x1000, 0x9a000, 12);
    assert_true(g.st.rbx >= 0x9c000 && g.st.gdt.base >= 0x9c000);
    image_free(&img);
    guest_free(&g);
}

static void make_module(char path[40], const char *text)
{
    strcpy(path, "/tmp/popf-test-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void modules_are_a_list(void **state)
{
    struct guest g;
    struct image img = {0};
    char a[40], b[40], list[128], want[128];
    guest_init(&g, 16);
    build_elf(&img, &(struct elf_spec){.paddr = 4 * MiB, .multiboot = true});
    make_module(a, "first");
    make_module(b, "second one");
    snprintf(list, sizeof(list), "%s with,,comma,%s", a, b);
    g.cfg.initrd.path = list;
    assert_boot(&g, &img);
    assert_int_equal(guest32(&g, g.st.rbx) & 8, 8);
    assert_int_equal(guest32(&g, g.st.rbx + MODS_COUNT), 2);
    gpa_t mod = guest32(&g, g.st.rbx + MODS_ADDR);
    assert_int_equal(guest32(&g, mod), 4 * MiB + 12288);
    assert_int_equal(guest32(&g, mod + 4) - guest32(&g, mod), 5);
    snprintf(want, sizeof(want), "%s with,comma", a);
    assert_text(&g, guest32(&g, mod + 8), want);
    assert_text(&g, guest32(&g, mod), "first");
    assert_int_equal(guest32(&g, mod + 16) & PAGE_MASK, 0);
    assert_int_equal(guest32(&g, mod + 20) - guest32(&g, mod + 16), 10);
    assert_text(&g, guest32(&g, mod + 24), b);
    unlink(b);
    guest_assert_refused(&g, &img, "cannot open initrd");
    unlink(a);
    image_free(&img);
    guest_free(&g);
}

static void modules_have_limits(void **state)
{
    struct guest g;
    struct image img = {0}, big = {0};
    char a[40], list[40 * 40] = "";
    guest_init(&g, 16);
    build_elf(&img, &(struct elf_spec){.paddr = 4 * MiB, .multiboot = true});
    image_size(&big, 13 * MiB);
    g.cfg.initrd = (struct boot_src){.data = big.data, .size = big.size};
    guest_assert_refused(&g, &img, "--memory");
    image_free(&big);
    make_module(a, "x");
    for (unsigned i = 0; i < 33; i++)
        sprintf(list + strlen(list), "%s%s", i ? "," : "", a);
    g.cfg.initrd = (struct boot_src){.path = list};
    guest_assert_refused(&g, &img, "32 modules");
    unlink(a);
    image_free(&img);
    guest_free(&g);
}

/* A change of the flat kernel's header, and what is said of it. */
struct change {
    u32 field, value;
    const char *part;
};

static void bad_headers_are_refused(void **state)
{
    static const struct change changes[] = {
        {3, MiB - 1, "damaged multiboot header"},
        {3, MiB + 8192, "damaged multiboot header"},
        {4, 2 * MiB, "damaged multiboot header"},
        {5, MiB - 1, "truncated multiboot kernel"},
        {5, MiB + 16385, "truncated multiboot kernel"},
        {6, 64 * MiB, "--memory 64M"},
        {6, 0xfffffff0, "no memory"},
    };
    struct guest g;
    guest_init(&g, 16);
    for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
        struct image img = {0};
        build_flat(&img, 4096, 16384, 4096);
        image_put32(&img, 4096 + 4 * changes[i].field, changes[i].value);
        guest_assert_refused(&g, &img, changes[i].part);
        image_free(&img);
    }
    guest_free(&g);
}

static void wrong_kinds_are_refused(void **state)
{
    struct guest g;
    struct image img = {0}, late = {0};
    guest_init(&g, 16);
    build_flat(&img, 64, 4096, 0);
    image_put32(&img, 68, 0x8000);
    image_put32(&img, 72, -(0x1badb002 + 0x8000));
    guest_assert_refused(&g, &img, "features nobody defined");
    image_put32(&img, 68, 3);
    image_put32(&img, 72, -(0x1badb002 + 3));
    guest_assert_refused(&g, &img, "neither ELF nor");
    image_put32(&img, 72, 0); /* the checksum */
    guest_assert_refused(&g, &img, "not a kernel");
    build_flat(&late, 8192 - 8, 16384, 0); /* beyond the first 8 KiB */
    guest_assert_refused(&g, &late, "not a kernel");
    image_free(&img);
    image_free(&late);
    guest_free(&g);
}

static void a_header_may_end_the_file(void **state)
{
    struct guest g;
    struct image img = {0};
    guest_init(&g, 16);
    build_flat(&img, 64, 4096, 0);
    for (img.size = 64; img.size < 96; img.size++)
        assert_int_equal(guest_boot(&g, &img), -1);
    image_free(&img);
    guest_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elf_boots),
        cmocka_unit_test(information),
        cmocka_unit_test(flat_boots),
        cmocka_unit_test(low_kernels_are_not_overwritten),
        cmocka_unit_test(modules_are_a_list),
        cmocka_unit_test(modules_have_limits),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(wrong_kinds_are_refused),
        cmocka_unit_test(a_header_may_end_the_file),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
