/*
 * The NoCloud seed: its file system as ECMA-119 and Rock Ridge have it, and what is in the files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <crypt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/seed.h"
#include "cli/text.h"

static char dir[32], seed_path[64], key_path[64];

static void write_file(const char *name, const char *text)
{
    char path[96];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make_dir(void **state)
{
    strcpy(dir, "/tmp/popf-test-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(seed_path, sizeof(seed_path), "%s/seed.iso", dir);
    snprintf(key_path, sizeof(key_path), "%s/key.pub", dir);
    write_file("key.pub", "# mine\n\nssh-ed25519 AAAA jo@\"here\"\r\nssh-rsa BBBB\n");
    return 0;
}

static int remove_dir(void **state)
{
    static const char *const files[] = {"seed.iso", "key.pub", "user-data", "meta-data", "private"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char path[96];
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        unlink(path);
    }
    return rmdir(dir);
}

/* --- a reader, as a kernel would read it --- */

static uint32_t le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[3] | (uint32_t)p[2] << 8 | (uint32_t)p[1] << 16 | (uint32_t)p[0] << 24;
}

static uint8_t *load(size_t *len)
{
    FILE *f = fopen(seed_path, "r");
    assert_non_null(f);
    uint8_t *image = malloc(1 << 20);
    *len = fread(image, 1, 1 << 20, f);
    fclose(f);
    return image;
}

/* The name that Rock Ridge gives a record, or "". */
static void record_name(const uint8_t *rec, char *name)
{
    const uint8_t *p = rec + 33 + rec[32] + !(rec[32] & 1), *end = rec + rec[0];
    *name = 0;
    while (p + 4 <= end && p[2] >= 4) {
        if (p[0] == 'N' && p[1] == 'M') {
            memcpy(name, p + 5, p[2] - 5u);
            name[p[2] - 5] = 0;
        }
        p += p[2];
    }
}

/* A file's text, to be freed, or NULL. */
static char *read_seed(const char *wanted)
{
    size_t len;
    uint8_t *image = load(&len);
    const uint8_t *d = image + 16 * 2048;
    assert_memory_equal(d, "\1CD001\1", 7);
    assert_memory_equal(d + 40, "cidata                          ", 32);
    assert_int_equal(le32(d + 80) * 2048, len);
    assert_int_equal(le32(d + 80), be32(d + 84));
    const uint8_t *root = image + le32(d + 156 + 2) * 2048;
    const uint8_t *end = root + le32(d + 156 + 10);
    assert_memory_equal(root + 34, "SP\7\1\xbe\xef", 6);
    char *text = NULL;
    for (const uint8_t *rec = root; rec < end && !text; rec += rec[0]) {
        char name[256];
        if (!rec[0]) { /* the rest of the sector is empty */
            rec = root + ((rec - root) / 2048 + 1) * 2048;
            if (rec >= end || !rec[0])
                break;
        }
        record_name(rec, name);
        assert_int_equal(le32(rec + 2), be32(rec + 6));
        if (strcmp(name, wanted))
            continue;
        uint32_t n = le32(rec + 10);
        assert_true(le32(rec + 2) * 2048ull + n <= len);
        text = calloc(1, n + 1);
        memcpy(text, image + le32(rec + 2) * 2048, n);
    }
    free(image);
    return text;
}

static void expect_part(const char *name, const char *part)
{
    char *text = read_seed(name);
    assert_non_null(text);
    if (!strstr(text, part))
        fail_msg("%s has no \"%s\":\n%s", name, part, text);
    free(text);
}

/* --- tests --- */

static void user(void **state)
{
    const char *keys[] = {key_path};
    struct seed s = {.user = "jo", .keys = keys, .nkeys = 1, .hostname = "web"};
    struct popf_error err;
    assert_int_equal(seed_write(&s, seed_path, &err), 0);
    expect_part("user-data", "#cloud-config\nusers:\n  - name: \"jo\"\n");
    expect_part("user-data", "    ssh_authorized_keys:\n"
                             "      - \"ssh-ed25519 AAAA jo@\\\"here\\\"\"\n"
                             "      - \"ssh-rsa BBBB\"\n");
    expect_part("user-data", "lock_passwd: true\n");
    expect_part("meta-data", "instance-id: popf-");
    expect_part("meta-data", "local-hostname: \"web\"\n");
    expect_part("network-config", "dhcp4: true\n");
    assert_null(read_seed("vendor-data"));
}

static void password(void **state)
{
    struct seed s = {.user = "jo", .password = "se\"cret"};
    struct popf_error err;
    assert_int_equal(seed_write(&s, seed_path, &err), 0);
    char *text = read_seed("user-data"), *p = strstr(text, "passwd: \"$");
    assert_non_null(p);
    p += strlen("passwd: \"");
    p[strcspn(p, "\"")] = 0;
    assert_string_equal(crypt("se\"cret", p), p);
    free(text);
}

static char *instance_id(const struct seed *s)
{
    struct popf_error err;
    assert_int_equal(seed_write(s, seed_path, &err), 0);
    return read_seed("meta-data");
}

/* The same wish is the same instance, though a password's hash has another salt each time. */
static void instances(void **state)
{
    struct seed s = {.user = "jo", .password = "a"}, t = s;
    t.password = "b";
    char *one = instance_id(&s), *again = instance_id(&s), *other = instance_id(&t);
    assert_string_equal(one, again);
    assert_string_not_equal(one, other);
    free(one), free(again), free(other);
}

static void folder(void **state)
{
    struct seed s = {.from = dir};
    struct popf_error err;
    assert_int_equal(seed_write(&s, seed_path, &err), -1); /* user-data is missing */
    assert_non_null(strstr(err.msg, "user-data"));
    write_file("user-data", "#!/bin/sh\necho hello\n");
    write_file("meta-data", "instance-id: mine\n");
    assert_int_equal(seed_write(&s, seed_path, &err), 0);
    expect_part("user-data", "echo hello\n");
    char *meta = read_seed("meta-data");
    assert_string_equal(meta, "instance-id: mine\n");
    free(meta);
}

static void wrong_files(void **state)
{
    char path[64];
    const char *keys[] = {path};
    struct seed s = {.user = "jo", .keys = keys, .nkeys = 1};
    struct popf_error err;
    snprintf(path, sizeof(path), "%s/nothing", dir);
    assert_int_equal(seed_write(&s, seed_path, &err), -1);
    snprintf(path, sizeof(path), "%s/private", dir);
    write_file("private", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n");
    assert_int_equal(seed_write(&s, seed_path, &err), -1);
    assert_non_null(strstr(err.msg, ".pub"));
}

/* As many files as there may be, over two sectors of the folder, and sizes round a sector's. */
static void many_files(void **state)
{
    struct iso_file f[ISO_FILES_MAX + 1];
    static char data[3][2049], name[ISO_FILES_MAX + 1][65];
    size_t len;
    for (unsigned i = 0; i < ISO_FILES_MAX; i++) {
        memset(name[i], 'a' + (int)i, 64);
        memset(data[i % 3], 'x', sizeof(data[0]));
        f[i] = (struct iso_file){name[i], data[i % 3], 2047 + i % 3};
    }
    f[ISO_FILES_MAX] = f[0];
    assert_null(iso_make("cidata", f, ISO_FILES_MAX + 1, &len));
    void *image = iso_make("cidata", f, ISO_FILES_MAX, &len);
    FILE *out = fopen(seed_path, "w");
    fwrite(image, 1, len, out);
    fclose(out);
    free(image);
    for (unsigned i = 0; i < ISO_FILES_MAX; i++) {
        char *text = read_seed(name[i]);
        assert_non_null(text);
        assert_int_equal(strlen(text), 2047 + i % 3);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(user),   cmocka_unit_test(password),    cmocka_unit_test(instances),
        cmocka_unit_test(folder), cmocka_unit_test(wrong_files), cmocka_unit_test(many_files),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
