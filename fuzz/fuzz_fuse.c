/*
 * fuzz_fuse.c - the FUSE server under a client that sends anything in any order (fuzz_share.c does
 * the same for 9P). Nothing beside the folder may change.
 *
 * The input is a sequence of requests: opcode, nodeid, then for each argument of that opcode one
 * byte that chooses a value. Inodes and handles have numbers that count up, so that small values
 * meet some.
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
#include "share/share_fuse.h"

#define REPLY_MAX 8192

struct run {
    const u8 *p, *end;
    u8 msg[4096];
    size_t len;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* i: an inode, h: a handle, d and q: 4 and 8 bytes, n: a name, B: data, m: a mode. */
static const char *const shape[FUSE_OPCODES] = {
    [FUSE_LOOKUP] = "n",
    [FUSE_FORGET] = "q",
    [FUSE_GETATTR] = "ddh",
    [FUSE_SETATTR] = "ddhqqqqqddddddddd",
    [FUSE_READLINK] = "",
    [FUSE_SYMLINK] = "nn",
    [FUSE_MKNOD] = "mdddn",
    [FUSE_MKDIR] = "ddn",
    [FUSE_UNLINK] = "n",
    [FUSE_RMDIR] = "n",
    [FUSE_RENAME] = "inn",
    [FUSE_LINK] = "in",
    [FUSE_OPEN] = "dd",
    [FUSE_READ] = "hqddqdd",
    [FUSE_WRITE] = "hqDdqddB",
    [FUSE_STATFS] = "",
    [FUSE_RELEASE] = "hddq",
    [FUSE_FSYNC] = "hdd",
    [FUSE_SETXATTR] = "DdnB",
    [FUSE_GETXATTR] = "ddn",
    [FUSE_LISTXATTR] = "dd",
    [FUSE_REMOVEXATTR] = "n",
    [FUSE_INIT] = "dddd",
    [FUSE_OPENDIR] = "dd",
    [FUSE_READDIR] = "hqddqdd",
    [FUSE_RELEASEDIR] = "hddq",
    [FUSE_FSYNCDIR] = "hdd",
    [FUSE_CREATE] = "ddddn",
    [FUSE_INTERRUPT] = "q",
    [FUSE_DESTROY] = "",
    [FUSE_BATCH_FORGET] = "ddiqiq",
    [FUSE_FALLOCATE] = "hqqdd",
    [FUSE_RENAME2] = "iddnn",
    [FUSE_LSEEK] = "hqdd",
};

static u8 next(struct run *r)
{
    return r->p < r->end ? *r->p++ : 0;
}

static void put(struct run *r, u64 v, unsigned size)
{
    for (unsigned i = 0; i < size && r->len < sizeof(r->msg); i++, v >>= 8)
        r->msg[r->len++] = v;
}

static void put_name(struct run *r)
{
    static const char *const names[] = {
        "a",    "b",      "c", "d",   "..",        ".",      "up",
        "root", "secret", "",  "a/b", "../secret", "user.x", "user.popf.attr"};
    u8 b = next(r);
    const char *s = names[b & 0x80 ? b % ARRAY_SIZE(names) : b % 4];
    for (; *s; s++)
        put(r, (u8)*s, 1);
    if (b != 0xff)
        put(r, 0, 1);
}

static u64 number(struct run *r)
{
    u8 b = next(r);
    return b < 0xc0 ? b : b == 0xff ? ~0ull : 1ull << (b & 63);
}

static u64 inode(struct run *r)
{
    u8 b = next(r);
    return b < 0x80 ? 1 : BIT(30) | (b & 0x1f);
}

static void put_arg(struct run *r, char kind)
{
    static const u32 modes[] = {S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFDIR, S_IFLNK, 0};
    if (kind == 'i')
        put(r, inode(r), 8);
    else if (kind == 'h')
        put(r, BIT(31) | (next(r) & 0x3f), 8);
    else if (kind == 'n')
        put_name(r);
    else if (kind == 'm')
        put(r, modes[next(r) % ARRAY_SIZE(modes)] | 0755, 4);
    else if (kind == 'D')
        put(r, next(r) & 0x7f, 4);
    else if (kind == 'B')
        put(r, 0x5a, next(r) & 0x7f);
    else
        put(r, number(r), kind == 'q' ? 8 : 4);
}

static void build(struct run *r)
{
    struct fuse_in h = {.opcode = next(r) % FUSE_OPCODES};
    while (!shape[h.opcode])
        h.opcode = (h.opcode + 1) % FUSE_OPCODES;
    if ((h.opcode == FUSE_INIT || h.opcode == FUSE_DESTROY) && next(r) < 0xf0)
        h.opcode = FUSE_LOOKUP;
    h.nodeid = inode(r);
    r->len = sizeof(h);
    for (const char *s = shape[h.opcode]; *s; s++)
        put_arg(r, *s);
    u8 twist = next(r);
    h.len = twist >= 0xf8 ? (twist & 1 ? r->len + twist : r->len / 2) : r->len;
    memcpy(r->msg, &h, sizeof(h));
    if (twist == 0xf4)
        r->msg[next(r) % r->len] = next(r);
}

static void serve(struct share *s, struct run *r)
{
    u8 cap_byte = next(r);
    size_t cap = cap_byte == 1 ? 16 : cap_byte == 2 ? 60 : cap_byte == 3 ? 0 : REPLY_MAX;
    u8 *exact = malloc(r->len), *reply = malloc(cap + 1);
    memcpy(exact, r->msg, r->len);
    size_t n = share_fuse_serve(s, exact, r->len, reply, cap);
    if (n > cap || (n && n < sizeof(struct fuse_out)))
        abort();
    free(exact);
    free(reply);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    return remove(path) && errno != EACCES ? -1 : 0;
}

static void make_tree(const char *top, const char *dir)
{
    static const char *const sub[] = {"", "/a", "/a/b", "/a/b/c", "/a/b/c/d", "/b", "/b/a"};
    char path[128];
    for (unsigned i = 0; i < ARRAY_SIZE(sub); i++) {
        snprintf(path, sizeof(path), "%s%s", dir, sub[i]);
        if (mkdir(path, 0755))
            abort();
    }
    snprintf(path, sizeof(path), "%s/up", dir);
    if (symlink("..", path))
        abort();
    snprintf(path, sizeof(path), "%s/secret", top);
    int fd = open(path, O_CREAT | O_WRONLY, 0640);
    if (fd < 0 || fchmod(fd, 0640) || write(fd, "secret", 6) != 6)
        abort();
    close(fd);
}

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const u32 hello[4] = {7, 36, 65536, ~0u};
    char top[] = "/dev/shm/popf-fuzz.XXXXXX", dir[64];
    struct run r = {.p = data, .end = data + size};
    struct fuse_in h = {.len = sizeof(h) + sizeof(hello), .opcode = FUSE_INIT};
    u8 reply[128];
    if (!mkdtemp(top))
        return 0;
    snprintf(dir, sizeof(dir), "%s/shared", top);
    make_tree(top, dir);
    u8 how = next(&r);
    struct share_config cfg = {.path = dir,
                               .passthrough = how & 1,
                               .readonly = !(how & 0x1e),
                               .fds_max = how & 0x20 ? 16 : 0};
    struct share *s = share_open(&cfg, NULL);
    if (!s)
        abort();
    memcpy(r.msg, &h, sizeof(h));
    memcpy(r.msg + sizeof(h), hello, sizeof(hello));
    share_fuse_serve(s, r.msg, h.len, reply, sizeof(reply));
    while (r.p < r.end) {
        build(&r);
        serve(s, &r);
    }
    share_close(s);
    check(top);
    nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}
