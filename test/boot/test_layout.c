#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "boot/layout.h"
#include "build.h"

#include <string.h>

static const char kernel[] = "the kernel", other[] = "something else";

static void claims_do_not_overlap(void **state)
{
    struct guest g;
    struct layout l;
    guest_init(&g, 64);
    assert_int_equal(layout_init(&l, &g.cfg, &g.err), 0);
    assert_int_equal(layout_claim(&l, MiB, MiB, kernel, &g.err), 0);
    assert_int_equal(layout_claim(&l, MiB + 100, 100, kernel, &g.err), 0); /* its own */
    assert_int_equal(layout_claim(&l, 2 * MiB - 1, 1, other, &g.err), -1);
    assert_non_null(strstr(g.err.msg, "overlap"));
    assert_int_equal(layout_claim(&l, 2 * MiB, 1, other, &g.err), 0);
    assert_int_equal(layout_claim(&l, 0x9f000, 0x2000, other, &g.err), -1);
    assert_int_equal(layout_claim(&l, ~0ull - 10, 100, other, &g.err), -1);
    guest_free(&g);
}

static void says_how_much_memory_would_do(void **state)
{
    struct guest g;
    struct layout l;
    guest_init(&g, 64);
    assert_int_equal(layout_init(&l, &g.cfg, &g.err), 0);
    assert_int_equal(layout_claim(&l, 63 * MiB, 2 * MiB, kernel, &g.err), -1);
    assert_non_null(strstr(g.err.msg, "--memory 65M"));
    l.initrd_size = 5 * MiB + 1;
    assert_int_equal(layout_claim(&l, 63 * MiB, 2 * MiB, kernel, &g.err), -1);
    assert_non_null(strstr(g.err.msg, "--memory 71M"));
    assert_int_equal(layout_claim(&l, 3 * GiB, MiB, kernel, &g.err), -1);
    assert_non_null(strstr(g.err.msg, "no memory"));
    guest_free(&g);
}

static void finds_free_places(void **state)
{
    struct guest g;
    struct layout l;
    gpa_t at;
    guest_init(&g, 64);
    assert_int_equal(layout_init(&l, &g.cfg, &g.err), 0);
    assert_int_equal(layout_claim(&l, 16 * MiB, 4 * MiB, kernel, &g.err), 0);
    assert_int_equal(layout_find_up(&l, 15 * MiB, 64 * MiB, 2 * MiB, MiB), 20 * MiB);
    assert_int_equal(layout_find_up(&l, 15 * MiB, 64 * MiB, MiB, MiB), 15 * MiB);
    assert_int_equal(layout_find_down(&l, MiB, 17 * MiB, MiB, PAGE_SIZE), 15 * MiB);
    assert_int_equal(layout_find_down(&l, MiB, 64 * MiB, MiB + 1, PAGE_SIZE), 63 * MiB - PAGE_SIZE);
    assert_true(layout_find_down(&l, MiB, 64 * MiB, 60 * MiB, 1) == LAYOUT_NONE);
    assert_true(layout_find_up(&l, MiB, 64 * MiB, 45 * MiB, 1) == LAYOUT_NONE);
    assert_true(layout_find_up(&l, MiB, ~0ull, ~0ull, 1) == LAYOUT_NONE);
    assert_int_equal(layout_place(&l, 100, 16, other, &at, &g.err), 0);
    assert_int_equal(at, LAYOUT_LOW_START);
    l.top_down = true;
    assert_int_equal(layout_place(&l, 100, 16, other, &at, &g.err), 0);
    assert_int_equal(at, align_down(LAYOUT_LOW_END - 100, 16));
    assert_int_equal(layout_place(&l, MiB, 16, other, &at, &g.err), 0);
    assert_int_equal(at, 63 * MiB);
    assert_int_equal(layout_place(&l, 60 * MiB, 16, other, &at, &g.err), -1);
    guest_free(&g);
}

static void the_map_has_holes_and_reserved_ranges(void **state)
{
    static const struct boot_range reserved[] = {
        {0xe0000, 0x4000, BOOT_MEM_ACPI},
        {60 * MiB, 2 * MiB, BOOT_MEM_ACPI},
        {0xfee00000, PAGE_SIZE, BOOT_MEM_RESERVED},
    };
    static const struct boot_range want[] = {
        {0, 0x9fc00, BOOT_MEM_RAM},
        {0x9fc00, 0x400, BOOT_MEM_RESERVED},
        {0xe0000, 0x20000, BOOT_MEM_RESERVED},
        {MiB, 59 * MiB, BOOT_MEM_RAM},
        {60 * MiB, 2 * MiB, BOOT_MEM_ACPI},
        {62 * MiB, 2 * MiB, BOOT_MEM_RAM},
        {0xfee00000, PAGE_SIZE, BOOT_MEM_RESERVED},
        {4 * GiB, GiB, BOOT_MEM_RAM},
    };
    struct boot_config cfg = {.ram_low = 64 * MiB, .ram_high = GiB};
    struct layout_map map;
    cfg.reserved = reserved;
    cfg.nreserved = ARRAY_SIZE(reserved);
    layout_map(&cfg, &map);
    assert_int_equal(map.n, ARRAY_SIZE(want));
    for (unsigned i = 0; i < map.n; i++) {
        assert_int_equal(map.range[i].gpa, want[i].gpa);
        assert_int_equal(map.range[i].size, want[i].size);
        assert_int_equal(map.range[i].type, want[i].type);
    }
}

static void nothing_goes_into_reserved_ranges(void **state)
{
    static const struct boot_range reserved[] = {{0x1000, 0x9000, BOOT_MEM_RESERVED},
                                                 {60 * MiB, 4 * MiB, BOOT_MEM_ACPI}};
    struct guest g;
    struct layout l;
    gpa_t at;
    guest_init(&g, 64);
    g.cfg.reserved = reserved;
    g.cfg.nreserved = 2;
    assert_int_equal(layout_init(&l, &g.cfg, &g.err), 0);
    assert_int_equal(layout_place(&l, 100, 16, other, &at, &g.err), 0);
    assert_int_equal(at, 0xa000);
    assert_int_equal(layout_find_down(&l, MiB, 64 * MiB, MiB, MiB), 59 * MiB);
    assert_int_equal(layout_claim(&l, 59 * MiB, 2 * MiB, kernel, &g.err), -1);
    guest_free(&g);
}

static void impossible_memory_is_refused(void **state)
{
    struct guest g;
    struct layout l;
    guest_init(&g, 64);
    g.cfg.ram_low = 4 * GiB;
    assert_int_equal(layout_init(&l, &g.cfg, &g.err), -1);
    g.cfg.ram_low = 64 * KiB;
    assert_int_equal(layout_init(&l, &g.cfg, &g.err), -1);
    g.cfg.ram_low = 64 * MiB;
    g.cfg.nreserved = BOOT_RESERVED_MAX + 1;
    assert_int_equal(layout_init(&l, &g.cfg, &g.err), -1);
    guest_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(claims_do_not_overlap),
        cmocka_unit_test(says_how_much_memory_would_do),
        cmocka_unit_test(finds_free_places),
        cmocka_unit_test(the_map_has_holes_and_reserved_ranges),
        cmocka_unit_test(nothing_goes_into_reserved_ranges),
        cmocka_unit_test(impossible_memory_is_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
