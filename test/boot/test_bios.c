#include "boot/bios.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static u64 peek(struct mem *m, gpa_t gpa, unsigned len)
{
    u64 v = 0;
    assert_int_equal(mem_read(m, gpa, &v, len), 0);
    return v;
}

static const struct layout_map map = {
    .n = 2,
    .range = {{.gpa = 0, .size = 0x9fc00, .type = BOOT_MEM_RAM},
              {.gpa = MiB, .size = MiB, .type = BOOT_MEM_RAM}},
};

/* Every vector leads to an IRET or a handler in F000, and the reset vector to code. */
static void test_vectors(void **state)
{
    struct mem m;
    mem_init(&m, NULL);
    assert_int_equal(mem_add_ram(&m, 0, 2 * MiB, false, NULL), 0);
    bios_install(&m, &map);
    u32 common = peek(&m, 4 * 0xff, 4);
    assert_int_equal(common >> 16, 0xf000);
    assert_int_equal(peek(&m, BIOS_GPA + (common & 0xffff), 1), 0xcf);
    static const u8 own[] = {0x08, 0x10, 0x13, 0x15, 0x16, 0x1a, 0x70, 0x77};
    for (unsigned n = 0; n < sizeof(own); n++) {
        u32 far = peek(&m, 4 * own[n], 4);
        assert_int_equal(far >> 16, 0xf000);
        assert_int_not_equal(far, common);
    }
    assert_int_equal(peek(&m, 0xffff0, 2), 0x19cd); /* INT 19h */
    assert_int_equal(peek(&m, 0x413, 2), 639);      /* conventional memory, in the data area */
    mem_free(&m);
}

/* The map is in the image as INT 15h, E820 reads it: a count, then entries of 20 bytes. */
static void test_map(void **state)
{
    struct mem m;
    mem_init(&m, NULL);
    mem_add_ram(&m, 0, 2 * MiB, false, NULL);
    bios_install(&m, &map);
    static const u8 want[] = {2,
                              0,
                              0,
                              0,
                              /* base */ 0,
                              0,
                              0,
                              0,
                              0,
                              0,
                              0,
                              0,
                              /* size */ 0,
                              0xfc,
                              9,
                              0,
                              0,
                              0,
                              0,
                              0,
                              /* type */ 1,
                              0,
                              0,
                              0,
                              /* base */ 0,
                              0,
                              0x10,
                              0,
                              0,
                              0,
                              0,
                              0};
    const u8 *rom = mem_range(&m, BIOS_GPA, 0x1000);
    assert_non_null(memmem(rom, 0x1000, want, sizeof(want)));
    mem_free(&m);
}

/* A machine whose RAM ends below 1 MiB gets none, and is not written beyond its end. */
static void test_small(void **state)
{
    struct mem m;
    mem_init(&m, NULL);
    mem_add_ram(&m, 0, 64 * KiB, false, NULL);
    bios_install(&m, &map);
    assert_int_equal(peek(&m, 4 * 0x10, 4), 0);
    mem_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_small),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
