/*
 * hostile_guest SECONDS SEED: a guest's root at war with the machine. Writes random values to the
 * configuration space, the registers, the MSI-X tables and the rings of every virtio device on bus
 * 0, whose drivers are not loaded. Reports each second on standard output: "HOSTILE N operations".
 *
 * Now and then a device is set up as a driver would do it, with queues in this program's memory, so
 * that what follows reaches beyond the first check; descriptors mostly point into that memory, too.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define DEVICES_MAX 31
#define PAGES       64
#define PAGE        4096

/* BAR 4 of a device: where the structures of virtio 1.2, 4.1.4 are. */
enum { COMMON = 0, CONFIG = 0x2000, NOTIFY = 0x3000, REGS_SIZE = 0x4000 };
enum { DEV_SELECT = 0, DEV_FEATURES = 4, DRV_SELECT = 8, DRV_FEATURES = 12, NUM_QUEUES = 18 };
enum { STATUS = 20, Q_SELECT = 22, Q_SIZE = 24, Q_ENABLE = 28, Q_DESC = 32, COMMON_SIZE = 56 };

struct device {
    int config, ports; /* files; ports: of the legacy interface, or -1 */
    volatile uint8_t *msix, *regs;
};

struct war {
    struct device dev[DEVICES_MAX];
    unsigned ndevs;
    uint8_t *mem; /* of the rings */
    uint64_t phys[PAGES];
    uint64_t seed;
};

static uint32_t rnd(struct war *w)
{
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 7;
    w->seed ^= w->seed << 17;
    return (uint32_t)(w->seed >> 16);
}

static int open_file(unsigned slot, const char *name)
{
    char path[100];
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/0000:00:%02x.0/%s", slot, name);
    return open(path, O_RDWR);
}

static volatile uint8_t *map(int fd, size_t size)
{
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    return p == MAP_FAILED ? NULL : p;
}

static void find_devices(struct war *w)
{
    for (unsigned slot = 1; slot < 32 && w->ndevs < DEVICES_MAX; slot++) {
        struct device d = {.config = open_file(slot, "config")};
        uint16_t vendor = 0;
        if (d.config < 0 || pread(d.config, &vendor, 2, 0) != 2 || vendor != 0x1af4)
            continue;
        uint16_t on = 7; /* ports, memory, bus master: what a driver's probe would switch on */
        if (pwrite(d.config, &on, 2, 4) != 2)
            continue;
        d.ports = open_file(slot, "resource0");
        d.msix = map(open_file(slot, "resource1"), PAGE);
        d.regs = map(open_file(slot, "resource4"), REGS_SIZE);
        if (d.msix && d.regs)
            w->dev[w->ndevs++] = d;
    }
}

static int take_memory(struct war *w)
{
    w->mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    int fd = open("/proc/self/pagemap", O_RDONLY);
    if (w->mem == MAP_FAILED || fd < 0)
        return -1;
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t entry;
        w->mem[i * PAGE] = 0;
        if (pread(fd, &entry, 8, (off_t)((uintptr_t)w->mem / PAGE + i) * 8) != 8)
            return -1;
        w->phys[i] = (entry & ((1ull << 55) - 1)) * PAGE;
    }
    close(fd);
    return 0;
}

static void put8(volatile uint8_t *r, unsigned off, uint8_t v)
{
    r[off] = v;
}

static void put16(volatile uint8_t *r, unsigned off, uint32_t v)
{
    *(volatile uint16_t *)(r + off) = (uint16_t)v;
}

static void put32(volatile uint8_t *r, unsigned off, uint32_t v)
{
    *(volatile uint32_t *)(r + off) = v;
}

static uint32_t get32(volatile uint8_t *r, unsigned off)
{
    return *(volatile uint32_t *)(r + off);
}

/* As a driver does it (3.1.1); sometimes with features of its own invention. */
static void set_up(struct war *w, unsigned n)
{
    volatile uint8_t *r = w->dev[n].regs;
    put8(r, STATUS, 0);
    put8(r, STATUS, 3);
    for (unsigned half = 0; half < 2; half++) {
        put32(r, DEV_SELECT, half);
        put32(r, DRV_SELECT, half);
        put32(r, DRV_FEATURES, rnd(w) % 4 || half ? get32(r, DEV_FEATURES) : rnd(w));
    }
    put8(r, STATUS, 11);
    unsigned queues = *(volatile uint16_t *)(r + NUM_QUEUES);
    for (unsigned q = 0; q < queues && q < 64; q++) {
        put16(r, Q_SELECT, q);
        put16(r, Q_SIZE, 8);
        for (unsigned part = 0; part < 3; part++) {
            uint64_t at = w->phys[(q * 4 + part + n * 8) % PAGES];
            put32(r, Q_DESC + 8 * part, (uint32_t)at);
            put32(r, Q_DESC + 8 * part + 4, (uint32_t)(at >> 32));
        }
        put16(r, Q_ENABLE, 1);
    }
    put8(r, STATUS, 15);
}

static void write_descriptors(struct war *w)
{
    for (unsigned i = 0; i < 20; i++) {
        uint64_t d[2], len = rnd(w) % 8 ? rnd(w) % 5000 : rnd(w);
        d[0] = rnd(w) % 8 ? w->phys[rnd(w) % PAGES] + rnd(w) % PAGE : (uint64_t)rnd(w) << 20;
        d[1] = len | (uint64_t)(rnd(w) % 8) << 32 | (uint64_t)(rnd(w) % 9) << 48;
        memcpy(w->mem + rnd(w) % PAGES * PAGE + rnd(w) % 8 * 16, d, sizeof(d));
    }
}

/* Pages that serve as available rings: a new index, and what it leads to. */
static void make_available(struct war *w)
{
    for (unsigned i = 0; i < 20; i++) {
        uint16_t *ring = (uint16_t *)(w->mem + rnd(w) % PAGES * PAGE);
        ring[1] = (uint16_t)(ring[1] + rnd(w) % 5);
        ring[2 + rnd(w) % 8] = (uint16_t)(rnd(w) % 8);
    }
}

/* Requests begin with a small number that says what they are. */
static void write_request(struct war *w)
{
    uint32_t what = rnd(w) % 64;
    memcpy(w->mem + rnd(w) % PAGES * PAGE + rnd(w) % 1000 * 4, &what, 4);
}

static void write_file(struct war *w, int fd, unsigned from, unsigned words)
{
    uint32_t v = rnd(w);
    if (fd >= 0 && pwrite(fd, &v, 4, from + rnd(w) % words * 4) < 0)
        return; /* no such port: as good */
}

static void strike(struct war *w)
{
    unsigned n = rnd(w) % w->ndevs;
    struct device *d = &w->dev[n];
    volatile uint8_t *r = d->regs;
    switch (rnd(w) % 13) {
    case 0:
        put32(d->msix, rnd(w) % (PAGE / 4) * 4, rnd(w));
        break;
    case 1:
        put8(r, COMMON + rnd(w) % (COMMON_SIZE + 8), (uint8_t)rnd(w));
        break;
    case 2:
        put16(r, COMMON + rnd(w) % (COMMON_SIZE / 2) * 2, rnd(w) % 4);
        break;
    case 3:
        put32(r, CONFIG + rnd(w) % 64 * 4, rnd(w));
        break;
    case 4:
    case 5:
        put16(r, NOTIFY + rnd(w) % 8 * 4, rnd(w) % 4);
        break;
    case 6:
        set_up(w, n);
        break;
    case 7: /* not below: the kernel has to go on finding the device */
        write_file(w, d->config, 0x40, 48);
        break;
    case 8:
        write_descriptors(w);
        break;
    case 9:
        make_available(w);
        break;
    case 10:
        write_request(w);
        break;
    case 11:
        (void)get32(r, rnd(w) % (REGS_SIZE / 4) * 4);
        break;
    case 12:
        write_file(w, d->ports, 0, 16);
        break;
    }
}

int main(int argc, char **argv)
{
    static struct war w;
    unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 10;
    w.seed =
        88172645463325252ull ^ (argc > 2 ? strtoull(argv[2], NULL, 0) : 1) * 0x9e3779b97f4a7c15ull;
    setvbuf(stdout, NULL, _IOLBF, 0);
    find_devices(&w);
    if (!w.ndevs || take_memory(&w)) {
        printf("HOSTILE-FAILED %u devices\n", w.ndevs);
        return 1;
    }
    printf("HOSTILE-DEVICES %u\n", w.ndevs);
    time_t end = time(NULL) + seconds, shown = 0, now;
    for (unsigned long long n = 0; (now = time(NULL)) < end;) {
        for (unsigned i = 0; i < 1000; i++, n++)
            strike(&w);
        if (now != shown)
            printf("HOSTILE %llu operations\n", n);
        shown = now;
    }
    puts("HOSTILE-IS-DONE");
    return 0;
}
