/*
 * fuzz_share.c - the 9P server under a client that sends anything in any order, over a folder in
 * which there are links that lead out. Whatever it does, the folder beside it must stay as it is.
 *
 * The input is a sequence of messages: type, then for each argument of that type one byte that
 * chooses a value (a fid, a name from a short list, a number), now and then raw bytes or a message
 * of the wrong length.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "share/share.h"
#include "share/share_msg.h"

#define MSIZE 8192

struct run {
    const u8 *p, *end;
    u8 msg[MSIZE];
    size_t len;
    unsigned fids; /* numbers in use: many where descriptors are few */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {
    "a",    "b",      "c", "d",   "..",        ".",      "up",
    "root", "secret", "",  "a/b", "../secret", "user.x", "user.popf.attr",
    "fds",  "0",
};

/* d: a number, f: a fid, s: a name, q: 8 bytes, b: a byte, B: data with its length, w: names. */
static const char *const shape[SHARE_TYPES] = {
    [TSTATFS] = "f",           [TLOPEN] = "fd",      [TLCREATE] = "fsddd",    [TSYMLINK] = "fssd",
    [TMKNOD] = "fsmddd",       [TRENAME] = "ffs",    [TREADLINK] = "f",       [TGETATTR] = "fq",
    [TSETATTR] = "fddddqqqqq", [TXATTRWALK] = "ffs", [TXATTRCREATE] = "fsqd", [TREADDIR] = "fqd",
    [TFSYNC] = "fd",           [TLOCK] = "fbdqqds",  [TGETLOCK] = "fbqqds",   [TLINK] = "ffs",
    [TMKDIR] = "fsdd",         [TRENAMEAT] = "fsfs", [TUNLINKAT] = "fsd",     [TVERSION] = "ds",
    [TATTACH] = "fdssd",       [TFLUSH] = "d",       [TWALK] = "ffw",         [TREAD] = "fqd",
    [TWRITE] = "fqB",          [TCLUNK] = "f",       [TREMOVE] = "f",
};

static u8 next(struct run *r)
{
    return r->p < r->end ? *r->p++ : 0;
}

static void put(struct run *r, u64 v, unsigned size)
{
    for (unsigned i = 0; i < size && r->len < MSIZE; i++, v >>= 8)
        r->msg[r->len++] = v;
}

static void put_name(struct run *r)
{
    u8 b = next(r);
    const char *s = names[b & 0x80 ? b % ARRAY_SIZE(names) : b % 4]; /* often one that is there */
    put(r, strlen(s), 2);
    for (; *s; s++)
        put(r, (u8)*s, 1);
}

/* Small values mostly, sometimes all ones, sometimes a bit. */
static u64 number(struct run *r)
{
    u8 b = next(r);
    return b < 0xc0 ? b : b == 0xff ? ~0ull : 1ull << (b & 63);
}

static void put_arg(struct run *r, char kind)
{
    static const u32 modes[] = {S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFDIR, S_IFLNK, 0};
    u8 n;
    switch (kind) {
    case 'f':
        n = next(r);
        put(r, n & 0xc0 ? n % r->fids : 0, 4);
        break;
    case 's':
        put_name(r);
        break;
    case 'm':
        put(r, modes[next(r) % ARRAY_SIZE(modes)] | 0755, 4);
        break;
    case 'B':
        n = next(r);
        put(r, n, 4);
        for (unsigned i = 0; i < n; i++)
            put(r, i, 1);
        break;
    case 'w':
        n = next(r) % 5;
        put(r, n, 2);
        while (n--)
            put_name(r);
        break;
    default:
        put(r, number(r), kind == 'q' ? 8 : kind == 'b' ? 1 : 4);
    }
}

static void build(struct run *r)
{
    u8 type = next(r) % SHARE_TYPES;
    while (!shape[type])
        type = (type + 1) % SHARE_TYPES;
    r->len = 4;
    put(r, type, 1);
    put(r, next(r), 2);
    for (const char *s = shape[type]; *s; s++)
        put_arg(r, *s);
    u8 twist = next(r);
    size_t len = r->len;
    if (twist >= 0xf8)
        len = twist & 1 ? len + twist : len / 2;
    for (unsigned i = 0; i < 4; i++)
        r->msg[i] = len >> (8 * i);
    if (twist == 0xf4)
        r->msg[next(r) % r->len] = next(r);
}

static void serve(struct share *s, struct run *r)
{
    u8 cap_byte = next(r);
    size_t cap = cap_byte == 1 ? 11 : cap_byte == 2 ? 40 : MSIZE;
    u8 *exact = malloc(r->len), *reply = malloc(cap);
    u16 tag;
    memcpy(exact, r->msg, r->len);
    size_t n = share_serve(s, exact, r->len, reply, cap);
    if (n > cap || (n && n < SHARE_HEADER))
        abort();
    share_flushes(exact, r->len, &tag);
    share_tag(exact, r->len);
    free(exact);
    free(reply);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    return remove(path) && errno != EACCES ? -1 : 0;
}

static void make_links(const char *dir)
{
    char path[128];
    static const char *const link[][2] = {{"up", ".."}, {"root", "/"}, {"fds", "/proc/self/fd"}};
    for (unsigned i = 0; i < ARRAY_SIZE(link); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, link[i][0]);
        if (symlink(link[i][1], path))
            abort();
    }
}

/* A tree to walk into, deep enough that closing descriptors matters. */
static void make_dirs(const char *dir)
{
    static const char *const tree[] = {"a",         "a/b", "a/b/c", "a/b/c/d",
                                       "a/b/c/d/a", "b",   "b/a",   "c"};
    char path[128];
    for (unsigned i = 0; i < ARRAY_SIZE(tree); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, tree[i]);
        if (mkdir(path, 0755))
            abort();
    }
}

/* Beside the folder there is one file, with a mode and contents that show any change. */
static void check(const char *top)
{
    struct stat st;
    char path[128];
    snprintf(path, sizeof(path), "%s/secret", top);
    if (stat(path, &st) || st.st_size != 6 || st.st_mode != (S_IFREG | 0640) || st.st_nlink != 1)
        abort();
    if (stat(top, &st) || st.st_nlink != 3)
        abort();
}

static void make_secret(const char *top)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/secret", top);
    int fd = open(path, O_CREAT | O_WRONLY, 0640);
    if (fd < 0 || fchmod(fd, 0640) || write(fd, "secret", 6) != 6)
        abort();
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char version[] = "\x15\0\0\0\x64\xff\xff\0\x20\0\0\x08\0"
                                  "9P2000.L";
    static const char attach[] = "\x17\0\0\0\x68\1\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0";
    char top[] = "/dev/shm/popf-fuzz.XXXXXX", dir[64];
    struct run r = {.p = data, .end = data + size};
    u8 reply[64];
    struct err e;
    if (!mkdtemp(top))
        return 0;
    snprintf(dir, sizeof(dir), "%s/shared", top);
    if (mkdir(dir, 0755))
        abort();
    make_secret(top);
    make_links(dir);
    make_dirs(dir);
    u8 how = next(&r);
    r.fids = how & 0x20 ? 40 : 8;
    struct share_config cfg = {.path = dir,
                               .passthrough = how & 1,
                               .readonly = !(how & 0x1e),
                               .fds_max = how & 0x20 ? 16 : 0};
    struct share *s = share_open(&cfg, &e);
    if (!s)
        abort();
    share_serve(s, (const u8 *)version, sizeof(version) - 1, reply, sizeof(reply));
    share_serve(s, (const u8 *)attach, sizeof(attach) - 1, reply, sizeof(reply));
    while (r.p < r.end) {
        build(&r);
        serve(s, &r);
    }
    share_close(s);
    check(top);
    nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}
