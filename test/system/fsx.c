/*
 * fsx.c - a file exerciser: random reads, writes, truncations and mappings of one file, compared
 * with a copy in memory. `fsx FILE [operations] [seed] [nomap]`. Says what it did last on a
 * difference.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE_MAX_ (256 * 1024)

static uint8_t model[SIZE_MAX_], buf[SIZE_MAX_];
static size_t size;
static uint64_t seed = 1;
static int fd;
static const char *path;
static unsigned long op;

static uint64_t rnd(uint64_t limit)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return limit ? seed % limit : 0;
}

static void die(const char *what, size_t off, size_t len)
{
    fprintf(stderr, "fsx: operation %lu: %s at %zu, %zu bytes of %zu: ", op, what, off, len, size);
    perror("");
    exit(1);
}

static void check(const char *what, const uint8_t *got, size_t off, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (got[i] != model[off + i]) {
            fprintf(stderr, "fsx: byte %zu is %02x, not %02x\n", off + i, got[i], model[off + i]);
            die(what, off, len);
        }
}

static void do_read(void)
{
    size_t off = rnd(size + 1), len = rnd(65536);
    size_t want = off + len > size ? size - off : len;
    ssize_t n = pread(fd, buf, len, off);
    if (n < 0 || (size_t)n != want)
        die("read", off, len);
    check("read", buf, off, n);
}

static void do_write(void)
{
    size_t off = rnd(SIZE_MAX_), len = rnd(SIZE_MAX_ - off < 65536 ? SIZE_MAX_ - off : 65536);
    for (size_t i = 0; i < len; i++)
        buf[i] = rnd(256);
    if (pwrite(fd, buf, len, off) != (ssize_t)len)
        die("write", off, len);
    memcpy(model + off, buf, len);
    if (len && off + len > size)
        size = off + len;
}

static void do_truncate(void)
{
    size_t to = rnd(SIZE_MAX_);
    if (ftruncate(fd, to))
        die("truncate", to, 0);
    if (to < size)
        memset(model + to, 0, size - to);
    size = to;
}

static void do_map(int writes)
{
    size_t off = rnd(size + 1), len = size - off ? rnd(size - off < 65536 ? size - off : 65536) : 0;
    if (!len)
        return;
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        die("mmap", off, len);
    check("mapped read", p + off, off, len);
    for (size_t i = 0; writes && i < len; i++)
        p[off + i] = model[off + i] = rnd(256);
    if (msync(p, size, MS_SYNC) || munmap(p, size))
        die("msync", off, len);
}

/* The file's own idea of its size, and all of it, through another descriptor. */
static void do_reopen(void)
{
    close(fd);
    fd = open(path, O_RDWR);
    if (fd < 0 || lseek(fd, 0, SEEK_END) != (off_t)size)
        die("reopen", 0, size);
    if (pread(fd, buf, size, 0) != (ssize_t)size)
        die("read of all", 0, size);
    check("read of all", buf, 0, size);
}

int main(int argc, char **argv)
{
    unsigned long ops = argc > 2 ? strtoul(argv[2], NULL, 0) : 1000;
    int maps = argc < 5;
    if (argc < 2)
        return 2;
    path = argv[1];
    seed = (argc > 3 ? strtoul(argv[3], NULL, 0) : 1) * 0x9e3779b97f4a7c15ull | 1;
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        die("open", 0, 0);
    for (op = 0; op < ops; op++) {
        uint64_t what = rnd(100);
        if (what < 35)
            do_read();
        else if (what < 70)
            do_write();
        else if (what < 80)
            do_truncate();
        else if (what < 95 && maps)
            do_map(what < 88);
        else
            do_reopen();
    }
    do_reopen();
    printf("fsx: %lu operations\n", ops);
    return 0;
}
