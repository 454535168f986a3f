#include "vm/acpi_aml.h"

#include <stdlib.h>
#include <string.h>

/* ACPI 6.4, table 20.1 and sections 20.2.3 to 20.2.5: the opcodes used here. */
enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_DUAL_NAME = 0x2e,
    OP_MULTI_NAME = 0x2f,
    OP_EXT = 0x5b,
    OP_ARG0 = 0x68,
    OP_STORE = 0x70,
    OP_EXT_DEVICE = 0x82,
    OP_RETURN = 0xa4,
};

void aml_init(struct aml *a)
{
    *a = (struct aml){0};
}

void aml_free(struct aml *a)
{
    free(a->buf);
    *a = (struct aml){0};
}

/* Makes n bytes of room at `at`. NULL if there is no memory. */
static u8 *insert(struct aml *a, size_t at, size_t n)
{
    if (a->failed)
        return NULL;
    if (a->cap - a->len < n) {
        size_t cap = 2 * a->cap + n + 1024;
        u8 *buf = realloc(a->buf, cap);

        if (!buf) {
            a->failed = true;
            return NULL;
        }
        a->buf = buf;
        a->cap = cap;
    }
    memmove(a->buf + at + n, a->buf + at, a->len - at);
    a->len += n;
    return a->buf + at;
}

static void bytes_at(struct aml *a, size_t at, const void *p, size_t n)
{
    u8 *to = insert(a, at, n);

    if (to && n)
        memcpy(to, p, n);
}

static void put(struct aml *a, u64 v, unsigned n)
{
    bytes_at(a, a->len, &v, n);
}

/* --- data objects --- */

/* Writes an integer's shortest form; returns its length. */
static unsigned encode_int(u8 out[9], u64 v)
{
    unsigned n = v <= 0xff ? 1 : v <= 0xffff ? 2 : v <= 0xffffffff ? 4 : 8;

    if (v <= 1) {
        out[0] = v ? OP_ONE : OP_ZERO;
        return 1;
    }
    out[0] = n == 1 ? OP_BYTE : n == 2 ? OP_WORD : n == 4 ? OP_DWORD : OP_QWORD;
    memcpy(out + 1, &v, n);
    return 1 + n;
}

void aml_int(struct aml *a, u64 v)
{
    u8 enc[9];

    bytes_at(a, a->len, enc, encode_int(enc, v));
}

void aml_string(struct aml *a, const char *s)
{
    put(a, OP_STRING, 1);
    bytes_at(a, a->len, s, strlen(s) + 1);
}

static unsigned hex(char c)
{
    return c <= '9' ? c - '0' : (c & ~0x20) - 'A' + 10;
}

/* Section 19.3.4 "EISAID": three 5-bit letters, four hexadecimal digits, big-endian. */
void aml_eisaid(struct aml *a, const char *id)
{
    u32 v = (id[0] & 31u) << 26 | (id[1] & 31u) << 21 | (id[2] & 31u) << 16;

    assert(strlen(id) == 7);
    v |= hex(id[3]) << 12 | hex(id[4]) << 8 | hex(id[5]) << 4 | hex(id[6]);
    put(a, OP_DWORD, 1);
    put(a, __builtin_bswap32(v), 4);
}

/* Section 20.2.2 "Name Objects Encoding": segments are padded with '_' to four characters. */
void aml_ref(struct aml *a, const char *path)
{
    unsigned segs = 1;

    while (*path == '\\' || *path == '^')
        put(a, *path++, 1);
    for (const char *p = path; *p; p++)
        segs += *p == '.';
    if (segs == 2)
        put(a, OP_DUAL_NAME, 1);
    else if (segs > 2)
        put(a, OP_MULTI_NAME | segs << 8, 2);
    for (; segs; segs--) {
        size_t n = strcspn(path, ".");

        assert(n >= 1 && n <= 4);
        bytes_at(a, a->len, path, n);
        bytes_at(a, a->len, "___", 4 - n);
        path += n + (path[n] == '.');
    }
}

void aml_name(struct aml *a, const char *path)
{
    put(a, OP_NAME, 1);
    aml_ref(a, path);
}

void aml_name_int(struct aml *a, const char *path, u64 v)
{
    aml_name(a, path);
    aml_int(a, v);
}

void aml_name_eisaid(struct aml *a, const char *path, const char *id)
{
    aml_name(a, path);
    aml_eisaid(a, id);
}

/* --- things with a length --- */

/* Section 20.2.4 "Package Length Encoding": the length counts its own bytes; the top two bits of
 * the first byte say how many follow. */
void aml_end(struct aml *a, size_t mark)
{
    size_t body = a->len - mark;
    u8 enc[4];
    unsigned n;

    if (a->failed)
        return;
    if (body + 1 < 0x40) {
        enc[0] = (u8)(body + 1);
        bytes_at(a, mark, enc, 1);
        return;
    }
    n = body + 2 < 1u << 12 ? 2 : body + 3 < 1u << 20 ? 3 : 4;
    body += n;
    enc[0] = (u8)((n - 1) << 6 | (body & 15));
    for (unsigned i = 1; i < n; i++)
        enc[i] = (u8)(body >> (8 * i - 4));
    bytes_at(a, mark, enc, n);
}

size_t aml_scope(struct aml *a, const char *path)
{
    size_t mark;

    put(a, OP_SCOPE, 1);
    mark = a->len;
    aml_ref(a, path);
    return mark;
}

size_t aml_device(struct aml *a, const char *path)
{
    size_t mark;

    put(a, OP_EXT | OP_EXT_DEVICE << 8, 2);
    mark = a->len;
    aml_ref(a, path);
    return mark;
}

size_t aml_method(struct aml *a, const char *path, unsigned args)
{
    size_t mark;

    put(a, OP_METHOD, 1);
    mark = a->len;
    aml_ref(a, path);
    put(a, args & 7, 1);
    return mark;
}

size_t aml_package(struct aml *a, u8 elements)
{
    size_t mark;

    put(a, OP_PACKAGE, 1);
    mark = a->len;
    put(a, elements, 1);
    return mark;
}

/* The bytes since `mark` become the contents of a buffer whose opcode stands before it. */
static void end_buffer(struct aml *a, size_t mark)
{
    u8 enc[9];
    unsigned n;

    if (a->failed)
        return;
    n = encode_int(enc, a->len - mark);
    bytes_at(a, mark, enc, n);
    aml_end(a, mark);
}

void aml_buffer(struct aml *a, const void *bytes, size_t n)
{
    size_t mark;

    put(a, OP_BUFFER, 1);
    mark = a->len;
    bytes_at(a, a->len, bytes, n);
    end_buffer(a, mark);
}

/* --- statements --- */

void aml_store_arg(struct aml *a, unsigned n, const char *path)
{
    put(a, OP_STORE, 1);
    put(a, OP_ARG0 + (n & 7), 1);
    aml_ref(a, path);
}

void aml_return_ref(struct aml *a, const char *path)
{
    put(a, OP_RETURN, 1);
    aml_ref(a, path);
}

/* --- resources --- */

size_t aml_crs(struct aml *a)
{
    aml_name(a, "_CRS");
    put(a, OP_BUFFER, 1);
    return a->len;
}

void aml_crs_end(struct aml *a, size_t mark)
{
    put(a, 0x79, 2); /* end tag; a checksum of 0 means that it is not checked */
    end_buffer(a, mark);
}

void aml_res_io(struct aml *a, u16 base, u8 len)
{
    put(a, 0x47 | 1 << 8, 2); /* 16-bit decode */
    put(a, base, 2);
    put(a, base, 2);
    put(a, 1 | len << 8, 2); /* alignment, length */
}

void aml_res_irq(struct aml *a, unsigned irq)
{
    assert(irq < 16);
    put(a, 0x22, 1);
    put(a, 1u << irq, 2);
}

void aml_res_mem32(struct aml *a, u32 base, u32 len)
{
    put(a, 0x86, 1);
    put(a, 9, 2);
    put(a, 1, 1); /* read-write */
    put(a, base, 4);
    put(a, len, 4);
}

/* Section 6.4.3.5: Word, DWord and QWord Address Space Descriptors differ in their width only. */
void aml_res_window(struct aml *a, enum aml_window type, unsigned width, u64 min, u64 max)
{
    unsigned n = width / 8;
    u8 tag = width == 16 ? 0x88 : width == 32 ? 0x87 : 0x8a;
    u8 specific = type == AML_MEM ? 1 : type == AML_IO ? 3 : 0; /* read-write; entire range */

    put(a, tag, 1);
    put(a, 3 + 5 * n, 2);
    put(a, type, 1);
    put(a, 0x0c, 1); /* producer, positive decode, both ends fixed */
    put(a, specific, 1);
    put(a, 0, n); /* granularity */
    put(a, min, n);
    put(a, max, n);
    put(a, 0, n); /* translation */
    put(a, max - min + 1, n);
}
