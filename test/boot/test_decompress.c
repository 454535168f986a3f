#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "boot/decompress.h"
#include "build.h"

#include <string.h>

static const int packs[] = {PACK_GZIP, PACK_XZ, PACK_LZMA, PACK_LZ4_LEGACY, PACK_LZ4, PACK_ZSTD};
static const char *const names[] = {"gzip", "xz", "lzma", "lz4", "lz4", "zstd"};

/* More than one 8 MiB block of the legacy LZ4 format, and more than one step of input. */
#define BIG (9 * MiB)

static void fill(struct image *img, u64 size)
{
    u32 x = 1;
    image_size(img, size);
    for (u64 i = 0; i < size; i++) {
        if (!(i & 7))
            x = x * 1664525 + 1013904223;
        img->data[i] = i & 4 ? x >> 24 : 0xe8; /* 0xe8: CALL, which the x86 filter rewrites */
    }
}

static void every_format_unpacks(void **state)
{
    struct image in = {0};
    fill(&in, BIG);
    for (unsigned i = 0; i < ARRAY_SIZE(packs); i++) {
        struct image packed = {0};
        struct blob out;
        struct err e = {""};
        build_packed(&packed, &in, packs[i], true);
        assert_string_equal(decompress_name(decompress_detect(packed.data, packed.size)), names[i]);
        if (decompress(packed.data, packed.size, BIG + 4096, NULL, NULL, &out, &e))
            fail_msg("%s: %s", names[i], e.msg);
        assert_int_equal(out.size, in.size);
        assert_memory_equal(out.data, in.data, in.size);
        blob_free(&out);
        image_free(&packed);
    }
    image_free(&in);
}

static void output_is_bounded(void **state)
{
    struct image in = {0};
    fill(&in, MiB);
    for (unsigned i = 0; i < ARRAY_SIZE(packs); i++) {
        struct image packed = {0};
        struct blob out;
        struct err e = {""};
        build_packed(&packed, &in, packs[i], false);
        assert_int_equal(decompress(packed.data, packed.size, 100000, NULL, NULL, &out, &e), -1);
        if (!strstr(e.msg, "more than") || !strstr(e.msg, names[i]))
            fail_msg("%s: %s", names[i], e.msg);
        assert_null(out.data);
        image_free(&packed);
    }
    image_free(&in);
}

static void every_truncation_is_an_error(void **state)
{
    struct image in = {0};
    fill(&in, 20000);
    for (unsigned i = 0; i < ARRAY_SIZE(packs); i++) {
        struct image packed = {0};
        build_packed(&packed, &in, packs[i], false);
        for (u64 n = 0; n < packed.size; n += n < 64 ? 1 : 97) {
            struct blob out;
            struct err e = {""};
            int r = decompress(packed.data, n, MiB, NULL, NULL, &out, &e);
            if (!r)
                fail_msg("%s cut to %llu of %llu bytes passed", names[i], (unsigned long long)n,
                         (unsigned long long)packed.size);
            assert_true(strlen(e.msg) > 10);
        }
        image_free(&packed);
    }
    image_free(&in);
}

/* Damage is found, or changes what comes out, but never does harm. */
static void flipped_bits_do_no_harm(void **state)
{
    struct image in = {0};
    fill(&in, 3000);
    for (unsigned i = 0; i < ARRAY_SIZE(packs); i++) {
        struct image packed = {0};
        build_packed(&packed, &in, packs[i], true);
        for (u64 bit = 0; bit < packed.size * 8; bit += bit < 512 ? 1 : 61) {
            struct blob out;
            struct err e = {""};
            packed.data[bit / 8] ^= 1u << (bit & 7);
            if (decompress(packed.data, packed.size, MiB, NULL, NULL, &out, &e))
                assert_true(strlen(e.msg) > 10);
            blob_free(&out);
            packed.data[bit / 8] ^= 1u << (bit & 7);
        }
        image_free(&packed);
    }
    image_free(&in);
}

static void formats_with_a_checksum_notice(void **state)
{
    static const int checked[] = {PACK_GZIP, PACK_XZ};
    struct image in = {0};
    fill(&in, 20000);
    for (unsigned i = 0; i < ARRAY_SIZE(checked); i++) {
        struct image packed = {0};
        struct blob out;
        struct err e = {""};
        build_packed(&packed, &in, checked[i], false);
        packed.data[packed.size / 2] ^= 1;
        assert_int_equal(decompress(packed.data, packed.size, MiB, NULL, NULL, &out, &e), -1);
        assert_non_null(strstr(e.msg, "damaged"));
        image_free(&packed);
    }
    image_free(&in);
}

static void unsupported_formats_are_named(void **state)
{
    struct blob out;
    struct err e = {""};
    assert_int_equal(decompress((const u8 *)"BZh91AY&SY", 10, MiB, NULL, NULL, &out, &e), -1);
    assert_non_null(strstr(e.msg, "bzip2"));
    assert_int_equal(decompress((const u8 *)"\x89LZO\0\r\n\x1a\n", 9, MiB, NULL, NULL, &out, &e),
                     -1);
    assert_non_null(strstr(e.msg, "lzo"));
    assert_int_equal(decompress((const u8 *)"hello world", 11, MiB, NULL, NULL, &out, &e), -1);
    assert_non_null(strstr(e.msg, "unknown"));
}

struct progress {
    u64 last, total;
    unsigned calls;
};

static void note(void *arg, const char *what, u64 done, u64 total)
{
    struct progress *p = arg;
    assert_true(done >= p->last && done <= total);
    p->last = done;
    p->total = total;
    p->calls++;
}

static void progress_reaches_the_end(void **state)
{
    struct image in = {0}, packed = {0};
    struct progress p = {0};
    struct blob out;
    struct err e;
    fill(&in, BIG);
    build_packed(&packed, &in, PACK_LZ4, false);
    assert_int_equal(decompress(packed.data, packed.size, BIG + 1, note, &p, &out, &e), 0);
    assert_int_equal(p.last, packed.size);
    assert_int_equal(p.total, packed.size);
    assert_in_range(p.calls, 2, packed.size / MiB + 2);
    blob_free(&out);
    image_free(&packed);
    image_free(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_unpacks),
        cmocka_unit_test(output_is_bounded),
        cmocka_unit_test(every_truncation_is_an_error),
        cmocka_unit_test(flipped_bits_do_no_harm),
        cmocka_unit_test(formats_with_a_checksum_notice),
        cmocka_unit_test(unsupported_formats_are_named),
        cmocka_unit_test(progress_reaches_the_end),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
