/*
 * scribble IMAGE COPY SEED COUNT - random writes, zeroes and discards all over an image, by popf's
 * own code; COPY becomes a raw file with what the disk must hold afterwards. For comparison with
 * other programs (qemu_img.sh).
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/image.h"

static u64 rnd(u64 *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

static int die(const char *what)
{
    fprintf(stderr, "scribble: %s\n", what);
    return 1;
}

static int change(struct image *m, u8 *all, u64 *seed)
{
    u64 sectors = m->size / 512, first = rnd(seed) % sectors;
    u64 n = 1 + rnd(seed) % (rnd(seed) % 4 ? 16 : 400);
    n = n > sectors - first ? sectors - first : n;
    u64 off = first * 512, len = n * 512;
    switch (rnd(seed) % 8) {
    case 0:
        memset(all + off, 0, len);
        return image_zero(m, off, len, rnd(seed) % 2);
    case 1:
        if (image_discard(m, off, len))
            return -1;
        return image_read(m, off, all + off, len);
    case 2:
        return image_flush(m);
    default:
        for (u64 i = 0; i < len; i += 4) {
            u32 v = (u32)rnd(seed);
            memcpy(all + off + i, &v, 4);
        }
        return image_write(m, off, all + off, len);
    }
}

int main(int argc, char **argv)
{
    struct err e;
    if (argc != 5)
        return die("IMAGE COPY SEED COUNT");
    struct image_config c = {.file = argv[1], .l2_tables = 3};
    struct image *m = image_open(&c, &e);
    if (!m)
        return die(e.msg);
    u64 size = m->size, seed = strtoull(argv[3], NULL, 0);
    u8 *all = malloc(size);
    if (!all || image_read(m, 0, all, size))
        return die("cannot read");
    for (int i = atoi(argv[4]); i > 0; i--)
        if (change(m, all, &seed))
            return die("cannot write");
    if (image_close(m))
        return die("cannot close");
    FILE *f = fopen(argv[2], "wb");
    if (!f || fwrite(all, 1, size, f) != size || fclose(f))
        return die("cannot write the copy");
    free(all);
    return 0;
}
