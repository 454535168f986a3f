/*
 * power_guest FILE - for power.sh: says how far the records in FILE go, then writes on for ever,
 * each record made durable before its number is printed.
 *
 * A record is 4 KiB and has the place number % SLOTS. So what is found must be SLOTS numbers in a
 * row, and the highest must not be lower than the last one printed before the power was cut. One
 * above it may have been under way then: if it is there in part, each sector as it was or as it was
 * to be, the one before is the highest.
 * Every 16th number also goes to a file that grows, with a name of its own.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOTS 512

static uint64_t record[512], want[512];

static void fill(uint64_t *r, uint64_t number)
{
    for (unsigned i = 0; i < 512; i++)
        r[i] = number * 0x9e3779b97f4a7c15ull + i;
    r[0] = number;
}

static int die(const char *what, uint64_t number)
{
    printf("POWER-FAILED %s at %llu\n", what, (unsigned long long)number);
    return 1;
}

static int is_whole(int fd, uint64_t number)
{
    off_t at = (off_t)(number % SLOTS * sizeof(record));
    fill(want, number);
    return pread(fd, record, sizeof(record), at) == (ssize_t)sizeof(record) &&
           !memcmp(record, want, sizeof(want));
}

/* One that was under way: a disk writes sectors, not records. */
static int is_torn(int fd, uint64_t number)
{
    uint64_t before[512];
    off_t at = (off_t)(number % SLOTS * sizeof(record));
    if (pread(fd, record, sizeof(record), at) != (ssize_t)sizeof(record))
        return 0;
    fill(before, number - SLOTS);
    fill(want, number);
    for (unsigned i = 0; i < 512; i += 64) /* 512 bytes */
        if (memcmp(record + i, want + i, 512) && memcmp(record + i, before + i, 512))
            return 0;
    return 1;
}

static int verify(int fd, uint64_t *highest)
{
    uint64_t torn = 0;
    *highest = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t i = 0; i < SLOTS; i++) {
            ssize_t n = pread(fd, record, sizeof(record), (off_t)(i * sizeof(record)));
            uint64_t number = n == (ssize_t)sizeof(record) ? record[0] : 0;
            if (pass == 0 && number > *highest)
                *highest = number;
            if (pass == 0)
                continue;
            uint64_t due = *highest - (*highest - i) % SLOTS;
            if (due > *highest || due == 0) /* never written */
                continue;
            if (!is_whole(fd, due) && !(torn && i == torn % SLOTS))
                return die("another record than was written", due);
        }
        if (pass == 0 && *highest > SLOTS && !is_whole(fd, *highest) && is_torn(fd, *highest))
            torn = (*highest)--;
    }
    return 0;
}

/* A file per block of numbers: appended to, synced, and removed when it is old. */
static int append(const char *base, uint64_t number)
{
    char name[256];
    snprintf(name, sizeof(name), "%s.%llu", base, (unsigned long long)(number / 1024));
    int fd = open(name, O_CREAT | O_WRONLY | O_APPEND, 0644);
    if (fd < 0 || write(fd, want, 1000) != 1000 || fsync(fd))
        return die("appending", number);
    close(fd);
    if (number / 1024 >= 2) {
        snprintf(name, sizeof(name), "%s.%llu", base, (unsigned long long)(number / 1024 - 2));
        unlink(name);
    }
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t number;
    setvbuf(stdout, NULL, _IONBF, 0);
    int fd = open(argv[1], O_CREAT | O_RDWR, 0644);
    if (argc < 2 || fd < 0)
        return die("opening", 0);
    if (verify(fd, &number))
        return 1;
    printf("POWER-HAS %llu\n", (unsigned long long)number);
    if (argc > 2)
        return 0;
    for (;;) {
        fill(want, ++number);
        off_t at = (off_t)(number % SLOTS * sizeof(want));
        if (pwrite(fd, want, sizeof(want), at) != (ssize_t)sizeof(want) || fdatasync(fd))
            return die("writing", number);
        if (number % 16 == 0 && append(argv[1], number))
            return 1;
        printf("POWER-WROTE %llu\n", (unsigned long long)number);
    }
}
