/*
 * initrd.c - takes a file out of an unpacked initramfs, or writes an archive to put behind one.
 *
 *   initrd get NAME <ARCHIVE >FILE        initrd put NAME=FILE... >ARCHIVE
 *
 * The format is cpio's "newc". The files of an archive made here are executable.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER   110
#define FIELD(i) (6 + 8 * (i)) /* eight hexadecimal digits each, behind the magic */
#define FILESIZE 6
#define NAMESIZE 11

static void die(const char *what)
{
    fprintf(stderr, "initrd: %s\n", what);
    exit(1);
}

static char *slurp(FILE *f, size_t *size)
{
    size_t room = 1 << 20;
    char *data = malloc(room);
    *size = 0;
    while (data) {
        *size += fread(data + *size, 1, room - *size, f);
        if (*size < room)
            return data;
        data = realloc(data, room *= 2);
    }
    die("out of memory");
    return NULL;
}

static size_t round4(size_t n)
{
    return (n + 3) & ~(size_t)3;
}

static size_t field(const char *header, int i)
{
    char digits[9] = {0};
    memcpy(digits, header + FIELD(i), 8);
    return strtoul(digits, NULL, 16);
}

static int get(const char *wanted)
{
    size_t size, at = 0;
    char *data = slurp(stdin, &size);
    while (at + HEADER <= size && !memcmp(data + at, "070701", 6)) {
        size_t bytes = field(data + at, FILESIZE), name = at + HEADER;
        size_t content = round4(name + field(data + at, NAMESIZE));
        if (content > size || bytes > size - content)
            die("the archive is cut short");
        const char *is = data + name;
        if (!strcmp(is + (is[0] == '.' && is[1] == '/' ? 2 : 0), wanted))
            return fwrite(data + content, 1, bytes, stdout) != bytes;
        at = round4(content + bytes);
    }
    die("there is no such file in the archive");
    return 1;
}

static void pad(size_t n)
{
    fwrite("\0\0\0", 1, round4(n) - n, stdout);
}

static void put(const char *name, unsigned mode, const char *data, size_t size, unsigned inode)
{
    printf("070701%08x%08x%08x%08x%08x%08x%08zx%08x%08x%08x%08x%08zx%08x", inode, mode, 0, 0, 1, 0,
           size, 0, 0, 0, 0, strlen(name) + 1, 0);
    fwrite(name, 1, strlen(name) + 1, stdout);
    pad(HEADER + strlen(name) + 1);
    fwrite(data, 1, size, stdout);
    pad(size);
}

static void put_file(char *arg, unsigned inode)
{
    char *eq = strchr(arg, '=');
    FILE *f = eq ? fopen(eq + 1, "rb") : NULL;
    size_t size;
    if (!f)
        die(arg);
    *eq = 0;
    char *data = slurp(f, &size);
    put(arg, 0100755, data, size, inode);
    free(data);
    fclose(f);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "get"))
        return get(argv[2]);
    if (argc < 3 || strcmp(argv[1], "put")) {
        fprintf(stderr, "usage: initrd get NAME | put NAME=FILE...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++)
        put_file(argv[i], 1000 + i);
    put("TRAILER!!!", 0, "", 0, 0);
    return fflush(stdout) != 0;
}
